"""The stack machine that a pickle is a program for, without the one thing that makes it dangerous.

Python's own machine looks up any global that the program names and calls it. This one hands names,
calls and states to methods that a subclass defines, so what can happen is what is written there.
It is written out instead of derived from `pickle.Unpickler` because that one also sets attributes,
calls `__setstate__`, `append` and `extend` of whatever object it has, and allocates its memo by
the largest index in the file.

The work is bounded whatever the file says: so many operations, so many containers, arguments never
larger than the file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .opcodes import read_operation


class Budget:
    """What one file may cost, the pickles inside of it included.

    Args:
        file_bytes: length of the file.
    """

    # Some 20 operations and 5 containers for each tensor: far beyond any known checkpoint.
    OPERATIONS = 2_000_000
    CONTAINERS = 500_000
    TENSORS = 100_000
    # Their hashes are not randomised: a file could choose keys that make a dict slow.
    NUMBER_KEYS = 100_000
    TUPLE_KEYS = 10_000  # all of which could have one hash

    def __init__(self, file_bytes: int) -> None:
        # An array of numbers is copied from text to bytes and from there to its place.
        self.most_copied = 3 * file_bytes + 64 * 2**20
        self.operations = 0
        self.containers = 0
        self.tensors = 0
        self.copied = 0
        self.number_keys = 0
        self.tuple_keys = 0

    def charge(self, items: int) -> None:
        """Count what an operation does beyond its own size in the file, such as a copied list."""
        self.operations += items
        if self.operations > self.OPERATIONS:
            raise _too_much(f"takes more than {self.OPERATIONS:,} operations to read")

    def charge_bytes(self, copied: int) -> None:
        self.copied += copied
        if self.copied > self.most_copied:
            raise _too_much("asks for more copies of its bytes than there can be reason for")

    def container(self) -> None:
        self.containers += 1
        if self.containers > self.CONTAINERS:
            raise _too_much(f"holds more than {self.CONTAINERS:,} containers")

    def tensor(self) -> None:
        self.tensors += 1
        if self.tensors > self.TENSORS:
            raise _too_much(f"holds more than {self.TENSORS:,} tensors")

    def key(self, value: Any) -> None:
        """Count a key of a dict or a member of a set."""
        self.number_keys += type(value) in (int, float)
        self.tuple_keys += type(value) is tuple
        if self.number_keys > self.NUMBER_KEYS:
            raise _too_much(f"has more than {self.NUMBER_KEYS:,} numbers as keys")
        if self.tuple_keys > self.TUPLE_KEYS:
            raise _too_much(f"has more than {self.TUPLE_KEYS:,} tuples as keys")


def _too_much(problem: str) -> ValueError:
    return ValueError(f"it {problem}, far beyond any known checkpoint")


class StackMachine:
    """Runs one pickle.

    Args:
        data: the bytes it is in.
        start: where it begins; after `run`, `position` is where it ends.
        budget: what it may cost.
    """

    def __init__(self, data: memoryview, start: int, budget: Budget) -> None:
        self.data = data
        self.position = start
        self.budget = budget
        self.stack: list[Any] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, Any] = {}

    def find(self, module: Any, name: Any) -> Any:
        """What stands for the global `module.name`; in a sane pickle, both are texts."""
        raise NotImplementedError

    def call(self, function: Any, arguments: Any) -> Any:
        """The object that calling `function`, one of `find`'s results, is meant to give."""
        raise NotImplementedError

    def set_state(self, target: Any, state: Any) -> None:
        raise NotImplementedError

    def persistent(self, identifier: Any) -> Any:
        """What an identifier refers to that only the surrounding file can resolve."""
        raise NotImplementedError

    def extend(self, target: Any, items: list[Any]) -> None:
        """Append `items` to the list `target`."""
        raise NotImplementedError

    def add(self, target: Any, items: list[Any]) -> None:
        """Add `items` to the set `target`."""
        raise NotImplementedError

    def assign(self, target: Any, items: list[Any]) -> None:
        """Set entries of the dict `target`; `items` are keys and values in turn."""
        raise NotImplementedError

    def run(self) -> Any:
        """The object that the pickle describes.

        Raises:
            ValueError: the pickle is damaged, too costly or refused by one of the methods above.
        """
        while True:
            start = self.position
            self.budget.charge(1)
            try:
                name, argument, self.position = read_operation(self.data, start)
            except ValueError as error:
                raise ValueError(f"the pickle is damaged at byte {start}: {error}") from error
            if name == "STOP":
                break
            _EXECUTE[name](self, argument)
        result = self._pop()
        if self.stack or self.marks:
            raise self._damaged("it ends with several objects instead of one")
        self.memo.clear()
        return result

    def _damaged(self, problem: str) -> ValueError:
        return ValueError(f"the pickle is damaged before byte {self.position}: {problem}")

    def _pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise self._damaged("an operation lacks its operand")
        return self.stack.pop()

    def _pop_many(self, count: int) -> tuple[Any, ...]:
        items = [self._pop() for _ in range(count)]
        return tuple(reversed(items))

    def _pop_to_mark(self) -> list[Any]:
        if not self.marks:
            raise self._damaged("an operation lacks the mark where its operands begin")
        height = self.marks.pop()
        items = self.stack[height:]
        del self.stack[height:]
        return items

    def _top(self) -> Any:
        top = self._pop()
        self.stack.append(top)
        return top

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _push_container(self, value: Any) -> None:
        self.budget.container()
        self.stack.append(value)

    def _proto(self, version: int) -> None:
        if version > 5:
            raise self._damaged(f"protocol {version} is unknown")

    def _frame(self, length: int) -> None:
        if length > len(self.data) - self.position:
            raise self._damaged(f"a frame of {length} bytes is longer than the file")

    def _pop_item(self, _: None) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self._pop()

    def _pop_mark(self, _: None) -> None:
        self._pop_to_mark()

    def _list(self, _: None) -> None:
        self._push_container(self._pop_to_mark())

    def _dict(self, _: None) -> None:
        items = self._pop_to_mark()
        self._push_container({})
        self._assign_items(items)

    def _set_items(self, _: None) -> None:
        self._assign_items(self._pop_to_mark())

    def _set_item(self, _: None) -> None:
        self._assign_items(list(self._pop_many(2)))

    def _assign_items(self, items: list[Any]) -> None:
        if len(items) % 2:
            raise self._damaged("a dict has a key without a value")
        self.assign(self._top(), items)

    def _append(self, _: None) -> None:
        items = [self._pop()]
        self.extend(self._top(), items)

    def _appends(self, _: None) -> None:
        items = self._pop_to_mark()
        self.extend(self._top(), items)

    def _add_items(self, _: None) -> None:
        items = self._pop_to_mark()
        self.add(self._top(), items)

    def _frozenset(self, _: None) -> None:
        items = self._pop_to_mark()
        members: set[Any] = set()
        self.add(members, items)
        self._push_container(frozenset(members))

    def _put(self, index: int) -> None:
        if not 0 <= index < 2**32:  # beyond 61 bits, different numbers have one hash
            raise self._damaged("it numbers an object as no pickler does")
        self.memo[index] = self._top()

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self._top()

    def _get(self, index: int) -> None:
        if index not in self.memo:
            raise self._damaged(f"it refers to object {index}, which it did not store")
        self.stack.append(self.memo[index])

    def _global(self, names: tuple[str, str]) -> None:
        self.stack.append(self.find(*names))

    def _stack_global(self, _: None) -> None:
        self.stack.append(self.find(*self._pop_many(2)))

    def _call(self, function: Any, arguments: Any) -> None:
        self._push_container(self.call(function, arguments))

    def _reduce(self, _: None) -> None:
        self._call(*self._pop_many(2))

    def _newobj_ex(self, _: None) -> None:
        kind, arguments, keywords = self._pop_many(3)
        if type(keywords) is not dict or keywords:
            raise self._damaged("an object is made with keyword arguments")
        self._call(kind, arguments)

    def _inst(self, names: tuple[str, str]) -> None:
        arguments = tuple(self._pop_to_mark())
        self._call(self.find(*names), arguments)

    def _obj(self, _: None) -> None:
        items = self._pop_to_mark()
        if not items:
            raise self._damaged("an operation lacks its operand")
        self._call(items[0], tuple(items[1:]))

    def _build(self, _: None) -> None:
        state = self._pop()
        self.set_state(self._top(), state)

    def _binpersid(self, _: None) -> None:
        self.stack.append(self.persistent(self._pop()))


