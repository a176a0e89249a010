"""Which kernel computes the teacher's attention: one backend for each layer.

diffusers' processor calls PyTorch's attention whatever backend a Stable Diffusion U-Net is told to
use; ours asks diffusers' dispatcher for the one that it was given, and no default of the process is
read or set. (PyTorch's own kernels are singled out by flags of the process, for the time of a
call: teachers that single out different ones should not run in two threads at once. "sdpa" sets
none.)
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import measured
from ..schema import Rule, is_list_of, is_number, is_object_of, problems
from .configs import native_size

BACKENDS = {
    "sdpa": "native", "sdpa-flash": "_native_flash", "sdpa-efficient": "_native_efficient",
    "sdpa-cudnn": "_native_cudnn", "sdpa-math": "_native_math", "xformers": "xformers",
    "flash": "flash", "flash-3": "_flash_3",
}  # fmt: skip
"""Name here → name in diffusers. "sdpa" lets PyTorch choose among its own."""

AUTO = "auto"
AUTO_CANDIDATES = [name for name in BACKENDS if name != "sdpa-math"]
_PACKAGES = {
    "xformers": ("xformers.ops", "pip install 'sdd-fast[xformers]'"),
    "flash": ("flash_attn", "pip install flash-attn"),
    "flash-3": ("flash_attn_interface", "build the folder hopper/ of flash-attention"),
}
"""What is no part of PyTorch: its module, and how to get it."""

_FASTER = 0.95  # of the time of "sdpa": what is gained by less is noise
_ROWS = {"unet": 8, "vae": 1}  # in what is timed
_WARM_UP, _RUNS = 5, 20


class Shape(NamedTuple):
    """What a layer computes for each row: queries [queries, heads, head_dim] and so many keys."""

    part: str  # "unet" or "vae", which alone must have a gradient
    heads: int
    head_dim: int
    queries: int
    keys: int

    def __str__(self) -> str:
        size = f"{self.queries}x{self.keys}, {self.heads} heads of {self.head_dim}"
        return f"{self.part}: {size}"


@dataclass(frozen=True)
class Backend:
    """The backend of layers of one shape.

    Args:
        name: a key of `BACKENDS`. differentiable: whether gradients go through it.
        milliseconds: what each that could run took, of a U-Net for eight rows, of a VAE for one
            and back; {} if nothing was timed.
        refused: why each other could not run.
    """

    name: str
    differentiable: bool = True
    milliseconds: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class BackendProcessor:
    """What diffusers' AttnProcessor2_0 computes, with softmax(q kᵀ) v by one backend."""

    def __init__(self, backend: Backend, shape: Shape) -> None:
        self.backend, self.shape = backend, shape
        self._attention_backend = BACKENDS[backend.name]  # diffusers' set_attention_backend sets it

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,  # [B, S, C], or [B, C, h, w]
        encoder_hidden_states: Tensor | None = None,  # [B, S', C']
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        x = hidden_states if attn.spatial_norm is None else attn.spatial_norm(hidden_states, temb)
        is_image = x.ndim == 4
        if is_image:
            x = x.flatten(2).transpose(1, 2)
        batch, heads = len(x), attn.heads
        if attn.group_norm is not None:
            x = attn.group_norm(x.transpose(1, 2)).transpose(1, 2)
        context = x if encoder_hidden_states is None else encoder_hidden_states
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, context.shape[1], batch)
            attention_mask = attention_mask.view(batch, heads, -1, attention_mask.shape[-1])
        q, k, v = (  # [B, S, H, D], [B, S', H, D] twice
            layer(source).unflatten(-1, (heads, -1))
            for layer, source in ((attn.to_q, x), (attn.to_k, context), (attn.to_v, context))
        )
        q = q if attn.norm_q is None else attn.norm_q(q)
        k = k if attn.norm_k is None else attn.norm_k(k)
        differentiable = self.backend.differentiable or not (q.requires_grad or k.requires_grad)
        out = _attention(
            self._attention_backend if differentiable else BACKENDS["sdpa"], q, k, v, attention_mask
        )
        out = attn.to_out[1](attn.to_out[0](out.flatten(2)))
        if is_image:
            out = out.transpose(1, 2).reshape(hidden_states.shape)
        if attn.residual_connection:
            out = out + hidden_states
        return out / attn.rescale_output_factor


