"""The network of FID, from a file named as the published one, against a float64 reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sdd_fast.checkpoints.inception import load_inception
from sdd_fast.metrics import inception_features
from sdd_fast.models.inception import Inception, resize_like_tensorflow


class Reference:
    """The network as a function of the file's tensors, in float64, layer by layer."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = {k: v.double() for k, v in tensors.items() if v.is_floating_point()}

    def conv(
        self, name: str, x: Tensor, stride: int = 1, padding: tuple[int, int] | int = 0
    ) -> Tensor:
        t = self.tensors
        x = F.conv2d(x, t[f"{name}.conv.weight"], None, stride, padding)
        mean, var = (t[f"{name}.bn.running_{k}"][:, None, None] for k in ("mean", "var"))
        scale, shift = (t[f"{name}.bn.{k}"][:, None, None] for k in ("weight", "bias"))
        return ((x - mean) / (var + 0.001).sqrt() * scale + shift).relu()

    def average(self, x: Tensor) -> Tensor:
        """3 × 3, of those that lie within."""
        ones = torch.ones_like(x[:1, :1])
        return 9 * F.avg_pool2d(x, 3, 1, 1) / (9 * F.avg_pool2d(ones, 3, 1, 1))

    def block_a(self, n: str, x: Tensor) -> Tensor:
        five = self.conv(f"{n}.branch5x5_2", self.conv(f"{n}.branch5x5_1", x), 1, 2)
        three = self.conv(f"{n}.branch3x3dbl_2", self.conv(f"{n}.branch3x3dbl_1", x), 1, 1)
        three = self.conv(f"{n}.branch3x3dbl_3", three, 1, 1)
        pooled = self.conv(f"{n}.branch_pool", self.average(x))
        return torch.cat([self.conv(f"{n}.branch1x1", x), five, three, pooled], 1)

    def block_b(self, n: str, x: Tensor) -> Tensor:
        double = self.conv(f"{n}.branch3x3dbl_2", self.conv(f"{n}.branch3x3dbl_1", x), 1, 1)
        double = self.conv(f"{n}.branch3x3dbl_3", double, 2)
        return torch.cat([self.conv(f"{n}.branch3x3", x, 2), double, F.max_pool2d(x, 3, 2)], 1)

    def block_c(self, n: str, x: Tensor) -> Tensor:
        row, column = (0, 3), (3, 0)
        seven = self.conv(f"{n}.branch7x7_2", self.conv(f"{n}.branch7x7_1", x), 1, row)
        seven = self.conv(f"{n}.branch7x7_3", seven, 1, column)
        double = self.conv(f"{n}.branch7x7dbl_1", x)
        for i, padding in ((2, column), (3, row), (4, column), (5, row)):
            double = self.conv(f"{n}.branch7x7dbl_{i}", double, 1, padding)
        pooled = self.conv(f"{n}.branch_pool", self.average(x))
        return torch.cat([self.conv(f"{n}.branch1x1", x), seven, double, pooled], 1)

    def block_d(self, n: str, x: Tensor) -> Tensor:
        three = self.conv(f"{n}.branch3x3_2", self.conv(f"{n}.branch3x3_1", x), 2)
        seven = self.conv(f"{n}.branch7x7x3_2", self.conv(f"{n}.branch7x7x3_1", x), 1, (0, 3))
        seven = self.conv(f"{n}.branch7x7x3_3", seven, 1, (3, 0))
        seven = self.conv(f"{n}.branch7x7x3_4", seven, 2)
        return torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)

    def block_e(self, n: str, x: Tensor, pooled: Tensor) -> Tensor:
        def fork(name: str, y: Tensor) -> list[Tensor]:
            return [self.conv(f"{name}a", y, 1, (0, 1)), self.conv(f"{name}b", y, 1, (1, 0))]

        double = self.conv(f"{n}.branch3x3dbl_2", self.conv(f"{n}.branch3x3dbl_1", x), 1, 1)
        return torch.cat(
            [
                self.conv(f"{n}.branch1x1", x),
                *fork(f"{n}.branch3x3_2", self.conv(f"{n}.branch3x3_1", x)),
                *fork(f"{n}.branch3x3dbl_3", double),
                self.conv(f"{n}.branch_pool", pooled),
            ],
            1,
        )

    def __call__(self, resized: Tensor) -> Tensor:
        x = (resized.double() - 128) / 128
        x = self.conv("Conv2d_2a_3x3", self.conv("Conv2d_1a_3x3", x, 2))
        x = F.max_pool2d(self.conv("Conv2d_2b_3x3", x, 1, 1), 3, 2)
        x = F.max_pool2d(self.conv("Conv2d_4a_3x3", self.conv("Conv2d_3b_1x1", x)), 3, 2)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            x = self.block_a(name, x)
        x = self.block_b("Mixed_6a", x)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            x = self.block_c(name, x)
        x = self.block_d("Mixed_7a", x)
        x = self.block_e("Mixed_7b", x, self.average(x))
        x = self.block_e("Mixed_7c", x, F.max_pool2d(x, 3, 1, 1))
        return x.mean((2, 3))


