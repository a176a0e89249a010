"""What exists is not replaced unasked."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdd_fast.outputs import check_free


def test_files_need_a_word_and_folders_are_never_replaced(tmp_path: Path) -> None:
    new, old, folder = tmp_path / "new", tmp_path / "old", tmp_path / "folder"
    old.write_text("mine")
    folder.mkdir()
    check_free([new])
    check_free([new, old], overwrite=True)
    with pytest.raises(FileExistsError, match=r"old would be replaced; .* pass overwrite=True"):
        check_free([new, old])
    with pytest.raises(FileExistsError, match=r"old and 1 more would be replaced; not here"):
        check_free([old, old], otherwise="not here")
    for overwrite in (True, False):
        with pytest.raises(IsADirectoryError, match=r"this is a folder: .*folder"):
            check_free([new, old, folder], overwrite)
