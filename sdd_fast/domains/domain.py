"""A domain: generator, encoder, teacher and judges that belong to one kind of image.

A small declarative file names its parts (`spec`); the embedded `faces64`, the presets for
published checkpoints, a domain trained by a user and one put together from files are read by the
same lines.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._deprecated import warn
from ..checkpoints.load import load_clip, load_encoder, load_generator, load_identity
from ..device import check_device
from ..files import PathLike, expanded
from ..models import ConvClassifier, StyleGAN2
from ..models.encoder import check_encoder
from ..shield import shielded
from ..teacher.attention import check_attention
from ..teacher.precision import IN_DOMAINS, check_dtype
from .embedded import EMBEDDED, find_weights, missing_weights, reader_of
from .latents import latents_of, read_latents, sample_latents
from .quality import read_held_out_images, read_quality
from .reader import AttributeReader
from .spec import PARTS, PRESETS, DomainSpec, complete_nouns, make_spec, read_spec

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import nn

    from ..distillation.monitor import EditMonitor
    from ..inversion.landmarks import Detector
    from ..models.clip import Clip, PublishedClip
    from ..teacher.prior import DiffusionPrior


class Domain:
    """The parts of a domain, each loaded when first used.

    Args:
        spec: what the domain file says.
        device: where networks are loaded to.
        folder: where `quality.json` and a model card lie; None if nowhere.
        reference: what `load_domain` finds the same domain by; default: `spec.to_json()`.
        dtype: what the teacher computes in; everything else is float32. attention: which kernel
            computes its attention.
    """

    def __init__(
        self,
        spec: DomainSpec,
        device: str = "cpu",
        folder: Path | None = None,
        reference: str | dict[str, Any] | None = None,
        dtype: str | torch.dtype = torch.float32,
        attention: str = "auto",
    ) -> None:
        self.spec, self.device, self.folder = spec, device, folder
        self.dtype, self.attention = dtype, attention
        self.reference: str | dict[str, Any] = reference or spec.to_json()
        self.name, self.source_text = spec.name, spec.source_text
        self.prompts, self.prompt_templates = spec.prompts, spec.prompt_templates
        self.levels, self.guidance_rms = spec.levels, spec.guidance_rms

    @property
    def pull(self) -> dict[str, float]:
        """Earlier name of `guidance_rms`."""
        warn("Domain.pull is now called guidance_rms")
        return self.guidance_rms

    def path(self, part: str) -> Path:
        """Where a part is.

        Raises:
            FileNotFoundError: the domain names a file that is missing, or none at all.
        """
        if part in self.spec.absent:
            raise FileNotFoundError(self.spec.absent[part])
        if part not in self.spec.parts:
            raise FileNotFoundError(
                f"the domain {self.name} has no {part}; name a file with --{part} (in Python: "
                f"load_domain(…, {part}=…)), or in its domain file"
            )
        return Path(self.spec.parts[part])

    def _optional(self, part: str) -> Path | None:
        named = part in self.spec.parts or part in self.spec.absent
        return self.path(part) if named else None

    @property
    def resolution(self) -> int:
        """Side of the generator's (square) images in pixels."""
        return self.spec.resolution or self.generator.resolution

    @cached_property
    @shielded(grad=False)
    def generator(self) -> StyleGAN2:
        """Latents → images; ValueError if the domain file gives them another resolution."""
        rows, resolution = self.spec.content_rows, self.spec.resolution
        generator = load_generator(self.path("generator"), content_rows=rows)
        if resolution is not None and resolution != generator.resolution:
            raise ValueError(
                f"the domain {self.name} says that its images have {resolution} pixels a side, but "
                f"its generator {self.path('generator')} makes {generator.resolution}; correct or "
                'leave out "resolution" in the domain file, or name the generator that it is for'
            )
        return generator.to(self.device, torch.float32)

    @cached_property
    @shielded(grad=False)
    def encoder(self) -> nn.Module | None:
        """Images → W+; None if the domain edits latents only.

        Raises:
            ValueError: its W+ is not that of the generator.
        """
        path = self._optional("encoder")
        if path is None:
            return None
        encoder = load_encoder(path, latent_avg=self.generator.latent_avg.cpu())
        check_encoder(encoder, self.generator)
        return encoder.to(self.device, torch.float32)

    @property
    def align(self) -> bool:
        """Whether raw photographs are cropped by the landmarks of the face, as FFHQ's were."""
        return self.spec.align is not None or "detector" in self.spec.parts

    @cached_property
    def detector(self) -> Detector:
        """What finds the landmarks; errors as for `YuNet`."""
        from ..inversion.landmarks import YuNet

        try:
            return YuNet(self.path("detector"))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}. Pictures that are already cropped to the face need none: --aligned (in "
                "Python: aligned=True)"
            ) from error

    def align_photo(self, photo: Image) -> Image:
        """A raw photograph cropped to its largest face, see `align_face`.

        Raises:
            ValueError: no face was found. FileNotFoundError, ModuleNotFoundError: nothing is there
                to find it with.
        """
        from ..inversion.face_crop import crop_to_face

        return crop_to_face(photo, self.detector, self.resolution)

    @cached_property
    @shielded(grad=False)
    def prior(self) -> DiffusionPrior:
        """The teacher, with the VAE and LoRAs that the domain names for it."""
        from ..teacher.prior import DiffusionPrior

        self.path("diffusion")
        source = self.spec.parts["diffusion"]  # text: a Path would not be taken for a hub id
        if "generator" in self.spec.absent and not Path(source).exists():
            self.path("generator")  # no teacher is downloaded for a domain that lacks it
        return DiffusionPrior.from_pretrained(
            source,
            device=self.device,
            dtype=self.dtype,
            attention=self.attention,
            variant=self.spec.variant,
            vae=self._optional("vae"),
            lora=self.spec.lora,
        )

    @cached_property
    @shielded(grad=False)
    def clip(self) -> Clip | PublishedClip | None:
        """Judge of directions; None if the domain has none, or a preset's is not there: no edit
        depends on it, and the report says that its direction was not measured."""
        path = self.spec.parts.get("clip")
        return None if path is None else load_clip(path).to(self.device)

    @cached_property
    @shielded(grad=False)
    def identity(self) -> nn.Module | None:
        """Images → unit vectors that are alike for the same subject; None if there is none."""
        path = self._optional("identity")
        return None if path is None else load_identity(path).to(self.device, torch.float32)

    @cached_property
    @shielded(grad=False)
    def classifier(self) -> ConvClassifier | None:
        """Attributes of images, for measuring; None for a domain without labels."""
        path = self._optional("classifier")
        if path is None:
            return None
        network = ConvClassifier.load(path)
        return network.to(self.device, torch.float32).eval().requires_grad_(False)

    @cached_property
    def reader(self) -> AttributeReader | None:
        """What knows the attributes that the classifier reads; None for most domains."""
        if self.classifier is None:
            return None
        known = (found for name in EMBEDDED if (found := reader_of(name)))
        return next((found for found in known if found.HEADS == self.classifier.heads), None)

    @property
    def nouns(self) -> dict[str, str]:
        """What people call an "image", several "images" and the "subject" of one, for reports."""
        named = self.spec.nouns or (dict(self.reader.NOUNS) if self.reader else {})
        return complete_nouns(named)

    @cached_property
    def quality(self) -> dict[str, Any] | None:
        """What was measured of the domain when it was trained; None if nothing was.

        Raises:
            ValueError: the file of it is damaged.
        """
        return None if self.folder is None else read_quality(self.folder)

    @cached_property
    def held_out_images(self) -> tuple[str, ...]:
        """Names of the images that no part of a domain trained from a folder has seen, relative to
        that folder; () if they are not known."""
        return () if self.folder is None else read_held_out_images(self.folder)

    def prompt(self, text: str, template: str | None = None) -> str:
        """`text`, or a template of the domain filled in with it: "white hair" → "a photo of a …".

        Raises:
            ValueError: the domain has no such template.
        """
        if template is None:
            return text
        if template not in self.prompt_templates:
            names = ", ".join(self.prompt_templates) or "none"
            raise ValueError(
                f"the domain {self.name} has no prompt template {template!r}; it has: {names}"
            )
        return self.prompt_templates[template].format(text)

    def monitor(self, prompt: str, count: int = 32) -> EditMonitor:
        """Make what measures an edit on held-out latents; with a `clip` its direction as well."""
        from ..distillation.monitor import EditMonitor
        from ..teacher.text import unknown_words

        return EditMonitor(
            self.generator,
            self.held_out[-count:],
            prompt=prompt,
            source_text=self.source_text,
            clip=self.clip,
            identity=self.identity,
            w_std=self.w_std,
            unknown_words=unknown_words(self.prior, prompt),
            direction_above=self.spec.direction_above,
        )

    # --- latents ----------------------------------------------------------------------------------

    @property
    def w_plus(self) -> Tensor:
        """[N, num_layers, w_dim]: latents to distill with."""
        return self._latents[0]

    @property
    def held_out(self) -> Tensor:
        """[M, num_layers, w_dim]: latents that no mapper is trained on."""
        return self._latents[1]

    @cached_property
    @shielded(grad=False)
    def w_std(self) -> Tensor:
        """[num_layers, w_dim]: standard deviation of W+, the unit of a mapper's output."""
        return self.w_plus.std(0).clamp(min=1e-3)

    @cached_property
    @shielded(grad=False)
    def _latents(self) -> tuple[Tensor, Tensor]:
        path, held_out_path = self._optional("latents"), self._optional("held_out")
        if path is None:
            train, held_out = sample_latents(self.generator)
        else:
            train, held_out = read_latents(path, self.generator)
        if held_out_path is not None:
            held_out = latents_of(held_out_path, self.generator)
        return train.to(self.device), held_out.to(self.device)


