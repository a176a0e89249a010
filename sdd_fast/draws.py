"""Seeded generators, noise and choices: everything random in the package is drawn here.

Nothing touches the global state of torch, numpy or Python, which other threads may draw from, but
`guidance`, `DiffusionPrior.sample` and `StyleGAN2.synthesis` where they are asked for noise and
given no generator, as torch's own functions do. Every other draw is made on the CPU, so that it
does not depend on the device.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .checks import check_seed

_DRAWING = frozenset(
    {
        "bernoulli", "bernoulli_", "kaiming_normal_", "kaiming_uniform_", "multinomial", "normal",
        "normal_", "orthogonal_", "rand", "randint", "randn", "randperm", "trunc_normal_",
        "uniform_", "xavier_normal_", "xavier_uniform_",
    }
)  # fmt: skip


def generator(seed: int) -> torch.Generator:
    """Return torch's generator of a seed in 0 … 2⁶⁴ − 1.

    Raises:
        ValueError: another seed.
    """
    return torch.Generator().manual_seed(check_seed(seed))


def stream(seed: int, purpose: str) -> torch.Generator:
    """Return the generator of one purpose, such as "step 12", unrelated to those of others.

    Torch's CPU generator uses 32 bits of its seed; hashing keeps the streams of neighboring seeds
    and steps unrelated.
    """
    digest = hashlib.blake2b(f"{seed} {purpose}".encode(), digest_size=4).digest()
    return generator(int.from_bytes(digest, "little"))


def noise(shape: Sequence[int], *numbers: int) -> Tensor:
    """Return standard normal noise, a function of `numbers` ≥ 0 alone, such as (seed, index).

    SeedSequence mixes the numbers, so that neighboring ones give unrelated noise.
    """
    mixed = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    return torch.randn(tuple(shape), generator=generator(int(mixed[0])))


def choices(seed: int) -> random.Random:
    """Return Python's generator of a seed, for choices among words."""
    return random.Random(check_seed(seed))


@contextmanager
def private(seed: int = 0) -> Iterator[None]:
    """Within it, whatever this thread draws without a generator comes from that of `seed`.

    For networks whose constructors draw their weights: they get the same ones as after
    `torch.manual_seed(seed)`, on the CPU, whatever other threads draw meanwhile.
    """
    with torch.device("cpu"), _Private(generator(seed)):
        yield


class _Private(TorchFunctionMode):
    def __init__(self, rng: torch.Generator) -> None:
        super().__init__()
        self.rng = rng

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _DRAWING and kwargs.get("generator") is None:
            kwargs = kwargs | {"generator": self.rng}
        return func(*args, **kwargs)
