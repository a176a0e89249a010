"""What calls compute and move, counted by hand; percentiles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from sdd_fast.timing.clock import Spread, work_of


def test_flop_of_known_networks() -> None:
    x = torch.randn(4, 8)
    assert work_of(lambda: nn.Linear(8, 16)(x)).flop == 2 * 4 * 8 * 16
    y = torch.randn(2, 3, 10, 10)
    conv = nn.Conv2d(3, 5, 3, padding=1, stride=2)
    forward = 2 * (2 * 5 * 5 * 5) * (3 * 9)
    assert work_of(lambda: conv(y)).flop == forward


def test_flop_of_gradients_at_the_input_of_frozen_modules() -> None:
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1)).requires_grad_(False)
    x = torch.randn(4, 8, requires_grad=True)
    forward = 2 * 4 * (8 * 16 + 16)
    work = work_of(lambda: torch.autograd.grad(network(x).sum(), x))
    assert work.flop == 2 * forward


def test_flop_of_attention() -> None:
    q, k = torch.randn(2, 3, 64, 8), torch.randn(2, 3, 77, 8)
    assert work_of(lambda: F.scaled_dot_product_attention(q, k, k)).flop == 4 * 2 * 3 * 64 * 77 * 8


def test_bytes_are_those_of_inputs_and_outputs() -> None:
    a, b = torch.randn(100, 10), torch.randn(100, 10)
    assert work_of(lambda: a + b).moved == 3 * 4000
    assert work_of(lambda: a.copy_(b)).moved == 2 * 4000
    assert work_of(lambda: a.t()[:3]).moved == 0  # views
    assert work_of(lambda: a[:1].expand(50, 10) * 2.0).moved <= 4000 + 2000


def test_percentiles() -> None:
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)
    assert Spread.of([float(i) for i in range(11)]) == Spread(5.0, 2.0, 8.0)
