"""sdd app: what is said before a page is served."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cli_runner import Sdd


def test_without_the_extra_it_says_what_to_install(
    sdd: Sdd, editor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    told = sdd.fails("app", editor)
    assert "gradio 6.16 or newer: pip install 'sdd_fast[app]'" in told


def test_what_cannot_be_served_is_told(sdd: Sdd, editor: Path, tmp_path: Path) -> None:
    gradio = pytest.importorskip("gradio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"port {port} of 127.0.0.1 is in use" in sdd.fails("app", editor, "--port", port)
    assert "no address of this machine" in sdd.fails("app", editor, "--host", "192.0.2.1")
    told = sdd.fails("app", tmp_path / "none")
    assert "none" in told and "Traceback" not in told
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gradio, "__version__", "6.2.0")
        assert "this is 6.2.0, with known holes" in sdd.fails("app", editor)


def test_a_page_is_served_until_it_is_stopped(editor: Path) -> None:
    pytest.importorskip("gradio")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    words = [sys.executable, "-m", "sdd_fast.cli", "app", str(editor), "--port", str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None and page.stderr is not None
        assert f"the page is at http://localhost:{port}/" in page.stdout.readline()
        page.terminate()
        began = time.monotonic()
        assert page.wait(30) == 130 and time.monotonic() - began < 20
        assert page.stderr.read().strip().endswith("sdd: stopped by SIGTERM")
