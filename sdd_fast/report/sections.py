"""The sections of a report on one run, each as a piece of HTML."""

from __future__ import annotations

import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..files import read_json
from ..run_folder import CURVE_FILE, CURVE_PICTURE, GRID_FILE, HISTORY_FILE, TRAINING_FILE
from ..runs.record import read_run
from ..selection.curve import HQSCurve
from .page import code, details, duration, figure, number, percent, table
from .verdict import words, worst_kept

SEALS = {"good": "Good", "fair": "Usable, with a flaw", "bad": "Not usable like this"}


@dataclass(frozen=True)
class Run:
    """What the sections read: the folder of a complete run and its files."""

    folder: Path
    record: dict[str, Any]
    history: list[dict[str, Any]]
    curve: HQSCurve | None

    @classmethod
    def read(cls, folder: Path) -> Run:
        """Raises ValueError if the run is not complete."""
        record = read_run(folder)
        if not record.get("complete"):
            raise ValueError(f"the run in {folder} is not complete, there is nothing to report yet")
        path = folder / CURVE_FILE
        return cls(
            folder,
            record,
            read_json(folder / HISTORY_FILE),
            HQSCurve.load(path) if path.exists() else None,
        )

    @property
    def prompt(self) -> str:
        return str(self.record["prompt"])


def verdict(run: Run) -> str:
    found = run.record["verdict"]
    advice = found["advice"]
    body = f"<p><b>{SEALS[found['level']]}.</b> {escape(found['headline'])}.</p>"
    if advice:
        body += f'<p class="faint">{escape(advice[0].upper() + advice[1:])}.</p>'
    unknown = run.record.get("unknown_words")
    if unknown:
        body += (
            f'<p class="faint">This model was never taught the word {escape(", ".join(unknown))}: '
            "no caption of its training has it.</p>"
        )
    return f'<div class="verdict {found["level"]}">{body}</div>\n'


def at_a_glance(runs: list[Run]) -> str:
    """One row a run: the verdict and the figures that matter most."""
    rows = []
    for run in runs:
        record, measured = run.record, run.record["quality"]
        rows.append([
            f"“{escape(run.prompt)}”",
            f"<span class=\"tone {record['verdict']['level']}\">"
            f"{SEALS[record['verdict']['level']]}</span>",
            ", ".join(str(t) for t in record["timesteps"]),
            percent(measured and measured["success"]),
            percent(measured and measured["kept_mean"]),
            number(measured["identity"] if measured else record["monitor"].get("identity")),
            duration(sum(record["seconds"].values())),
        ])  # fmt: skip
    head = ["edit", "verdict", "t", "target reached", "others kept", "same person", "made in"]
    return table(head, rows, numbers=(2, 3, 4, 5, 6))


def pictures(run: Run) -> str:
    if run.record["rendered_faces"]:
        caption = (
            "Faces that nothing here was trained on, not picked by hand. First row: the picture "
            "that goes in. Second: the same face encoded and generated again, which is all that "
            "strength 0 does. Below: the edit, each picture in one forward pass."
        )
    else:
        caption = (
            "Pictures kept out of the training. First row: as the generator draws them unedited. "
            "Below: the edit, each picture in one forward pass."
        )
    return figure(run.folder / GRID_FILE, f"{run.prompt}: before and after", caption)


