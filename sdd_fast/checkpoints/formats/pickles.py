"""A pickle → an inert description of what it asks for: nothing is imported, called or hashed.

Python's own unpickler decodes the operations. Its C version, and `torch.load(weights_only=True)`,
cannot be had instead: they hash what a file chooses (a tuple of itself twice, 70 times, takes for
ever), call `append`, `__setstate__` and so on of whatever object is there, and allocate by numbers
that stand in the file. Here every operation that does more than push a value only notes it.

The work is bounded whatever the file says: so many operations, so many containers, arguments never
larger than the file.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...files import library_text
from .bounds import Budget
from .plain import Global, Refused, shown

LONGEST_TEXT = 16 * 2**20  # bytes; the source code inside NVIDIA's pickles has some 40 KiB
LARGE = 4096  # bytes from here on stay where they are: a memoryview instead of a copy

LOAD_NESTED = "torch.storage._load_from_bytes"
COMPUTED = "<computed name>"  # of a global: what some call would give
TENSOR_DATA = "<tensor data>"  # which only the surrounding file can resolve

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # since Python 2

# What is done with the result of a call.
STATE, APPEND, SET, ADD = "given as a state to", "appended to", "set in", "added to"


@dataclass(slots=True)
class Call:
    """The call of a function or class, and what is done with its result.

    Args:
        function: its full name, also that of a dict or set; `TENSOR_DATA` has its identifier as
            arguments.
        arguments: a tuple, in a sane pickle.
        changes: how (`STATE` and so on) and which items.
    """

    function: str
    arguments: Any
    changes: list[tuple[str, Any]] = field(default_factory=list)


class _Reader:
    """What the standard unpickler reads from: `data` from `position` on."""

    def __init__(self, data: memoryview, position: int) -> None:
        self.data = data
        self.position = position

    def read(self, length: int) -> bytes | memoryview:
        start, end = self.position, self.position + length
        if end > len(self.data):
            raise ValueError(f"{length} bytes are announced, {len(self.data) - start} are left")
        self.position = end
        raw = self.data[start:end]
        return raw if length >= LARGE else bytes(raw)

    def readline(self) -> bytes:
        length = 128
        while True:  # a memoryview cannot be searched: copy ever longer pieces
            piece = bytes(self.data[self.position : self.position + length])
            end = piece.find(b"\n") + 1
            if end:
                self.position += end
                return piece[:end]
            if len(piece) < length or length > LONGEST_TEXT:
                raise ValueError("a line of text does not end")
            length *= 2


class Unpickler(pickle._Unpickler):
    """A reader of what one pickle asks for.

    Args:
        data: the bytes it is in.
        start: where it begins; after `load`, `position` is where it ends.
        budget: what it may cost.
        allow: is given the full name of each global, and may raise `Refused`.
        nested: is given the arguments by which a file of torch's inside the pickle is loaded.

    Attributes:
        tensor_data: identifiers of the tensor data that it refers to, as often as it does.
    """

    memo: dict[int, Any]
    stack: list[Any]
    metastack: list[list[Any]]
    pop_mark: Callable[[], list[Any]]

    def __init__(
        self,
        data: memoryview,
        start: int,
        budget: Budget,
        allow: Callable[[str], None],
        nested: Callable[[Any], None] = lambda _: None,
    ) -> None:
        self._reader = _Reader(data, start)
        super().__init__(self._reader)  # type: ignore[arg-type]  # of memoryviews, not only bytes
        self._budget = budget
        self._allow = allow
        self._nested = nested
        self._globals: dict[str, Global] = {}
        self.tensor_data: list[tuple[Any, ...]] = []

    @property
    def position(self) -> int:
        return self._reader.position

    def load(self) -> Any:
        """Return the description of the object.

        Raises:
            ValueError: the pickle is damaged, too costly, or `allow` refuses it.
        """
        self.read, self.readline = self._reader.read, self._reader.readline
        self.metastack = []
        self.stack = []
        self.append = self.stack.append
        try:
            self._execute()
        except Refused:
            raise
        except IndexError:
            raise self._damaged("an operation lacks its operands") from None
        except (ValueError, pickle.UnpicklingError, struct.error) as error:
            raise self._damaged(library_text(error)) from error
        if len(self.stack) != 1 or self.metastack:
            found = "several objects" if self.stack or self.metastack else "none"
            raise self._damaged(f"it ends with {found} instead of one")
        self.memo.clear()
        return self.stack.pop()

    def _execute(self) -> None:
        reader, data, charge = self._reader, self._reader.data, self._budget.charge
        while True:
            self._start = reader.position
            charge(1)
            if self._start == len(data):
                raise ValueError("the data end before the pickle does")
            code = data[self._start]
            reader.position += 1
            if code == pickle.STOP[0]:
                return
            if code not in _DISPATCH:
                raise ValueError(f"operation {bytes([code])!r} is not one that checkpoints use")
            if code in _CONTAINERS:
                self._budget.container()
            _DISPATCH[code](self)

    def _damaged(self, problem: str) -> Refused:
        return Refused(f"the pickle is damaged at byte {self._start}: {problem}")

    def find_class(self, module: str, name: str) -> Any:
        return self._global(full_name(module, name))

    def _global(self, name: str) -> Global:
        self._allow(name)
        return self._globals.setdefault(name, Global(name))

    def load_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(module) is str and type(name) is str:
            self.append(self.find_class(module, name))
        else:
            self.append(self._global(COMPUTED))

    def persistent_load(self, pid: Any) -> Any:
        if type(pid) is not tuple:
            raise ValueError("it refers to data outside of the pickle that are not tensor data")
        self.tensor_data.append(pid)
        return Call(TENSOR_DATA, pid)

    def load_reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(function) is not Global:
            kind = function.function if type(function) is Call else type(function).__name__
            raise ValueError(f"an object of type {shown(kind)} is called like a function")
        if function.type == LOAD_NESTED:
            self._nested(arguments)
        self.append(Call(function.type, arguments))

    def load_newobj_ex(self) -> None:
        keywords = self.stack.pop()
        if keywords != Call("builtins.dict", ()):
            raise ValueError("an object is made with keyword arguments")
        self.load_reduce()

    def _instantiate(self, klass: Any, args: list[Any]) -> None:
        self.stack += [klass, tuple(args)]
        self.load_reduce()

    def load_build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is not Call:
            raise ValueError(f"an object of type {type(target).__name__} is given a state")
        target.changes.append((STATE, [state]))

    def _change(self, how: str, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is Call:
            target.changes.append((how, items))
        elif type(target) is list and how == APPEND:
            target.extend(items)
        else:
            raise ValueError(f"items are {how} an object of type {type(target).__name__}")

    def load_append(self) -> None:
        self._change(APPEND, [self.stack.pop()])

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._change(SET, [key, value])

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(Call("builtins.dict", (), [(SET, items)]))

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        self.append(Call("builtins.frozenset", (items,)))

    def load_put(self) -> None:
        index = int(self.readline())
        if not 0 <= index < 2**32:  # beyond 61 bits, different numbers have one hash
            raise ValueError("it numbers an object as no pickler does")
        self.memo[index] = self.stack[-1]

    def load_frame(self) -> None:
        (length,) = struct.unpack("<Q", self.read(8))
        if length > len(self._reader.data) - self.position:
            raise ValueError(f"a frame of {length} bytes is longer than the file")

    def _decode_string(self, value: bytes | memoryview) -> str | bytes:
        """Python 2 did not tell text from bytes."""
        raw = bytes(value[: LONGEST_TEXT + 1])
        return self._text(raw) if raw.isascii() or len(raw) > LONGEST_TEXT else raw

    def _text(self, raw: bytes | memoryview) -> str:
        if len(raw) > LONGEST_TEXT:
            raise ValueError(f"a text of {len(raw)} bytes; at most {LONGEST_TEXT} are accepted")
        return str(raw, "utf-8")  # strictly: half characters can be neither printed nor saved

    def load_unicode(self) -> None:
        self.append(self._text(str(self.readline()[:-1], "raw-unicode-escape").encode()))

    def _load_text(self, length: str) -> None:
        (size,) = struct.unpack(length, self.read(struct.calcsize(length)))
        self.append(self._text(self.read(size)))


def full_name(module: str, name: str) -> str:
    """Join both by today's module name, so that it tells apart what Python would tell apart."""
    if "." in name:  # an attribute of something in the module
        return f"{_RENAMED.get(module, module)}:{name}"
    return f"{_RENAMED.get(module, module)}.{name}"