def _attention(backend: str, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Compute softmax(q kᵀ/√D) v, [B, S, H, D] like q; k and v: [B, S', H, D]."""
    from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn

    return dispatch_attention_fn(q, k, v, attn_mask=mask, backend=AttentionBackendName(backend))


def check_attention(name: str) -> str:
    """Return the key of `BACKENDS`, or "auto", that a name means; diffusers' names do as well.

    Raises:
        ValueError: there is none, or it is one that no teacher should use.
    """
    found = {theirs: ours for ours, theirs in BACKENDS.items()}.get(str(name), str(name))
    if found in BACKENDS or found == AUTO:
        return found
    why = ""
    if "sage" in str(name):
        why = ": it quantizes, and guidance multiplies its error by the guidance scale"
    elif str(name).endswith("_hub"):
        why = ": it downloads code and runs it"
    raise ValueError(
        f"attention={name!r} is not offered{why}; expected {AUTO} or one of {', '.join(BACKENDS)}"
    )


def set_attention(
    networks: Mapping[str, Any], attention: str, tokens: int, without: Collection[str] = ()
) -> None:
    """Give every attention layer of a U-Net and a VAE its backend, in place.

    Args:
        networks: with "unet" and "vae", on the device and in the dtype that they will have.
        attention: "auto" takes the fastest for each shape, on a CPU "sdpa", which knows one kernel
            there; else a key of `BACKENDS`. Layers of the VAE whose heads it does not take, or that
            it has no gradient for, take "sdpa".
        tokens: of a prompt. without: backends that "auto" leaves out.

    Raises:
        ValueError: that backend cannot run here, or layers have processors of their own.
    """
    name = check_attention(attention)
    layers = _layers(networks, tokens)
    unet = networks["unet"]
    chosen: dict[Shape, Backend] = {}
    for shape in dict.fromkeys(shape for _, shape in layers):
        if name == "sdpa" or (name == AUTO and unet.device.type == "cpu"):
            chosen[shape] = Backend("sdpa")
        elif name == AUTO:
            chosen[shape] = _fastest(shape, unet.device, networks[shape.part].dtype, without)
        else:
            chosen[shape] = _named(name, shape, unet.device, networks[shape.part].dtype)
    for layer, shape in layers:
        layer.set_processor(BackendProcessor(chosen[shape], shape))


def attention_in_use(networks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Say which backend computes the layers of each shape, and what each took; JSON only."""
    found: dict[str, dict[str, Any]] = {}
    for part in ("unet", "vae"):
        for processor in networks[part].attn_processors.values():
            if isinstance(processor, BackendProcessor):
                backend = processor.backend
                told = {"backend": backend.name, "milliseconds": dict(backend.milliseconds)}
                told |= {"refused": dict(backend.refused)}
                shape = str(processor.shape)
            else:
                shape, told = f"{part}: as given", {"backend": type(processor).__name__}
            entry = found.setdefault(shape, {**told, "layers": 0})
            entry["layers"] += 1
    return found


def timed_here() -> dict[str, dict[str, float]]:
    """Return what was timed with the libraries of today: layer, dtype and device → backend → ms."""
    start, end = "attention | ", measured.key_of("")
    return {
        key[len(start) : -len(end)]: entry["milliseconds"]
        for key, entry in measured.everything().items()
        if key.startswith(start) and key.endswith(end) and not problems(entry, _MEASURED)
    }


def _layers(networks: Mapping[str, Any], tokens: int) -> list[tuple[Any, Shape]]:
    """List the attention layers, each with its shape for an image of the native size."""
    from diffusers.models import attention_processor as stock

    known = (
        stock.AttnProcessor, stock.AttnProcessor2_0, stock.XFormersAttnProcessor, BackendProcessor,
    )  # fmt: skip
    side = native_size(networks["unet"].config.sample_size)
    levels = len(networks["unet"].config.block_out_channels)
    found = []
    for part in ("unet", "vae"):
        for name, layer in networks[part].named_modules():
            if not isinstance(layer, stock.Attention):
                continue
            if not isinstance(layer.processor, known) or not layer.scale_qk:
                raise ValueError(
                    f"the layer {name} of the {part} has a processor of its own "
                    f"({type(layer.processor).__name__}); unload what put it there, or give "
                    "attention=None, which leaves all layers as they are"
                )
            halved = _halvings(name, levels) if part == "unet" else 0
            queries = (side >> halved) ** 2
            keys = tokens if layer.is_cross_attention else queries
            head_dim = layer.inner_dim // layer.heads
            found.append((layer, Shape(part, layer.heads, head_dim, queries, keys)))
    return found


def _halvings(layer: str, levels: int) -> int:
    """Return how often a U-Net has halved the latent where it has a layer of this name."""
    block, index, *_ = layer.removeprefix("_orig_mod.").split(".")  # that of a compiled one
    if block == "mid_block":
        return levels - 1
    return int(index) if block == "down_blocks" else levels - 1 - int(index)


# --- which can run, and which is fastest ----------------------------------------------------------


def _named(name: str, shape: Shape, device: torch.device, dtype: torch.dtype) -> Backend:
    try:
        return Backend(name, _probe(name, shape, device, dtype))
    except _CannotRun as error:
        if shape.part == "vae":
            return Backend("sdpa", refused={name: str(error)})
        raise ValueError(
            f"attention={name!r} cannot run here ({shape}, {dtype}, {device}): {error}; give "
            "another, or auto"
        ) from error


def _fastest(
    shape: Shape, device: torch.device, dtype: torch.dtype, without: Collection[str]
) -> Backend:
    """Take the fastest backend, by figures of an earlier time if there are any."""
    key = measured.key_of("attention", shape, dtype, measured.device_name(device))
    known = measured.everything().get(key)
    if known is None or problems(known, _MEASURED):
        known = _measure(shape, device, dtype)
        measured.keep(key, known)
    times = {name: t for name, t in known["milliseconds"].items() if name not in without}
    limit = _FASTER * times.get("sdpa", math.inf)
    best = min(times, key=times.__getitem__, default="sdpa")
    name = best if times.get(best, math.inf) < limit else "sdpa"
    return Backend(name, name not in known["forward_only"], times, known["refused"])


_MEASURED = {
    "milliseconds": Rule(
        lambda value: is_object_of(is_number)(value) and value.keys() <= BACKENDS.keys(),
        "an object of a number for each backend",
        required=True,
    ),
    "refused": Rule(
        is_object_of(lambda value: isinstance(value, str)), "an object of texts", required=True
    ),
    "forward_only": Rule(
        is_list_of(lambda value: isinstance(value, str)), "a list of backends", required=True
    ),
}


def _measure(shape: Shape, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Time every candidate that can run."""
    found: dict[str, Any] = {"milliseconds": {}, "refused": {}, "forward_only": []}
    for name in AUTO_CANDIDATES:
        try:
            if not _probe(name, shape, device, dtype):
                found["forward_only"].append(name)
            found["milliseconds"][name] = _milliseconds(name, shape, device, dtype)
        except _CannotRun as error:
            found["refused"][name] = str(error)
    return found


class _CannotRun(Exception):
    """Why a backend cannot compute a shape on a device."""


def _probe(name: str, shape: Shape, device: torch.device, dtype: torch.dtype) -> bool:
    """Run a tiny forward and backward pass; return whether there is a gradient.

    Raises:
        _CannotRun: it fails, is wrong, or has no gradient where one is needed.
    """
    if name in _PACKAGES:
        module, remedy = _PACKAGES[name]
        try:
            importlib.import_module(module)
        except (ImportError, OSError, RuntimeError) as error:
            raise _CannotRun(f"it needs {module}: {remedy} ({_first_line(error)})") from error
    tiny = shape._replace(queries=min(shape.queries, 64), keys=min(shape.keys, 77))
    q, k, v = _inputs(tiny, 1, device, dtype)
    try:
        out = _attention(BACKENDS[name], q, k, v)
    except Exception as error:  # noqa: BLE001 (whatever a kernel raises)
        raise _CannotRun(_first_line(error)) from error
    expected = _reference(q, k, v)
    difference = float((out.detach().cpu() - expected).norm() / expected.norm())
    allowed = max(4 * torch.finfo(dtype).eps, 1e-5)
    if not difference <= allowed:
        raise _CannotRun(f"its result is off by {difference:.1g}, more than {allowed:.1g}")
    try:
        torch.autograd.grad(out, (q, k, v), out.detach())
    except Exception as error:  # noqa: BLE001
        if shape.part == "vae":
            raise _CannotRun(f"it has no gradient: {_first_line(error)}") from error
        return False
    return True


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def _inputs(
    shape: Shape, rows: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Draw q, k and v, [rows, queries or keys, heads, head_dim]."""
    rng = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(rows, length, shape.heads, shape.head_dim, generator=rng)
        .to(device, dtype)
        .requires_grad_()
        for length in (shape.queries, shape.keys, shape.keys)
    )


def _reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute softmax(q kᵀ/√D) v, [B, S, H, D], in float64 on the CPU."""
    q, k, v = (x.detach().cpu().double() for x in (q, k, v))
    p = torch.einsum("bqhd,bkhd->bhqk", q, k).div(q.shape[-1] ** 0.5).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", p, v)


def _milliseconds(name: str, shape: Shape, device: torch.device, dtype: torch.dtype) -> float:
    """Time a forward pass, with its backward pass in the VAE; the median.

    Raises:
        _CannotRun: it takes more memory than there is, say.
    """
    q, k, v = _inputs(shape, _ROWS[shape.part], device, dtype)

    def once() -> None:
        with torch.set_grad_enabled(shape.part == "vae"):
            out = _attention(BACKENDS[name], q, k, v)
        if out.requires_grad:
            torch.autograd.grad(out, (q, k, v), out.detach())

    times = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        try:
            once()
        except Exception as error:  # noqa: BLE001
            raise _CannotRun(_first_line(error)) from error
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(1000 * (time.perf_counter() - began))
    return round(median(times[_WARM_UP:]), 4)