def timesteps(run: Run) -> str:
    record, curve = run.record, run.curve
    chosen = ", ".join(str(t) for t in record["timesteps"])
    if curve is None:
        return (
            f"<p>The edit was distilled at t = <b>{chosen}</b>, given by hand; no curve was "
            "computed.</p>\n"
        )
    intro = (
        f"<p>The edit was distilled at t = <b>{chosen}</b>: {escape(record['rule'])}. A diffusion "
        "model works on an image's layout at large timesteps and on its texture at small ones; the "
        "Hybrid Quality Score (HQS) tells at which of them it has most to say about this prompt. "
        "It is high where the model's gradient at the image is strong (large L1 norm) and falls on "
        "few places rather than everywhere (low entropy).</p>\n"
    )
    caption = (
        f"Mean over {curve.num_images} pictures, computed with the same noise at every timestep. "
        "Below: the two statistics that the score is made of, each from 0 to 1."
    )
    best = set(record["timesteps"])
    rows = [
        [f"<b>{t}</b>" if t in best else str(t), number(score, 3, signed=True)]
        for t, score in zip(curve.timesteps, curve.mean.tolist(), strict=True)
    ]
    figures = details("All values", table(["timestep", "HQS"], rows, numbers=(0, 1)))
    return intro + figure(run.folder / CURVE_PICTURE, "HQS curve", caption) + figures


def quality(run: Run) -> str:
    """What the edit does to held-out pictures, in figures and in plain words."""
    record = run.record
    measured, after, before = record["monitor"], record["quality"], record["unedited"]
    rows: list[list[str]] = []
    if after is not None:
        goal = f"{words(after['attribute'])}: {' or '.join(after['values'])}"
        rows.append([
            "Target reached", percent(after["success"]), percent(before["success"]),
            f"Of {after['faces']} held-out faces without it, the share in which a classifier then "
            f"reads “{escape(goal)}”.",
        ])  # fmt: skip
        rows.append([
            "Other attributes kept", percent(after["kept_mean"]), percent(before["kept_mean"]),
            "Share of faces whose other attributes read as before, averaged over attributes. "
            "Encoding a face already loses some; the difference of the columns is the edit's.",
        ])  # fmt: skip
        head, share = worst_kept(after)
        rows.append([
            f"… least kept: {escape(words(head))}", percent(share),
            percent(before["kept"][head]), "The attribute that suffers most.",
        ])  # fmt: skip
        rows.append([
            "Same person", number(after["identity"]), number(before["identity"]),
            "Similarity of identity embeddings to those of the input picture: 1 is the same "
            "person, near 0 another one.",
        ])  # fmt: skip
    elif "identity" in measured:
        rows.append([
            "Same person", number(measured["identity"]), number(1.0),
            "Similarity of identity embeddings before and after: 1 is the same.",
        ])  # fmt: skip
    rows.append([
        "Size of the edit", percent(measured["edit_size"]), percent(0.0),
        "Mean change of a pixel, of the range from black to white. The 1 % of pixels that change "
        f"most change by {percent(measured['peak_change'])} or more.",
    ])  # fmt: skip
    if "direction" in measured:
        rows.append([
            "Direction", number(measured["direction"], signed=True), "–",
            f"Does the picture move the way that the text moves from “"
            f"{escape(record['source_text'])}” to the prompt? From −1 to 1, by the domain's CLIP.",
        ])  # fmt: skip
        rows.append([
            "Closer to the prompt", number(measured["clip_gain"], 3, signed=True), number(0.0, 3),
            "By how much the picture's CLIP similarity to the prompt rises. The direction alone "
            "would praise a change of almost nothing.",
        ])  # fmt: skip
    if "clip_similarity" in measured:
        similarity = measured["clip_similarity"]
        rows.append([
            "Similarity to the prompt", number(similarity, 3),
            number(similarity - measured["clip_gain"], 3),
            "Mean CLIP similarity (a cosine) of pictures and prompt. It depends on the CLIP: "
            "compare only figures of the same one.",
        ])  # fmt: skip
    rows.append([
        "Burnt", percent(measured["burnt_share"]), percent(0.0),
        "Share of colour values that the edit pushes out of range.",
    ])  # fmt: skip
    if record["reconstruction_psnr"] is not None:
        rows.append([
            "Reconstruction", "–", f"{record['reconstruction_psnr']:.1f} dB",
            "How well encoder and generator redraw the pictures above, before any edit. "
            "Above 30 dB the difference is hard to see.",
        ])  # fmt: skip
    head_row = ["", "edited", "unedited", "what it means"]
    return table(head_row, rows, numbers=(1, 2)) + _every_attribute(after, before)


