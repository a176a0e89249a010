"""Time a step of a training and an edit: ours, baselines and other editors.

    python benchmarks/time_cost.py                          every case, three rounds
    python benchmarks/time_cost.py --cases "edit, full"     what begins so

At full size all sides of a step together take some 30 GB; on a smaller machine call it for some of
them at a time, with --sides.

In a round every side takes one turn; samples of several calls add up, see turns.py. Sides:

    paper, tuned     see baselines/; "low generator": that in the dtype of the teacher as well
    ours             sdd_fast with the authors' settings, its teacher of the dtype "auto"; "default
                     settings": with those of sdd_fast, among them the judge's row of the U-Net;
                     "kernel by kernel": on a GPU, where steps are recorded as CUDA graphs, without
    editors          see baselines/editors.py. At full size on a CPU, where a step takes seconds,
                     two small numbers of steps are timed; tables.py computes the whole.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(HERE.parent / "build" / "inductor"))
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent)]

from baselines import editors, paper, tuned  # noqa: E402
from baselines.networks import Networks, faces64, full_size, tiny  # noqa: E402
from time_selection import teacher  # noqa: E402
from turns import Case, Clock, Editor, Run, Timed, main as take_turns  # noqa: E402

import sdd_fast as sdd  # noqa: E402
from sdd_fast.models import LevelsMapper  # noqa: E402

PROMPT = "a face with white hair"
TEN = tuple(
    f"a face with {what}"
    for what in (
        "white hair", "black hair", "red hair", "long hair", "glasses", "a beard", "a smile",
        "dark skin", "pale skin", "brown eyes",
    )
)  # fmt: skip
FACES = sdd.DistillConfig.batch_size  # images of a step of faces64
TIMESTEPS = (600, 700, 800)
RECORDED = 100  # steps of a training on a GPU, which records them
SHORTER = (1, 3)  # steps that are timed where the whole takes minutes


@dataclass(frozen=True)
class Other:
    """An editor: its denoising steps, and the rows of the U-Net that each takes for an image."""

    edit: Callable[[Networks, Tensor], editors.Edit]
    steps: int
    rows: int
    note: str = ""
    of: str = "the U-Net"
    pixels: int | None = None  # a side, and what it computes in, if these are its own
    dtype: str = ""


EDITORS = {
    "SDEdit, DDIM": Other(editors.sdedit, 50, 2),
    "SDEdit, DPM-Solver++": Other(editors.sdedit_by_solver, 8, 2),
    "DDIB": Other(editors.ddib, 50, 3, ", one to invert"),
    "InstructPix2Pix": Other(editors.instruct_pix2pix, 20, 3),
    "LEDITS++": Other(editors.ledits, 50, 3, ", one to invert; attention plain, as shipped"),
    "LCM": Other(editors.latent_consistency, 4, 1),
    "SD-Turbo": Other(editors.turbo, 1, 1),
}
WITH_OWN_NETWORKS = {
    "DiffAE": Other(
        editors.diffusion_autoencoder,
        350,
        1,
        ": 250 to invert, 100 to decode",
        "its own U-Net",
        256,
    ),
}
"""At full size only, since their networks are."""

ON_A_GPU = {
    "FLUX.2-klein": Other(
        editors.flux_klein, 4, 1, ", one image at a time", "its transformer", dtype="bfloat16"
    ),
}
"""At full size as well, where diffusers has them."""


def editors_of(device: str, full: bool) -> dict[str, Other]:
    """Return the editors that a case compares with."""
    if not full:
        return EDITORS
    there = ON_A_GPU if device == "cuda" and hasattr(diffusers, "Flux2KleinPipeline") else {}
    return EDITORS | WITH_OWN_NETWORKS | there


@dataclass(frozen=True)
class Sizes:
    """What a device is given."""

    full: Callable[[str], Networks]
    batch: int  # of a step at full size
    edits: int  # images at once, at full size
    faces: int  # images at once of faces64
    shorter: bool


SIZES = {
    "cpu": Sizes(full_size, 2, 1, 8, True),
    "cuda": Sizes(full_size, 2, 8, 8, False),
    "emulated": Sizes(tiny, 1, 1, 2, True),
}


def cases(device: str) -> Iterator[Case]:
    """Yield every case; networks are built when a side first needs them."""
    sizes = SIZES[device]
    device = "cuda" if device == "cuda" else "cpu"
    faces = functools.cache(lambda: faces64(device))
    full = functools.cache(lambda: sizes.full(device))
    yield step_case("training step, faces64", faces, min(sizes.faces, FACES), device)
    yield together_case("ten prompts, faces64", faces, min(sizes.faces, FACES), device)
    few = editors_of(device, full=False)
    yield edit_case("edit, faces64", faces, few, sizes.faces, device, (64, 64), False)
    yield step_case("training step, full size", full, sizes.batch, device)
    every, shorter = editors_of(device, full=True), sizes.shorter
    yield edit_case("edit, full size", full, every, sizes.edits, device, (1024, 512), shorter)


# --- a step of a training -------------------------------------------------------------------------


def step_case(name: str, make: Callable[[], Networks], batch: int, device: str) -> Case:
    """One step of the authors' training: the same latents, prompt and settings for all."""

    def of_paper() -> Run:
        networks = paper.prepare(make())
        mapper, optimizer, inputs = _training(networks, batch)
        return lambda: paper.training_step(networks, mapper, optimizer, *inputs)

    def of_tuned(networks: Callable[[], Networks]) -> Callable[[], Run]:
        def ready() -> Run:
            given = networks()
            mapper, optimizer, (w_plus, *rest) = _training(given, batch)
            with torch.no_grad():
                known = given.identity(make().generator.synthesis(w_plus))
            return lambda: tuned.training_step(given, mapper, optimizer, w_plus, known, *rest)

        return ready

    def ours(dtype: str, **settings: Any) -> Callable[[], Timed]:
        return lambda: Timed(our_step(make(), prior(dtype), batch, settings))

    low = tuned.low_precision(device)
    prior = functools.cache(lambda dtype: teacher(make(), dtype))
    in_low = functools.cache(lambda: tuned.prepare(make(), low))
    authors = vars(sdd.DistillConfig.paper())
    by_kernel = {
        "ours, default settings, kernel by kernel": ours("auto", cuda_graph=False),
        "ours, kernel by kernel": ours("auto", **authors | {"cuda_graph": False}),
    }
    return Case(
        f"{name}: batch {batch}",
        {
            "paper": of_paper,
            "tuned": of_tuned(in_low),
            "tuned, float32": of_tuned(lambda: tuned.prepare(make(), torch.float32)),
            "tuned, low generator": of_tuned(lambda: tuned.with_low_generator(in_low())),
            "tuned, compiled": of_tuned(lambda: tuned.prepare(make(), low, True)),
            "ours, float32": ours("float32", **authors),
            "ours, default settings": ours("auto"),
            "ours, default settings, compiled": ours("auto", compile=True),
            "ours": ours("auto", **authors | {"generator_dtype": "auto"}),
            **(by_kernel if device == "cuda" else {}),
        },
        notes=step_notes(low, device == "cuda"),
        images=batch,
    )


