"""group_norm_silu against the definition in extended precision, and the contract every op has."""

from __future__ import annotations

import pytest
import torch
from op_cases import GROUP_NORM_TOLERANCE, group_norm_silu_reference, relative_error
from torch import Tensor

from sdd_fast.ops import group_norm_silu, group_norm_silu_ref

EPS = 1e-6
BOTH = pytest.mark.parametrize("op", [group_norm_silu, group_norm_silu_ref])
DTYPES = pytest.mark.parametrize("dtype", list(GROUP_NORM_TOLERANCE), ids=lambda d: str(d)[6:])


def inputs(
    shape: tuple[int, ...], dtype: torch.dtype = torch.float64, seed: int = 0, mean: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """x, weight, bias"""
    rng = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=rng, dtype=torch.float64) + mean
    weight, bias = torch.randn(2, shape[1], generator=rng, dtype=torch.float64)
    return x.to(dtype), weight.to(dtype), bias.to(dtype)


@BOTH
@DTYPES
@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 12, 5, 7), 3), ((1, 64, 9, 9), 32), ((3, 4), 1)], ids=str
)
def test_definition(
    op, dtype: torch.dtype, shape: tuple[int, ...], groups: int, silu: bool
) -> None:
    x, weight, bias = inputs(shape, dtype)
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    y, x_grad = group_norm_silu_reference(x, groups, weight, bias, EPS, silu, grad)
    x.requires_grad_()
    actual = op(x, groups, weight, bias, EPS, silu)
    assert actual.dtype == dtype
    assert relative_error(actual, y) <= GROUP_NORM_TOLERANCE[dtype]
    (actual,) = torch.autograd.grad(actual, x, grad)
    assert relative_error(actual, x_grad) <= GROUP_NORM_TOLERANCE[dtype]
