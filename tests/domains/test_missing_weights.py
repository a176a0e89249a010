"""The weights of faces64 where the code lies without them, as a wheel installs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from cli_runner import Sdd

from sdd_fast.domains import embedded, load_domain

FACES64 = embedded.EMBEDDED["faces64"]
MESSAGE = 'the weights of faces64 are not installed: pip install "sdd-fast-faces64==1.*"'


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """None beside the code, and no package of them even where one is installed."""
    monkeypatch.setattr(embedded, "HERE", tmp_path / "domains")
    monkeypatch.setitem(sys.modules, "sdd_fast_faces64", None)
    monkeypatch.setitem(embedded.EMBEDDED, "faces64", embedded.find_weights("faces64"))


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("name", ["faces64", None])
def test_python_says_what_to_install(name: str | None) -> None:
    with pytest.raises(FileNotFoundError) as error:
        load_domain(name)
    assert str(error.value) == MESSAGE


@pytest.mark.usefixtures("without")
@pytest.mark.parametrize("words", [["demo"], ["distill", "a bald face"], ["info", "faces64"]])
def test_commands_say_what_to_install(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert MESSAGE in Sdd(capsys).fails(*words)


@pytest.mark.usefixtures("without")
def test_the_installation_is_described_without_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert json.loads(Sdd(capsys)("info", "--json").out)["domain faces64"] == MESSAGE
    assert "no file or folder" in Sdd(capsys).fails("info", "no-such-file")


@pytest.mark.usefixtures("without")
def test_their_package_is_found_without_a_new_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(FileNotFoundError):
        load_domain("faces64")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sdd_fast_faces64").symlink_to(FACES64, target_is_directory=True)
    monkeypatch.delitem(sys.modules, "sdd_fast_faces64")
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(FileNotFoundError):  # a folder that happens to be called so
        load_domain("faces64")
    (tmp_path / "site" / "sdd_fast_faces64").unlink()
    package = tmp_path / "site" / "sdd_fast_faces64"
    package.mkdir()
    for path in FACES64.iterdir():
        (package / path.name).symlink_to(path)
    (package / "__init__.py").touch()
    found = load_domain("faces64")
    assert found.path("generator").name == "generator.safetensors"
    assert found.folder == package and found.reference == "faces64"
    assert torch.equal(found.w_plus, load_domain(FACES64).w_plus)


def test_those_beside_the_code_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkout uses its own, whatever else is installed."""
    (tmp_path / "sdd_fast_faces64").mkdir()
    (tmp_path / "sdd_fast_faces64" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert load_domain("faces64").folder == embedded.HERE / "faces64" / "weights"
