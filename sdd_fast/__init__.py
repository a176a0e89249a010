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
    from . import ops
    from ._build_info import build_info
    from .checkpoints.convert import convert
    from .checkpoints.load import (
        load_clip,
        load_encoder,
        load_generator,
        load_identity,
        load_latents,
        load_mapper,
        load_styles,
    )
    from .distillation.config import DistillConfig
    from .distillation.distill import DistillResult, distill
    from .distillation.monitor import EditMonitor
    from .domains import Domain, load_domain
    from .edit import Editor
    from .export import export_torchscript, load_torchscript
    from .gradients.balance import balanced_guidance_scale
    from .gradients.config import GuidanceConfig
    from .gradients.image_gradient import Guidance, guidance, image_gradient
    from .gradients.sds import residual
    from .images import load_image
    from .manipulator import MapperInfo, save_mapper
    from .models import (
        ConvClassifier,
        ConvEmbedding,
        Encoder,
        LevelsMapper,
        StyleGAN2,
        StyleSpaceMapper,
    )
    from .selection.curve import HQSCurve
    from .selection.hqs import hqs
    from .teacher.prior import DiffusionPrior
    from .teacher.text import PromptEmbeds

__version__ = "0.1.0"

_deprecated.install()

_NAMES_OF = {
    "._build_info": ("build_info",),
    ".checkpoints.convert": ("convert",),
    ".checkpoints.load": (
        "load_clip",
        "load_encoder",
        "load_generator",
        "load_identity",
        "load_latents",
        "load_mapper",
        "load_styles",
    ),
    ".distillation.config": ("DistillConfig",),
    ".distillation.distill": (
        "DistillResult",
        "distill",
    ),
    ".distillation.monitor": ("EditMonitor",),
    ".domains": (
        "Domain",
        "load_domain",
    ),
    ".edit": ("Editor",),
    ".export": (
        "export_torchscript",
        "load_torchscript",
    ),
    ".gradients.balance": ("balanced_guidance_scale",),
    ".gradients.config": ("GuidanceConfig",),
    ".gradients.image_gradient": (
        "Guidance",
        "guidance",
        "image_gradient",
    ),
    ".gradients.sds": ("residual",),
    ".images": ("load_image",),
    ".manipulator": (
        "MapperInfo",
        "save_mapper",
    ),
    ".models": (
        "ConvClassifier",
        "ConvEmbedding",
        "Encoder",
        "LevelsMapper",
        "StyleGAN2",
        "StyleSpaceMapper",
    ),
    ".selection.curve": ("HQSCurve",),
    ".selection.hqs": ("hqs",),
    ".teacher.prior": ("DiffusionPrior",),
    ".teacher.text": ("PromptEmbeds",),
}
"""Module → the public names in it, which are imported when they are first used."""

_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names}


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


__all__ = [
    "ConvClassifier",
    "ConvEmbedding",
    "DiffusionPrior",
    "DistillConfig",
    "DistillResult",
    "Domain",
    "EditMonitor",
    "Editor",
    "Encoder",
    "Guidance",
    "GuidanceConfig",
    "HQSCurve",
    "LevelsMapper",
    "MapperInfo",
    "PromptEmbeds",
    "StyleGAN2",
    "StyleSpaceMapper",
    "__version__",
    "balanced_guidance_scale",
    "build_info",
    "convert",
    "distill",
    "export_torchscript",
    "guidance",
    "hqs",
    "image_gradient",
    "load_clip",
    "load_domain",
    "load_encoder",
    "load_generator",
    "load_identity",
    "load_image",
    "load_latents",
    "load_mapper",
    "load_styles",
    "load_torchscript",
    "ops",
    "residual",
    "save_mapper",
]
