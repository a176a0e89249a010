"""Files that would run code: each is refused, and leaves no trace."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoints.formats import hostile
from checkpoints.formats.hostile import *

from sdd_fast.checkpoints.formats.read import scan

_events: list[str] = []
_CALLS = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "ctypes.dlopen")
sys.addaudithook(lambda event, _: _events.append(event) if event in _CALLS else None)


@pytest.fixture(autouse=True)
def nothing_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
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
    "sdd_fast.checkpoints.formats.allowed._tensor",
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


def test_a_tensorflow_pickle_says_how_to_convert_it(tmp_path: Path) -> None:
    network = (
        name("dnnlib.tflib.network.Network") + b")\x81}" + text("version") + integer(4) + b"sb"
    )
    path = tmp_path / "stylegan2-ffhq-config-f.pkl"
    message = refused(path, hostile.pickle(network, network, network, b"\x87"), "TensorFlow pickle")
    assert "legacy.py --source" in message and "convert_weight.py" in message
    assert scan(path).refused == ("dnnlib.tflib.network.Network",)