def together_case(name: str, make: Callable[[], Networks], batch: int, device: str) -> Case:
    """A step for each of ten prompts, one after the other or together; seconds a prompt."""
    prior = functools.cache(lambda: teacher(make(), "auto"))

    def ours(prompts: Sequence[str], **settings: Any) -> Callable[[], Timed]:
        return lambda: Timed(our_step(make(), prior(), batch, settings, prompts))

    sides = {"in turn": ours(TEN[:1]), "ours": ours(TEN)}
    notes = {"in turn": "one prompt alone", "ours": "together; seconds divided by ten"}
    if device == "cuda":
        for side, prompts in (("in turn", TEN[:1]), ("ours", TEN)):
            sides[f"{side}, kernel by kernel"] = ours(prompts, cuda_graph=False)
            notes[f"{side}, kernel by kernel"] = notes[side]
    return Case(f"training step of {name}: batch {batch} each", sides, notes=notes, images=batch)


def step_notes(low: torch.dtype, on_gpu: bool) -> dict[str, str]:
    name = str(low).removeprefix("torch.")
    recorded = f"; a mean of {RECORDED} steps, launched as CUDA graphs, with two recordings"
    recorded = recorded if on_gpu else ""
    judge = "the judge's row of the U-Net, and the images before the edit"
    return {
        "paper": "float32, nothing frozen, the images before the edit rendered",
        "tuned": f"teacher {name} channels_last, generator float32, frozen",
        "tuned, float32": "all float32, teacher channels_last, frozen",
        "tuned, low generator": f"teacher and generator {name}, frozen",
        "tuned, compiled": "U-Net and VAE encoder by torch.compile",
        "ours, float32": "the authors' settings",
        "ours, default settings, compiled": "U-Net by torch.compile",
        "ours, default settings": judge + recorded,
        "ours, default settings, kernel by kernel": f"{judge}; no CUDA graph",
        "ours, kernel by kernel": "the authors' settings; no CUDA graph",
        "ours": f"the authors' settings; teacher and, on a CPU, generator {name}" + recorded,
    }


