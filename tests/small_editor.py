"""An editor of random weights, made in a moment."""

from __future__ import annotations

import torch

from sdd_fast.editing.editor import Editor
from sdd_fast.manipulator import MapperInfo
from sdd_fast.models import Encoder, LevelsMapper, StyleGAN2

INFO = MapperInfo("white hair", 0.5, ("coarse", "medium"), (600, 700), "faces64")


def small_editor(info: MapperInfo = INFO, *, edits: int = 1) -> Editor:
    """An editor of random weights."""
    torch.manual_seed(0)
    generator = StyleGAN2(32, w_dim=16, z_dim=16, n_mlp=2, channel_base=256, channel_max=8)
    encoder = Encoder(32, 8, 16, channel_base=256, channel_max=8, head_channels=2)
    mappers = [LevelsMapper(8, 16, ["coarse", "medium"], zero_init=False) for _ in range(edits)]
    return Editor(generator, [(mapper, info) for mapper in mappers], encoder)
