"""Selective Diffusion Distillation: choose the timesteps that matter, distill them into one pass.

    import sdd_fast as sdd

    domain = sdd.load_domain("faces64")
    curve = sdd.hqs(domain.prior, domain.held_out[:16], "a face with white hair",
                    generator=domain.generator)
    result = sdd.distill(domain.prior, domain.generator, domain.w_plus, "a face with white hair",
                         curve.plateau())

Importing the package imports none of its dependencies: torch comes with the first name that is
used, diffusers, transformers and matplotlib with the functions that need them, and CUDA is not
initialized. The operators of `torch.ops.sdd_fast` are registered by `import sdd_fast.ops`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from . import _deprecated

if TYPE_CHECKING:  # what `__getattr__` does, in the words of type checkers and editors
    from . import ops as ops
    from ._build_info import build_info as build_info
    from .checkpoints.convert import convert as convert
    from .checkpoints.load import (
        load_clip as load_clip,
        load_encoder as load_encoder,
        load_generator as load_generator,
        load_identity as load_identity,
        load_latents as load_latents,
        load_mapper as load_mapper,
        load_styles as load_styles,
    )
    from .distillation.config import DistillConfig as DistillConfig, EarlyStop as EarlyStop
    from .distillation.distill import distill as distill
    from .distillation.monitor import EditMonitor as EditMonitor
    from .distillation.result import (
        DistillResult as DistillResult,
        PromptsFailed as PromptsFailed,
    )
    from .domains import Domain as Domain, load_domain as load_domain
    from .editing.editor import Editor as Editor
    from .editing.save_as import SaveAs as SaveAs
    from .editing.video import edit_video as edit_video
    from .export import (
        export_edit as export_edit,
        export_torchscript as export_torchscript,
        load_torchscript as load_torchscript,
    )
    from .gradients.balance import balanced_guidance_scale as balanced_guidance_scale
    from .gradients.config import GuidanceConfig as GuidanceConfig
    from .gradients.image_gradient import (
        Guidance as Guidance,
        guidance as guidance,
        image_gradient as image_gradient,
    )
    from .gradients.sds import residual as residual
    from .images import load_image as load_image
    from .manipulator import (
        LatentGenerator as LatentGenerator,
        MapperInfo as MapperInfo,
        save_mapper as save_mapper,
    )
    from .models import (
        ConvClassifier as ConvClassifier,
        ConvEmbedding as ConvEmbedding,
        Encoder as Encoder,
        LevelsMapper as LevelsMapper,
        StyleGAN2 as StyleGAN2,
        StyleSpaceMapper as StyleSpaceMapper,
    )
    from .selection.curve import HQSCurve as HQSCurve
    from .selection.hqs import hqs as hqs
    from .teacher.prior import DiffusionPrior as DiffusionPrior
    from .teacher.text import PromptEmbeds as PromptEmbeds

__version__ = "0.1.0"

_deprecated.install()

_NAMES_OF = {
    "._build_info": "build_info",
    ".checkpoints.convert": "convert",
    ".checkpoints.load": (
        "load_clip load_encoder load_generator load_identity load_latents load_mapper load_styles"
    ),
    ".distillation.config": "DistillConfig EarlyStop",
    ".distillation.distill": "distill",
    ".distillation.monitor": "EditMonitor",
    ".distillation.result": "DistillResult PromptsFailed",
    ".domains": "Domain load_domain",
    ".editing.editor": "Editor",
    ".editing.save_as": "SaveAs",
    ".editing.video": "edit_video",
    ".export": "export_edit export_torchscript load_torchscript",
    ".gradients.balance": "balanced_guidance_scale",
    ".gradients.config": "GuidanceConfig",
    ".gradients.image_gradient": "Guidance guidance image_gradient",
    ".gradients.sds": "residual",
    ".images": "load_image",
    ".manipulator": "LatentGenerator MapperInfo save_mapper",
    ".models": "ConvClassifier ConvEmbedding Encoder LevelsMapper StyleGAN2 StyleSpaceMapper",
    ".selection.curve": "HQSCurve",
    ".selection.hqs": "hqs",
    ".teacher.prior": "DiffusionPrior",
    ".teacher.text": "PromptEmbeds",
}
"""Module → the public names in it, which are imported when they are first used."""

_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names.split()}

__all__ = sorted([*_MODULE_OF, "__version__", "ops"])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if not TYPE_CHECKING:  # else every misspelled name would pass the type check

    def __getattr__(name: str) -> Any:
        """Import a public name, or a submodule, at its first use."""
        if name in _MODULE_OF:
            value = getattr(importlib.import_module(_MODULE_OF[name], __name__), name)
            globals()[name] = value
            return value
        if not name.startswith("_"):
            try:
                return importlib.import_module(f".{name}", __name__)
            except ModuleNotFoundError as error:
                if error.name != f"{__name__}.{name}":
                    raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
