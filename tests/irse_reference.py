"""e4e, pSp and ArcFace from their state dicts, by definition and in float64; nothing of sdd_fast.

`arcface_shapes` and `pyramid_shapes` are the published key lists as a rule: the modules of
TreB1eN/InsightFace_Pytorch (`Backbone(50, mode="ir_se")`, MIT) and of omertov/encoder4editing
(`Encoder4Editing`, MIT), written out. What is known of the files themselves, apart from that code:
`model_ir_se50.pth` has 397 keys and 175,367,323 bytes; `e4e_ffhq_encode.pt` has 1,201,649,680 bytes
and styles 0 to 17, whose last has convs 0, 2, 4, 6, 8, 10 (encoder4editing issue 56).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

IR50 = (3, 4, 14, 3)
IR_SE50_BYTES = 175_367_323
E4E_FFHQ_BYTES = 1_201_649_680

Shapes = dict[str, tuple[int, ...]]
State = dict[str, Tensor]


def norm_shapes(name: str, channels: int) -> Shapes:
    per_channel = ("weight", "bias", "running_mean", "running_var")
    return {
        **{f"{name}.{k}": (channels,) for k in per_channel},
        f"{name}.num_batches_tracked": (),
    }


def trunk_shapes(units: Sequence[int] = IR50, width: int = 64, excitation: bool = True) -> Shapes:
    shapes: Shapes = {"input_layer.0.weight": (width, 3, 3, 3)}
    shapes |= norm_shapes("input_layer.1", width) | {"input_layer.2.weight": (width,)}
    a, i = width, 0
    for stage, count in enumerate(units):
        b = width * 2**stage
        for _ in range(count):
            res = f"body.{i}.res_layer"
            if a != b:
                shapes[f"body.{i}.shortcut_layer.0.weight"] = (b, a, 1, 1)
                shapes |= norm_shapes(f"body.{i}.shortcut_layer.1", b)
            shapes |= norm_shapes(f"{res}.0", a)
            shapes |= {f"{res}.1.weight": (b, a, 3, 3), f"{res}.2.weight": (b,)}
            shapes |= {f"{res}.3.weight": (b, b, 3, 3)} | norm_shapes(f"{res}.4", b)
            if excitation:
                shapes[f"{res}.5.fc1.weight"] = (b // 16, b, 1, 1)
                shapes[f"{res}.5.fc2.weight"] = (b, b // 16, 1, 1)
            a, i = b, i + 1
    return shapes


def arcface_shapes(
    units: Sequence[int] = IR50, width: int = 64, dim: int = 512, excitation: bool = True
) -> Shapes:
    linear = {
        "output_layer.3.weight": (dim, 8 * width * 7 * 7),
        "output_layer.3.bias": (dim,),
    }
    return {
        **trunk_shapes(units, width, excitation),
        **norm_shapes("output_layer.0", 8 * width),
        **linear,
        **norm_shapes("output_layer.4", dim),
    }


def pyramid_shapes(
    layers: int = 18, w_dim: int = 512, units: Sequence[int] = IR50, width: int = 64
) -> Shapes:
    shapes = trunk_shapes(units, width)
    for i in range(layers):
        for j in range(4 if i < 3 else 5 if i < 7 else 6):
            inputs = 8 * width if j == 0 else w_dim
            shapes[f"styles.{i}.convs.{2 * j}.weight"] = (w_dim, inputs, 3, 3)
            shapes[f"styles.{i}.convs.{2 * j}.bias"] = (w_dim,)
        shapes[f"styles.{i}.linear.weight"] = (w_dim, w_dim)
        shapes[f"styles.{i}.linear.bias"] = (w_dim,)
    for name, inputs in (("latlayer1", 4 * width), ("latlayer2", 2 * width)):
        shapes |= {
            f"{name}.weight": (8 * width, inputs, 1, 1),
            f"{name}.bias": (8 * width,),
        }
    return shapes


def random_state(shapes: Shapes, seed: int = 0) -> State:
    """Weights that keep activations near 1 and bring every tensor to bear on the result."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(1000)
        elif len(shape) > 1:  # a matrix or kernel; styles.i.linear is divided by √inputs when used
            equalized = key.startswith("styles.") and ".linear." in key
            scale = 1.0 if equalized else 1 / math.sqrt(math.prod(shape[1:]))
            state[key] = torch.randn(shape, generator=generator) * scale
        else:
            near_one = not key.endswith(("bias", "running_mean"))
            state[key] = torch.randn(shape, generator=generator) * 0.1 + near_one
            if key.endswith("running_var"):
                state[key] = state[key].abs()
    return state


