"""Selective Diffusion Distillation: choose the timesteps that matter, distil them into one pass.

    import sdd_fast as sdd

    domain = sdd.load_domain("faces64")
    curve = sdd.hqs(domain.prior, domain.held_out[:16], "a face with white hair",
                    generator=domain.generator)
    result = sdd.distill(domain.prior, domain.generator, domain.w_plus, "a face with white hair",
                         curve.plateau())

Importing the package imports torch and little else: diffusers, transformers and matplotlib are
loaded by the functions that need them, and CUDA is not initialised.
"""

from __future__ import annotations

from . import _deprecated, ops
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
from .teacher.prior import DiffusionPrior, PromptEmbeds

__version__ = "0.1.0"

_deprecated.install()

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
