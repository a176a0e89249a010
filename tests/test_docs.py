"""What the documentation imports and names exists; `make docs-check` runs it, which takes long."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "generated" not in page.parts]  # by `make docs`, perhaps now

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def exists(name: str) -> bool:
    """Whether "sdd_fast.a.b" is a module, or something within one."""
    module, _, inner = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        return bool(module) and exists(module) and _has(module, inner)
    return True


def _has(module: str, name: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), name)
    except ModuleNotFoundError:  # a class within a module
        parent, _, inner = module.rpartition(".")
        return hasattr(getattr(importlib.import_module(parent), inner), name)


def imported(code: str) -> set[str]:
    """The names below sdd_fast that a block of code imports."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name.split(".")[0] == "sdd_fast"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_imports_and_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    names = set(re.findall(r"`(sdd_fast(?:\.\w+)+)`", text))
    for block in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        names |= imported(block)
    assert [name for name in sorted(names) if not exists(name)] == []


def test_a_name_that_is_gone_is_noticed() -> None:
    assert exists("sdd_fast.editing.editor.Editor.load")
    assert not exists("sdd_fast.animation.sweep") and not exists("sdd_fast.Editor.lode")
    assert imported("import sdd_fast as sdd\nfrom sdd_fast.gone import a, b") == {
        "sdd_fast", "sdd_fast.gone.a", "sdd_fast.gone.b"
    }  # fmt: skip
