from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from measured_once import measured_once
from tiny_domain import W_DIM, write_tiny_domain

import sdd_fast.runs.run as experiment
from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.monitor import EditMonitor
from sdd_fast.distillation.result import PromptsFailed
from sdd_fast.domains import Domain, load_domain
from sdd_fast.domains.faces64.attributes import HEADS
from sdd_fast.files import load_tensors
from sdd_fast.lock import LOCK_FILE, locked
from sdd_fast.models import ConvClassifier, ConvEmbedding, Encoder
from sdd_fast.run_folder import WRITTEN
from sdd_fast.runs.job import Job
from sdd_fast.runs.record import read_run
from sdd_fast.runs.run import EditRun, default_config, run_edit, run_edits, slug
from sdd_fast.selection.choose import Selection, choose
from sdd_fast.selection.curve import HQSCurve
from sdd_fast.selection.in_domain import compute_curve

PROMPT = "a face with white hair"
TIMES = (200, 500, 800)


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Domain:
    return load_domain(write_tiny_domain(tmp_path_factory.mktemp("domain") / "d", tiny_sd))


def config(**changes: Any) -> DistillConfig:
    return default_config(**{"steps": 4, "batch_size": 2, "monitor_every": 2} | changes)


def select(**changes: Any) -> Selection:
    return Selection(**{"images": 2, "candidates": TIMES} | changes)


def make(domain: Domain, out: Path, **changes: Any) -> EditRun:
    options: dict[str, Any] = {"selection": select(), "config": config(), "measured_images": 8}
    return run_edit(domain, PROMPT, out, progress=False, **options | changes)


@pytest.fixture(scope="module")
def finished(domain: Domain, tmp_path_factory: pytest.TempPathFactory) -> EditRun:
    lines: list[str] = []
    with pytest.warns(UserWarning, match="not in the vocabulary"):
        run = make(domain, tmp_path_factory.mktemp("runs") / "run", say=lines.append)
    said = "\n".join(lines)
    for word in ("selecting", "distilling", "measuring", "edit size"):
        assert word in said
    assert run.verdict.code not in said  # said once, at the end
    return run


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_mapper(a: Path, b: Path) -> None:
    (one, _), (two, _) = (load_tensors(folder / "mapper.safetensors") for folder in (a, b))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_choose() -> None:
    table = torch.tensor([[3.0, 1.0, 2.0, 5.0], [3.0, 1.0, 2.0, 5.0]])
    curve = HQSCurve((100, 200, 300, 400), -table, table, table)  # HQS 0, −1, −.5, 1
    assert choose(curve, Selection()) == ([400], "HQS within 0.1 of the largest")
    assert choose(curve, Selection(margin=1.0))[0] == [100, 400]
    assert choose(curve, Selection(top=3))[0] == [100, 300, 400]
    assert choose(curve, Selection(threshold=-0.2))[0] == [100, 400]
    with pytest.raises(ValueError, match="no timestep has an HQS above 1"):
        choose(curve, Selection(threshold=1.0))
    with pytest.raises(ValueError, match="k must be 1 to 4"):
        choose(curve, Selection(top=5))
    with pytest.raises(ValueError, match="not by both"):
        Selection(top=1, threshold=0.0)
    with pytest.raises(ValueError, match="images"):
        Selection(images=0)


def test_the_folder_tells_everything(finished: EditRun, domain: Domain) -> None:
    there = {path.name for path in finished.folder.iterdir()}
    assert there >= {*WRITTEN, "config.json", "history.json", "mapper.safetensors"}
    record = read_run(finished.folder)
    assert record == json.loads(json.dumps(finished.record))
    assert record["complete"] and record["prompt"] == PROMPT
    assert record["domain_reference"] == str(domain.folder.resolve())
    assert record["unknown_words"] and "verdict" not in record["monitor"]  # the run has one
    assert set(record["seconds"]) == {"select", "distill", "measure"}
    assert record["quality"]["images"] == 8 and record["unedited"]["strength"] == 0.0
    assert record["milliseconds_per_edit"] > 0
    curve = HQSCurve.load(finished.folder / "curve.json")
    assert curve.timesteps == TIMES and record["timesteps"] == curve.plateau()
    assert record["distill"]["guidance"]["guidance_scale"] > 1  # balanced, since none was given
    assert finished.report.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_the_curve_is_of_held_out_latents(finished: EditRun, domain: Domain) -> None:
    from sdd_fast.selection.hqs import hqs

    want = hqs(
        domain.prior, domain.held_out[:2], PROMPT, TIMES, generator=domain.generator,
        progress=False,
    )  # fmt: skip
    found = HQSCurve.load(finished.folder / "curve.json")
    torch.testing.assert_close(found.deficit, want.deficit)


