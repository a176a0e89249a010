"""One whole edit: select timesteps, distil a mapper, measure it, and leave a folder with a report.

    run.json         what was asked for, what came out, how long it took, on which versions
    curve.json/.png  the HQS curve (unless the timesteps were given)
    config.json, checkpoint.safetensors, history.json, mapper.safetensors   see `run_folder`
    training.png, before-after.png, report.html

The same call again continues an interrupted run, and only measures and reports a finished one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from ..distillation.config import DistillConfig
from ..distillation.distill import (DistillResult, distill)
from ..files import (PathLike, atomic_path, write_json)
from ..selection.curve import HQSCurve
from ..images import save_png
from ..models.mapper import level_range
from ..distillation.monitor import (EditMonitor, describe)
from ..report import write_report
from ..run_folder import CURVE_FILE, CURVE_PICTURE, GRID_FILE, REPORT_FILE, RUN_FILE, TRAINING_FILE, WRITTEN
from .record import new_record, read_run, without_nan
from ..report.showcase import (before_after, milliseconds_per_edit, shown_pictures, shows_faces, target_of, training_figure)
from ..report.verdict import (Verdict, judge_edit)
from ..memory import training_batch
from ..selection.choose import (Selection, choose, compute_curve, pictures_at_once)
from ..teacher.vocabulary import unknown_words

if TYPE_CHECKING:
    from ..domains import Domain

Say = Callable[[str], None]

SHOWN = 7  # faces in the before/after grid
MONITORED = 32  # held-out latents that the monitor looks at while training


def _silent(line: str) -> None:
    pass


@dataclass(frozen=True)
class EditRun:
    """What `run_edit` returns. `record` is the content of run.json."""

    folder: Path
    result: DistillResult
    verdict: Verdict
    record: dict[str, Any]

    @property
    def mapper(self) -> nn.Module:
        return self.result.mapper

    @property
    def report(self) -> Path:
        return self.folder / REPORT_FILE


def default_config(**changes: Any) -> DistillConfig:
    """`DistillConfig` with `changes`, measured often enough for a curve over the training."""
    config = DistillConfig(**changes)
    if "monitor_every" in changes:
        return config
    return replace(config, monitor_every=-(-config.steps // 8))


def run_edit(
    domain: Domain,
    prompt: str,
    out: PathLike,
    *,
    selection: Selection | None = None,
    timesteps: Sequence[int] | None = None,
    curve: HQSCurve | None = None,
    levels: Sequence[str] | None = None,
    config: DistillConfig | None = None,
    faces: int = 256,
    strengths: Sequence[float] = (0.5, 1.0, 1.5),
    resume: bool = True,
    progress: bool = True,
    say: Say = _silent,
    command: str = "",
) -> EditRun:
    """Select, distil, measure and report one edit.

    Args:
        domain: see `load_domain`. prompt: what the edited pictures should show.
        out: the run's folder. If it holds an unfinished run of the same settings, that run is
            continued; a curve.json of the same prompt in it, from an earlier selection, is used.
        timesteps: a fixed choice, without selection. curve: one computed earlier.
        levels: of the mapper; None: those that the domain names for the prompt, else all.
        config: of the training; default `default_config()`, with fewer pictures per step where they
            are large, see `batches`.
        faces: number of held-out faces to measure attributes on (domains of rendered faces only);
            0 leaves that out.
        strengths: shown in the before/after grid.
        resume: False discards what an earlier run left in `out`.
        progress: show progress bars (on a terminal only). say: gets a line for each thing done.
        command: how the run was started, for its report.

    Raises:
        ValueError: an empty prompt, timesteps out of range, a threshold that selects nothing, a
            curve of another prompt, or a folder that holds a run of other settings.
        OSError: the folder cannot be written; noticed before any work is done.
        KeyboardInterrupt, FloatingPointError: see `distill`.
    """
    folder = Path(out)
    if config is None:
        config = default_config(batch_size=training_batch(domain.generator, domain.prior))
    selection = selection or Selection()
    levels = levels or domain.levels.get(prompt)
    config = replace(config, guidance_rms=config.guidance_rms or domain.pull.get(prompt))
    _check(domain, prompt, timesteps, curve, levels, selection)
    earlier = _earlier(folder, domain, prompt, resume)
    # A finished run stays as it is until this one is known to be the same.
    finished = bool(earlier.get("complete"))
    record = new_record(domain, prompt, config, command, earlier)
    record["unknown_words"] = unknown_words(domain.prior.tokenizer, prompt)
    if record["unknown_words"]:
        say(unknown_words_warning(record["unknown_words"], domain))
    if not finished:
        write_json(folder / RUN_FILE, record)

    if timesteps is None:
        curve = curve or _earlier_curve(folder, prompt, say)
        if curve is None:
            count = len(domain.held_out[: selection.images])
            at_once = min(count, pictures_at_once(domain, selection, config.guidance))
            say(f"selecting timesteps: HQS of {count} pictures, {at_once} at once …")
            began = time.perf_counter()
            curve = compute_curve(domain, prompt, selection, config.guidance, progress=progress)
            record["seconds"]["select"] = time.perf_counter() - began
        chosen, rule = choose(curve, selection)
    else:
        chosen, rule = sorted({int(t) for t in timesteps}), "given by hand"
    record |= {"timesteps": chosen, "rule": rule}
    if not finished:
        _save_selection(folder, record, curve, selection)
    say(f"timesteps: {', '.join(map(str, chosen))} ({rule})")

    each = f"{config.batch_size} picture" + ("s" if config.batch_size > 1 else "")
    say(f"distilling: {config.steps} steps of {each} …")
    result = distill(
        domain.prior,
        domain.generator,
        domain.w_plus,
        prompt,
        chosen,
        levels=levels,
        w_std=domain.w_std,
        identity=domain.identity,
        config=config,
        run_dir=folder,
        resume=resume,
        monitor=_monitor(domain, prompt),
        domain=domain.name,
        progress=progress,
    )
    _save_selection(folder, record, curve, selection)
    record["distill"] = asdict(result.config)  # with the guidance scale that was balanced
    record["seconds"]["distill"] = result.seconds
    record["monitor"] = from_monitor(result.history[-1])
    if domain.clip is not None and "direction" not in record["monitor"]:
        # Finished before it had a judge.
        record["monitor"] = _monitor(domain, prompt)(result.mapper, result.config.lam)
    figures = describe(record["monitor"] | {"advice": ""})  # advice is for the end
    say(f"distilled in {result.seconds:.0f} s: {figures}")
    return _finish(folder, domain, result, record, faces, strengths, say)


def unknown_words_warning(words: Sequence[str], domain: Domain) -> str:
    """What to tell someone whose prompt has words that the model was never trained on."""
    listed = ", ".join(f"'{word}'" for word in words)
    what = f"the word {listed} is" if len(words) == 1 else f"the words {listed} are"
    known = ", ".join(repr(prompt) for prompt in domain.prompts)
    hint = f"; prompts that work: {known}" if known else ""
    return (
        f"warning: {what} not in the vocabulary of this domain's model: no caption that it was "
        f"trained on has it, so expect no useful edit{hint}"
    )


def from_monitor(entry: dict[str, Any]) -> dict[str, Any]:
    """The part of a history entry that comes from `EditMonitor`."""
    names = (
        "edit_size", "peak_change", "latent_change", "burnt_share", "direction",
        "clip_similarity", "clip_gain", "identity", "verdict", "advice",
    )  # fmt: skip
    return {name: entry[name] for name in names if name in entry}


# --- the stages -----------------------------------------------------------------------------------


def _check(
    domain: Domain,
    prompt: str,
    timesteps: Sequence[int] | None,
    curve: HQSCurve | None,
    levels: Sequence[str] | None,
    selection: Selection,
) -> None:
    """Whatever can be said before any work is done."""
    if not prompt.strip():
        raise ValueError(f"the prompt is empty: {prompt!r}; describe the target, e.g. 'white hair'")
    if timesteps is not None:
        if curve or selection.top is not None or selection.threshold is not None:
            raise ValueError(
                "fixed timesteps leave nothing to select; give no curve, top or threshold"
            )
        if not timesteps:
            raise ValueError("no timesteps given; leave them out to have them selected")
        domain.prior.timesteps_tensor(list(timesteps), len(timesteps))
    if curve is not None and curve.prompt != prompt:
        raise ValueError(f"the curve belongs to the prompt {curve.prompt!r}, not to {prompt!r}")
    for level in levels or ():
        level_range(level, domain.generator.num_layers)


def _earlier(folder: Path, domain: Domain, prompt: str, resume: bool) -> dict[str, Any]:
    """The record of an earlier run in the folder, {} if there is none to continue."""
    if not resume:
        for name in WRITTEN:
            (folder / name).unlink(missing_ok=True)
    if not (folder / RUN_FILE).exists():
        return {}
    earlier = read_run(folder)
    for name, value in {"prompt": prompt, "domain": domain.name}.items():
        if earlier[name] != value:
            raise ValueError(
                f"{folder} holds a run of another {name}: {earlier[name]!r}, not {value!r}; "
                "choose another folder for this one, or start over there with resume=False"
            )
    return earlier


def _earlier_curve(folder: Path, prompt: str, say: Say) -> HQSCurve | None:
    path = folder / CURVE_FILE
    if not path.exists():
        return None
    curve = HQSCurve.load(path)
    if curve.prompt != prompt:
        raise ValueError(
            f"{path} is the curve of another prompt: {curve.prompt!r}, not {prompt!r}; choose "
            "another folder, or start over there with resume=False"
        )
    say(f"selecting timesteps: the curve is in {path} ({curve.num_images} pictures)")
    return curve


def _save_selection(
    folder: Path, record: dict[str, Any], curve: HQSCurve | None, selection: Selection
) -> None:
    if curve is None:
        for name in (CURVE_FILE, CURVE_PICTURE):
            (folder / name).unlink(missing_ok=True)
    else:
        curve.save(folder / CURVE_FILE)
        curve.plot(
            folder / CURVE_PICTURE, chosen=record["timesteps"], threshold=selection.threshold
        )
    write_json(folder / RUN_FILE, record)


def _monitor(domain: Domain, prompt: str) -> EditMonitor:
    return EditMonitor(
        domain.generator,
        domain.held_out[-MONITORED:],
        prompt=prompt,
        source_text=domain.source_text,
        clip=domain.clip,
        identity=domain.identity,
        w_std=domain.w_std,
    )


def _finish(
    folder: Path,
    domain: Domain,
    result: DistillResult,
    record: dict[str, Any],
    faces: int,
    strengths: Sequence[float],
    say: Say,
) -> EditRun:
    """Measure, draw and write everything that shows how the edit turned out."""
    began = time.perf_counter()
    prompt, lam = record["prompt"], result.config.lam
    target = target_of(domain, prompt)
    record["quality"] = record["unedited"] = None
    if target is not None and faces > 0:
        say(f"measuring: attributes of {faces} held-out faces, before and after …")
        record["quality"], record["unedited"] = _measure(domain, prompt, target, result, faces)
    picture, fidelity = before_after(
        domain,
        result.mapper,
        lam,
        title=f"“{prompt}” on held-out pictures",
        pictures=shown_pictures(domain, SHOWN, [target] if target else []),
        strengths=strengths,
        count=SHOWN,
    )
    save_png(folder / GRID_FILE, picture)
    figure = training_figure(result.history)
    if figure is not None:
        with atomic_path(folder / TRAINING_FILE) as temporary:
            figure.savefig(temporary)
    guidance_scale = record["distill"]["guidance"]["guidance_scale"]
    verdict = judge_edit(record["monitor"], record["quality"], guidance_scale)
    record["seconds"]["measure"] = time.perf_counter() - began
    record |= {
        "complete": True,
        "verdict": asdict(verdict),
        "reconstruction_psnr": fidelity,
        "milliseconds_per_edit": milliseconds_per_edit(domain, result.mapper, lam),
        "domain_quality": without_nan(getattr(domain, "quality", None)),
        "rendered_faces": shows_faces(domain),
        "strengths": list(strengths),
        "levels": list(result.info.levels),
    }
    write_json(folder / RUN_FILE, record)
    write_report(folder)
    return EditRun(folder, result, verdict, record)


def _measure(
    domain: Domain,
    prompt: str,
    target: tuple[str, tuple[str, ...]],
    result: DistillResult,
    faces: int,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The edit's quality, and that of merely encoding and generating the same faces again."""
    from ..domains.faces64.measure import measure_edit

    figures = []
    for strength in (1.0, 0.0):
        quality = measure_edit(
            domain,
            result.mapper,
            result.config.lam,
            prompt,
            target=target,
            strength=strength,
            faces=faces,
        )
        figures.append(without_nan(quality.to_json()))
    return figures[0], figures[1]
