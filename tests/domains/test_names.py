"""A file may name a built-in domain, or one beside it; anything else only the user may name."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdd_fast.domains.names import domain_of_mapper, domain_of_run
from sdd_fast.edit import Editor
from sdd_fast.files import write_json
from sdd_fast.manipulator import MapperInfo, save_mapper
from sdd_fast.models import LevelsMapper


def test_what_a_mapper_may_name(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    write_json(tmp_path / "shared" / "cats" / "domain.json", {})
    write_json(tmp_path / "shared" / "dogs.json", {})
    for name in ("faces64", "ffhq-1024"):
        assert domain_of_mapper(name, folder) == name
    assert domain_of_mapper("cats", folder) == str(tmp_path / "shared" / "cats")
    assert domain_of_mapper("dogs.json", folder) == str(tmp_path / "shared" / "dogs.json")


@pytest.mark.parametrize(
    "name",
    [
        "../secret.json", "cats/../../secret.json", "{folder}/secret.json", "link.json",
        "folder/secret.json", "~/secret.json", ".", "", "cats", "a\0b", "x" * 5000,
        "\\\\server\\share", "C:\\secret.json", "//server/share", "/dev/zero", "\x1b[2J",
    ],
)  # fmt: skip
def test_what_it_may_not(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_json("secret.json", {"name": "x", "source_text": "the secret"})
    write_json("cats/domain.json", {"name": "x", "source_text": "the secret"})  # of another folder
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "link.json").symlink_to(tmp_path / "secret.json")
    (shared / "folder").symlink_to(tmp_path)
    info = MapperInfo("a prompt", domain=name.format(folder=tmp_path) or ".")
    save_mapper(shared / "mapper.safetensors", LevelsMapper(10, 4), info)
    with pytest.raises(ValueError, match="names the domain .* neither built in nor.*--domain") as e:
        Editor.load(shared / "mapper.safetensors")
    assert len(str(e.value)) < 600 and str(e.value).isprintable()


def test_what_a_run_remembers(tmp_path: Path) -> None:
    write_json(tmp_path / "cats" / "domain.json", {})
    for home in ("faces64", str(tmp_path / "cats"), {"name": "x"}):
        assert domain_of_run(home, tmp_path) == home
    (tmp_path / "secret").write_text("hunter2 is the password")
    for path in (str(tmp_path / "secret"), str(tmp_path), "\\\\server\\share\\a.json", "/dev/zero"):
        with pytest.raises(ValueError, match="is not there; name the domain yourself") as error:
            domain_of_run(path, tmp_path)
        assert "hunter2" not in str(error.value)
