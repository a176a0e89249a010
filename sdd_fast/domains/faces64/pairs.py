"""Rendered faces before and after an edit: the right answer, which no photograph has."""

from __future__ import annotations

import torch
from torch import Tensor

from ... import draws
from .attributes import ATTRIBUTES, value_index
from .captions import caption_about
from .renderer import Faces, render, sample_faces


def edited_pairs(
    count: int, resolution: int, rng: torch.Generator
) -> tuple[Tensor, Tensor, list[str]]:
    """Draw faces, the same faces with one attribute changed, and a caption about that attribute.

    Returns:
        before, after: [count, 3, R, R] in [-1, 1]. captions: such as "a photo of a bald face".
    """
    faces = sample_faces(count, rng)
    words = draws.choices(int(torch.randint(2**31, (1,), generator=rng)))
    after = {name: labels.clone() for name, labels in faces.labels.items()}
    bald = value_index("hair_length", "bald")
    captions = []
    for i in range(count):
        names = list(ATTRIBUTES)
        if after["hair_length"][i] == bald:
            names.remove("hair_color")  # which would not be seen
        attribute = words.choice(names)
        values = list(ATTRIBUTES[attribute])
        del values[int(after[attribute][i])]
        value = words.choice(values)
        after[attribute][i] = value_index(attribute, value)
        captions.append(caption_about(attribute, value, words))
    return render(faces, resolution), render(Faces(after, faces.geometry), resolution), captions
