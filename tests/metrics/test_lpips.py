"""LPIPS against the formula of its paper in float64, from files named as the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lpips_files import write_alex
from torch import Tensor

from sdd_fast.metrics import FeatureDistance, load_lpips, lpips_distance
from sdd_fast.models.lpips import LPIPS


def alex_reference(weights: dict[str, Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Eq. 1 of the paper, with the scaling of its code."""
    w = {k: v.double() for k, v in weights.items()}

    def maps(x: Tensor) -> list[Tensor]:
        shift = torch.tensor([-0.030, -0.088, -0.188], dtype=torch.float64)[:, None, None]
        scale = torch.tensor([0.458, 0.448, 0.450], dtype=torch.float64)[:, None, None]
        x, found = (x.double() - shift) / scale, []
        for i, (stride, padding) in zip(
            (0, 3, 6, 8, 10), ((4, 2), (1, 2), *[(1, 1)] * 3), strict=True
        ):
            if i in (3, 6):
                x = F.max_pool2d(x, 3, 2)
            x = F.conv2d(x, w[f"features.{i}.weight"], w[f"features.{i}.bias"], stride, padding)
            x = x.relu()
            found.append(x / x.norm(dim=1, keepdim=True).clamp(min=1e-10))
        return found

    layers = enumerate(zip(maps(a), maps(b), strict=True))
    return sum(
        ((x - y) ** 2 * w[f"lin{i}.model.1.weight"]).sum(1).mean((1, 2)) for i, (x, y) in layers
    )


def images(count: int, side: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side + 3, generator=rng) * 2 - 1


def test_alex_against_the_formula(tmp_path: Path) -> None:
    features, weights, tensors = write_alex(tmp_path)
    network = load_lpips(features, weights)
    a, b = images(5, 40, 1), images(5, 40, 2)
    expected = alex_reference(tensors, a, b)
    found = lpips_distance(network, a, b, batch_size=2)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)
    assert (found > 0).all() and (lpips_distance(network, a, a) == 0).all()
    assert network.name == "LPIPS (alex)"
    assert not any(p.requires_grad for p in network.parameters())


def test_vgg_compares_the_last_maps_of_each_block() -> None:
    """Torchvision's numbering of VGG-16: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3."""
    with torch.device("meta"):
        network = LPIPS("vgg")
    convolutions = {
        int(name.split(".")[1]): tuple(value.shape)
        for name, value in network.state_dict().items()
        if name.startswith("features") and name.endswith("weight")
    }
    expected = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]
    assert sorted(convolutions) == expected
    assert [convolutions[i - 1][0] for i in (3, 8, 15, 22, 29)] == [64, 128, 256, 512, 512]
    assert network.taps == (3, 8, 15, 22, 29)
    widths = [network.state_dict()[f"lin{i}.model.1.weight"].shape[1] for i in range(5)]
    assert widths == [64, 128, 256, 512, 512]
    kinds = [type(network.features[i]).__name__ for i in (4, 9, 16, 23)]
    assert kinds == ["MaxPool2d"] * 4


def test_files_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    features, weights, tensors = write_alex(tmp_path)
    with pytest.raises(FileNotFoundError, match="vgg.pth or alex.pth.*PerceptualSimilarity"):
        load_lpips(features, tmp_path / "none.pth")
    with pytest.raises(FileNotFoundError, match="vgg16-397923af.pth or alexnet.*download.pytorch"):
        load_lpips(tmp_path / "none.pth", weights)
    with pytest.raises(ValueError, match="expected the weights of LPIPS"):
        load_lpips(features, features)
    wider = {f"lin{i}.model.1.weight": torch.rand(1, 64, 1, 1) for i in range(5)}
    torch.save(wider, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"shape of lin1.model.1.weight"):
        load_lpips(features, tmp_path / "other.pth")
    bare = {k: v for k, v in tensors.items() if k.startswith("features")}
    missing = {k: v for k, v in bare.items() if k != "features.8.bias"}
    torch.save(missing | {"features.12.weight": torch.zeros(2)}, tmp_path / "less.pth")
    with pytest.raises(ValueError, match="missing: features.8.bias\n.*unexpected: features.12"):
        load_lpips(tmp_path / "less.pth", weights)
    resnet = {"features.0.weight": torch.zeros(64, 3, 7, 7)}
    torch.save(resnet, tmp_path / "resnet.pth")
    with pytest.raises(ValueError, match="VGG-16 or AlexNet.*64, 3, 7, 7"):
        load_lpips(tmp_path / "resnet.pth", weights)


def test_images_that_vanish_in_the_pooling_are_refused(tmp_path: Path) -> None:
    network = load_lpips(*write_alex(tmp_path)[:2])
    with pytest.raises(ValueError, match="at least 31 pixels"):
        lpips_distance(network, images(1, 30, 1), images(1, 30, 2))
    assert lpips_distance(network, images(1, 31, 1), images(1, 31, 2)).shape == (1,)


def test_a_distance_by_any_feature_maps() -> None:
    """Two maps by hand: vectors at each place are brought to length 1, and compared."""
    distance = FeatureDistance("doubled", lambda x: [x[:, :2], 5 * x[:, 1:2]])
    a, b = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    a[0, :2, 0, 0], b[0, :2, 0, 0] = torch.tensor([0.6, 0.8]), torch.tensor([0.8, 0.6])
    a[0, :2, 0, 1], b[0, :2, 0, 1] = torch.tensor([0.1, 0.0]), torch.tensor([0.0, 0.5])
    first = ((0.2**2 + 0.2**2) + 2) / 2
    second = (0 + 1) / 2  # of length 1 where there is something, 0 where nothing is
    assert float(distance(a, b)) == pytest.approx((first + second) / 2, rel=1e-6)
    assert float(distance(a, a)) == 0
