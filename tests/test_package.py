"""`import sdd_fast`: public names arrive when they are used, and no name hides a module."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import sdd_fast


def test_importing_the_package_imports_no_torch() -> None:
    code = (
        "import sys, sdd_fast\nprint('torch' in sys.modules)\n"
        "sdd_fast.load_image\nprint('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_every_public_name_is_there_and_is_listed() -> None:
    for name in sdd_fast.__all__:
        assert getattr(sdd_fast, name) is not None
    assert set(sdd_fast.__all__) <= set(dir(sdd_fast))


def test_submodules_are_attributes_and_misspelled_names_are_not() -> None:
    assert sdd_fast.selection is importlib.import_module("sdd_fast.selection")
    with pytest.raises(AttributeError, match="no attribute 'load_imgae'"):
        _ = sdd_fast.load_imgae
    assert not hasattr(sdd_fast, "_nothing")


def test_type_checkers_are_told_the_names_that_users_get() -> None:
    tree = ast.parse(Path(sdd_fast.__file__).read_text(encoding="utf-8"))
    told = {
        ("" if node.module is None else f".{node.module}", alias.name)
        for block in tree.body
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.unparse(block.test)
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    given = {(module, name) for name, module in sdd_fast._MODULE_OF.items()}
    assert told == given | {("", "ops")}
    assert set(sdd_fast.__all__) == set(sdd_fast._MODULE_OF) | {"ops", "__version__"}


def test_no_name_hides_a_module() -> None:
    """`import sdd_fast.x as m` gives a module for every x, whatever was used before."""
    for name in sdd_fast.__all__:
        getattr(sdd_fast, name)
    for found in pkgutil.walk_packages(sdd_fast.__path__, "sdd_fast."):
        if found.name.endswith(("__main__", "._C")):  # a program, a library of operators
            continue
        module = importlib.import_module(found.name)
        package, _, last = found.name.rpartition(".")
        if package == "sdd_fast.ops":  # an operator and its file have one name
            continue
        assert getattr(sys.modules[package], last) is module, found.name
