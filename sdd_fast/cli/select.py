"""sdd select: the HQS curve of a prompt, and the timesteps it chooses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .console import command, say

if TYPE_CHECKING:
    from sdd_fast.selection.curve import HQSCurve


def _curve(text: str) -> Any:
    return typer.Option(help=text, rich_help_panel=options.CURVE)


@command
def select(
    prompt: options.Prompt,
    timesteps: Annotated[
        str | None,
        _curve("Candidates: 700,750 or first:last:step. Default: 50:950:50 of 1000."),
    ] = None,
    images: Annotated[
        str,
        _curve("How many of the domain's held-out pictures, or a folder of pictures of yours."),
    ] = "16",
    gradient_map: Annotated[
        str,
        _curve(
            "signed: softmax over all entries of the gradient, as in the paper; abs-mean: over "
            "pixels, as in the authors' code."
        ),
    ] = "signed",
    normalise: Annotated[
        str,
        _curve(
            "per-image (the paper) normalises the statistics of each image, of-mean their means."
        ),
    ] = "per-image",
    noise_draws: Annotated[
        int, _curve("Draws of noise per picture: more give a smoother curve.")
    ] = 1,
    jacobian: Annotated[
        str, _curve("skip (as DreamFusion), or full: through the U-Net, slower.")
    ] = "skip",
    guidance_scale: Annotated[
        float, _curve("g: how much the prompt counts in the model's prediction.")
    ] = 100.0,
    batch_size: Annotated[
        int | None,
        _curve(
            "Pictures at once. Default: as many as fit a GPU of 24 GB, at most 8. It changes the "
            "curve by rounding only."
        ),
    ] = None,
    seed: Annotated[int, _curve("Fixes the noise.")] = 0,
    top: options.Top = None,
    threshold: options.Threshold = None,
    template: options.Template = None,
    domain: options.DomainName = None,
    generator: options.Generator = None,
    encoder: options.Encoder = None,
    diffusion: options.Diffusion = None,
    latents: options.Latents = None,
    identity: options.Identity = None,
    clip: options.Clip = None,
    source_text: options.SourceText = options.PHOTO,
    out: options.RunOut = None,
    device: options.Device = "cpu",
    dtype: options.Dtype = "float32",
) -> None:
    """Find the timesteps at which the diffusion model has most to say about a prompt.

    Computes the Hybrid Quality Score (HQS) of every candidate timestep, prints it, and writes
    curve.json and curve.png. `sdd distill` with the same --out then uses this curve.

    \b
    Examples:
      sdd select "a face with white hair"
      sdd select "a smiling face" --top 3 --out runs/smile
      sdd select "a bald face" --images my-faces/ --timesteps 100:900:50
      sdd select "white hair" --domain ffhq-1024 --template attribute
    """
    from sdd_fast.gradients.config import GuidanceConfig
    from sdd_fast.report import wording
    from sdd_fast.run_folder import CURVE_FILE, CURVE_PICTURE
    from sdd_fast.runs.run import slug
    from sdd_fast.selection.choose import Selection, choose, compute_curve, pictures_at_once
    from sdd_fast.teacher.text import unknown_words

    candidates = options.whole_numbers(timesteps, "--timesteps")
    count, folder = _count_or_folder(images)
    selection = Selection(
        images=count,
        candidates=None if candidates is None else tuple(candidates),
        gradient_map=gradient_map,  # type: ignore[arg-type]
        normalise=normalise,  # type: ignore[arg-type]
        noise_draws=noise_draws,
        seed=seed,
        top=top,
        threshold=threshold,
        batch_size=batch_size,
    )
    guidance = GuidanceConfig(guidance_scale=guidance_scale, jacobian=jacobian)  # type: ignore[arg-type]
    place = out or Path("runs") / slug(prompt)
    parts: dict[str, Any] = {
        "generator": generator,
        "encoder": encoder,
        "diffusion": diffusion,
        "latents": latents,
        "identity": identity,
        "clip": clip,
    }
    loaded = options.open_domain(domain, device, source_text, dtype, **parts)
    asked, prompt = prompt, loaded.prompt(prompt, template)
    pictures = None
    if folder is not None:
        from sdd_fast.images import load_folder

        pictures, _ = load_folder(folder, loaded.generator.image_size)
    _check_writable(place)
    words = unknown_words(loaded.prior.tokenizer, prompt)
    if words:
        say(wording.unknown_words(words, loaded.prompts))
    shown = len(loaded.held_out[:count]) if pictures is None else len(pictures)
    at_once = min(shown, pictures_at_once(loaded, selection, guidance, pictures))
    say(f"HQS of “{prompt}” on {shown} pictures, {at_once} at once …")
    curve = compute_curve(loaded, prompt, selection, guidance, pictures=pictures)
    curve.save(place / CURVE_FILE)
    say(curve_table(curve))
    say(f"largest HQS:  {curve.largest()}")
    say(f"three best:   {', '.join(map(str, curve.top(min(3, len(curve.timesteps)))))}")
    chosen, rule = choose(curve, selection)
    say(f"chosen:       {', '.join(map(str, chosen))}  ({rule})")
    curve.plot(place / CURVE_PICTURE, chosen=chosen, threshold=threshold)
    say(f"\nwritten: {place / CURVE_FILE} and {place / CURVE_PICTURE}")
    follow = options.command_line(
        "distill", asked, out=place, top=top, threshold=threshold, template=template,
        domain=domain, **parts,
        source_text=None if source_text == options.PHOTO else source_text,
    )  # fmt: skip
    say(f"next:    {follow}")


def curve_table(curve: HQSCurve, width: int = 40) -> str:
    """The curve as text: a bar from −1 to 1 for each timestep."""
    lines = ["", "    t      HQS"]
    best = curve.largest()
    for t, score in zip(curve.timesteps, curve.mean.tolist(), strict=True):
        bar = "█" * max(0, round((score + 1) / 2 * width))
        mark = "  ← largest" if t == best else ""
        lines.append(f"{t:5d}   {score:+.3f}  {bar}{mark}")
    return "\n".join([*lines, ""])


def _count_or_folder(text: str) -> tuple[int, Path | None]:
    if text.lstrip("+-").isdigit():
        return int(text), None
    return 16, Path(text)


def _check_writable(folder: Path) -> None:
    """Fail before the work rather than after it."""
    from sdd_fast.files import atomic_path

    with atomic_path(folder / ".sdd-write-test") as temporary:
        temporary.write_bytes(b"")
    (folder / ".sdd-write-test").unlink()
