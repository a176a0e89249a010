"""A folder is for one process at a time."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from sdd_fast.lock import LOCK_FILE, locked

HOLD = """
import sys
from sdd_fast.lock import locked
with locked(sys.argv[1]):
    print("locked", flush=True)
    sys.stdin.readline()
"""


def test_another_process_is_refused_and_told_who_works_there(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    other = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert other.stdin is not None and other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    who = rf"process {other.pid} on {socket.gethostname()} \(since 20"
    with pytest.raises(BlockingIOError, match=who) as caught, locked(tmp_path):
        pass
    assert caught.value.filename == str(tmp_path)
    other.communicate("done\n")
    with locked(tmp_path):
        assert str(os.getpid()) in (tmp_path / LOCK_FILE).read_text()
    assert (tmp_path / LOCK_FILE).read_text() == ""


def test_within_it_the_lock_is_free_but_not_for_other_threads(tmp_path: Path) -> None:
    refused = []

    def work() -> None:
        try:
            with locked(tmp_path):
                pass
        except BlockingIOError as error:
            refused.append(error)

    with locked(tmp_path), locked(tmp_path / "." / "x" / ".."):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert len(refused) == 1
    work()
    assert len(refused) == 1


def test_a_file_is_locked_beside_others(tmp_path: Path) -> None:
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    refused: list[BlockingIOError] = []

    def work() -> None:
        with locked(other, file=True):
            pass
        try:
            with locked(one, file=True):
                pass
        except BlockingIOError as error:
            refused.append(error)

    with locked(one, file=True):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [error.filename for error in refused] == [str(one)]
    assert not list(tmp_path.iterdir())


def test_a_folder_made_in_vain_goes_again(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    with pytest.raises(ValueError, match="refused"), locked(place):
        (place / "c").mkdir()
        raise ValueError("refused")
    assert not list(tmp_path.iterdir())
    with locked(place):
        (place / "result").write_text("")
    assert sorted(path.name for path in place.iterdir()) == [LOCK_FILE, "result"]
    there = tmp_path / "there"
    there.mkdir()
    with locked(there):
        pass
    assert there.exists()


def test_a_lock_of_something_else_is_kept(tmp_path: Path) -> None:
    theirs = tmp_path / LOCK_FILE
    theirs.write_text("my notes")
    with pytest.raises(FileExistsError, match="no lock of ours") as caught, locked(tmp_path):
        pass
    assert caught.value.filename == str(theirs) and theirs.read_text() == "my notes"
    for left in ('{"pid": 1, "ho', ""):  # of a process that was killed
        theirs.write_text(left)
        with locked(tmp_path):
            pass


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_where_nothing_can_be_written_the_folder_is_named_and_not_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / LOCK_FILE))

    monkeypatch.setattr("sdd_fast.lock.FileLock.acquire", refuse)
    told = f"{os.strerror(number)}: nothing can be written here; choose another place"
    with pytest.raises(PermissionError, match=told) as caught, locked(tmp_path):
        pass
    assert caught.value.errno == number and caught.value.filename == str(tmp_path)


def test_other_errors_of_a_lock_are_told_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(tmp_path / LOCK_FILE))

    monkeypatch.setattr("sdd_fast.lock.FileLock.acquire", fail)
    with pytest.raises(OSError) as caught, locked(tmp_path):
        pass
    assert caught.value.errno == errno.EIO and caught.value.filename == str(tmp_path / LOCK_FILE)


@pytest.mark.skipif(os.name != "posix" or os.getuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="Permission denied"), locked(tmp_path):
        pass
