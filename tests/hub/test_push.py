"""What keeps a push from being made, and what it leaves."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_hub import FakeHub
from huggingface_hub import constants
from small_editor import INFO, small_editor

from sdd_fast.editing.editor import Editor


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which take longer to draw than all the rest."""
    monkeypatch.setattr("sdd_fast.hub.edits.drawn_edit", lambda *_: None)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub tries uploads again, after seconds."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hair", "0 slashes"),
        ("me/hair/fine", "2 slashes"),
        ("me/white hair", "a character that is not allowed"),
        ("-me/hair", "'-' or '.' at an end"),
        ("me/hair.", "'-' or '.' at an end"),
        ("me/h--r", "'--' and '..'"),
        ("me/hair.git", "must not end in .git"),
        ("https://huggingface.co/me/hair", "it is an address"),
        ("me/" + "x" * 97, "more than 96 characters"),
        ("mé/hair", "a character that is not allowed"),
    ],
)
def test_a_wrong_name_is_said_before_anything_is_asked(
    name: str, why: str, hub: FakeHub, editor: Editor
) -> None:
    with pytest.raises(ValueError, match=f"is no name of a repository on the hub: .*{why}"):
        editor.push_to_hub(name)
    assert hub.requests == []


def test_who_is_not_logged_in_is_told_how(
    hub: FakeHub, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="needs a login: `hf auth login`, or a token in HF_T"):
        editor.push_to_hub("me/hair")
    assert hub.requests == []
    editor.push_to_hub("me/hair", token="hf_writer")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    with pytest.raises(PermissionError, match="does not accept your token.*Nothing was published"):
        editor.push_to_hub("me/hair", part="editor")


@pytest.mark.parametrize("token", ["hf_reader", "hf_other"])
def test_who_may_not_write_is_told_so(token: str, hub: FakeHub, editor: Editor) -> None:
    with pytest.raises(
        PermissionError, match="may not write to me/hair .*able|may not write to me"
    ):
        editor.push_to_hub("me/hair", token=token)
    editor.push_to_hub("me/hair")
    with pytest.raises(PermissionError, match="of an account that may write to 'me'"):
        editor.push_to_hub("me/hair", part="editor", token=token)
    assert "editor.safetensors" not in hub.repositories["me/hair"].files


