"""A whole editor's weights as one safetensors file, which `Editor.load` reads."""

from __future__ import annotations

from pathlib import Path

from ..editing import editor_file
from ..editing.editor import Editor
from .about import NAME


def save_editor(path: Path, editor: Editor, about: str) -> None:
    """Write what `Editor.save` does, and what the file is for.

    Raises:
        ValueError: a network of the editor is none of this package's.
    """
    edits = list(zip(editor.mappers, editor.infos, strict=True))
    aligns = editor.align is not None
    editor_file.save_editor(
        path, editor.generator, edits, editor.encoder, aligns, metadata={NAME: about}
    )


def load_editor(path: Path) -> Editor:
    """Build the editor of a file of `save_editor`, on the CPU.

    Raises:
        ValueError: the file is another, or its tensors do not fit its networks.
    """
    return Editor.load(path)
