"""A file may name a built-in domain, or one beside it; anything else only the user may name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdd_fast.domains import load_domain
from sdd_fast.domains.names import domain_of_mapper, domain_of_run
from sdd_fast.editing.editor import Editor
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


def test_what_a_run_may_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, checkpoints = tmp_path / "run", tmp_path / "checkpoints"
    monkeypatch.setenv("SDD_FAST_CHECKPOINTS", str(checkpoints))
    listing = {"name": "x", "source_text": "y", "generator": "g.pt"}
    for home in (run / "cats", checkpoints / "dogs", tmp_path / "birds"):
        write_json(home / "domain.json", listing)
        (home / "g.pt").touch()
    for name in ("faces64", "ffhq-1024", str(run / "cats"), str(checkpoints / "dogs")):
        assert domain_of_run(name, run) == name
    (tmp_path / "secret").write_text("hunter2 is the password")
    foreign = ("birds", "secret", "run/../birds")
    for name in (*(str(tmp_path / name) for name in foreign), "\\\\server\\a.json", "/dev/zero"):
        with pytest.raises(ValueError, match="only you can say that .*--domain ") as error:
            domain_of_run(name, run)
        assert "hunter2" not in str(error.value)


@pytest.mark.parametrize("part", ["generator", "encoder", "detector"])
def test_what_the_parts_of_a_named_domain_may_be(
    tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDD_FAST_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("HOME", str(tmp_path))
    run = tmp_path / "run"
    (run / "cats").mkdir(parents=True)
    (run / "link.pt").symlink_to(tmp_path / "secret.pt")
    about: dict[str, Any] = {"name": "x", "source_text": "y", "diffusion": "/data/sd15"}
    elsewhere = (str(tmp_path / "secret.pt"), "../../secret.pt", "~/secret.pt", "/dev/zero")
    for named in (*elsewhere, "//server/share/g.pt", ["cats.pt", "/etc/passwd"], "../link.pt"):
        write_json(run / "cats" / "domain.json", {**about, part: named})
        relative = isinstance(named, str) and not named.startswith("~")
        absolute = str(run / "cats" / str(named)) if relative else named
        for refused in (
            lambda: domain_of_run({**about, part: absolute}, run),  # noqa: B023
            lambda: domain_of_run(str(run / "cats"), run),
            lambda: domain_of_mapper("cats", run),
        ):
            with pytest.raises(ValueError, match=f"as its {part} .*only you can say .*--{part} "):
                refused()
        assert domain_of_mapper("cats", run, [part]) == str(run / "cats")  # the user names another
    write_json(run / "cats" / "domain.json", {**about, part: "g.pt"})
    assert domain_of_mapper("cats", run) == domain_of_run(str(run / "cats"), run)
    for path in (run / "g.pt", tmp_path / "checkpoints" / "g.pt"):
        assert domain_of_run({**about, part: str(path)}, run)[part] == str(path)  # type: ignore[index]
    with pytest.raises(ValueError, match="as its diffusion"):
        domain_of_run({**about, "diffusion": "\\\\server\\sd"}, run)


def test_files_that_a_preset_finds_are_no_strangers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDD_FAST_CHECKPOINTS", str(tmp_path / "checkpoints"))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "cats.safetensors").touch()
    link = tmp_path / "checkpoints" / "afhqcat.safetensors"
    link.symlink_to(tmp_path / "cats.safetensors")
    reference = load_domain("afhq-cat-512").reference
    assert isinstance(reference, dict)
    assert domain_of_run(reference, tmp_path / "run") == reference
    link.unlink()
    with pytest.raises(ValueError, match="as its generator"):
        domain_of_run(reference, tmp_path / "run")
