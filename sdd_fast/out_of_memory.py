"""How it is told that memory ran out, and what is done: less at once, and the work goes on."""

from __future__ import annotations

import errno
import gc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

T = TypeVar("T")

_SIGNS = (
    "allocate memory", "out of memory", "not enough memory", "bad_alloc", "ALLOC_FAILED",
    "failed to map segment",
)  # fmt: skip
_MANY_ROWS, _FEW_ROWS = 8, 4  # more make a U-Net hardly faster, fewer make it slower


@dataclass(frozen=True)
class Sizes:
    """How much goes through the networks at once.

    Args:
        images: that share one graph of the VAE encoder; of the generator, too, where that is
            computed again.
        rows: of one call of the U-Net.
        prompts: of a training, whose images share one graph of the generator.
        again: what is computed a second time in the backward pass, in place of being kept.
        possible: what can be, in the order in which it is resorted to.
    """

    images: int
    rows: int
    prompts: int = 1
    again: tuple[str, ...] = ()
    possible: tuple[str, ...] = field(default=("encoder",), compare=False, repr=False)

    def __str__(self) -> str:
        images, rows = ("" if n == 1 else "s" for n in (self.images, self.rows))
        told = f"{self.images} image{images} and {self.rows} row{rows} of the U-Net at once"
        if self.prompts > 1:
            told += f", {self.prompts} prompts in one graph"
        return told + "".join(f", the {name} computed again" for name in self.again)

    def smaller(self) -> Sizes | None:
        """Return the next smaller sizes, None after the smallest.

        Pieces come first, which cost next to nothing; then what is computed twice; then calls of
        the U-Net that are too small to be fast.
        """
        if self.rows > _MANY_ROWS:
            return replace(self, rows=max(_MANY_ROWS, self.rows // 2))
        if self.prompts > 1:
            return replace(self, prompts=self.prompts // 2, images=max(1, self.images // 2))
        if self.images > 1:
            return replace(self, images=self.images // 2)
        if self.rows > _FEW_ROWS:
            return replace(self, rows=_FEW_ROWS)
        if len(self.again) < len(self.possible):
            return replace(self, again=self.possible[: len(self.again) + 1])
        return replace(self, rows=self.rows // 2) if self.rows > 1 else None


def smaller_after(error: Exception, sizes: Sizes, what: str) -> Sizes:
    """Return what to go on with, after a warning; raise `error` unless it says memory ran out.

    Raises:
        MemoryError: nothing is smaller than `sizes`.
    """
    if not ran_out(error):
        raise error
    smaller = sizes.smaller()
    if smaller is None:
        raise MemoryError(
            f"{what} does not fit into memory, not even with {sizes}, after everything larger; "
            "take dtype float16, a teacher or generator of smaller images, or a device with more"
        ) from error
    warnings.warn(f"memory ran out in {what} with {sizes}; it goes on with {smaller}", stacklevel=3)
    return smaller


def halving(run: Callable[[int], T], most: int, what: str) -> T:
    """Return `run(most)`, or `run` of half as many, and so on, where memory runs out.

    Raises:
        MemoryError: it does of one, too.
    """
    while True:
        try:
            return run(most)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            if most == 1:
                raise MemoryError(f"{what} does not fit into memory, one at a time") from error
        warnings.warn(
            f"memory ran out in {what}, {most} at once; it goes on with {most // 2}", stacklevel=2
        )
        most //= 2
        release()


def release() -> None:
    """Give back what a failed attempt left behind. To be called after its `except` has ended."""
    import torch

    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def ran_out(error: BaseException | None) -> bool:
    """Return whether an error, or what it arose from, says that memory ran out, on any device."""
    while error is not None:
        kind = type(error).__name__
        if isinstance(error, MemoryError) or kind == "OutOfMemoryError":
            return True
        if isinstance(error, OSError) and error.errno == errno.ENOMEM:
            return True
        # Only errors of libraries: ours may quote a text of the user's.
        of_library = isinstance(error, RuntimeError | ImportError) or kind == "SafetensorError"
        if of_library and any(sign in str(error) for sign in _SIGNS):
            return True
        error = error.__cause__ or error.__context__
    return False


def check_ran_out(error: BaseException, what: object) -> None:
    """Raise MemoryError if loading `what` failed with `error` because memory ran out."""
    if ran_out(error):
        raise MemoryError(f"{what} does not fit into memory") from error
