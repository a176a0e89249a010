"""Photographs of clothing: their files, captions, labels and held-out ones, without weights."""

from __future__ import annotations

import gzip
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from fashion_files import draw_garments, idx, write_fashion
from tiny_domain import write_tiny_domain

from sdd_fast import draws
from sdd_fast.domains import load_domain
from sdd_fast.domains.embedded import source_of
from sdd_fast.domains.fashion32 import held_out, reader
from sdd_fast.domains.fashion32.attributes import ATTRIBUTES, DARK_BELOW, HEADS, LIGHT_ABOVE
from sdd_fast.domains.fashion32.captions import SOURCE_TEXT, caption, captions
from sdd_fast.domains.fashion32.edits import EDITS, SAMPLED
from sdd_fast.domains.fashion32.photographs import (
    balanced,
    brightness,
    brightness_class,
    read_photographs,
    to_square,
)
from sdd_fast.domains.fashion32.target import target_in, targets_in
from sdd_fast.domains.fashion32.training_data import ClothingPhotographs, shaded

# --- the files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [True, False])
def test_photographs_are_read_with_their_negation_undone(tmp_path: Path, compressed: bool) -> None:
    write_fashion(tmp_path, 60, compressed=compressed)
    found = read_photographs(tmp_path, "train")
    images, labels = draw_garments(60)
    assert found.pixels.dtype == torch.uint8 and found.pixels.shape == (60, 28, 28)
    assert np.array_equal(found.pixels.numpy(), 255 - images)
    assert found.labels["kind"].tolist() == labels.tolist()
    in_turn = [i // 10 % 3 for i in range(60)]
    assert found.labels["brightness"].tolist() == in_turn
    assert len(read_photographs(tmp_path, "t10k")) == 30


def test_missing_files_are_told_with_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="apt install dataset-fashion-mnist") as error:
        read_photographs(tmp_path, "train")
    assert "train-images-idx3-ubyte.gz" in str(error.value) and "--images" in str(error.value)
    write_fashion(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match="t10k-labels-idx1-ubyte.gz"):
        read_photographs(tmp_path, "t10k")


def _damage(images: np.ndarray, labels: np.ndarray) -> dict[str, tuple[bytes, bytes]]:
    whole, tags = idx(images), idx(labels)
    eleventh = labels.copy()
    eleventh[3] = 10
    return {
        "is no IDX file of 3 axes": (b"PK\3\4" + whole[4:], tags),
        "begins with nothing": (b"", tags),
        "has only 2,336": (whole[:2352], tags),
        "has more": (whole + b"\0", tags),
        "images of 27 × 28 pixels": (idx(images[:, 1:]), tags),
        "holds 20 images, but": (whole, idx(labels[:-1])),
        "holds a label 10": (whole, idx(eleventh)),
        "which Fashion-MNIST does not": (whole[:4] + b"\xff" * 12 + whole[16:], tags),
    }


@pytest.mark.parametrize("message", _damage(*draw_garments(20)))
def test_damaged_files_are_told_apart(tmp_path: Path, message: str) -> None:
    images, labels = _damage(*draw_garments(20))[message]
    (tmp_path / "train-images-idx3-ubyte").write_bytes(images)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_photographs(tmp_path, "train")


@pytest.mark.parametrize("cut", [4, 60, -1])
def test_a_compressed_file_that_is_cut_off_is_damaged(tmp_path: Path, cut: int) -> None:
    write_fashion(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match="is damaged .*download it again"):
        read_photographs(tmp_path, "train")


def test_no_more_is_unpacked_than_a_file_should_hold(tmp_path: Path) -> None:
    """Megabytes of zeros compress to kilobytes."""
    write_fashion(tmp_path)
    images, _ = draw_garments(120)
    bomb = gzip.compress(idx(images) + bytes(50_000_000))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(bomb)
    with pytest.raises(ValueError, match="has more"):
        read_photographs(tmp_path, "train")


# --- what is known of a photograph ----------------------------------------------------------------


