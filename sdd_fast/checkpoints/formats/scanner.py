"""Which names a pickle refers to, and which tensor data: found by following it, building nothing.

Reading the names off the operations alone would miss those that are put together on the stack.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .allowed import bytes_made, full_name
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
        nested: is given the raw bytes of each file of torch's inside the pickle, None where they
            are not simply there.

    Attributes:
        identifiers: of tensor data in the surrounding file.
    """

    def __init__(
        self,
        data: memoryview,
        start: int,
        budget: Budget,
        names: dict[str, None] | None = None,
        nested: Callable[[memoryview | None], None] | None = None,
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
        name = function.type if type(function) is Global else ""
        if name == "torch.storage._load_from_bytes" and self._nested:
            for raw in arguments if type(arguments) is tuple else (None,):
                is_data = isinstance(raw, bytes | memoryview)
                self._nested(memoryview(raw) if is_data else None)
        # Protocols 0 to 2 have no bytes, hence the files inside of them are made by a call.
        made = bytes_made(name, arguments, self.budget)
        return _UNKNOWN if made is None else made

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
