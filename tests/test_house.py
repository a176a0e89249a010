"""The structure: no circles of imports, no file of two ideas."""

from __future__ import annotations

import ast
import pkgutil
import re
from pathlib import Path

import sdd_fast

PACKAGE = Path(sdd_fast.__file__).parent
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages([str(PACKAGE)], "sdd_fast.")
    if module.name != "sdd_fast._C"
)


def _file(module: str) -> Path:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _imports(module: str) -> set[str]:
    """The modules of the package that this one takes from, anywhere in its file."""
    path = _file(module)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, node.module or ""]).strip(".") if node.level else node.module
            names = {f"{base}.{alias.name}" for alias in node.names}
            # `from . import x` of a module x takes nothing from the package itself.
            found |= names if names <= set(MODULES) else names | {str(base)}
    return {name for name in found if name in MODULES} - {module}


def _circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected modules (Tarjan), of which there should be none."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            members = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(members) > 1:
                circles.append(sorted(members))

    for name in graph:
        if name not in order:
            visit(name)
    return circles


def test_circles_are_found() -> None:
    assert _circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [["b", "c"]]


def test_no_circle_of_imports() -> None:
    """Imports inside functions and for types count as well."""
    graph = {module: _imports(module) for module in MODULES}
    assert any(graph.values())
    assert _circles(graph) == []


def test_files_are_of_one_idea() -> None:
    """At most 400 lines a file; at most 80 lines and 15 parameters a function."""
    large = []
    for module in MODULES:
        text = _file(module).read_text(encoding="utf-8")
        if text.count("\n") > 400:
            large.append(module)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                lines = (node.end_lineno or 0) - node.body[0].lineno + 1
                parameters = len(node.args.args) + len(node.args.kwonlyargs)
                if lines > 80 or parameters > 15:
                    large.append(f"{module}.{node.name}")
    assert large == []


# What is filled in after an article here never begins with a vowel.
_AFTER_ARTICLES = {
    ("hub/download.py", "kind"),
    ("checkpoints/inspect.py", "kind"),
    ("domains/fashion32/captions.py", "adjective"),
    ("export/torchscript.py", "'folder' if path.is_dir() else 'file that does not exist'"),
}


def _after_articles(text: str) -> set[str]:
    """What f-strings fill in after "a" or "an", which may then be the wrong one of the two."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.JoinedStr):
            for before, value in zip(node.values, node.values[1:], strict=False):
                if (
                    isinstance(before, ast.Constant)
                    and re.search(r"\ban? ['\"“]?$", str(before.value))
                    and isinstance(value, ast.FormattedValue)
                ):
                    found.add(ast.unparse(value.value))
    return found


def test_no_article_stands_before_a_name_that_is_filled_in() -> None:
    assert _after_articles("f'got a {kind} of ' f'an {other}, alpha {x}'") == {"kind", "other"}
    found = {
        (str(path.relative_to(PACKAGE)), value)
        for path in PACKAGE.rglob("*.py")
        for value in _after_articles(path.read_text(encoding="utf-8"))
    }
    assert found == _AFTER_ARTICLES
