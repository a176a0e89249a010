"""tools/split_wheel.py on a wheel of a few bytes; the version of the true weights."""

from __future__ import annotations

import base64
import csv
import email
import hashlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sdd_fast.domains.embedded import HERE, WEIGHTS

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "tools" / "split_wheel.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="needs the source tree")

FOLDER = "sdd_fast/domains/faces64/weights"
INFO = "sdd_fast-0.1.0.dist-info"
METADATA = (
    "Metadata-Version: 2.4\nName: sdd_fast\nVersion: 0.1.0\nRequires-Dist: torch>=2.11\n"
    'Provides-Extra: dev\nRequires-Dist: ruff; extra == "dev"\n\nReadme, with\n\n'
    "Requires-Dist: nothing\n"
)


def digest(files: dict[str, bytes]) -> str:
    joined = b"".join(f"{n} {len(d)}\n".encode() + d for n, d in sorted(files.items()))
    return hashlib.sha256(joined).hexdigest()


def whole_wheel(path: Path, weights: dict[str, bytes], versions: dict[str, str] | None) -> Path:
    """As pip makes one, with dates of today and files of various modes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in weights.items():
            archive.writestr(f"{FOLDER}/{name}", data)
        if versions is not None:
            archive.writestr(f"{FOLDER}/versions.json", json.dumps(versions))
        archive.writestr("sdd_fast/__init__.py", "__version__ = '0.1.0'\n")
        archive.writestr("sdd_fast/domains/faces64/renderer.py", "")
        archive.writestr(f"{INFO}/METADATA", METADATA)
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nTag: cp310-abi3-linux_x86_64\n")
        archive.writestr(f"{INFO}/licenses/LICENSE", "Do as you like.\n")
        archive.writestr(f"{INFO}/RECORD", "wrong,,\n")
    return path


WEIGHT_FILES = {"MODEL_CARD.md": b"# A card\n", "clip/a.safetensors": bytes(range(256)) * 9}


def split(wheel: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), str(wheel), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def halves(tmp_path: Path) -> tuple[Path, Path]:
    whole = whole_wheel(
        tmp_path / "sdd_fast-0.1.0-cp310-abi3-linux_x86_64.whl",
        WEIGHT_FILES,
        {"1.0": "another", "1.4": digest(WEIGHT_FILES)},
    )
    done = split(whole, tmp_path / "dist")
    assert done.returncode == 0, done.stderr
    data, code = sorted((tmp_path / "dist").iterdir(), key=lambda path: path.name[8], reverse=True)
    assert code.name == whole.name and data.name == "sdd_fast_faces64-1.4-py3-none-any.whl"
    return code, data


def test_each_file_is_in_one_of_two_wheels(halves: tuple[Path, Path]) -> None:
    code, data = map(contents, halves)
    info = "sdd_fast_faces64-1.4.dist-info"
    assert set(code) == {
        "sdd_fast/__init__.py", "sdd_fast/domains/faces64/renderer.py",
        *(f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")),
    }  # fmt: skip
    assert set(data) == {
        "sdd_fast_faces64/__init__.py", "sdd_fast_faces64/versions.json",
        *(f"sdd_fast_faces64/{name}" for name in WEIGHT_FILES),
        *(f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "licenses/LICENSE")),
    }  # fmt: skip
    for name, expected in WEIGHT_FILES.items():
        assert data[f"sdd_fast_faces64/{name}"] == expected
    assert data[f"{info}/licenses/LICENSE"] == b"Do as you like.\n"


def test_metadata_says_what_belongs_together(halves: tuple[Path, Path]) -> None:
    code, data = map(contents, halves)
    head, _, readme = code[f"{INFO}/METADATA"].decode().partition("\n\n")
    assert "Readme, with\n\nRequires-Dist: nothing\n" == readme
    requirements = email.message_from_string(head).get_all("Requires-Dist")
    assert requirements == ["sdd-fast-faces64==1.*", "torch>=2.11", 'ruff; extra == "dev"']
    message = email.message_from_bytes(data["sdd_fast_faces64-1.4.dist-info/METADATA"])
    assert (message["Name"], message["Version"]) == ("sdd-fast-faces64", "1.4")
    assert message["License-Expression"] == "Apache-2.0" and "sdd_fast" in message["Summary"]
    assert message.get_payload() == "# A card\n"
    wheel = email.message_from_bytes(data["sdd_fast_faces64-1.4.dist-info/WHEEL"])
    assert (wheel["Root-Is-Purelib"], wheel["Tag"]) == ("true", "py3-none-any")


def test_record_lists_every_file_with_its_hash(halves: tuple[Path, Path]) -> None:
    for files in map(contents, halves):
        (record,) = (name for name in files if name.endswith("/RECORD"))
        rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(files.pop(record).decode()))}
        assert rows.pop(record) == ["", ""] and set(rows) == set(files)
        for name, data in files.items():
            sha = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().strip("=")
            assert rows[name] == [f"sha256={sha}", str(len(data))]


def test_the_same_files_give_the_same_bytes(halves: tuple[Path, Path], tmp_path: Path) -> None:
    """In another order, of another day, with other modes."""
    first = [path.read_bytes() for path in halves]
    again = tmp_path / "again" / halves[0].name
    again.parent.mkdir()
    with zipfile.ZipFile(tmp_path / halves[0].name) as old, zipfile.ZipFile(again, "w") as new:
        for name in reversed(old.namelist()):
            entry = zipfile.ZipInfo(name, (2031, 5, 6, 7, 8, 10))
            entry.external_attr = 0o100755 << 16
            new.writestr(entry, old.read(name))
    assert split(again, tmp_path / "dist").returncode == 0
    assert [path.read_bytes() for path in halves] == first


def test_changed_weights_need_a_new_version(tmp_path: Path) -> None:
    whole = whole_wheel(tmp_path / "whole.whl", WEIGHT_FILES, {"1.9": "ab" * 32})
    done = split(whole, tmp_path / "dist")
    found = digest(WEIGHT_FILES)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "not those of version 1.9" in done.stderr
    assert f'"1.10": "{found}" where the networks are the same' in done.stderr
    assert f'"2.0": "{found}"' in done.stderr
    whole.unlink()
    done = split(whole_wheel(whole, WEIGHT_FILES, None), tmp_path / "dist")
    assert done.returncode == 1 and "versions.json is missing: put back" in done.stderr
    assert not (tmp_path / "dist").exists()


def test_a_wheel_without_weights_is_refused(halves: tuple[Path, Path], tmp_path: Path) -> None:
    done = split(halves[0], tmp_path / "more")
    assert done.returncode == 1 and "not one that was split already" in done.stderr
    (tmp_path / "text.whl").write_text("no archive")
    for wheel, said in (("text.whl", "not a zip file"), ("none.whl", "No such file")):
        done = split(tmp_path / wheel, tmp_path / "more")
        assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("usage: ")
    assert not (tmp_path / "more").exists()


def test_nothing_half_written_stays(halves: tuple[Path, Path], tmp_path: Path) -> None:
    """A folder in the place of the wheel of the code: it cannot be replaced."""
    target = tmp_path / "other"
    (target / halves[0].name).mkdir(parents=True)
    done = split(tmp_path / halves[0].name, target)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert [path.name for path in target.iterdir()] == [halves[0].name]


def test_weights_of_another_domain_are_a_wheel_that_the_code_asks_for_as_an_extra(
    halves: tuple[Path, Path], tmp_path: Path
) -> None:
    clothes = {**WEIGHT_FILES, "LICENSE-data.txt": b"Name who drew it.\n"}
    whole = tmp_path / halves[0].name
    with zipfile.ZipFile(whole, "a") as archive:
        folder = FOLDER.replace("faces64", "fashion32")
        for name, data in clothes.items():
            archive.writestr(f"{folder}/{name}", data)
        archive.writestr(f"{folder}/versions.json", json.dumps({"2.0": digest(clothes)}))
    done = split(whole, tmp_path / "three")
    assert done.returncode == 0, done.stderr
    names = [whole.name, halves[1].name, "sdd_fast_fashion32-2.0-py3-none-any.whl"]
    assert sorted(path.name for path in (tmp_path / "three").iterdir()) == sorted(names)
    assert (tmp_path / "three" / names[1]).read_bytes() == halves[1].read_bytes()
    code, data = contents(tmp_path / "three" / names[0]), contents(tmp_path / "three" / names[2])
    assert not [name for name in code if "weights" in name]
    head = email.message_from_bytes(code[f"{INFO}/METADATA"])
    assert head.get_all("Requires-Dist") == [
        "sdd-fast-faces64==1.*", 'sdd-fast-fashion32==2.*; extra == "fashion32"',
        "torch>=2.11", 'ruff; extra == "dev"',
    ]  # fmt: skip
    assert set(head.get_all("Provides-Extra", [])) == {"dev", "fashion32"}
    info = "sdd_fast_fashion32-2.0.dist-info"
    message = email.message_from_bytes(data[f"{info}/METADATA"])
    assert (message["Name"], message["License-Expression"]) == (
        "sdd-fast-fashion32", "Apache-2.0 AND MIT",
    )  # fmt: skip
    assert message.get_all("License-File") == ["LICENSE", "LICENSE-data.txt"]
    assert data[f"{info}/licenses/LICENSE-data.txt"] == clothes["LICENSE-data.txt"]
    assert data["sdd_fast_fashion32/clip/a.safetensors"] == clothes["clip/a.safetensors"]
    assert b"weights of fashion32" in data["sdd_fast_fashion32/__init__.py"]


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_version_of_the_weights_here_is_true(name: str) -> None:
    """What to do when this fails is said by tools/split_wheel.py; see docs/kernels.md."""
    folder = HERE / name / "weights"
    if not (folder / "domain.json").exists():
        pytest.skip(f"the weights of {name} are not here")
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    versions = json.loads(files.pop("versions.json").read_text())
    version, expected = list(versions.items())[-1]
    found = digest({path_: path.read_bytes() for path_, path in files.items()})
    assert found == expected, f"the weights changed: give {found} a version in versions.json"
    assert WEIGHTS[name] == f"sdd-fast-{name}=={version.split('.')[0]}.*"
