"""Builds the page and serves it: on this machine alone unless told, and with nobody else's help."""

from __future__ import annotations

import errno
import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..checkpoints.load import load_mapper
from ..domains import load_domain
from ..domains.names import domain_of_edits
from ..editing.editor import Editor, mapper_file
from ..files import PathLike, expanded
from .library import Library
from .studio import MOST_EDITS, Studio
from .training import Request, Trainer

PORT = 7860
MAX_UPLOAD = 100_000_000
"""Bytes of a file that a visitor sends."""

SESSIONS = 64
"""Tabs whose pictures are kept; the one unused for longest goes first."""

WAITING = 64
"""Requests in the queue; more are told to try again later."""

_CACHED = (
    300,
    3600,
)  # seconds: how often shown files are looked through, and how long they are kept

_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; frame-src 'self'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
"""What the browser may ask for: nothing of any other host, whatever a page or report says."""

_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Guard:
    """ASGI middleware: answers carry `_HEADERS`, and the server fetches nothing for visitors.

    gradio would otherwise get files of other hosts for whoever asks (file=https://…, proxy=…).
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                named = {name for name, _ in _HEADERS}
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() not in named]
                message = {**message, "headers": [*kept, *_HEADERS]}
            await send(message)

        if _asks_for_other_hosts(scope["path"]):
            await answer({"type": "http.response.start", "status": 403, "headers": []})
            await answer({"type": "http.response.body", "body": b"not served here"})
            return
        await self.app(scope, receive, answer)


def _asks_for_other_hosts(path: str) -> bool:
    for marker in ("/file=", "/file/"):
        asked = path.partition(marker)[2].lstrip("/ ").lower()
        if asked.startswith(("http:", "https:", "ftp:")):
            return True
    return "/proxy=" in path


def open_studio(
    runs: Sequence[PathLike],
    folder: PathLike | None = None,
    *,
    domain: PathLike | None = None,
    device: str = "cpu",
    **parts: Any,
) -> Studio:
    """Load what the page edits with.

    Args:
        runs: run folders or mapper files, one or more; or one file of `Editor.save`.
        folder: where further runs lie and new ones go; default: that of the first run.
        domain, parts: as of `Editor.load`.

    Raises:
        ValueError: no run, more than `MOST_EDITS`, or what `Editor.load` raises.
        OSError: a file is missing.
    """
    paths = [expanded(run) for run in runs]
    if not 1 <= len(paths) <= MOST_EDITS:
        raise ValueError(f"a page has 1 to {MOST_EDITS} edits, got {len(paths)} runs")
    library = Library(paths, paths[0].absolute().parent if folder is None else folder)
    whole = domain is None and len(paths) == 1 and paths[0].is_file()
    if whole and _is_whole_editor(paths[0]):
        return Studio(Editor.load(paths, device=device, **parts), library)
    found: Any = domain
    if found is None:
        named = [load_mapper(mapper_file(path))[1].domain for path in paths]
        found = domain_of_edits(paths, named, parts)
    opened = load_domain(found, device=device, **parts)
    return Studio(Editor.load(paths, opened), library, opened)


def _is_whole_editor(path: Path) -> bool:
    from ..editing.editor_file import NETWORK
    from ..files import read_metadata

    try:
        return read_metadata(path).get("network") == NETWORK
    except ValueError:
        return False


def check_gradio() -> None:
    """Raise ModuleNotFoundError, with what to do, where gradio is missing or too old."""
    needed = "the page needs gradio 6.16 or newer: pip install 'sdd_fast[app]'"
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(needed) from error
    version = tuple(int(part) for part in gradio.__version__.split(".")[:2])
    if version < (6, 16):
        raise ModuleNotFoundError(f"{needed}; this is {gradio.__version__}, with known holes")


def check_port(host: str, port: int) -> None:
    """Raise OSError where nothing can be served there, and say what to do."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise ValueError(
            f"--host {host} is no address of this machine: {error.strerror}"
        ) from error
    with socket.socket(family, kind, protocol) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                told = (
                    f"port {port} of {host} is in use, maybe by another sdd app; choose another "
                    f"one: --port {port + 1 if port < 65535 else port - 1}"
                )
            elif error.errno == errno.EADDRNOTAVAIL:
                told = f"--host {host} is no address of this machine"
            else:
                told = f"port {port} of {host} cannot be used: {error.strerror}; choose another"
            raise ValueError(told) from error


@contextmanager
def serving(
    studio: Studio,
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    training: bool = True,
    command: Callable[[Request, Path], str] | None = None,
) -> Iterator[str]:
    """Serve the page within the context; yield its address.

    At the end the server is closed, a training is stopped so that it can be resumed, and what
    visitors sent is deleted.

    Args:
        host: whom to listen to; "0.0.0.0": whoever can reach this machine.
        training: whether visitors may start trainings.
        command: see `Trainer`.

    Raises:
        ModuleNotFoundError: gradio is missing. ValueError: host or port cannot be used.
    """
    check_gradio()
    check_port(host, port)
    with tempfile.TemporaryDirectory(prefix="sdd-app-") as name, _environment(Path(name)):
        from .page import build, look

        trainer = None
        if training and studio.domain is not None:
            trainer = Trainer(studio.domain, studio.library.folder, command)
        blocks = build(studio, trainer, Path(name) / "outbox", delete_cache=_CACHED)
        blocks.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)
        from starlette.middleware import Middleware

        try:
            blocks.launch(
                server_name=host, server_port=port, prevent_thread_lock=True, quiet=True,
                share=False, ssr_mode=False, inbrowser=False, pwa=False, mcp_server=False,
                enable_monitoring=False, run_history=False, show_error=False, footer_links=[],
                max_file_size=MAX_UPLOAD, allowed_paths=[], state_session_capacity=SESSIONS,
                app_kwargs={"middleware": [Middleware(Guard)]}, **look(),
            )  # fmt: skip
            shown = "localhost" if host in ("0.0.0.0", "::", "127.0.0.1") else host
            yield f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"
        finally:
            if getattr(blocks, "server", None) is not None:
                blocks.server.config.timeout_graceful_shutdown = 1  # open pages listen for ever
            blocks.close(verbose=False)
            if trainer is not None:
                trainer.close()


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    """gradio's files in a folder of this page's own, and nothing reported to anybody."""
    wanted = {
        "GRADIO_TEMP_DIR": str(folder / "files"),
        "GRADIO_EXAMPLES_CACHE": str(folder / "examples"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_ALLOWED_PATHS": "",
        "GRADIO_SHARE": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    before = {key: os.environ.get(key) for key in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


def wait() -> None:
    """Return when the process is told to end; the server runs in threads of its own."""
    threading.Event().wait()
