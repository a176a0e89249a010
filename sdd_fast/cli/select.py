"""sdd select: the HQS curve of a prompt, and the timesteps it chooses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .console import command, result, say
from .describe import certainty
from .groups import typed

if TYPE_CHECKING:
    from sdd_fast.domains import Domain
    from sdd_fast.gradients.config import GuidanceConfig
    from sdd_fast.selection.choose import Selection
    from sdd_fast.selection.curve import HQSCurve


def _curve(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=options.CURVE)


@dataclass(frozen=True)
class CurveOptions:
    """How the curve is computed, and which of its timesteps are chosen."""

    timesteps: Annotated[
        str | None,
        _curve("Candidates: 700,750 or first:last:step. Default: 50:950:50 of 1000."),
    ] = None
    images: Annotated[
        str,
        _curve("How many of the domain's held-out pictures, or a folder of pictures of yours."),
    ] = "16"
    gradient_map: Annotated[
        str,
        _curve(
            "signed: softmax over all elements of the gradient, as in the paper; abs-mean: over "
            "pixels, as in the authors' code."
        ),
    ] = "signed"
    gradient_at: Annotated[
        str,
        _curve("image, as in the paper; latent: faster, and an approximation."),
    ] = "image"
    normalize: Annotated[
        str,
        _curve(
            "per-image (the paper) normalizes the statistics of each image, of-mean their means."
        ),
    ] = "per-image"
    noise_draws: Annotated[int, _curve("Draws of noise per image: more give a smoother curve.")] = 1
    jacobian: Annotated[
        str, _curve("skip (as DreamFusion), or full: through the U-Net, slower.")
    ] = "skip"
    guidance_scale: Annotated[
        float, _curve("g: how much the prompt counts in the model's prediction.")
    ] = 100.0
    batch_size: Annotated[
        int | None,
        _curve(
            "Images at once. Default: as many as fit a GPU of 24 GB, at most 8. It changes the "
            "curve by rounding only."
        ),
    ] = None
    memory_gb: Annotated[
        float | None,
        typer.Option(help="Earlier name of --memory-budget, beside the weights.", hidden=True),
    ] = None
    memory_budget: options.MemoryBudget = None
    search: Annotated[
        str,
        _curve(
            "exhaustive: every image at every timestep. adaptive: coarse to fine, until the "
            "largest HQS is settled; an approximation."
        ),
    ] = "exhaustive"
    seed: Annotated[int, _curve("Fixes the noise.")] = 0
    top: options.Top = None
    threshold: options.Threshold = None

    def selection(self) -> Selection:
        """Return them as checked settings."""
        from sdd_fast.selection.choose import Selection

        candidates = options.whole_numbers(self.timesteps, "--timesteps")
        return Selection(
            images=16 if self.folder else int(self.images),
            candidates=None if candidates is None else tuple(candidates),
            gradient_map=self.gradient_map,  # type: ignore[arg-type]
            normalize=self.normalize,  # type: ignore[arg-type]
            noise_draws=self.noise_draws,
            seed=self.seed,
            top=self.top,
            threshold=self.threshold,
            batch_size=self.batch_size,
            gradient_at=self.gradient_at,  # type: ignore[arg-type]
            memory_gb=self.memory_gb,
            memory_budget=self.memory_budget,
            search=self.search,  # type: ignore[arg-type]
        )

    def guidance(self) -> GuidanceConfig:
        """Return the settings of the gradient."""
        from sdd_fast.gradients.config import GuidanceConfig

        return GuidanceConfig(
            guidance_scale=self.guidance_scale,
            jacobian=self.jacobian,  # type: ignore[arg-type]
        )

    @property
    def folder(self) -> Path | None:
        """The folder that `images` names, if it is no number."""
        return None if self.images.lstrip("+-").isdigit() else Path(self.images)


@command
def select(
    prompts: options.Prompts,
    how: CurveOptions,
    template: options.Template = None,
    *,
    checkpoints: options.CheckpointOptions,
    out: options.RunOut = None,
    overwrite: options.Overwrite = False,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
    attention: options.Attention = "auto",
) -> None:
    """Find the timesteps at which the diffusion model has most to say about a prompt.

    Computes the Hybrid Quality Score (HQS) of every candidate timestep, prints it, and writes
    curve.json and curve.png. `sdd distill` with the same --out then uses this curve. Several
    prompts share most of the work, and get a folder each. Stop it with Ctrl-C and give the same
    command again: it goes on where it was, to the same curves.

    \b
    Examples:
      sdd select "a face with white hair"
      sdd select "a face with white hair" "a face with a beard" "a bald face"
      sdd select "a smiling face" --top 3 --out runs/smile
      sdd select "a bald face" --images my-faces/ --timesteps 100:900:50
      sdd select "white hair" --domain ffhq-1024 --template attribute
    """
    from contextlib import ExitStack
    from dataclasses import replace

    from sdd_fast.lock import locked
    from sdd_fast.run_folder import CURVE_FILE, PARTIAL_CURVE
    from sdd_fast.runs.prepare import check_selection, load_local
    from sdd_fast.selection.in_domain import compute_curves, sizes
    from sdd_fast.teacher.text import check_prompt, unknown_words

    selection, guidance = how.selection(), how.guidance()
    places = options.run_folders(prompts, out)
    loaded = checkpoints.open(device, dtype, attention)
    texts = [loaded.prompt(prompt, template) for prompt in prompts]
    for text in texts:
        check_prompt(text)
    images = None
    with ExitStack() as locks:
        for place in places:
            locks.enter_context(locked(place))
        found = [check_selection(place, overwrite) for place in places]
        load_local(loaded, "held_out")
        if how.folder is not None:
            from sdd_fast.images import load_folder

            images, _ = load_folder(how.folder, loaded.generator.image_size)
        if loaded.prompts and any(unknown_words(loaded.prior, text) for text in texts):
            say(f"warning: prompts that work here: {', '.join(map(repr, loaded.prompts))}")
        shown = len(loaded.held_out[: selection.images]) if images is None else len(images)
        for text, place, earlier in zip(texts, places, found, strict=True):
            if earlier is not None:
                _check_same(earlier, place / CURVE_FILE, loaded, text, selection, guidance, shown)
                say(f"the curve is in {place / CURVE_FILE} already; its picture is drawn")
        lacking = [i for i, earlier in enumerate(found) if earlier is None]
        if lacking:
            at_once = min(shown, sizes(loaded, selection, guidance, images).images)
            named = f"“{texts[lacking[0]]}”" if len(lacking) == 1 else f"{len(lacking)} prompts"
            say(f"HQS of {named} on {shown} images, {at_once} at once …")
            partial = [places[i] / PARTIAL_CURVE for i in lacking]
            some = [texts[i] for i in lacking]
            new = compute_curves(loaded, some, selection, guidance, images=images, partial=partial)
            for i, curve in zip(lacking, new, strict=True):
                found[i] = curve
        curves = [replace(c, normalize=selection.normalize) for c in found if c is not None]
        _write(curves, places, selection)
    result(
        curves=[
            _facts(curve, place, selection) for curve, place in zip(curves, places, strict=True)
        ]
    )
    for prompt, place in zip(prompts, places, strict=True):
        follow = {"out": place, "top": how.top, "threshold": how.threshold, "template": template}
        follow["memory_budget"] = how.memory_budget
        follow |= typed(checkpoints) | options.where(device, dtype, attention)
        say(f"next:    {options.command_line('distill', prompt, **follow)}")


def _facts(curve: HQSCurve, place: Path, selection: Selection) -> dict[str, Any]:
    """What --json tells of a curve."""
    from sdd_fast.run_folder import CURVE_FILE, CURVE_PICTURE
    from sdd_fast.selection.choose import choose

    return {
        "prompt": curve.prompt,
        "curve": place / CURVE_FILE,
        "picture": place / CURVE_PICTURE,
        "timesteps": list(curve.timesteps),
        "hqs": curve.mean.tolist(),
        "largest": curve.largest(),
        "chosen": choose(curve, selection)[0],
    }


def _check_same(
    curve: HQSCurve,
    path: Path,
    domain: Domain,
    prompt: str,
    selection: Selection,
    guidance: GuidanceConfig,
    images: int,
) -> None:
    """Refuse to replace a curve that was computed in another way than is asked for now."""
    from sdd_fast.outputs import check_free
    from sdd_fast.selection.hqs import usual_timesteps
    from sdd_fast.selection.search import SETTLED

    candidates = selection.candidates or usual_timesteps(domain.prior)
    names = ("gradient_map", "gradient_at", "noise_draws", "seed", "search")
    same = all(getattr(curve, name) == getattr(selection, name) for name in names)
    same = same and (curve.prompt, curve.config) == (prompt, guidance)
    if curve.search == "exhaustive":
        same = same and sorted(candidates) == list(curve.timesteps) and curve.num_images == images
    else:
        # It ends on fewer images where the choice is settled, by the scores that were asked for.
        settled = curve.confidence is not None and curve.confidence >= SETTLED
        same = same and curve.normalize == selection.normalize
        same = same and set(curve.timesteps) <= set(candidates)
        same = same and (curve.num_images == images or settled and curve.num_images < images)
    same = same and (curve.candidates or len(curve.timesteps)) == len(candidates)
    check_free([path], overwrite=same)


def _write(curves: list[HQSCurve], places: list[Path], selection: Selection) -> None:
    """Save the curves, print them and what is chosen, and draw them; then the rest may go."""
    from sdd_fast.interrupt import InterruptAfterStep
    from sdd_fast.run_folder import CURVE_FILE, CURVE_PICTURE, PARTIAL_CURVE
    from sdd_fast.selection.choose import choose

    table, failed = [], []
    with InterruptAfterStep():  # a curve and its picture belong together
        for curve, place in zip(curves, places, strict=True):
            curve.save(place / CURVE_FILE)
        for curve, place in zip(curves, places, strict=True):
            if len(curves) > 1:
                say(f"\n“{curve.prompt}”")
            say(curve_table(curve))
            say(f"largest HQS:  {curve.largest()}")
            if curve.gradient_at != "image":
                say(f"approximate:  by the gradient at the {curve.gradient_at}")
            if curve.search == "adaptive":
                say(f"adaptive:     {certainty(curve)}")
            say(f"three best:   {', '.join(map(str, curve.top(min(3, len(curve.timesteps)))))}")
            try:
                chosen, rule = choose(curve, selection)
            except ValueError as error:
                failed.append(error)
                continue
            listed = ", ".join(map(str, chosen))
            say(f"chosen:       {listed}  ({rule})")
            curve.plot(place / CURVE_PICTURE, chosen=chosen, threshold=selection.threshold)
            say(f"written:      {place / CURVE_FILE} and {place / CURVE_PICTURE}")
            table.append((f"{curve.largest():7d}   {float(curve.mean.max()):+.3f}", listed, curve))
        for place in places:
            (place / PARTIAL_CURVE).unlink(missing_ok=True)
    if len(curves) > 1 and table:
        width = max(len(listed) for _, listed, _ in table)
        say(f"\nlargest      HQS   {'chosen':{width}}   prompt")
        for best, listed, curve in table:
            say(f"{best}   {listed:{width}}   {curve.prompt}")
    if failed:
        raise failed[0]
    say("")


def curve_table(curve: HQSCurve, width: int = 40) -> str:
    """The curve as text: a bar from −1 to 1 for each timestep."""
    lines = ["", "    t      HQS"]
    best = curve.largest()
    for t, score in zip(curve.timesteps, curve.mean.tolist(), strict=True):
        bar = "█" * max(0, round((score + 1) / 2 * width))
        mark = "  ← largest" if t == best else ""
        lines.append(f"{t:5d}   {score:+.3f}  {bar}{mark}")
    return "\n".join([*lines, ""])
