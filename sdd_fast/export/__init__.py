"""Edits as files for other programs: a mapper alone, or the whole editor, in five formats; and as
a page that runs in any browser."""

from .torchscript import export_torchscript, load_torchscript
from .web import WebExport, export_web
from .write import Exported, export_edit

__all__ = [
    "Exported", "WebExport", "export_edit", "export_torchscript", "export_web", "load_torchscript",
]  # fmt: skip
