"""Time what selection consists of: HQS, the VAE encoder both ways, the U-Net; against baselines.

    python benchmarks/time_selection.py                                    every case, three rounds
    python benchmarks/time_selection.py --device cuda --cap 24             within 24 GB of memory

In a round every side takes one turn. At full size a turn takes seconds to minutes on a CPU, so that
the samples of several calls add up: each is kept in benchmarks/results/<device>/selection.json as
soon as it is there, and a file of other versions is refused. tables.py makes the page. Sides:

    paper, tuned     see baselines/; "compiled": by torch.compile, and, as a known fault of Inductor
                     slows convolution, GroupNorm and SiLU down, without "reindexing" as well
    diffusers        its own module, called as it is
    ours             sdd_fast, its teacher of the dtype "auto"
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
# What torch.compile made, for later calls; `make clean` removes it.
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(HERE.parent / "build" / "inductor"))
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent)]

from baselines import paper, tuned  # noqa: E402
from baselines.networks import Networks, faces64, full_size, tiny  # noqa: E402
from conftest import device_name  # noqa: E402

import sdd_fast as sdd  # noqa: E402
from sdd_fast._build_info import build_info  # noqa: E402
from sdd_fast.gradients.image_gradient import EncodedImages  # noqa: E402

Run = Callable[[], Any]
SEVENTEEN = tuple(range(100, 901, 50))  # timesteps of the published search


@dataclass(frozen=True)
class Case:
    """sides: name → what returns what is timed. turns: how many of a side make the whole."""

    name: str
    sides: dict[str, Callable[[], Run]]
    turns: dict[str, int] = field(default_factory=dict)


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
    # A minute an evaluation; since nothing is shared, time is proportional to their number.
    turns = len(timesteps) if name == "HQS, full size" and device == "cpu" else 1

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


# --- taking turns ---------------------------------------------------------------------------------


class Results:
    """The file of a device: samples of all calls so far, and what follows from them."""

    def __init__(self, folder: Path, device: str) -> None:
        info = build_info()
        name = torch.cuda.get_device_name() if device == "cuda" else device_name()
        name = "dry run on the CPU" if device == "emulated" else name
        self.head = {"device": name, "clock": "CPU time" if by_cpu_time(device) else "wall time"}
        self.head |= {"cpu_level": info["cpu_level"] or "no native kernels"}
        self.head |= {key: info[key] for key in ("torch", "python", "sdd_fast")}
        self.head["diffusers"] = version("diffusers")
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        self.path = folder / slug / "selection.json"
        self.samples: dict[str, dict[str, list[float]]] = {}
        self.peaks: dict[str, dict[str, float]] = {}
        if self.path.is_file():
            there = json.loads(self.path.read_text(encoding="utf-8"))
            if {key: there.get(key) for key in self.head} != self.head:
                sys.exit(f"{self.path} is of other versions; delete it to measure again")
            self.samples = {row["case"]: row["samples_s"] for row in there["cases"]}
            self.peaks = {row["case"]: row["peak_gb"] for row in there["cases"]}

    def add(self, case: str, side: str, seconds: float, peak: float) -> None:
        self.samples.setdefault(case, {}).setdefault(side, []).append(seconds)
        if peak:
            self.peaks.setdefault(case, {})[side] = peak
        rows = [
            {
                "case": case, "read": 0, "written": 0,
                "sides": {side: summary(times) for side, times in sides.items()},
                "samples_s": sides, "peak_gb": self.peaks.get(case, {}),
            }
            for case, sides in self.samples.items()
        ]  # fmt: skip
        self.path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**self.head, "cases": rows}, indent=1, ensure_ascii=False)
        self.path.write_text(text + "\n", encoding="utf-8")


def summary(seconds: list[float]) -> dict[str, float]:
    most = seconds * 2 if len(seconds) == 1 else seconds
    quantiles = statistics.quantiles(most, n=10, method="inclusive")
    return {
        "median_ms": statistics.median(seconds) * 1e3,
        "p20_ms": quantiles[1] * 1e3,
        "p80_ms": quantiles[7] * 1e3,
    }


def timed(run: Run, device: str) -> tuple[float, float]:
    """Return seconds and the peak of GPU memory in GB, 0 on a CPU."""
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    clock = time.process_time if by_cpu_time(device) else time.perf_counter
    began = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
        return clock() - began, torch.cuda.max_memory_reserved() / 1e9
    return clock() - began, 0.0


def by_cpu_time(device: str) -> bool:
    """With one thread: other work on the machine does not stretch it."""
    return device != "cuda" and torch.get_num_threads() == 1


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "cuda", "emulated"), default="cpu",
                        help="emulated: a dry run at tiny sizes on the CPU")  # fmt: skip
    parser.add_argument("--cases", nargs="*", default=[""], help="how their names begin")
    parser.add_argument("--sides", nargs="*", help="their names")
    parser.add_argument("--rounds", type=int, default=3, help="0: only warm up, to compile")
    parser.add_argument(
        "--cold", action="store_true", help="no turn to warm up, which may take minutes"
    )
    parser.add_argument("--restart", action="store_true", help="drop earlier samples")
    parser.add_argument("--cap", type=float, help="GB of GPU memory to do with")
    parser.add_argument("--results", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    diffusers.utils.logging.set_verbosity_error()  # it warns of every cast
    if options.cap:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(options.cap * 1e9 / total)
    results = Results(options.results, options.device)
    for case in cases(options.device):
        if any(case.name.startswith(name) for name in options.cases):
            measure(case, options, results)


def measure(case: Case, options: argparse.Namespace, results: Results) -> None:
    wanted = {n: s for n, s in case.sides.items() if not options.sides or n in options.sides}
    if options.device == "emulated":  # to compile takes minutes
        wanted = {n: s for n, s in wanted.items() if "compiled" not in n}
    runs = {}
    name = case.name + (f", within {options.cap:g} GB" if options.cap else "")
    for side, ready in wanted.items():
        runs[side] = ready()
        if not options.cold:
            timed(runs[side], options.device)
        if options.restart:
            results.samples.get(name, {}).pop(side, None)
    order = list(runs)
    for _ in range(options.rounds):
        for side in order:
            seconds, peak = timed(runs[side], options.device)
            seconds *= case.turns.get(side, 1)
            results.add(name, side, seconds, peak)
            print(f"{name}; {side}: {seconds:.3g} s", flush=True)
        order.append(order.pop(0))  # no side always follows the same other side


if __name__ == "__main__":
    main()
