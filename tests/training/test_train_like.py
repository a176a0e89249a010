"""A domain trained like fashion32 on drawn garments, for a step or two a part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runner import Sdd
from fashion_files import write_fashion

from sdd_fast.domains import load_domain
from sdd_fast.domains.fashion32.attributes import HEADS
from sdd_fast.domains.fashion32.held_out import load_held_out
from sdd_fast.training.train_domain import PARTS

TRAINED = ",".join(part for part in PARTS if part != "quality")  # measuring takes minutes


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fashion(tmp_path_factory.mktemp("files"), 300)


def test_a_domain_like_fashion32_is_trained_by_one_command(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, sdd = tmp_path / "clothes", Sdd(capsys)
    words = ["train-domain", out, "--like", "fashion32", "--images", files]
    done = sdd(*words, "--budget", "0.0008", "--parts", TRAINED)
    assert done.code == 0, done.err
    assert "on 240 pictures; 150 are held out" in done.out
    assert "still to train: quality" in done.out or "complete" in done.out
    domain = load_domain(out)
    assert domain.resolution == 32 and domain.source_text == "a photo of clothes"
    assert domain.classifier is not None and domain.classifier.heads == HEADS
    assert domain.nouns == {
        "image": "garment", "images": "garments", "subject": "garment", "kind": "kind of garment"
    }  # fmt: skip
    assert len(domain.held_out) == len(load_held_out(domain)) == 150
    assert not domain.held_out_images and (out / "LICENSE-fashion-mnist.txt").exists()
    words_known = json.loads((out / "clip" / "vocab.json").read_text(encoding="utf-8"))
    assert {"dark</w>", "light</w>", "clothes</w>", "pullover</w>"} <= words_known.keys()

    files.joinpath("train-labels-idx1-ubyte.gz").rename(files / "elsewhere")
    try:
        assert "apt install dataset-fashion-mnist" in sdd.fails(*words, "--budget", "0.0008")
    finally:
        files.joinpath("elsewhere").rename(files / "train-labels-idx1-ubyte.gz")
    other = write_fashion(tmp_path / "other", 90)
    words[-1] = other
    assert "trained on other images" in sdd.fails(*words, "--budget", "0.0008")
