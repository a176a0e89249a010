"""Files that would run code, or exhaust the machine: each is refused, and leaves no trace."""

from __future__ import annotations

import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import hostile
from checkpoints.hostile import (
    archive,
    call,
    call_system,
    data,
    integer,
    items,
    legacy,
    name,
    stack_name,
    storage,
    tensor,
    text,
)

from sdd_fast.checkpoints.read import PickledObject, read_checkpoint, scan

_events: list[str] = []
_CALLS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "ctypes.dlopen")
sys.addaudithook(lambda event, _: _events.append(event) if event in _CALLS else None)


@pytest.fixture(autouse=True)
def nothing_is_executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdicts: dict[str, str]
) -> Iterator[None]:
    """Fails if the command that the files contain was run, or any other in this process."""
    monkeypatch.chdir(tmp_path)
    modules = set(sys.modules)
    _events.clear()
    yield
    assert not (tmp_path / "executed").exists()
    assert _events == []
    assert not {"webbrowser", "models", "numpy.testing._private.utils"} & (
        set(sys.modules) - modules
    )


def refused(path: Path, content: bytes, message: str = r"a\.p") -> str:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)
    return str(error.value)


FORBIDDEN = [
    "os.system",
    "posix.system",
    "nt.system",
    "subprocess.Popen",
    "builtins.eval",
    "builtins.exec",
    "builtins.getattr",
    "builtins.__import__",
    "builtins.compile",
    "builtins.open",
    "builtins.print",
    "builtins.map",
    "builtins.type",
    "__builtin__.eval",
    "importlib.import_module",
    "operator.attrgetter",
    "operator.methodcaller",
    "functools.partial",
    "types.CodeType",
    "types.FunctionType",
    "copyreg.__newobj__",
    "copyreg.add_extension",
    "pickle.loads",
    "_pickle.loads",
    "torch.load",
    "torch.hub.load",
    "torch.jit.load",
    "torch.serialization.load",
    "torch._utils._rebuild_qtensor",
    "torch._utils._rebuild_sparse_tensor",
    "torch.nn.Module",
    "torch.storage.os",
    "numpy.testing._private.utils.runstring",
    "numpy.load",
    "numpy.core.multiarray.fromfile",
    "ctypes.CDLL",
    "webbrowser.open",
    "models.stylegan.Generator",
    "sdd_fast.files.write_text",
    "sdd_fast.checkpoints.allowed._tensor",
]


@pytest.mark.parametrize("function", FORBIDDEN)
def test_names_that_are_not_allowed(tmp_path: Path, function: str) -> None:
    path = tmp_path / "a.pt"
    called = call(name(function), text(hostile.SYSTEM))
    module, _, attribute = function.rpartition(".")
    known = function.replace("__builtin__", "builtins")
    for pickled in (
        hostile.pickle(called),
        hostile.pickle(name(function)),
        hostile.pickle(stack_name(module, attribute), items(text("x")), b"R"),
        hostile.pickle(b"(" + text("x") + f"i{module}\n{attribute}\n".encode()),  # INST
        hostile.pickle(b"(" + name(function) + text("x") + b"o"),  # OBJ
        hostile.pickle(name(function), b")\x81"),  # NEWOBJ
        hostile.pickle(name(function), b")}\x92"),  # NEWOBJ_EX
        hostile.pickle(b"]", called, b"0"),  # called, then forgotten
    ):
        for content in (pickled, archive(pickled), legacy(pickled, [], [])):
            assert known in refused(path, content, "neither a tensor nor plain data")
            found = scan(path)
            assert found.refused == (known,) and known in found.globals


def test_the_error_says_what_to_do(tmp_path: Path) -> None:
    message = refused(tmp_path / "a.pt", hostile.pickle(call_system()))
    assert "refers to os.system" in message
    assert "Nothing in the file was executed" in message and "state_dict" in message


def test_escape_sequences_in_names_are_not_printed(tmp_path: Path) -> None:
    message = refused(tmp_path / "a.pt", hostile.pickle(name("os.\x1b[2Jsystem")))
    assert "\x1b" not in message and "\\x1b[2J" in message
    assert "\x1b" not in "".join(scan(tmp_path / "a.pt").refused)


