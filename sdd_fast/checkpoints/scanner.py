"""Which names a pickle refers to, and which tensor data: found by following it, building nothing.

Reading the names off the operations alone would miss those that are put together on the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .allowed import full_name
from .plain import Global
from .stack_machine import Budget, StackMachine


class _Unknown:
    """What a call would have given."""


_UNKNOWN = _Unknown()


class Scanner(StackMachine):
    """Follows one pickle, whatever it refers to.

    Args:
        data: the bytes it is in.
        start: where it begins.
        budget: what it may cost.
        names: the full names found are added to it as keys, also where the pickle turns out to be
            damaged later on.
        nested: is given the raw bytes of each file of torch's inside the pickle.

    Attributes:
        identifiers: of tensor data in the surrounding file.
    """

    def __init__(
        self,
        data: memoryview,
        start: int,
        budget: Budget,
        names: dict[str, None] | None = None,
        nested: Callable[[memoryview], None] | None = None,
    ) -> None:
        super().__init__(data, start, budget)
        self._nested = nested
        self._names = {} if names is None else names
        self.identifiers: list[tuple[Any, ...]] = []

    def find(self, module: Any, name: Any) -> Any:
        if type(module) is str and type(name) is str:
            known = full_name(module, name)
        else:
            known = "<computed name>"  # what some call would give
        self._names[known] = None
        return Global(known)

    def call(self, function: Any, arguments: Any) -> Any:
        is_nested = type(function) is Global and function.type == "torch.storage._load_from_bytes"
        if is_nested and self._nested and type(arguments) is tuple:
            for raw in arguments:
                if isinstance(raw, bytes | memoryview):
                    self._nested(memoryview(raw))
        return _UNKNOWN

    def set_state(self, target: Any, state: Any) -> None:
        pass

    def persistent(self, identifier: Any) -> Any:
        if type(identifier) is tuple:
            self.identifiers.append(identifier)
        return _UNKNOWN

    def extend(self, target: Any, items: list[Any]) -> None:
        pass

    def add(self, target: Any, items: list[Any]) -> None:
        pass

    def assign(self, target: Any, items: list[Any]) -> None:
        pass
