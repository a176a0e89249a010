"""CLIP as edits are judged by: texts and images to unit vectors of one space.

`Clip` is the small one of an embedded domain, `PublishedClip` any `CLIPModel` of transformers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import expanded, write_json, write_text
from ..out_of_memory import check_ran_out
from ..quiet import quiet_loading
from ..shield import shielded
from .convnet import ConvEmbedding

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPTextModelWithProjection, CLIPTokenizer

MAX_TOKENS = 32


class Clip:
    """A text tower and an image tower whose embeddings are compared by cosine.

    Args:
        text: transformers' text model with projection.
        image: images [B, 3, R, R] in [-1, 1] → unit vectors.
    """

    def __init__(
        self, text: CLIPTextModelWithProjection, tokenizer: CLIPTokenizer, image: ConvEmbedding
    ) -> None:
        self.text = text.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.image = image.eval().requires_grad_(False)

    def to(self, device: str | torch.device) -> Clip:
        """Move both towers; return self."""
        self.text.to(device, torch.float32)
        self.image.to(device, torch.float32)
        return self

    @shielded(grad=False)
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors [len(texts), D]; ValueError for an empty text."""
        if not texts or any(not text.strip() for text in texts):
            raise ValueError(f"Clip: expected non-empty texts, got {texts!r}")
        ids = tokenize(self.tokenizer, list(texts)).to(self.text.device)
        return F.normalize(self.text(ids).text_embeds.float(), dim=1)

    def encode_images(self, images: Tensor) -> Tensor:
        """Return unit vectors [B, D] of images [B, 3, R, R] in [-1, 1]; differentiable."""
        vectors: Tensor = self.image(images)
        return vectors

    def save(self, folder: str | Path) -> None:
        """Write a transformers text model and tokenizer, and the image tower beside them."""
        folder = expanded(folder)
        with quiet_loading():
            self.text.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder)
        self.image.save(folder / "image.safetensors")

    @classmethod
    def load(cls, folder: str | Path) -> Clip:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: a file is missing.
            ValueError: a file is not what it should be.
        """
        from transformers import CLIPTextModelWithProjection, CLIPTokenizer

        folder = expanded(folder)
        for name in ("config.json", "model.safetensors", "tokenizer.json", "image.safetensors"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} is not a CLIP folder: {name} is missing; expected a transformers "
                    "CLIP text model with its tokenizer, and image.safetensors"
                )
        try:
            with quiet_loading():
                text = CLIPTextModelWithProjection.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True
                )
        except (OSError, json.JSONDecodeError) as error:
            check_ran_out(error, folder)
            raise ValueError(f"{folder}: the text model cannot be read ({error})") from error
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        return cls(text.float(), tokenizer, ConvEmbedding.load(folder / "image.safetensors"))


def save_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Write tokenizer.json, and vocab.json with merges.txt for older versions of transformers."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()  # which it has or not, depending on whether it was used before
    backend.no_truncation()
    tokenizer.save_pretrained(folder)
    model = json.loads(backend.to_str())["model"]
    merges = [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]
    write_json(folder / "vocab.json", model["vocab"])
    write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return token ids, int64 [B, MAX_TOKENS], padded and truncated."""
    batch = tokenizer(
        texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    )
    ids: Tensor = batch.input_ids
    return ids


@dataclass(frozen=True)
class Preprocessing:
    """Prepares images as the input of an image tower.

    Args:
        shortest_edge: pixels that the shorter side is resized to. crop: side of the square that is
            then cut from the middle, at most `shortest_edge`.
        mean, std: per channel, of values in [0, 1].
    """

    shortest_edge: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Return [B, 3, crop, crop] of images [B, 3, H, W] in [-1, 1]; differentiable.

        The published processor (PIL) rounds to bytes after each of the two passes; nothing is
        rounded here. Measured, that moves a value by 0.4 of 255 (root mean square), at most 1.1.
        """
        height, width = images.shape[-2:]
        # Integer division, as published: the longer side is rounded down.
        size = [self.shortest_edge * side // min(height, width) for side in (height, width)]
        resized = (images.float().clamp(-1, 1) + 1) / 2
        # Antialiased, PyTorch's cubic is that of PIL (a = −0.5). It overshoots where bytes cannot,
        # in PIL's pass over the rows already.
        for target in ((height, size[1]), size):
            resized = F.interpolate(resized, target, mode="bicubic", antialias=True).clamp(0, 1)
        top, left = ((side - self.crop) // 2 for side in size)
        square = resized[..., top : top + self.crop, left : left + self.crop]
        mean, std = (square.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (square - mean) / std


class PublishedClip:
    """Turns texts and images into unit vectors of one space, by transformers' `CLIPModel`.

    Args:
        model: switched to eval mode and frozen in place.
        tokenizer: its own.
        preprocessing: its own; `crop` is the model's image size.
    """

    def __init__(
        self, model: CLIPModel, tokenizer: CLIPTokenizer, preprocessing: Preprocessing
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.preprocessing = preprocessing

    def to(self, device: str | torch.device) -> PublishedClip:
        """Move both towers; return self."""
        self.model.to(device)
        return self

    @shielded(grad=False)
    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors [len(texts), D]; ValueError for an empty text. Cuts off long ones."""
        if not texts or any(not text.strip() for text in texts):
            raise ValueError(f"PublishedClip: expected non-empty texts, got {texts!r}")
        length = self.model.config.text_config.max_position_embeddings
        batch = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=length, return_tensors="pt"
        )
        # Attention is causal, so that the padding after the end of a text needs no mask.
        pooled = self.model.text_model(batch.input_ids.to(self.model.device)).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=1)

    def encode_images(self, images: Tensor) -> Tensor:
        """Return unit vectors [B, D] of images [B, 3, H, W] in [-1, 1]; differentiable."""
        pixels = self.preprocessing(images.to(self.model.device))
        pooled = self.model.vision_model(pixels).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=1)
