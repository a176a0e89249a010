"""sdd bench paper: a part of it from the command line, and what is refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_runner import Sdd
from lpips_files import write_alex

from sdd_fast.evidence import plan as plans
from sdd_fast.evidence.plan import Budget, Plan


def test_one_table_by_a_command(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = Plan.quick(
        budget=Budget(steps=1, batch_size=1), ablation_images=6, selection_images=2, resamples=50
    )
    monkeypatch.setattr(plans.Plan, "quick", lambda: tiny)
    words = ["bench", "paper", "--domain", str(domain), "--quick", "--only", "table3"]
    done = sdd(*words, "--seeds", "1", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    assert "measuring table3 of tiny on cpu, the quick plan" in done.out
    assert done.out.strip().endswith(f"written: {tmp_path}/out/results.md")
    assert "| largest HQS |" in (tmp_path / "out" / "table3.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "table9"], "parts are table1, table2, table3, hqs, figures; got table9"),
        (["--methods", "magic"], "unknown method 'magic'"),
        (["-m", "0"], "images must be a positive integer"),
        (["--prompts", "40"], "prompts is 40, but the domain tiny names "),
        (["--seeds", "0"], "ablation_seeds must be a positive integer"),
        (["--device", "cuda:77"], "this machine and torch have none"),
        (["--methods", "few-step"], "few-step has to be trained first: `sdd bench train few-step"),
        (["--settings", "nowhere.json"], "nowhere.json"),
        (["--inception", "nowhere.pth"], "nowhere.pth does not exist"),
        (["--lpips", "nowhere.pth", "alex.pth"], "LPIPS needs the convolutions"),
        (["--trained", "nowhere"], "holds no finished training of few-step, diffae"),
    ],
)
def test_bad_input(sdd: Sdd, domain: Path, tmp_path: Path, words: list[str], message: str) -> None:
    out = tmp_path / "evidence"
    done = sdd("bench", "paper", "--domain", str(domain), "--out", str(out), *words)
    assert done.code == 1 and message in done.err and not out.exists()
    assert "measuring" not in done.out + done.err


def test_an_editor_is_trained_by_a_command_and_compared_with(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = sdd(
        "bench", "train", "few-step", "--domain", str(domain), "--budget", "0.001",
        "--out", tmp_path / "editors",
    )  # fmt: skip
    assert made.code == 0, made.err
    assert made.out.strip() == f"written: {tmp_path}/editors/few-step"
    tiny = Plan.quick(
        prompts=1, images=4, steps=1, selection_images=2, resamples=50,
        settings={"few-step": {"steps": 1}},
    )  # fmt: skip
    monkeypatch.setattr(plans.Plan, "quick", lambda: tiny)
    done = sdd(
        "bench", "paper", "--domain", str(domain), "--quick", "--only", "table1",
        "--methods", "few-step", "--trained", tmp_path / "editors", "--out", tmp_path / "out",
        "--lpips", *write_alex(tmp_path)[:2],
    )  # fmt: skip
    assert done.code == 0, done.err
    page = (tmp_path / "out" / "results.md").read_text()
    (quality,) = (
        x for x in page.splitlines() if x.startswith("| Few-step student | Luo et al. 2023 | 1 |")
    )
    assert "not measured" not in quality.split("|")[7]
    told = "trained_steps = 1, trained_guidance_scale = 7.5, network = "
    assert f"| steps = 1, level = 0.8, batch_size = None, {told}" in page
    assert str(tmp_path) not in page
    (title, *_) = [x for x in page.splitlines() if x.startswith("| editor | from | prompts")]
    column = title.split(" | ").index("LPIPS to before")
    assert float(quality.split(" | ")[column].replace("*", "").split()[0]) > 0
    assert "--lpips FEATURES WEIGHTS --trained FOLDER" in page


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["magic"], "unknown editor 'magic'; there are: few-step, instruct-pix2pix, diffae"),
        (["few-step", "--budget", "0"], "budget is a factor"),
        (["instruct-pix2pix", "--images", "."], "takes no folder for it"),
    ],
)
def test_trainings_that_are_refused(
    sdd: Sdd, domain: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    out = tmp_path / "editors"
    done = sdd("bench", "train", *words, "--domain", str(domain), "--out", str(out))
    assert done.code == 1 and message in done.err
    assert not list(out.rglob("*.json"))
