"""The model card of a repository: what the edit is, what was measured of it and what was not.

This gathers what the card says; how it says it is in `templates/card.md.jinja`.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .contents import BUILT_IN

LIBRARY, PIPELINE = "sdd_fast", "image-to-image"
TAGS = ("sdd_fast", "image-editing", "selective-diffusion-distillation", "stylegan2")
PAPER = "https://arxiv.org/abs/2307.08448"
UNKNOWN = "unknown"
"""The license where nobody said one; the hub has a place for it."""

_MADE = re.compile(r"<!-- made by sdd_fast, ([0-9a-f]{32}) -->\s*\Z")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|~$&])")


@dataclass(frozen=True)
class CardEdit:
    """One edit, as its card tells of it.

    Args:
        info: the fields of its `MapperInfo`.
        network: what its mapper is, in words.
        record: the run.json of its complete run; None if there was none.
        settings: of the training, where they are known without a record.
        before_after, curve: the names of pictures of the run, "" if there are none.
        teacher: the name of the diffusion model, "" if it is not known.
        drawn: whether `before_after` shows images of random latents, and is of no run.
    """

    info: Mapping[str, Any]
    network: str
    record: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] | None = None
    before_after: str = ""
    curve: str = ""
    teacher: str = ""
    drawn: bool = False

    @property
    def prompt(self) -> str:
        return str(self.info["prompt"])

    @property
    def domain(self) -> str:
        return str(self.info["domain"])

    @property
    def anchor(self) -> str:
        """What links within the card lead to, as stays when titles change."""
        return "measured-" + hashlib.blake2b(self.prompt.encode(), digest_size=4).hexdigest()

    @property
    def timesteps(self) -> str:
        return ", ".join(map(str, self.info["timesteps"])) or "not known"

    @property
    def distill(self) -> Mapping[str, Any] | None:
        return self.settings if self.record is None else self.record["distill"]

    @property
    def figures(self) -> list[tuple[str, str, str]]:
        """Rows of the table: what was measured, of edited and of unedited images."""
        return [] if self.record is None else _figures(self.record)

    @property
    def measured(self) -> list[str]:
        return [] if self.record is None else _measured(self.record)

    @property
    def not_measured(self) -> list[str]:
        return _not_measured(self.record)


@dataclass(frozen=True)
class Card:
    """What a card tells.

    Args:
        name: "owner/name" of the repository.
        part: "mapper" or "editor".
        license: an identifier of the hub, such as "apache-2.0".
        files: (name, bytes) of what lies beside the card.
        size: (height, width) of the images, where it is known.
        aligns: whether photographs are cropped to a face first.
        takes_images: whether there is an encoder.
        presets: names of domains that the package knows, without having their weights.
    """

    name: str
    part: str
    edits: Sequence[CardEdit]
    license: str
    files: Sequence[tuple[str, int]] = ()
    size: tuple[int, int] | None = None
    aligns: bool = False
    takes_images: bool = True
    presets: Sequence[str] = ()

    @property
    def domains(self) -> list[str]:
        return sorted({edit.domain for edit in self.edits if edit.domain})

    @property
    def built_in(self) -> bool:
        return bool(self.domains) and set(self.domains) <= set(BUILT_IN)

    @property
    def version(self) -> str:
        from .. import __version__

        return __version__

    @property
    def front_matter(self) -> str:
        """YAML, as the hub reads it."""
        told = [("library_name", LIBRARY), ("license", self.license), ("pipeline_tag", PIPELINE)]
        lines = [f"{key}: {json.dumps(value)}" for key, value in told]
        return "\n".join([*lines, "tags:", *(f"- {tag}" for tag in TAGS)])

    def render(self) -> str:
        """Return the text of README.md."""
        text = _environment().get_template("card.md.jinja").render(card=self).rstrip() + "\n\n"
        return f"{text}<!-- made by sdd_fast, {_digest(text)} -->\n"


def default_license(domains: Sequence[str]) -> str:
    """Return the license of edits in these domains, as far as it is known."""
    known = bool(domains) and set(domains) <= set(BUILT_IN)
    return "apache-2.0" if known else UNKNOWN


def check_license(license: str) -> str:
    """Raise ValueError unless it looks like one of the hub's identifiers of licenses."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", license):
        raise ValueError(
            f"license must be an identifier as the hub has them, such as apache-2.0, cc-by-4.0, "
            f"openrail or other, got {license!r:.80}"
        )
    return license


def is_replaceable(text: str) -> bool:
    """Tell whether a README.md is a card of ours that nobody has edited, or says nothing."""
    if found := _MADE.search(text):
        return found[1] == _digest(text[: found.start()])
    body = re.sub(r"\A---\n.*?\n---\s*", "", text.replace("\r\n", "\n"), flags=re.DOTALL)
    return not body.strip()