def test_brightness_is_that_of_the_garment_alone() -> None:
    rng = np.random.default_rng(0)
    pictures = np.full((3, 28, 28), 255, np.uint8)
    pictures[0, 10:12, 10:12] = 20  # small and dark
    pictures[1, 2:26, 4:24] = rng.integers(150, 240, (24, 20))
    expected = []
    for picture in pictures.astype(np.float64):
        garment = [value for row in picture for value in row if value < 247]
        expected.append(sum(garment) / len(garment) if garment else 255.0)
    found = brightness(torch.from_numpy(pictures))
    assert found.tolist() == pytest.approx(expected, abs=1e-3)
    assert brightness_class(torch.from_numpy(pictures)).tolist() == [0, 2, 2]


def test_the_middle_is_wide() -> None:
    values = (DARK_BELOW - 1, DARK_BELOW, (DARK_BELOW + LIGHT_ABOVE) / 2, LIGHT_ABOVE, 131)
    pictures = torch.stack([torch.full((28, 28), value) for value in values])
    assert brightness_class(pictures).tolist() == [0, 1, 1, 1, 2]
    assert LIGHT_ABOVE - DARK_BELOW >= 40


def test_no_pixel_is_resampled() -> None:
    pixels = torch.from_numpy(255 - draw_garments(4)[0])
    square = to_square(pixels)
    assert square.shape == (4, 3, 32, 32) and square.dtype == torch.uint8
    assert all(torch.equal(square[:, c, 2:30, 2:30], pixels) for c in range(3))
    border = torch.ones(32, 32, dtype=torch.bool)
    border[2:30, 2:30] = False
    assert (square[:, :, border] == 255).all()


def test_each_kind_is_as_often_dark_as_light(tmp_path: Path) -> None:
    photographs = read_photographs(write_fashion(tmp_path, 47), "train")
    index = balanced(photographs, 3, draws.generator(0))
    cells = Counter(zip(*(photographs.labels[k][index].tolist() for k in ATTRIBUTES), strict=True))
    assert len(cells) == 30 and set(cells.values()) == {3}
    once = balanced(photographs, 3, draws.generator(0), repeat=False)
    assert len(once) == len(set(once.tolist())) == 47
    assert torch.equal(index, balanced(photographs, 3, draws.generator(0)))
    assert not torch.equal(index, balanced(photographs, 3, draws.generator(1)))


# --- words ----------------------------------------------------------------------------------------


def test_captions_name_what_is_there_and_nothing_else() -> None:
    rng = draws.choices(0)
    for kind in ATTRIBUTES["kind"]:
        for level in ATTRIBUTES["brightness"]:
            for _ in range(60):
                text = caption({"kind": kind, "brightness": level}, rng)
                named = targets_in(text)
                assert named.get("kind", (kind,)) == (kind,), text
                assert named.get("brightness", (level,)) == (level,), text
                assert not re.search(r"\ba (a|an|ankle)\b|\ban (dark|light)\b|\ba clothe", text)


def test_a_third_of_dark_garments_are_called_dark_alone() -> None:
    n = 3000
    labels = {"kind": torch.arange(n) % 10, "brightness": torch.zeros(n, dtype=torch.long)}
    forms = Counter(tuple(sorted(targets_in(text))) for text in captions(labels, draws.choices(1)))
    assert 0.25 < forms["brightness",] / n < 0.4
    assert 0.3 < forms["brightness", "kind"] / n < 0.5
    assert forms["kind",] > 0.1 * n and forms[()] > 0.05 * n
    labels["brightness"] += 1
    plain = captions(labels, draws.choices(1))
    assert not any("brightness" in targets_in(text) for text in plain)
    assert SOURCE_TEXT in plain


@pytest.mark.parametrize(
    ("prompt", "target"),
    [
        ("a photo of dark clothing", ("brightness", ("dark",))),
        ("Light clothes", ("brightness", ("light",))),
        ("a t-shirt", ("kind", ("t-shirt",))),
        ("a photo of a shirt", ("kind", ("shirt",))),
        ("an ankle boot", ("kind", ("boot",))),
        ("a dark dress", None),
        ("clothes", None),
        ("a lighthouse in the darkness", None),
    ],
)
def test_what_a_prompt_is_about(prompt: str, target: object) -> None:
    assert target_in(prompt) == target


def test_measured_prompts_are_about_what_they_are_measured_by() -> None:
    assert all(target_in(prompt) == target for prompt, target in (EDITS | SAMPLED).items())
    assert all(prompt in EDITS for prompt in reader.DEMO_PROMPTS)
    sampled = {value for name, values in SAMPLED.values() if name == "kind" for value in values}
    assert sampled == set(ATTRIBUTES["kind"])


