"""The model card of a domain trained on a folder of images: what of, how long, and on what not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_json, write_text

CARD_FILE = "MODEL_CARD.md"


def write_card(
    folder: Path, record: Mapping[str, Mapping[str, Any]], trained_on: int, held_out: int
) -> None:
    """Write the card of a complete domain, unless it has one.

    Args:
        record: of each part's training, see `PartTrainer.record`.
        trained_on, held_out: number of images.
    """
    if (folder / CARD_FILE).exists():
        return
    spec = read_json(folder / "domain.json")
    lines = [
        f"# Model card: {spec['name']}",
        "",
        f"A small domain for Selective Diffusion Distillation, “{spec['source_text']}”: "
        f"{spec['resolution']} × {spec['resolution']} pixels,",
        f"every network trained from scratch by `sdd train-domain` on {trained_on:,} pictures.",
        f"{held_out:,} other pictures were held out before: no network has seen them, and edits "
        "are judged on them.",
        "`held-out.json` names them.",
        "",
        "## Training",
        "",
        *training_table(record),
    ]
    write_text(folder / CARD_FILE, "\n".join(lines) + "\n")


def training_table(record: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table of each part's training."""
    lines = [
        "| part | steps | batch | learning rate | seed | minutes |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for part, row in record.items():
        lines.append(
            f"| {part} | {row['steps']} | {row['batch_size']} | {row['lr']:g} | {row['seed']} | "
            f"{row['seconds'] / 60:.0f} |"
        )
    minutes = sum(row["seconds"] for row in record.values()) / 60
    return [*lines, f"| all | | | | | {minutes:.0f} |"]
