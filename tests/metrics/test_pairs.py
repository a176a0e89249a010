"""Direction, identity and saturation of pairs of images, by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sdd_fast.metrics import clip_similarity, identity_similarity
from sdd_fast.metrics.pairs import check_images
from sdd_fast.metrics.saturation import saturation

WORDS = {
    "gray": (1.0, 1.0, 1.0),
    "red": (1.0, 0.1, 0.1),
    "the same gray": (2.0, 2.0, 2.0),
}


class ColorClip:
    """An image is its mean color, a text the color that it names."""

    def encode_images(self, images: Tensor) -> Tensor:
        return F.normalize(images.mean((2, 3)) + 1, dim=1)

    def encode_texts(self, texts: list[str]) -> Tensor:
        return F.normalize(torch.tensor([WORDS[text] for text in texts]), dim=1)


def plain(*colors: tuple[float, float, float]) -> Tensor:
    return torch.tensor(colors, dtype=torch.float32)[:, :, None, None].expand(-1, -1, 4, 4)


def unit(*values: float) -> Tensor:
    vector = torch.tensor(values, dtype=torch.float64)
    return vector / vector.norm()


def test_direction_and_similarity_by_hand() -> None:
    before = plain((0, 0, 0), (0, 0, 0), (0, 0, 0))
    after = plain((0.5, -0.5, -0.5), (0, 0, 0), (-0.5, 0.5, 0.5))
    found = clip_similarity(ColorClip(), before, after, "gray", "red")
    gray, red = unit(1, 1, 1), unit(1, 0.1, 0.1)
    reddened = unit(1.5, 0.5, 0.5)
    move, wanted = reddened - gray, red - gray
    direction = move @ wanted / (move.norm() * wanted.norm())
    assert found.direction[0] == pytest.approx(float(direction), abs=1e-6)
    assert found.direction[1] == 0  # nothing changed
    assert found.direction[2] < -0.8
    assert found.absolute[0] == pytest.approx(float(reddened @ red), abs=1e-6)
    assert found.before.tolist() == pytest.approx([float(gray @ red)] * 3, abs=1e-6)
    assert (found.source_text, found.target_text) == ("gray", "red")
    assert found.direction.dtype == torch.float64


def test_texts_between_which_there_is_no_direction_are_refused() -> None:
    images = plain((0, 0, 0))
    with pytest.raises(ValueError, match="the same to this CLIP"):
        clip_similarity(ColorClip(), images, images, "gray", "the same gray")
    with pytest.raises(ValueError, match="source text"):
        clip_similarity(ColorClip(), images, images, " ", "red")


def test_identity_by_hand() -> None:
    before, after = plain((0.5, 0, 0), (0.5, 0, 0)), plain((0.25, 0, 0), (0.3, 0.4, 0))
    found = identity_similarity(lambda images: images.mean((2, 3)), before, after, batch_size=1)
    assert found.tolist() == pytest.approx([1.0, 0.6], abs=1e-6)


def test_saturation_counts_what_a_file_would_hold_as_0_or_255() -> None:
    before, after = torch.zeros(2, 3, 2, 2), torch.zeros(2, 3, 2, 2)
    after[0, 0, 0] = torch.tensor([1.0, -1.0])
    after[0, 1, 0, 0] = 253.9 / 127.5 - 1  # 254 in a file
    after[0, 2, 0, 0] = 254.6 / 127.5 - 1  # 255
    before[1, 0, 0, 0] = 1.0  # what was white before is not the edit's doing
    assert saturation(before, after).tolist() == pytest.approx([3 / 12, 0.0])


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), TypeError, "uint8.*127.5"),
        ([[0.0]], TypeError, "got list"),
        (torch.zeros(3, 4, 4), ValueError, r"\[N, 3, H, W\].*\[3, 4, 4\]"),
        (torch.zeros(2, 1, 4, 4), ValueError, r"\[2, 1, 4, 4\]"),
        (torch.zeros(0, 3, 4, 4), ValueError, "N ≥ 1"),
        (torch.full((1, 3, 2, 2), 1.2), ValueError, r"magnitude is 1.2.*clamp\(-1, 1\)"),
        (torch.full((1, 3, 2, 2), torch.nan), ValueError, "magnitude is nan"),
    ],
)
def test_other_images_are_refused(images, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_images("before", images)


def test_images_that_do_not_pair_up_are_refused() -> None:
    for after in (torch.zeros(3, 3, 4, 4), torch.zeros(2, 3, 5, 4)):
        with pytest.raises(ValueError, match="the same images in the same order"):
            saturation(torch.zeros(2, 3, 4, 4), after)