def _every_attribute(after: dict[str, Any] | None, before: dict[str, Any] | None) -> str:
    if after is None or before is None:
        return ""
    rows = [
        [escape(words(name)), percent(share), percent(before["kept"].get(name))]
        for name, share in sorted(after["kept"].items(), key=lambda item: float(item[1]))
    ]
    return details("Every attribute", table(["kept", "edited", "unedited"], rows, numbers=(1, 2)))


def training(run: Run) -> str:
    config, record = run.record["distill"], run.record
    text = (
        f"<p>{config['steps']} steps of {config['batch_size']} latents, guidance scale "
        f"{config['guidance']['guidance_scale']:g}, levels {', '.join(record['levels'])}. Only the "
        "mapper learns; the diffusion model is not used any more when pictures are edited.</p>\n"
    )
    return text + figure(run.folder / TRAINING_FILE, "training curves")


def timing(runs: list[Run]) -> str:
    stages = {"select": "selecting timesteps", "distill": "distilling", "measure": "measuring"}
    rows = []
    for stage, label in stages.items():
        spent = [run.record["seconds"].get(stage) for run in runs]
        if any(value is not None for value in spent):
            rows.append([label, *(duration(value) for value in spent)])
    totals = [sum(run.record["seconds"].values()) for run in runs]
    rows.append(["together", *(f"<b>{duration(value)}</b>" for value in totals)])
    each = [run.record["milliseconds_per_edit"] for run in runs]
    rows.append(["then, per picture edited", *(f"{value:.1f} ms" for value in each)])
    head = ["stage", *(f"“{escape(run.prompt)}”" for run in runs)]
    found = runs[0].record["versions"]
    dtype = runs[0].record.get("dtype", "float32")
    teacher = "" if dtype == "float32" else f", the diffusion model in {escape(dtype)}"
    threads = f"{found['threads']} thread" + ("s" if found["threads"] > 1 else "")
    where = (
        f'<p class="faint">On {escape(found["device"])}{teacher}, {threads}, torch '
        f"{escape(found['torch'])}, Python {escape(found['python'])}, sdd_fast "
        f"{escape(found['sdd_fast'])}.</p>\n"
    )
    return table(head, rows, numbers=range(1, len(head))) + where


def settings(run: Run) -> str:
    shown = {
        key: run.record.get(key)
        for key in ("prompt", "domain", "timesteps", "rule", "levels", "curve", "distill")
        if run.record.get(key) is not None
    }
    return details(
        f"All settings of “{run.prompt}”", code(json.dumps(shown, indent=2, ensure_ascii=False))
    )


def limits(runs: list[Run]) -> str:
    record = runs[0].record
    size = f"{record['resolution']} × {record['resolution']} pixels"
    items = []
    if record["rendered_faces"]:
        items.append(
            f"The domain “{escape(record['domain'])}” knows rendered faces of {size}. A photograph "
            "of a real person comes out as the nearest rendered face; for photographs use a domain "
            "trained on photographs (<code>sdd train-domain --images</code>)."
        )
    else:
        items.append(f"The domain “{escape(record['domain'])}” works at {size}.")
    if record["reconstruction_psnr"] is not None:
        items.append(
            f"What encoder and generator cannot redraw ({record['reconstruction_psnr']:.1f} dB on "
            "the faces above) is lost before the edit begins."
        )
    items += [
        "Attributes, identity and direction are read by networks of the same domain. They were "
        "not part of the guidance (but for the identity loss, if it is on) and see pictures that "
        "nothing was trained on; they share the domain's blind spots all the same.",
        "One seed, one run: repeat with other <code>--seed</code>s before comparing settings.",
        "A high HQS partly just means a strong gradient. It is a good guide to timesteps, not a "
        "proof that others fail; with many steps several choices reach the same edit.",
    ]
    return "<ul>" + "".join(f"<li>{item}</li>" for item in items) + "</ul>\n"