@pytest.mark.parametrize("inner", ["_network", "_tensors", "_nothing"])
def test_a_call_deep_inside_of_what_is_allowed(tmp_path: Path, inner: str) -> None:
    evil = call_system()
    wrapped = {
        "_network": call(
            name("torch_utils.persistence._reconstruct_persistent_obj"),
            b"}("
            + text("class_name")
            + text("G")
            + text("state")
            + b"}"
            + text("x")
            + evil
            + b"su",
        ),
        "_tensors": tensor(evil),
        "_nothing": call(name("collections.OrderedDict"), b"](" + items(text("a"), evil) + b"e"),
    }[inner]
    for content in (hostile.pickle(wrapped), archive(hostile.pickle(wrapped))):
        refused(tmp_path / "a.pt", content, r"os\.system")
        assert scan(tmp_path / "a.pt").refused == ("os.system",)


def test_a_name_put_together_on_the_stack(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    through_memo = (
        text("system") + b"q\x05" + b"0" + text("os") + b"r\xff\xff\xff\x7f" + b"0"
        b"j\xff\xff\xff\x7f" + b"h\x05" + b"\x93" + items(text("x")) + b"R"
    )  # fmt: skip
    refused(path, hostile.pickle(through_memo), r"os\.system")
    assert scan(path).refused == ("os.system",)
    duplicated = text("os") + b"2" + b"0" + text("system") + b"\x93"
    refused(path, hostile.pickle(duplicated), r"os\.system")
    # The name is what a call gives.
    computed = text("os") + call(name("_codecs.encode"), text("system"), text("latin1")) + b"\x93"
    refused(path, hostile.pickle(computed), "name of a global is not a text")
    assert scan(path).refused == ("<computed name>",)
    # Protocol 4 looks for dotted names inside of a module.
    refused(path, hostile.pickle(stack_name("torch", "storage._load_from_bytes")), "torch:storage")
    refused(path, hostile.pickle(stack_name("torch.storage", "os.system")), "os.system")


def test_files_inside_of_pickles_are_held_to_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    load = name("torch.storage._load_from_bytes")
    evil = hostile.pickle(call_system())
    refused(path, hostile.pickle(call(load, data(evil))), "not in the form that torch writes")
    assert "<unknown data inside of the pickle>" in scan(path).refused
    refused(path, hostile.pickle(call(load, data(legacy(evil, [], [])))), r"os\.system")
    assert scan(path).refused == ("os.system",)
    for _ in range(3):
        evil = hostile.pickle(call(load, data(legacy(evil, [], []))))
    refused(path, evil, "not where they are expected")
    assert scan(path).refused == ("<unknown data inside of the pickle>",)
    refused(path, hostile.pickle(call(load, data(legacy(b"\x80\x02K\1.", [], [])))), "than numbers")


@pytest.mark.parametrize(
    "code", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"P1\n", b"\x97", b"\x98"]
)
def test_operations_that_no_checkpoint_uses(tmp_path: Path, code: bytes) -> None:
    """The extension registry, persistent identifiers as text, buffers from elsewhere."""
    refused(tmp_path / "a.pt", hostile.pickle(b"N", code), "is not one that checkpoints use")


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


STATES = {
    "__setstate__": b"}" + text("__setstate__") + name("builtins.list") + b"s",
    "__class__": b"}" + text("__class__") + name("builtins.dict") + b"s",
    "__dict__": b"}" + text("__dict__") + b"}s",
    "slots": items(b"N", b"}" + text("__class__") + name("builtins.dict") + b"s"),
}