def load_domain(
    domain: PathLike | Mapping[str, Any] | None = None,
    *,
    device: str = "cpu",
    dtype: str | torch.dtype = "float32",
    attention: str = "auto",
    source_text: str = "a photo",
    lora: PathLike | Sequence[PathLike] | None = None,
    variant: str | None = None,
    **parts: PathLike | None,
) -> Domain:
    """Open a domain.

    Args:
        domain: an embedded domain (`faces64`, `fashion32`), a preset for published checkpoints
            (`ffhq-1024`, `afhq-cat-512`, `lsun-car-512`; their files are looked for in the folder
            `checkpoints` or $SDD_FAST_CHECKPOINTS), a folder with a `domain.json`, a domain
            file, or what such a file holds. None: `faces64`, or, if a generator is given, the
            domain that the parts make, named after the generator's file.
        dtype: what the teacher computes in: float32, float16, bfloat16, or auto for the fastest
            that this teacher's gradients are known to bear. Half precision takes half the memory;
            its residuals and gradients are float32 still. All else is float32.
        attention: what computes the teacher's attention, see `DiffusionPrior.from_pretrained`.
        source_text: what the images of a domain that the parts make show before an edit.
        lora: `FILE` or `FILE:scale`, one or several, fused into the diffusion model. variant: of
            the weights in its folder, such as "fp16". Default: what the domain names, if the
            diffusion model is the domain's.
        parts: files that take the place of those that the domain names: generator, encoder,
            diffusion, vae (in place of the diffusion model's), latents, held_out, identity, clip,
            classifier, detector; None does without.

    Raises:
        FileNotFoundError: neither a known name nor such a file, or one of its files is missing; of
            a preset, only once the part is used. The weights of an embedded domain are not
            installed.
        ValueError: the domain file is not what it should be, an unknown attention, a dtype that the
            device lacks, or a device that this machine does not have.
        TypeError: an unknown part.
    """
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise TypeError(f"load_domain: unknown part {unknown[0]!r}; parts are {', '.join(PARTS)}")
    device = check_device(device)
    engine: dict[str, Any] = {
        "dtype": check_dtype(dtype, device, IN_DOMAINS),
        "attention": check_attention(attention),
    }
    replaced: dict[str, Any]
    replaced = {part: None if path is None else str(path) for part, path in parts.items()}
    if lora is not None:
        listed = [lora] if isinstance(lora, str | os.PathLike) else lora
        replaced["lora"] = [str(one) for one in listed]
    if variant is not None:
        replaced["variant"] = variant
    # What belongs to a diffusion model does not go with another one.
    if replaced.get("diffusion") is not None:
        replaced = {"vae": None, "lora": (), "variant": None, **replaced}
    # Latents belong to the generator: those of another one would only look like it.
    if replaced.get("generator") is not None:
        replaced = {"latents": None, "held_out": None, **replaced}
    if domain is None and replaced.get("generator") is not None:
        content = {"name": Path(str(replaced["generator"])).stem, "source_text": source_text}
        spec = make_spec(content, Path(), "the domain", replaced, lenient=False)
        return Domain(spec, device, **engine)
    if isinstance(domain, Mapping):
        spec = make_spec(dict(domain), Path(), "the domain", replaced, lenient=False)
        return Domain(spec, device, **engine)
    name = os.fspath("faces64" if domain is None else domain)
    if name in PRESETS:
        spec = read_spec(PRESETS[name], replaced, lenient=True)
        return Domain(spec, device, **engine)
    path = find_weights(name) if name in EMBEDDED else expanded(name)
    listing = path / "domain.json" if path.is_dir() else path
    if not listing.is_file():
        raise FileNotFoundError(_why_missing(name, path))
    spec = read_spec(listing, replaced, lenient=False)
    # An embedded domain is found by its name, wherever the package is.
    here = name if name in EMBEDDED else str(path.resolve())
    return Domain(spec, device, listing.parent.resolve(), None if replaced else here, **engine)


def _why_missing(name: str, path: Path) -> str:
    if name in EMBEDDED:
        return missing_weights(name)
    if path.is_dir() and any(path.glob("training/*.checkpoint.safetensors")):
        return (
            f"the domain in {path} is not complete; the command of `sdd train-domain` that began "
            "it goes on"
        )
    return (
        f"no domain {name!r}: expected one of {', '.join([*EMBEDDED, *PRESETS])}, a domain file or "
        "a folder with a domain.json, as `sdd train-domain` writes it"
    )
