"""Whatever an op is given, it gives a result or an error that names the op: never a crash."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from sdd_fast import ops
from sdd_fast.ops._register import NATIVE

needs_native = pytest.mark.skipif(NATIVE.path is None, reason="native kernels: " + NATIVE.missing)

FEATURES = {"act": "lrelu", "alpha": 0.2, "gain": 1.5, "clamp": 2.0}


def good() -> dict[str, dict[str, Any]]:
    """Arguments that every op takes: what the tests below put something else into."""
    x = torch.ones(2, 3, 4, 5)
    return {
        "softmax_entropy_l1": {"x": torch.ones(2, 3, 20), "gradient_map": "abs-mean"},
        "bias_act": {"x": x, "b": torch.ones(3), **FEATURES},
        "conv_epilogue": {
            "x": x, "factor": torch.ones(2, 3), "noise": torch.ones(1, 1, 4, 5),
            "bias": torch.ones(3), **FEATURES,
        },
        "upfirdn2d": {
            "x": x, "f": torch.ones(4), "up": 2, "down": 1, "padding": (2, 1, 2, 1),
            "flip_filter": False, "gain": 4.0,
        },
        "demodulation": {
            "weight": torch.ones(2, 3, 3, 3), "styles": torch.ones(2, 3), "eps": 1e-8,
        },
        "group_norm_silu": {
            "x": x, "num_groups": 3, "weight": torch.ones(3), "bias": torch.ones(3), "eps": 1e-6,
            "silu": True,
        },
        "modulated_conv2d": {
            "x": x, "weight": torch.ones(2, 3, 3, 3), "styles": torch.ones(2, 3),
            "demodulate": True, "up": 2, "resample_filter": torch.ones(4) / 4,
            "noise": torch.ones(2, 1, 8, 10), "bias": torch.ones(2), "eps": 1e-8, **FEATURES,
        },
    }  # fmt: skip


NATIVE_GOOD: dict[str, list[Any]] = {
    "softmax_entropy_l1": [torch.ones(2, 20), False],
    "softmax_entropy_l1_backward": [
        *[torch.ones(2, dtype=torch.float64)] * 4, torch.ones(2, 20),
        *[torch.ones(2, dtype=torch.float64)] * 2, False,
    ],
    "bias_act": [torch.ones(2, 3, 4, 5), torch.ones(3), 2, 0.2, 1.5, 2.0],
    "bias_act_backward": [torch.ones(2, 3, 4), torch.ones(2, 3, 4), 2, 0.2, 1.5, 2.0, True],
    "conv_epilogue": [
        torch.ones(2, 3, 4, 5), torch.ones(2, 3), torch.ones(1, 1, 4, 5), torch.ones(3),
        2, 0.2, 1.5, 2.0,
    ],
    "conv_epilogue_": [
        torch.ones(2, 3, 4, 5), torch.ones(2, 3), torch.ones(1, 1, 4, 5), torch.ones(3),
        2, 0.2, 1.5, 2.0,
    ],
    "conv_epilogue_backward": [
        torch.ones(2, 3, 4, 5), torch.ones(2, 3, 4, 5), torch.ones(2, 3), torch.ones(1, 1, 4, 5),
        torch.ones(3), 2, 0.2, 1.5, 2.0, True, True, True,
    ],
    "upfirdn2d": [torch.ones(2, 3, 4, 5), torch.ones(4), 2, 1, 2, 1, 2, 1, False, 4.0],
    "demodulation": [torch.ones(2, 3, 3, 3), torch.ones(2, 3), 1e-8],
    "group_norm_silu": [torch.ones(2, 3, 4, 5), 3, torch.ones(3), torch.ones(3), 1e-6, True],
    "group_norm_silu_backward": [
        torch.ones(4, 3, 4, 5), torch.ones(2, 3, 4, 5),
        *[torch.ones(2, 3, dtype=torch.float64)] * 2, torch.ones(3), torch.ones(3), True,
    ],
}  # fmt: skip

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.int64, torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip
NUMBERS = st.sampled_from(  # as sizes: what any machine has memory for, or none
    [0, 1, 2, 3, -1, 0.0, 0.5, 2.0, -2.0, 1e300, math.nan, math.inf, -math.inf]
    + [2**40, 2**62, -(2**62), 2**63 - 1, -(2**63), 2**64]
)


@st.composite
def tensors(draw: Any) -> Tensor:
    """Of any rank, dtype and layout, often empty, with or without memory."""
    shape = draw(st.lists(st.integers(0, 5), max_size=5))
    device = draw(st.sampled_from(["cpu", "cpu", "cpu", "meta"]))
    x = torch.zeros(shape, dtype=draw(st.sampled_from(DTYPES)), device=device)
    layout = draw(st.integers(0, 3))
    if layout == 1 and x.ndim == 4:
        return x.contiguous(memory_format=torch.channels_last)
    if layout == 2:
        return x.permute(list(reversed(range(x.ndim))))
    if layout == 3:
        return x.expand(draw(st.sampled_from([1, 2, 3])), *shape)
    return x


@st.composite
def near_misses(draw: Any, like: Tensor) -> Tensor:
    """The right tensor with one thing about it changed."""
    how = draw(st.integers(0, 4))
    if how == 0:
        return like.to(draw(st.sampled_from(DTYPES)))
    if how == 1:
        return like.to("meta")
    if how == 2:
        return like[None] if draw(st.booleans()) else like[0]
    dim = draw(st.integers(0, like.ndim - 1))
    if how == 3:
        return like.narrow(dim, 0, draw(st.integers(0, like.shape[dim])))
    return torch.cat([like, like], dim)[(..., *[slice(None)] * (like.ndim - dim - 1))]


def anything(like: object) -> st.SearchStrategy[Any]:
    other = [tensors(), NUMBERS, st.none(), st.text(max_size=3), st.lists(NUMBERS, max_size=4)]
    return st.one_of(near_misses(like), *other) if isinstance(like, Tensor) else st.one_of(*other)


OTHER_PADDINGS = st.one_of(
    NUMBERS,
    st.tuples(*[st.integers(-12, 12)] * 4),
    st.tuples(*[NUMBERS] * 4),
    st.lists(NUMBERS, max_size=5),
)


# Ours for a result too large, see test_no_memory.py; PyTorch's where a shape alone is too much.
MEMORY = "there is no memory for a result|too large|allocate|overflow"


@pytest.mark.parametrize("op", list(good()))
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_result_or_an_error_that_names_the_op(op: str, data: st.DataObject) -> None:
    arguments = good()[op]
    getattr(ops, op)(**arguments)
    names = st.sampled_from(list(arguments))
    for name in data.draw(st.lists(names, min_size=1, max_size=2, unique=True)):
        other = OTHER_PADDINGS if name == "padding" else anything(arguments[name])
        arguments[name] = data.draw(other, label=name)
    try:
        getattr(ops, op)(**arguments)
    except (TypeError, ValueError) as error:
        said = str(error)
        assert f"{op}: " in said or op == "softmax_entropy_l1", said
        assert any(name in said for name in arguments) or "padded image" in said, said
    except RuntimeError as error:  # good arguments for which the memory does not suffice
        assert op == "upfirdn2d" and re.search(MEMORY, str(error)), error


@needs_native
@pytest.mark.parametrize("op", list(NATIVE_GOOD))
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_past_python_too(op: str, data: st.DataObject) -> None:
    """The C++ side checks again. The dispatcher refuses what does not fit the schema."""
    arguments = [t.clone() if isinstance(t, Tensor) else t for t in NATIVE_GOOD[op]]
    getattr(torch.ops.sdd_fast, op)(*arguments)
    places = st.sampled_from(range(len(arguments)))
    for place in data.draw(st.lists(places, min_size=1, max_size=2, unique=True)):
        arguments[place] = data.draw(anything(arguments[place]), label=str(place))
    try:
        getattr(torch.ops.sdd_fast, op)(*arguments)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        assert str(error)