def norm(state: State, name: str, x: Tensor) -> Tensor:
    def of(key: str) -> Tensor:
        return state[f"{name}.{key}"].double().reshape(-1, *[1] * (x.ndim - 2))

    return (x - of("running_mean")) / (of("running_var") + 1e-5).sqrt() * of("weight") + of("bias")


def conv(state: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight, bias = state[f"{name}.weight"].double(), state.get(f"{name}.bias")
    return torch.conv2d(
        x, weight, None if bias is None else bias.double(), stride, weight.shape[2] // 2
    )


def prelu(state: State, name: str, x: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * state[f"{name}.weight"].double()[:, None, None])


def trunk(state: State, images: Tensor, units: Sequence[int]) -> list[Tensor]:
    """Result of each stage; images float64."""
    x = prelu(
        state, "input_layer.2", norm(state, "input_layer.1", conv(state, "input_layer.0", images))
    )
    features, i = [], 0
    for count in units:
        for k in range(count):
            stride = 2 if k == 0 else 1
            name, res = f"body.{i}", f"body.{i}.res_layer"
            y = conv(state, f"{res}.1", norm(state, f"{res}.0", x))
            y = conv(state, f"{res}.3", prelu(state, f"{res}.2", y), stride)
            y = norm(state, f"{res}.4", y)
            if f"{res}.5.fc1.weight" in state:
                s = conv(state, f"{res}.5.fc1", y.mean((2, 3), keepdim=True)).clamp(min=0)
                y = y / (1 + torch.exp(-conv(state, f"{res}.5.fc2", s)))
            if f"{name}.shortcut_layer.0.weight" in state:
                x = conv(state, f"{name}.shortcut_layer.0", x, stride)
                x = norm(state, f"{name}.shortcut_layer.1", x)
            else:
                x = torch.max_pool2d(x, 1, stride)
            x, i = x + y, i + 1
        features.append(x)
    return features


def averaging(inputs: int, outputs: int) -> Tensor:
    """Matrix of adaptive average pooling: window i is [⌊i·n/m⌋, ⌈(i+1)·n/m⌉)."""
    matrix = torch.zeros(outputs, inputs, dtype=torch.float64)
    for i in range(outputs):
        start, end = i * inputs // outputs, -(-(i + 1) * inputs // outputs)
        matrix[i, start:end] = 1 / (end - start)
    return matrix


def stretching(inputs: int, outputs: int) -> Tensor:
    """Matrix of linear interpolation that maps the first sample to the first, last to last."""
    matrix = torch.zeros(outputs, inputs, dtype=torch.float64)
    for i in range(outputs):
        at = i * (inputs - 1) / (outputs - 1)
        low = min(int(at), inputs - 2)
        matrix[i, low], matrix[i, low + 1] = 1 - (at - low), at - low
    return matrix


def arcface(state: State, images: Tensor, units: Sequence[int]) -> Tensor:
    """Unit vectors of images [B, 3, R, R]; differentiable in the images."""
    x = images.double()
    if x.shape[-1] != 256:
        matrix = averaging(x.shape[-1], 256)
        x = matrix @ x @ matrix.T
    matrix = averaging(188, 112)
    x = matrix @ x[:, :, 35:223, 32:220] @ matrix.T
    x = norm(state, "output_layer.0", trunk(state, x, units)[-1]).flatten(1)
    x = x @ state["output_layer.3.weight"].double().T + state["output_layer.3.bias"].double()
    x = norm(state, "output_layer.4", x)
    return x / x.square().sum(1, keepdim=True).sqrt()


def pyramid(
    state: State, images: Tensor, units: Sequence[int], layers: int, deltas: bool
) -> Tensor:
    """Styles [B, layers, w_dim] of e4e (deltas) or pSp, before the average latent is added."""
    _, c1, c2, c3 = trunk(state, images.double(), units)

    def add(small: Tensor, large: Tensor) -> Tensor:
        rows = stretching(small.shape[2], large.shape[2])
        columns = stretching(small.shape[3], large.shape[3])
        return large + rows @ small @ columns.T

    p2 = add(c3, conv(state, "latlayer1", c2))
    p1 = add(p2, conv(state, "latlayer2", c1))
    styles: list[Tensor] = []
    for i in range(layers):
        x, j = (c3 if i < 3 else p2 if i < 7 else p1), 0
        while f"styles.{i}.convs.{j}.weight" in state:
            x = conv(state, f"styles.{i}.convs.{j}", x, 2)
            x, j = torch.where(x > 0, x, 0.01 * x), j + 2
        assert x.shape[2:] == (1, 1)
        weight = state[f"styles.{i}.linear.weight"].double()
        x = x[:, :, 0, 0] @ weight.T / math.sqrt(weight.shape[1])
        x = x + state[f"styles.{i}.linear.bias"].double()
        styles.append(styles[0] + x if deltas and i else x)
    return torch.stack(styles, 1)