def _digest(text: str) -> str:
    return hashlib.blake2b(text.strip().encode(), digest_size=16).hexdigest()


def _environment() -> Any:
    import jinja2

    from ..report import wording

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "md": markdown,
        "duration": wording.duration,
        "headline": wording.headline,
        "seal": lambda record: wording.SEALS[record["verdict"]["level"]],
        "bytes": _bytes,
        # A backtick would end the block of code.
        "pretty": lambda told: json.dumps(told, indent=2, ensure_ascii=False).replace(
            "`", "\\u0060"
        ),
    }
    return environment


def markdown(text: str) -> str:
    """Return a text of any content as it is to be read, not as Markdown."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{max(1, round(count / 1e3))} kB"


def _figures(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    from ..report.wording import number, percent, words

    nouns, monitor = record["nouns"], record["monitor"]
    after, before = record.get("quality"), record.get("unedited")
    rows = []
    if after is not None and before is not None:
        reached = f"{words(after['attribute'], nouns)}: {' or '.join(after['values'])}"
        rows.append(
            (f"target reached ({reached})", percent(after["success"]), percent(before["success"]))
        )
        for name, share in sorted(after["kept"].items(), key=lambda item: float(item[1])):
            unedited = percent(before["kept"].get(name))
            rows.append((f"kept: {words(name, nouns)}", percent(share), unedited))
    identity = (after or monitor).get("identity")
    if identity is not None:
        same = 1.0 if after is None else (before or {}).get("identity")
        rows.append((f"same {nouns['subject']} (1: the same)", number(identity), number(same)))
    rows.append(("mean change of a pixel", percent(monitor["edit_size"]), percent(0)))
    rows.append(
        ("change that 1 % of the pixels exceed", percent(monitor["peak_change"]), percent(0))
    )
    if "direction" in monitor:
        above = monitor.get("direction_above")
        told = f"; edits that work exceed {number(above)}" if above else ""
        told = f"direction towards the prompt (CLIP, −1 to 1{told})"
        rows.append((told, number(monitor["direction"], signed=True), "–"))
        rows.append(
            ("rise of CLIP similarity to the prompt", number(monitor["clip_gain"], 3, True), "–")
        )
    rows.append(("values pushed out of range", percent(monitor["saturated_share"]), percent(0)))
    if record.get("reconstruction_psnr") is not None:
        rows.append(("reconstruction", "–", f"{number(record['reconstruction_psnr'], 1)} dB"))
    return rows


def _measured(record: Mapping[str, Any]) -> list[str]:
    """What the figures are, one sentence each."""
    nouns, monitor, after = record["nouns"], record["monitor"], record.get("quality")
    told = [f"All figures are of strength 1 and one training (seed {record['distill']['seed']})."]
    if after is not None:
        told.append(
            f"Target and kept attributes: shares of {after['images']} held-out {nouns['images']} "
            "that lacked the target before, as a classifier of the domain reads them; of so many a "
            f"share is uncertain by up to ± {98 / math.sqrt(max(1, after['images'])):.0f} points "
            "(95 %). The column “unedited” is what encoding and generating alone does to them."
        )
    told.append(
        f"Changes{', direction, similarity' if 'direction' in monitor else ''} and values out of "
        f"range: means over up to 32 held-out {nouns['images']}, before and after the edit."
    )
    if record.get("reconstruction_psnr") is not None:
        told.append(
            f"Reconstruction: how well encoder and generator redraw the {nouns['images']} of the "
            "picture above before any edit; above 30 dB the difference is hard to see."
        )
    return told


def _not_measured(record: Mapping[str, Any] | None) -> list[str]:
    if record is None:
        return [
            "Anything: there was no record of a run beside this edit. Neither whether it reaches "
            "its target nor what else it changes is known."
        ]
    monitor, after, nouns = record["monitor"], record.get("quality"), record["nouns"]
    told = []
    if after is None:
        told.append(
            f"Whether the {nouns['images']} show the target afterwards and what else they keep: "
            "nothing in the domain reads attributes that this prompt is about."
        )
    if "direction" not in monitor:
        told.append("Whether the edit goes towards the prompt: no CLIP was given.")
    elif not monitor.get("direction_above"):
        told.append(
            "What direction is enough: that of edits that work was not calibrated in this domain."
        )
    if (after or monitor).get("identity") is None:
        told.append(f"Whether the {nouns['subject']} stays the same: nothing here tells that.")
    told += [
        "Other strengths, levels or seeds, and this edit together with others.",
        f"{nouns['images'].capitalize()} of another kind than the domain's.",
        "What people think of the results.",
    ]
    return told
