"""Pickles in the layout of NVIDIA's StyleGAN2 repositories, with random weights at small width.

The modules below have the names, tensors and attributes of the originals, and no forward pass.
Written to a file, each carries source code and refers to the function that would run it, as the
originals do; here that source code fails loudly.
"""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sdd_fast.checkpoints.formats.read import PickledObject

SOURCE = "raise SystemExit('the source code in the file was executed')"


def _reconstruct_persistent_obj(meta: dict[str, Any]) -> Any:
    raise SystemExit("the file's objects were constructed")


class _Carried(nn.Module):
    """A module that is pickled together with its source code."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__()
        self._init_args = ()
        self._init_kwargs = dict(attributes)
        for name, value in attributes.items():
            setattr(self, name, value)

    def __reduce__(self) -> Any:
        meta = {
            "type": "class", "version": 6, "module_src": SOURCE,
            "class_name": type(self).__name__, "state": self.__dict__,
        }  # fmt: skip
        return _reconstruct_persistent_obj, (meta,), None


class FullyConnectedLayer(_Carried):
    def __init__(self, inputs: int, outputs: int, activation: str, lr: float, put: Any) -> None:
        super().__init__(
            activation=activation, weight_gain=np.float64(lr / np.sqrt(inputs)), bias_gain=lr
        )
        self.weight = put(outputs, inputs, scale=1 / lr)
        self.bias = put(outputs, scale=0.2 / lr)


class MappingNetwork(_Carried):
    def __init__(
        self, z_dim: int, c_dim: int, w_dim: int, num_ws: int, depth: int, lr: float, put: Any
    ) -> None:
        super().__init__(
            z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, num_ws=num_ws, num_layers=depth,
            w_avg_beta=0.995,
        )  # fmt: skip
        if c_dim:
            self.embed = FullyConnectedLayer(c_dim, w_dim, "linear", 1.0, put)
        width = z_dim + (w_dim if c_dim else 0)
        for i in range(depth):
            setattr(self, f"fc{i}", FullyConnectedLayer(width, w_dim, "lrelu", lr, put))
            width = w_dim
        self.register_buffer("w_avg", put(w_dim).detach())


class SynthesisLayer(_Carried):
    def __init__(
        self, inputs: int, outputs: int, side: int, up: int, filt: Tensor, put: Any, **given: Any
    ) -> None:
        w_dim, noise = given["w_dim"], given["use_noise"]
        super().__init__(
            w_dim=w_dim, resolution=side, up=up, use_noise=noise, activation="lrelu",
            conv_clamp=given["conv_clamp"], padding=1, act_gain=np.sqrt(2),
        )  # fmt: skip
        self.register_buffer("resample_filter", filt.clone())
        self.affine = _affine(w_dim, inputs, put)
        self.weight = put(outputs, inputs, 3, 3)
        if noise:
            self.register_buffer("noise_const", put(side, side).detach())
            self.noise_strength = put(scale=0.4, offset=0.2)
        self.bias = put(outputs, scale=0.5)


class ToRGBLayer(_Carried):
    def __init__(self, inputs: int, put: Any, **given: Any) -> None:
        super().__init__(conv_clamp=given["conv_clamp"], weight_gain=1 / np.sqrt(inputs))
        self.affine = _affine(given["w_dim"], inputs, put)
        self.weight = put(3, inputs, 1, 1)
        self.bias = put(3, scale=0.3)


class SynthesisBlock(_Carried):
    def __init__(
        self, inputs: int, outputs: int, side: int, half: bool, filt: Tensor, put: Any, **given: Any
    ) -> None:
        super().__init__(
            in_channels=inputs, w_dim=given["w_dim"], resolution=side, img_channels=3,
            is_last=False, architecture="skip", use_fp16=half, channels_last=half,
            num_conv=2 if inputs else 1, num_torgb=1,
        )  # fmt: skip
        self.register_buffer("resample_filter", filt.clone())
        if inputs:
            self.conv0 = SynthesisLayer(inputs, outputs, side, 2, filt, put, **given)
        else:
            self.const = put(outputs, side, side)
        self.conv1 = SynthesisLayer(outputs, outputs, side, 1, filt, put, **given)
        self.torgb = ToRGBLayer(outputs, put, **given)


class SynthesisNetwork(_Carried):
    def __init__(
        self, resolution: int, channels: Callable[[int], int], halves: int, filt: Tensor, put: Any,
        **given: Any,
    ) -> None:  # fmt: skip
        sides = [4 << k for k in range(resolution.bit_length() - 2)]
        super().__init__(
            w_dim=given["w_dim"], img_resolution=resolution, img_channels=3,
            img_resolution_log2=len(sides) + 1, block_resolutions=sides, num_ws=2 * len(sides),
        )  # fmt: skip
        for i, side in enumerate(sides):
            inputs = channels(side // 2) if i else 0
            half = i >= len(sides) - halves
            block = SynthesisBlock(inputs, channels(side), side, half, filt, put, **given)
            setattr(self, f"b{side}", block)


class Generator(_Carried):
    pass


class DiscriminatorBlock(_Carried):
    pass


class Discriminator(_Carried):
    pass


class EasyDict(dict):  # type: ignore[type-arg]
    """The originals' dictionary class, as the settings in a file have it."""


