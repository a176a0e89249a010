"""What a training tells of its domain besides: quality.json, checked, and what was held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import read_json
from ..schema import Rule, is_list_of, is_number, is_object_of, is_text, problems

QUALITY_FILE = "quality.json"
HELD_OUT_FILE = "held-out.json"
"""Names the images of a trained domain that no part of it was trained on."""


def read_quality(folder: Path) -> dict[str, Any] | None:
    """Return the content of a domain's quality.json; None if there is none.

    Raises:
        ValueError: it is damaged; says what to do.
    """
    path = folder / QUALITY_FILE
    if not path.exists():
        return None
    try:
        content = _from_earlier(read_json(path))
        found = problems(content, _RULES)
    except (OSError, ValueError) as error:
        found = [str(error)]
    if found:
        raise ValueError(
            f"{path} is damaged: {'; '.join(found)}. Delete it, and reports do without; or measure "
            "again where the domain was trained: sdd train-domain … --parts quality"
        )
    measured: dict[str, Any] = content
    return measured


def with_images(figures: Any) -> Any:
    """Return figures with "images" for the number that earlier versions called "faces"."""
    if not isinstance(figures, dict) or "faces" not in figures:
        return figures
    return {"images" if key == "faces" else key: value for key, value in figures.items()}


def _from_earlier(content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    content = {key: with_images(value) for key, value in content.items()}
    if isinstance(content.get("edits"), list):
        content["edits"] = [with_images(edit) for edit in content["edits"]]
    return content


def read_held_out_images(folder: Path) -> tuple[str, ...]:
    """Return the names in a domain's held-out.json; () if there is none.

    Raises:
        ValueError: it is damaged.
    """
    path = folder / HELD_OUT_FILE
    if not path.exists():
        return ()
    told = read_json(path)
    if not isinstance(told, dict) or not is_list_of(is_text)(told.get("images")):
        raise ValueError(f'{path} is damaged: expected {{"images": [names]}}')
    return tuple(told["images"])


def _rule(rules: Mapping[str, Rule]) -> Rule:
    return Rule(lambda value: not problems(value, rules), f"an object of {', '.join(rules)}")


def _is_worst(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and is_text(value[0]) and is_number(value[1])


_NUMBER = Rule(is_number, "a number", required=True)
_SHARES = Rule(is_object_of(is_number), "an object of numbers", required=True)
_PARTS = dict.fromkeys(("images", "vae_psnr", "generator_psnr"), _NUMBER) | dict.fromkeys(
    ("classifier", "survival_vae", "survival_generator"), _SHARES
)
_SAMPLES = dict.fromkeys(("accuracy_mean", "per_prompt", "color_cast"), _NUMBER)
_EDIT = dict.fromkeys(("images", "success", "kept_mean"), _NUMBER) | {
    "prompt": Rule(is_text, "text", required=True),
    "timesteps": Rule(is_list_of(is_number), "a list of timesteps", required=True),
    "kept_worst": Rule(_is_worst, "a name and a number", required=True),
    "identity": Rule(is_number, "a number"),
}
_RULES = {
    "parts": _rule(_PARTS),
    "samples": _rule(_SAMPLES | {"accuracy": _SHARES}),
    "edits": Rule(
        is_list_of(lambda value: not problems(value, _EDIT)), f"a list of {', '.join(_EDIT)}"
    ),
    "edit_config": _rule(dict.fromkeys(("steps", "batch_size"), _NUMBER)),
}
