"""What is a name on the hub, and what is a path."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_hub import FakeHub

from sdd_fast.hub.download import from_cache, from_hub, local_source
from sdd_fast.hub.names import HubName, hub_name


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("me/hair", HubName("me/hair")),
        (Path("me/hair"), HubName("me/hair")),
        ("me/hair@v1.0", HubName("me/hair", "v1.0")),
        ("me/hair@refs/pr/1", HubName("me/hair", "refs/pr/1")),
        ("me/hair-v1.0", HubName("me/hair-v1.0")),
        ("hf://me/hair@v1", HubName("me/hair", "v1")),
        (Path("hf://me/hair"), HubName("me/hair")),
        ("hf://hair", None),
        ("hair", None),
        ("me/hair/fine", None),
        ("/me/hair", None),
        ("./me/hair", None),
        ("../me/hair", None),
        ("~/hair", None),
        ("me/hair@", None),
        ("me/*.jpg", None),
        ("me/hair.safetensors", None),
        ("me/face.JPG", None),
        ("me/h--r", None),
        ("", None),
    ],
)
def test_names_are_told_from_paths(given: str | Path, name: HubName | None) -> None:
    assert hub_name(given) == name
    if name is not None:
        assert str(given).endswith(str(name))


def test_what_exists_or_could_be_mistyped_is_a_path(tmp_path: Path, hub: FakeHub) -> None:
    (tmp_path / "me").mkdir()
    assert hub_name("me/hair") is None  # "me" is a folder here
    assert hub_name("me/hair@v1") is None
    with pytest.raises(FileNotFoundError, match="the hub was not asked, as there is a folder 'me'"):
        local_source("me/hair")
    assert hub_name("hf://me/hair") == HubName("me/hair")
    assert local_source("me/hair.safetensors") == Path("me/hair.safetensors")
    assert local_source(tmp_path / "me") == tmp_path / "me"
    assert hub.requests == []


def test_a_teacher_is_found_in_the_cache_when_the_hub_is_gone(hub: FakeHub) -> None:
    hub.make("someone/model", {"model_index.json": b"{}", "unet/config.json": b"{}", "x.bin": b"x"})
    folder = from_hub("someone/model", lambda names: ["model_index.json"], "model_index.json")
    folder = from_hub("someone/model", lambda names: ["unet/config.json"], "model_index.json")
    assert (folder / "unet/config.json").exists() and not (folder / "x.bin").exists()
    hub.fail = lambda method, path: -1
    assert from_hub("someone/model", list, "model_index.json") == folder
    assert from_cache("someone/model", "unet/config.json") == folder
    assert from_cache("someone/other", "unet/config.json") is None
