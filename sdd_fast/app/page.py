"""The page as a whole: its tabs, its look, and what makes it usable by keys and screen readers."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from .edit_tab import EditTab
from .other_tabs import ReportTab, TrainingTab
from .outbox import Outbox
from .studio import Studio
from .training import Trainer

TITLE = "Edit pictures"


def build(
    studio: Studio, trainer: Trainer | None, outbox: Path, *, delete_cache: tuple[int, int]
) -> Any:
    """Make the `gr.Blocks` of the page.

    Args:
        trainer: None: without the tab that trains.
        outbox: a folder for files that are made for visitors.
        delete_cache: how often, and after how long, files that were shown are deleted, in seconds.
    """
    import gradio as gr

    with gr.Blocks(
        title=TITLE, analytics_enabled=False, delete_cache=delete_cache, fill_width=False
    ) as blocks:
        gr.Markdown(f"# {TITLE}", elem_id="title")
        with gr.Tabs():
            with gr.Tab("Edit", id="edit"):
                EditTab(studio, Outbox(outbox)).build()
            with gr.Tab("Report", id="report") as tab:
                ReportTab(studio.library).build(tab)
            if trainer is not None:
                with gr.Tab("Train", id="train"):
                    TrainingTab(trainer).build()
    return blocks


def look() -> dict[str, Any]:
    """Theme, style and script, for `launch`: fonts of the visitor's own system, no other host."""
    import gradio as gr

    plain = ["system-ui", "sans-serif"]
    theme = gr.themes.Base(
        primary_hue="blue", font=plain, font_mono=["ui-monospace", "monospace"], radius_size="sm"
    )
    script = _file("page.js")
    return {"theme": theme, "css": _file("page.css"), "head": f"<script>{script}</script>"}


def _file(name: str) -> str:
    return files(__package__).joinpath("browser", name).read_text(encoding="utf-8")
