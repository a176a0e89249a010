"""On faces64: a baseline that costs seconds reaches its target on faces that nothing has seen."""

from __future__ import annotations

from sdd_fast.baselines import load_baseline
from sdd_fast.domains import load_domain
from sdd_fast.domains.faces64.edits import EDITS
from sdd_fast.domains.faces64.held_out import faces_without
from sdd_fast.domains.faces64.renderer import render
from sdd_fast.metrics.attributes import measure_attributes


def test_stylemc_gives_most_held_out_faces_glasses() -> None:
    domain, prompt = load_domain("faces64"), "a face with glasses"
    people = faces_without(*EDITS[prompt], 16, seed=77_000)
    faces = render(people, domain.resolution)
    edited = load_baseline("stylemc", domain, steps=60).edit(faces, prompt)
    found = measure_attributes(domain, faces, edited, EDITS[prompt], labels=people.labels)
    assert found.success is not None and found.had is not None
    assert not found.had.any()
    assert found.success.double().mean() > 0.5
    assert found.kept_mean.mean() > 0.5
