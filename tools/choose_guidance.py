"""Try strengths of SDD's guidance on validation photographs of fashion32.

    python tools/choose_guidance.py     # stop it and go on at will

`Domain.guidance_rms` gives some prompts a strength of their own. Each is chosen as the settings of
baselines are (tools/tune_baselines.py): on photographs that no table shows, by success × others
kept, after the training of Table 1. Writes every trial to benchmarks/own-guidance-fashion32.json
as soon as it is measured.
"""

from __future__ import annotations

from typing import Any

from tune_baselines import BENCHMARKS, IMAGES, judge, shown_in

import sdd_fast as sdd
from sdd_fast.evidence.ours import SelectiveDistillation
from sdd_fast.files import read_json, write_json
from sdd_fast.gradients.config import GUIDANCE_RMS

DOMAIN = "fashion32"
VALUES = (0.8, 1.0, 1.25, 1.6, 2.0, GUIDANCE_RMS)
RESULTS = BENCHMARKS / f"own-guidance-{DOMAIN}.json"


def main() -> None:
    content: dict[str, Any] = read_json(RESULTS) if RESULTS.exists() else {}
    content |= {"domain": DOMAIN, "images": IMAGES}
    prompts = content.setdefault("prompts", {})
    for prompt in sdd.load_domain(DOMAIN).guidance_rms:
        trials = prompts.setdefault(prompt, [])
        tried = [one["guidance_rms"] for one in trials]
        for value in VALUES:
            if value not in tried:
                trials.append(trial(prompt, value))
                print(f"{prompt}: {trials[-1]}", flush=True)
                write_json(RESULTS, content)


def trial(prompt: str, value: float) -> dict[str, float]:
    """Train at one strength; return what the edits of the validation photographs reach."""
    domain = sdd.load_domain(DOMAIN)
    domain.guidance_rms = {prompt: value}
    editor, shown = SelectiveDistillation(domain), shown_in(domain, prompt, IMAGES)
    success, kept = judge(domain, shown, editor.edit(shown.images, prompt))
    found = {"guidance_rms": value, "success": success, "kept": kept, "score": success * kept}
    return {name: round(number, 4) for name, number in found.items()}


if __name__ == "__main__":
    main()