# Without the extension registry, identifiers as text and buffers from elsewhere.
_REFUSED = b"P\x82\x83\x84\x97\x98"
_CONTAINERS = b"t\x85\x86\x87]l}d\x8f\x91R\x81\x92io"

_DISPATCH: dict[int, Callable[[Any], None]] = {
    **{code: load for code, load in pickle._Unpickler.dispatch.items() if code not in _REFUSED},
    **{
        code[0]: load
        for code, load in [
            (pickle.FRAME, Unpickler.load_frame),
            (pickle.UNICODE, Unpickler.load_unicode),
            (pickle.BINUNICODE, lambda self: self._load_text("<I")),
            (pickle.SHORT_BINUNICODE, lambda self: self._load_text("<B")),
            (pickle.BINUNICODE8, lambda self: self._load_text("<Q")),
            (pickle.BYTEARRAY8, pickle._Unpickler.dispatch[pickle.BINBYTES8[0]]),
            (pickle.EMPTY_DICT, lambda self: self.append(Call("builtins.dict", ()))),
            (pickle.EMPTY_SET, lambda self: self.append(Call("builtins.set", ()))),
            (pickle.DICT, Unpickler.load_dict),
            (pickle.FROZENSET, Unpickler.load_frozenset),
            (pickle.PUT, Unpickler.load_put),
            (pickle.STACK_GLOBAL, Unpickler.load_stack_global),
            (pickle.REDUCE, Unpickler.load_reduce),
            (pickle.NEWOBJ, Unpickler.load_reduce),
            (pickle.NEWOBJ_EX, Unpickler.load_newobj_ex),
            (pickle.BUILD, Unpickler.load_build),
            (pickle.APPEND, Unpickler.load_append),
            (pickle.APPENDS, lambda self: self._change(APPEND, self.pop_mark())),
            (pickle.SETITEM, Unpickler.load_setitem),
            (pickle.SETITEMS, lambda self: self._change(SET, self.pop_mark())),
            (pickle.ADDITEMS, lambda self: self._change(ADD, self.pop_mark())),
        ]
    },
}
