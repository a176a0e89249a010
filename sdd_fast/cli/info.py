"""sdd info: the installation, or what a file or folder is. Reads descriptions, executes nothing."""

from __future__ import annotations

import json
import platform
import struct
import zipfile
from pathlib import Path
from typing import Annotated, Any

import typer

from .console import command, say

Facts = dict[str, Any]  # what to print; the first entry says what the thing is


@command
def info(
    path: Annotated[
        Path | None,
        typer.Argument(help="A run folder, mapper, curve, domain, Stable Diffusion folder …"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Say what is installed, or what a file or folder is.

    Of files only the descriptions are read; nothing in them is executed.

    \b
    Examples:
      sdd info
      sdd info runs/demo
      sdd info white-hair.pt
    """
    facts = installation() if path is None else describe(path)
    if as_json:
        say(json.dumps(facts, indent=2, ensure_ascii=False, default=str))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        say(f"{name:<{width}}  {_text(value)}")


def installation() -> Facts:
    import importlib.metadata as metadata

    import torch

    import sdd_fast
    from sdd_fast.domains.domain import EMBEDDED

    facts: Facts = {"sdd_fast": sdd_fast.__version__, "folder": Path(sdd_fast.__file__).parent}
    facts["python"] = f"{platform.python_version()} on {platform.platform()}"
    facts["torch"] = torch.__version__
    for name in ("diffusers", "transformers", "safetensors"):
        try:
            facts[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            facts[name] = "not installed"
    facts |= _native_ops()
    facts["cpu"] = f"{platform.machine()}, torch uses {torch.get_num_threads()} of its cores"
    facts["gpu"] = (
        ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        if torch.cuda.is_available()
        else "none that torch can use"
    )
    for name, folder in EMBEDDED.items():
        there = (folder / "domain.json").exists()
        facts[f"domain {name}"] = folder if there else "its weights are missing"
    return facts


def _native_ops() -> Facts:
    import torch

    from sdd_fast._build_info import build_info

    found = build_info()
    if not found["native"]:
        none = f"none, the reference ops do the work: {found['native_missing']}"
        return {"native ops": none, "cuda kernels": f"none: {found['cuda_missing']}"}
    native = [name for name, kind in found["ops"].items() if kind == "native"]
    level = f"compiled by {found['compiler']}, running at {found['cpu_level']}"
    if found["cuda_missing"]:
        cuda = f"none: {found['cuda_missing']}"
    else:
        cuda = f"for {', '.join(found['cuda_targets'])} and newer GPUs"
        if not torch.version.cuda:
            cuda += f"; not in use, torch {torch.__version__} is a build without CUDA"
        elif not torch.cuda.is_available():
            cuda += "; not in use, torch finds no GPU"
    return {"native ops": f"{', '.join(native)} ({level})", "cuda kernels": cuda}


def describe(path: Path) -> Facts:
    """What is at `path`.

    Raises:
        FileNotFoundError: nothing. ValueError: nothing that belongs to this package.
    """
    from sdd_fast.domains.domain import EMBEDDED

    if not path.exists() and str(path) in EMBEDDED:
        path = EMBEDDED[str(path)]
    if not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}")
    if path.is_dir():
        return _folder(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        return _json_file(path)
    if zipfile.is_zipfile(path):
        return _torchscript(path)
    if suffix == ".safetensors":
        return _safetensors(path)
    return _picture(path)


def _folder(path: Path) -> Facts:
    if (path / "run.json").exists():
        return _run(path)
    if (path / "domain.json").exists():
        return _domain(path)
    if (path / "model_index.json").exists():
        return _diffusion(path)
    runs = sorted(inner.parent for inner in path.glob("*/run.json"))
    if runs:
        facts: Facts = {"folder of runs": path}
        facts |= {run.name: _run(run)["verdict"] for run in runs}
        if (path / "report.html").exists():
            facts["report"] = path / "report.html"
        return facts
    if (path / "mapper.safetensors").exists():
        return _safetensors(path / "mapper.safetensors")
    if (path / "curve.json").exists():
        return _json_file(path / "curve.json")
    if any(path.glob("training/*.checkpoint.safetensors")):
        rest = "not complete; the command of `sdd train-domain` that began it goes on"
        return {"domain": path, "training": rest}
    from sdd_fast.images import list_images

    try:
        pictures = list_images(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is no run, domain, Stable Diffusion folder or folder of pictures"
        ) from error
    facts = {"folder of pictures": path, "pictures": len(pictures)}
    facts["captions"] = "metadata.jsonl" if (path / "metadata.jsonl").exists() else "none"
    return facts


def _run(path: Path) -> Facts:
    from sdd_fast.files import read_json
    from sdd_fast.report.record import read_run

    record = read_run(path)
    facts: Facts = {"run": path, "prompt": record["prompt"], "domain": record["domain"]}
    if record.get("timesteps"):
        facts["timesteps"] = f"{_text(record['timesteps'])} ({record['rule']})"
    steps = record["distill"]["steps"]
    if record["complete"]:
        facts["steps"] = f"{steps}, complete"
        facts["verdict"] = f"{record['verdict']['level']}: {record['verdict']['headline']}"
        facts["report"] = path / "report.html"
    else:
        history = read_json(path / "history.json") if (path / "history.json").exists() else []
        done = history[-1]["step"] if history else 0
        facts["steps"] = f"{done} of {steps}"
        facts["verdict"] = "not finished; give the same command again to go on"
        facts["command"] = record["command"]
    return facts


def _domain(path: Path) -> Facts:
    from sdd_fast.domains import load_domain

    domain = load_domain(path)  # reads domain.json alone; networks load when used
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    facts: Facts = {
        "domain": path,
        "name": domain.name,
        "resolution": f"{domain.resolution} × {domain.resolution} pixels",
        "source text": domain.source_text,
        "parts": sorted(domain.spec.parts),
        "size": f"{size / 2**20:.1f} MiB",
    }
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
    from sdd_fast.files import read_json

    def config(part: str, name: str = "config.json") -> Any:
        file = path / part / name
        return read_json(file) if file.exists() else {}

    index, unet, vae = read_json(path / "model_index.json"), config("unet"), config("vae")
    scheduler = config("scheduler", "scheduler_config.json")
    facts: Facts = {"Stable Diffusion folder": path, "pipeline": index.get("_class_name")}
    if unet and vae:
        factor = 2 ** (len(vae.get("block_out_channels", [1])) - 1)
        facts["resolution"] = f"{unet['sample_size'] * factor} pixels"
        facts["latents"] = f"{unet['in_channels']} × {unet['sample_size']} × {unet['sample_size']}"
    facts["prediction"] = scheduler.get("prediction_type", "unknown")
    facts["timesteps"] = scheduler.get("num_train_timesteps", "unknown")
    weights = sum(file.stat().st_size for file in path.rglob("*.safetensors"))
    facts["weights"] = f"{weights / 2**20:.1f} MiB of safetensors"
    return facts


def _json_file(path: Path) -> Facts:
    from sdd_fast.files import read_json
    from sdd_fast.hqs_curve import FORMAT, HQSCurve

    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        if path.name in ("run.json", "domain.json", "model_index.json"):
            return _folder(path.parent)
        raise ValueError(f"{path} is JSON, but no HQS curve; see also its folder, {path.parent}")
    curve = HQSCurve.load(path)
    return {
        "HQS curve": path,
        "prompt": curve.prompt,
        "timesteps": f"{curve.timesteps[0]} … {curve.timesteps[-1]} ({len(curve.timesteps)})",
        "pictures": curve.num_images,
        "largest": f"{curve.largest()} (HQS {float(curve.mean.max()):.3f})",
        "three best": curve.top(min(3, len(curve.timesteps))),
        "computed with": f"{curve.gradient_map}, {curve.normalise}, "
        f"guidance scale {curve.config.guidance_scale:g}, seed {curve.seed}",
    }


def _safetensors(path: Path) -> Facts:
    """The header alone: names, shapes and metadata come before the numbers."""
    with open(path, "rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= path.stat().st_size:
            raise ValueError(f"{path} is not a complete safetensors file")
        try:
            header = json.loads(file.read(length))
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a complete safetensors file ({error})") from error
    found = header.pop("__metadata__", {})
    kind = found.get("network", "tensors without a description")
    facts: Facts = {kind: path}
    for name in ("prompt", "lam", "levels", "timesteps", "domain"):
        if name in found:
            facts[name] = json.loads(found[name])
    if "config" in found:
        facts["configuration"] = found["config"]
    facts["tensors"] = len(header)
    facts["size"] = f"{path.stat().st_size / 1024:.0f} KiB"
    return facts


def _torchscript(path: Path) -> Facts:
    """The JSON beside the module, read as from any zip file: no code of the module runs."""
    with zipfile.ZipFile(path) as archive:
        extra = [name for name in archive.namelist() if name.endswith("/extra/sdd.json")]
        if not extra:
            kind = (
                "TorchScript without a description of this package"
                if any("/code/" in name for name in archive.namelist())
                else "a PyTorch pickle, which can run code when loaded and is refused here"
            )
            raise ValueError(f"{path} is {kind}")
        found = json.loads(archive.read(extra[0]))
    names = ("prompt", "lam", "levels", "timesteps", "domain", "extra")
    facts: Facts = {f"TorchScript of a {found.get('network')}": path}
    facts |= {name: found[name] for name in names if found.get(name)}
    facts["size"] = f"{path.stat().st_size / 1024:.0f} KiB"
    return facts


def _picture(path: Path) -> Facts:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            size = f"{picture.width} × {picture.height} pixels, {picture.mode}"
            return {f"{picture.format} picture": path, "size": size}
    except UnidentifiedImageError:
        raise ValueError(
            f"{path} is nothing that sdd_fast knows: expected a run folder, a mapper "
            "(.safetensors, .pt), a curve.json, a domain, a Stable Diffusion folder or a picture"
        ) from None


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    return str(value)