def test_fewer_held_out_latents_than_requested(domain: Domain) -> None:
    count = len(domain.held_out)
    with pytest.warns(UserWarning, match=f"{count + 1} images are requested, .* has {count} held"):
        curve = compute_curve(
            domain, "old hair", Selection(images=count + 1, candidates=(500,)), progress=False
        )
    assert curve.num_images == count


def test_a_curve_of_pictures(domain: Domain) -> None:
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    curve = compute_curve(domain, "old hair", select(), images=pictures, progress=False)
    assert curve.num_images == 2 and curve.prompt == "old hair"


def test_a_finished_run_again_does_nothing(
    finished: EditRun, domain: Domain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("done again")

    for name in ("before_after", "milliseconds_per_edit", "write_report"):
        monkeypatch.setattr(f"sdd_fast.runs.finish.{name}", never)
    monkeypatch.setattr("sdd_fast.runs.select.compute_curves", never)
    monkeypatch.setattr(EditMonitor, "__call__", never)
    before = snapshot(finished.folder)
    calls = domain.prior.unet_calls
    lines: list[str] = []
    again = make(domain, finished.folder, say=lines.append)
    assert domain.prior.unet_calls == calls
    assert snapshot(finished.folder) == before
    assert again.record == read_run(finished.folder) and again.verdict == finished.verdict
    assert again.headline == finished.headline and again.advice == finished.advice
    assert again.result.config == finished.result.config  # with the guidance that was balanced
    assert "nothing is left to do" in lines[-1]


def test_a_finished_run_is_measured_for_what_is_asked_for_besides(
    domain: Domain, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"timesteps": [500], "selection": None}
    first = make(domain, tmp_path, measured_images=4, **options)
    calls = domain.prior.unet_calls
    changes: list[dict[str, Any]] = [
        {"measured_images": 6}, {"measured_images": 0},
        {"strengths": (1.0,), "measured_images": 0},
    ]  # fmt: skip
    for change in changes:
        run = make(domain, tmp_path, **options, **change)
        assert (run.record["quality"] or {}).get("images", 0) == change["measured_images"]
        assert run.record["strengths"] == list(change.get("strengths", (0.5, 1.0, 1.5)))
        assert read_run(tmp_path)["complete"]
    (tmp_path / "report.html").unlink()
    assert make(domain, tmp_path, measured_images=4, **options).report.exists()
    assert domain.prior.unet_calls == calls
    assert_same_mapper(tmp_path, first.folder)


def test_judges_that_take_no_such_images_are_found_first(domain: Domain, tmp_path: Path) -> None:
    judges = {
        "identity": ConvEmbedding(8, 16, width=4),
        "classifier": ConvClassifier(HEADS, 16, width=4),
        "encoder": Encoder(64, 8, W_DIM, channel_base=256, channel_max=8, head_channels=2),
    }
    for part, network in judges.items():
        network.save(tmp_path / f"{part}.safetensors")
        other = load_domain(domain.folder, **{part: tmp_path / f"{part}.safetensors"})
        with pytest.raises(ValueError, match=f"the {part}.* does not take .*32, 32.*must be"):
            make(other, tmp_path / "run")
    clip = load_domain(domain.folder)
    clip.clip = SimpleNamespace(  # type: ignore[assignment]
        encode_images=lambda images: images.new_zeros(1, 5),
        encode_texts=domain.clip.encode_texts if domain.clip else None,
    )
    with pytest.raises(ValueError, match="the CLIP does not take"):
        make(clip, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_large_pictures_are_trained_on_few_at_once(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdd_fast.memory._KEPT_BYTES", 1.0)
    seen: list[DistillConfig] = []

    def note(*_: Any, config: list[DistillConfig], **__: Any) -> None:
        seen.extend(config)
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment, "distill", note)
    for given in (None, config(batch_size=5)):
        with pytest.raises(KeyboardInterrupt):
            run_edit(domain, PROMPT, tmp_path, timesteps=[500], config=given, progress=False)
    assert [found.batch_size for found in seen] == [1, 5]


def test_a_judge_may_come_later(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that finished without a CLIP is measured with one, not repeated."""
    unjudged = load_domain(domain.folder, clip=None)
    first = make(unjudged, tmp_path, timesteps=[500], selection=None, measured_images=0)
    assert "direction" not in first.record["monitor"]

    def no_training(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr("sdd_fast.distillation.objective.Objective.loss", no_training)
    judged = make(domain, tmp_path, timesteps=[500], selection=None, measured_images=0)
    with_judge = judged.record["monitor"]
    assert -1 <= with_judge["direction"] <= 1 and -1 <= with_judge["clip_similarity"] <= 1
    assert with_judge["edit_size"] == pytest.approx(first.record["monitor"]["edit_size"])
    assert "Similarity to the prompt" in judged.report.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"config": config(lr=0.5)}, "config.lr"),
        ({"timesteps": [300]}, "timesteps"),
    ],
)
def test_a_finished_run_survives_other_settings(
    finished: EditRun, domain: Domain, change: dict[str, Any], message: str
) -> None:
    kept = snapshot(finished.folder)
    options = {"selection": Selection()} | change
    with pytest.raises(ValueError, match=rf"(?s){message}.*resume=False"):
        make(domain, finished.folder, **options)
    assert snapshot(finished.folder) == kept


def test_a_folder_belongs_to_one_prompt(finished: EditRun, domain: Domain) -> None:
    kept = snapshot(finished.folder)
    with pytest.raises(ValueError, match="another prompt: 'a face with white hair', not 'bald'"):
        run_edit(domain, "bald", finished.folder, progress=False)
    assert snapshot(finished.folder) == kept


def test_an_interrupted_run_continues_to_the_same_mapper(
    finished: EditRun, domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = EditMonitor.__call__

    def interrupted(self: EditMonitor, *args: Any) -> dict[str, Any]:
        raise KeyboardInterrupt

    monkeypatch.setattr(EditMonitor, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(domain, tmp_path / "run")
    assert read_run(tmp_path / "run")["complete"] is False
    assert not (tmp_path / "run" / "report.html").exists()
    monkeypatch.setattr(EditMonitor, "__call__", original)
    lines: list[str] = []
    make(domain, tmp_path / "run", say=lines.append)
    assert any("the curve is in" in line for line in lines)
    assert_same_mapper(tmp_path / "run", finished.folder)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("names", [("identity", "direction"), ("edit_size", "peak_change")])
def test_figures_that_are_not_finite_end_in_a_report(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float, names: Any
) -> None:
    original = EditMonitor.__call__

    def broken(self: EditMonitor, *args: Any) -> dict[str, Any]:
        return original(self, *args) | dict.fromkeys(names, bad)

    monkeypatch.setattr(EditMonitor, "__call__", broken)
    for _ in range(2):  # the second reads the history from its file
        run = make(domain, tmp_path, timesteps=[500], selection=None, config=config(steps=2))
        assert read_run(tmp_path)["complete"] and run.report.exists()
        measurable = "identity" in names
        assert (run.verdict.code == "not measurable") is not measurable
        assert "direction" not in run.record["monitor"] if measurable else run.headline
        (tmp_path / "checkpoint.safetensors").unlink(missing_ok=True)


def test_starting_over_discards_everything(domain: Domain, tmp_path: Path) -> None:
    first = make(domain, tmp_path, timesteps=[300], selection=None, measured_images=0)
    assert first.record["quality"] is None and first.record["rule"] == "given by hand"
    assert not (tmp_path / "curve.json").exists()
    (tmp_path / "report.html").write_text("old")
    second = run_edit(
        domain, "old hair", tmp_path, timesteps=[400], config=config(), resume=False,
        progress=False,
    )  # fmt: skip
    assert second.record["timesteps"] == [400] and second.record["unknown_words"] == []
    assert "old hair" in second.report.read_text(encoding="utf-8")


def test_a_restart_that_is_stopped_keeps_what_was_there(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(domain, tmp_path, timesteps=[300], selection=None, measured_images=0)
    before = snapshot(tmp_path)

    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    options: dict[str, Any] = {"timesteps": [400], "config": config(), "progress": False}
    monkeypatch.setattr(experiment, "distill", stop)
    with pytest.raises(KeyboardInterrupt):
        run_edit(domain, "old hair", tmp_path, resume=False, **options)
    assert snapshot(tmp_path) == before
    monkeypatch.undo()
    with pytest.raises(ValueError, match="resume=False"):
        run_edit(domain, "old hair", tmp_path, **options)
    assert snapshot(tmp_path) == before

    # Stopped after its first checkpoint it is the run of this folder; the mapper is still there.
    changes = {"checkpoint_every": 2}
    with monkeypatch.context() as patch:
        patch.setattr(EditMonitor, "__call__", stop)
        options["config"] = config(monitor_every=4, **changes)
        with pytest.raises(KeyboardInterrupt):
            run_edit(domain, "old hair", tmp_path, resume=False, **options)
    assert read_run(tmp_path)["prompt"] == "old hair" and not read_run(tmp_path)["complete"]
    assert (tmp_path / "mapper.safetensors").read_bytes() == before["mapper.safetensors"]
    run_edit(domain, "old hair", tmp_path, **options)
    assert not list(tmp_path.glob(".pending*"))


def test_a_refused_run_changes_nothing_of_an_unfinished_one(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(EditMonitor, "__call__", stop)
        unfinished = config(monitor_every=4, checkpoint_every=2)
        with pytest.raises(KeyboardInterrupt):
            make(domain, tmp_path, config=unfinished)
    before = snapshot(tmp_path)
    changes: list[dict[str, Any]] = [
        {"config": config(steps=6)},
        {"timesteps": [300], "selection": None},
    ]
    for change in changes:
        with pytest.raises(ValueError, match="other settings"):
            make(domain, tmp_path, **change)
        assert snapshot(tmp_path) == before


def test_a_refused_run_leaves_no_record_where_that_is_lost(domain: Domain, tmp_path: Path) -> None:
    make(domain, tmp_path, timesteps=[300], selection=None, measured_images=0)
    (tmp_path / "run.json").unlink()
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match="other settings"):
        run_edit(domain, "old hair", tmp_path, timesteps=[300], config=config(), progress=False)
    assert snapshot(tmp_path) == before
    make(domain, tmp_path, timesteps=[300], selection=None, measured_images=0)
    assert read_run(tmp_path)["complete"]
    assert (tmp_path / "mapper.safetensors").read_bytes() == before["mapper.safetensors"]


def test_a_folder_in_use_is_refused(domain: Domain, tmp_path: Path) -> None:
    refused: list[BlockingIOError] = []

    def other() -> None:
        try:
            make(domain, tmp_path)
        except BlockingIOError as error:
            refused.append(error)

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1 and not (tmp_path / "run.json").exists()


def test_levels_that_suit_the_prompt(domain: Domain, tmp_path: Path) -> None:
    suited = Domain(replace(domain.spec, levels={"old hair": ("medium",)}))
    options: dict[str, Any] = {"timesteps": [300], "config": config(steps=1), "measured_images": 0}
    run = run_edit(suited, "old hair", tmp_path / "a", progress=False, **options)
    assert run.record["levels"] == ["medium"]
    run = run_edit(suited, "old", tmp_path / "b", progress=False, **options)
    assert run.record["levels"] == ["coarse", "medium"]
    options["levels"] = ["coarse"]
    run = run_edit(suited, "old hair", tmp_path / "c", progress=False, **options)
    assert run.record["levels"] == ["coarse"]


def test_a_domain_without_labels(tiny_sd: Path, tmp_path: Path) -> None:
    plain = load_domain(write_tiny_domain(tmp_path / "d", tiny_sd, faces=False))
    run = make(plain, tmp_path / "run", timesteps=[300], selection=None, levels=["medium"])
    assert run.record["quality"] is None and run.record["reconstruction_psnr"] is None
    assert run.record["levels"] == ["medium"]
    w_plus = torch.zeros(1, 8, W_DIM)
    assert not run.mapper(w_plus)[:, :4].any()  # coarse layers stay


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"timesteps": [1200]}, "timestep 1200 is out of range.*0 to 999"),
        ({"timesteps": []}, "no timesteps"),
        ({"timesteps": [3], "selection": Selection(top=1)}, "leave nothing to select"),
        ({"levels": ["hair"]}, "level must be one of"),
        ({"selection": select(candidates=(2000,))}, "out of range"),
    ],
)
def test_bad_input_leaves_no_results(
    domain: Domain, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    options = {"selection": None} | change
    with pytest.raises(ValueError, match=message):
        make(domain, tmp_path / "run", **options)
    assert not list((tmp_path / "run").glob("mapper*"))


def test_empty_prompt_and_foreign_curve(domain: Domain, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prompt is empty"):
        run_edit(domain, "  ", tmp_path / "run")
    curve = compute_curve(domain, "old hair", select(), progress=False)
    with pytest.raises(ValueError, match="belongs to the prompt 'old hair', not to"):
        make(domain, tmp_path / "run", curve=curve)
    assert not (tmp_path / "run").exists()
    curve.save(tmp_path / "run" / "curve.json")
    with pytest.raises(ValueError, match="curve of another prompt"):
        make(domain, tmp_path / "run")
    half = (tmp_path / "run" / "curve.json").read_bytes()[:200]
    (tmp_path / "run" / "curve.json").write_bytes(half)
    with pytest.raises(ValueError, match=r"delete it and curve\.png"):
        make(domain, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_folder_that_cannot_be_written_is_noticed_first(domain: Domain, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    calls = domain.prior.unet_calls
    with pytest.raises(OSError, match="file"):
        make(domain, tmp_path / "file" / "run")
    assert domain.prior.unet_calls == calls


@pytest.mark.parametrize(
    "name", ["config.json", "mapper.safetensors", "report.html", "curve.json", "curve.png"]
)
@pytest.mark.parametrize("resume", [True, False])
def test_files_of_something_else_are_never_replaced(
    domain: Domain, tmp_path: Path, name: str, resume: bool
) -> None:
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(ValueError, match=f"holds {name}, but no run.json.*choose another folder"):
        make(domain, tmp_path, resume=resume)
    assert {k: v for k, v in snapshot(tmp_path).items() if k != LOCK_FILE} == {name: b"mine"}


def test_folders_of_prompts() -> None:
    assert slug("a face with white hair") == "a-face-with-white-hair"
    alike = ["a bald face", "a bald face!", "A bald, face", "a bald  face", "A bald face", "!", "?"]
    assert len({slug(prompt) for prompt in alike}) == len(alike)
    assert slug("A bald, face").startswith("a-bald-face-") and "/" not in slug("../x")
    assert len(slug("word " * 100)) < 70


def test_the_verdict_in_words(finished: EditRun) -> None:
    assert finished.headline and isinstance(finished.advice, str)


# --- a memory budget ------------------------------------------------------------------------------


def asked_for(told: object) -> str:
    """The amount that a refusal asks for."""
    found = re.search(r"takes ([\d.]+ [MG]B) at least", str(told))
    assert found is not None
    return found[1]


def test_what_a_refused_memory_budget_asks_for_is_enough(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a whole run of several prompts, and no megabyte of it is to spare."""
    measured_once(monkeypatch)
    prompts, outs = [PROMPT, "old hair"], [tmp_path / "white", tmp_path / "old"]

    def edit(budget: str) -> list[EditRun]:
        return run_edits(
            domain, prompts, outs, selection=select(memory_budget=budget),
            config=config(steps=2, memory_budget=budget), measured_images=0, progress=False,
        )  # fmt: skip

    calls = domain.prior.unet_calls
    with pytest.raises(ValueError, match="memory_budget is 1MiB, but the training") as error:
        edit("1MiB")
    enough = asked_for(error.value)
    less = f"{int(enough.removesuffix(' MB')) - 1} MB"
    with pytest.raises(ValueError, match=f"memory_budget is {less}, but .*takes {enough} at"):
        edit(less)
    assert domain.prior.unet_calls == calls and not any(tmp_path.iterdir())
    assert all(run.record["complete"] for run in edit(enough))


def test_a_budget_is_asked_of_what_is_not_done_yet(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not of a finished run, nor of a selection that left its curve."""
    measured_once(monkeypatch)
    curve = compute_curve(domain, PROMPT, select(), progress=False)
    curve.save(tmp_path / "curve.json")
    small = select(memory_budget="1MiB")
    with pytest.raises(ValueError, match="but the selection takes"):
        make(domain, tmp_path / "other", selection=small)
    first = make(domain, tmp_path, selection=small, measured_images=0)
    tight = {"selection": small, "config": config(memory_budget="1MiB")}
    again = make(domain, tmp_path, measured_images=0, **tight)
    assert again.record["complete"] and again.record["timesteps"] == first.record["timesteps"]
    with pytest.raises(ValueError, match="but the training takes"):
        run_edits(domain, [PROMPT, "old"], [tmp_path, tmp_path / "old"], progress=False, **tight)


# --- several prompts ------------------------------------------------------------------------------


def test_several_prompts_are_selected_and_trained_together(
    domain: Domain, tmp_path: Path, finished: EditRun
) -> None:
    prompts, outs = [PROMPT, "old hair"], [tmp_path / "white", tmp_path / "old"]
    options: dict[str, Any] = {"selection": select(), "config": config(), "measured_images": 8}
    lines: list[str] = []
    calls, rows = domain.prior.unet_calls, domain.prior.unet_rows
    runs = run_edits(domain, prompts, outs, progress=False, say=lines.append, **options)
    spent = domain.prior.unet_calls - calls, domain.prior.unet_rows - rows
    said = "\n".join(lines)
    assert "HQS of 2 prompts of 2 images" in said and "2 prompts together" in said
    for run, prompt, out in zip(runs, prompts, outs, strict=True):
        assert run.folder == out and {path.name for path in out.iterdir()} >= {*WRITTEN}
        assert read_run(out)["prompt"] == prompt and run.record["ended_early"] is None
        assert set(run.record["seconds"]) == {"select", "distill", "measure"}
    # The first is the run of this prompt alone, and either is continued as such.
    alone, together = finished.record, runs[0].record
    assert (alone["timesteps"], alone["rule"]) == (together["timesteps"], together["rule"])
    assert together["distill"]["guidance"] == alone["distill"]["guidance"]
    (one, _), (two, _) = (
        load_tensors(run.folder / "mapper.safetensors") for run in (finished, runs[0])
    )
    for name, value in one.items():
        assert (value - two[name]).norm() <= 0.1 * value.norm(), name
    before = [snapshot(out) for out in outs]
    again = make(domain, outs[0], say=lines.append)
    assert "nothing is left to do" in lines[-1] and again.record == read_run(outs[0])
    lines.clear()
    run_edits(domain, prompts, outs, progress=False, say=lines.append, **options)
    assert sum("nothing is left to do" in line for line in lines) == 2
    assert [snapshot(out) for out in outs] == before
    # To select, P + 1 rows for each of 2 images at 3 timesteps; to balance, 3 for each of 16
    # latents and prompts; in a step 2 for each of 2·2 images, and one more from the second on.
    assert spent[1] == 3 * 6 + 2 * 3 * 16 + 4 * 8 + 3 * 4 and spent[0] < 20


def test_one_of_several_prompts_fails(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdd_fast.distillation.objective import Objective

    original = Objective.loss

    def poisoned(self: Objective, batch: int, of: tuple[int, ...]) -> Any:
        losses, measured = original(self, batch, of)
        poison = [float("nan") if (batch, i) == (2, 1) else 1.0 for i in of]
        return losses * torch.tensor(poison), measured

    options: dict[str, Any] = {"timesteps": [500], "config": config(), "measured_images": 0}
    prompts = [PROMPT, "old hair", "old"]
    outs = [tmp_path / name for name in "abc"]
    lines: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(Objective, "loss", poisoned)
        with pytest.raises(PromptsFailed, match=r"1 of 3 prompts failed(.|\n)*old hair.*step 3"):
            run_edits(domain, prompts, outs, progress=False, say=lines.append, **options)
    assert sum("; report: " in line for line in lines) == 2
    assert [read_run(out)["complete"] for out in outs] == [True, False, True]
    runs = run_edits(domain, prompts, outs, progress=False, **options)
    assert [run.record["complete"] for run in runs] == [True] * 3


def test_one_of_several_prompts_cannot_be_reported(
    domain: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdd_fast.runs import run as module

    finish = module.finish

    def trouble(job: Job, *arguments: Any) -> EditRun:
        if job.prompt == "old hair":
            raise RuntimeError("a bug of the reader")
        return finish(job, *arguments)

    options: dict[str, Any] = {"timesteps": [500], "config": config(), "measured_images": 0}
    prompts = [PROMPT, "old hair", "old"]
    outs = [tmp_path / name for name in "abc"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "finish", trouble)
        with pytest.raises(
            PromptsFailed, match="“old hair” is trained.*a bug of the reader"
        ) as error:
            run_edits(domain, prompts, outs, progress=False, **options)
    assert all(error.value.results)
    assert [read_run(out)["complete"] for out in outs] == [True, False, True]
    assert run_edits(domain, prompts, outs, progress=False, **options)[1].record["complete"]
