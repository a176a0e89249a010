from __future__ import annotations

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from sdd_fast.files import write_json
from sdd_fast.report import write_report, write_summary
from sdd_fast.report.wording import duration, number, percent
from sdd_fast.report.write import Run
from sdd_fast.runs.record import FORMAT, VERSION, read_run
from sdd_fast.selection.curve import HQSCurve

PROMPT = 'a <b>"white"</b> & $hair$'

MONITOR = {
    "edit_size": 0.12, "peak_change": 0.61, "latent_change": 0.9, "saturated_share": 0.004,
    "direction": -0.25, "clip_similarity": 0.375, "clip_gain": 0.125, "identity": 0.75,
}  # fmt: skip
QUALITY = {
    "attribute": "hair_color", "values": ["white"], "images": 256, "success": 0.9375,
    "kept": {"skin": 0.96, "yaw": 0.71}, "kept_mean": 0.83, "identity": 0.77, "strength": 1.0,
}  # fmt: skip
RECORD: dict[str, Any] = {
    "format": FORMAT, "version": VERSION, "prompt": PROMPT, "domain": "faces64",
    "domain_reference": "faces64", "resolution": 64,
    "nouns": {"image": "face", "images": "faces", "subject": "person", "yaw": "view"},
    "limits": "knows rendered faces of {size}", "source_text": "a photo of a face",
    "complete": True, "command": "sdd distill 'x' --out runs/x", "unknown_words": [],
    "distill": {"steps": 120, "batch_size": 8, "guidance": {"guidance_scale": 30.0}},
    "seconds": {"select": 12.0, "distill": 61.0, "measure": 5.5},
    "started": "2026-03-04T05:06:07+00:00",
    "versions": {"sdd_fast": "0.1", "torch": "2.13", "python": "3.11", "device": "cpu (a <CPU>)",
                 "threads": 2, "cores": 2},
    "timesteps": [800], "rule": "largest HQS", "curve": None, "monitor": MONITOR,
    "quality": QUALITY,
    "unedited": QUALITY | {"success": 0.02, "kept_mean": 0.98, "kept": {"skin": 1.0, "yaw": 0.97}},
    "verdict": {"level": "good", "code": "reached and kept", "advice": []},
    "reconstruction_psnr": 31.26, "milliseconds_per_edit": 8.4, "domain_quality": None,
    "strengths": [0.5, 1.0], "levels": ["coarse", "fine"],
}  # fmt: skip


def run_folder(folder: Path, *, curve: bool = True, **changes: Any) -> Path:
    folder.mkdir(parents=True)
    write_json(folder / "run.json", RECORD | changes)
    write_json(folder / "history.json", [{"step": 120}])
    for i, name in enumerate(("before-after.png", "training.png", "curve.png")):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / name)
    if curve:
        table = torch.tensor([[1.0, 2.0, 3.0]])
        HQSCurve((400, 600, 800), -table, table, table, prompt=PROMPT).save(folder / "curve.json")
    return folder