def test_private_repositories(
    hub: FakeHub, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor.push_to_hub("me/secret", part="editor", private=True)
    assert Editor.load("me/secret").infos == [INFO]
    for name in ("me/secret", "me/absent"):  # nobody can tell them apart
        with pytest.raises(
            FileNotFoundError, match="is not on the hub at .*private and needs a lo"
        ):
            Editor.from_pretrained(
                name, token="hf_other", force_download=True, domain=None, device="cpu"
            )
    editor.push_to_hub("me/open")
    with pytest.raises(ValueError, match="me/open is public already, and asked for is a private"):
        editor.push_to_hub("me/open", private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(FileNotFoundError, match="private and needs a login"):
        Editor.from_pretrained("me/secret", force_download=True)


def test_a_gated_repository_says_what_to_do(hub: FakeHub, editor: Editor, tmp_path: Path) -> None:
    data = editor.save(tmp_path / "editor.safetensors").read_bytes()
    hub.make("other/gated", {"editor.safetensors": data}, gated=True)
    with pytest.raises(FileNotFoundError, match="asks for its license to be accepted on the hub"):
        Editor.load("other/gated")


def test_nothing_of_another_kind_is_written_over(hub: FakeHub, editor: Editor) -> None:
    hub.make("me/llm", {"model.safetensors": b"weights", "config.json": b'{"model_type": "llm"}'})
    with pytest.raises(
        ValueError, match=r"holds something else \(config.json, model.safetensors\)"
    ):
        editor.push_to_hub("me/llm")
    assert len(hub.repositories["me/llm"].commits) == 1
    editor.push_to_hub("me/llm", part="editor", overwrite=True)
    files = hub.repositories["me/llm"].files
    assert files["model.safetensors"] == b"weights" and b"sdd_fast.hub" in files["config.json"]
    editor.push_to_hub("me/hair")
    other = small_editor(replace(INFO, prompt="a beard"))
    with pytest.raises(ValueError, match="another edit: “white hair” .faces64., and pushed would"):
        other.push_to_hub("me/hair")
    assert other.push_to_hub("me/hair", overwrite=True).changed


def test_a_repository_made_on_the_page_of_the_hub_is_filled(hub: FakeHub, editor: Editor) -> None:
    hub.make("me/hair", {"README.md": b"---\nlicense: mit\n---\n"})
    done = editor.push_to_hub("me/hair")
    assert done.changed and not done.created and not done.kept
    assert b"white hair" in hub.repositories["me/hair"].files["README.md"]


def test_a_card_that_was_edited_stays(hub: FakeHub, editor: Editor) -> None:
    editor.push_to_hub("me/hair")
    files = hub.repositories["me/hair"].files
    files["README.md"] = files["README.md"].replace(b"## License", b"My own words.\n\n## License")
    done = editor.push_to_hub("me/hair", part="editor")
    assert done.kept and done.changed
    assert b"My own words." in hub.repositories["me/hair"].files["README.md"]
    assert not editor.push_to_hub("me/hair", part="editor", overwrite=True).kept
    assert b"My own words." not in hub.repositories["me/hair"].files["README.md"]


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    ("stage", "status"), [("/preupload/", 500), ("/lfs/", -1), ("/lfs/", 500), ("/commit/", -1)]
)
def test_an_upload_that_breaks_off_publishes_nothing_and_goes_on(
    stage: str, status: int, hub: FakeHub, editor: Editor
) -> None:
    hub.fail = lambda method, path: status if stage in path else 0
    with pytest.raises(ConnectionError, match="repository me/hair is there, and empty; the same c"):
        editor.push_to_hub("me/hair", part="editor")
    assert set(hub.repositories["me/hair"].files) == {".gitattributes"}
    with pytest.raises(ValueError, match="it is empty; an upload to it may not be finished"):
        Editor.load("me/hair")
    hub.fail = None
    editor.push_to_hub("me/hair", part="editor")
    assert Editor.load("me/hair").infos == [INFO]
    stronger = small_editor(replace(INFO, lam=2.0))
    hub.fail = lambda method, path: status if stage in path else 0
    hub.objects.clear()
    with pytest.raises(ConnectionError, match="Nothing was published, and no half of it either"):
        stronger.push_to_hub("me/hair", part="editor")
    assert len(hub.repositories["me/hair"].commits) == 2


@pytest.mark.usefixtures("impatient")
def test_two_who_push_at_once_do_not_mix(hub: FakeHub, editor: Editor) -> None:
    editor.push_to_hub("me/hair")

    def meanwhile(method: str, path: str) -> int:
        if "/commit/" in path:
            repository = hub.repositories["me/hair"]
            repository.commit("main", dict(repository.files), "of somebody else")
        return 0

    hub.fail = meanwhile
    with pytest.raises(ConnectionError, match="was changed by somebody else at the same time"):
        small_editor(replace(INFO, lam=2.0)).push_to_hub("me/hair")


@pytest.mark.usefixtures("impatient")
def test_a_hub_that_is_not_there(
    hub: FakeHub, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(method: str, path: str) -> int:
        return -1

    hub.fail = silent
    with pytest.raises(ConnectionError, match="the connection to the hub at http.*failed while"):
        editor.push_to_hub("me/hair")
    with pytest.raises(FileNotFoundError, match="could not be read from it at .*its cache has no"):
        Editor.load("me/hair")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set"):
        editor.push_to_hub("me/hair")


@pytest.mark.usefixtures("impatient")
def test_a_download_that_breaks_off_is_told(hub: FakeHub, editor: Editor) -> None:
    editor.push_to_hub("me/hair", part="editor")
    hub.fail = lambda method, path: -1 if path.endswith("editor.safetensors") else 0
    with pytest.raises(FileNotFoundError, match="'me/hair' could not be read from it"):
        Editor.load("me/hair")
    hub.fail = None
    assert Editor.load("me/hair").infos == [INFO]


def test_a_hub_that_answers_nonsense(hub: FakeHub, editor: Editor, monkeypatch: Any) -> None:
    hub.fail = lambda method, path: 503
    with pytest.raises(FileNotFoundError, match="could not be read from it.*503"):
        Editor.load("me/hair")
    with pytest.raises(ConnectionError, match="did not take me/hair|connection"):
        editor.push_to_hub("me/hair")