_EXECUTE: dict[str, Callable[[StackMachine, Any], None]] = {
    "PROTO": StackMachine._proto,
    "FRAME": StackMachine._frame,
    "PUSH": StackMachine._push,
    "NONE": StackMachine._push,
    "NEWTRUE": lambda machine, _: machine._push(True),
    "NEWFALSE": lambda machine, _: machine._push(False),
    "EMPTY_TUPLE": lambda machine, _: machine._push(()),
    "TUPLE": lambda machine, _: machine._push_container(tuple(machine._pop_to_mark())),
    "TUPLE1": lambda machine, _: machine._push_container(machine._pop_many(1)),
    "TUPLE2": lambda machine, _: machine._push_container(machine._pop_many(2)),
    "TUPLE3": lambda machine, _: machine._push_container(machine._pop_many(3)),
    "EMPTY_LIST": lambda machine, _: machine._push_container([]),
    "LIST": StackMachine._list,
    "APPEND": StackMachine._append,
    "APPENDS": StackMachine._appends,
    "EMPTY_DICT": lambda machine, _: machine._push_container({}),
    "DICT": StackMachine._dict,
    "SETITEM": StackMachine._set_item,
    "SETITEMS": StackMachine._set_items,
    "EMPTY_SET": lambda machine, _: machine._push_container(set()),
    "ADDITEMS": StackMachine._add_items,
    "FROZENSET": StackMachine._frozenset,
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "POP": StackMachine._pop_item,
    "POP_MARK": StackMachine._pop_mark,
    "DUP": lambda machine, _: machine._push(machine._top()),
    "PUT": StackMachine._put,
    "MEMOIZE": StackMachine._memoize,
    "GET": StackMachine._get,
    "GLOBAL": StackMachine._global,
    "STACK_GLOBAL": StackMachine._stack_global,
    "REDUCE": StackMachine._reduce,
    "BUILD": StackMachine._build,
    "NEWOBJ": StackMachine._reduce,
    "NEWOBJ_EX": StackMachine._newobj_ex,
    "INST": StackMachine._inst,
    "OBJ": StackMachine._obj,
    "BINPERSID": StackMachine._binpersid,
}
