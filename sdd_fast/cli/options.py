"""Options that several commands share, and how lists are typed on the command line."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdd_fast.distillation.config import DistillConfig

if TYPE_CHECKING:
    from sdd_fast.domains import Domain

TRAINED_BY = DistillConfig()
"""Where the defaults of the training come from."""

CHOICE, CURVE, TRAINING, OUTPUT = "Which timesteps", "HQS curve", "Training", "Where and how"
PARTS = "Which checkpoints"
PHOTO = "a photo"
_MOST_NUMBERS = 100_000  # of a range; timesteps are far fewer

Prompts = Annotated[
    list[str],
    typer.Argument(metavar="PROMPT...", help="What the edited pictures should show; one or more."),
]
DomainName = Annotated[
    str | None,
    typer.Option(
        "--domain",
        help="faces64 (the default), fashion32, a preset for published checkpoints (ffhq-1024, "
        "afhq-cat-512, lsun-car-512), a domain file, or a folder with a domain.json.",
        rich_help_panel=PARTS,
    ),
]


def _part(text: str, name: str) -> Any:
    return typer.Option(f"--{name}", help=text, rich_help_panel=PARTS, show_default=False)


DomainOfEdit = Annotated[
    str | None,
    typer.Option(
        "--domain",
        help="Domain name, file or folder. Default: the one that the edit was distilled in.",
        rich_help_panel=PARTS,
    ),
]
Generator = Annotated[
    Path | None, _part("A StyleGAN2: .pt, .pkl (NVIDIA's) or .safetensors.", "generator")
]
Encoder = Annotated[Path | None, _part("An e4e or pSp encoder; none to do without.", "encoder")]
Diffusion = Annotated[
    str | None,
    _part("A Stable Diffusion folder, single file or hub id (1.x, 2.x, XL).", "diffusion"),
]
Vae = Annotated[
    Path | None,
    _part("A VAE in place of the diffusion model's own: file or folder.", "vae"),
]
Lora = Annotated[
    list[str] | None,
    _part("A LoRA fused into the diffusion model: FILE or FILE:scale; may be repeated.", "lora"),
]
Variant = Annotated[
    str | None,
    _part("Of the weights in the diffusion model's folder: fp16, say.", "variant"),
]
Latents = Annotated[
    Path | None, _part("W+ latents to work with, such as those of `sdd invert`.", "latents")
]
Identity = Annotated[
    str | None,
    _part("A face recognition network (ArcFace IR-SE50), or none to do without.", "identity"),
]
Clip = Annotated[
    str | None,
    _part(
        "A CLIP folder (transformers' CLIPModel) that judges whether edits go towards the prompt, "
        "or none to do without.",
        "clip",
    ),
]
Detector = Annotated[
    Path | None,
    _part(
        "YuNet's weights (OpenCV's model zoo): raw photographs are cropped to the face as in FFHQ.",
        "detector",
    ),
]
SourceText = Annotated[
    str,
    typer.Option(
        help="What the pictures show before an edit, for a domain made of files alone.",
        rich_help_panel=PARTS,
    ),
]
Template = Annotated[
    str | None,
    typer.Option(
        help="Fill PROMPT into this prompt template of the domain; `sdd info DOMAIN` lists them.",
    ),
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda or cuda:1 …", rich_help_panel=OUTPUT, show_default=True)
]
Dtype = Annotated[
    str,
    typer.Option(
        help="What the diffusion model computes in: float32, float16, bfloat16, or auto for the "
        "fastest that `sdd bench precision` has not found wanting. Half precision takes half its "
        "memory.",
        rich_help_panel=OUTPUT,
        show_default=True,
    ),
]
Attention = Annotated[
    str,
    typer.Option(
        help="What computes the diffusion model's attention: sdpa, xformers, flash …, or auto for "
        "the fastest on this GPU.",
        rich_help_panel=OUTPUT,
        show_default=True,
    ),
]
RunOut = Annotated[
    Path | None,
    typer.Option(
        "--out",
        help="The run's folder; of several prompts, the folder of their folders. Default: runs/ "
        "and the prompt.",
        rich_help_panel=OUTPUT,
    ),
]
Aligned = Annotated[
    bool,
    typer.Option(
        "--aligned",
        help="The pictures are already cropped the way the encoder expects: look for no faces.",
    ),
]
Strict = Annotated[
    bool,
    typer.Option(
        "--strict",
        help="Stop at the first picture that cannot be used, and refuse JPEGs that lack their end "
        "and broken color profiles. Default: such pictures are left out and listed; these two are "
        "read, with a warning.",
    ),
]
Top = Annotated[
    int | None, typer.Option(help="The K timesteps of largest HQS.", rich_help_panel=CHOICE)
]
Threshold = Annotated[
    float | None,
    typer.Option(help="All timesteps whose HQS is above ξ, −1 … 1.", rich_help_panel=CHOICE),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Discard what an earlier run left in --out.",
        rich_help_panel=OUTPUT,
    ),
]
MemoryBudget = Annotated[
    str | None,
    typer.Option(
        help="For everything in the device's memory: 22GiB, say. What takes more is computed piece "
        "by piece, to the same result up to rounding. Default: what fits a GPU of 24 GB.",
        rich_help_panel=OUTPUT,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace what is there; inputs never.", rich_help_panel=OUTPUT
    ),
]


@dataclass(frozen=True)
class CheckpointOptions:
    """The domain, and files that take the place of its parts."""

    domain: DomainName = None
    generator: Generator = None
    encoder: Encoder = None
    diffusion: Diffusion = None
    vae: Vae = None
    lora: Lora = None
    variant: Variant = None
    latents: Latents = None
    identity: Identity = None
    clip: Clip = None
    source_text: SourceText = PHOTO

    def open(self, device: str, dtype: str, attention: str) -> Domain:
        """Load the domain; see `open_domain`."""
        return open_domain(device=device, dtype=dtype, attention=attention, **vars(self))


def where(device: str, dtype: str = "float32", attention: str = "auto") -> dict[str, str | None]:
    """What networks run on and compute in, as `command_line` takes it: without what is usual."""
    usual = {"device": "cpu", "dtype": "float32", "attention": "auto"}
    given = {"device": device, "dtype": dtype, "attention": attention}
    return {name: None if value == usual[name] else value for name, value in given.items()}


def run_folders(prompts: Sequence[str], out: Path | None) -> list[Path]:
    """Return a folder for each prompt: `out`, or of several prompts folders in it.

    Raises:
        ValueError: a prompt is given twice, or `out` is a run where it is to hold several, or holds
            several where it is to be the run of one of them.
    """
    from sdd_fast.checks import check_distinct
    from sdd_fast.run_folder import RUN_FILE, is_of_a_run
    from sdd_fast.runs.prepare import slug

    check_distinct(prompts)
    if out is not None and len(prompts) == 1:
        among_others = out / slug(prompts[0])
        if is_of_a_run(among_others / RUN_FILE):
            raise ValueError(
                f"{among_others} is a run of {prompts[0]!r}; to go on with it give --out "
                f"{among_others}, for another one choose another folder"
            )
        return [out]
    if out is not None and is_of_a_run(out / RUN_FILE):
        raise ValueError(f"{out} is a run of one prompt; choose a folder to hold those of several")
    return [(Path("runs") if out is None else out) / slug(prompt) for prompt in prompts]


def comma_list(text: str | None, option: str) -> list[str] | None:
    """ "coarse, fine" → ["coarse", "fine"]; None stays None."""
    if text is None:
        return None
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise typer.BadParameter("the list is empty", param_hint=option)
    return words


def whole_numbers(text: str | None, option: str) -> list[int] | None:
    """ "700,750" or "100:900:50" (first:last:step) or both mixed → integers."""
    numbers: list[int] = []
    for word in comma_list(text, option) or []:
        parts = word.split(":")
        try:
            values = [int(part) for part in parts]
            if len(parts) == 3:
                first, last, step = values
                more = range(first, last + 1, step)
                if (last - first) // step > _MOST_NUMBERS:
                    raise typer.BadParameter(
                        f"{word!r} are more than {_MOST_NUMBERS:,} numbers", param_hint=option
                    )
                numbers += more
            else:
                (one,) = values
                numbers.append(one)
        except ValueError:
            raise typer.BadParameter(
                f"{word!r} is neither a whole number nor first:last:step, as in 700,750 or "
                "100:900:50",
                param_hint=option,
            ) from None
    return None if text is None else numbers


def numbers(text: str, option: str) -> list[float]:
    """ "1,-0.5" → [1.0, -0.5]."""
    try:
        return [float(word) for word in comma_list(text, option) or []]
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a number or a list of numbers such as 1,0.5", param_hint=option
        ) from None


def open_domain(
    domain: str | None,
    device: str,
    source_text: str = PHOTO,
    dtype: str = "float32",
    attention: str = "auto",
    **parts: Any,
) -> Domain:
    """Load a domain with the files that were given; see `load_domain`."""
    from sdd_fast.domains import load_domain

    return load_domain(
        domain,
        device=device,
        dtype=dtype,
        attention=attention,
        source_text=source_text,
        **chosen(parts),
    )


def chosen(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that were given, with None for what is to be done without ("none")."""
    return {
        part: None if str(path) == "none" else path
        for part, path in parts.items()
        if path is not None
    }


def command_line(name: str, *words: Any, **options: Any) -> str:
    """Return a command as a person would type it; options that are None or False are left out."""
    from sdd_fast.files import readable

    parts = ["sdd", name]
    for key, value in options.items():
        flag = "--" + key.replace("_", "-")
        if value is True:
            parts.append(flag)
            continue
        for one in value if isinstance(value, list) else [value]:
            if one is not None and one is not False:
                parts += [flag, f"{one:g}" if isinstance(one, float) else str(one)]
    parts, typed_words = ([readable(str(word)) for word in some] for some in (parts, words))
    if any(word.startswith("-") for word in typed_words):
        return shlex.join([*parts, "--", *typed_words])
    return shlex.join([*parts[:2], *typed_words, *parts[2:]])
