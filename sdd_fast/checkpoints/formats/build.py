"""What a pickle asks for → plain data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import tensors
from .allowed import ALLOWED
from .bounds import Budget
from .pickles import ADD, APPEND, LOAD_NESTED, SET, STATE, TENSOR_DATA, Call
from .plain import DEEPEST, Global, PickledObject, shown

_SCALARS = frozenset((type(None), bool, float, str, bytes, memoryview))
_LONGEST_INTEGER = 1024  # bits; states of random generators have 128
_DEEPEST_CALLS = 250  # a network inside a network: a call, its arguments, two dicts


class Builder:
    """A builder of what the pickles of one file describe.

    Args:
        budget: what it may cost.
        storage_of: identifier of tensor data → the storage; None where there are none.
        nested: raw bytes of a file of torch's → the storage in it; None where none is expected.
    """

    def __init__(
        self,
        budget: Budget,
        storage_of: Callable[[tuple[Any, ...]], tensors.Storage] | None = None,
        nested: Callable[[memoryview, Budget], tensors.Storage] | None = None,
    ) -> None:
        self._budget = budget
        self._storage_of = storage_of
        self._nested = nested
        self._nested_storages: dict[int, tensors.Storage] = {}
        self._built: dict[int, Any] = {}
        self._open: set[int] = set()

    def build(self, value: Any) -> Any:
        """Build what `value`, a description, describes.

        Raises:
            ValueError: it is not what it should be, or costs too much.
        """
        kind = type(value)
        if kind in _SCALARS:
            return value
        if kind is int:
            if value.bit_length() > _LONGEST_INTEGER:
                raise ValueError(
                    f"it holds an integer of {value.bit_length()} bits; at most "
                    f"{_LONGEST_INTEGER} are accepted"
                )
            return value
        if kind is Global:
            return tensors.DTYPES.get(value.type, value)
        identity = id(value)
        if identity not in self._built:
            if identity in self._open:
                raise ValueError("it holds a container that contains itself")
            if len(self._open) > _DEEPEST_CALLS:
                raise ValueError(f"its containers are nested more than {DEEPEST} deep")
            self._open.add(identity)
            self._built[identity] = self._build(value, kind)
            self._open.discard(identity)
        return self._built[identity]

    def _build(self, value: Any, kind: type) -> Any:
        if kind is not Call:  # a list or a tuple
            return kind(map(self.build, value))
        made = self._made(value)
        for how, items in value.changes:
            if how == STATE:
                made = self._with_state(made, self.build(items[0]))
            elif how == APPEND and type(made) is list:
                made.extend(map(self.build, items))
            elif how == ADD and type(made) is set:
                made.update(self._budget.key(self.build(item)) for item in items)
            elif how == SET and type(made) is dict:
                if len(items) % 2:
                    raise ValueError("a dict has a key without a value")
                for i in range(0, len(items), 2):
                    made[self._budget.key(self.build(items[i]))] = self.build(items[i + 1])
            else:
                raise ValueError(f"items are {how} an object of type {type(made).__name__}")
        return made

    def _made(self, call: Call) -> Any:
        """Build what the call itself gives."""
        if call.function == TENSOR_DATA:
            if self._storage_of is None:
                raise ValueError("it refers to data outside of the pickle")
            return self._storage_of(call.arguments)
        builder, name = ALLOWED[call.function], shown(call.function)
        if builder is None:
            raise ValueError(f"{name} is called, which is not expected")
        arguments = self.build(call.arguments)
        if type(arguments) is not tuple:
            raise ValueError(f"{name} has arguments that are not a tuple")
        if call.function == LOAD_NESTED:
            arguments = tuple(map(self._nested_storage, arguments))
        try:
            return builder(self._budget, *arguments)
        except TypeError as error:  # as for any Python function
            raise ValueError(f"{name} is called with other arguments than expected") from error

    def _with_state(self, value: Any, state: Any) -> Any:
        if isinstance(value, np.dtype):
            return tensors.ordered_type(value, state)
        if type(value) is np.ndarray:
            return tensors.array_of_state(self._budget, state)
        if type(value) is PickledObject:
            for part in state if type(state) is tuple else (state,):
                if part is not None and not (
                    type(part) is dict and all(type(name) is str for name in part)
                ):
                    raise ValueError("the state of an object is not a dict of attributes")
                self._budget.charge(len(part or ()))
                value.state.update(part or {})
        elif type(value) is not dict or type(state) is not dict:
            raise ValueError(f"an object of type {type(value).__name__} is given a state")
        return value  # attributes of an OrderedDict are dropped

    def _nested_storage(self, raw: Any) -> tensors.Storage:
        """Read what torch wrote into `raw`, a file of its own."""
        if self._nested is None or not isinstance(raw, bytes | memoryview):
            raise ValueError("a tensor's data are not where they are expected")
        if id(raw) not in self._nested_storages:  # else a few bytes could ask for them many times
            self._nested_storages[id(raw)] = self._nested(memoryview(raw), self._budget)
        return self._nested_storages[id(raw)]
