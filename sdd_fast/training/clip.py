"""A tiny CLIP: the text encoder of the diffusion model, and the judge of edits.

The text tower is transformers' own CLIP with a byte-pair tokenizer learned from the captions, so
that Stable Diffusion pipelines load it as they load the real one; the image tower is a small
convolutional network, which learns from a thousand steps what a vision transformer does not.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import draws
from ..files import write_json, write_text
from ..models import ConvEmbedding
from ..models.clip import MAX_TOKENS, Clip, tokenize
from .classifier import degrade
from .data import CaptionedImages
from .part import PartTrainer, Recipe

if TYPE_CHECKING:
    from transformers import CLIPTextModelWithProjection, CLIPTokenizer

RECIPE = Recipe(steps=1500, batch_size=96, lr=1e-3, warmup=100, weight_decay=0.02, ema=0.99)
WIDTH = 128
_START, _END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(texts: list[str], folder: Path, merges: int = 1024) -> CLIPTokenizer:
    """Learn byte-pair merges from `texts`; write and return a CLIPTokenizer.

    As in CLIP, all 256 bytes are tokens inside a word and at its end, so no prompt is ever
    unknown, and the end token has the largest id.
    """
    from tokenizers import pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    blank = CLIPTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=512 + merges, end_of_word_suffix="</w>", show_progress=False
    )
    blank.backend_tokenizer.train_from_iterator(texts, trainer)
    learned = json.loads(blank.backend_tokenizer.to_str())["model"]["merges"]
    # merges of three or more characters that occur in one order only: keep what was learned
    pairs = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learned]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(c + "</w>" for c in letters)]
    tokens += [t for t in dict.fromkeys(a + b for a, b in pairs) if t not in set(tokens)]
    tokens += [_START, _END]
    write_json(folder / "vocab.json", {t: i for i, t in enumerate(tokens)})
    write_text(folder / "merges.txt", "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in pairs))
    tokenizer = CLIPTokenizer(
        vocab=str(folder / "vocab.json"),
        merges=str(folder / "merges.txt"),
        model_max_length=MAX_TOKENS,
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


def new_text_model(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            hidden_size=WIDTH,
            intermediate_size=4 * WIDTH,
            projection_dim=WIDTH,
            num_hidden_layers=3,
            num_attention_heads=4,
            hidden_act="gelu",
            vocab_size=len(tokenizer),
            max_position_embeddings=MAX_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


class _Learner(nn.Module):
    """Both towers, the temperature, and a linear head per attribute used while training only."""

    def __init__(
        self, text: CLIPTextModelWithProjection, image: ConvEmbedding, heads: dict[str, int]
    ) -> None:
        super().__init__()
        self.text = text
        self.image = image
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0)))
        self.heads = nn.ModuleDict({k: nn.Linear(WIDTH, n) for k, n in heads.items()})


def train_clip(data: CaptionedImages, trainer: PartTrainer) -> Clip:
    """Train by contrast (symmetric InfoNCE), with attribute heads where labels are known.

    The heads make the image embedding carry what a batch of contrasted captions rarely asks for,
    such as an expression that most captions leave out.
    """
    device = trainer.device
    tokenizer = train_tokenizer(data.all_captions(), trainer.folder / "tokenizer")
    heads = {k: int(v.max()) + 1 for k, v in data.labels.items()}
    with draws.private(RECIPE.seed):
        image = ConvEmbedding(WIDTH, data.resolution, width=16)
        learner = _Learner(new_text_model(tokenizer), image, heads)
    learner.to(device)

    def loss_fn(rng: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        index = data.batch(RECIPE.batch_size, rng)
        seed = int(torch.randint(2**31, (1,), generator=rng))
        ids = tokenize(tokenizer, data.captions(index, seed)).to(device)
        seen = learner.image(degrade(data.images(index, device), rng)).float()
        said = F.normalize(learner.text(ids).text_embeds.float(), dim=1)
        logits = learner.logit_scale.exp().clamp(max=50.0) * said @ seen.t()
        # captions repeat within a batch: every image of the same caption is a right answer
        same = (ids[:, None] == ids[None]).all(-1).float()
        target = same / same.sum(1, keepdim=True)
        nce = 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target))
        logs = {"nce": nce.detach()}
        loss, of_heads = nce, torch.zeros_like(logs["nce"])
        for name, head in learner.heads.items():
            want = data.labels[name][index].to(device)
            error = F.cross_entropy(head(seen * 12.0).float(), want)
            loss = loss + 0.5 * error / len(heads)
            of_heads += error.detach() / len(heads)
        return loss, logs | ({"heads": of_heads} if heads else {})

    trained = trainer.train("clip", learner, loss_fn, RECIPE)
    return Clip(trained.text, tokenizer, trained.image)
