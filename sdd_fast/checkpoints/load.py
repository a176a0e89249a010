"""Load networks and latents from any file that contains them.

Each function asks the layouts of its kind whether the file is theirs; if none is, the error says
what the file is instead. Nothing in a file is ever executed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ..files import PathLike
from ..hub.download import local_source
from ..manipulator import MapperInfo
from ..models.arcface import ArcFace
from ..models.clip import Clip, PublishedClip
from ..models.convnet import ConvEmbedding
from ..models.encoder import Encoder
from ..models.psp import PyramidEncoder
from ..models.stylegan2 import StyleGAN2
from ..shield import shielded
from . import clip, latents
from .arcface import IDENTITY
from .content import Found, Layout
from .formats.read import Checkpoint, read_checkpoint
from .inspect import summarize
from .mapper import MAPPER, fill
from .psp import ENCODER, KINDS
from .stylegan2 import GENERATOR


@shielded(grad=False)
def load_generator(path: PathLike, *, content_rows: tuple[int, int] | None = None) -> StyleGAN2:
    """Load a StyleGAN2 generator.

    Args:
        path: a file of this package, of the PyTorch port (`{g_ema, latent_avg}`, a training
            checkpoint, a bare state dict, or `decoder.*` in a file of e4e, pSp or StyleCLIP), of
            BasicSR (`{params_ema}`, or `stylegan_decoder.*` in a file of GFPGAN), or a .pkl of
            NVIDIA's StyleGAN2-ADA or StyleGAN3 repository. Resolution, widths, mapping depth,
            classes, filter, clamp and float16 layers are told from it.
        content_rows: (first, last + 1), rows of the image that show something, see `StyleGAN2`:
            (64, 448) for the published LSUN car generators. No file tells it, except our own.

    Returns:
        The network on the CPU, float32, in eval mode and frozen. Of a training checkpoint the
        averaged weights.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, holds no such generator or one that cannot be reproduced;
            every missing, unexpected and misshapen tensor is named.
    """
    expected = (
        "a StyleGAN2 generator: a .safetensors, .pt, .pth or .pkl of one, or an e4e, pSp, "
        "StyleCLIP or GFPGAN file"
    )
    network: StyleGAN2 = _found(GENERATOR, path, expected, content_rows=content_rows).build()
    return network


@shielded(grad=False)
def load_encoder(
    path: PathLike, *, kind: str | None = None, latent_avg: Tensor | None = None
) -> Encoder | PyramidEncoder:
    """Load an encoder of images into W+: ours, e4e or pSp.

    Args:
        path: a file of `Encoder.save` or `PyramidEncoder.save`; one of the training code of e4e or
            pSp, such as `e4e_ffhq_encode.pt`; or the state dict taken from one.
        kind: "e4e" or "psp", only for a state dict alone: the tensors of the two are alike, and
            what tells them apart, `opts`, stands beside the state dict.
        latent_avg: [w_dim] or [num_layers, w_dim], what the styles are added to, only for a file
            that holds neither it nor the generator whose average it is: that of the generator that
            the encoder was trained with, or zeros if it was trained without.

    Returns:
        The network on the CPU, float32, eval mode, frozen. Its `input_size` is (256, 256), or
        (192, 256) if the file says that it was trained on cars.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, an encoder of another kind (ReStyle, one for
            sketches), or tensors that are not exactly those of the network; or `kind` or
            `latent_avg` is needed.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f'kind must be "e4e" or "psp", got {kind!r}')
    expected = (
        "an encoder of images: e4e (such as e4e_ffhq_encode.pt), pSp, or one saved by this package"
    )
    found = _found(ENCODER, path, expected, kind=kind, latent_avg=latent_avg)
    network: Encoder | PyramidEncoder = found.build()
    return network


@shielded(grad=False)
def load_identity(path: PathLike) -> ConvEmbedding | ArcFace:
    """Load a network from images to unit vectors that are alike for the same subject.

    Args:
        path: a file of `ConvEmbedding.save` or `ArcFace.save`, or ArcFace with an IR or IR-SE
            trunk, such as `model_ir_se50.pth`.

    Returns:
        The network on the CPU, float32, eval mode, frozen.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds something else, or tensors that are not exactly those of the
            network; every missing, unexpected and misshapen one is named.
    """
    expected = (
        "an identity network: ArcFace (such as model_ir_se50.pth) or one saved by this package"
    )
    network: ConvEmbedding | ArcFace = _found(IDENTITY, path, expected).build()
    return network


