from __future__ import annotations

import pytest
import torch

from sdd_fast.models import Encoder

SMALL = {"resolution": 32, "num_layers": 10, "w_dim": 6, "channel_base": 64, "channel_max": 8}


def test_parts_add_up() -> None:
    """w_plus = latent_avg + base + delta; the deltas start at zero and follow the levels."""
    torch.manual_seed(0)
    encoder = Encoder(**SMALL)
    with torch.no_grad():
        encoder.latent_avg.copy_(torch.arange(6.0))
    images = torch.rand(3, 3, 32, 32) * 2 - 1
    w_plus, base = encoder(images, return_base=True)
    assert w_plus.shape == (3, 10, 6) and base.shape == (3, 6)
    assert torch.equal(encoder(images), w_plus)
    with torch.no_grad():
        encoder.base.linear.weight.zero_()
        encoder.base.linear.bias.fill_(0.5)
        for head, value in zip(encoder.deltas, (1.0, 2.0, 3.0), strict=True):
            head.linear.weight.zero_()
            head.linear.bias.fill_(value)
    levels = torch.tensor([1.0] * 4 + [2.0] * 4 + [3.0] * 2)
    expected = torch.arange(6.0) + 0.5 + levels[:, None]
    torch.testing.assert_close(encoder(images), expected.expand(3, -1, -1))


def test_starts_near_one_latent_for_all_layers() -> None:
    encoder = Encoder(**SMALL)
    w_plus, base = encoder(torch.randn(2, 3, 32, 32), return_base=True)
    spread = (w_plus - base[:, None]).abs()
    # Only the heads' random biases differ; no image detail is in them yet.
    torch.testing.assert_close(spread[0], spread[1])


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    encoder = Encoder(**SMALL)
    for head in encoder.deltas:
        torch.nn.init.normal_(head.linear.weight)
    encoder(torch.randn(2, 3, 32, 32)).square().sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("num_layers", "heads"), [(3, 1), (4, 1), (6, 2), (8, 2), (9, 3)])
def test_fewer_layers_need_fewer_heads(num_layers: int, heads: int) -> None:
    encoder = Encoder(**{**SMALL, "num_layers": num_layers})
    assert len(encoder.deltas) == heads
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, num_layers, 6)


def test_sizes() -> None:
    """The embedded domain's encoder stays small; a full-size one can be built."""
    with torch.device("meta"):
        small = Encoder(64, num_layers=10, w_dim=128)
        large = Encoder(1024, num_layers=18, w_dim=512, channel_base=32768, channel_max=512)
        assert large(torch.empty(1, 3, 1024, 1024)).shape == (1, 18, 512)
    assert sum(p.numel() for p in small.parameters()) <= 2_200_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resolution": 16}, "power of two of at least 32, got 16"),
        ({"resolution": 100}, "power of two of at least 32, got 100"),
        ({"w_dim": 0}, "must be positive.*w_dim=0"),
        ({"channel_base": 8}, "channel_base at least the resolution.*channel_base=8"),
    ],
)
def test_bad_configurations(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Encoder(**{**SMALL, **changes})


def test_bad_images() -> None:
    encoder = Encoder(**SMALL)
    for shape in ((3, 32, 32), (1, 1, 32, 32), (1, 3, 64, 64)):
        with pytest.raises(ValueError, match=r"must be \[B, 3, 32, 32\].*resize them first"):
            encoder(torch.zeros(shape))
