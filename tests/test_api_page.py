"""docs/api.md is that of the code, and names everything that is public."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import sdd_fast as sdd

ROOT = Path(__file__).resolve().parent.parent
spec = importlib.util.spec_from_file_location("api_page", ROOT / "tools" / "api_page.py")
assert spec and spec.loader
api_page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(api_page)


def test_the_page_is_that_of_the_code() -> None:
    written = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert written == api_page.page(), "run: python tools/api_page.py"


def test_every_public_name_is_in_one_group() -> None:
    grouped = [name for names in api_page.GROUPS.values() for name in names]
    assert len(grouped) == len(set(grouped))
    assert {*grouped, "ops", "__version__"} == set(sdd.__all__)


def test_every_public_metric_is_listed() -> None:
    public = {
        name
        for name, thing in vars(sdd.metrics).items()
        if callable(thing) and not name.startswith("_")
    }
    assert set(api_page.METRICS) == public
    assert len(api_page.METRICS) == len(public)


class Example:
    """What it is.

    More.
    """

    def method(self, size: int, *, name: str = "x") -> None:
        """Does one thing
        over two lines."""

    @classmethod
    def make(cls, path: str) -> None:
        """Makes one."""

    @property
    def value(self) -> int:
        """A number."""
        return 1

    def _private(self) -> None:
        """Not shown."""


def test_members_are_listed_as_they_are_called() -> None:
    assert api_page.members(Example) == [
        "- `.method(size, *, name='x')`: Does one thing over two lines.",
        "- `.make(path)`: Makes one.",
        "- `.value`: A number.",
    ]


def test_a_public_name_without_docstring_is_refused() -> None:
    with pytest.raises(ValueError, match="has no docstring"):
        api_page.summary(lambda: None)