@shielded(grad=False)
def load_mapper(path: PathLike, into: nn.Module | None = None) -> tuple[nn.Module, MapperInfo]:
    """Load a latent mapper: ours (of `save_mapper`), StyleCLIP's, or one of the authors' code.

    A foreign mapper reproduces exactly: the normalization over layers that it was trained with,
    λ = 0.1, the levels that it has, and the prompt if the file tells it. Where a file does not tell
    the number of W+ layers, its mapper takes any number.

    Args:
        path: a file, or "owner/name" of a repository on the hub where there is no such path.
        into: where the file holds a mapper of your own class: one of that class, whose weights are
            replaced.

    Returns:
        A `LevelsMapper` or `StyleSpaceMapper` (CPU, float32, eval mode, no gradients), or `into`,
        and what it is for.

    Raises:
        FileNotFoundError: there is no such file, nor anything of that name on the hub.
        ValueError: it holds no mapper, or not exactly the tensors of one; all that is missing,
            unexpected or of the wrong shape is listed.
    """
    expected = (
        "a latent mapper: mapper.safetensors of a run folder, or the .pt file of StyleCLIP or of "
        "the SDD authors' code"
    )
    path = local_source(path)
    if into is not None:
        return into, fill(into, read_checkpoint(path))
    found = _found(MAPPER, path, expected)
    return found.build(), found.told["info"]


@shielded(grad=False)
def load_latents(path: PathLike, num_layers: int | None = None) -> Tensor:
    """Load W+ latents: [N, num_layers, w_dim], float32, on the CPU.

    Args:
        path: a tensor [N, layers, w_dim], [N, 1, layers, w_dim], [layers, w_dim] (of one image), or
            of w codes [N, w_dim] or [N, 1, w_dim]; bare or in a dict; in a .pt, .pth, .safetensors
            or .npy file. Of a domain's file its `train` latents are read; `held_out` are not.
        num_layers: of the generator. It lets a file of w codes be broadcast to all layers, and has
            the number of layers checked. Without it an [n, w_dim] tensor is one image's W+ if n
            is 8, 10, … 18, the number of layers of some generator.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no latents, w or style latents, those of another generator, or values
            that are NaN or infinite.
    """
    checkpoint = read_checkpoint(path)
    found = latents.read_w_plus(checkpoint, num_layers)
    if found is None:
        raise _another(
            checkpoint,
            "latents: a tensor [N, layers, w_dim], alone or in a dict as "
            + ", ".join(latents.NAMES),
        )
    return found


@shielded(grad=False)
def load_styles(path: PathLike, style_dims: Sequence[int]) -> list[Tensor]:
    """Load S-space latents: one [N, style_dims[i]] for each style, float32, on the CPU.

    Args:
        path: a file with a padded tensor [N, 1, 512 · styles, 1, 1], or with a list of one
            [N, 1, n, 1, 1] for each style.
        style_dims: `generator.style_dims`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no such latents, those of another generator, a padding that is not
            zero (the styles are then longer than `style_dims`), or NaN or infinity.
    """
    checkpoint = read_checkpoint(path)
    found = latents.read_styles(checkpoint, list(style_dims))
    if found is None:
        raise _another(
            checkpoint,
            f"style latents [N, 1, {latents.STYLE_WIDTH} · styles, 1, 1]; W+ latents are read by "
            "load_latents",
        )
    return found


@shielded(grad=False)
def load_clip(folder: PathLike) -> Clip | PublishedClip:
    """Load a judge of directions: texts and images to unit vectors of one space.

    Args:
        folder: what `Clip.save` wrote, or a `CLIPModel` of transformers. Nothing in it is executed:
            of a .bin, only the tensors are read.

    Returns:
        The judge on the CPU, float32, frozen.

    Raises:
        FileNotFoundError: no such folder, or files are missing from it.
        ValueError: a file is damaged or of something else, the weights are not exactly those that
            config.json describes (every missing, unexpected and misshapen tensor is named), or the
            images are to be prepared in a way that is not supported.
    """
    return clip.read(folder)


def _found(layout: Layout, path: PathLike, expected: str, **told: Any) -> Found:
    """Find the network of that kind in a file."""
    checkpoint = read_checkpoint(path)
    found = layout.find(checkpoint, **told)
    if found is None:
        raise _another(checkpoint, expected)
    return found


def _another(checkpoint: Checkpoint, expected: str) -> ValueError:
    return ValueError(f"{checkpoint.path} is {summarize(checkpoint)}; expected {expected}")
