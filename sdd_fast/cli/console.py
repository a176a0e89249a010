"""How commands talk: plain lines on stdout, warnings and errors on stderr, exit codes.

With --json there is one JSON object on stdout, and the lines go to stderr as well; with --quiet
there are no lines.
"""

from __future__ import annotations

import functools
import inspect
import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, TextIO

import typer

from sdd_fast.interrupt import stopped_by_signals
from sdd_fast.out_of_memory import ran_out
from sdd_fast.progress import hidden

from .groups import flattened

DEBUG = "--debug"


# Control characters but for line ends and tabs, and those that reorder or hide others.
_UNPRINTABLE = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]"
)


def printable(text: str) -> str:
    """`text`, in which names and prompts from files cannot drive the terminal."""
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def say(line: str) -> None:
    """Print a line; warnings go to stderr."""
    if line.startswith("warning: "):
        _print(f"sdd: {line}", sys.stderr)
    elif not state.quiet:
        _print(line, sys.stderr if state.json else sys.stdout)


def result(**facts: Any) -> None:
    """Add to what --json prints when the command ends."""
    state.result |= facts


def _print(text: str, stream: TextIO) -> None:
    try:
        print(printable(text), file=stream, flush=True)
    except BrokenPipeError:
        # Whoever read this has gone, as of `| head -1`; the work and its files are wanted still.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def take_debug(arguments: list[str]) -> bool:
    """Remove --debug from the command line, wherever it stands before a bare "--"."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    found = DEBUG in arguments[:end]
    arguments[:end] = [word for word in arguments[:end] if word != DEBUG]
    state.debug = found
    return found


class _State:
    def __init__(self) -> None:
        self.debug = self.json = self.quiet = self.verbose = False
        self.result: dict[str, Any] = {}


state = _State()

TALK = "How it talks"
_AS_JSON = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print one JSON object on stdout when done, for programs; all else goes to stderr.",
        rich_help_panel=TALK,
    ),
]
_QUIET = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Print warnings and errors only.", rich_help_panel=TALK),
]
_VERBOSE = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Print what the library logs, and warnings of other libraries.",
        rich_help_panel=TALK,
    ),
]


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function: options from its groups, messages from what it raises.

    Exit codes are 1: bad input, a failed computation, or a bug. 2: a wrong command line (typer's
    own). 130: Ctrl-C, SIGTERM or SIGHUP. With --debug the traceback follows. Every command has
    --quiet and --verbose, and --json unless it has one of its own.
    """
    function = flattened(function)
    guarded = _guarded(function)
    own = inspect.signature(function).parameters
    more: dict[str, Any] = {"quiet": _QUIET, "verbose": _VERBOSE}
    if "as_json" not in own:
        more = {"as_json": _AS_JSON} | more
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=kind)
        for name, kind in more.items()
    ]

    @functools.wraps(guarded)
    def talking(**values: Any) -> None:
        told = {name: values.pop(name) for name in more}
        state.json = told.get("as_json", False)
        state.quiet, state.verbose = told["quiet"], told["verbose"]
        state.result = {}
        logger, handler = logging.getLogger("sdd_fast"), logging.StreamHandler(sys.stderr)
        level = logger.level
        if state.verbose:
            handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
            logger.addHandler(handler)
            logger.setLevel(logging.DEBUG)
        try:
            silence: AbstractContextManager[Any] = hidden() if state.quiet else nullcontext()
            with silence:
                guarded(**values)
            _print_result(function.__name__)
        except typer.Exit as end:
            _print_result(function.__name__, end.exit_code)
            raise
        except Exception as error:  # typer's: a wrong command line
            _print_result(
                function.__name__, getattr(error, "exit_code", 1), getattr(error, "message", "")
            )
            raise
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            state.json = state.quiet = state.verbose = False

    talking.__signature__ = inspect.Signature([*own.values(), *added])  # type: ignore[attr-defined]
    talking.__annotations__ = {**function.__annotations__, **more}
    return talking


def callback(function: Callable[..., None]) -> Callable[..., None]:
    """Make of a function what stands before all commands: messages of what it raises."""
    return _guarded(flattened(function))


def _guarded(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def guarded(**values: Any) -> None:
        _show_warnings_plainly()
        failure: BaseException
        with stopped_by_signals():
            try:
                function(**values)
                return
            except KeyboardInterrupt as error:
                code, message, failure = 130, str(error) or "stopped by Ctrl-C", error
            except Exception as error:  # noqa: BLE001 (the last resort: a message, not a traceback)
                if type(error).__module__.startswith(("typer", "click")):
                    raise
                code, message, failure = 1, explain(error), error
            result(error=message)
            if state.debug:
                traceback.print_exception(failure)
            _print(f"\nsdd: {message}" if code == 130 else f"sdd: error: {message}", sys.stderr)
        raise typer.Exit(code)

    guarded.__doc__ = unwrapped(function.__doc__ or "")
    return guarded


def _print_result(name: str, code: int = 0, error: str = "") -> None:
    """Print the object of --json: what the command is, how it ended, and what it told."""
    if not state.json:
        return
    facts: dict[str, Any] = {"command": name.replace("_", "-"), "ok": code == 0, "exit_code": code}
    facts |= {"error": error} if error else {}
    _print(json.dumps(facts | state.result, allow_nan=False, default=str), sys.stdout)


def unwrapped(text: str) -> str:
    """A docstring with every paragraph on one line, for the help to wrap; "\\b" ones stay."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    joined = [p if p.startswith("\b") else " ".join(p.split()) for p in paragraphs]
    return "\n\n".join(joined)


def explain(error: Exception) -> str:
    """The message of an error in the terms of the command line."""
    text = str(error)
    if isinstance(error, OSError):
        from sdd_fast.files import os_error_text

        text = os_error_text(error)
    if ran_out(error):
        first = text.splitlines()[0] if text else ""
        text = (
            "out of memory. Try a smaller --batch-size, fewer --images or --dtype float16, where "
            f"the command has them. {first}"
        ).strip()
    elif not _is_plain(error):
        text = f"{type(error).__name__}: {text}. This may be a bug; {DEBUG} shows the traceback"
    for python, typed in (
        ("resume=False", "--restart"),
        ("pass overwrite=True", "give --overwrite"),
        ("skip_existing=True", "--skip-existing"),
    ):
        text = text.replace(python, typed)
    return text


def _is_plain(error: Exception) -> bool:
    """Whether the message is meant for a user as it is."""
    # A missing package that we ask for has no name there; one that Python failed to import has.
    asked_for = isinstance(error, ModuleNotFoundError) and error.name is None
    return asked_for or isinstance(error, (ValueError, OSError, FloatingPointError))


def _show_warnings_plainly() -> None:
    """Warnings of this package as one line; those of other libraries only with --debug."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if "sdd_fast" in filename or state.debug or state.verbose:
            _print(f"sdd: warning: {message}", sys.stderr)

    warnings.showwarning = show
    # Those of images name their file: nothing is to be remembered of each in a folder of thousands.
    warnings.filterwarnings("always", module=r"sdd_fast\.images$", append=True)