def _affine(w_dim: int, outputs: int, put: Any) -> FullyConnectedLayer:
    layer = FullyConnectedLayer(w_dim, outputs, "linear", 1.0, put)
    layer.bias.data += 1
    return layer


def generator(
    resolution: int,
    *,
    z_dim: int = 10,
    c_dim: int = 0,
    w_dim: int = 12,
    depth: int = 2,
    lr: float = 0.01,
    channel_base: int = 256,
    channel_max: int = 8,
    conv_clamp: float | None = None,
    num_fp16_res: int = 0,
    use_noise: bool = True,
    taps: Sequence[float] = (1, 3, 3, 1),
    seed: int = 0,
) -> Generator:
    """A generator with random values everywhere."""
    rng = torch.Generator().manual_seed(seed)

    def put(*shape: int, scale: float = 1.0, offset: float = 0.0) -> nn.Parameter:
        values = scale * torch.randn(shape, generator=rng) + offset
        return nn.Parameter(values, requires_grad=False)

    kernel = torch.tensor(taps, dtype=torch.float32)
    kernel = kernel if len(taps) >= 8 else torch.outer(kernel, kernel)
    network = Generator(
        z_dim=z_dim, c_dim=c_dim, w_dim=w_dim, img_resolution=resolution, img_channels=3,
        num_ws=2 * resolution.bit_length() - 4,
    )  # fmt: skip
    network.synthesis = SynthesisNetwork(
        resolution, lambda side: min(channel_base // side, channel_max), num_fp16_res,
        kernel / kernel.sum(), put, w_dim=w_dim, conv_clamp=conv_clamp, use_noise=use_noise,
    )  # fmt: skip
    network.mapping = MappingNetwork(z_dim, c_dim, w_dim, network.num_ws, depth, lr, put)
    return network.eval()


def discriminator() -> Discriminator:
    network = Discriminator(c_dim=0, img_resolution=8, img_channels=3)
    network.b4 = DiscriminatorBlock(architecture="resnet")
    network.b4.weight = nn.Parameter(torch.zeros(2, 2))
    return network


def as_read(module: nn.Module) -> PickledObject:
    """What a reader that executes nothing makes of a pickled module."""
    state = dict(module.__dict__)
    state["_modules"] = {name: as_read(child) for name, child in module._modules.items() if child}
    return PickledObject(type(module).__name__, state)


def write(path: Path, content: Any, protocol: int = 4) -> Path:
    """Pickle `content` as the original programs do, without needing them."""
    with originals():
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


@contextmanager
def originals() -> Iterator[None]:
    """What the files refer to can be imported: a plain `pickle.load` would execute it."""
    named = {name: types.ModuleType(name) for name in _STANDINS}
    before = {name: sys.modules.get(name) for name in named}
    homes = {thing: thing.__module__ for thing in _STANDINS.values() if thing}
    sys.modules.update(named)
    for name, thing in _STANDINS.items():
        if thing:
            setattr(named[name], thing.__name__, thing)
            thing.__module__ = name
    try:
        yield
    finally:
        for thing, home in homes.items():
            thing.__module__ = home
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


_STANDINS: dict[str, Any] = {  # what a file refers to, by the module it refers to it in
    "torch_utils": None,
    "torch_utils.persistence": _reconstruct_persistent_obj,
    "dnnlib": None,
    "dnnlib.util": EasyDict,
}


def snapshot(network: Generator) -> dict[str, Any]:
    """What the training programs write."""
    dataset = EasyDict(class_name="training.dataset.ImageFolderDataset", path="pictures.zip")
    return {
        "training_set_kwargs": dataset, "G": generator(16, seed=9), "D": discriminator(),
        "G_ema": network, "augment_pipe": None,
    }  # fmt: skip
