"""Memory of large results, which is kept for the next one: csrc/common/kept_memory.cpp."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
import torch

from sdd_fast.ops import bias_act
from sdd_fast.ops._register import NATIVE

LARGE = 1 << 23  # numbers of float32: 32 MiB, the least that is kept
HUGE_PAGE = 1 << 21

pytestmark = pytest.mark.skipif(
    NATIVE.path is None or NATIVE.path.name.startswith("_emulation.") or sys.platform != "linux",
    reason="needs the native kernels of the CPU, on Linux",
)


def result(value: float, numbers: int = LARGE) -> torch.Tensor:
    """`value`, in memory of the kernels."""
    return bias_act(torch.full((1, numbers), value - 1), torch.ones(numbers), act="relu", gain=1.0)


def mapped_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_the_next_result_of_the_same_size_takes_its_place() -> None:
    first = result(2.0)
    place = first.data_ptr()
    assert place % HUGE_PAGE == 0 and first.device == torch.device("cpu")
    del first
    second = result(3.0)
    assert second.data_ptr() == place
    assert bool((second == 3).all())


def test_what_is_in_use_is_not_given_away() -> None:
    first = result(2.0)
    view = first[:, 5:]
    place = first.data_ptr()
    del first
    second = result(3.0)
    assert second.data_ptr() != place
    assert bool((view == 2).all()) and bool((second == 3).all())


def test_another_size_takes_other_memory() -> None:
    first = result(2.0)
    place = first.data_ptr()
    del first
    other = result(3.0, LARGE + HUGE_PAGE)
    assert other.data_ptr() != place and bool((other == 3).all())


def test_no_more_than_a_gibibyte_is_kept() -> None:
    sizes = [4 * LARGE + i * HUGE_PAGE for i in range(11)]  # 1.7 GiB
    x = torch.ones(1, sizes[-1])
    many = [bias_act(x[:, :size], act="relu", gain=2.0) for size in sizes]
    before = mapped_bytes()
    many.clear()
    kept = sum(sizes) * 4 - (before - mapped_bytes())
    assert 0 < kept <= 1 << 30
    assert bool((result(3.0) == 3).all())


def test_a_result_above_the_limit_is_not_kept() -> None:
    numbers = (1 << 28) + 8  # a little more than 1 GiB
    y = bias_act(torch.ones(1, 1).expand(1, numbers), act="relu", gain=1.0)
    before = mapped_bytes()
    del y
    assert before - mapped_bytes() >= numbers * 4


def test_threads_take_and_give_at_once() -> None:
    wrong: list[float] = []

    def work(value: float) -> None:
        for _ in range(6):
            y = result(value)
            if not bool((y == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(v),)) for v in range(2, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_tensors_can_do_what_others_can(tmp_path: Path) -> None:
    y = result(2.0)
    torch.save(y[:, :4].clone(), tmp_path / "y.pt")
    assert torch.load(tmp_path / "y.pt").tolist() == [[2.0] * 4]
    shared = y.clone().share_memory_()
    assert shared.is_shared() and bool((shared == 2).all())
    assert y.share_memory_().is_shared() and bool((y == 2).all())
    z = result(2.0)
    assert float(z.resize_(1, 8).sum()) == 16.0
    z = result(2.0)
    z.set_(torch.ones(3))
    assert z.tolist() == [1.0, 1.0, 1.0]
    assert bool((result(5.0).numpy() == 5).all())


def test_a_child_process_goes_on() -> None:
    """After a fork the child computes by itself, whatever the parent was doing."""
    kept = result(2.0)
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        y = result(3.0)
        os._exit(0 if bool((y == 3).all()) and bool((kept == 2).all()) else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
