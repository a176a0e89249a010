"""On faces64: a baseline that costs seconds reaches its target on faces that nothing has seen."""

from __future__ import annotations

import pytest

from sdd_fast.baselines import load_baseline
from sdd_fast.domains import load_domain
from sdd_fast.domains.faces64.attributes import value_index
from sdd_fast.domains.faces64.edits import EDITS
from sdd_fast.domains.faces64.measure import faces_without, read_attributes
from sdd_fast.domains.faces64.renderer import render


@pytest.mark.parametrize("name", ["stylemc"])
def test_white_hair_is_reached_on_most_held_out_faces(name: str) -> None:
    domain, prompt = load_domain("faces64"), "a face with white hair"
    attribute, values = EDITS[prompt]
    faces = render(faces_without(attribute, values, 24, seed=77_000), domain.resolution)
    wanted = value_index(attribute, values[0])
    assert not (read_attributes(domain, faces)[attribute] == wanted).any()
    edited = load_baseline(name, domain).edit(faces, prompt)
    reached = (read_attributes(domain, edited)[attribute] == wanted).double().mean()
    assert reached > 0.5