def _training(networks: Networks, batch: int) -> tuple[LevelsMapper, Any, tuple[Tensor, ...]]:
    """A mapper like the authors', its optimizer, and the inputs of a step."""
    w_plus = networks.w_plus[:batch].contiguous()
    mapper = new_mapper(networks)
    timesteps = torch.tensor(TIMESTEPS, device=w_plus.device)[torch.arange(batch) % len(TIMESTEPS)]
    noise = torch.randn(batch, *networks.latent_shape).to(w_plus)
    return mapper, paper.optimizer_of(mapper), (w_plus, networks.text[:1], timesteps, noise)


def new_mapper(networks: Networks) -> LevelsMapper:
    layers, width = networks.w_plus.shape[1:]
    return LevelsMapper(layers, width, zero_init=False).to(networks.w_plus.device)


def our_step(
    networks: Networks,
    prior: sdd.DiffusionPrior,
    batch: int,
    settings: dict[str, Any],
    prompts: Sequence[str] = (PROMPT,),
) -> Callable[[Clock], float]:
    """Time steps of `distill` by its progress, but for the first, which warms up; for one prompt.

    Of five after it one goes without the judge, where there is one: a fifth, as in any training.
    """
    guidance = sdd.GuidanceConfig(guidance_scale=paper.GUIDANCE_SCALE)
    on_gpu = prior.device.type == "cuda"
    steps = 3 if settings.get("prior_weight") == 0 else 6
    if on_gpu and settings.get("cuda_graph") is not False:
        steps = RECORDED
    changes = {"steps": steps, "batch_size": batch, "log_every": steps, "guidance": guidance}
    config = sdd.DistillConfig(**{**settings, **changes})

    def seconds(clock: Clock) -> float:
        times: dict[int, float] = {}

        def listen(event: Any) -> None:
            if on_gpu and event.done in (1, steps):
                torch.cuda.synchronize()
            times.setdefault(event.done, clock())

        sdd.distill(
            prior, networks.generator, networks.w_plus, list(prompts), TIMESTEPS,
            mapper=[new_mapper(networks) for _ in prompts], identity=networks.identity,
            config=config, progress=listen,
        )  # fmt: skip
        return (times[steps] - times[1]) / (steps - 1) / len(prompts)

    return seconds


# --- an edit --------------------------------------------------------------------------------------


def edit_case(
    name: str,
    make: Callable[[], Networks],
    others: dict[str, Other],
    count: int,
    device: str,
    pixels: tuple[int, int],
    shorter: bool,
) -> Case:
    """Edit images with one prompt, everything about the prompt known.

    Args:
        pixels: a side, of ours and of the others. shorter: time fewer steps of the others.
    """
    low = tuned.low_precision(device)
    prepared = functools.cache(lambda compiled: tuned.prepare(make(), low, compiled))

    def ours() -> Run:
        networks = make()
        editor = sdd.Editor(networks.generator, new_mapper(networks), networks.encoder)
        images = torch.rand(count, 3, *editor.input_size, device=device) * 2 - 1
        return lambda: editor.edit(images, batch_size=count)

    def theirs(other: Other, steps: int, compiled: bool = False) -> Callable[[], Run]:
        def ready() -> Run:
            networks = prepared(compiled)
            images = torch.rand(count, 3, *(networks.resolution,) * 2, device=device)
            return functools.partial(other.edit(networks, images), steps)

        return ready

    sides: dict[str, Any] = {}
    whole = {}
    ours_px, theirs_px = pixels
    notes = {"ours": f"encoder, mapper, generator; {ours_px}²; float32"}
    dtype = str(low).removeprefix("torch.")
    for editor, other in others.items():
        steps = f"{other.steps} step{'s' * (other.steps > 1)}"
        rows = f"{other.rows} row{'s' * (other.rows > 1)} of {other.of} a step{other.note}"
        how = other.dtype or f"{dtype} channels_last"
        notes[f"{editor}, {steps}"] = f"{rows}; {other.pixels or theirs_px}²; {how}"
        if other.steps > SHORTER[-1] and shorter:
            few, more = ((n, f"{editor}, timed at {n}") for n in SHORTER)
            whole[f"{editor}, {steps}"] = Editor(other.steps, few, more)
            sides |= {named: theirs(other, n) for n, named in (few, more)}
        else:
            sides[f"{editor}, {steps}"] = theirs(other, other.steps)
    if device == "cuda":
        sides["SDEdit, DDIM, compiled, 50 steps"] = theirs(EDITORS["SDEdit, DDIM"], 50, True)
    return Case(
        f"{name}: {count} at once", {**sides, "ours": ours}, editors=whole, notes=notes,
        images=count,
    )  # fmt: skip


main = functools.partial(take_turns, "time_cost", __doc__, cases)

if __name__ == "__main__":
    main()
