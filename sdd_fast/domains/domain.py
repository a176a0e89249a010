"""A domain: generator, encoder, teacher and judges that belong to one kind of image.

On disk it is a folder with a small ``domain.json`` that names its parts; the embedded ``faces64``
and a domain trained by a user are read by the same lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sdd_fast.files import load_tensors, read_json
from sdd_fast.models import ConvClassifier, ConvEmbedding, Encoder, StyleGAN2

if TYPE_CHECKING:
    from sdd_fast.models.clip import Clip
    from sdd_fast.prior import DiffusionPrior

EMBEDDED = {"faces64": Path(__file__).parent / "faces64" / "weights"}

_REQUIRED = ("name", "resolution", "source_text", "generator", "encoder", "diffusion", "latents")
_OPTIONAL = ("clip", "identity", "classifier", "prompts", "levels", "pull")


@dataclass(frozen=True)
class Domain:
    """The parts of a domain, each loaded when first used.

    Args:
        name: its name, written into every mapper distilled with it.
        folder: where its files are.
        resolution: side of its images in pixels.
        source_text: what its images show before an edit, e.g. "a photo of a face".
        prompts: prompts that are known to work.
        levels: {prompt: mapper levels that suit it}, where those are not all.
        pull: {prompt: pull that suits it, see `balanced_guidance_scale`}, where it is not `PULL`.
        files: part → path relative to the folder.
        device: where networks are loaded to.
    """

    name: str
    folder: Path
    resolution: int
    source_text: str
    prompts: tuple[str, ...]
    levels: dict[str, tuple[str, ...]]
    pull: dict[str, float]
    files: dict[str, str]
    device: str = "cpu"

    def _path(self, part: str) -> Path:
        return self.folder / self.files[part]

    @cached_property
    def generator(self) -> StyleGAN2:
        return StyleGAN2.load(self._path("generator")).to(self.device).eval().requires_grad_(False)

    @cached_property
    def encoder(self) -> Encoder:
        return Encoder.load(self._path("encoder")).to(self.device).eval().requires_grad_(False)

    @cached_property
    def prior(self) -> DiffusionPrior:
        from sdd_fast.prior import DiffusionPrior

        return DiffusionPrior.from_pretrained(self._path("diffusion"), device=self.device)

    @cached_property
    def clip(self) -> Clip | None:
        """Judge of directions; None if the domain has none."""
        from sdd_fast.models.clip import Clip

        return Clip.load(self._path("clip")).to(self.device) if "clip" in self.files else None

    @cached_property
    def identity(self) -> ConvEmbedding | None:
        """Images → unit vectors that are equal for the same person; None if there is none."""
        if "identity" not in self.files:
            return None
        network = ConvEmbedding.load(self._path("identity"))
        return network.to(self.device).eval().requires_grad_(False)

    @cached_property
    def classifier(self) -> ConvClassifier | None:
        """Attributes of images, for measuring; None for a domain without labels."""
        if "classifier" not in self.files:
            return None
        network = ConvClassifier.load(self._path("classifier"))
        return network.to(self.device).eval().requires_grad_(False)

    @cached_property
    def _latents(self) -> dict[str, Tensor]:
        tensors, _ = load_tensors(self._path("latents"))
        missing = {"train", "held_out"} - set(tensors)
        if missing:
            raise ValueError(f"{self._path('latents')} lacks {', '.join(sorted(missing))}")
        return {k: v.float().to(self.device) for k, v in tensors.items()}

    @cached_property
    def quality(self) -> dict[str, Any] | None:
        """What was measured of the domain when it was trained; None if nothing was."""
        path = self.folder / "quality.json"
        return read_json(path) if path.exists() else None

    @property
    def w_plus(self) -> Tensor:
        """[N, num_layers, w_dim]: encoded pictures to distil with."""
        return self._latents["train"]

    @property
    def held_out(self) -> Tensor:
        """[M, num_layers, w_dim]: encoded pictures that no mapper is trained on."""
        return self._latents["held_out"]

    @cached_property
    def w_std(self) -> Tensor:
        """[num_layers, w_dim]: standard deviation of W+, the unit of a mapper's output."""
        return self.w_plus.std(0).clamp(min=1e-3)


def load_domain(name_or_folder: str | Path, *, device: str = "cpu") -> Domain:
    """Opens an embedded domain by name (``faces64``) or any folder with a ``domain.json``.

    Raises:
        FileNotFoundError: neither a known name nor such a folder, or one of its files is missing.
        ValueError: ``domain.json`` is not what it should be.
    """
    folder = EMBEDDED.get(str(name_or_folder), Path(name_or_folder))
    listing = folder / "domain.json"
    if not listing.is_file() and any(folder.glob("training/*.checkpoint.safetensors")):
        raise FileNotFoundError(
            f"the domain in {folder} is not complete; the command of `sdd train-domain` that began "
            "it goes on"
        )
    if not listing.is_file():
        raise FileNotFoundError(
            f"no domain {str(name_or_folder)!r}: expected one of {', '.join(EMBEDDED)} or a folder "
            "with a domain.json, as `sdd train-domain` writes it"
        )
    spec = read_json(listing)
    _check(listing, spec)
    files = {k: spec[k] for k in (*_REQUIRED[3:], *_OPTIONAL[:3]) if spec.get(k)}
    for part, relative in files.items():
        if not (folder / relative).exists():
            raise FileNotFoundError(f"{listing} names {relative} as its {part}, which is missing")
    return Domain(
        name=spec["name"],
        folder=folder,
        resolution=spec["resolution"],
        source_text=spec["source_text"],
        prompts=tuple(spec.get("prompts", ())),
        levels={prompt: tuple(names) for prompt, names in spec.get("levels", {}).items()},
        pull={prompt: float(pull) for prompt, pull in spec.get("pull", {}).items()},
        files=files,
        device=str(torch.device(device)),
    )


def _check(listing: Path, spec: Any) -> None:
    if not isinstance(spec, dict):
        raise ValueError(f"{listing}: expected an object, got {type(spec).__name__}")
    missing = [k for k in _REQUIRED if k not in spec]
    unknown = [k for k in spec if k not in (*_REQUIRED, *_OPTIONAL)]
    if missing or unknown:
        raise ValueError(
            f"{listing}: missing {missing or 'nothing'}, unknown {unknown or 'nothing'}; "
            f"required are {', '.join(_REQUIRED)}, optional {', '.join(_OPTIONAL)}"
        )
    if not isinstance(spec["resolution"], int) or spec["resolution"] < 8:
        raise ValueError(f"{listing}: resolution must be a whole number of at least 8 pixels")
    for key in (*_REQUIRED[:1], *_REQUIRED[2:]):
        if not isinstance(spec[key], str) or not spec[key]:
            raise ValueError(f"{listing}: {key} must be non-empty text, got {spec[key]!r}")
