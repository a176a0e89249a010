"""sdd select: the HQS curve of a prompt, and the timesteps it chooses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .console import command, say
from .groups import typed

if TYPE_CHECKING:
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
    prompt: options.Prompt,
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
    curve.json and curve.png. `sdd distill` with the same --out then uses this curve. Stop it with
    Ctrl-C and give the same command again: it goes on where it was, to the same curve.

    \b
    Examples:
      sdd select "a face with white hair"
      sdd select "a smiling face" --top 3 --out runs/smile
      sdd select "a bald face" --images my-faces/ --timesteps 100:900:50
      sdd select "white hair" --domain ffhq-1024 --template attribute
    """
    from dataclasses import replace

    from sdd_fast.interrupt import InterruptAfterStep
    from sdd_fast.lock import locked
    from sdd_fast.run_folder import CURVE_FILE, CURVE_PICTURE, PARTIAL_CURVE
    from sdd_fast.runs.prepare import check_selection, load_local, slug
    from sdd_fast.selection.choose import choose
    from sdd_fast.selection.hqs import default_timesteps
    from sdd_fast.selection.in_domain import compute_curve, images_at_once
    from sdd_fast.teacher.text import check_prompt, unknown_words

    selection, guidance = how.selection(), how.guidance()
    place = out or Path("runs") / slug(prompt)
    loaded = checkpoints.open(device, dtype, attention)
    text = loaded.prompt(prompt, template)
    check_prompt(text)
    images = None
    with locked(place):
        earlier = check_selection(place, overwrite)
        load_local(loaded, "held_out")
        if how.folder is not None:
            from sdd_fast.images import load_folder

            images, _ = load_folder(how.folder, loaded.generator.image_size)
        if loaded.prompts and unknown_words(loaded.prior, text):
            say(f"warning: prompts that work here: {', '.join(map(repr, loaded.prompts))}")
        shown = len(loaded.held_out[: selection.images]) if images is None else len(images)
        if earlier is not None:
            usual = default_timesteps(loaded.prior.num_train_timesteps)
            _check_same(earlier, place / CURVE_FILE, text, selection, guidance, shown, usual)
            say(f"the curve is in {place / CURVE_FILE} already; its picture is drawn")
            curve = replace(earlier, normalize=selection.normalize)
        else:
            at_once = min(shown, images_at_once(loaded, selection, guidance, images))
            say(f"HQS of “{text}” on {shown} images, {at_once} at once …")
            curve = compute_curve(
                loaded, text, selection, guidance, images=images, partial=place / PARTIAL_CURVE
            )
        with InterruptAfterStep():  # the curve and its picture belong together
            curve.save(place / CURVE_FILE)
            say(curve_table(curve))
            say(f"largest HQS:  {curve.largest()}")
            say(f"three best:   {', '.join(map(str, curve.top(min(3, len(curve.timesteps)))))}")
            chosen, rule = choose(curve, selection)
            say(f"chosen:       {', '.join(map(str, chosen))}  ({rule})")
            curve.plot(place / CURVE_PICTURE, chosen=chosen, threshold=how.threshold)
    say(f"\nwritten: {place / CURVE_FILE} and {place / CURVE_PICTURE}")
    follow = {"out": place, "top": how.top, "threshold": how.threshold, "template": template}
    follow |= typed(checkpoints)
    say(f"next:    {options.command_line('distill', prompt, **follow)}")


def _check_same(
    curve: HQSCurve,
    path: Path,
    prompt: str,
    selection: Selection,
    guidance: GuidanceConfig,
    images: int,
    default: list[int],
) -> None:
    """Refuse to replace a curve that was computed in another way than is asked for now."""
    from sdd_fast.outputs import check_free

    candidates = selection.candidates or default
    told = (curve.prompt, curve.config, curve.gradient_map, curve.noise_draws, curve.seed)
    asked = (prompt, guidance, selection.gradient_map, selection.noise_draws, selection.seed)
    same = told == asked and sorted(candidates) == list(curve.timesteps)
    check_free([path], overwrite=same and curve.num_images == images)


def curve_table(curve: HQSCurve, width: int = 40) -> str:
    """The curve as text: a bar from −1 to 1 for each timestep."""
    lines = ["", "    t      HQS"]
    best = curve.largest()
    for t, score in zip(curve.timesteps, curve.mean.tolist(), strict=True):
        bar = "█" * max(0, round((score + 1) / 2 * width))
        mark = "  ← largest" if t == best else ""
        lines.append(f"{t:5d}   {score:+.3f}  {bar}{mark}")
    return "\n".join([*lines, ""])