class Checker(HTMLParser):
    """Tags that do not close, addresses that leave the file, and scripts."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.problems: list[str] = []
        self.images: list[bytes] = []
        self.text = ""

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        if tag in ("script", "link", "iframe"):
            self.problems.append(tag)
        for name, value in attributes:
            if name == "src" and value and value.startswith("data:image/png;base64,"):
                self.images.append(base64.b64decode(value.split(",", 1)[1], validate=True))
            elif name in ("src", "href") or name.startswith("on"):
                self.problems.append(f"{name}={value}")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.problems.append(f"</{tag}>")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + " "


def check(path: Path) -> Checker:
    html = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(html)
    assert checker.problems == [] and checker.open == []
    assert not re.search(r"url\(|@import|https?://", html)
    return checker


def test_one_file_with_everything_in_it(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    page = check(write_report(folder))
    names = ("before-after.png", "curve.png", "training.png")
    assert page.images == [(folder / name).read_bytes() for name in names]
    for text in (
        f"“{PROMPT}”",  # escaped, so it reads as it was typed
        "Good.",
        "93.8 %", "2.0 %",  # target reached: edited, unedited
        "Similarity to the prompt 0.375 0.250",
        "83 %", "98.0 %",  # others kept
        "least kept: view", "71 %", "97.0 %",
        "−0.25", "+0.125", "0.4 %", "31.3 dB",
        "800", "largest HQS", "12 s", "61 s", "78 s", "8.4 ms", "a <CPU>", "2026-03-04",
        "sdd distill 'x' --out runs/x", "Editor.load", "hair color: white", "+1.000",
    ):  # fmt: skip
        assert text in page.text, text


@pytest.mark.parametrize("level", ["good", "fair", "bad"])
def test_the_verdict_is_said(tmp_path: Path, level: str) -> None:
    verdict = {"level": level, "code": "side effect", "advice": ["more_steps", "lower_strength"]}
    path = write_report(run_folder(tmp_path / "run", verdict=verdict, unknown_words=["<zombie>"]))
    page = check(path)
    assert f'class="verdict {level}"' in path.read_text(encoding="utf-8")
    assert (
        "93.8 % of 256 held-out faces show the target, but only 71 % keep their view." in page.text
    )
    assert "Try, in this order: twice the steps (--steps), a --strength below 1 " in page.text
    assert "was trained on has “<zombie>”" in page.text


def test_the_page_speaks_of_what_the_domain_is_about(tmp_path: Path) -> None:
    """Neither faces nor persons in a domain of clothing."""
    nouns = {"image": "dress", "images": "dresses", "subject": "garment"}
    verdict = {"level": "fair", "code": "reached", "advice": ["larger_identity_weight"]}
    folder = run_folder(
        tmp_path / "run", domain="dresses", domain_reference="dresses", nouns=nouns, limits=None,
        source_text="a dress", verdict=verdict, domain_quality=DOMAIN,
    )  # fmt: skip
    page = check(write_report(folder))
    assert "Same garment" in page.text and "256 held-out dresses" in page.text
    assert "he edit changes which garment it is: raise --identity-weight" in page.text
    said = page.text.replace(PROMPT, "").replace("“a bald <face>”", "").replace("“a bald face”", "")
    assert not re.search(r"\b(face|faces|person|persons|people)\b", said)


def test_a_record_of_an_earlier_version(tmp_path: Path) -> None:
    """It had words where there are codes now, and called some things otherwise."""
    monitor = {k: v for k, v in MONITOR.items() if k != "saturated_share"} | {
        "burnt_share": 0.06, "verdict": "burnt", "advice": "Try a lower guidance_scale (100 → 30)",
    }  # fmt: skip
    folder = run_folder(
        tmp_path / "run", version=1, monitor=monitor, rendered_faces=True, nouns=None, limits=None,
        verdict={"level": "bad", "headline": "The edit burns the image", "advice": "try"},
    )  # fmt: skip
    page = check(write_report(folder))
    for text in ("The edit saturates the face", "--guidance-scale (30 → 15)", "6.0 %",
                 "knows rendered faces of 64 × 64 pixels"):  # fmt: skip
        assert text in page.text, text
    record = read_run(folder)
    assert record["version"] == VERSION and record["monitor"]["verdict"] == "saturated"
    assert "burnt_share" not in record["monitor"] and "rendered_faces" not in record


UNKNOWN = {"level": "fair", "code": "direction unknown", "advice": ["look", "clip"]}


def test_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    clip = ("direction", "clip_similarity", "clip_gain")
    monitor = {k: v for k, v in MONITOR.items() if k not in (*clip, "identity")}
    folder = run_folder(
        tmp_path / "run", curve=False, quality=None, unedited=None, monitor=monitor,
        reconstruction_psnr=None, limits=None, verdict=UNKNOWN, rule="given by hand",
        seconds={"distill": 61.0, "measure": 5.5}, domain_reference="/data/cars",
    )  # fmt: skip
    (folder / "training.png").unlink()
    page = check(write_report(folder))
    assert len(page.images) == 1
    for text in (
        "Target reached",
        "Direction",
        "Similarity to the prompt",
        "Closer to the prompt",
        "Same person",
        "dB",
        "selecting timesteps",
    ):
        assert text not in page.text, text
    assert "given by hand" in page.text and 'load_domain("/data/cars")' in page.text


DOMAIN = {
    "parts": {
        "images": 512, "vae_psnr": 33.72, "generator_psnr": 30.47,
        "classifier": {"skin": 0.998, "beard": 1.0}, "survival_vae": {"skin": 1.0, "beard": 0.986},
        "survival_generator": {"skin": 0.95, "beard": 0.915},
    },
    "samples": {
        "per_prompt": 32, "steps": 30, "guidance_scale": 5.0, "accuracy": {"a bald <face>": 0.75},
        "accuracy_mean": 0.76, "color_cast": 2.1,
    },
    "edit_config": {"steps": 180, "batch_size": 8},
    "edits": [{
        "prompt": "a bald face", "timesteps": [700], "levels": ["fine"], "images": 256,
        "success": 0.96, "kept_mean": 0.98, "kept_worst": ["hair_length", 0.72], "identity": 0.87,
        "distill_seconds": 35.5,
    }],
}  # fmt: skip


def test_what_the_domain_can_do_at_all(tmp_path: Path) -> None:
    page = check(write_report(run_folder(tmp_path / "run", domain_quality=DOMAIN)))
    for text in (
        "33.7 dB", "30.5 dB", "91.5 %", "98.6 %",  # what survives
        "“a bald <face>”", "75 %", "76 %", "2.1 of 255",
        "“a bald face”", "700", "96.0 %", "98.0 %", "72 % (hair length)", "0.87",
    ):  # fmt: skip
        assert text in page.text, text
    part = {"parts": DOMAIN["parts"], "training": {}}
    page = check(write_report(run_folder(tmp_path / "other", domain_quality=part)))
    assert "33.7 dB" in page.text and "Edits by this method" not in page.text


def test_identity_that_could_not_be_measured(tmp_path: Path) -> None:
    nothing = QUALITY | {"identity": None}
    page = check(write_report(run_folder(tmp_path / "run", quality=nothing, unedited=nothing)))
    assert "Same person – –" in " ".join(page.text.split())


def test_a_domain_without_identity_is_not_asked_for_it(tmp_path: Path) -> None:
    monitor = {k: v for k, v in MONITOR.items() if k != "identity"}
    nothing = QUALITY | {"identity": None}
    figures = {"quality": nothing, "unedited": nothing, "monitor": monitor}
    edits = [{k: v for k, v in DOMAIN["edits"][0].items() if k != "identity"}]
    folder = run_folder(tmp_path / "run", **figures, domain_quality=DOMAIN | {"edits": edits})
    Image.new("RGB", (9, 9)).save(tmp_path / "overview.png")
    summary = write_summary(
        tmp_path, [folder], title="A", overview=tmp_path / "overview.png", caption="", commands=[]
    )
    for path in (write_report(folder), summary):
        page = check(path)
        assert "Target reached" in page.text and "Other attributes kept" in page.text
        assert "ame person" not in page.text


def test_one_page_for_several_runs(tmp_path: Path) -> None:
    first, second = run_folder(tmp_path / "a"), run_folder(tmp_path / "b", prompt="old")
    Image.new("RGB", (9, 9)).save(tmp_path / "overview.png")
    path = write_summary(
        tmp_path, [first, second], title="A & B", overview=tmp_path / "overview.png",
        caption="both", commands=["sdd demo"],
    )  # fmt: skip
    page = check(path)
    assert path == tmp_path / "report.html"
    assert page.images[0] == (tmp_path / "overview.png").read_bytes() and len(page.images) == 7
    assert page.text.count("94 %") + page.text.count("93.8 %") >= 4  # at a glance, and each
    assert "A & B" in page.text and "“old”" in page.text and "--strength 1,0.5" in page.text
    assert "2 min 37 s" in page.text  # 2 × 78.5 s


def test_bad_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path)
    with pytest.raises(ValueError, match="not complete"):
        write_report(run_folder(tmp_path / "a", complete=False))
    with pytest.raises(ValueError, match="version 99"):
        Run.read(run_folder(tmp_path / "b", version=99))
    with pytest.raises(ValueError, match="not the record"):
        Run.read(run_folder(tmp_path / "c", format="x"))


def test_figures_as_people_write_them() -> None:
    assert [percent(v) for v in (None, 0.0, 0.004, 0.5, 0.985, 1.0)] == [
        "–", "0 %", "0.4 %", "50 %", "98.5 %", "100 %",
    ]  # fmt: skip
    assert [number(v, signed=True) for v in (None, 0.5, -0.5)] == ["–", "+0.50", "−0.50"]
    assert number(-0.0004) == "0.00"
    assert [duration(v) for v in (None, 2.34, 61, 125, 7260)] == [
        "–", "2.3 s", "61 s", "2 min 5 s", "2 h 1 min",
    ]  # fmt: skip


def test_a_damaged_record_is_no_bug(tmp_path: Path) -> None:
    folder = run_folder(tmp_path / "run")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del record["prompt"], record["distill"]
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(ValueError, match=r"run\.json is damaged: it lacks prompt, distill"):
        read_run(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prompt": 5}, "prompt must be"),
        ({"seconds": [1]}, "seconds must be"),
        ({"seconds": {"distill": "long"}}, "seconds must be"),
        ({"timesteps": [1.5]}, "timesteps must be"),
        ({"distill": {"steps": 10**400}}, "an integer of 401 digits"),
        ({"monitor": []}, "monitor must be"),
        ({"quality": {"success": 0.5}}, "quality must be"),
        ({"verdict": "good"}, "verdict must be"),
        ({"milliseconds_per_edit": float("inf")}, "run.json"),
        ({"version": 1, "monitor": 7}, "damaged"),
        ({"version": 1, "verdict": {}, "monitor": {"burnt_share": "x"}}, "damaged"),
    ],
)
def test_other_types_are_no_bug_either(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = run_folder(tmp_path / "run")
    (folder / "run.json").write_text(json.dumps(RECORD | change), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read_run(folder)
    for content in ("[]", "null", "3", "{"):
        (folder / "run.json").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"run\.json"):
            read_run(folder)
