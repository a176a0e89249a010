"""run.json: what a run was asked for, what came out, how long it took and on which versions."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..distillation.config import DistillConfig
from ..distillation.judge import CODES, EARLIER_CODES, NEEDED, from_earlier, judge
from ..domains.embedded import reader_of
from ..domains.quality import with_images
from ..domains.spec import complete_nouns
from ..files import PathLike, expanded, read_json
from ..run_folder import RUN_FILE, RUN_FORMAT as FORMAT
from ..schema import Rule, is_list_of, is_number, is_object_of, is_text, is_whole, problems

if TYPE_CHECKING:
    from ..domains import Domain

VERSION = 2


def _is_string(value: Any) -> bool:
    return isinstance(value, str)


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_distill(value: Any) -> bool:
    if not _is_object(value) or not is_whole(value.get("steps")):
        return False
    guidance = value.get("guidance")  # None until it is balanced
    return guidance is None or (_is_object(guidance) and is_number(guidance.get("guidance_scale")))


def _is_quality(value: Any) -> bool:
    """Whether it is what an `AttributeReader` measures, with at least one other attribute."""
    wanted = ("attribute", "values", "images", "success", "kept", "kept_mean", "identity")
    return (
        _is_object(value)
        and all(key in value for key in wanted)
        and is_object_of(is_number)(value["kept"])
        and bool(value["kept"])
        and is_number(value["success"])
    )


def _is_monitor(value: Any) -> bool:
    """Whether it is what an `EditMonitor` measured; what was not finite is null."""
    return _is_object(value) and all(
        key in value and (value[key] is None or is_number(value[key])) for key in NEEDED
    )


def _is_verdict(value: Any) -> bool:
    return (
        _is_object(value)
        and value.keys() == {"level", "code", "advice"}
        and value["level"] in ("good", "fair", "bad")
        and value["code"] in (*CODES, *EARLIER_CODES)
        and is_list_of(_is_string)(value["advice"])
    )


_BEGUN = {
    "prompt": Rule(is_text, "the prompt", required=True),
    "domain": Rule(is_text, "the domain's name", required=True),
    "domain_reference": Rule(
        lambda value: is_text(value) or _is_object(value), "text or an object", required=True
    ),
    "resolution": Rule(is_whole, "a whole number", required=True),
    "source_text": Rule(_is_string, "text", required=True),
    "complete": Rule(lambda value: isinstance(value, bool), "true or false", required=True),
    "command": Rule(_is_string, "text", required=True),
    "distill": Rule(_is_distill, "the settings of the training", required=True),
    "seconds": Rule(is_object_of(is_number), "an object of seconds", required=True),
    "distilled_together": Rule(is_whole, "a number of prompts"),
    "started": Rule(_is_string, "a time", required=True),
    "versions": Rule(_is_object, "an object", required=True),
    "nouns": Rule(is_object_of(_is_string), "an object of texts", required=True),
    "unknown_words": Rule(is_list_of(_is_string), "a list of words"),
    "known_prompts": Rule(is_list_of(_is_string), "a list of prompts"),
    "timesteps": Rule(is_list_of(is_whole), "a list of timesteps"),
    "rule": Rule(_is_string, "text"),
    "dtype": Rule(_is_string, "text"),
    "attention": Rule(
        is_object_of(lambda value: _is_object(value) and _is_string(value.get("backend"))),
        "an object that names the backend of each shape",
    ),
}
"""What every record has from its beginning, see `new_record`."""

_COMPLETE = _BEGUN | {
    "timesteps": Rule(is_list_of(is_whole), "a list of timesteps", required=True),
    "rule": Rule(_is_string, "text", required=True),
    "monitor": Rule(_is_monitor, "the figures of a monitor", required=True),
    "quality": Rule(_is_quality, "the figures of an edit"),
    "unedited": Rule(_is_quality, "the figures of an edit"),
    "verdict": Rule(_is_verdict, "an object of level, code and advice", required=True),
    "levels": Rule(is_list_of(_is_string), "a list of levels", required=True),
    "limits": Rule(_is_string, "text"),
    "reconstruction_psnr": Rule(is_number, "a number"),
    "milliseconds_per_edit": Rule(is_number, "a number", required=True),
    "domain_quality": Rule(_is_object, "an object"),
}
"""What a complete run's record has besides."""


def read_run(folder: PathLike) -> dict[str, Any]:
    """Return the content of a run's run.json; of an earlier version, as today's would hold it.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not one that this version of the package wrote, or it is damaged.
    """
    path = expanded(folder) / RUN_FILE
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{path} is not the record of a run of sdd_fast")
    if record.get("version") not in (1, VERSION):
        raise ValueError(f"{path} has version {record.get('version')!r}, expected {VERSION}")
    try:
        record = _from_earlier(record) if record["version"] == 1 else record
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {error!r}") from error
    record |= {key: with_images(record[key]) for key in ("quality", "unedited") if key in record}
    found = problems(record, _COMPLETE if record.get("complete") is True else _BEGUN)
    if found:
        raise ValueError(f"{path} is damaged: {'; '.join(found)}")
    if record["complete"]:
        code = record["verdict"]["code"]
        record["verdict"]["code"] = EARLIER_CODES.get(code, code)
    return record


def _from_earlier(record: dict[str, Any]) -> dict[str, Any]:
    """A record of version 1, which had words where there are codes now."""
    found = dict(record) | {"version": VERSION}
    rendered = found.pop("rendered_faces", False)
    reader = reader_of("faces64") if rendered or found.get("domain") == "faces64" else None
    found["nouns"] = complete_nouns(reader.NOUNS if reader else {})
    if found.get("complete") is True:
        found["limits"] = reader.LIMITS if reader and rendered else None
        found["monitor"] = from_earlier(found["monitor"])
        words = found.get("unknown_words", ())
        found["verdict"] = asdict(judge(found["monitor"], found["quality"], words))
        found["verdict"]["advice"] = list(found["verdict"]["advice"])
    return found


def new_record(
    domain: Domain, prompt: str, config: DistillConfig, command: str, earlier: dict[str, Any]
) -> dict[str, Any]:
    """Return the record of a run that starts, or continues `earlier`."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {
        "format": FORMAT,
        "version": VERSION,
        "prompt": prompt,
        "domain": domain.name,
        "domain_reference": domain.reference,
        "nouns": domain.nouns,
        "known_prompts": list(domain.prompts),
        "resolution": domain.resolution,
        "source_text": domain.source_text,
        "complete": False,
        "command": command or earlier.get("command", ""),
        "dtype": str(domain.prior.dtype).removeprefix("torch."),
        "attention": domain.prior.attention,
        "distill": asdict(config),
        "seconds": dict(earlier.get("seconds", {})),
        "distilled_together": earlier.get("distilled_together", 1),
        "started": earlier.get("started", now),
        "versions": versions(domain.device),
    }


def without_nan(value: Any) -> Any:
    """Return `value` with None for what is not finite: JSON has neither NaN nor infinity."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def versions(device: str) -> dict[str, Any]:
    """Return what the figures of a run depend on besides its settings."""
    from .. import __version__

    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _cpu_name()
    return {
        "sdd_fast": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": f"{device} ({name})",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        named = (line for line in lines if line.startswith("model name"))
        return next(named).split(":", 1)[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
