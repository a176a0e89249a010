"""Pickles → plain data. Every name in them is looked up in the allow-list, never imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import tensors
from .allowed import ALLOWED, full_name, refuse, shown
from .plain import ArrayType, Global, PickledObject, as_key
from .stack_machine import Budget, StackMachine


class Unpickler(StackMachine):
    """Builds what one pickle describes out of plain data.

    Args:
        data: the bytes it is in.
        start: where it begins.
        budget: what it may cost.
        storage_of: (type of the storage, key, elements, view) → the storage, for the identifiers
            by which torch's files refer to tensor data; None where there are none.
        nested: raw bytes of a file of torch's → the storage in it; None where none is expected.
    """

    def __init__(
        self,
        data: memoryview,
        start: int,
        budget: Budget,
        storage_of: Callable[[tuple[Any, ...]], tensors.Storage] | None = None,
        nested: Callable[[memoryview, Budget], tensors.Storage] | None = None,
    ) -> None:
        super().__init__(data, start, budget)
        self._storage_of = storage_of
        self._nested = nested
        self._nested_storages: dict[int, tuple[Any, tensors.Storage]] = {}

    def find(self, module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str:
            raise self._damaged("the name of a global is not a text")
        known = full_name(module, name)
        if known in tensors.DTYPES:
            return tensors.DTYPES[known]
        if known not in ALLOWED:
            raise refuse(known)
        return Global(known)

    def call(self, function: Any, arguments: Any) -> Any:
        if type(function) is not Global:
            raise self._damaged(f"a {type(function).__name__} is called like a function")
        builder = ALLOWED[function.type]
        if builder is None:
            raise self._damaged(f"{shown(function.type)} is called, which is not expected")
        if type(arguments) is not tuple:
            raise self._damaged(f"{shown(function.type)} has arguments that are not a tuple")
        return builder(self, arguments)

    def load_nested(self, raw: Any) -> tensors.Storage:
        if self._nested is None or not isinstance(raw, bytes | memoryview):
            raise self._damaged("a tensor's data are not where they are expected")
        if id(raw) not in self._nested_storages:  # else a few bytes could ask for them many times
            # raw is kept, so that nothing else gets its id.
            self._nested_storages[id(raw)] = raw, self._nested(memoryview(raw), self.budget)
        return self._nested_storages[id(raw)][1]

    def set_state(self, target: Any, state: Any) -> None:
        kind = type(target)
        if kind is ArrayType:
            tensors.set_array_type_state(target, state)
        elif kind is np.ndarray:
            tensors.set_array_state(target, state, self.budget)
        elif kind is PickledObject:
            for part in state if type(state) is tuple else (state,):
                self._update(target.state, part)
        elif kind is not dict or type(state) is not dict:  # attributes of an OrderedDict: dropped
            raise self._damaged(f"a {kind.__name__} is given a state")

    def _update(self, attributes: dict[str, Any], state: Any) -> None:
        if state is None:
            return
        if type(state) is not dict or not all(type(name) is str for name in state):
            raise self._damaged("the state of an object is not a dict of attributes")
        self.budget.charge(len(state))
        attributes.update(state)

    def persistent(self, identifier: Any) -> Any:
        if self._storage_of is None or type(identifier) is not tuple:
            raise self._damaged("it refers to data outside of the pickle")
        return self._storage_of(identifier)

    def extend(self, target: Any, items: list[Any]) -> None:
        if type(target) is not list:
            raise self._damaged(f"items are appended to a {type(target).__name__}")
        target.extend(items)

    def add(self, target: Any, items: list[Any]) -> None:
        if type(target) is not set:
            raise self._damaged(f"items are added to a {type(target).__name__}")
        target.update(as_key(item, self.budget) for item in items)

    def assign(self, target: Any, items: list[Any]) -> None:
        if type(target) is not dict:
            raise self._damaged(f"entries are set in a {type(target).__name__}")
        for position in range(0, len(items), 2):
            target[as_key(items[position], self.budget)] = items[position + 1]
