"""Writes docs/api.md: every public name, what it takes, and the first sentences of its docstring.

python tools/api_page.py
"""

from __future__ import annotations

import inspect
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import sdd_fast as sdd
from sdd_fast import metrics

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "api.md"

HEAD = """# API

`import sdd_fast as sdd`. Made of the code by `tools/api_page.py`: the first sentences only.
`help(sdd.hqs)` has the rest: shapes, ranges of values, errors and sources. Modules that are not
named here, in the README or in the guide may change.
"""

# The order of the page; together they are sdd_fast.__all__ and the ops.
GROUPS = {
    "Selection": ["hqs", "HQSCurve"],
    "Guidance": [
        "guidance", "Guidance", "GuidanceConfig", "residual", "image_gradient",
        "balanced_guidance_scale",
    ],
    "Distillation": [
        "distill", "DistillConfig", "EarlyStop", "DistillResult", "PromptsFailed", "EditMonitor",
    ],
    "Editing and export": [
        "Editor", "SaveAs", "edit_video", "MapperInfo", "save_mapper", "load_mapper",
        "export_edit", "export_torchscript", "load_torchscript", "load_image",
    ],
    "Domains and teachers": ["load_domain", "Domain", "DiffusionPrior", "PromptEmbeds"],
    "Checkpoints": [
        "load_generator", "load_encoder", "load_identity", "load_clip", "load_latents",
        "load_styles", "convert",
    ],
    "Networks": [
        "LatentGenerator", "StyleGAN2", "LevelsMapper", "StyleSpaceMapper", "Encoder",
        "ConvClassifier", "ConvEmbedding",
    ],
    "Installation": ["build_info"],
}  # fmt: skip


def signature(name: str, thing: Any) -> str:
    """As in the source, without the annotations: those are in the docstring, in words."""
    if getattr(thing, "_is_protocol", False):  # it is not called
        return name
    parameters = [
        p.replace(annotation=inspect.Parameter.empty)
        for p in inspect.signature(thing).parameters.values()
        if p.name != "self"
    ]
    shown = str(inspect.Signature(parameters)).replace("<factory>", "…")
    return f"{name}{shown}"


def summary(thing: Any) -> str:
    """The first paragraph of the docstring, on one line."""
    doc = inspect.getdoc(thing) or ""
    if not doc:
        raise ValueError(f"{thing} is public and has no docstring")
    return re.sub(r"\s+", " ", doc.split("\n\n")[0])


def source(thing: Any) -> str:
    path = Path(inspect.getsourcefile(inspect.unwrap(thing)) or "").resolve().relative_to(ROOT)
    return f"[{path}](../{path})"


def members(cls: type) -> list[str]:
    """Its own, and those that it has of other classes of its package."""
    package = cls.__module__.partition(".")[0]
    found: dict[str, Any] = {}
    for base in cls.__mro__:
        if base.__module__.partition(".")[0] == package:
            found = {**found, **{key: it for key, it in vars(base).items() if key not in found}}
    lines = []
    for name, member in found.items():
        value = isinstance(member, property | cached_property)
        if name.startswith("_") or not inspect.getdoc(member):
            continue
        if value or inspect.isfunction(getattr(cls, name)) or inspect.ismethod(getattr(cls, name)):
            shown = name if value else signature(name, getattr(cls, name))
            lines.append(f"- `.{shown}`: {summary(member)}")
    return lines


def entry(name: str, thing: Any) -> list[str]:
    lines = [
        f"### `{name}`",
        "",
        f"`{signature(name, thing)}` · {source(thing)}",
        "",
        summary(thing),
    ]
    listed = members(thing) if inspect.isclass(thing) else []
    return [*lines, "", *listed, ""] if listed else [*lines, ""]


METRICS = [
    "evaluate", "EditMetrics", "right_answers", "counterfactual_error", "CounterfactualError",
    "measure_attributes", "AttributeOutcome", "read_attributes", "clip_similarity",
    "ClipSimilarity", "identity_similarity", "domain_distance", "FeatureDistance", "load_lpips",
    "lpips_distance", "Reference", "FeatureDistances", "domain_features", "inception_features",
    "FeatureNetwork", "frechet_distance", "kernel_distance", "KernelDistance",
    "bootstrap_interval", "hierarchical_interval", "share_interval", "jackknife_interval",
    "Interval", "paired_difference", "PairedDifference", "sign_flip_test", "holm",
]  # fmt: skip


def page() -> str:
    lines = [HEAD]
    for group, names in GROUPS.items():
        lines += [f"## {group}", ""]
        for name in names:
            lines += entry(name, getattr(sdd, name))
    lines += ["## Metrics: `sdd_fast.metrics`", ""]
    for name in METRICS:
        lines += entry(name, getattr(metrics, name))
    lines += ["## Ops: `sdd.ops`", ""]
    for name in sdd.ops.__all__:
        lines += entry(name, getattr(sdd.ops, name))
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")
