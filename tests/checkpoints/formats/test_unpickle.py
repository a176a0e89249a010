"""Pickles that make no sense, or ask for more than the machine has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from checkpoints.formats import hostile
from checkpoints.formats.hostile import *

from sdd_fast.checkpoints.formats.read import PickledObject, read_checkpoint


@pytest.mark.parametrize(
    "code", [b"\x82\x01", b"\x83\x01\x00", b"\x84\x01\x00\x00\x00", b"P1\n", b"\x97", b"\x98"]
)
def test_operations_that_no_checkpoint_uses(tmp_path: Path, code: bytes) -> None:
    """The extension registry, persistent identifiers as text, buffers from elsewhere."""
    refused(tmp_path / "a.pt", hostile.pickle(b"N", code), "is not one that checkpoints use")


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


@pytest.mark.parametrize(
    ("operations", "message"),
    [
        (b"", "ends with none instead of one"),
        (b"NN", "several objects"),
        (b"(N", "lacks its operand|several objects"),
        (b"t", "lacks its operands"),
        (b"a", "lacks its operand"),
        (b"]0a", "lacks its operand"),
        (b"](R", "lacks its operand"),
        (b"h\x07", "not found at index 7"),
        (b"}(Nu", "without a value"),
        (b"K\x01K\x02a", "appended to an object of type int"),
        (b"](K\x01e(K\x01\x90", "added to an object of type list"),
        (b"]NNs", "set in an object of type list"),
        (b"X\xff\xff\xff\xffabc", "4294967295 bytes are announced"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f", "bytes are announced"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff", "exceeds system's maximum size"),
        (b"T\xff\xff\xff\xffabc", "negative byte count"),
        (b"\x8b\xff\xff\xff\x7f", "bytes are announced"),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\xff", "longer than the file"),
        (b"I99x\n", "invalid literal for int"),
        (b"L" + b"9" * 5000 + b"L\n", "limit .4300 digits"),
        (b"Fpi\n", "could not convert"),
        (b"Sabc\n", "must be quoted"),
        (b"V\\ud800", "does not end"),
        (b"X\2\0\0\0\xff\xff", "decode"),
        (b"\x80\x09N", "protocol: 9"),
        (b"\x8a\xff" + b"\x01" * 255, "2033 bits; at most 1024"),
        (b"}]Ns", "key of type list"),
        (b"}((Nt(NttNs", "key of type tuple"),
        (b"\x8f(}\x90", "key of type dict"),
        (b"(]\x91", "key of type list"),
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
    "nested 100,000 deep": (b")" + b"\x85" * 100_000, "nested more than 100 deep"),
    "lists nested 100,000 deep": (b"]" * 100_000 + b"a" * 99_999, "nested more than 100 deep"),
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
    "a key that takes for ever to hash": (b"}" + b")" + b"2\x86" * 70 + b"Ns", "key of type tuple"),
    "a far memo": (b"N" + b"r\xff\xff\xff\xff" * 2 + b"h\x01", "not found at index 1"),
    "tensors without end": (
        b"](" + storage() + b"q\x000" + (
            name("torch._utils._rebuild_tensor") + b"q\x010"
            + items(b"h\x00", integer(0), items(integer(4)), items(integer(1))) + b"q\x020"
        ) + b"h\x01h\x02R" * 100_001 + b"e",
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
        [sys.executable, "-c", _READ_ALL, str(folder), *map(str, _SCANNED)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert child.returncode == 0, child.stderr
    return dict(zip(EXHAUSTING, child.stdout.splitlines(), strict=True))


# What one unpickler refuses to read, it refuses to scan: those that take longest, once.
_SCANNED = [not name.startswith(("marks", "sets", "lists nested")) for name in EXHAUSTING]
_READ_ALL = """
import resource, sys
from sdd_fast.checkpoints.formats.read import read_checkpoint, scan

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

before = peak()
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
for number, scanned in enumerate(sys.argv[2:]):
    path = f"{sys.argv[1]}/{number}.pt"
    try:
        read_checkpoint(path)
        problem = "read"
    except ValueError as error:
        problem = str(error)
    try:
        if scanned == "True":
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


@pytest.mark.parametrize("operation", [b"I%s\n", b"L%sL\n", b"Np%s\n", b"Ng%s\n"])
def test_integers_beyond_what_python_parses(tmp_path: Path, operation: bytes) -> None:
    """Python would advise to lift its limit, and lets keys be as many digits as a file has."""
    damaged = hostile.pickle(operation % (b"9" * 5000))
    message = refused(tmp_path / "a.pkl", damaged, "pickle is damaged at byte")
    assert "set_int_max_str_digits" not in message and len(message) < 600


def test_messages_do_not_repeat_the_file(tmp_path: Path) -> None:
    key = text("k" * 100_000)
    for made in (name("os." + "s" * 100_000), b"I" + b"x" * 100_000 + b"\n",
                 b"}" + integer(2**70) + key + b"s", call(key, key)):  # fmt: skip
        assert len(refused(tmp_path / "a.pkl", hostile.pickle(made))) < 1500
