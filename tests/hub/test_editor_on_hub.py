"""Editors pushed to a hub and loaded again."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from fake_hub import FakeHub
from huggingface_hub import ModelHubMixin, PyTorchModelHubMixin, constants
from PIL import Image
from small_editor import INFO, small_editor
from torch import Tensor

import sdd_fast as sdd
from sdd_fast.domains.embedded import EMBEDDED
from sdd_fast.editing.editor import Editor
from sdd_fast.files import save_tensors
from sdd_fast.hub import contents


def test_a_whole_editor_is_pushed_and_loaded_by_name(
    hub: FakeHub, editor: Editor, latents: Tensor
) -> None:
    done = editor.push_to_hub("me/hair", part="editor")
    assert (done.changed, done.created, done.branch) == (True, True, "main")
    assert str(done) == f"{hub.endpoint}/me/hair"
    repository = hub.repositories["me/hair"]
    assert set(repository.files) == {
        ".gitattributes", "README.md", "before-after.png", "config.json", "editor.safetensors",
    }  # fmt: skip
    assert len(repository.commits) == 2 and repository.messages[-1] == "Push “white hair”"
    for loaded in (Editor.from_pretrained("me/hair"), Editor.load("me/hair")):
        assert loaded.infos == editor.infos
        assert torch.equal(loaded.edit(latents), editor.edit(latents))
    told = json.loads(repository.files["config.json"])
    assert told["edits"][0]["prompt"] == "white hair" and told["weights"] == "editor.safetensors"


def test_pushing_the_same_again_changes_nothing(hub: FakeHub, editor: Editor) -> None:
    first = editor.push_to_hub("me/hair", part="editor")
    hub.requests.clear()
    again = editor.push_to_hub("me/hair", part="editor")
    assert not again.changed and not again.created and again.files == ()
    assert again.commit == first.commit
    assert not [one for one in hub.requests if one.startswith(("POST", "PUT"))]


def test_a_mapper_alone_is_for_those_who_have_its_domain(hub: FakeHub, editor: Editor) -> None:
    editor.push_to_hub("me/hair")  # faces64 is built in: others have its generator
    assert "mapper.safetensors" in hub.repositories["me/hair"].files
    mapper, info = sdd.load_mapper("me/hair")
    assert info == INFO
    wanted = editor.mappers[0].state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in mapper.state_dict().items())
    again = sdd.LevelsMapper.from_pretrained("me/hair")
    assert not again.training and again.config == editor.mappers[0].config
    card = hub.repositories["me/hair"].files["README.md"].decode()
    assert 'license: "apache-2.0"' in card and "comes with `sdd_fast`" in card


def test_the_other_part_replaces_the_one_that_was_there(hub: FakeHub, editor: Editor) -> None:
    editor.push_to_hub("me/hair")
    done = editor.push_to_hub("me/hair", part="editor")
    assert done.changed and "mapper.safetensors" not in hub.repositories["me/hair"].files


def test_a_revision_is_kept_to(hub: FakeHub, editor: Editor, latents: Tensor) -> None:
    first = editor.push_to_hub("me/hair", part="editor")
    stronger = Editor(editor.generator, [(editor.mappers[0], replace(INFO, lam=5.0))])
    second = stronger.push_to_hub("me/hair", part="editor", commit_message="stronger")
    assert second.commit != first.commit
    for name, more in ((f"me/hair@{first.commit}", {}), ("me/hair", {"revision": first.commit})):
        assert Editor.from_pretrained(name, **more).infos[0].lam == 0.5
    assert Editor.from_pretrained("me/hair").infos[0].lam == 5.0
    hub.requests.clear()
    Editor.from_pretrained("me/hair", revision=first.commit)  # a commit never changes
    assert hub.requests == []
    with pytest.raises(FileNotFoundError, match="'me/hair' has no branch, tag or commit 'v9'"):
        Editor.from_pretrained("me/hair", revision="v9")


def test_a_branch_is_made_and_main_stays(hub: FakeHub, editor: Editor) -> None:
    editor.push_to_hub("me/hair", part="editor")
    other = Editor(editor.generator, [(editor.mappers[0], replace(INFO, lam=5.0))])
    done = other.push_to_hub("me/hair", part="editor", branch="trial")
    assert done.url.endswith("/me/hair/tree/trial")
    assert Editor.load("me/hair@trial").infos[0].lam == 5.0
    assert Editor.load("me/hair").infos[0].lam == 0.5
    with pytest.raises(ValueError, match="is a commit, which nothing can be pushed to"):
        editor.push_to_hub("me/hair", branch=done.commit)
    with pytest.raises(ValueError, match="cannot be the name of a branch"):
        editor.push_to_hub("me/hair", branch="my branch")


def test_without_the_hub_its_cache_is_used(
    hub: FakeHub, editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor.push_to_hub("me/hair", part="editor")
    with pytest.raises(FileNotFoundError, match="the hub's cache has no edit of me/hair"):
        Editor.from_pretrained("me/hair", local_files_only=True)
    Editor.from_pretrained("me/hair")
    Editor.from_pretrained("me/hair", cache_dir=tmp_path / "mine")
    hub.fail = lambda method, path: -1
    assert Editor.from_pretrained("me/hair", local_files_only=True).infos == [INFO]
    there = Editor.from_pretrained("me/hair", cache_dir=tmp_path / "mine", local_files_only=True)
    assert there.infos == [INFO]
    with pytest.warns(UserWarning, match="could not be asked for me/hair .*cache has is used"):
        Editor.load("me/hair")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # asked for: no warning
    assert Editor.load("me/hair").infos == [INFO]
    with pytest.raises(FileNotFoundError, match="'me/beard' could not be read from it"):
        Editor.load("me/beard")


def test_a_path_that_exists_wins(
    hub: FakeHub, editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    editor.save_pretrained("me/hair", part="editor")
    assert Editor.load("me/hair").infos == [INFO]
    assert Editor.from_pretrained("me/hair").infos == [INFO]
    with pytest.raises(ValueError, match="a path has no revision 'v1'"):
        Editor.from_pretrained("me/hair", revision="v1")
    with pytest.raises(ValueError, match="a path has no revision 'v1'"):
        sdd.LevelsMapper.from_pretrained("me/hair", revision="v1")
    with pytest.raises(
        FileNotFoundError, match="beard"
    ):  # beside it: mistyped, not to be asked for
        Editor.load("me/beard")
    assert hub.requests == []


def test_a_folder_is_what_would_be_pushed(
    hub: FakeHub, editor: Editor, tmp_path: Path, latents: Tensor
) -> None:
    folder = editor.save_pretrained(tmp_path / "folder")
    assert {path.name for path in folder.iterdir()} == {
        "README.md", "before-after.png", "config.json", "mapper.safetensors",
    }  # fmt: skip
    assert sdd.LevelsMapper.from_pretrained(folder).config == editor.mappers[0].config
    mapper = (folder / "mapper.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match=r"holds the mapper.safetensors of an earlier edit"):
        editor.save_pretrained(folder, part="editor")
    assert (folder / "mapper.safetensors").read_bytes() == mapper
    assert not (folder / "editor.safetensors").exists()
    editor.save_pretrained(folder)  # the same part in its place
    folder = editor.save_pretrained(tmp_path / "whole", part="editor")
    assert torch.equal(Editor.load(folder).edit(latents), editor.edit(latents))
    with pytest.raises(ValueError, match="is a file of Editor: load it with"):
        sdd.LevelsMapper.from_pretrained(folder)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"prompt": "x", "distill": {}}', encoding="utf-8")
    with pytest.raises(
        FileExistsError, match=r"config.json in .*run is of something else, such as a"
    ):
        editor.save_pretrained(run)
    assert [path.name for path in run.iterdir()] == ["config.json"]


@pytest.mark.parametrize("name", ["mapper.safetensors", "before-after.png", "editor.safetensors"])
def test_a_folder_with_files_of_others_is_refused(
    editor: Editor, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=rf"{name} .*choose another folder, or delete it"):
        editor.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"mine"


def test_an_empty_name_loads_nothing(
    hub: FakeHub, editor: Editor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(editor.save_pretrained(tmp_path / "folder"))
    for load in (Editor.from_pretrained, sdd.LevelsMapper.from_pretrained, Editor.load,
                 sdd.load_mapper, sdd.load_domain):  # fmt: skip
        with pytest.raises(ValueError, match=r"is empty; '\.' is the current folder"):
            load("")
    assert sdd.LevelsMapper.from_pretrained(".").config == editor.mappers[0].config
    assert hub.requests == []


def test_what_is_published_of_whose_domain(hub: FakeHub, editor: Editor) -> None:
    own = small_editor(replace(INFO, domain="cars"))
    with pytest.raises(ValueError, match="the domain cars does not come with sdd_fast"):
        own.push_to_hub("me/hair")
    with pytest.raises(ValueError, match="nobody has said a license"):
        own.push_to_hub("me/hair", part="editor")
    assert hub.repositories == {}
    own.push_to_hub("me/hair", part="editor", license="cc-by-4.0")
    card = hub.repositories["me/hair"].files["README.md"].decode()
    assert 'license: "cc-by-4.0"' in card and "as whoever pushed it says" in card
    own.push_to_hub("me/alone", part="mapper")
    card = hub.repositories["me/alone"].files["README.md"].decode()
    assert 'license: "unknown"' in card and "name it, `--domain PATH`" in card
    preset = small_editor(replace(INFO, domain="ffhq-1024"))
    preset.push_to_hub("me/preset")
    files = hub.repositories["me/preset"].files
    assert "mapper.safetensors" in files and b"`sdd info ffhq-1024` says" in files["README.md"]
    two = small_editor(edits=2)
    with pytest.raises(ValueError, match="a mapper is of one edit, and these are 2"):
        two.push_to_hub("me/two", part="mapper")
    two.push_to_hub("me/two")
    assert len(Editor.load("me/two").infos) == 2
    for given, message in (({"part": "all"}, "part must be one of"),
                           ({"license": "My License!"}, "license must be an identifier"),
                           ({"runs": ["a", "b"]}, "each of 1 edits, got 2")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            editor.push_to_hub("me/more", **given)


def test_a_mapper_is_a_model_of_the_hub(hub: FakeHub, editor: Editor, tmp_path: Path) -> None:
    mapper = editor.mappers[0]
    assert isinstance(mapper, PyTorchModelHubMixin) and isinstance(editor, ModelHubMixin)
    mapper.push_to_hub("me/mapper", info=INFO, private=True)
    repository = hub.repositories["me/mapper"]
    assert repository.private
    assert sdd.load_mapper("me/mapper")[1] == INFO
    path = tmp_path / "mapper.safetensors"
    sdd.save_mapper(path, mapper, INFO)  # the file format is the same as ever
    assert repository.files["mapper.safetensors"] == path.read_bytes()
    folder = mapper.save_pretrained(tmp_path / "folder")
    assert "no record of a run" in (folder / "README.md").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="is a file of LevelsMapper: load it with LevelsMapper"):
        sdd.StyleSpaceMapper.from_pretrained("me/mapper")


def test_only_safetensors_are_read(hub: FakeHub, editor: Editor, tmp_path: Path) -> None:
    torch.save(editor.mappers[0].state_dict(), tmp_path / "weights.pt")
    pickled = (tmp_path / "weights.pt").read_bytes()
    hub.make("evil/hair", {"mapper.safetensors": pickled})
    with pytest.raises(ValueError, match="is a zip file; from the hub only safetensors are read"):
        Editor.load("evil/hair")
    hub.make("evil/pickle", {"mapper.pt": pickled, "pytorch_model.bin": pickled})
    with pytest.raises(ValueError, match="holds no edit of sdd_fast: it has mapper.pt, pytorch_mo"):
        Editor.load("evil/pickle")
    hub.make("me/unfinished")
    with pytest.raises(ValueError, match="it is empty; an upload to it may not be finished"):
        Editor.load("me/unfinished")
    save_tensors(tmp_path / "other.safetensors", {"x": torch.zeros(1)})
    hub.make("me/other", {"mapper.safetensors": (tmp_path / "other.safetensors").read_bytes()})
    with pytest.raises(ValueError, match="expected a latent mapper"):
        Editor.load("me/other")


def test_a_repository_without_our_description_is_read_by_its_files(
    hub: FakeHub, editor: Editor, tmp_path: Path
) -> None:
    """As somebody uploads a file on the hub's page."""
    data = editor.save(tmp_path / "editor.safetensors").read_bytes()
    hub.make("someone/hair", {"editor.safetensors": data})
    assert Editor.load("someone/hair").infos == [INFO]


