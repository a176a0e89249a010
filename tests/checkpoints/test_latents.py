"""Latent files in every shape and wrapping that they come in."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sdd_fast.checkpoints.formats.read import Checkpoint
from sdd_fast.checkpoints.latents import describe
from sdd_fast.checkpoints.load import load_latents, load_styles
from sdd_fast.files import save_tensors
from sdd_fast.models import StyleGAN2

LAYERS, DIM = 10, 16
DIMS = [8, 8, 8, 6, 6, 6, 4, 4]


def w_plus(count: int = 3) -> Tensor:
    return torch.randn(count, LAYERS, DIM, generator=torch.Generator().manual_seed(0))


def write(content: Any, path: Path) -> Path:
    if path.suffix == ".npy":
        np.save(path, content.numpy())
    elif path.suffix == ".safetensors":
        save_tensors(path, content)
    else:
        torch.save(content, path)
    return path


def facts(content: Any) -> str | None:
    found = describe(Checkpoint(Path("x"), "torch", content))
    return found and found["latents"]


# --- W+ -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".npy"])
def test_bare_tensors(suffix: str, tmp_path: Path) -> None:
    want = w_plus()
    for content in (want, want[:, None], want.double(), want.transpose(1, 2).contiguous().mT):
        path = write(content, tmp_path / f"latents{suffix}")
        got = load_latents(path)
        assert got.dtype == torch.float32 and got.is_contiguous() and torch.equal(got, want)
        assert torch.equal(load_latents(path, LAYERS), want)
        assert facts(content) == "W+ 10 × 16 of 3 images"
    one = write(want[0], tmp_path / f"one{suffix}")
    assert torch.equal(load_latents(one), want[:1])
    assert torch.equal(load_latents(one, LAYERS), want[:1])
    assert facts(want[0]) == "W+ 10 × 16 of 1 image"


def test_half_precision_and_gradients(tmp_path: Path) -> None:
    want = w_plus().half()
    got = load_latents(write(want.requires_grad_(), tmp_path / "a.pt"))
    assert got.dtype == torch.float32 and torch.equal(got, want.float()) and not got.requires_grad


@pytest.mark.parametrize("name", ["latents", "latent", "w_plus", "w", "train"])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_wrapped_in_a_dict(name: str, suffix: str, tmp_path: Path) -> None:
    path = write({"other": torch.zeros(1), name: w_plus()}, tmp_path / f"a{suffix}")
    assert torch.equal(load_latents(path), w_plus())


def test_arrays_in_a_pickle(tmp_path: Path) -> None:
    path = tmp_path / "a.pkl"
    big_endian = w_plus().numpy().astype(">f4")
    for content in (
        w_plus().numpy(),
        big_endian,
        {"latents": w_plus().double().numpy(), "names": ["a"]},
    ):
        path.write_bytes(pickle.dumps(content))
        assert torch.equal(load_latents(path), w_plus())


def test_held_out_latents_of_a_domain_stay_unseen(tmp_path: Path) -> None:
    content = {"held_out": torch.zeros(5, LAYERS, DIM), "train": w_plus()}
    path = write(content, tmp_path / "a.safetensors")
    assert torch.equal(load_latents(path), w_plus())
    assert facts(content) == "W+ 10 × 16 of 3 images, and 5 held out"
    content["held_out"] = torch.tensor(0.0)
    assert facts(content) == "W+ 10 × 16 of 3 images"


def test_w_is_broadcast_when_asked_to(tmp_path: Path) -> None:
    for count in (3, LAYERS):  # LAYERS codes [LAYERS, 1, DIM] are not one picture's W+
        w = torch.randn(count, DIM)
        for content in (w, w[:, None]) if count == 3 else (w[:, None], w[:, None, None]):
            path = write(content, tmp_path / "a.pt")
            got = load_latents(path, 14)
            assert torch.equal(got, torch.stack([w] * 14, 1)) and got.is_contiguous()
            with pytest.raises(ValueError, match=r"w codes .*num_layers=generator\.num_layers"):
                load_latents(path)
        if count != 3:
            assert torch.equal(load_latents(path, LAYERS), torch.stack([w] * LAYERS, 1))
    assert facts({"w": torch.zeros(4, DIM)}) == "w 16 of 4 images"
    assert facts(torch.zeros(5000, DIM)) is None  # a matrix without a name may be anything


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": torch.zeros(3, 10, 4)}, "expected latents: a tensor"),
        ({"latents": "text"}, "expected latents: a tensor"),
        ([1, 2], "expected latents: a tensor"),
        (torch.zeros(3, 2, 10, 4), r"\[3, 2, 10, 4\]; expected \[N, 1, layers, w_dim\]"),
        (torch.zeros(3, 10, 4, dtype=torch.int64), "torch.int64; expected latents"),
        (torch.zeros(0, 10, 4), r"\[0, 10, 4\].*expected latents"),
        (torch.zeros(4), r"\[4\].*expected latents"),
        (torch.full((3, 10, 4), float("nan")), "latents of 3 of 3 images are NaN or infinite"),
        (torch.tensor([0.0, float("inf")]).reshape(2, 1, 1, 1).expand(2, 1, 10, 4), "of 1 of 2"),
        (torch.zeros(2, 1, 4096, 1, 1), r"holds style latents.*load_styles"),
        ([torch.zeros(2, 1, n, 1, 1) for n in DIMS], r"holds style latents.*load_styles"),
    ],
)
def test_errors(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_latents(write(content, tmp_path / "a.pt"))


def test_latents_of_another_generator(tmp_path: Path) -> None:
    path = write(w_plus(), tmp_path / "a.pt")
    with pytest.raises(ValueError, match="holds W\\+ of 10 layers, the generator has 18"):
        load_latents(path, 18)


def test_other_files(tmp_path: Path) -> None:
    for name in ("none.pt", "none.npy"):
        with pytest.raises(FileNotFoundError):
            load_latents(tmp_path / name)
    path = tmp_path / "generator.safetensors"
    StyleGAN2(8, w_dim=4, z_dim=4, n_mlp=1, channel_base=8, channel_max=4).save(path)
    with pytest.raises(ValueError, match="expected latents: a tensor"):
        load_latents(path)
    with pytest.raises(ValueError, match="expected style latents"):
        load_styles(path, DIMS)


def test_npy_files_run_nothing_and_claim_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    np.save(path, np.array([{"latents": 1}], dtype=object))
    with pytest.raises(ValueError, match=r"a\.npy is no complete \.npy file of numbers"):
        load_latents(path)
    np.save(path, np.zeros((3, 10, 4), np.float32))
    whole = path.read_bytes()
    more = whole.replace(b"(3, 10, 4), }" + b" " * 9, b"(3000000000, 10, 4), }")
    assert more != whole and len(more) == len(whole)
    for broken in (whole[:-1], whole[:30], b"", more):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match="no complete"):
            load_latents(path)
    np.save(path, np.array(["a"]))
    with pytest.raises(ValueError, match="no complete"):
        load_latents(path)


# --- styles ---------------------------------------------------------------------------------------


def padded(styles: list[Tensor]) -> Tensor:
    """As StyleCLIP writes them: each [N, n] followed by zeros up to 512, one after the other."""
    out = torch.zeros(len(styles[0]), 1, 512 * len(styles), 1, 1)
    for i, style in enumerate(styles):
        for n in range(style.shape[1]):
            out[:, 0, 512 * i + n, 0, 0] = style[:, n]
    return out


def styles(dims: list[int]) -> list[Tensor]:
    return [torch.randn(2, dim) for dim in dims]


def test_styles_of_the_published_size(tmp_path: Path) -> None:
    dims = [512] * 15 + [256] * 3 + [128] * 3 + [64] * 3 + [32] * 2
    with torch.device("meta"):
        assert StyleGAN2(1024).style_dims == dims
    want = styles(dims)
    content = padded(want)
    assert list(content.shape) == [2, 1, 13312, 1, 1]
    got = load_styles(write(content, tmp_path / "a.pt"), dims)
    assert len(got) == 26
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b) and a.is_contiguous()
    assert facts(content) == "26 styles, padded to 512, of 2 images"


def test_styles_fit_the_generator(tmp_path: Path) -> None:
    """Through a file into S-space and out as the same picture."""
    torch.manual_seed(0)
    generator = StyleGAN2(16, w_dim=8, z_dim=8, n_mlp=1, channel_base=64, channel_max=8)
    generator = generator.eval().requires_grad_(False)
    want = generator.style_vectors(torch.randn(2, 6, 8))
    rosinality = [style[:, None, :, None, None] for style in want]
    for content in (padded(want), rosinality, tuple(rosinality)):
        got = load_styles(write(content, tmp_path / "a.pt"), generator.style_dims)
        images = generator.synthesis_from_styles(got)
        assert torch.equal(images, generator.synthesis_from_styles(want))
    assert facts(rosinality) == "8 styles of 2 images"


def test_style_errors(tmp_path: Path) -> None:
    content = padded(styles(DIMS))
    path = write(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="4096 elements an image, but 2 styles of up to 8"):
        load_styles(path, DIMS[:2])
    with pytest.raises(ValueError, match="8 styles of up to 600"):
        load_styles(path, [600] * 8)
    with pytest.raises(ValueError, match="style 3 has 5 channels .* wider generator"):
        load_styles(path, [8, 8, 8, 5, 6, 6, 4, 4])
    content[1, 0, 3] = float("nan")
    with pytest.raises(ValueError, match="latents of 1 of 2 images are NaN"):
        load_styles(write(content, path), DIMS)
    listed = [style[:, None, :, None, None] for style in styles(DIMS)]
    with pytest.raises(ValueError, match=r"lengths \[8, 8, 8, 6, 6, 6, 4, 4\].*\[8, 8\]"):
        load_styles(write(listed, path), [8, 8])
    for other in (w_plus(), torch.zeros(2, 1, 512, 2, 1), [torch.zeros(1), torch.zeros(1)]):
        with pytest.raises(ValueError, match="expected style latents .* read by load_latents"):
            load_styles(write(other, path), DIMS)


def test_description_of_what_is_no_latents() -> None:
    for content in (
        torch.zeros(()),
        torch.zeros(3, 7, 4),
        torch.zeros(0, 10, 4),
        torch.zeros(2, 10, 4, dtype=torch.int8),
        torch.zeros(2, 1, 513, 1, 1),
        {"w": 1},
        {"w": np.array(["a"])},
        {0: 1},
        {},
        [torch.zeros(0, 1, 3, 1, 1)] * 2,
        [torch.zeros(2, 1, 3, 1, 1), torch.zeros(3, 1, 3, 1, 1)],
        [],
    ):
        assert facts(content) is None
