"""sdd push: publish edits on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import options
from .console import command, result, say

if TYPE_CHECKING:
    from sdd_fast.hub.edits import Edits
    from sdd_fast.hub.push import Pushed


@command
def push(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN... OWNER/NAME",
            help="A run folder, mapper file or file of a whole editor, or several edits of one "
            "domain; then the name on the hub, your user name or an organization first.",
        ),
    ],
    *,
    part: Annotated[
        str | None,
        typer.Option(
            help="mapper: the edit alone, for who has its domain; editor: generator and encoder "
            "with all edits. Default: mapper, of one edit in a domain that is built in or a preset "
            "of published checkpoints; several edits of built-in domains as an editor.",
            show_default=False,
        ),
    ] = None,
    license: Annotated[
        str | None,
        typer.Option(
            help="Under which license, as the hub calls it: apache-2.0, cc-by-4.0, openrail, other "
            "… Default: apache-2.0 in built-in domains, else unknown.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    branch: Annotated[
        str | None,
        typer.Option(
            "--branch", "--revision", help="Made if there is none of that name. Default: main."
        ),
    ] = None,
    message: Annotated[
        str | None,
        typer.Option("--message", "-m", help="Of the commit. Default: the prompt."),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            help="Default: that of `hf auth login`, or HF_TOKEN, where no other process sees it.",
            show_default=False,
        ),
    ] = None,
    preview: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Write what would be published into this folder, to look at, and ask no hub.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    domain: options.DomainOfEdit = None,
    generator: options.Generator = None,
    encoder: options.Encoder = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Also over another edit, a repository of something else (its other files stay) "
            "and a card that somebody has edited.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = False,
) -> None:
    """Publish an edit on the Hugging Face hub, for `sdd edit OWNER/NAME` and from_pretrained.

    The repository gets the weights as safetensors and a model card: pictures and figures of the
    run, how it was made, what was measured and what was not. All in one commit: an upload that is
    interrupted publishes nothing, and the same command goes on. Where everything is there already,
    nothing changes.

    \b
    Examples:
      sdd push runs/white-hair me/white-hair
      sdd push runs/white-hair me/white-hair --preview card
      sdd push runs/white-hair me/white-hair --private --branch trial -m "twice the steps"
      sdd push runs/white-hair runs/smile me/two-edits --part editor
    """
    from sdd_fast.hub.edits import push_edits, write_edits
    from sdd_fast.hub.names import check_name
    from sdd_fast.hub.push import PushOptions

    if len(words) < 2:
        raise typer.BadParameter("name a run, and then OWNER/NAME, as in: runs/white-hair me/hair")
    *runs, name = words
    check_name(name)
    parts = options.chosen({"generator": generator, "encoder": encoder})
    edits = _edits([Path(run) for run in runs], part, license, domain, parts)
    if preview is not None:
        folder = write_edits(preview, edits, name)
        written = sorted(path for path in folder.iterdir() if path.is_file())
        result(repository=name, preview=folder, part=edits.part, written=written)
        say(f"written: {folder}, as {name} would be; nothing was published")
        return
    done = push_edits(name, edits, PushOptions(branch, message, private or None, token, overwrite))
    result(
        repository=done.repository, url=done.url, branch=done.branch, commit=done.commit,
        changed=done.changed, created=done.created, written=list(done.files), part=edits.part,
    )  # fmt: skip
    _tell(done, edits.part)


def _tell(done: Pushed, part: str) -> None:
    if done.kept:
        say("warning: its README.md was edited by hand and stays; --overwrite replaces it")
    at = done.repository + ("" if done.branch == "main" else f"@{done.branch}")
    if not done.changed:
        say(f"nothing has changed: {done.url} has all of this already (commit {done.commit[:7]})")
        return
    files = ", ".join(done.files) or "files taken away"
    say(f"pushed: {done.url} (the {part}, commit {done.commit[:7]}): {files}")
    say(f"  {options.command_line('edit', at, 'me.jpg')}")


def _edits(
    runs: list[Path], part: str | None, license: str | None, domain: Any, parts: dict[str, Any]
) -> Edits:
    """What is to be published; generator and encoder are loaded only where they go along."""
    from sdd_fast.checkpoints.load import load_mapper
    from sdd_fast.editing.editor import Editor
    from sdd_fast.hub.edits import Edits, choose_part, run_folder_of

    from .edit import mapper_file

    for run in runs:
        if not run.exists():
            raise FileNotFoundError(f"{run}: there is no such run folder or file to publish")
    files = [mapper_file(run) for run in runs]
    folders = [run_folder_of(run) for run in runs]
    if not (whole := _is_whole(files)):
        edits = [load_mapper(file) for file in files]
        chosen = choose_part(part, [info for _, info in edits])
        if chosen == "mapper":
            return Edits(edits, folders, chosen, license)
    editor = Editor.load(files, domain, "cpu", **parts)
    if whole:
        chosen, folders = choose_part(part or "editor", editor.infos), []
    return Edits(
        list(zip(editor.mappers, editor.infos, strict=True)),
        folders,
        chosen,
        license,
        editor.save,
        editor.image_size,
        editor.align is not None,
        editor.encoder is not None,
        editor.generator,
    )


def _is_whole(files: list[Path]) -> bool:
    from sdd_fast.editing.editor_file import is_editor

    return any(is_editor(file) for file in files)