def resized_by_definition(image: np.ndarray, side: int) -> np.ndarray:
    """[H, W] → [side, side], pixel by pixel."""
    height, width = image.shape
    out = np.empty((side, side))
    for i in range(side):
        for j in range(side):
            y, x = i * height / side, j * width / side
            top, left = int(y), int(x)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            dy, dx = y - top, x - left
            upper = (1 - dx) * image[top, left] + dx * image[top, right]
            lower = (1 - dx) * image[below, left] + dx * image[below, right]
            out[i, j] = (1 - dy) * upper + dy * lower
    return out


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tensors of the published file, random, at a scale that survives all layers."""
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    rng = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = {k: v.shape for k, v in Inception().state_dict().items()}
    tensors = {}
    for name, shape in shapes.items():
        if name.endswith("num_batches_tracked"):
            continue  # files from before PyTorch 0.4.1 lack them
        if name.endswith("conv.weight"):
            fan = shape[1] * shape[2] * shape[3]
            tensors[name] = torch.randn(shape, generator=rng) * (2 / fan) ** 0.5
        elif name.endswith(("running_var", "bn.weight")):
            tensors[name] = 0.75 + 0.5 * torch.rand(shape, generator=rng)
        else:
            tensors[name] = 0.1 * torch.randn(shape, generator=rng)
    torch.save(tensors, path)
    return path


def test_features_against_the_reference(file: Path) -> None:
    rng = torch.Generator().manual_seed(1)
    images = torch.rand(1, 3, 40, 52, generator=rng) * 2 - 1
    in_bytes = ((images + 1) * 127.5).round()
    resized = resize_like_tensorflow(in_bytes.double(), 299)
    expected = Reference(torch.load(file, weights_only=True))(resized)
    network = inception_features(file)
    found = network(images)
    assert found.shape == (1, 2048) and found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    assert network.name == "Inception (2015-12-05)"


@pytest.mark.parametrize(("height", "width"), [(5, 9), (40, 33), (31, 31)])
def test_resizing_is_that_of_tensorflow(height: int, width: int) -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, 255, (height, width))
    found = resize_like_tensorflow(torch.tensor(image)[None, None], 31)[0, 0]
    np.testing.assert_allclose(found.numpy(), resized_by_definition(image, 31), atol=1e-9)


def test_a_program_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "inception-2015-12-05.pt"
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(str(path))
    with pytest.raises(ValueError, match="TorchScript program.*pt_inception-2015-12-05-6726825d"):
        load_inception(path)


def test_other_files_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="pt_inception-2015-12-05-6726825d.*pytorch-fid"):
        load_inception(tmp_path / "none.pth")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="expected pt_inception"):
        load_inception(tmp_path / "other.pth")
    tensors = torch.load(file, weights_only=True)
    del tensors["Mixed_7c.branch3x3_2a.conv.weight"]
    tensors["fc.weight"] = tensors["fc.weight"][:1000]  # torchvision's classes
    torch.save(tensors, tmp_path / "less.pth")
    with pytest.raises(ValueError, match="missing: Mixed_7c.branch3x3_2a.conv.weight\n.*fc.weight"):
        load_inception(tmp_path / "less.pth")