@pytest.mark.parametrize("state", STATES)
def test_states_set_entries_and_no_attributes(tmp_path: Path, state: str) -> None:
    namespace = name("argparse.Namespace") + b")\x81" + STATES[state] + b"b"
    path = tmp_path / "a.pkl"
    path.write_bytes(hostile.pickle(namespace))
    content = read_checkpoint(path).content
    assert type(content) is PickledObject and content.type == "argparse.Namespace"
    assert list(content.state) == [state if state != "slots" else "__class__"]

    for target in (name("builtins.list"), b"]", b")", b"K\1", text("a"), b"\x8f"):
        refused(path, hostile.pickle(target, STATES[state], b"b"), "is given a state")
    refused(path, hostile.pickle(name("torch.float32"), STATES[state], b"b"), "is given a state")
    array = call(
        name("numpy.core.multiarray._reconstruct"),
        name("numpy.ndarray"),
        items(integer(0)),
        data(b"b"),
    )
    refused(path, hostile.pickle(array, STATES[state], b"b"), "state of a numpy array")
    refused(path, archive(hostile.pickle(tensor(storage()), STATES[state], b"b"), {"0": bytes(16)}))
    # Attributes of an OrderedDict are dropped.
    path.write_bytes(hostile.pickle(call(name("collections.OrderedDict")), b"}b"))
    assert read_checkpoint(path).content == {}


@pytest.mark.parametrize(
    "function", [b"N", text("os.system"), b"]", b"}", call(name("builtins.list")), storage()]
)
def test_only_names_can_be_called(tmp_path: Path, function: bytes) -> None:
    for how in (b")R", b")\x81", b")}\x92"):
        refused(
            tmp_path / "a.pt", archive(hostile.pickle(function, how), {"0": bytes(16)}), "called"
        )


def test_names_that_only_stand_for_themselves_cannot_be_called(tmp_path: Path) -> None:
    for full in ("builtins.int", "builtins.object", "torch.FloatStorage", "numpy.ndarray"):
        refused(tmp_path / "a.pt", hostile.pickle(call(name(full), integer(5))), "not expected")
    refused(tmp_path / "a.pt", hostile.pickle(name("builtins.list"), b"]R"), "not a tuple")


@pytest.mark.parametrize(
    "arguments",
    [
        ("builtins.list", integer(2**40)),
        ("builtins.bytes", integer(2**40)),
        ("builtins.bytearray", integer(2**40)),
        ("builtins.tuple", text("abc")),
        ("builtins.complex", text("1")),
        ("builtins.dict", items(integer(1))),
        ("torch.Size", items(text("a"))),
        ("torch.Size", items(integer(2**70))),
        ("torch.device", items()),
        ("pathlib.PosixPath", b"]"),
        ("_codecs.encode", text("a"), text("rot13")),
        ("_codecs.encode", text("\u0101")),
        ("collections.defaultdict", name("_codecs.encode")),
        ("copyreg._reconstructor", name("builtins.list"), name("builtins.object"), b"N"),
        ("copyreg._reconstructor", b"NNN"),
        ("numpy.dtype", text("O8")),
        ("numpy.dtype", text("V8")),
        ("numpy.dtype", name("builtins.object")),
        ("numpy.core.multiarray._reconstruct", name("builtins.list")),
        ("numpy.core.multiarray.scalar", text("f8"), data(bytes(8))),
        ("torch._utils._rebuild_parameter", b"]", b"\x89", b"}"),
        ("torch._utils._rebuild_tensor_v2", b"]", integer(0), b"))"),
        ("torch_utils.persistence._reconstruct_persistent_obj", b"}"),
        ("torch_utils.persistence._reconstruct_persistent_obj", b"]"),
    ],
    ids=str,
)
def test_arguments_that_are_not_as_expected(tmp_path: Path, arguments: tuple) -> None:
    function, *rest = arguments
    refused(tmp_path / "a.pt", hostile.pickle(call(name(function), *rest)))


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
        ("b1", items(integer(8)), data(b"\x02" * 8), "truth values"),
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


