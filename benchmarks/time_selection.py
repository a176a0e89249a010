"""Time what selection consists of: HQS, the VAE encoder both ways, the U-Net; against baselines.

    python benchmarks/time_selection.py                                    every case, three rounds
    python benchmarks/time_selection.py --device cuda --cap 24             within 24 GB of memory

In a round every side takes one turn; samples of several calls add up, see turns.py. Sides:

    paper, tuned     see baselines/; "compiled": by torch.compile, and, as a known fault of Inductor
                     slows convolution, GroupNorm and SiLU down, without "reindexing" as well
    diffusers        its own module, called as it is
    ours             sdd_fast, its teacher of the dtype "auto"
"""

from __future__ import annotations

import copy
import functools
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
# What torch.compile made, for later calls; `make clean` removes it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(HERE.parent / "build" / "inductor"))
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent)]

from baselines import paper, tuned  # noqa: E402
from baselines.networks import Networks, faces64, full_size, tiny  # noqa: E402
from turns import Case, Run, main as take_turns  # noqa: E402

import sdd_fast as sdd  # noqa: E402
from sdd_fast.gradients.image_gradient import EncodedImages  # noqa: E402

SEVENTEEN = tuple(range(100, 901, 50))  # timesteps of the published search


@dataclass(frozen=True)
class Sizes:
    """What a device is given."""

    full: Callable[[str], Networks]
    timesteps: tuple[int, ...]  # of HQS at full size
    images: int
    unet_latents: int
    faces: int


SIZES = {
    "cpu": Sizes(full_size, (400, 700), 1, 1, 16),
    "cuda": Sizes(full_size, SEVENTEEN, 8, 17, 200),
    "emulated": Sizes(tiny, (200, 800), 1, 1, 1),
}


def cases(device: str) -> Iterator[Case]:
    """Yield every case; networks are built when a side first needs them."""
    sizes = SIZES[device]
    device = "cuda" if device == "cuda" else "cpu"
    faces = functools.cache(lambda: faces64(device))
    full = functools.cache(lambda: sizes.full(device))
    yield hqs_case("HQS, faces64", faces, sizes.faces, SEVENTEEN, device)
    yield together_case(faces, sizes.faces)
    yield adaptive_case(faces, 64)
    yield hqs_case("HQS, full size", full, sizes.images, sizes.timesteps, device)
    yield encoder_case(full, sizes.images, device)
    yield unet_case(full, sizes.unet_latents, device)


# --- HQS ------------------------------------------------------------------------------------------


def hqs_case(
    name: str, make: Callable[[], Networks], images: int, timesteps: tuple[int, ...], device: str
) -> Case:
    """One prompt; images are generated from their latents."""
    # It takes minutes; since nothing is shared, time is proportional to their number.
    turns = len(timesteps) if name == "HQS, full size" else 1

    def baseline(module: Any, *how: Any) -> Callable[[], Run]:
        def ready() -> Run:
            networks = make()
            prepared, w_plus = module.prepare(networks, *how), networks.w_plus[:images]
            noise = torch.randn(images, *networks.latent_shape).to(w_plus)
            text = networks.text[:1]
            at = timesteps[:1] if module is paper and turns > 1 else timesteps
            return lambda: module.statistics(prepared, w_plus, text, at, noise)

        return ready

    def ours(dtype: str) -> Callable[[], Run]:
        return lambda: functools.partial(
            hqs, make(), teacher(make(), dtype), images, timesteps, prompts(make())[0]
        )

    low = tuned.low_precision(device)
    return Case(
        f"{name}: {images} × {len(timesteps)} timesteps",
        {
            "paper": baseline(paper),
            "tuned": baseline(tuned, low),
            "tuned, float32": baseline(tuned, torch.float32),
            "tuned, compiled": baseline(tuned, low, True),
            "tuned, compiled, no reindexing": baseline(tuned, low, True, False),
            "ours, float32": ours("float32"),
            "ours": ours("auto"),
        },
        {"paper": turns},
    )


def together_case(make: Callable[[], Networks], images: int) -> Case:
    """Eight prompts, which share images, their encoding and the rows without a prompt."""

    def evaluating(calls: Callable[[list[Any]], list[Any]]) -> Run:
        prior, of_calls = teacher(make()), calls(prompts(make()))
        return lambda: [hqs(make(), prior, images, SEVENTEEN, one) for one in of_calls]

    sides = {
        "in turn": lambda: evaluating(lambda eight: eight),
        "ours": lambda: evaluating(lambda eight: [eight]),
    }
    return Case(f"HQS, faces64, eight prompts: {images} × {len(SEVENTEEN)} timesteps", sides)


def adaptive_case(make: Callable[[], Networks], images: int) -> Case:
    """The search that ends when its choice is settled."""

    def searching(search: str) -> Callable[[], Run]:
        return lambda: functools.partial(
            hqs, make(), teacher(make()), images, SEVENTEEN, prompts(make())[0], search=search
        )

    sides = {"exhaustive": searching("exhaustive"), "ours": searching("adaptive")}
    return Case(f"HQS, faces64, adaptive: {images} × {len(SEVENTEEN)} timesteps", sides)


