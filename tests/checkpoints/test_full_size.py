"""Encoder, identity, mapper and latents at the depths that are published, through files.

The encoder at a quarter of its width: whole, its file is a gigabyte; its shapes are those of
tests/models/test_psp.py.
"""

from __future__ import annotations

from pathlib import Path

import torch
from irse_reference import IR50, arcface, arcface_shapes, pyramid, pyramid_shapes, random_state

from sdd_fast.checkpoints.load import load_encoder, load_identity, load_latents, load_mapper


def test_arcface(tmp_path: Path) -> None:
    state = random_state(arcface_shapes())
    path = tmp_path / "model_ir_se50.pth"
    torch.save(state, path, _use_new_zipfile_serialization=False)
    network = load_identity(path)
    stored = network.state_dict()
    assert stored.keys() == state.keys() and len(stored) == 397
    assert all(torch.equal(stored[key], value) for key, value in state.items())
    images = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    want = arcface(state, images, IR50)
    torch.testing.assert_close(network(images).double(), want, atol=1e-5, rtol=1e-4)


def test_e4e(tmp_path: Path) -> None:
    state = random_state(pyramid_shapes(18, 128, width=16))
    average = torch.randn(18, 128, generator=torch.Generator().manual_seed(1))
    path = tmp_path / "e4e_ffhq_encode.pt"
    named = {f"encoder.{key}": value for key, value in state.items()}
    opts = {"encoder_type": "Encoder4Editing", "start_from_latent_avg": True}
    torch.save({"state_dict": named, "opts": opts, "latent_avg": average}, path)
    network = load_encoder(path)
    stored = network.state_dict()
    assert len(state) == 621 and stored.keys() == state.keys() | {"latent_avg"}
    assert all(torch.equal(stored[key], value) for key, value in state.items())
    images = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 2 - 1
    want = average + pyramid(state, images, IR50, 18, deltas=True)
    error = (network(images).double() - want).norm() / want.norm()
    assert error < 1e-5


def test_styleclip_mapper_and_latents(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(0)
    state = {
        f"mapper.{level}_mapping.mapping.{i}.{kind}": torch.randn(*shape, generator=rng)
        for level in ("course", "medium", "fine")
        for i in (1, 2, 3, 4)
        for kind, shape in (("weight", (512, 512)), ("bias", (512,)))
    }
    torch.save({"state_dict": state, "opts": {"stylegan_size": 1024}}, tmp_path / "m.pt")
    mapper, _ = load_mapper(tmp_path / "m.pt")
    names = {"course": "coarse", "medium": "medium", "fine": "fine"}
    stored = mapper.state_dict()
    assert len(stored) == len(state) + 1  # and the scale
    for key, value in state.items():
        _, level, _, i, kind = key.split(".")
        assert torch.equal(stored[f"mlps.{names[level.split('_')[0]]}.{i}.{kind}"], value)
    w_plus = torch.randn(100, 1, 18, 512, generator=rng)
    torch.save(w_plus, tmp_path / "train_faces.pt")
    assert torch.equal(load_latents(tmp_path / "train_faces.pt"), w_plus[:, 0])
