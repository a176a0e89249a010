"""The tabs beside the sliders: the report of a run, and a training to start, watch and stop."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from ..models.mapper import LEVELS as LEVEL_NAMES
from ..notebook import data_url, png_of
from ..progress import Progress
from ..report import wording
from ..report.showcase import training_figure
from .edit_tab import LEVELS, telling
from .library import Library
from .training import MOST_STEPS, Request, Status, Trainer

REFRESH = 1.5
"""Seconds between two looks at a training."""

_HIDDEN: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
_STATES = {
    "idle": "No training is at work.",
    "running": "Training",
    "stopping": "Stopping: this step ends, and what there is is saved.",
    "stopped": "Stopped. Start it with the same settings, and it goes on where it was.",
    "done": "Done",
    "failed": "Failed",
}


class ReportTab:
    """Shows a run's report.html as it is, but without the rights of this page."""

    def __init__(self, library: Library) -> None:
        self.library = library

    def listed(self, chosen: str | None = None) -> Any:
        """The runs with a report, as they are now."""
        import gradio as gr

        runs = self.library.reported()
        names = [run.name for run in runs]
        value = chosen if chosen in names else (names[0] if names else None)
        return gr.update(choices=[(run.title, run.name) for run in runs], value=value)

    def show(self, name: str | None) -> str:
        """A frame with the report: no script of it runs, and it sees nothing of this page."""
        if not name:
            return "<p>There is no report yet: one comes with every finished run.</p>"
        page = escape(self.library.report(name), quote=True)
        title = escape(f"Report of {name}", quote=True)
        return f'<iframe class="report" sandbox title="{title}" srcdoc="{page}"></iframe>'

    def build(self, tab: Any) -> None:
        """Lay the tab out, and connect it."""
        import gradio as gr

        runs = gr.Dropdown([], label="Report of", elem_id="reports")
        page = gr.HTML(elem_id="report", padding=False)
        tab.select(
            self.listed, runs, runs, queue=False, show_progress="hidden", api_name="reports"
        ).then(telling(self.show), runs, page, queue=False, **_HIDDEN)
        runs.input(telling(self.show), runs, page, api_name="report", show_progress="hidden")


