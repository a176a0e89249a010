"""Options in groups: a command takes dataclasses, each field of which is an option."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def flattened(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command one parameter for each field of the dataclasses that it takes.

    Typer makes options of parameters. What it passes is put together again for the call.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {}
    flat: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = hints[parameter.name]
        if is_dataclass(kind):
            groups[parameter.name] = kind
            inner = get_type_hints(kind, include_extras=True)
            flat += [_parameter(f.name, f.default, inner[f.name]) for f in fields(kind)]
        else:
            flat.append(_parameter(parameter.name, parameter.default, kind))

    @functools.wraps(function)
    def call(**values: Any) -> None:
        built = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        function(**values, **built)

    call.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return call


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def typed(*groups: Any) -> dict[str, Any]:
    """The options of groups that differ from their defaults, as `options.command_line` takes them.

    `restart` is left out: who gives a command again wants to go on.
    """
    return {
        field.name: getattr(group, field.name)
        for group in groups
        for field in fields(group)
        if field.name != "restart" and getattr(group, field.name) != field.default
    }
