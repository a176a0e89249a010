"""Work that runs beside other work: what is read for the next batch, written of the last one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


MOST_THREADS = 16
"""That read, and that write, at once; else as many as torch computes with."""


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int, threads: int
) -> Generator[Result]:
    """Yield what `map(function, items)` does, calling `function` in threads, before it is asked.

    Results and errors come in the order of `map`; `items` are taken in the thread of the caller.
    However it ends, such as by `close()`, no call goes on afterwards: those that have begun are
    waited for, the others never begin.

    Args:
        ahead: calls that are under way, or done and not yet asked for, at most.
        threads: calls that run at once.
    """
    pool = ThreadPoolExecutor(threads, "sdd_fast")
    waiting: deque[Future[Result]] = deque()
    try:
        for future in _submitted(pool, function, items):
            waiting.append(future)
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _submitted(
    pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]
) -> Iterator[Future[Result]]:
    """A call for each item; an error of `items` comes after the results of those before it."""
    try:
        for item in items:
            yield pool.submit(function, item)
    except Exception as error:  # noqa: BLE001 (raised in its turn)
        failed: Future[Result] = Future()
        failed.set_exception(error)
        yield failed