class TrainingTab:
    """Starts, watches and stops the one training of this server; every visitor sees it."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self._drawn: tuple[Any, Any] = (None, None)  # of a history, and the figure of it

    # --- handlers ---------------------------------------------------------------------------------

    def start(
        self, prompt: str | None, steps: float, timesteps: str, levels: list[str],
        seed: float | None, restart: bool,
    ) -> tuple[Any, ...]:  # fmt: skip
        """Begin, or go on where the same settings were stopped."""
        request = Request(
            prompt=(prompt or "").strip(),
            steps=int(steps),
            timesteps=timesteps_of(timesteps),
            levels=tuple(LEVELS[name] for name in levels if name in LEVELS),
            seed=int(seed or 0),
            restart=bool(restart),
        )
        self.trainer.start(request)
        return self.look()

    def stop(self) -> tuple[Any, ...]:
        """Stop, and keep what there is."""
        self.trainer.stop()
        return self.look()

    def look(self) -> tuple[Any, ...]:
        """All that the tab shows, and whether to look again."""
        import gradio as gr

        status = self.trainer.status
        return (
            gr.Timer(REFRESH, active=status.at_work),
            status_html(status),
            self._figure(status),
            *(_picture(path) for path in (status.curve, status.sample)),
            gr.update(interactive=not status.at_work),
            gr.update(interactive=status.state == "running"),
        )

    def _figure(self, status: Status) -> Any:
        """The curves of the training, drawn anew where there is more of it."""
        import gradio as gr

        history = status.history
        drawn = (status.folder, len(history))
        if self._drawn[0] != drawn:
            figure = training_figure(history, self.trainer.domain.nouns["images"])
            html = None
            if figure is not None:
                told = escape(f"The training so far: {_described(history)}", quote=True)
                html = f'<img alt="{told}" src="{data_url(png_of(figure))}">'
            self._drawn = (drawn, html)
        return gr.update(value=self._drawn[1] or "", visible=self._drawn[1] is not None)

    # --- layout -----------------------------------------------------------------------------------

    def build(self) -> None:
        """Lay the tab out, and connect it."""
        import gradio as gr

        prompts = list(self.trainer.domain.prompts)
        with gr.Row():
            with gr.Column(scale=5, min_width=300):
                prompt = gr.Dropdown(
                    prompts, value=None, label="What edited pictures should show",
                    info="Choose one, or type your own", allow_custom_value=True, elem_id="prompt",
                )  # fmt: skip
                steps = gr.Slider(10, 1000, 200, step=10, label="Steps", elem_id="steps")
                with gr.Accordion("More settings", open=False):
                    timesteps = gr.Textbox(
                        "", label="Timesteps", placeholder="chosen by their HQS",
                        info="Such as 700, 750; empty: those that have most to say",
                        elem_id="timesteps",
                    )  # fmt: skip
                    levels = gr.CheckboxGroup(
                        list(LEVELS), value=[], label="Levels",
                        info="None: those that suit the prompt, where known, or all",
                    )  # fmt: skip
                    seed = gr.Number(0, label="Seed", precision=0)
                    restart = gr.Checkbox(
                        False, label="Start over: discard a run of this prompt with other settings"
                    )  # fmt: skip
                with gr.Row():
                    start = gr.Button("Start", variant="primary", elem_id="start")
                    stop = gr.Button(
                        "Stop and keep", variant="stop", interactive=False, elem_id="stop"
                    )
                status = gr.HTML(status_html(Status()), elem_id="status")
            with gr.Column(scale=6, min_width=300):
                sample = gr.HTML(elem_id="sample", visible=False)
                figure = gr.HTML(elem_id="training-curve", visible=False)
                curve = gr.HTML(elem_id="hqs-curve", visible=False)
        timer = gr.Timer(REFRESH, active=False)
        shown = [timer, status, figure, curve, sample, start, stop]
        alone: dict[str, Any] = {"concurrency_id": "training", "show_progress": "hidden"}
        start.click(
            telling(self.start), [prompt, steps, timesteps, levels, seed, restart], shown,
            api_name="train", **alone,
        )  # fmt: skip
        stop.click(self.stop, None, shown, api_name="stop", **alone)
        timer.tick(self.look, None, shown, trigger_mode="once", concurrency_id="look", **_HIDDEN)
        blocks = gr.context.Context.root_block
        assert blocks is not None
        blocks.load(self.look, None, shown, concurrency_id="look", **_HIDDEN)


def timesteps_of(text: str | None) -> tuple[int, ...]:
    """ "700, 750" → (700, 750).

    Raises:
        ValueError: something else than whole numbers.
    """
    words = (text or "").replace(",", " ").split()
    if not all(word.isascii() and word.isdigit() and len(word) < 6 for word in words):
        raise ValueError(f"timesteps must be whole numbers such as 700, 750, got {text!r:.80}")
    return tuple(int(word) for word in words)


def status_html(status: Status) -> str:
    """State, progress, latest figures and verdict; read out where it changes."""
    title = (
        f"{_STATES[status.state]}: “{status.prompt}”" if status.prompt else _STATES[status.state]
    )
    parts = [f"<p><b>{escape(title)}</b></p>"]
    if status.at_work and status.progress is not None:
        parts.append(_bar(status.progress))
    if status.verdict:
        seal = wording.SEALS[status.verdict["level"]]
        parts.append(
            f'<p class="verdict {escape(status.verdict["level"])}"><b>{escape(seal)}.</b> '
            f"{escape(status.verdict['headline'])}</p>"
        )
        if status.verdict["advice"]:
            parts.append(f"<p>{escape(status.verdict['advice'])}</p>")
        parts.append("<p>It can be added under “Edit”, and its report is under “Report”.</p>")
    elif history := status.history:
        parts.append(f"<p>{escape(_described(history))}</p>")
    if status.state != "idle" and not status.verdict:
        lines = "".join(f"<li>{escape(line)}</li>" for line in status.said)
        parts.append(f'<ul class="said">{lines}</ul>')
    return f'<div role="status" aria-live="polite">{"".join(parts)}</div>'


def _bar(progress: Progress) -> str:
    told = f"{progress.task}: {progress.done} of {progress.total} {progress.unit}"
    figures = f"; {progress.text}" if progress.text else ""
    return (
        f'<progress max="{progress.total}" value="{progress.done}" aria-label="{escape(told)}">'
        f"</progress><p>{escape(told + figures)}</p>"
    )


def _described(history: list[dict[str, Any]]) -> str:
    """The figures of the latest measurement, with its verdict."""
    measured = [entry for entry in history if "edit_size" in entry]
    if not measured:
        return f"{history[-1].get('step', 0)} steps"
    return f"After {measured[-1]['step']} steps: {wording.describe(measured[-1])}"


def _picture(path: Path | None) -> Any:
    """A PNG of the run, whole in the page: no path of the server is ever asked for."""
    import gradio as gr

    try:
        url = None if path is None else data_url(path)
    except OSError:  # replaced at this moment; the next look has it
        return gr.skip()
    if path is None or url is None:
        return gr.update(value="", visible=False)
    told = {"curve.png": "The HQS of every timestep, with those chosen"}.get(
        path.name, "Held-out pictures before and after the edit"
    )
    return gr.update(value=f'<img alt="{told}" src="{url}">', visible=True)


assert set(LEVELS.values()) == set(LEVEL_NAMES)
assert MOST_STEPS >= 1000
