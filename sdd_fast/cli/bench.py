"""sdd bench: what this machine makes of a teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from . import options
from .console import command, say

if TYPE_CHECKING:
    from sdd_fast.selection.agreement import Agreement

app = typer.Typer(no_args_is_help=True, help="Measure what a teacher bears on this machine.")


@command
def precision(
    checkpoints: options.CheckpointOptions,
    *,
    dtypes: Annotated[
        str, typer.Option(help="What to try, separated by commas. float32 is the reference.")
    ] = "float16,bfloat16",
    attention: Annotated[
        str | None,
        typer.Option(
            help="Backends to try with each, separated by commas. Default: on a GPU all that auto "
            "may choose, on a CPU sdpa."
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Default: the first prompt of the domain.")
    ] = None,
    images: Annotated[int, typer.Option(help="How many of the domain's held-out pictures.")] = 4,
    timesteps: Annotated[
        str | None, typer.Option(help="700,750 or first:last:step. Default: those of `sdd select`.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Fixes the noise.")] = 0,
    device: options.Device = "cpu",
) -> None:
    """Say which dtypes and attention kernels leave the teacher's gradients as they are in float32.

    The gate: a mean cosine of the gradient at the image of at least 0.999 through the VAE alone
    and 0.99 of the whole at a guidance scale of 100, with the same noise, and the same timestep of
    largest HQS. The answer is kept for --dtype auto and --attention auto, which refuse what failed.
    The exit code is 1 if something failed.

    \b
    Examples:
      sdd bench precision
      sdd bench precision --diffusion sd15/ --device cuda
      sdd bench precision --diffusion sd15/ --dtypes bfloat16 --images 1 --timesteps 100:900:200
    """
    import torch

    from sdd_fast.checks import check_count, check_seed
    from sdd_fast.device import check_device
    from sdd_fast.selection.agreement import measure_agreement
    from sdd_fast.teacher.attention import AUTO_CANDIDATES, check_attention
    from sdd_fast.teacher.precision import check_dtype

    place = torch.device(check_device(device))
    check_count("images", images)
    check_seed(seed)
    names = options.comma_list(dtypes, "--dtypes") or []
    for name in names:
        check_dtype(name, place, ("float16", "bfloat16", "float32"))
    usual = ["sdpa"] if place.type == "cpu" else list(AUTO_CANDIDATES)
    backends = options.comma_list(attention, "--attention") or usual
    backends = [check_attention(name) for name in backends]
    candidates = options.whole_numbers(timesteps, "--timesteps")
    domain = checkpoints.open(device, "float32", "sdpa")
    text = prompt or next(iter(domain.prompts), domain.source_text)
    with torch.no_grad():
        shown = domain.generator.synthesis(domain.held_out[:images])
    say(f"“{text}” on {len(shown)} images, g = 100, {', '.join(names)} against float32 …")
    found = measure_agreement(
        lambda dtype: checkpoints.open(device, dtype, "sdpa").prior,
        shown,
        text,
        dict.fromkeys(names, backends),
        candidates,
        seed=seed,
    )
    for line in table(found):
        say(line)
    if any(not one.passed and not one.problem for one in found):
        raise typer.Exit(1)


def table(found: list[Agreement]) -> list[str]:
    """A line for each mode: mean cosines, the lowest in brackets, and the chosen timestep."""
    lines = [f"{'mode':<26}{'VAE alone':>18}{'whole':>18}{'t':>6}"]
    for one in found:
        mode = f"{one.dtype}, {one.attention}"
        if one.problem:
            lines.append(f"{mode:<26}cannot run: {one.problem}")
            continue
        vae, whole = (
            f"{mean:.4f} ({lowest:.4f})"
            for mean, lowest in ((one.vae, one.vae_lowest), (one.unet, one.unet_lowest))
        )
        choice = "none" if one.timestep is None else str(one.timestep)
        verdict = "passed" if one.passed else f"failed (float32 chooses {one.expected})"
        lines.append(f"{mode:<26}{vae:>18}{whole:>18}{choice:>6}  {verdict}")
    return lines