def hqs(
    networks: Networks,
    prior: sdd.DiffusionPrior,
    images: int,
    timesteps: tuple[int, ...],
    prompt: sdd.PromptEmbeds | list[sdd.PromptEmbeds],
    **more: Any,
) -> Any:
    w_plus, generator = networks.w_plus[:images], networks.generator
    return sdd.hqs(prior, w_plus, prompt, timesteps, generator=generator, progress=False, **more)


def prompts(networks: Networks) -> list[sdd.PromptEmbeds]:
    return [sdd.PromptEmbeds(text[None], networks.no_text) for text in networks.text]


def teacher(networks: Networks, dtype: str = "auto") -> sdd.DiffusionPrior:
    """Hand the parts to sdd_fast as anybody would, in a pipeline of diffusers."""
    from diffusers import StableDiffusionPipeline

    parts = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
    pipeline = StableDiffusionPipeline(
        **{name: copy.deepcopy(getattr(networks, name)) for name in parts}, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    return sdd.DiffusionPrior.from_pretrained(pipeline, dtype=dtype)


# --- its parts ------------------------------------------------------------------------------------


def formats(part: Any, device: str) -> dict[str, Callable[[], Any]]:
    """diffusers' module in every dtype and memory format that people use."""
    low = tuned.low_precision(device)
    nchw, nhwc = torch.contiguous_format, torch.channels_last
    kinds = {"float32": (torch.float32, nchw), "float32 channels_last": (torch.float32, nhwc)}
    if low != torch.float32:
        name = str(low).removeprefix("torch.")
        kinds |= {name: (low, nchw), f"{name} channels_last": (low, nhwc)}
    return {
        f"diffusers, {name}": functools.partial(
            lambda dtype, memory: copy.deepcopy(part()).to(dtype, memory_format=memory), *kind
        )
        for name, kind in kinds.items()
    }


def eager_and_compiled(of: Callable[..., Run], modules: dict[str, Any]) -> dict[str, Any]:
    """Every module as it is, and the last of them compiled."""
    sides = {name: functools.partial(of, module, False) for name, module in modules.items()}
    fastest = list(modules)[-1]
    return {**sides, f"{fastest}, compiled": functools.partial(of, modules[fastest], True)}


def encoder_case(make: Callable[[], Networks], images: int, device: str) -> Case:
    """The VAE encoder and its vector-Jacobian product."""

    def inputs() -> tuple[Tensor, Tensor]:
        side = make().resolution
        y = torch.randn(images, 3, side, side, device=device).clamp(-1, 1)
        return y, torch.randn(images, *make().latent_shape, device=device)

    def of(module: Callable[[], Any], compiled: bool) -> Run:
        vae, (y, r) = module(), inputs()
        memory = torch.channels_last if last(vae) else torch.contiguous_format
        y = y.to(vae.dtype, memory_format=memory).requires_grad_()
        encode = torch.compile(vae.encode, dynamic=False) if compiled else vae.encode

        def run() -> Tensor:
            return torch.autograd.grad(encode(y).latent_dist.mode(), y, r.to(vae.dtype))[0]

        return run

    def ours() -> Run:
        prior, (y, r) = teacher(make()), inputs()
        return lambda: EncodedImages(prior, y).gradient(r)

    sides = eager_and_compiled(of, formats(lambda: make().vae, device))
    return Case(f"VAE encoder, forward and VJP: {images}", {**sides, "ours": ours})


def unet_case(make: Callable[[], Networks], latents: int, device: str) -> Case:
    """The U-Net with and without a prompt."""

    def inputs() -> tuple[Tensor, Tensor]:
        z = torch.randn(latents, *make().latent_shape, device=device)
        return z, torch.full((latents,), 500, device=device)

    @torch.no_grad()
    def predict(unet: Any, memory: torch.memory_format) -> Tensor:
        (z, t), networks = inputs(), make()
        both = torch.cat([networks.no_text, networks.text[:1]]).repeat_interleave(latents, 0)
        rows = torch.cat([z, z]).to(unet.dtype, memory_format=memory)
        out: Tensor = unet(rows, torch.cat([t, t]), both.to(unet.dtype), return_dict=False)[0]
        return out

    def of(module: Callable[[], Any], compiled: bool) -> Run:
        unet = module()
        memory = torch.channels_last if last(unet) else torch.contiguous_format
        call = torch.compile(unet, dynamic=False) if compiled else unet
        return functools.partial(predict, call, memory)

    def ours() -> Run:
        prior, (z, t), networks = teacher(make()), inputs(), make()
        one = prompts(networks)[0]
        return torch.no_grad()(lambda: prior.predict_noise(z, t, one, paper.GUIDANCE_SCALE))

    sides = eager_and_compiled(of, formats(lambda: make().unet, device))
    return Case(f"U-Net: {2 * latents} rows", {**sides, "ours": ours})


def last(network: Any) -> bool:
    weight = next(p for p in network.parameters() if p.ndim == 4 and p.shape[2] == 3)
    return bool(weight.is_contiguous(memory_format=torch.channels_last))


main = functools.partial(take_turns, "selection", __doc__, cases)

if __name__ == "__main__":
    main()
