"""Edits as files for other programs: a mapper alone, or the whole editor, in five formats."""

from .torchscript import export_torchscript, load_torchscript
from .write import Exported, export_edit

__all__ = ["Exported", "export_edit", "export_torchscript", "load_torchscript"]
