"""The tab with the sliders: a picture, a slider for each edit, before and after."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .outbox import Outbox
from .studio import HIGHEST, LOWEST, MOST_EDITS, SAMPLES, STEP, Session, Settings, Studio

LEVELS = {
    "coarse: pose, shape": "coarse",
    "medium: features, expression": "medium",
    "fine: color": "fine",
}
ALL_EDITS = "all edits together"
_PNG_UP_TO = (
    256  # pixels a side: larger ones are shown as JPEG, which is written in a tenth of the time
)


def telling(function: Callable[..., Any]) -> Callable[..., Any]:
    """Show the message of an error on the page, where it is one for people."""
    import gradio as gr

    @functools.wraps(function)
    def told(*values: Any) -> Any:
        try:
            return function(*values)
        except (ValueError, OSError) as error:
            raise gr.Error(message_of(error), print_exception=False) from error

    return told


def message_of(error: Exception) -> str:
    """What an error says, without where things lie on the server."""
    from ..files import os_error_text

    if not isinstance(error, OSError):
        return str(error)
    return str(error) if error.errno is None else os_error_text(error)


@dataclass(frozen=True)
class Controls:
    """The components of the tab that handlers read and write."""

    session: Any
    opened: Any  # counts the pictures and edits opened: what shows them again
    shown: Any
    told: Any
    sliders: list[Any]
    levels: Any
    which: Any
    photo: Any
    aligned: Any
    into_photo: Any


class EditTab:
    """Handlers of the tab; `build` lays it out within a `gr.Blocks`."""

    def __init__(self, studio: Studio, outbox: Outbox) -> None:
        self.studio, self.outbox = studio, outbox

    # --- handlers ---------------------------------------------------------------------------------

    def session_of(self, state: Session | None) -> Session:
        """A tab's session; a new one, if it has none yet or it has expired."""
        return self.studio.new_session() if state is None else state

    def start(self, state: Session | None, opened: int) -> tuple[Any, ...]:
        """Open the first sample for a page that has just loaded."""
        session = self.session_of(state)
        if session.picture is None and self.studio.samples:
            session = self.studio.open_sample(session, 0)
        return session, opened + 1

    def choose_file(
        self, state: Session | None, opened: int, path: str | None, aligned: bool
    ) -> tuple[Any, ...]:
        """Open an upload; none, when it was taken away, changes nothing."""
        session = self.session_of(state)
        if not path:
            return session, opened
        return self.studio.open_file(session, path, aligned=bool(aligned)), opened + 1

    def choose_sample(self, state: Session | None, opened: int, index: int) -> tuple[Any, ...]:
        """Open one of the domain's pictures."""
        return self.studio.open_sample(self.session_of(state), index), opened + 1

    def show(self, state: Session | None, levels: list[str], *strengths: float) -> tuple[Any, ...]:
        """Edit with the controls where they are: (before, after), and what is told of it."""
        import gradio as gr

        session = self.session_of(state)
        if session.picture is None:
            return gr.skip(), _told("Choose a picture.")
        began = time.perf_counter()
        after = self.studio.edit(session, settings_of(session, levels, strengths))
        took = 1000 * (time.perf_counter() - began)
        return (session.picture.before, after), _told(f"Edited in {took:.0f} ms.")

    def download(
        self, state: Session | None, into_photo: bool, levels: list[str], *strengths: float
    ) -> str:
        """The edited picture in full size, as a file."""
        session = self.session_of(state)
        name = session.picture.name if session.picture else "picture"
        path = self.outbox.place(f"{name}-edited.png")
        settings = settings_of(session, levels, strengths)
        return str(self.studio.write_picture(session, settings, path, into_photo=into_photo))

    def animate(
        self, state: Session | None, which: str, levels: list[str], *strengths: float
    ) -> str:
        """The edit at growing strength, as a file."""
        session = self.session_of(state)
        index = None if which == ALL_EDITS else session.prompts.index(which)
        path = self.outbox.place("sweep.webp")
        settings = settings_of(session, levels, strengths)
        return str(self.studio.write_animation(session, settings, index, path))

    def add(self, state: Session | None, opened: int, name: str | None) -> tuple[Any, ...]:
        """Add a run of the library; its slider appears, at strength 1."""
        if not name:
            raise ValueError("choose a run to add first")
        session = self.studio.add_run(self.session_of(state), name)
        return session, opened + 1, *self.updates(session)

    def updates(self, session: Session) -> list[Any]:
        """What a new edit changes on the page: sliders, levels, what an animation can be of."""
        import gradio as gr

        prompts, count = session.prompts, len(session.prompts)
        sliders = [gr.skip()] * (count - 1)
        sliders.append(gr.update(label=prompts[-1], visible=True, value=1.0))
        sliders += [gr.skip()] * (MOST_EDITS - count)
        names = [name for name, level in LEVELS.items() if level in session.levels]
        return [
            *sliders,
            gr.update(choices=names, value=names),
            gr.update(choices=[ALL_EDITS, *prompts]),
        ]

    def addable(self, state: Session | None) -> Any:
        """The list of runs that can be added, as it is now."""
        import gradio as gr

        session = self.session_of(state)
        runs = [run for run in self.studio.library.runs() if run.name not in session.runs]
        return gr.update(choices=[(run.title, run.name) for run in runs], value=None)

    # --- layout -----------------------------------------------------------------------------------

    def build(self) -> Controls:
        """Lay the tab out, and connect it."""
        import gradio as gr

        session = gr.State(None)
        opened = gr.State(0)
        begin = self.studio.new_session()
        with gr.Row():
            with gr.Column(scale=6, min_width=300):
                shown = gr.ImageSlider(
                    label="Before and after", show_label=False, interactive=False,
                    elem_id="pictures",
                    format="png" if max(begin.editor.image_size) <= _PNG_UP_TO else "jpeg",
                    buttons=["fullscreen"], max_height=640,
                )  # fmt: skip
                told = gr.HTML(_told("Loading …"), elem_id="told")
                self._samples(session, opened)
            with gr.Column(scale=5, min_width=300):
                sliders = self._sliders(begin)
                levels = self._levels(begin)
                photo, aligned = self._photo()
                which, into_photo = self._outputs(begin, session, sliders, levels)
                self._adder(session, opened, sliders, levels, which)
        controls = Controls(
            session, opened, shown, told, sliders, levels, which, photo, aligned, into_photo
        )
        self._connect(controls)
        return controls

    def _sliders(self, begin: Session) -> list[Any]:
        import gradio as gr

        prompts, sliders = begin.prompts, []
        with gr.Group(elem_id="sliders"):
            for i in range(MOST_EDITS):
                there = i < len(prompts)
                sliders.append(
                    gr.Slider(
                        LOWEST,
                        HIGHEST,
                        1.0 if i == 0 else 0.0,
                        step=STEP,
                        visible=there,
                        label=prompts[i] if there else f"edit {i + 1}",
                        buttons=["reset"],
                        elem_classes="strength",
                    )  # fmt: skip
                )
        reset = gr.Button("Reset all sliders", size="sm", elem_id="reset")
        reset.click(
            lambda: [1.0, *[0.0] * (MOST_EDITS - 1)], None, sliders, queue=False,
            show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        return sliders

    def _levels(self, begin: Session) -> Any:
        import gradio as gr

        names = [name for name, level in LEVELS.items() if level in begin.levels]
        return gr.CheckboxGroup(names, value=names, label="Levels that change", elem_id="levels")

    def _photo(self) -> tuple[Any, Any]:
        import gradio as gr

        align = self.studio.editor.align is not None
        photo = gr.Image(
            sources=["upload", "webcam", "clipboard"], type="filepath", image_mode=None, height=190,
            label="Your own picture", elem_id="photo",
            visible=self.studio.takes_photos, buttons=[],
        )  # fmt: skip
        # No class derived from gr.Image: gradio writes a stub beside the file of each.
        photo.preprocess = _path_of
        aligned = gr.Checkbox(
            False, label="It is cropped to the face already",
            visible=align and self.studio.takes_photos,
        )  # fmt: skip
        return photo, aligned

    def _samples(self, session: Any, opened: Any) -> None:
        import gradio as gr

        if not self.studio.samples:
            return
        gallery = gr.Gallery(
            self.studio.samples, label="Samples to edit", show_label=False, columns=SAMPLES, rows=1,
            height="auto", allow_preview=False, interactive=False, object_fit="cover", buttons=[],
            elem_id="samples", format="png",
        )  # fmt: skip

        def pick(state: Session | None, count: int, event: gr.SelectData) -> Any:
            return telling(self.choose_sample)(state, count, int(event.index))

        # gradio looks at the annotation, which is text here
        pick.__annotations__["event"] = gr.SelectData
        gallery.select(
            pick, [session, opened], [session, opened],
            concurrency_id="open", show_progress="hidden", api_visibility="private",
        )  # fmt: skip

    def _outputs(
        self, begin: Session, session: Any, sliders: list[Any], levels: Any
    ) -> tuple[Any, Any]:
        import gradio as gr

        align = self.studio.editor.align is not None
        into_photo = gr.Checkbox(
            align, label="Put the edit back into the whole photograph",
            visible=self.studio.takes_photos, elem_id="into-photo",
        )  # fmt: skip
        download = gr.Button("Download in full size", variant="primary", elem_id="download")
        file = gr.DownloadButton("file", visible="hidden", elem_id="file")
        download.click(
            telling(self.download), [session, into_photo, levels, *sliders], file,
            concurrency_id="file", api_name="download",
        ).success(
            None, file, js="(file) => window.sdd.download(file)", api_visibility="private"
        )  # fmt: skip
        with gr.Accordion("Animate the strength", open=False, elem_id="animate"):
            which = gr.Dropdown(
                [ALL_EDITS, *begin.prompts], value=ALL_EDITS,
                label="Whose strength grows from −1 to 1.5", elem_id="which",
            )  # fmt: skip
            make = gr.Button("Animate", elem_id="make-animation")
            film = gr.Image(
                type="filepath", label="Animation", interactive=False, buttons=["download"],
                elem_id="film", height=280,
            )  # fmt: skip
            make.click(
                telling(self.animate), [session, which, levels, *sliders], film,
                concurrency_id="file", api_name="animate",
            )  # fmt: skip
        return which, into_photo

    def _adder(
        self, session: Any, opened: Any, sliders: list[Any], levels: Any, which: Any
    ) -> None:
        import gradio as gr

        with gr.Accordion("Add an edit", open=False, elem_id="adder") as accordion:
            runs = gr.Dropdown([], label="Runs in the folder of this page", elem_id="runs")
            add = gr.Button("Add", elem_id="add")
        hidden: dict[str, Any] = {
            "queue": False, "show_progress": "hidden", "api_visibility": "private"
        }  # fmt: skip
        accordion.expand(
            self.addable, session, runs, api_name="runs", queue=False, show_progress="hidden"
        )
        add.click(
            telling(self.add), [session, opened, runs], [session, opened, *sliders, levels, which],
            concurrency_id="open", api_name="add",
        ).success(self.addable, session, runs, **hidden)  # fmt: skip

    def _connect(self, controls: Controls) -> None:
        import gradio as gr

        session, opened = controls.session, controls.opened
        controls.photo.input(
            telling(self.choose_file), [session, opened, controls.photo, controls.aligned],
            [session, opened], concurrency_id="open", api_name="choose",
        ).failure(
            lambda: None, None, controls.photo,
            queue=False, show_progress="hidden", api_visibility="private",
        )  # fmt: skip
        # One listener for all that changes the picture: at most one edit of a tab is under way, and
        # the last of those asked for meanwhile follows, with the controls as they are then.
        moved = [slider.change for slider in controls.sliders]
        gr.on(
            [*moved, controls.levels.change, opened.change],
            telling(self.show), [session, controls.levels, *controls.sliders],
            [controls.shown, controls.told], trigger_mode="always_last", show_progress="hidden",
            concurrency_id="edit", api_name="edit",
        )  # fmt: skip
        blocks = gr.context.Context.root_block
        assert blocks is not None
        blocks.load(
            telling(self.start), [session, opened], [session, opened],
            concurrency_id="open", show_progress="hidden", api_name="start",
        )  # fmt: skip


def settings_of(session: Session, levels: list[str], strengths: tuple[float, ...]) -> Settings:
    """Where the controls are; all levels that the edits have are the same as all."""
    names = [LEVELS[name] for name in levels if name in LEVELS]
    everything = set(session.levels) <= set(names)
    return Settings(strengths, None if everything else names)


def _told(text: str) -> str:
    """A line that screen readers read out when it changes."""
    return f'<p role="status" aria-live="polite">{text}</p>'


def _path_of(sent: Any) -> str | None:
    """What was uploaded, as it is: reading the file, and refusing it, is left to this package."""
    return None if sent is None or not sent.path else str(sent.path)