def test_a_downloaded_file_that_is_broken_is_named(
    hub: FakeHub, editor: Editor, tmp_path: Path
) -> None:
    data = editor.save(tmp_path / "editor.safetensors").read_bytes()
    hub.make("me/cut", {"editor.safetensors": data[: len(data) // 2]})
    with pytest.raises(ValueError, match=r"editor\.safetensors is truncated"):
        Editor.load("me/cut")


def test_without_a_run_the_card_shows_images_of_random_latents(
    editor: Editor, tmp_path: Path
) -> None:
    folder = editor.save_pretrained(tmp_path / "folder")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "(before-after.png)" in card and "draws of random latents" in card
    assert "**Not measured.**" in card
    with Image.open(folder / "before-after.png") as picture:
        assert picture.width > 6 * 144
    bare = Editor(editor.generator, [(editor.mappers[0], INFO)])
    told = (bare.save_pretrained(tmp_path / "bare", part="editor") / "README.md").read_text("utf-8")
    assert "and no encoder: it edits W+ latents" in told


def test_what_a_prompt_says_is_no_markup(editor: Editor, tmp_path: Path) -> None:
    prompt = "a | b` <script>x</script> *x* \n# head [l](http://x) {{ card }}"
    hostile = Editor(editor.generator, [(editor.mappers[0], replace(INFO, prompt=prompt))])
    card = (hostile.save_pretrained(tmp_path / "folder") / "README.md").read_text("utf-8")
    assert "<script" not in card.replace("\\<script", "") and "\n# head" not in card
    assert "| prompt | “a \\| b\\` \\<script\\>x" in card and "\\{\\{ card \\}\\}" in card


def test_the_built_in_domains_are_those_that_come_along() -> None:
    assert set(contents.BUILT_IN) == set(EMBEDDED)


def test_the_cache_is_only_read_where_nothing_is_to_be_written(
    hub: FakeHub, editor: Editor, tmp_path: Path
) -> None:
    editor.push_to_hub("me/hair", part="editor")
    Editor.load("me/hair")
    shutil.copytree(constants.HF_HUB_CACHE, tmp_path / "copied")
    again = Editor.from_pretrained("me/hair", cache_dir=tmp_path / "copied", local_files_only=True)
    assert again.infos == [INFO]
