"""What a domain can do at all, as measured when it was trained: a section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .page import details, duration, number, percent, table
from .verdict import words


def domain_section(quality: Mapping[str, Any] | None) -> str:
    """The domain's quality.json in words and tables; "" if nothing was measured.

    Every table is left out whose figures the file does not have.
    """
    if not quality:
        return ""
    body = _parts(quality.get("parts")) + _samples(quality.get("samples"))
    body += _edits(quality.get("edits"), quality.get("edit_config"))
    return body


def _parts(parts: Mapping[str, Any] | None) -> str:
    if not parts:
        return ""
    rows = [
        [
            escape(words(name)),
            percent(share),
            percent(parts["survival_vae"].get(name)),
            percent(parts["survival_generator"].get(name)),
        ]
        for name, share in parts["classifier"].items()
    ]
    head = ["read as drawn", "picture itself", "after the VAE", "after encoder + generator"]
    return (
        f"<p>On {parts['faces']} held-out faces the diffusion model's VAE redraws a picture with "
        f"<b>{number(parts['vae_psnr'], 1)} dB</b>, encoder and generator with "
        f"<b>{number(parts['generator_psnr'], 1)} dB</b>. What of a face survives that bounds what "
        "any edit can keep:</p>\n" + table(head, rows, numbers=(1, 2, 3))
    )


def _samples(samples: Mapping[str, Any] | None) -> str:
    if not samples:
        return ""
    rows = [[f"“{escape(p)}”", percent(share)] for p, share in samples["accuracy"].items()]
    return (
        "<p>Asked for a picture, the diffusion model draws what the prompt says in "
        f"<b>{percent(samples['accuracy_mean'])}</b> of samples ({samples['per_prompt']} for each "
        f"of {len(rows)} prompts). Their mean red, green and blue differ from those of rendered "
        f"faces by at most {number(samples['color_cast'], 1)} of 255.</p>\n"
        + details("Every prompt", table(["prompt", "drawn as asked"], rows, numbers=(1,)))
    )


def _edits(edits: list[Mapping[str, Any]] | None, config: Mapping[str, Any] | None) -> str:
    if not edits or not config:
        return ""
    rows = []
    for edit in edits:
        head, share = edit["kept_worst"]
        rows.append([
            f"“{escape(edit['prompt'])}”",
            ", ".join(str(t) for t in edit["timesteps"]),
            percent(edit["success"]),
            percent(edit["kept_mean"]),
            f"{percent(share)} ({escape(words(head))})",
            number(edit["identity"]),
            duration(edit.get("distill_seconds")),
        ])  # fmt: skip
    head_row = [
        "edit", "t", "target reached", "others kept", "least kept", "same person", "distilled in",
    ]  # fmt: skip
    return (
        f"<p>Edits by this method, {config['steps']} steps of {config['batch_size']} latents each, "
        f"at the timesteps of largest HQS; {edits[0]['faces']} held-out faces per prompt that "
        "lacked the target:</p>\n" + table(head_row, rows, numbers=(2, 3, 5, 6))
    )
