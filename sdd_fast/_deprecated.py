"""Public names of earlier versions, which work for one more version with a DeprecationWarning."""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C")

MODULES = {
    "sdd_fast.edit": ("sdd_fast.editing.editor",),
    "sdd_fast.experiment": (
        "sdd_fast.runs.run", "sdd_fast.selection.choose", "sdd_fast.selection.in_domain",
    ),
    "sdd_fast.monitor": (
        "sdd_fast.distillation.monitor", "sdd_fast.distillation.judge", "sdd_fast.report.wording",
    ),
}  # fmt: skip
"""Module of an earlier version → the modules that hold its names now."""


def warn(message: str, stacklevel: int = 3) -> None:
    warnings.warn(message, DeprecationWarning, stacklevel=stacklevel)


def renamed_arguments(**new_names: str) -> Callable[[F], F]:
    """Let a function take arguments by their earlier names: `@renamed_arguments(old="new")`."""

    def decorate(function: F) -> F:
        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in new_names.keys() & kwargs.keys():
                new = new_names[old]
                if new in kwargs:
                    raise TypeError(f"{function.__qualname__}: {old} is the earlier name of {new}")
                warn(f"{function.__qualname__}: {old} is now called {new}")
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate


def renamed_fields(**new_names: str) -> Callable[[type[C]], type[C]]:
    """Let a dataclass take and show fields by their earlier names: `@renamed_fields(old="new")`.

    `dataclasses.replace` gives every field by its present name; an earlier one beside it wins.
    """

    def decorate(cls: type[C]) -> type[C]:
        init: Any = cls.__init__

        @functools.wraps(init)
        def renaming_init(self: C, *args: Any, **kwargs: Any) -> None:
            for old in new_names.keys() & kwargs.keys():
                warn(f"{cls.__name__}: {old} is now called {new_names[old]}")
                kwargs[new_names[old]] = kwargs.pop(old)
            init(self, *args, **kwargs)

        cls.__init__ = renaming_init  # type: ignore[assignment]
        for old, new in new_names.items():
            setattr(cls, old, _earlier(cls.__name__, old, new))
        return cls

    return decorate


def _earlier(owner: str, old: str, new: str) -> property:
    def read(self: Any) -> Any:
        warn(f"{owner}.{old} is now called {new}")
        return getattr(self, new)

    return property(read)


def moved(module: str, **new_modules: str) -> Callable[[str], Any]:
    """Return a module's `__getattr__` for names that lie in another module now."""

    def getattribute(name: str) -> Any:
        if name not in new_modules:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        warn(f"{module}.{name} is now {new_modules[name]}.{name}")
        return getattr(importlib.import_module(new_modules[name]), name)

    return getattribute


class _Finder:
    """Imports the modules of `MODULES`. Without `importlib.abc`, which is slow to import."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        found = name in MODULES
        return importlib.machinery.ModuleSpec(name, self) if found else None  # type: ignore[arg-type]

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        """Leave making the module to Python."""

    def exec_module(self, module: types.ModuleType) -> None:
        now = MODULES[module.__name__]
        warn(f"{module.__name__} is now {' and '.join(now)}", stacklevel=2)
        for name in now:
            found = vars(importlib.import_module(name))
            vars(module).update({k: v for k, v in found.items() if not k.startswith("_")})


def install() -> None:
    """Make the earlier modules importable."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
