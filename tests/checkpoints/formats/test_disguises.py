"""Files that look harmless in one respect and are not in another."""

from __future__ import annotations

import io
import itertools
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from checkpoints.formats import hostile
from checkpoints.formats.hostile import *

from sdd_fast.checkpoints.formats.bounds import Budget
from sdd_fast.checkpoints.formats.read import read_checkpoint, scan


@pytest.mark.parametrize("encoding", [(), (text("latin1"),)])
def test_a_file_inside_of_a_pickle_that_a_call_makes(
    tmp_path: Path, encoding: tuple[bytes, ...]
) -> None:
    """As protocol 2, which has no bytes, writes the data of tensors."""
    inner = text(legacy(hostile.pickle(call_system()), [], []).decode("latin-1"))
    made = call(name("_codecs.encode"), inner, *encoding)
    load = name("torch.storage._load_from_bytes")
    refused(tmp_path / "a.pkl", hostile.pickle(call(load, made)), "os.system")
    assert scan(tmp_path / "a.pkl").refused == ("os.system",)
    for unknown in (call(name("builtins.bytes"), inner), call(name("builtins.list"))):
        refused(tmp_path / "a.pkl", hostile.pickle(call(load, unknown)))
        assert "<unknown data inside of the pickle>" in scan(tmp_path / "a.pkl").refused


def test_tensors_as_protocol_2_writes_them_are_fine(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps({"a": torch.arange(3.0)}, protocol=2))
    assert scan(path).refused == ()
    assert read_checkpoint(path).content["a"].tolist() == [0, 1, 2]


def test_pickles_after_the_first(tmp_path: Path) -> None:
    """torch.load reads five pickles of a file whose first says so in any form."""
    path = tmp_path / "a.pt"
    magic = hostile.pickle(b"L" + str(0x1950A86A20F9469CFC6C).encode() + b"L\n")
    rest = hostile.pickle(b"M\xe9\x03") + hostile.pickle(b"}") + hostile.pickle(call_system())
    refused(path, magic + rest, "bytes follow")
    with pytest.raises(ValueError, match="bytes follow"):
        scan(path)


@pytest.mark.parametrize("other", ["archive/DATA.PKL", "archive/Data.pkl", "b/data.Pkl"])
def test_names_in_archives_that_differ_by_case_only(tmp_path: Path, other: str) -> None:
    """torch's own reader of archives does not tell them apart."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("archive/data.pkl", hostile.pickle(b"]"))
        file.writestr(other, hostile.pickle(call_system()))
    refused(tmp_path / "a.pt", target.getvalue(), "not one of torch.save")
    with pytest.raises(ValueError, match=r"not one of torch\.save"):
        scan(tmp_path / "a.pt")
    # Any other pickle is looked at, whatever the case.
    with zipfile.ZipFile(target, "w") as file:
        file.writestr("archive/data.pkl", hostile.pickle(b"]"))
        file.writestr("archive/CONSTANTS.PKL", hostile.pickle(call_system()))
    (tmp_path / "a.pt").write_bytes(target.getvalue())
    assert scan(tmp_path / "a.pt").format == "torchscript"
    assert scan(tmp_path / "a.pt").refused == ("os.system",)


def test_a_text_that_doubles(tmp_path: Path) -> None:
    double = b"q\0" + b"0" + name("torch.device") + b"h\0h\0\x86R"
    refused(tmp_path / "a.pt", hostile.pickle(text("cpu"), double * 40), "operations to read")


@pytest.mark.parametrize("index", [-1, 2**32, 7 * (2**61 - 1)])
def test_objects_numbered_as_no_pickler_does(tmp_path: Path, index: int) -> None:
    """Python's hash of the last is that of 0."""
    content = hostile.pickle(b"N", f"p{index}\n".encode())
    refused(tmp_path / "a.pt", content, "numbers an object as no pickler does")


@pytest.mark.parametrize(
    "function", ["builtins.set", "builtins.frozenset", "builtins.dict", "collections.OrderedDict"]
)
def test_keys_that_collide(tmp_path: Path, function: str) -> None:
    """The hashes of 0, "" and b"" are equal, and so are those of all tuples of them."""
    same = [b"K\0", text(""), b"C\0"]
    combinations = itertools.islice(itertools.product(same, repeat=9), Budget.TUPLE_KEYS + 1)
    keys = [items(*parts) for parts in combinations]
    if "ict" in function:
        keys = [key + b"N\x86" for key in keys]
    content = hostile.pickle(call(name(function), b"](" + b"".join(keys) + b"e"))
    refused(tmp_path / "a.pt", content, "tuples as keys")


def test_too_many_numbers_as_keys(tmp_path: Path) -> None:
    keys = b"".join(b"J" + i.to_bytes(4, "little") for i in range(Budget.NUMBER_KEYS + 1))
    refused(tmp_path / "a.pt", hostile.pickle(b"\x8f(", keys, b"\x90"), "numbers as keys")
    few = {i: float(i) for i in range(1000)} | {float(i) + 0.5: i for i in range(1000)}
    (tmp_path / "a.pt").write_bytes(pickle.dumps(few))
    assert read_checkpoint(tmp_path / "a.pt").content == few


def test_numbers_wider_than_those_of_their_storage_at_an_odd_place(tmp_path: Path) -> None:
    """A tensor of float64 in a part of a storage of bytes, from its second byte on."""
    part = items(text("part"), integer(1), integer(40))
    where = items(
        text("storage"), name("torch.ByteStorage"), text("0"), text("cpu"), integer(64), part
    )
    typed = tensor(where + b"Q", shape=(2,)).replace(b"_rebuild_tensor_v2", b"_rebuild_tensor_v3")
    typed = typed.removesuffix(b"tR") + name("torch.float64") + b"tR"
    content = legacy(hostile.pickle(typed), ["0"], [(64, bytes(64))])
    refused(tmp_path / "a.pt", content, "cannot have at the place of its data")


def test_names_that_are_long_only_as_paths(tmp_path: Path) -> None:
    """One long key on ninety levels; the last path would have 18 million characters."""
    levels = b"".join(b"q\1" + b"0" + b"}" + b"h\0h\1s" for _ in range(90))
    content = text("k" * 200_000) + b"q\0" + b"0" + b"}" + text("t") + b"Ns" + levels
    refused(tmp_path / "a.pt", hostile.pickle(content), "paths to its items")
    # And in many places: a tree whose nodes are the same.
    levels = b"".join(b"q\1" + b"0" + b"}" + b"(h\0h\1h\2h\1u" for _ in range(16))
    keys = text("a" * 1000) + b"q\0" + b"0" + text("b" * 1000) + b"q\2" + b"0"
    refused(
        tmp_path / "a.pt",
        hostile.pickle(keys, b"}", text("t"), b"Ns", levels),
        "paths to its items",
    )


def test_archives_are_read_as_before(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(archive(hostile.pickle(b"}", text("a"), data(b"b"), b"s")))
    assert read_checkpoint(tmp_path / "a.pt").content == {"a": b"b"}
    assert scan(tmp_path / "a.pt").refused == ()
