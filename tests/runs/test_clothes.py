"""Whole runs in a domain of clothing: nothing that a user reads takes garments for faces."""

from __future__ import annotations

import html
import importlib
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_domain import write_tiny_domain

from sdd_fast.distillation.judge import CODES
from sdd_fast.domains import Domain, load_domain
from sdd_fast.domains.evaluate import measure_edits, measure_parts, measure_samples
from sdd_fast.domains.fashion32.evaluate import _ABOUT, held_out_garments
from sdd_fast.domains.model_card import write_card
from sdd_fast.domains.quality import read_quality
from sdd_fast.files import read_json, write_json
from sdd_fast.report import write_report
from sdd_fast.runs.demo import run_demo
from sdd_fast.runs.run import default_config
from sdd_fast.selection.choose import Selection

OF_FACES = r"\b(faces?|persons?|people|hair|beards?|someone|expressions?|me\.jpg|rendered|drawn)\b"
DARK = ("brightness", ("dark",))
QUICK = {
    "selection": Selection(images=2, candidates=(200, 500, 800)),
    "config": default_config(steps=2, batch_size=2, monitor_every=2),
    "measured_images": 6,
}


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Domain:
    folder = tmp_path_factory.mktemp("domain") / "d"
    return load_domain(write_tiny_domain(folder, tiny_sd, clothes=True))


@pytest.fixture(scope="module")
def quality(domain: Domain) -> dict[str, object]:
    """quality.json, measured on few images and in few steps."""
    held_out = held_out_garments(domain)
    config = replace(default_config(), steps=1, batch_size=1)
    # Three timesteps are quicker than nineteen. The package's own `hqs` is the function.
    selecting = importlib.import_module("sdd_fast.selection.hqs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selecting, "default_timesteps", lambda count: [200, 500, 800])
        edits = measure_edits(domain, config, {"dark clothes": DARK}, selected_on=2, measured_on=5)
    prompts = {"dark clothes": DARK, "a bag": ("kind", ("bag",))}
    assert domain.folder is not None
    found = {
        "training": {"vae": {"steps": 1, "batch_size": 2, "lr": 0.1, "seed": 0, "seconds": 60.0}},
        "parts": measure_parts(domain, held_out),
        "samples": measure_samples(domain, held_out, prompts, per_prompt=2, steps=2),
        "edit_config": {"steps": 1, "batch_size": 1},
        "edits": edits,
    }
    write_json(domain.folder / "quality.json", found)
    assert read_quality(domain.folder) == json.loads(json.dumps(found))
    return found


def spoken(page: Path) -> str:
    """What a page says to its reader."""
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page.read_text(encoding="utf-8"), flags=re.S)
    return html.unescape(text)


def test_the_figures_of_a_domain_are_measured_on_its_held_out_photographs(
    domain: Domain, quality: dict[str, dict[str, float]]
) -> None:
    parts, (edit,) = quality["parts"], quality["edits"]
    assert parts["images"] == 24
    photographs = held_out_garments(domain)
    assert domain.classifier is not None
    with torch.no_grad():
        scores = domain.classifier(photographs.images)
    for name, share in parts["classifier"].items():
        pairs = zip(scores[name].tolist(), photographs.labels[name].tolist(), strict=True)
        right = [row.index(max(row)) == label for row, label in pairs]
        assert share == pytest.approx(sum(right) / len(right))
    assert edit["images"] == 5 and edit["kept"].keys() == {"kind"}


def test_its_card_speaks_of_garments(domain: Domain, quality: dict[str, object]) -> None:
    assert domain.folder is not None
    write_card(domain.folder, "garments", _ABOUT, "sdd train-domain OUT --like fashion32")
    card = (domain.folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "# Model card: wardrobe" in card and "24 held-out garments" in card
    assert "encoded garments" in card and "Zalando" in card and "--like fashion32" in card
    assert not re.search(OF_FACES, card)


@pytest.fixture(scope="module")
def demo(
    domain: Domain, quality: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """A demo's folder, and what it said."""
    out, lines = tmp_path_factory.mktemp("runs") / "demo", list[str]()
    with pytest.warns(UserWarning, match="not in the vocabulary"):
        run_demo(domain, out, progress=False, say=lines.append, **QUICK)
    return out, "\n".join(lines)


def test_a_demo_of_clothing_hears_nothing_of_faces(demo: tuple[Path, str], domain: Domain) -> None:
    out, said = demo
    assert sorted(path.name for path in (out / "garments").iterdir())[0] == "garment-1.png"
    for text in (said, spoken(out / "report.html"), spoken(out / "dark-clothes" / "report.html")):
        assert not re.search(OF_FACES, text), re.search(OF_FACES, text)
    page = spoken(out / "dark-clothes" / "report.html")
    assert "Same garment" in page and "held-out garments" in page
    assert "Other attribute kept: kind of garment" in page and "… least kept" not in page
    assert "knows gray product photographs of clothing of 32 × 32 pixels" in page
    command = read_json(out / "dark-clothes" / "run.json")["command"]
    assert f"--domain {domain.reference}" in command


@pytest.mark.parametrize("code", sorted(CODES))
def test_no_verdict_or_advice_takes_garments_for_faces(demo: tuple[Path, str], code: str) -> None:
    from sdd_fast.distillation.judge import ADVICE

    folder = demo[0] / "a-dress"
    record = read_json(folder / "run.json")
    advice = [*ADVICE.get(code, ()), "larger_identity_weight"]
    record["verdict"] = {"level": "fair", "code": code, "advice": advice}
    write_json(folder / "run.json", record)
    page = spoken(write_report(folder))
    assert "the edit changes which garment it is" in page.replace("The edit", "the edit")
    assert not re.search(OF_FACES, page), re.search(OF_FACES, page)


def test_figures_of_earlier_versions_are_read(domain: Domain, tmp_path: Path) -> None:
    """They told how many "faces" an edit was measured on."""
    edit = {
        "prompt": "a bald face", "timesteps": [700], "faces": 256, "success": 1.0, "kept_mean": 1.0,
        "kept_worst": ["beard", 1.0],
    }  # fmt: skip
    parts = {"faces": 512, "vae_psnr": 30.0, "generator_psnr": 29.0}
    shares = dict.fromkeys(("classifier", "survival_vae", "survival_generator"), {"skin": 1.0})
    write_json(tmp_path / "quality.json", {"parts": parts | shares, "edits": [edit]})
    found = read_quality(tmp_path)
    assert found is not None
    assert found["parts"]["images"] == 512 and found["edits"][0]["images"] == 256
    assert "faces" not in found["parts"]
