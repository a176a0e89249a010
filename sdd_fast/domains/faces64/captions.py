"""Captions of rendered faces, as people write them: some long, most short, attributes left out.

Half of the captions name a single attribute, so that a prompt such as "a face with white hair"
is as familiar to the text encoder and the diffusion model as a full description. The shipped
teacher did not learn all of these words: the guide lists which it ignores.
"""

from __future__ import annotations

import random

from torch import Tensor

from .attributes import ATTRIBUTES

_SUBJECTS = ("face", "person", "portrait")
_FRAMES = ("a photo of {}", "{}", "a picture of {}", "an image of {}")
_EXPRESSION = {
    "neutral": ("neutral",),
    "smiling": ("smiling", "happy"),
    "angry": ("angry",),
    "surprised": ("surprised",),
}
_YAW = {
    "front": ("front view", "facing the camera"),
    "left": ("side view", "turned to the left", "looking left"),
    "right": ("side view", "turned to the right", "looking right"),
}
_ABSENT_RATE = 0.25  # how often the absence of glasses or beard is worth a word

SOURCE_TEXT = "a photo of a face"


def caption(values: dict[str, str], rng: random.Random) -> str:
    """Write a caption of a face with these attribute values, some dropped at random."""
    return _write(_drop(values, rng), values, rng)


def caption_about(attribute: str, value: str, rng: random.Random) -> str:
    """Write a caption that names one attribute's value alone.

    >>> caption_about("hair_color", "white", random.Random(5))
    'a face with white hair'
    """
    name = "hair" if attribute.startswith("hair") else attribute
    return _write([name], {attribute: value}, rng)


def _write(names: list[str], values: dict[str, str], rng: random.Random) -> str:
    before: list[str] = []  # adjectives
    wearing: list[str] = []  # "with …"
    after: list[str] = []
    for name in names:
        value = values.get(name, "")  # "hair" stands for color and length together
        if name == "skin":
            wearing.append(f"{value} skin")
        elif name == "expression":
            before.append(rng.choice(_EXPRESSION[value]))
        elif name == "hair":
            wearing, before = _hair(values, wearing, before, rng)
        elif name == "glasses":
            wearing.append("glasses" if value == "yes" else "no glasses")
        elif name == "beard":
            if value == "yes":
                wearing.append("a beard")
            else:
                before.append("shaved")
        elif name == "yaw":
            after.append(rng.choice(_YAW[value]))
        elif name == "background":
            after.append("on " + _with_article(f"{value} background"))
    rng.shuffle(before)
    rng.shuffle(wearing)
    noun = " ".join([*before, rng.choice(_SUBJECTS)])
    text = _with_article(noun)
    if wearing:
        text += " with " + " and ".join(wearing)
    for phrase in after:
        text += f", {phrase}"
    return rng.choice(_FRAMES).format(text)


def _with_article(noun: str) -> str:
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def _drop(values: dict[str, str], rng: random.Random) -> list[str]:
    names = ["skin", "hair", "expression", "glasses", "beard", "yaw", "background"]
    if values["glasses"] == "no" and rng.random() > _ABSENT_RATE:
        names.remove("glasses")
    if values["beard"] == "no" and rng.random() > _ABSENT_RATE:
        names.remove("beard")
    rng.shuffle(names)
    count = 1 if rng.random() < 0.5 else rng.randint(2, len(names))
    if rng.random() < 0.03:
        count = 0  # the bare source text
    return names[:count]


def _hair(
    values: dict[str, str], wearing: list[str], before: list[str], rng: random.Random
) -> tuple[list[str], list[str]]:
    color, length = values.get("hair_color"), values.get("hair_length")
    if length == "bald":
        return wearing, [*before, "bald"]
    which = rng.random()
    if length is None or (color is not None and which < 0.5):
        return [*wearing, f"{color} hair"], before
    if color is None or which < 0.75:
        return [*wearing, f"{length} hair"], before
    return [*wearing, f"{length} {color} hair"], before


def captions(labels: dict[str, Tensor], rng: random.Random) -> list[str]:
    """Write a caption for each row of `labels` ({attribute: int64 [B]})."""
    rows = {name: labels[name].tolist() for name in ATTRIBUTES}
    n = len(next(iter(rows.values())))
    return [
        caption({name: ATTRIBUTES[name][rows[name][i]] for name in ATTRIBUTES}, rng)
        for i in range(n)
    ]