def test_truth_values_other_than_0_and_1(tmp_path: Path) -> None:
    """Code compiled for truth values may do anything with others."""
    pickled = hostile.pickle(tensor(storage(kind="torch.BoolStorage")))
    path = tmp_path / "a.pt"
    path.write_bytes(archive(pickled, {"0": b"\0\1\1\0"}))
    assert read_checkpoint(path).content.tolist() == [False, True, True, False]
    refused(path, archive(pickled, {"0": b"\0\1\2\0"}), "truth values")
    as_bytes = storage(kind="torch.ByteStorage") + b"0" + tensor(storage(kind="torch.BoolStorage"))
    refused(path, archive(hostile.pickle(as_bytes), {"0": b"\0\1\2\0"}), "truth values")
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
    refused(path, changed(directory + 20, "<II", 2**32 - 1, 2**32 - 1), "size is missing")
    refused(path, changed(directory + 42, "<I", 2**31), "lies beyond")
    refused(path, changed(directory + 42, "<I", 1), "contradicts")
    refused(path, changed(30, "<B", ord("b")), "contradicts")
    refused(path, changed(directory + 16, "<I", 1), "checksum")
    refused(path, good + b"more", "truncated")
    refused(path, good[:-1], "truncated")
    # The second entry's data reach into the directory, the first's into the second entry.
    first = struct.unpack_from("<I", good, directory + 24)[0]
    refused(path, changed(directory + 20, "<II", first + 20, first + 20), "overlaps")
    for wrong in ("/archive/data.pkl", "archive/../data.pkl", "..\\data.pkl"):
        other = archive(pickled).replace(b"archive/data.pkl", wrong.encode()[:16].ljust(16, b"/"))
        refused(path, other, "is called|contradicts|no data.pkl")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as target:
        target.writestr("archive/data.pkl", pickled)
        target.writestr("archive/data.pkl", hostile.pickle(b"N"))
    refused(path, path.read_bytes(), "two entries")
    with zipfile.ZipFile(path, "w") as target:
        target.writestr("a/data.pkl", pickled)
        target.writestr("b/data.pkl", hostile.pickle(b"N"))
    refused(path, path.read_bytes(), "not one of torch.save")


def test_bytes_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    refused(path, hostile.pickle(b"N") + b"more", "4 bytes follow")
    refused(path, archive(hostile.pickle(b"N") + hostile.pickle(call_system())), "bytes follow")


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (b"", "lacks its operand"),
        (b"NN", "several objects"),
        (b"(N", "lacks its operand|several objects"),
        (b"t", "lacks the mark"),
        (b"a", "lacks its operand"),
        (b"]0a", "lacks its operand"),
        (b"](R", "lacks its operand"),
        (b"h\x07", "did not store"),
        (b"}(Nu", "without a value"),
        (b"K\x01K\x02a", "appended to a int"),
        (b"](K\x01e(K\x01\x90", "added to a list"),
        (b"]NNs", "set in a list"),
        (b"X\xff\xff\xff\xffabc", "4294967295 bytes are announced"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff", "bytes are announced"),
        (b"T\xff\xff\xff\xffabc", "negative length"),
        (b"\x8b\xff\xff\xff\x7f", "bytes are announced"),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\xff", "longer than the file"),
        (b"I99x\n", "not an integer"),
        (b"L" + b"9" * 5000 + b"L\n", "not an integer"),
        (b"Fpi\n", "could not convert"),
        (b"Sabc\n", "not a quoted text"),
        (b"V\\ud800", "does not end"),
        (b"X\2\0\0\0\xff\xff", "decode"),
        (b"\x80\x09N", "protocol 9"),
        (b"\x8a\xff" + bytes(255), "at most 128"),
        (b"}]Ns", "list as key"),
        (b"}((Nt(NttNs", "tuple as key"),
        (b"\x8f(}\x90", "dict as key"),
        (b"(]\x91", "list as key"),
        (b"}" + integer(2**61) + b"Ns", "61 bits"),
        (b"]2a", "contains itself"),
        (b"}q\x00N" + b"h\x00s", "contains itself"),
        (b"]q\x00h\x00\x85a", "contains itself"),
    ],
)
def test_pickles_that_make_no_sense(tmp_path: Path, operations: bytes, message: str) -> None:
    refused(tmp_path / "a.pt", hostile.pickle(operations), message)