# --- what it is trained on, and what is held out --------------------------------------------------


def test_two_views_of_a_garment_differ_in_shade_and_place(tmp_path: Path) -> None:
    source = source_of("fashion32", write_fashion(tmp_path), None, False)
    pair = source.pair(16, 32, draws.generator(3))
    assert pair is not None
    first, second = pair
    assert first.shape == second.shape == (16, 3, 32, 32)
    assert first.amin() >= -1 and second.amax() <= 1
    dark = torch.full((40, 3, 8, 8), -0.8)
    dark[..., :4] = 1.0
    other = shaded(dark, draws.generator(0))
    assert torch.equal(other[..., :4], dark[..., :4])
    assert other[..., 4:].amin((1, 2, 3)).std() > 0.2


def test_held_out_photographs_come_from_the_test_set_and_are_kept(
    tmp_path: Path, tiny_sd: Path
) -> None:
    files = write_fashion(tmp_path / "files")
    source = ClothingPhotographs(files)
    split = source.images(tmp_path, 32, 1.0)
    assert split.train.labels.keys() == HEADS.keys()
    assert len(split.train) == 36_000 and len(split.held_out) == 60
    assert len(source.images(tmp_path, 32, 0.01).train) == 12 * 30
    test_set = {bytes(p.numpy().tobytes()) for p in read_photographs(files, "t10k").pixels}
    assert {bytes(p.numpy().tobytes()) for p in source.held_out.pixels} <= test_set

    folder = write_tiny_domain(tmp_path / "domain", tiny_sd, clothes=True)
    (folder / held_out.FILE).unlink()
    domain = load_domain(folder)
    assert domain.reader is not None and domain.reader.HEADS == HEADS
    with pytest.raises(FileNotFoundError, match=re.escape(held_out.FILE)):
        domain.reader.sample_images(domain, 2)
    source.keep(folder)
    assert "Zalando SE" in (folder / held_out.LICENSE.name).read_text(encoding="utf-8")
    found = held_out.load_held_out(domain)
    assert torch.equal(found.pixels, source.held_out.pixels)
    assert all(torch.equal(found.labels[k], source.held_out.labels[k]) for k in HEADS)

    shown = domain.reader.sample_images(domain, 5, [("brightness", ("dark",))])
    assert shown.shape == (5, 3, 32, 32)
    gray = (shown[:, 0] + 1) * 127.5
    assert (brightness(gray) >= DARK_BELOW).all()
    with pytest.raises(ValueError, match="only 0 held-out photographs lack"):
        domain.reader.sample_images(domain, 1, [("kind", ATTRIBUTES["kind"])])


@pytest.mark.parametrize("damage", ["labels", "pixels", "value"])
def test_damaged_held_out_photographs_are_refused(
    tmp_path: Path, tiny_sd: Path, damage: str
) -> None:
    folder = write_tiny_domain(tmp_path / "domain", tiny_sd, clothes=True)
    found = held_out.load_held_out(load_domain(folder))
    if damage == "labels":
        del found.labels["brightness"]
    elif damage == "value":
        found.labels["kind"][0] = 10
    else:
        found = type(found)(found.pixels[:, 1:], found.labels)
    held_out.save_held_out(folder, found)
    with pytest.raises(ValueError, match="is damaged: expected pixels"):
        held_out.load_held_out(load_domain(folder))


def test_only_the_photographs_own_size_is_trained(tmp_path: Path) -> None:
    from sdd_fast.training.train_domain import train_domain

    files = write_fashion(tmp_path / "files")
    with pytest.raises(ValueError, match="resolution must be 32, got 64"):
        train_domain(tmp_path / "out", like="fashion32", images=files, resolution=64)
    with pytest.raises(ValueError, match="expected one of faces64, fashion32"):
        train_domain(tmp_path / "out", like="fashion23", images=files)
    with pytest.raises(ValueError, match="give no folder of images"):
        train_domain(tmp_path / "out", like="faces64", images=files)
    with pytest.raises(ValueError, match="caption_column"):
        train_domain(tmp_path / "out", like="fashion32", images=files, caption_column="text")
    assert not (tmp_path / "out").exists()
