from __future__ import annotations

import errno
import html
import importlib
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import typer
from cli_runner import Sdd
from filelock import FileLock
from PIL import Image
from tiny_domain import write_tiny_domain

from sdd_fast import images
from sdd_fast.cli import console, main, options
from sdd_fast.cli.distill import OutputOptions, TrainingOptions, distill, show_verdict
from sdd_fast.cli.groups import typed
from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.judge import Verdict
from sdd_fast.editing.editor import Editor
from sdd_fast.gradients.config import GUIDANCE_RMS
from sdd_fast.lock import LOCK_FILE

COMMANDS = (
    "demo",
    "select",
    "distill",
    "edit",
    "export",
    "convert",
    "info",
    "render",
    "train-domain",
)


@pytest.fixture(scope="module")
def runs(domain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo of two prompts with two training steps each: the folder that most tests read."""
    out = tmp_path_factory.mktemp("runs") / "demo"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as exit_:
        few_timesteps(patch)
        main([*DEMO, "--out", str(out), "--domain", str(domain)])
    assert not exit_.value.code
    return out


@pytest.fixture
def own(domain: Path) -> list[object]:
    """What tells a command the domain of a run, where that is neither built in nor beside it."""
    return ["--domain", domain]


DEMO = [
    "demo", "--steps", "2", "--measured-images", "4",
    "--prompt", "a bald face", "--prompt", "old hair",
]  # fmt: skip


def few_timesteps(patch: pytest.MonkeyPatch) -> None:
    """A demo has no option for its candidates; three are quicker than nineteen."""
    module = importlib.import_module(
        "sdd_fast.selection.hqs"
    )  # the package's own `hqs` is the function
    patch.setattr(module, "default_timesteps", lambda count: [200, 500, 800])


@pytest.fixture
def run(runs: Path) -> Path:
    return runs / "a-bald-face"


# --- help and the command line itself -------------------------------------------------------------


def test_help_teaches(sdd: Sdd) -> None:
    top = sdd("--help")
    assert top.code == 0
    for name in COMMANDS:
        assert name in top.out
        shown = sdd(name, "--help")
        assert shown.code == 0 and f"sdd {name}" in shown.out.split("Example")[1]
    assert "sdd demo" in top.out


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["distill", "--help"],
        ["distil"],
        ["distill", "old", "--step", "2"],
    ],
    ids=" ".join,
)
def test_help_and_typos_import_no_torch(words: list[str]) -> None:
    code = (
        f"import sys\nfrom sdd_fast.cli import main\n"
        f"try:\n    main({words})\nexcept SystemExit:\n    pass\n"
        "heavy = ('torch', 'numpy', 'diffusers', 'transformers', 'matplotlib')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_defaults_shown_are_those_of_the_training(sdd: Sdd) -> None:
    shown = sdd("distill", "--help").out
    config = DistillConfig()
    for value in (config.steps, config.prior_weight):
        assert f"[default: {value}]" in shown
    assert f"Images per step. Default: {config.batch_size}, or fewer" in shown
    assert f"or {GUIDANCE_RMS:g}" in shown


def test_help_lists_all_parts_of_a_domain(sdd: Sdd) -> None:
    from sdd_fast.training.train_domain import PARTS

    shown = sdd("train-domain", "--help").out.replace("│", "")
    assert ",".join(PARTS) in "".join(shown.split())


def test_lists_on_the_command_line() -> None:
    assert options.whole_numbers("700, 750", "-t") == [700, 750]
    assert options.whole_numbers("100:300:100,5", "-t") == [100, 200, 300, 5]
    assert options.whole_numbers(None, "-t") is None
    assert options.numbers("1,-0.5", "-s") == [1.0, -0.5]
    assert options.comma_list("fine, coarse,", "-l") == ["fine", "coarse"]


def test_the_command_in_the_report_can_be_typed_again() -> None:
    line = options.command_line("distill", "it's old", out=Path("a b"), top=None, seed=3, big=True)
    assert line == "sdd distill 'it'\"'\"'s old' --out 'a b' --seed 3 --big"
    assert (
        options.command_line("demo", prompt=["old", "a b"])
        == "sdd demo --prompt old --prompt 'a b'"
    )
    training, output = TrainingOptions(lr=0.5), OutputOptions(restart=True, device="cuda:1")
    assert typed(training, output) == {"lr": 0.5, "device": "cuda:1"}


@pytest.mark.parametrize("text", ["0:1000000000000:1", "5:9" + 30 * "9" + ":1"])
def test_ranges_that_nobody_means_are_refused_at_once(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="more than 100,000 numbers"):
        options.whole_numbers(text, "--timesteps")


def test_a_command_with_names_of_another_locale_is_text() -> None:
    name = "hüte“".encode().decode("ascii", "surrogateescape")
    assert options.command_line("edit", name, out="ü") == "sdd edit 'hüte“' --out 'ü'"


def test_options_in_groups_are_options_of_the_command(sdd: Sdd) -> None:
    flat = inspect.signature(distill).parameters
    assert {"prompts", "top", "steps", "template", "generator", "out"} <= flat.keys()
    assert flat["steps"].default == DistillConfig().steps
    assert not {"training", "choice"} & flat.keys()


@pytest.mark.parametrize(
    ("words", "new"),
    [
        (["distill", "old", "--pull", "-1", "--domain", "none-such"], "--guidance-rms"),
        (["select", "old", "--normalise=x", "--domain", "none-such"], "--normalize"),
        (["invert", "none-such", "--pull=0.1"], "--l2-weight"),
    ],
)
def test_options_of_earlier_versions_still_work(sdd: Sdd, words: list[str], new: str) -> None:
    told = sdd(*words)
    assert f"is now called {new}" in told.err and "No such option" not in told.err
    shown = sdd(words[0], "--help").out
    assert new in shown and "--pull" not in shown and "--normalise" not in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nonsense"], "No such command"),
        (["select"], "Missing argument"),
        (["distill", "old", "--top", "2", "--threshold", "0"], "--top and --threshold exclude"),
        (["distill", "old", "--timesteps", "7x"], "'7x' is neither a whole number"),
        (["distill", "old", "--timesteps", "1:2"], "'1:2' is neither"),
        (["distill", "old", "--levels", ","], "the list is empty"),
        (["distill", "old", "--timesteps", "700", "--curve", "c.json"], "exclude each other"),
        (["distill", "old", "--steps", "many"], "Invalid value for '--steps'"),
        (["edit", "run", "x.png", "--strength", "much"], "'much' is not a number"),
        (["export", "run", "--out", "mapper.pth"], "must end in one of: .pt (torchscript)"),
        (["export", "run", "--out", "m.pt", "--part", "teacher"], "part must be one of editor"),
        (["render", "-n", "0"], "must be 1 to 100000"),
        (["render", "--seed", "-1"], "must be 0 or more"),
        (["train-domain", "d", "--images", "x"], "needed with --images"),
    ],
)
def test_wrong_command_lines(sdd: Sdd, words: list[str], message: str) -> None:
    assert message in sdd.fails(*words, code=2)


# --- demo -----------------------------------------------------------------------------------------


def test_demo_leaves_what_it_promises(runs: Path) -> None:
    assert (runs / "report.html").exists() and (runs / "overview.png").exists()
    faces = sorted(path.name for path in (runs / "faces").iterdir())
    assert faces == [f"face-{i}.png" for i in range(1, 7)]
    for name in ("a-bald-face", "old-hair", "all-edits"):
        assert sorted(path.name for path in (runs / "edited" / name).iterdir()) == faces
    text = (runs / "report.html").read_text(encoding="utf-8")
    assert "“a bald face”" in text and "“old hair”" in text and "sdd demo --out" in text
    assert "--prompt 'a bald face' --prompt 'old hair'" in html.unescape(text)


def test_demo_again_trains_nothing(
    sdd: Sdd, runs: Path, domain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_timesteps(monkeypatch)
    mapper, report = runs / "old-hair" / "mapper.safetensors", runs / "report.html"
    before = mapper.read_bytes()
    report.unlink()
    words = [*DEMO, "--out", runs, "--domain", domain]
    again = sdd(*words)
    assert again.code == 0, again.err
    assert again.out.count("this run is finished") == 2 and "distilling" not in again.out
    assert mapper.read_bytes() == before
    assert f"look at:  {report}\n" in again.out and report.exists()
    other = sdd.fails(*words, "--steps", "3")
    assert "config.steps: 2 " in other and "--restart" in other


def test_demo_replaces_nothing_of_others(sdd: Sdd, domain: Path, run: Path, tmp_path: Path) -> None:
    assert "holds a run" in sdd.fails(*DEMO, "--out", run, "--domain", domain)
    for name in ("report.html", "overview.png", "faces/face-2.png", "edited/x/y.png"):
        place = tmp_path / name.partition("/")[0]
        (place / name).parent.mkdir(parents=True)
        (place / name).write_text("mine")
        message = sdd.fails(*DEMO, "--out", place, "--domain", domain)
        assert f"{place / name} would be replaced; choose another folder" in message
        assert (place / name).read_text() == "mine"


def test_demo_refuses(sdd: Sdd, domain: Path, tmp_path: Path, tiny_sd: Path) -> None:
    twice = ["--prompt", "old hair", "--prompt", "old hair"]
    message = sdd.fails("demo", "--domain", domain, "--out", tmp_path / "a", *twice)
    assert "the prompts must differ, but 'old hair' is given twice" in message
    plain = write_tiny_domain(tmp_path / "plain", tiny_sd, faces=False)
    message = sdd.fails("demo", "--domain", plain, "--out", tmp_path / "a")
    assert "draws images with labels" in message and "sdd distill" in message
    assert not (tmp_path / "a").exists()


# --- select ---------------------------------------------------------------------------------------

SELECT = ["--images", "2", "--timesteps", "200:800:300"]


def test_select(sdd: Sdd, domain: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = sdd("select", "a zombie", "--domain", domain, "--out", out, "--top", "2", *SELECT)
    assert done.code == 0, done.err
    found = json.loads((out / "curve.json").read_text())
    assert found["timesteps"] == [200, 500, 800] and found["prompt"] == "a zombie"
    assert len(found["l1"]) == 2 and (out / "curve.png").stat().st_size > 1000
    assert f"{found['largest']:5d}   {max(found['hqs']):+.3f}" in done.out
    assert "the 2 largest HQS" in done.out and str(out / "curve.json") in done.out
    assert "on 2 images, 2 at once" in done.out
    assert "the word 'zombie' is not in the vocabulary" in done.err
    assert "'white hair'" in done.err  # a prompt that the domain says works

    old = tmp_path / "old"
    none = sdd.fails("select", "old", "--domain", domain, "--out", old, "--threshold", "1", *SELECT)
    assert "no timestep has an HQS above 1: the largest is" in none
    assert json.loads((old / "curve.json").read_text())["prompt"] == "old"


def test_an_adaptive_search_of_one_image_claims_no_certainty(
    sdd: Sdd, domain: Path, tmp_path: Path
) -> None:
    """The command that comes next has what was given here."""
    words = ["select", "old", "--images", "1", "--search", "adaptive", "--attention", "sdpa-math"]
    done = sdd(*words, "--domain", domain, "--out", tmp_path, "--dtype", "bfloat16")
    assert done.code == 0, done.err
    told = "evaluations, images: 1; how sure the largest is cannot be told from one image"
    assert told in done.out and told in sdd("info", tmp_path).out
    follow = shlex.split(done.out.splitlines()[-1].removeprefix("next:"))
    assert follow[:3] == ["sdd", "distill", "old"]
    for option, value in (("--domain", domain), ("--out", tmp_path), ("--dtype", "bfloat16"),
                          ("--attention", "sdpa-math")):  # fmt: skip
        assert follow[follow.index(option) + 1] == str(value)


def test_select_several_prompts(sdd: Sdd, domain: Path, tmp_path: Path) -> None:
    words = ["select", "old", "a zombie", "--domain", domain, "--out", tmp_path, *SELECT]
    done = sdd(*words)
    assert done.code == 0, done.err
    for name, prompt in (("old", "old"), ("a-zombie", "a zombie")):
        found = json.loads((tmp_path / name / "curve.json").read_text())
        assert found["prompt"] == prompt and len(found["l1"]) == 2
        assert f"{found['largest']:7d}   {max(found['hqs']):+.3f}" in done.out
        assert {path.name for path in (tmp_path / name).iterdir()} == {
            "curve.json", "curve.png", LOCK_FILE,
        }  # fmt: skip
    assert "HQS of 2 prompts on 2 images" in done.out
    assert done.err.count("is not in the vocabulary") == 1 and "'zombie'" in done.err
    assert "sdd distill 'a zombie'" in done.out or 'sdd distill "a zombie"' in done.out
    one = tmp_path / "a-zombie" / "curve.json"
    one.unlink()
    assert "old/curve.json and 1 more would be replaced" in sdd.fails(*words)
    assert not one.exists()


def test_select_refuses_before_any_work(sdd: Sdd, domain: Path, tmp_path: Path) -> None:
    words = ["--domain", domain, "--out", tmp_path / "out"]
    assert "'old' is given twice" in sdd.fails("select", "old", "hair", "old", *words)
    tight = sdd.fails("select", "old", *words, "--memory-budget", "1MiB")
    assert "memory_budget is 1MiB, but the selection takes" in tight and "at least" in tight
    assert "the selection takes" in sdd.fails("select", "old", *words, "--memory-gb", "0.00001")
    wrong = sdd.fails("distill", "old", *words, "--memory-budget", "22 apples")
    assert "memory_budget must be a positive, finite amount" in wrong and "'22 apples'" in wrong
    (tmp_path / "runs" / "hair").mkdir(parents=True)
    with FileLock(tmp_path / "runs" / "hair" / LOCK_FILE):
        busy = sdd.fails("select", "old", "hair", "--domain", domain, "--out", tmp_path / "runs")
        assert "is at work here" in busy and not (tmp_path / "runs" / "old").exists()
    assert not (tmp_path / "out").exists()


def test_distill_refuses_a_memory_budget_before_any_work(
    sdd: Sdd, domain: Path, tmp_path: Path
) -> None:
    """Nothing is written, neither in a new folder nor beside what a selection left."""
    selected, new = tmp_path / "selected", tmp_path / "new" / "run"
    assert sdd("select", "old", "--domain", domain, "--out", selected, *SELECT).code == 0

    def written() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = written()
    words = ["distill", "old", "--domain", domain, "--out"]
    for out, budget in ((new, "1MiB"), (selected, "3 MB")):
        told = sdd.fails(*words, out, "--memory-budget", budget)
        assert f"memory_budget is {budget}, but the training takes" in told
        assert "MB at least" in told and "give that much" in told
    for budget in ("0", "lots"):
        told = sdd.fails(*words, new, "--memory-budget", budget)
        assert "a positive, finite amount, such as 22GiB, 22GB" in told and budget in told
    assert written() == before and not (tmp_path / "new").exists()


def test_select_killed_while_it_writes(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is evaluated stays until curve and picture are there: nothing is computed again."""
    words = ["select", "old", "hair", "--domain", domain, "--out", tmp_path, *SELECT]

    class Killed(BaseException):
        pass

    def kill(*args: Any, **kwargs: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("sdd_fast.selection.curve.HQSCurve.plot", kill)
        sdd(*words)
    assert (tmp_path / "old" / "curve.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr("sdd_fast.teacher.prior.DiffusionPrior.unet_output", kill)
        done = sdd(*words)
    assert done.code == 0, done.err
    for name in ("old", "hair"):
        assert (tmp_path / name / "curve.png").exists()
        assert not list((tmp_path / name).glob("*.safetensors"))


def test_select_replaces_nothing_but_its_own_curve(
    sdd: Sdd, domain: Path, run: Path, tmp_path: Path
) -> None:
    def refused(prompt: str, out: Path) -> str:
        before = {path: path.read_bytes() for path in out.iterdir()}
        said = sdd.fails("select", prompt, "--domain", domain, "--out", out, *SELECT)
        after = {path: path.read_bytes() for path in out.iterdir() if path.name != LOCK_FILE}
        assert after == {path: data for path, data in before.items() if path.name != LOCK_FILE}
        return said

    assert "holds a run (run.json" in refused("a zombie", run)
    out = tmp_path / "out"
    words = ["select", "old", "--domain", domain, "--out", out, *SELECT]
    assert sdd(*words).code == 0
    for prompt in ("old", "hair"):
        assert "curve.json and 1 more would be replaced" in refused(prompt, out)
    assert sdd(*words, "--overwrite").code == 0

    # Killed between the two files, or refused by a threshold: the curve is kept, and drawn.
    curve = (out / "curve.json").read_bytes()
    (out / "curve.png").unlink()
    for other in (["--seed", "1"], ["--images", "1"], ["--timesteps", "200,500"]):
        changed = sdd.fails(*words, *other)
        assert "curve.json would be replaced" in changed
    again = sdd(*words, "--top", "1")
    assert again.code == 0 and "its picture is drawn" in again.out and (out / "curve.png").exists()
    assert (out / "curve.json").read_bytes() == curve
    # An adaptive one is of as many candidates, but not of any; its scores are those it went by.
    out = tmp_path / "adaptive"
    words = ["select", "old", "--domain", domain, "--out", out, *SELECT]
    words += ["--search", "adaptive", "--gradient-at", "latent"]
    done = sdd(*words, "--timesteps", "200,500,800")
    assert done.code == 0 and "approximate:  by the gradient at the latent" in done.out
    (out / "curve.png").unlink()
    for other in (["--timesteps", "100,500,800"], ["--normalize", "of-mean"], ["--images", "1"]):
        changed = sdd.fails(*words, "--timesteps", "200,500,800", *other)
        assert "curve.json would be replaced" in changed
    assert sdd(*words, "--timesteps", "200,500,800").code == 0
    for name in ("curve.json", "curve.png"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("[1]")
        assert "give --overwrite" in refused("old", tmp_path / name)


def test_a_refused_command_leaves_no_folder(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = ["--generator", "nowhere.pt"]
    for words in (
        ["select", "old", "--timesteps", "1200"],
        ["select", "old", "--images", "nowhere"],
        ["select", "old", *generator],
        ["distill", "old", "--timesteps", "1200"],
        ["distill", "old", *generator],
        ["export", "nowhere"],
    ):
        sdd.fails(
            *words, *([] if words[0] == "export" else ["--domain", domain]), "--out", "a/b.pt"
        )
        assert not list(tmp_path.iterdir())


def test_local_files_are_missed_before_a_teacher_is_asked_for(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("a teacher was loaded")

    monkeypatch.setattr("sdd_fast.teacher.prior.DiffusionPrior.from_pretrained", never)
    monkeypatch.chdir(tmp_path)
    for command in ("select", "distill"):
        message = sdd.fails(command, "white hair", "--domain", "ffhq-1024")
        assert "the generator of ffhq-1024 is missing" in message


def test_select_on_pictures_of_ones_own(sdd: Sdd, domain: Path, runs: Path, tmp_path: Path) -> None:
    done = sdd(
        "select", "old", "--domain", domain, "--out", tmp_path, "--images", runs / "faces",
        "--timesteps", "500", "--gradient-map", "abs-mean", "--jacobian", "full",
    )  # fmt: skip
    assert done.code == 0, done.err
    found = json.loads((tmp_path / "curve.json").read_text())
    assert len(found["l1"]) == 6 and found["gradient_map"] == "abs-mean"
    assert found["config"]["jacobian"] == "full"
    one = sdd(
        "select", "old", "--domain", domain, "--out", tmp_path / "one", "--images", runs / "faces",
        "--timesteps", "500", "--gradient-map", "abs-mean", "--jacobian", "full",
        "--batch-size", "1",
    )  # fmt: skip
    assert one.code == 0 and "on 6 images, 1 at once" in one.out
    alone = json.loads((tmp_path / "one" / "curve.json").read_text())
    assert torch.allclose(torch.tensor(alone["l1"]), torch.tensor(found["l1"]), rtol=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["  "], "the prompt is empty"),
        (["old", "--timesteps", "1200"], "timestep 1200 is out of range"),
        (["old", "--timesteps", "5,5"], "distinct"),
        (["old", "--images", "0"], "images must be a positive integer"),
        (["old", "--batch-size", "0"], "batch_size must be a positive integer"),
        (["old", "--seed", "-1"], "a seed must be an integer from 0"),
        (["old", "--threshold", "nan"], "threshold is an HQS, −1 … 1, got nan"),
        (["old", "--noise-draws", "1000000000", *SELECT], "GB of memory; this device has"),
        (["old", "--images", "nowhere"], "no such folder: nowhere"),
        (["old", "--gradient-map", "unsigned"], "gradient_map must be one of signed, abs-mean"),
        (["old", "--jacobian", "half"], "jacobian must be one of"),
        (["old", "--normalize", "never"], "normalize must be one of"),
        (["old", "--guidance-scale", "-3"], "guidance_scale must be a number"),
        (["old", "--noise-draws", "0"], "noise_draws"),
        (["old", "--top", "99", *SELECT], "k must be 1 to 3, got top=99"),
        (["old", "--top", "1", "--threshold", "0"], "not by both"),
    ],
)
def test_select_refuses(
    sdd: Sdd, domain: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    assert message in sdd.fails("select", *words, "--domain", domain, "--out", tmp_path / "run")


# --- distill --------------------------------------------------------------------------------------

SHORT = ["--steps", "2", "--batch-size", "2", "--measured-images", "4", "--timesteps", "500"]


def test_distill_and_repeat(sdd: Sdd, domain: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["distill", "old hair", "--domain", domain, "--out", out, *SHORT]
    more = ["--levels", "medium", "--l2-weight", "0.5"]
    done = sdd(*words, *more)
    assert done.code == 0, done.err
    record = json.loads((out / "run.json").read_text())
    assert record["timesteps"] == [500] and record["levels"] == ["medium"]
    assert record["distill"]["l2_weight"] == 0.5 and record["quality"] is None
    typed_again = shlex.split(record["command"])[1:]
    assert sorted(typed_again) == sorted(map(str, [*words, *more]))
    assert f"report:  {out / 'report.html'}" in done.out and (out / "report.html").exists()

    other = sdd.fails(*words)
    assert "config.l2_weight: 0.5 in the checkpoint" in other and "--restart" in other
    again = sdd(*words, "--restart")
    assert again.code == 0, again.err
    assert (
        json.loads((out / "run.json").read_text())["distill"]["l2_weight"]
        == DistillConfig().l2_weight
    )


def test_distill_takes_fewer_large_pictures(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ["--steps", 1, "--measured-images", 0, "--timesteps", 500]
    words = ["distill", "old", "--domain", domain, *few]
    usual = sdd(*words, "--out", tmp_path / "usual")
    usually = DistillConfig().batch_size
    assert usual.code == 0 and f"1 steps of {usually} images" in usual.out
    monkeypatch.setattr("sdd_fast.memory._KEPT_BYTES", 1.0)
    large = sdd(*words, "--out", tmp_path / "large")
    assert large.code == 0 and "1 steps of 1 image …" in large.out
    record = json.loads((tmp_path / "large" / "run.json").read_text())
    assert record["distill"]["batch_size"] == 1 and "--batch-size" not in record["command"]
    given = sdd(*words, "--out", tmp_path / "given", "--batch-size", 8)
    assert given.code == 0 and "1 steps of 8 images" in given.out
    record = json.loads((tmp_path / "given" / "run.json").read_text())
    assert "--steps 1 --batch-size 8" in record["command"]


def test_distill_with_a_teacher_of_half_precision(sdd: Sdd, domain: Path, tmp_path: Path) -> None:
    words = ["distill", "old", "--domain", domain, "--out", tmp_path / "run", *SHORT]
    done = sdd(*words, "--dtype", "bfloat16")
    assert done.code == 0, done.err
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["dtype"] == "bfloat16" and "--dtype bfloat16" in record["command"]
    assert "the diffusion model in bfloat16" in (tmp_path / "run" / "report.html").read_text()
    message = sdd.fails(*words)
    assert "teacher: 'torch.bfloat16' in the checkpoint, not set now" in message


def test_distill_from_an_earlier_curve(sdd: Sdd, domain: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    assert sdd("select", "old hair", "--domain", domain, "--out", first, *SELECT).code == 0
    words = ["distill", "old hair", "--domain", domain, *SHORT[:-2]]
    named = sdd(*words, "--out", tmp_path / "b", "--curve", first / "curve.json", "--top", 2)
    assert named.code == 0, named.err
    record = json.loads((tmp_path / "b" / "run.json").read_text())
    assert len(record["timesteps"]) == 2 and record["rule"] == "the 2 largest HQS"
    same_folder = sdd(*words, "--out", first)
    assert same_folder.code == 0 and "the curve is in" in same_folder.out
    assert (tmp_path / "b" / "curve.json").read_bytes() == (first / "curve.json").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([""], "the prompt is empty"),
        (["old", "--timesteps", "1200"], "timestep 1200 is out of range; this model has"),
        (["old", "--timesteps", "500", "--levels", "hair"], "level must be one of"),
        (["old", "--steps", "0"], "steps must be a positive integer"),
        (["old", "--lr", "-1"], "lr must be a positive number"),
        (["old", "--batch-size", "0"], "batch_size must be a positive integer"),
        (["old", "--l2-weight", "nan"], "l2_weight must be 0 or more"),
        (["old", "--curve", "nowhere.json"], "nowhere.json"),
        (["old", "--dtype", "int8"], "dtype must be one of float32, float16, bfloat16 or auto"),
        (["old", "--attention", "sage"], "attention='sage' is not offered: it quantizes"),
        (["old", "--device", "abacus"], "'abacus' is no device"),
        (["old", "--seed", str(2**64)], "a seed must be an integer from 0 to 2⁶⁴ − 1"),
        (["old", "--measured-images", "-1"], "measured_images must be an integer of at least 0"),
        (["old", "--measured-images", "1000000000"], "measuring on 1,000,000,000 images takes"),
        (["old", "--timesteps", "500", "--batch-size", "1000000000"], "takes at least"),
        (["old \udcc3"], "is not Unicode text. Where a terminal's locale is not UTF-8"),
    ],
)
def test_distill_refuses(
    sdd: Sdd, domain: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    out = tmp_path / "run"
    assert message in sdd.fails("distill", *words, "--domain", domain, "--out", out)
    assert not out.exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(sdd: Sdd, domain: Path) -> None:
    message = sdd.fails("distill", "old", "--domain", domain, "--device", "cuda")
    assert "device cuda: this machine and torch have none; usable: cpu" in message


def test_unknown_and_broken_domains(sdd: Sdd, tmp_path: Path) -> None:
    message = sdd.fails("distill", "old", "--domain", "cats")
    assert "no domain 'cats'" in message and "faces64" in message
    (tmp_path / "domain.json").write_text("{")
    assert "not valid JSON" in sdd.fails("distill", "old", "--domain", tmp_path)
    (tmp_path / "domain.json").write_text('{"name": "x"}')
    assert "it lacks source_text" in sdd.fails("distill", "old", "--domain", tmp_path)


def test_a_corrupt_curve(sdd: Sdd, domain: Path, tmp_path: Path) -> None:
    (tmp_path / "curve.json").write_text('{"format"')
    words = ["distill", "old", "--domain", domain, "--curve", tmp_path / "curve.json"]
    assert "not valid JSON" in sdd.fails(*words)
    (tmp_path / "curve.json").write_text("{}")
    assert "not an HQS curve" in sdd.fails(*words)


def test_an_output_folder_that_cannot_be_written(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    place = tmp_path / "file" / "run"
    for words in (["select", "old", *SELECT], ["distill", "old", *SHORT]):
        message = sdd.fails(*words, "--domain", domain, "--out", place)
        assert message.startswith("sdd: error: ") and "expected a folder" in message
        assert str(tmp_path / "file") in message

    def denied(*args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied", str(place))

    place = tmp_path / "new" / "run"
    monkeypatch.setattr(Path, "mkdir", denied)
    message = sdd.fails("distill", "old", *SHORT, "--domain", domain, "--out", place)
    assert message == f"sdd: error: {place}: Permission denied"


def test_a_folder_is_a_run_or_holds_several(sdd: Sdd, domain: Path, tmp_path: Path) -> None:
    from sdd_fast.run_folder import RUN_FILE, RUN_FORMAT

    runs, run = tmp_path / "runs", tmp_path / "run"
    for folder in runs / "old-hair", run:
        folder.mkdir(parents=True)
        (folder / RUN_FILE).write_text(json.dumps({"format": RUN_FORMAT}), encoding="utf-8")
    message = sdd.fails("distill", "old hair", *SHORT, "--domain", domain, "--out", runs)
    assert f"give --out {runs / 'old-hair'}" in message
    words = ["distill", "old hair", "new hair", *SHORT, "--domain", domain]
    message = sdd.fails(*words, "--out", run)
    assert f"{run} is a run of one prompt" in message
    assert [path.name for path in run.iterdir()] == [RUN_FILE]


def test_ctrl_c(sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdd_fast.distillation.objective import Objective

    original = Objective.loss

    def interrupted(self: Objective, step: int, *of: Any) -> Any:
        if step == 1:
            raise KeyboardInterrupt
        return original(self, step, *of)

    words = ["distill", "old hair", "--domain", domain, "--out", tmp_path / "run", *SHORT]
    monkeypatch.setattr(Objective, "loss", interrupted)
    message = sdd.fails(*words, code=130)
    assert "stopped after step 1 of 2" in message and "run the same again" in message
    shown = sdd("info", tmp_path / "run")
    assert "1 of 2" in shown.out and "not finished" in shown.out
    unfinished = sdd.fails("edit", tmp_path / "run", "x.png")
    assert "has not finished" in unfinished
    monkeypatch.setattr(Objective, "loss", original)
    assert sdd(*words).code == 0


def test_nan_is_explained(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdd_fast.teacher.prior import DiffusionPrior

    original = DiffusionPrior.predict_noise
    monkeypatch.setattr(
        DiffusionPrior, "predict_noise", lambda *a, **k: original(*a, **k) * float("nan")
    )
    words = ["distill", "old hair", "--domain", domain, "--out", tmp_path / "run", *SHORT]
    message = sdd.fails(*words)
    assert "the teacher's prediction is NaN or infinite" in message
    message = sdd.fails(*words, "--guidance-scale", "20", "--restart")
    # What the teacher answers is replaced here, no module of it.
    assert "became NaN or infinite in step 1" in message
    assert "in the residual, outside the networks" in message


@pytest.mark.parametrize("level", ["good", "fair", "bad"])
def test_a_bad_edit_is_said_loudly(capsys: pytest.CaptureFixture[str], level: Any) -> None:
    run = SimpleNamespace(
        verdict=Verdict(level, "no effect"),
        headline="The edit has no effect",
        advice="try --steps 240",
    )
    show_verdict(run)  # type: ignore[arg-type]
    out = capsys.readouterr().out
    assert ("!!! THE EDIT HAS NO EFFECT !!!" in out) == (level == "bad")
    assert "try --steps 240" in out


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "there is no such file", "a.json"), "a.json: there is no such file"),
        (OSError(28, "no space left while writing a/b (0 MiB free)"), "no space left while writing "
         "a/b (0 MiB free)"),
        (PermissionError(13, "Permission denied", "d"), "d: Permission denied"),
        (IsADirectoryError(21, "Is a directory", "a directory"), "a directory: Is a directory"),
        (FileNotFoundError("no domain 'cats'"), "no domain 'cats'"),
        (ValueError("start over with resume=False"), "start over with --restart"),
        (MemoryError(), "out of memory. Try a smaller --batch-size, fewer --images or --dtype "
         "float16, where the command has them."),
        (torch.OutOfMemoryError("CUDA out of memory\nmore"), "out of memory. Try a smaller "
         "--batch-size, fewer --images or --dtype float16, where the command has them. CUDA out of "
         "memory"),
    ],
)  # fmt: skip
def test_errors_in_the_words_of_the_command_line(error: Exception, message: str) -> None:
    assert console.explain(error) == message


def test_bugs_point_to_debug(sdd: Sdd, monkeypatch: pytest.MonkeyPatch) -> None:
    import sdd_fast.cli.info as info

    def broken() -> None:
        raise KeyError("oops")

    monkeypatch.setattr(info, "installation", broken)
    assert "KeyError: 'oops'. This may be a bug; --debug" in sdd.fails("info")
    result = sdd("info", "--debug")
    assert result.code == 1 and "Traceback" in result.err and "KeyError" in result.err
    assert not sdd("render", "--", "--debug").code == 0 and not console.state.debug


# --- edit and export ------------------------------------------------------------------------------


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_edit(sdd: Sdd, runs: Path, run: Path, own: list[object], tmp_path: Path) -> None:
    one = sdd("edit", *own, run, runs / "faces", "--out", tmp_path / "a", "--strength", "-0.5")
    assert one.code == 0, one.err
    assert len(list((tmp_path / "a").glob("*.png"))) == 6
    assert (tmp_path / "a" / "grid" / "before-after.png").exists()
    face = runs / "faces" / "face-1.png"
    both = sdd(
        "edit", *own, run, runs / "old-hair", face, "--out", tmp_path / "b", "--strength", "1,0"
    )
    assert both.code == 0, both.err
    alone = runs / "edited" / "a-bald-face" / "face-1.png"
    assert abs(pixels(tmp_path / "b" / "face-1.png") - pixels(alone)).max() <= 1
    assert "edited 1 picture" in both.out and str(tmp_path / "b" / "face-1.png") in both.out
    named = sdd(
        "edit", *own, run, face, "--out", tmp_path / "b", "--suffix", "-bald", "--strength", "2"
    )
    assert named.code == 0 and str(tmp_path / "b" / "face-1-bald.png") in named.out


def test_edit_compiled(
    sdd: Sdd, runs: Path, run: Path, own: list[object], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sizes: list[int] = []
    monkeypatch.setattr(Editor, "compile", lambda _, size: sizes.append(size) or 12.0)
    done = sdd("edit", *own, run, runs / "faces", "--compile", "--out", tmp_path)
    assert done.code == 0 and "compiled in 12 s\n" in done.out and sizes == [6]


@pytest.mark.parametrize("code", ["no effect", "not measurable", "off target"])
def test_an_edit_without_effect_is_not_proposed(
    code: str, sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdd_fast.runs.finish.judge", lambda *_: Verdict("bad", code))
    done = sdd("distill", "old hair", "--domain", domain, "--out", tmp_path / "run", *SHORT)
    assert done.code == 0, done.err
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert ("sdd edit" in done.out) == ("sdd edit" in page) == (code == "off target")


def test_broken_pictures_are_left_out_and_listed(
    sdd: Sdd, runs: Path, run: Path, own: list[object], tmp_path: Path
) -> None:
    faces, out = tmp_path / "faces", tmp_path / "out"
    shutil.copytree(runs / "faces", faces)
    whole = (faces / "face-1.png").read_bytes()
    (faces / "face-1.png").write_bytes(whole[: len(whole) // 2])
    (faces / "notes.txt").write_text("a note")
    Image.open(faces / "face-2.png").save(faces / "face-2.jpg")
    (faces / "face-2.jpg").write_bytes((faces / "face-2.jpg").read_bytes()[:-20])
    (tmp_path / "empty").mkdir()
    others = [tmp_path / "gone.png", tmp_path / "empty", faces / "notes.txt"]  # as a glob finds
    done = sdd("edit", *own, run, faces, *others, "--out", out)
    assert done.code == 1 and "edited 6 pictures" in done.out, done.err
    assert sorted(path.name for path in out.glob("*.png")) == [
        "face-2.jpg.png", "face-2.png.png", *(f"face-{i}.png" for i in (3, 4, 5, 6)),
    ]  # fmt: skip
    for told in (
        "passed over: 1 other file (.txt)", "face-2.jpg lacks its end", "skipped: no images in",
        "skipped: there is no such image file", "skipped: " + str(faces / "face-1.png"),
    ):  # fmt: skip
        assert told in done.err
    remembered = vars(images).get("__warningregistry__", {})  # of thousands that would be much
    assert not [key for key in remembered if "face-2.jpg" in str(key)]
    refused = sdd.fails("edit", *own, run, faces, "--out", tmp_path / "strict", "--strict")
    assert "face-1.png is a truncated" in refused and not (tmp_path / "strict").exists()
    again = sdd.fails("edit", *own, run, faces, "--out", out)
    assert "give --overwrite to replace what is there or --skip-existing to edit only" in again
    (out / "face-6.png").write_text("of somebody else")
    again = sdd("edit", *own, run, faces / "face-6.png", "--out", out, "--skip-existing")
    assert again.code == 0 and "already there: 1 picture\n" in again.out
    assert "edited" not in again.out
    (out / "face-5.png").unlink()
    again = sdd("edit", *own, run, faces, "--out", out, "--skip-existing")
    assert again.code == 1 and "already there: 5 pictures\n" in again.out
    assert re.search(
        r"^edited 1 picture in .* s \(.* pictures/s\): .*face-5\.png$", again.out, re.M
    )


def test_pictures_that_cannot_be_edited(
    sdd: Sdd, runs: Path, run: Path, own: list[object], tmp_path: Path
) -> None:
    face = runs / "faces" / "face-1.png"
    (tmp_path / "broken.png").write_bytes(face.read_bytes()[:200])
    (tmp_path / "empty").mkdir()
    (tmp_path / "more").mkdir()
    shutil.copy(face, tmp_path / "more")
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    assert sdd("export", run, "--out", tmp_path / "x.pt").code == 0
    out = tmp_path / "out"
    for words, message in (
        ([run, tmp_path / "broken.png"], "broken.png is a truncated or corrupt image"),
        ([run, tmp_path / "dot.png"], "too small: 1×1"),
        ([run, tmp_path / "none.png"], "no such image file"),
        ([run, tmp_path / "empty"], "no images in"),
        ([run], "no pictures were given"),
        ([face], "no edit was given"),
        ([tmp_path / "nowhere"], "no such run folder, mapper file or picture"),
        ([runs, face], "several runs; name one or more of them"),
        ([run, face, "--strength", "1,2"], "one strength, or one for each of 1"),
        ([run, face, "--strength", "nan"], "finite"),
        ([run, face, "--levels", "hair"], "level must be one of"),
        ([tmp_path / "x.safetensors", face], "no such file"),
        ([tmp_path / "x.pt", face], "TorchScript files are for other programs"),
        ([run, face, tmp_path / "more" / face.name], "several inputs would be written"),
    ):
        assert message in sdd.fails("edit", *own, *words, "--out", out), words
        assert not out.exists()
    assert "no domain 'cats'" in sdd.fails("edit", run, face, "--domain", "cats", "--out", out)
    assert "--domain" in sdd.fails(
        "edit", run, face, "--out", out
    )  # of a run that was not built in
    assert "overwrite its input" in sdd.fails("edit", *own, run, face, "--out", face.parent)


def test_grids_of_earlier_edits_are_kept(
    sdd: Sdd, run: Path, runs: Path, own: list[object], tmp_path: Path
) -> None:
    faces, grid = runs / "faces", tmp_path / "grid" / "before-after.png"
    grid.parent.mkdir()
    grid.write_text("mine")
    second = grid.with_name("before-after-2.png")
    told = sdd("edit", *own, run, faces / "face-1.png", "--out", tmp_path)
    assert told.code == 0 and str(second) in told.out and second.stat().st_size > 1000
    assert grid.read_text() == "mine"
    told = sdd("edit", *own, run, faces / "face-1.png", "--out", tmp_path, "--overwrite")
    assert told.code == 0 and f"{grid}\n" in told.out and grid.stat().st_size > 1000


def test_an_edit_whose_grid_cannot_be_written_says_what_is_there(
    sdd: Sdd, run: Path, runs: Path, own: list[object], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A full disk after the last result: the same again would be refused, which is not said."""
    words = ["edit", *own, run, runs / "faces", "--out", tmp_path]
    save, grid = images.save_png, tmp_path / "grid" / "before-after.png"

    def full(path: Path, picture: Any) -> None:
        if path == grid:
            raise OSError(errno.ENOSPC, f"no space left while writing {path}; … run it again")
        save(path, picture)

    with monkeypatch.context() as patch:
        patch.setattr(images, "save_png", full)
        told = sdd(*words)
    assert told.code == 1 and "edited 6 pictures" in told.out
    assert f"{grid}: the grid of pictures before and after could not be written" in told.err
    assert f"No space left on device). The 6 pictures in {tmp_path} are whole" in told.err
    assert "run it again" not in told.err and not grid.exists()
    again = sdd(*words, "--skip-existing")
    assert again.code == 0 and "already there: 6 pictures" in again.out and grid.exists()


def test_export(sdd: Sdd, run: Path, runs: Path, tmp_path: Path) -> None:
    from sdd_fast.checkpoints.load import load_mapper
    from sdd_fast.export import load_torchscript

    script, weights = tmp_path / "m.pt", tmp_path / "m.safetensors"
    assert sdd("export", run, "--out", script).code == 0
    assert sdd("export", run, "--out", weights, "--levels", "medium").code == 0
    module, metadata = load_torchscript(script)
    mapper, _ = load_mapper(run / "mapper.safetensors")
    part, info = load_mapper(weights)
    w_plus = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(module(w_plus), mapper(w_plus))
    torch.testing.assert_close(part(w_plus)[:, 4:], mapper(w_plus)[:, 4:])
    assert not part(w_plus)[:, :4].any() and info.levels == ("medium",)
    assert metadata["prompt"] == "a bald face" and metadata["domain"] == "tiny"
    shown = sdd("info", script)
    assert "TorchScript of LevelsMapper" in shown.out and "a bald face" in shown.out
    face = runs / "faces" / "face-1.png"
    lost = sdd.fails("edit", weights, face, "--out", tmp_path / "o")
    assert "names the domain 'tiny', which is neither built in nor in the same folder" in lost
    words = ["export", run, "--out", weights]
    assert "would be replaced" in sdd.fails(*words)
    assert "not" in sdd.fails(*words, "--levels", "fine", "--overwrite")
    assert sdd(*words, "--overwrite").code == 0
    mapper_file = run / "mapper.safetensors"
    message = sdd.fails("export", run, "--out", mapper_file, "--overwrite")
    assert "is the input, which is never replaced" in message


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_export_of_an_editor_of_two_edits(
    sdd: Sdd, run: Path, runs: Path, own: list[object], tmp_path: Path
) -> None:
    path = tmp_path / "editor.pt"
    words = ["export", run, runs / "old-hair", *own, "--out", path]
    assert "a mapper is of one edit, and 2 were given" in sdd.fails(*words)
    done = sdd(*words, "--part", "editor")
    assert done.code == 0, done.err
    assert "(editor, torchscript, " in done.out and "“a bald face”, “old hair”" in done.out
    assert "largest difference from the Python editor: " in done.out
    shown = sdd("info", path)
    assert "TorchScript of the editor" in shown.out and "a bald face, old hair" in shown.out
    assert "strengths ['batch', 2]" in shown.out and "whose licenses apply" in shown.out
    module = torch.jit.load(str(path))
    face = runs / "faces" / "face-1.png"
    given = torch.from_numpy(pixels(face)).permute(2, 0, 1)[None].float() / 127.5 - 1
    got = ((module(given, torch.tensor([[1.0, 0.0]]))[0] + 1) * 127.5).permute(1, 2, 0)
    alone = runs / "edited" / "a-bald-face" / "face-1.png"
    assert abs(got.numpy() - pixels(alone)).max() <= 1


# --- render and train-domain ----------------------------------------------------------------------


def test_render_replaces_nothing(sdd: Sdd, tmp_path: Path) -> None:
    (tmp_path / "metadata.jsonl").write_text("mine")
    words = ["render", "--out", tmp_path, "-n", 2, "--resolution", 16]
    assert "metadata.jsonl would be replaced" in sdd.fails(*words)
    assert [path.name for path in tmp_path.iterdir()] == ["metadata.jsonl"]
    assert sdd(*words, "--overwrite").code == 0


def test_render_is_an_example_of_the_training_format(sdd: Sdd, tmp_path: Path) -> None:
    from sdd_fast.training.data import ImageFolder

    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        done = sdd("render", "--out", tmp_path / name, "-n", 20, "--seed", seed)
        assert done.code == 0, done.err
    read = ImageFolder(tmp_path / "a", "a face").captions
    assert len(read) == 20 and all(read.values())
    first = {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()}
    assert first == {p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()}
    assert first != {p.name: p.read_bytes() for p in (tmp_path / "c").iterdir()}
    line = json.loads((tmp_path / "a" / "metadata.jsonl").read_text().splitlines()[0])
    assert line["file_name"] == "face-01.png" and set(line["attributes"]) >= {"hair_color", "yaw"}
    assert Image.open(tmp_path / "a" / "face-01.png").size == (64, 64)


def test_train_domain_passes_everything_on(
    sdd: Sdd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sdd_fast.training.train_domain as training
    from sdd_fast.cli import console

    seen: dict[str, Any] = {}

    def train(out: Path, **options: Any) -> Path:
        seen.update(options, out=out)
        return out

    monkeypatch.setattr(training, "train_domain", train)
    done = sdd(
        "train-domain", tmp_path / "d", "--images", tmp_path, "--source-text", "a car",
        "--resolution", 32, "--parts", "clip,vae", "--budget", "0.5", "--caption-column", "title",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert seen == {
        "out": tmp_path / "d", "images": tmp_path, "source_text": "a car", "resolution": 32,
        "like": None, "parts": ["clip", "vae"], "budget": 0.5, "device": "cpu",
        "caption_column": "title", "say": console.say,
    }  # fmt: skip
    # Nothing was trained, and a folder of pictures needs neither classifier nor quality.
    needed = "clip, vae, identity, generator, unet, latents\n"
    assert f"not complete yet; still to train: {needed}" in done.out
    (tmp_path / "d" / "clip").mkdir(parents=True)
    (tmp_path / "d" / "clip" / "image.safetensors").touch()
    done = sdd("train-domain", tmp_path / "d", "--parts", "vae")
    needed = "vae, classifier, identity, generator, unet, latents, quality\n"
    assert f"not complete yet; still to train: {needed}" in done.out


def test_train_domain_ends_with_what_to_try(
    sdd: Sdd, tmp_path: Path, domain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sdd_fast.training.train_domain as training

    monkeypatch.setattr(training, "train_domain", lambda out, **options: out)
    out = tmp_path / "cups"
    shutil.copytree(domain, out)
    words = ("train-domain", out, "--images", tmp_path, "--source-text", "a photo of a cup")
    for prompts, proposed in ((["a red cup", "a mug"], "'a red cup'"), ([], "'WHAT THE PICTURES")):
        spec = json.loads((out / "domain.json").read_text()) | {"prompts": prompts}
        (out / "domain.json").write_text(json.dumps(spec))
        shown = sdd(*words, "--device", "cuda:1").out
        assert f"next:     sdd distill {proposed}" in shown and shown.endswith("--device cuda:1\n")
    (out / "held-out.json").write_text('{"images": ["1.png", "2.png"], "trained_on": 8}')
    assert f"held out: 2 pictures, named in {out / 'held-out.json'}" in sdd(*words).out
    assert "2 pictures, named in held-out.json" in sdd("info", out).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parts", "hair"], "unknown parts ['hair']"),
        (["--resolution", "48"], "resolution must be 32, 64 or 128"),
        (["--budget", "0"], "budget is a factor"),
        (
            ["--images", "nowhere", "--source-text", "a car"],
            "nowhere does not exist",
        ),
        (["--images", ".", "--source-text", "a car"], "no metadata.jsonl"),
    ],
)
def test_train_domain_refuses(sdd: Sdd, tmp_path: Path, words: list[str], message: str) -> None:
    assert message in sdd.fails("train-domain", tmp_path / "d", *words)


def test_module_entry_point_says_the_version() -> None:
    import sdd_fast

    words = [sys.executable, "-m", "sdd_fast.cli", "--version"]
    done = subprocess.run(words, capture_output=True, text=True, env=dict(os.environ), check=True)
    assert done.stdout == f"sdd_fast {sdd_fast.__version__}\n"


# --- several prompts ------------------------------------------------------------------------------


def test_distill_several_prompts(
    sdd: Sdd, domain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdd_fast.runs.finish.judge", lambda *_: Verdict("good", "ok"))
    words = ["distill", "old hair", "a bald face", "--domain", domain, "--out", tmp_path, *SHORT]
    watched = ["--tracker", "tensorboard", "--samples", 2]
    done = sdd(*words, "--ema", 0.5, "--accumulate", 2, *watched)
    assert done.code == 0, done.err
    for prompt, name in (("old hair", "old-hair"), ("a bald face", "a-bald-face")):
        record = json.loads((tmp_path / name / "run.json").read_text())
        assert record["complete"] and record["prompt"] == prompt
        assert record["distill"]["ema"] == 0.5 and record["distill"]["accumulate"] == 2
        assert record["command"].startswith(f"sdd distill '{prompt}' ")
        assert f"--out {tmp_path / name}" in record["command"]
        assert f"sdd edit {tmp_path / name} PICTURE.png" in done.out
        assert record["command"].endswith("--samples 2 --tracker tensorboard")
        assert list((tmp_path / name / "tensorboard").glob("events.*"))
        assert (tmp_path / name / "samples" / f"step-{record['distill']['steps']:06d}.png").exists()
    alone = sdd(
        "distill", "old hair", "--domain", domain, "--out", tmp_path / "old-hair", *SHORT,
        "--ema", 0.5, "--accumulate", 2,
    )  # fmt: skip
    assert alone.code == 0 and "nothing is left to do" in alone.out
    assert done.out.count(" s (its share of one training of 2 prompts together): ") == 2
    assert " s (its share of one training of 2 prompts together): " in alone.out
    page = (tmp_path / "old-hair" / "report.html").read_text(encoding="utf-8")
    assert "is the run's share of one training of 2 prompts together." in page
    other = sdd(*words, "--ema", 0.4)
    assert other.code == 1 and other.err.count("ema: 0.5 in the checkpoint, 0.4 now") == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["old", "bald", "old"], "the prompts must differ, but 'old' is given twice"),
        (["old", "bald", "--ema", "1"], "ema is a decay from 0 to below 1"),
        (["old", "old "], "'old' and 'old ' differ in spaces only"),
        (["old", "--tracker", "tensorbord"], "there is no tracker 'tensorbord'"),
        (["old", ""], "the prompt is empty"),
        (["old", "bald", "--stop-early"], "from step 100 on, and there are only 2 steps"),
        (
            ["old", "--stop-early", "--steps", "101", "--clip", "none"],
            "'direction', which is not m",
        ),
    ],
)
def test_distill_refuses_several(
    sdd: Sdd, domain: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    out = tmp_path / "out"
    done = sdd("distill", "--domain", domain, "--out", out, *SHORT, *words)
    assert done.code and message in " ".join(done.err.replace("│", "").split())
    assert not list(tmp_path.glob("out/*/mapper.safetensors"))


def test_a_curve_is_of_one_prompt(sdd: Sdd, domain: Path) -> None:
    words = ["distill", "old", "bald", "--curve", "c.json", "--domain", domain]
    assert "is of one prompt; the curves in their" in sdd.fails(*words, code=2)