EXHAUSTING = {
    "a tuple of itself twice, 70 times": (b")" + b"2\x86" * 70, "nested|more than"),
    "a list of one list a thousand times, 9 times": (
        b"]" + b"".join(b"q\x000](" + b"h\x00" * 1000 + b"e" for _ in range(9)),
        "more than 2,000,000 items",
    ),
    "nested 400,000 deep": (b")" + b"\x85" * 400_000, "nested more than 100 deep"),
    "lists nested 400,000 deep": (b"]" * 400_000 + b"a" * 399_999, "nested more than 100 deep"),
    "marks without end": (
        b"(" * 1_200_000 + b"1" * 1_200_000 + b"N",
        "more than 2,000,000 operations",
    ),
    "operations without end": (b"N0" * 1_200_000 + b"N", "more than 2,000,000 operations"),
    "sets without end": (b"](" + b"\x8f" * 600_000 + b"e", "more than 500,000 containers"),
    "copies of a list": (
        b"](" + b"N" * 100_000 + b"eq\x000" + b"](" + call(name("builtins.list"), b"h\x00") * 100
        + b"e",
        "more than 2,000,000 operations",
    ),
    "copies of a text": (
        text("x" * 2**20)
        + b"q\x000]("
        + call(name("_codecs.encode"), b"h\x00") * 2000
        + b"e",
        "more copies of its bytes",
    ),
    "a text shared by many": (
        text("x" * 2**20) + b"q\x000](" + b"h\x00" * 1000 + b"e", "more than 2,000,000 items",
    ),
    "keys of one hash": (
        b"}(" + b"".join(items(integer(i), b"N") + b"N" for i in range(20_000)) + b"u",
        "more than 10,000 tuples",
    ),
    "a key that takes for ever to hash": (b"}" + b")" + b"2\x86" * 70 + b"Ns", "tuple as key"),
    "a far memo": (b"N" + b"r\xff\xff\xff\xff" * 2 + b"h\x01", "did not store"),
    "tensors without end": (
        b"](" + storage() + b"q\x000" + (
            name("torch._utils._rebuild_tensor") + b"q\x010"
            + items(b"h\x00", integer(0), items(integer(4)), items(integer(1))) + b"q\x020"
        ) + b"h\x01h\x02R" * 150_000 + b"e",
        "more than 100,000 tensors",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What a process of bounded memory and time has to say to all of these files."""
    folder = tmp_path_factory.mktemp("exhausting")
    for number, (operations, _) in enumerate(EXHAUSTING.values()):
        content = archive(hostile.pickle(operations), {"0": bytes(16)})
        (folder / f"{number}.pt").write_bytes(content)
    child = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(folder), str(len(EXHAUSTING))],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return dict(zip(EXHAUSTING, child.stdout.splitlines(), strict=True))


_READ_ALL = """
import resource, sys
from sdd_fast.checkpoints.read import read_checkpoint, scan

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
for number in range(int(sys.argv[2])):
    path = f"{sys.argv[1]}/{number}.pt"
    try:
        read_checkpoint(path)
        problem = "read"
    except ValueError as error:
        problem = str(error)
    try:
        scan(path)
    except ValueError:
        pass
    print(problem, f"+{peak() - before} MiB")
"""


@pytest.mark.parametrize("trick", EXHAUSTING)
def test_memory_and_time_are_bounded(verdicts: dict[str, str], trick: str) -> None:
    problem, _, growth = verdicts[trick].rpartition("+")
    assert re.search(EXHAUSTING[trick][1], problem), problem
    assert int(growth.removesuffix(" MiB")) < 400


def test_a_tensorflow_pickle_says_how_to_convert_it(tmp_path: Path) -> None:
    network = (
        name("dnnlib.tflib.network.Network") + b")\x81}" + text("version") + integer(4) + b"sb"
    )
    path = tmp_path / "stylegan2-ffhq-config-f.pkl"
    message = refused(path, hostile.pickle(network, network, network, b"\x87"), "TensorFlow pickle")
    assert "legacy.py --source" in message and "convert_weight.py" in message
    assert scan(path).refused == ("dnnlib.tflib.network.Network",)


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
