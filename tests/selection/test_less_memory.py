"""A selection in which memory runs out goes on with less at once, to the same curve."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sdd_fast.out_of_memory import Sizes
from sdd_fast.selection.choose import Selection
from sdd_fast.selection.hqs import hqs
from sdd_fast.teacher.prior import DiffusionPrior

STEPS = [100, 500, 900]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


def limited(function: Any, most: int, from_call: int = 0) -> Any:
    """What takes no more than `most` images or rows at once, from one of its calls on."""
    calls = 0

    def call(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if len(x) > most and calls > from_call:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return function(x, *args, **kwargs)

    return call


@pytest.mark.parametrize("search", ["exhaustive", "adaptive"])
@pytest.mark.parametrize(
    ("part", "most", "sizes"), [("encode", 2, Sizes(2, 8)), ("unet_output", 12, Sizes(8, 8))]
)
def test_the_curve_is_that_of_smaller_sizes(
    tiny_prior: DiffusionPrior, images: Tensor, monkeypatch: pytest.MonkeyPatch, part: str,
    most: int, sizes: Sizes, search: Any,
) -> None:  # fmt: skip
    wanted = hqs(tiny_prior, images, "old", STEPS, batch_size=sizes, search=search, progress=False)
    monkeypatch.setattr(tiny_prior, part, limited(getattr(tiny_prior, part), most))
    with pytest.warns(UserWarning, match="memory ran out in the selection with 8 images and"):
        found = hqs(tiny_prior, images, "old", STEPS, search=search, progress=False)
    assert torch.equal(found.l1, wanted.l1) and torch.equal(found.deficit, wanted.deficit)


def test_what_was_evaluated_is_kept(
    tiny_prior: DiffusionPrior, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images of the first batches are not encoded again when memory runs out later."""
    sizes = Sizes(2, 8)
    wanted = hqs(tiny_prior, images, "old", STEPS, batch_size=sizes, progress=False)
    encoded: list[int] = []
    counted = limited(tiny_prior.encode, 1, from_call=2)

    def encode(y: Tensor) -> Tensor:
        z = counted(y)
        encoded.append(len(y))
        return z

    monkeypatch.setattr(tiny_prior, "encode", encode)
    found = hqs(tiny_prior, images, "old", STEPS, batch_size=sizes, progress=False)
    assert encoded == [2, 2, 1]
    torch.testing.assert_close(found.l1, wanted.l1, rtol=1e-4, atol=0)
    with pytest.warns(UserWarning, match="it goes on with 1 image"):
        encoded.clear()
        hqs(tiny_prior, images[:4].flip(0), "old", STEPS, batch_size=sizes, progress=False)
    assert encoded == [1, 1, 1, 1]


def test_it_computes_most_of_the_encoder_again_before_it_gives_up(
    tiny_prior: DiffusionPrior, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = hqs(tiny_prior, images, "old", STEPS, progress=False)
    monkeypatch.setattr(tiny_prior, "encode", limited(tiny_prior.encode, 0))
    with pytest.warns(UserWarning, match="1 image and 4 rows .*, the encoder computed again"):
        found = hqs(tiny_prior, images, "old", STEPS, progress=False)
    torch.testing.assert_close(found.deficit, wanted.deficit, rtol=1e-3, atol=0)
    monkeypatch.setattr(tiny_prior.vae_encoder, "encode", limited(tiny_prior.vae_encoder.encode, 0))
    with (
        pytest.warns(UserWarning),
        pytest.raises(MemoryError, match="not even with 1 image and 1 row of"),
    ):
        hqs(tiny_prior, images, "old", STEPS, progress=False)


def test_a_budget(tiny_prior: DiffusionPrior, images: Tensor) -> None:
    with pytest.raises(ValueError, match="the selection takes .* MB at least"):
        hqs(tiny_prior, images, "old", STEPS, memory_budget="1MiB")
    with pytest.raises(ValueError, match="got '22 apples'"):
        hqs(tiny_prior, images, "old", STEPS, memory_budget="22 apples")
    with pytest.raises(ValueError, match="batch_size or memory_budget, not both"):
        hqs(tiny_prior, images, "old", STEPS, memory_budget="1GiB", batch_size=2)
    with pytest.raises(TypeError, match="no argument 'memory_bugdet'"):
        hqs(tiny_prior, images, "old", STEPS, memory_bugdet="1GiB")
    with pytest.raises(ValueError, match="batch_size or memory_budget, not both"):
        Selection(batch_size=2, memory_budget="22GiB")
    with pytest.raises(ValueError, match="memory_budget must be a positive, finite amount"):
        Selection(memory_budget="22 apples")
