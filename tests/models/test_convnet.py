from __future__ import annotations

import pytest
import torch

from sdd_fast.models import ConvClassifier, ConvEmbedding
from sdd_fast.models.convnet import ResidualTrunk, trunk_channels


def test_trunk_features() -> None:
    trunk = ResidualTrunk(32, [4, 6, 8, 12])
    images = torch.randn(2, 3, 32, 32)
    features = trunk(images)
    assert [tuple(f.shape) for f in features] == [(2, 6, 16, 16), (2, 8, 8, 8), (2, 12, 4, 4)]
    for actual, alone in zip(features, trunk(images[1:]), strict=True):  # no batch statistics
        torch.testing.assert_close(actual[1:], alone, rtol=1e-4, atol=1e-5)


def test_classifier() -> None:
    torch.manual_seed(0)
    classifier = ConvClassifier({"hair": 6, "glasses": 2}, resolution=16, width=4)
    images = torch.randn(3, 3, 16, 16)
    logits = classifier(images)
    assert {name: tuple(v.shape) for name, v in logits.items()} == {
        "hair": (3, 6),
        "glasses": (3, 2),
    }
    assert [f.shape[-1] for f in classifier.features(images)] == [8, 4]
    with torch.no_grad():
        classifier.head.weight.zero_()
        classifier.head.bias.copy_(torch.arange(8.0))
    logits = classifier(images)
    assert logits["hair"][0].tolist() == [0, 1, 2, 3, 4, 5]
    assert logits["glasses"][0].tolist() == [6, 7]


def test_embedding_is_a_unit_vector() -> None:
    embedding = ConvEmbedding(7, resolution=16, width=4)
    vectors = embedding(torch.randn(4, 3, 16, 16))
    assert vectors.shape == (4, 7)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(4))
    assert (vectors[0] @ vectors[1]).item() < 1 - 1e-6  # it looks at the image


@pytest.mark.parametrize("network", [ConvClassifier({"a": 2}, 16, 4), ConvEmbedding(3, 16, 4)])
def test_every_parameter_learns(network: torch.nn.Module) -> None:
    out = network(torch.randn(2, 3, 16, 16))
    out = out["a"] if isinstance(out, dict) else out
    (out * torch.randn_like(out)).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_sizes() -> None:
    assert trunk_channels(64, 32) == [32, 64, 96, 128, 160]
    assert trunk_channels(1024, 16) == [16, 32, 48, 64, 80, 96, 112, 128, 128]
    with torch.device("meta"):
        for network in (ConvClassifier({"a": 6, "b": 4}), ConvEmbedding(64)):
            assert 0.85e6 < sum(p.numel() for p in network.parameters()) < 0.95e6
        large = ConvClassifier({"a": 2}, resolution=512)
        assert large(torch.empty(1, 3, 512, 512))["a"].shape == (1, 2)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="at least one name"):
        ConvClassifier({})
    with pytest.raises(ValueError, match=r"number of classes \(2 or more\), got {'a': 1}"):
        ConvClassifier({"a": 1})
    with pytest.raises(ValueError, match=r"resolution must be a power of two.*got 20"):
        ConvClassifier({"a": 2}, resolution=20)
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        ConvEmbedding(3, width=0)
    with pytest.raises(ValueError, match="dim must be positive, got 0"):
        ConvEmbedding(0)
    with pytest.raises(ValueError, match=r"needs 2 channel counts, got \[4\]"):
        ResidualTrunk(8, [4])
    with pytest.raises(ValueError, match=r"must be \[B, 3, 16, 16\], got \[1, 3, 8, 8\]"):
        ConvEmbedding(3, 16, 4)(torch.zeros(1, 3, 8, 8))
