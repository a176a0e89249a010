"""`map_ahead`: what `map` gives, computed in threads before it is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from sdd_fast.pipeline import map_ahead

SECONDS = 60.0  # that a test waits at most for what must come


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("ahead", [0, 1, 5, 50])
def test_results_come_in_order(ahead: int, threads: int) -> None:
    first = threading.Event()

    def square(value: int) -> int:
        if value == 1:
            first.set()
        if value == 0 and threads > 1 and ahead > 0:
            assert first.wait(SECONDS)  # the second is done before the first
        return value * value

    assert list(map_ahead(square, range(20), ahead, threads)) == [v * v for v in range(20)]
    assert list(map_ahead(square, [], ahead, threads)) == []


def test_the_next_is_computed_before_it_is_asked_for() -> None:
    begun = [threading.Event() for _ in range(5)]
    for value in map_ahead(lambda value: begun[value].set() or value, range(5), 2, 1):
        for later in begun[value : value + 3]:
            assert later.wait(SECONDS)


def test_few_items_are_held() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 100:
            taken += 1
            yield taken

    for given, _ in enumerate(map_ahead(str, items(), 4, 3), 1):
        assert taken <= given + 4


@pytest.mark.parametrize("threads", [1, 4])
def test_errors_come_where_map_raises_them(threads: int) -> None:
    def inverse(value: int) -> float:
        return 1 / value

    def broken() -> Iterator[int]:
        yield from (1, 2)
        raise LookupError("no third")

    got = []
    with pytest.raises(ZeroDivisionError):
        for value in map_ahead(inverse, [1, 2, 0, 4], 10, threads):
            got.append(value)
    assert got == [1, 0.5]
    got.clear()
    with pytest.raises(LookupError, match="no third"):
        for value in map_ahead(inverse, broken(), 10, threads):
            got.append(value)
    assert got == [1, 0.5]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_what_has_begun_is_finished_and_nothing_else(error: type[BaseException]) -> None:
    begun, finished = [], []
    stopping = threading.Event()

    def slow(value: int) -> int:
        begun.append(value)
        if value:
            assert stopping.wait(SECONDS)
        finished.append(value)
        return value

    with pytest.raises(error):
        with closing(map_ahead(slow, range(100), 10, 2)) as results:
            assert next(results) == 0
            while len(begun) < 3:
                pass
            stopping.set()
            raise error
    assert sorted(begun) == sorted(finished) and len(begun) < 100
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sdd_fast")]
