"""Files whose tensors, arrays and archives are not what they say."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints.formats import hostile
from checkpoints.formats.hostile import *

from sdd_fast.checkpoints.formats.read import read_checkpoint


@pytest.mark.parametrize(
    "identifier",
    [
        text("storage"),
        items(text("storage")),
        items(text("module"), name("torch.FloatStorage"), text("a"), text("cpu"), integer(4)),
        items(text("storage"), name("builtins.list"), text("0"), text("cpu"), integer(4)),
        items(text("storage"), text("torch.FloatStorage"), text("0"), text("cpu"), integer(4)),
        items(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), integer(-4)),
        items(text("storage"), name("torch.FloatStorage"), text("0"), text("cpu"), b"G" + bytes(8)),
        items(text("storage"), name("torch.FloatStorage"), integer(0), text("cpu"), integer(4)),
        items(text("storage"), name("torch.FloatStorage"), text("../0"), text("cpu"), integer(4)),
        items(text("storage"), name("torch.FloatStorage"), text("0"), text("meta"), integer(4)),
    ],
)
def test_other_persistent_identifiers(tmp_path: Path, identifier: bytes) -> None:
    pickled = hostile.pickle(identifier, b"Q")
    refused(tmp_path / "a.pt", archive(pickled, {"0": bytes(16)}))
    refused(tmp_path / "a.pt", pickled, "data outside of the pickle")
    refused(tmp_path / "a.pt", legacy(pickled, ["0"], [(4, bytes(16))]))


def array_of(code: str, shape: bytes, raw: bytes, order: str = "<", fields: bytes = b"N") -> bytes:
    kind = call(name("numpy.dtype"), text(code), b"\x89", b"\x88")
    kind += items(integer(3), text(order), b"N", fields, b"N" + integer(-1) * 2 + integer(0)) + b"b"
    array = call(
        name("numpy.core.multiarray._reconstruct"),
        name("numpy.ndarray"),
        items(integer(0)),
        data(b"b"),
    )
    return array + items(integer(1), shape, kind, b"\x89", raw) + b"b"


def test_numpy_arrays_that_do_not_fit_their_bytes(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    path.write_bytes(hostile.pickle(array_of("f8", items(integer(2)), data(bytes(16)))))
    assert np.array_equal(read_checkpoint(path).content, np.zeros(2))
    eight = data(bytes(8))
    for code, shape, raw, message in (
        ("f8", items(integer(2)), eight, "8 bytes"),
        ("f8", items(integer(2**40)), eight, "8 bytes"),
        ("f8", items(integer(2**60), integer(0), integer(2**60)), data(b""), "any memory"),
        ("f8", items(integer(-1)), eight, "impossible shape"),
        ("f8", items(*[integer(1)] * 40), eight, "impossible shape"),
        ("f8", items(integer(1)), b"](NNe", "has no bytes"),
        ("b1", items(integer(8)), data(b"\x02" * 8), "booleans"),
    ):
        refused(path, hostile.pickle(array_of(code, shape, raw)), message)
    refused(path, hostile.pickle(array_of("f8", items(integer(1)), eight, order="!")), "fields")
    fields = items(text("a"))
    refused(path, hostile.pickle(array_of("f8", items(integer(1)), eight, fields=fields)), "fields")
    # A type that is made up elsewhere, of elements that numpy would take for addresses.
    about = b"}(" + text("type") + text("class") + text("class_name") + text("numpy.dtype")
    about += text("state") + b"}(" + text("code") + text("O8") + text("order") + text("|") + b"uu"
    forged = call(name("torch_utils.persistence._reconstruct_persistent_obj"), about)
    array = call(
        name("numpy.core.multiarray._reconstruct"),
        name("numpy.ndarray"),
        items(integer(0)),
        data(b"b"),
    )
    state = items(integer(1), items(integer(1)), forged, b"\x89", eight)
    refused(path, hostile.pickle(array, state, b"b"), "has no type")


@pytest.mark.parametrize(
    ("offset", "shape", "strides", "message"),
    [
        (0, (5,), (1,), "beyond its storage of 4"),
        (4, (1,), (1,), "beyond its storage of 4"),
        (5, (0,), (1,), "beyond its storage of 4"),
        (2, (2,), (2,), "beyond its storage of 4"),
        (0, (2, 2), (1, 3), "beyond its storage of 4"),
        (0, (2,), (2**61,), "beyond its storage of 4"),
        (0, (2**40,), (1,), "beyond its storage of 4"),
        (0, (2**40,), (0,), "would take"),  # the one element, again and again
        (0, (2**31, 2**31), (0, 0), "any memory"),
        (0, (0, 2**61, 2**61), (0, 0, 0), "any memory"),
        (0, (2,), (1, 1), "impossible dimensions"),
        (0, (1,) * 65, (1,) * 65, "impossible dimensions"),
        (-1, (1,), (1,), "impossible dimensions"),
        (2**64, (1,), (1,), "impossible dimensions"),
        (3, (2,), (-1,), "strides of a tensor"),
        (0, (-1,), (1,), "shape of a tensor"),
        (0, (2**63,), (1,), "shape of a tensor"),
    ],
)
def test_tensors_beyond_their_storage(
    tmp_path: Path, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], message: str
) -> None:
    pickled = hostile.pickle(tensor(storage(), offset, shape, strides))
    refused(tmp_path / "a.pt", archive(pickled, {"0": bytes(16)}), message)
    refused(tmp_path / "a.pt", legacy(pickled, ["0"], [(4, bytes(16))]), message)


def test_storages_that_the_file_does_not_hold(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(archive(hostile.pickle(tensor(storage())), {"0": bytes(16)}))
    assert read_checkpoint(path).content.tolist() == [0, 0, 0, 0]
    huge = hostile.pickle(tensor(storage(elements=2**40), 0, (2**40,)))
    refused(path, archive(huge, {"0": bytes(16)}), "have 16 bytes")
    refused(path, archive(huge), "missing")
    refused(path, legacy(huge, ["0"], [(2**40, bytes(16))]), "truncated")
    refused(path, legacy(huge, ["0"], [(4, bytes(16))]), "should have 1099511627776 elements")
    one = hostile.pickle(tensor(storage()))
    refused(path, legacy(one, [], []), "missing")
    refused(path, legacy(one, ["0", "0"], [(4, bytes(16))] * 2), "does not fit")
    refused(path, legacy(one, ["0"], [(4, bytes(16) + b"more")]), "4 bytes follow")
    refused(path, legacy(one, ["0"], [(-4, bytes(16))]), "not -4")
    two_types = hostile.pickle(storage(), storage(kind="torch.HalfStorage"), b"\x86")
    refused(path, legacy(two_types, ["0"], [(4, bytes(16))]), "in two ways")


def test_booleans_other_than_0_and_1(tmp_path: Path) -> None:
    """Code compiled for booleans may do anything with others."""
    pickled = hostile.pickle(tensor(storage(kind="torch.BoolStorage")))
    path = tmp_path / "a.pt"
    path.write_bytes(archive(pickled, {"0": b"\0\1\1\0"}))
    assert read_checkpoint(path).content.tolist() == [False, True, True, False]
    refused(path, archive(pickled, {"0": b"\0\1\2\0"}), "booleans")
    as_bytes = storage(kind="torch.ByteStorage") + b"0" + tensor(storage(kind="torch.BoolStorage"))
    refused(path, archive(hostile.pickle(as_bytes), {"0": b"\0\1\2\0"}), "booleans")
    typed = call(
        name("torch._utils._rebuild_tensor_v3"), storage(kind="torch.ByteStorage"), integer(0),
        items(integer(4)), items(integer(1)), b"\x89", b"}", name("torch.bool"),
    )  # fmt: skip
    refused(path, archive(hostile.pickle(typed), {"0": b"\0\1\2\0"}), "cannot have")


def zip_parts(content: bytes) -> tuple[int, int]:
    """Where the directory of an archive begins, and where its last part does."""
    last = len(content) - 22
    return struct.unpack_from("<I", content, last + 16)[0], last


def test_archives_made_to_confuse(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    pickled = hostile.pickle(tensor(storage()))
    good = archive(pickled, {"0": bytes(16)})
    path.write_bytes(good)
    read_checkpoint(path)
    directory, last = zip_parts(good)

    def changed(where: int, layout: str, *values: int) -> bytes:
        edited = bytearray(good)
        struct.pack_into(layout, edited, where, *values)
        return bytes(edited)

    bomb = archive(pickled, {"0": bytes(2**20)}, compression=zipfile.ZIP_DEFLATED)
    refused(path, bomb, "compressed")
    refused(path, changed(last + 10, "<H", 3), "directory is damaged|several files")
    refused(path, changed(last + 8, "<HH", 3, 3), "directory is damaged")
    refused(path, changed(last + 16, "<I", directory + 1), "directory is damaged")
    refused(path, changed(directory + 8, "<H", 1), "encrypted")
    refused(path, changed(directory + 24, "<I", 2**30), "different sizes")
    refused(path, changed(directory + 20, "<II", 2**30, 2**30), "reaches beyond")
    refused(path, changed(directory + 20, "<II", 2**32 - 1, 2**32 - 1), "reaches beyond")
    refused(
        path, changed(directory + 42, "<I", 2**31), "directory is damaged: Truncated file header"
    )
    refused(path, changed(directory + 42, "<I", 1), "directory is damaged: Bad magic number")
    refused(path, changed(30, "<B", ord("b")), "directory is damaged: File name .* differ")
    refused(path, changed(directory + 16, "<I", 1), "checksum")
    refused(path, good + b"more", "truncated")
    refused(path, good[:-1], "truncated")
    # The second entry's data reach into the directory, the first's into the second entry.
    first = struct.unpack_from("<I", good, directory + 24)[0]
    refused(path, changed(directory + 20, "<II", first + 20, first + 20), "(?i)overlap")
    for wrong in ("/archive/data.pkl", "archive/../data.pkl", "..\\data.pkl"):
        other = archive(pickled).replace(b"archive/data.pkl", wrong.encode()[:16].ljust(16, b"/"))
        refused(path, other, "is no name|differ|no data.pkl")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as target:
        target.writestr("archive/data.pkl", pickled)
        target.writestr("archive/data.pkl", hostile.pickle(b"N"))
    refused(path, path.read_bytes(), "two entries of the archive")
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/data.pkl", pickled)
        target.writestr("b/data.pkl", hostile.pickle(b"N"))
    refused(path, path.read_bytes(), "not one of torch.save")


def test_bytes_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    refused(path, hostile.pickle(b"N") + b"more", "4 bytes follow")
    refused(path, archive(hostile.pickle(b"N") + hostile.pickle(call_system())), "bytes follow")


def test_truncated_and_flipped_files(tmp_path: Path) -> None:
    """Whatever is cut off is noticed, and every flipped bit that a checksum covers."""
    path = tmp_path / "a.pt"
    for modern in (True, False):
        torch.save({"a": torch.randn(40)}, path, _use_new_zipfile_serialization=modern)
        content = path.read_bytes()
        for length in range(1, len(content), 7):
            path.write_bytes(content[:length])
            with pytest.raises(ValueError, match=r"a\.pt"):
                read_checkpoint(path)
    path.write_bytes(pickle.dumps({"a": [1, 2], "b": torch.randn(40)}))
    content = path.read_bytes()
    for length in range(1, len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"a\.pt"):
            read_checkpoint(path)

    torch.save({"a": torch.randn(40)}, path)
    content = path.read_bytes()
    for entry in ("a/data/0", "a/data.pkl"):
        with zipfile.ZipFile(path) as source:
            inside = content.index(source.read(entry))
        for position in range(inside, inside + 100, 9):
            flipped = bytearray(content)
            flipped[position] ^= 1 << position % 8
            refused(tmp_path / "flipped.pt", bytes(flipped), "checksum")
