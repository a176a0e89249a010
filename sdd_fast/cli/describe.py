"""What a file or folder is: facts for `sdd info`. Reads descriptions, executes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from .console import explain
from .describe_export import exported

if TYPE_CHECKING:
    from sdd_fast.selection.curve import HQSCurve

Facts = dict[str, Any]
"""What to print; the first entry says what the thing is."""


def describe(path: Path) -> Facts:
    """What is at `path`.

    Raises:
        FileNotFoundError: nothing. ValueError: nothing that belongs to this package.
    """
    from sdd_fast.decoding import suffixes
    from sdd_fast.domains.domain import EMBEDDED, PRESETS

    if not path.exists():
        path = EMBEDDED.get(str(path)) or PRESETS.get(str(path)) or path
    if not path.exists():
        return _on_hub(path)
    if path.is_dir():
        return _folder(path)
    if path.suffix.lower() == ".json":
        return _json_file(path)
    if path.suffix.lower() in suffixes():
        return _picture(path)
    return exported(path) or _checkpoint(path)


def _on_hub(path: Path) -> Facts:
    from sdd_fast.hub.download import local_source
    from sdd_fast.hub.names import hub_name

    name = hub_name(path)
    if name is None:
        raise FileNotFoundError(f"there is no file or folder {path}")
    found = local_source(path)
    return _checkpoint(found) | {"on the hub": f"{name}, commit {found.parent.name}"}


def _folder(path: Path) -> Facts:
    from sdd_fast.checkpoints.clip import is_clip
    from sdd_fast.hub.contents import EDITOR_FILE
    from sdd_fast.run_folder import CURVE_FILE, MAPPER_FILE, REPORT_FILE, RUN_FILE
    from sdd_fast.teacher.folder import kin_of_folder

    if (path / RUN_FILE).exists():
        return _run(path)
    if (path / "domain.json").exists():
        return _domain(path)
    if (path / "model_index.json").exists():
        return _diffusion(path)
    if is_clip(path):
        return _clip(path)
    if (path / "time-cost.json").exists():
        return _time_cost(path / "time-cost.json")
    runs = sorted(inner.parent for inner in path.glob(f"*/{RUN_FILE}"))
    if runs:
        facts: Facts = {"folder of runs": path}
        for run in runs:
            try:
                facts[run.name] = _run(run)["verdict"]
            except ValueError as error:
                facts[run.name] = f"damaged: {error}"
        if (path / REPORT_FILE).exists():
            facts["report"] = path / REPORT_FILE
        return facts
    if (path / MAPPER_FILE).exists():
        facts = _checkpoint(path / MAPPER_FILE)
        return facts | ({"not of this run": reason} if (reason := _not_own(path)) else {})
    if (path / EDITOR_FILE).exists():
        return _checkpoint(path / EDITOR_FILE)
    if (path / CURVE_FILE).exists():
        return _json_file(path / CURVE_FILE)
    if any(path.glob("training/*.checkpoint.safetensors")):
        rest = "not complete; the command of `sdd train-domain` that began it goes on"
        return {"domain": path, "training": rest}
    if kin := kin_of_folder(path):
        return {"part of a diffusion model": path, "holds": kin}
    from sdd_fast.decoding import list_images
    from sdd_fast.training.captions import LISTINGS, pictures_in, side_files

    captions = [name for name in LISTINGS if (path / name).exists()]
    try:
        pictures = pictures_in(path) if captions else list_images(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is no run, domain, Stable Diffusion or CLIP folder, or folder of pictures"
        ) from error
    if not captions and side_files(path, [Path(picture.name) for picture in pictures]):
        pictures = pictures_in(path)
        captions = [f"in files beside {len(side_files(path, pictures)):,} of them"]
    facts = {"folder of pictures": path, "pictures": len(pictures)}
    facts["captions"] = ", ".join(captions) or "none"
    return facts


def _clip(path: Path) -> Facts:
    from sdd_fast.checkpoints.load import load_clip

    length = load_clip(path).encode_texts(["a picture"]).shape[1]
    return {"clip": path, "texts and pictures": f"to unit vectors of {length} elements",
            "use": "--clip, a judge of edits"}  # fmt: skip


def _run(path: Path) -> Facts:
    from sdd_fast.report.wording import headline
    from sdd_fast.run_folder import CHECKPOINT_FILE, REPORT_FILE
    from sdd_fast.runs.record import read_run
    from sdd_fast.training_state import saved_step

    record = read_run(path)
    facts: Facts = {"run": path, "prompt": record["prompt"], "domain": record["domain"]}
    if record.get("attention"):
        kinds = dict.fromkeys(entry["backend"] for entry in record["attention"].values())
        facts["teacher"] = f"{record['dtype']}, attention by {text(list(kinds))}"
        if record["distill"].get("compile"):
            facts["teacher"] += f", compiled by {record['distill']['compile']}"
    if record.get("unknown_words"):
        facts["unknown words"] = f"{text(record['unknown_words'])}: the teacher never saw them"
    if record.get("timesteps"):
        facts["timesteps"] = f"{text(record['timesteps'])} ({record['rule']})"
    steps = record["distill"]["steps"]
    if record["complete"]:
        facts["steps"] = f"{steps}, complete"
        verdict = f"{record['verdict']['level']}: {headline(record)}"
        facts["verdict"] = _lost(path) or verdict
        facts["report"] = path / REPORT_FILE
    else:
        checkpoint = path / CHECKPOINT_FILE
        done = saved_step(checkpoint) if checkpoint.exists() else 0
        facts["steps"] = f"{done} of {steps}"
        facts["verdict"] = "not finished; give the same command again to go on"
        facts["command"] = record["command"]
    return facts


def _lost(path: Path) -> str:
    """What keeps the edit of a complete run from being used, "" if nothing does."""
    from sdd_fast.checkpoints.load import load_mapper
    from sdd_fast.run_folder import CHECKPOINT_FILE, MAPPER_FILE

    if reason := _not_own(path):
        return reason
    try:
        load_mapper(path / MAPPER_FILE)
        return ""
    except (FileNotFoundError, ValueError) as error:
        whole = (path / CHECKPOINT_FILE).exists()
        cure = f"{CHECKPOINT_FILE} may have it" if whole else "without a checkpoint it is trained"
        return f"the mapper is lost: {error}. Give the same command again: {cure}"


def _not_own(path: Path) -> str:
    """Why the mapper in a run's folder is not the run's, in words of the command line; or ""."""
    from sdd_fast.run_folder import check_mapper_is_own

    try:
        check_mapper_is_own(path)
        return ""
    except ValueError as error:
        return explain(error)


def _domain(path: Path) -> Facts:
    from sdd_fast.domains import load_domain
    from sdd_fast.domains.domain import PRESETS
    from sdd_fast.domains.quality import HELD_OUT_FILE

    # Reads the domain file alone; networks load when used. A preset may lack files, by its name.
    name = path.stem if path in PRESETS.values() else str(path)
    domain = load_domain(name)
    spec = domain.spec
    facts: Facts = {"domain": path, "name": domain.name}
    if spec.resolution:
        facts["resolution"] = f"{spec.resolution} × {spec.resolution} pixels"
    facts["source text"] = domain.source_text
    facts["parts"] = sorted(spec.parts)
    if spec.absent:
        facts |= {f"no {part}": reason for part, reason in spec.absent.items()}
    if path.is_dir():
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        facts["size"] = f"{size / 2**20:.1f} MiB"
    if domain.prompt_templates:
        facts["prompt templates"] = domain.prompt_templates
    if domain.held_out_images:
        facts["held out"] = f"{len(domain.held_out_images)} pictures, named in {HELD_OUT_FILE}"
    if domain.prompts:
        facts["prompts"] = "; ".join(domain.prompts)
    parts = (domain.quality or {}).get("parts")
    if parts:
        facts["reconstruction"] = (
            f"VAE {parts['vae_psnr']:.1f} dB, encoder + generator {parts['generator_psnr']:.1f} dB"
        )
    if (path / "MODEL_CARD.md").exists():
        facts["model card"] = path / "MODEL_CARD.md"
    return facts


def _diffusion(path: Path) -> Facts:
    from sdd_fast.teacher.folder import describe_folder

    size = sum(f.stat().st_size for s in ("safetensors", "bin") for f in path.rglob(f"*.{s}"))
    facts = {"Stable Diffusion folder": path, **describe_folder(path)}
    return facts | {"size of weights": f"{size / 2**20:.1f} MiB"}


def _json_file(path: Path) -> Facts:
    from sdd_fast.files import read_json
    from sdd_fast.run_folder import RUN_FILE
    from sdd_fast.selection.curve import FORMAT, HQSCurve

    content = read_json(path)
    if isinstance(content, dict) and {"name", "source_text"} <= set(content):
        return _domain(path.parent if path.name == "domain.json" else path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        if path.name == "time-cost.json":
            return _time_cost(path)
        if path.name in (RUN_FILE, "domain.json", "model_index.json"):
            return _folder(path.parent)
        raise ValueError(
            f"{path} is JSON, but no HQS curve and no domain; see also its folder, {path.parent}"
        )
    curve = HQSCurve.load(path)
    facts: Facts = {
        "HQS curve": path,
        "prompt": curve.prompt,
        "timesteps": f"{curve.timesteps[0]} … {curve.timesteps[-1]} ({len(curve.timesteps)})",
        "images": curve.num_images,
        "largest": f"{curve.largest()} (HQS {float(curve.mean.max()):.3f})",
        "three best": curve.top(min(3, len(curve.timesteps))),
        "computed with": f"{curve.gradient_map}, {curve.normalize}, "
        f"guidance scale {curve.config.guidance_scale:g}, seed {curve.seed}, "
        f"gradient at the {curve.gradient_at}, {curve.search} search",
    }
    return facts | ({"adaptive search": certainty(curve)} if curve.search == "adaptive" else {})


def certainty(curve: HQSCurve) -> str:
    """What an adaptive search evaluated, and how sure its choice is."""
    spent, total = curve.evaluations
    sure = "how sure the largest is cannot be told from one image"
    if curve.confidence is not None:
        sure = f"the largest in {curve.confidence:.0%} of bootstraps"
    return f"{spent} of {total} evaluations, images: {curve.num_images}; {sure}"


def _time_cost(path: Path) -> Facts:
    from sdd_fast.timing.record import read_record
    from sdd_fast.timing.report import duration
    from sdd_fast.timing.time_cost import TABLES

    content = read_record(path)
    request, plan = content["request"], content.get("plan")
    facts: Facts = {
        "time cost of edits": path.parent,
        "domain": request.get("domain"),
        "device": f"{request.get('device')}, torch uses {request.get('threads')} of its cores",
    }
    if plan is None:
        facts["samples"] = sum(map(len, content["samples_s"].values()))
        facts["tables"] = "not finished; the command of `sdd bench time-cost` that began it goes on"
        return facts
    facts["computed for"] = f"{plan['images']:,} images for each of {plan['prompts']:,} prompts"
    facts["SDD"] = duration(content["ours"]["total"])
    for name, one in content["others"].items():
        facts[name] = duration(one["total"])
    return facts | {"tables": path.parent / TABLES}


def _checkpoint(path: Path) -> Facts:
    """Weights or latents of any program, also those that are refused; ValueError for the rest."""
    from sdd_fast.checkpoints.inspect import describe_file

    facts = describe_file(path)
    return {facts.pop("network", "checkpoint"): path, **facts}


def _picture(path: Path) -> Facts:
    from sdd_fast.decoding import check_image

    kind, width, height, mode = check_image(path)
    return {f"{kind} picture": path, "size": f"{width} × {height} pixels, {mode}"}


def text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {text(inner)}" for name, inner in value.items())
    return str(value)
