"""sdd convert: the command around `checkpoints.convert`."""

from __future__ import annotations

from pathlib import Path

import foreign_files
import torch
from cli_runner import Sdd

from sdd_fast.checkpoints.load import load_generator, load_latents


def test_says_what_was_written(sdd: Sdd, tmp_path: Path) -> None:
    source, target = foreign_files.write(tmp_path, "train_faces.pt"), tmp_path / "o.safetensors"
    done = sdd("convert", source, target)
    assert done.code == 0 and not done.err
    assert done.out == f"written: {target} (1 KiB), latents: W+ 8 × 12 of 3 images\n"
    assert load_latents(target).shape == (3, 8, 12)


def test_a_part(sdd: Sdd, tmp_path: Path) -> None:
    source, target = foreign_files.write(tmp_path, "e4e.pt"), tmp_path / "o.safetensors"
    message = sdd.fails("convert", source, target)
    assert "holds a generator and an encoder: say which part, generator or encoder" in message
    done = sdd("convert", source, target, "--part", "generator")
    assert done.code == 0 and "generator: StyleGAN2" in done.out
    assert load_generator(target).resolution == 32


def test_the_rows_of_a_padded_generator(sdd: Sdd, tmp_path: Path) -> None:
    source, target = foreign_files.write(tmp_path, "e4e.pt"), tmp_path / "o.safetensors"
    words = ["convert", source, target, "--part", "generator", "--content-rows"]
    done = sdd(*words, 4, 28)
    assert done.code == 0 and "picture" in sdd("info", target).out
    whole, rows = load_generator(source), load_generator(target)
    assert rows.content_rows == (4, 28) and rows.image_size == (24, 32)
    w_plus = whole.broadcast(whole.random_w(2, torch.Generator().manual_seed(0)))
    assert torch.equal(rows.synthesis(w_plus), whole.synthesis(w_plus)[:, :, 4:28])
    # They are kept when the file is converted again, and only a generator has them.
    assert sdd("convert", target, tmp_path / "again.safetensors").code == 0
    assert load_generator(tmp_path / "again.safetensors").content_rows == (4, 28)
    target.unlink()
    assert "content_rows must be (first, last + 1) within 32" in sdd.fails(*words, 4, 33)
    words[4] = "encoder"
    assert "content_rows are those of a generator, but this is an encoder" in sdd.fails(
        *words, 4, 28
    )
    assert not target.exists()


def test_errors(sdd: Sdd, tmp_path: Path) -> None:
    source = foreign_files.write(tmp_path, "sdd.pt")
    target = tmp_path / "o.safetensors"
    for words, message in (
        ([tmp_path / "none.pt", target], "none.pt"),
        ([source, tmp_path / "o.pt"], "must end in .safetensors"),
        ([source, target, "--part", "hair"], "no part 'hair'; parts are generator, encoder"),
        ([source, target, "--part", "encoder"], "a latent mapper ("),
    ):
        assert message in sdd.fails("convert", *words)
    assert sdd("convert", source, target).code == 0
    assert "is the input, which is never overwritten" in sdd.fails("convert", target, target)
    assert "Missing argument" in sdd.fails("convert", source, code=2)
