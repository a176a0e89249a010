from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdd_fast import files


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_atomic_path_renames_on_success_and_keeps_the_suffix(tmp_path: Path) -> None:
    target = tmp_path / "new" / "picture.png"
    with files.atomic_path(target) as temporary:
        assert temporary.parent == target.parent and temporary.suffix == ".png"
        temporary.write_bytes(b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert names(target.parent) == ["picture.png"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_atomic_path_leaves_the_old_file_on_any_error(
    tmp_path: Path, error: type[BaseException]
) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")
    with pytest.raises(error), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise error()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_file_that_is_not_written_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.atomic_path(tmp_path / "a" / "b" / "c.json"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    (tmp_path / "mine").mkdir()
    with pytest.raises(KeyboardInterrupt), files.atomic_path(tmp_path / "mine" / "b" / "c.json"):
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_a_file_goes_where_it_was_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with files.atomic_path("a.json") as temporary:
        os.chdir("elsewhere")
        temporary.write_text("1")
    assert (tmp_path / "a.json").exists()
    assert files.shown(tmp_path / "elsewhere" / "b") == Path("b")
    assert files.shown(tmp_path / "a.json") == tmp_path / "a.json"
    assert files.shown(Path("h\udcc3\udcbcte")) == Path("hüte")


def test_atomic_path_refuses_a_folder(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="folder"), files.atomic_path(tmp_path):
        pass


@pytest.mark.parametrize("name", ["w.pt", "w.png", "w"])
def test_tensors_are_written_under_their_own_ending_only(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name}' must end in \.safetensors"):
        files.save_tensors(tmp_path / name, {"a": torch.ones(2)})
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_names_the_file_and_the_space_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    target = tmp_path / "w.safetensors"
    files.save_tensors(target, {"a": torch.ones(2)})
    before = target.read_bytes()

    def full(self: Path, data: bytes) -> int:
        with open(self, "wb") as handle:  # some bytes arrive before the disk is full
            handle.write(data[:10])
        raise OSError(code, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(
        OSError, match=r"no space left while writing .*w\.safetensors.*MiB free"
    ) as e:
        files.save_tensors(target, {"a": torch.zeros(2)})
    assert e.value.errno == errno.ENOSPC
    monkeypatch.undo()
    assert target.read_bytes() == before
    assert names(tmp_path) == ["w.safetensors"]


def test_other_os_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match="mine"), files.atomic_path(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "mine")


def test_text_is_utf8_with_unix_line_ends(tmp_path: Path) -> None:
    files.write_text(tmp_path / "t.txt", "ü\nλ\n")
    assert (tmp_path / "t.txt").read_bytes() == "ü\nλ\n".encode()


def test_json_round_trip_with_tensors_arrays_and_paths(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    value = {"a": [1, 2.5, None], "t": torch.tensor([1, 2]), "n": np.float32(0.5), "p": Path("q")}
    files.write_json(path, value)
    assert files.read_json(path) == {"a": [1, 2.5, None], "t": [1, 2], "n": 0.5, "p": "q"}


def test_json_refuses_nan_and_unknown_types(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NaN"):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    with pytest.raises(TypeError, match="object"):
        files.write_json(tmp_path / "x.json", object())
    assert names(tmp_path) == []


def test_read_json_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file"):
        files.read_json(tmp_path / "missing.json")
    (tmp_path / "bad.json").write_text('{"a": 1,\n "b": }')
    with pytest.raises(ValueError, match=r"bad\.json is not valid JSON: .* line 2, column 7"):
        files.read_json(tmp_path / "bad.json")
    (tmp_path / "bin.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="not UTF-8"):
        files.read_json(tmp_path / "bin.json")


def test_tensors_round_trip_views_dtypes_and_metadata(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "whole": base,
        "transposed": base.T,
        "row": base[1],
        "half": base.half(),
        "bf16": base.bfloat16(),
        "long": torch.arange(3),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "grad": torch.ones(2, requires_grad=True),
    }
    files.save_tensors(tmp_path / "t.safetensors", tensors, {"prompt": "white häir", "n": "3"})
    loaded, metadata = files.load_tensors(tmp_path / "t.safetensors")
    assert metadata == {"prompt": "white häir", "n": "3"}
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor.detach())
    files.save_tensors(tmp_path / "u.safetensors", {"a": base})
    assert files.load_tensors(tmp_path / "u.safetensors")[1] == {}


def test_metadata_must_be_text(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"'lam': float.*json\.dumps"):
        files.save_tensors(tmp_path / "t.safetensors", {}, {"lam": 0.1})  # type: ignore[dict-item]
    assert names(tmp_path) == []


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", ["zip", "legacy", "pickle"])
def test_pickles_are_refused_by_content_not_by_name(tmp_path: Path, suffix: str, kind: str) -> None:
    path = tmp_path / f"w{suffix}"
    if kind == "pickle":
        path.write_bytes(pickle.dumps({"a": Bomb()}))
    else:
        torch.save({"a": Bomb()}, path, _use_new_zipfile_serialization=kind == "zip")
    with pytest.raises(ValueError, match=r"is a pickle .*refused.*sdd convert"):
        files.load_tensors(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"\n <html>", "web page"),
        (b"abc", "not a safetensors file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a safetensors file"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "not a complete safetensors file"),
    ],
)
def test_other_content_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        files.load_tensors(path)
    assert "w.safetensors" in str(error.value)


def test_a_pickle_with_a_brace_where_safetensors_has_one_is_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "w.pkl"
    path.write_bytes(pickle.dumps(["ab{"], protocol=0))
    assert path.read_bytes()[8:9] == b"{"
    assert files.content_kind(path) == "pickle"


def test_missing_folder_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no such file.*gone\.safetensors"):
        files.load_tensors(tmp_path / "gone.safetensors")
    with pytest.raises(IsADirectoryError):
        files.load_tensors(tmp_path)
    path = tmp_path / "w.safetensors"
    files.save_tensors(path, {"a": torch.randn(1000)})
    data = path.read_bytes()
    for length in (4, 8, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"w\.safetensors"):
            files.load_tensors(path)


def test_a_safetensors_header_whose_length_looks_like_a_pickle_still_loads(tmp_path: Path) -> None:
    # A header of 0x??0280 bytes starts with the same two bytes as a pickle of protocol 2.
    path = tmp_path / "w.safetensors"
    for padding in range(0x200, 0x300):
        files.save_tensors(path, {"a": torch.ones(1)}, {"p": "x" * padding})
        if path.read_bytes()[:2] == b"\x80\x02":
            break
    else:
        pytest.fail("no such header length was produced")
    assert json.dumps(files.load_tensors(path)[0]["a"].tolist()) == "[1.0]"


def test_equal_contents_give_equal_bytes(tmp_path: Path) -> None:
    metadata = {f"key {i}": 'vält\n\x01\\"' * i for i in range(20)}
    tensors = {"b": torch.arange(3), "a": torch.ones(2, dtype=torch.float16)}
    written = set()
    for turn in range(10):
        keys = sorted(metadata, key=lambda key: hash((key, turn)))
        path = tmp_path / f"{turn}.safetensors"
        files.save_tensors(path, tensors, {key: metadata[key] for key in keys})
        written.add(path.read_bytes())
    assert len(written) == 1
    loaded, found = files.load_tensors(path)
    assert found == metadata and all(torch.equal(loaded[name], tensors[name]) for name in tensors)


@pytest.mark.parametrize(
    ("count", "offsets", "never"),
    [(300_000, "data_offsets", "parse_json"), (100_001, r"data_\u006fffsets", "safe_open")],
)
def test_a_file_of_300_000_empty_tensors_is_refused_at_once(
    tmp_path: Path, count: int, offsets: str, never: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named plainly, before its header is parsed; by other letters, before safetensors reads it."""

    def called(*_: object, **__: object) -> None:
        raise AssertionError(f"{never} reads it")

    monkeypatch.setattr(f"sdd_fast.files.tensors.{never}", called)
    entry = '"t{}":{{"dtype":"F32","shape":[0],"' + offsets + '":[0,0]}}'
    header = ("{" + ",".join(entry.format(i) for i in range(count)) + "}").encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    for function in (files.load_tensors, files.read_metadata):
        with pytest.raises(ValueError, match=r"w\.safetensors lists more than 100,000 tensors"):
            function(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ('{"a":{"dtype":"F32","shape":[%s],"data_offsets":[0,0]}}' % ("9" * 400), "400 digits"),
        ('{"a":{"dtype":"F32","shape":[0,%s],"data_offsets":[0,0]}}' % (2**62), "impossible shape"),
        ('{"a":{"dtype":"F32","shape":[%s0],"data_offsets":[0,0]}}' % ("1," * 70), "impossible sh"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', "truncated: .* end at byte"),
        ('{"__metadata__":{"a":"\\ud800"}}', "half a character"),
        ('{"__metadata__":{"a":7}}', "not a complete safetensors file"),
        ('{"a":7}', "header is damaged"),
        ('{"a":' + "[" * (4 * 10**6) + "]}", "more lists and objects than any network"),
        ('{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}', "no whole numbers"),
        ('{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,"%s"]}}' % ("9" * 5000), "no whole"),
        ('{"a":{"dtype":"%s","shape":[0],"data_offsets":[0,0]}}' % ("F" * 5000), "F{60,290}…"),
        ("{" * 10, "header is damaged"),
    ],
)
def test_headers_of_safetensors_that_make_no_sense(
    tmp_path: Path, header: str, message: str
) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(ValueError, match=rf"w\.safetensors.*{message}"):
        files.load_tensors(path)


def test_a_header_that_is_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes((2**31).to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match=r"w\.safetensors is truncated: .* the file 10\)"):
        files.load_tensors(path)


def test_json_that_nobody_could_use(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    for text, message in [
        ("[1" + "0" * 400 + "]", "an integer of 401 digits; at most 300"),
        ('["\\ud83d"]', r"holds '\\ud83d', which is half a character"),
        ('{"\\uDE00": 1}', "half a character"),
        ("[NaN]", "NaN, which is no finite number"),
        ("[-Infinity]", "-Infinity, which is no finite number"),
        ("[1e400]", "1e400, which is no finite number"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"x\.json is not valid JSON: .*{message}"):
            files.read_json(path)
    path.write_bytes(b'\xef\xbb\xbf["\\ud83d\\ude00", %d]' % 10**299)  # as Windows editors write
    assert files.read_json(path) == ["😀", 10**299]


def test_half_characters_are_not_written(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for write in (
        lambda: files.write_text(path, "a\udc80"),
        lambda: files.write_json(path, ["a\udc80"]),
        lambda: files.save_tensors(path, {}, {"a": "\udc80"}),
    ):
        with pytest.raises(
            ValueError, match=r"cannot write .*x\.safetensors: .*'\\udc80'.*half a character"
        ):
            write()
    assert names(tmp_path) == []


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_names_the_target(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as error:
        files.write_text(tmp_path / "x.txt", "a")
    assert error.value.filename == str(tmp_path / "x.txt")


def test_errors_name_the_target_instead_of_the_temporary_file(tmp_path: Path) -> None:
    with pytest.raises(PermissionError) as error, files.atomic_path(tmp_path / "x.txt") as path:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))
    assert error.value.filename == str(tmp_path / "x.txt")


def test_a_limit_of_file_sizes_names_the_file(tmp_path: Path) -> None:
    code = (
        "import resource, sys, torch; from sdd_fast import files;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "files.save_tensors(sys.argv[1], {'a': torch.zeros(1000)})"
    )
    child = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "w.safetensors")],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    last = child.stderr.splitlines()[-1]
    assert "ulimit -f" in last and last.endswith("w.safetensors'"), child.stderr
    assert names(tmp_path) == []


@pytest.mark.parametrize("device", ["pipe", "/dev/zero"])
def test_what_never_ends_is_not_read(tmp_path: Path, device: str) -> None:
    path = tmp_path / "run.json"
    os.mkfifo(path) if device == "pipe" else path.symlink_to(device)
    readers = (files.read_json, files.load_tensors, files.read_metadata, files.content_kind)
    for read in readers:
        with pytest.raises(ValueError, match=r"run\.json is a device or pipe, not a file"):
            read(path)


def test_text_is_read_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    monkeypatch.setattr("sdd_fast.files.json.LARGEST", 2**20)
    path.write_text('"' + "a" * 2**20 + '"')
    with pytest.raises(ValueError, match=r"x\.json is larger than 1 MiB, the most that is read"):
        files.read_json(path)


def test_the_longest_names_are_written(tmp_path: Path) -> None:
    for name in ("n" * 251 + ".png", "a." + "s" * 253):
        files.write_text(tmp_path / name, "a")
        assert (tmp_path / name).read_text() == "a"


def test_a_folder_is_made_or_refused_by_name(tmp_path: Path) -> None:
    assert files.make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert files.make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "x").write_text("mine")
    for path in (tmp_path / "x", tmp_path / "x" / "y" / "z"):
        with pytest.raises(NotADirectoryError, match="this is a file") as error:
            files.make_folder(path)
        assert error.value.filename == str(tmp_path / "x")
        with pytest.raises(NotADirectoryError, match="this is a file"):
            files.write_text(path / "a.txt", "a")


def test_a_home_is_found_or_missed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    files.write_json("~/a.json", 1)
    assert files.read_json("~/a.json") == 1
    for use in (files.read_json, files.load_tensors, files.make_folder, files.atomic_path):
        with pytest.raises(ValueError, match="'~nosuchuser/x' names no home folder"):
            manager = use("~nosuchuser/x")
            manager.__enter__()  # of atomic_path


def test_an_empty_name_is_not_the_current_folder() -> None:
    for use in (files.expanded, files.settled, files.read_json, files.load_tensors):
        with pytest.raises(ValueError, match=r"is empty; '\.' is the current folder"):
            use("")
    assert files.expanded(".") == files.expanded(Path()) == Path()


def test_what_libraries_and_files_say_is_bounded() -> None:
    with pytest.raises(ValueError, match="set_int_max") as error:
        int("1" * 5000)
    assert "set_int_max" not in files.library_text(error.value)
    assert len(files.library_text(ValueError("a" * 10**6))) < 400
    assert len(files.listed(["a" * 10**4] * 10**4)) < 300_000
    assert files.listed(["b"] * 600).endswith("\n  and 100 more")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    code = (
        "import os, sys; from sdd_fast.files import atomic_path\n"
        "with atomic_path(sys.argv[1]) as path: path.write_text('half'); os.kill(os.getpid(), 9)"
    )
    for _ in range(2):
        killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], check=False)
        assert killed.returncode == -9
        (left,) = tmp_path.iterdir()  # that of the latest
        assert left.match(files.TEMPORARY)
    others = [tmp_path / ".sdd-someone's.tmp", tmp_path / ".sdd-0-1-2.tmp.png"]
    for other in others:
        other.touch()
    with files.atomic_path(tmp_path / "b.txt") as mine:
        files.write_text(tmp_path / "c.txt", "c")  # beside a file that is being written
        mine.write_text("b")
    names = [*(other.name for other in others), "b.txt", "c.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
