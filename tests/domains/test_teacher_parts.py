"""LoRAs, VAEs and variants reach a domain's teacher: by Python, domain file and command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
from cli_runner import Sdd
from safetensors.torch import save_file
from tiny_domain import write_tiny_domain

from sdd_fast.domains import load_domain
from sdd_fast.teacher.prior import DiffusionPrior

LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.fixture
def folder(tiny_sd: Path, tmp_path: Path) -> Path:
    """A domain whose teacher has float16 weights too, with a LoRA and a VAE beside it."""
    domain = write_tiny_domain(tmp_path / "tiny", tiny_sd)
    (domain / "diffusion").unlink()
    unet = shutil.copytree(tiny_sd, domain / "diffusion") / "unet/diffusion_pytorch_model"
    prior = DiffusionPrior.from_pretrained(tiny_sd)
    prior.unet.half().save_pretrained(unet.parent, variant="fp16")
    with torch.no_grad():
        prior.vae.encoder.conv_out.weight.mul_(2)
    prior.vae.save_pretrained(domain / "better-vae")
    a, b = torch.eye(32)[:1].contiguous(), torch.eye(32)[:, :1].contiguous()
    save_file(
        {f"unet.{LAYER}.lora_A.weight": a, f"unet.{LAYER}.lora_B.weight": b},
        domain / "style.safetensors",
    )
    return domain


def what_it_is(prior: DiffusionPrior) -> tuple[float, float, float]:
    """The element that the LoRA adds to, a weight that float16 rounds, one that the VAE doubles."""
    return (
        float(prior.unet.get_submodule(LAYER).weight[0, 0]),
        float(prior.unet.conv_in.weight[0, 0, 0, 0]),
        float(prior.vae.encoder.conv_out.weight[0, 0, 0, 0]),
    )


def test_by_python_by_domain_file_and_as_a_run_remembers_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    q, c, v = what_it_is(load_domain(folder).prior)
    half = float(torch.tensor(c).half())
    assert half != c
    changed = load_domain(
        folder, lora=folder / "style.safetensors", vae=folder / "better-vae", variant="fp16"
    )
    rounded = float(torch.tensor(q).half())
    expected = pytest.approx((rounded + 1, half, 2 * v), abs=1e-6)
    assert what_it_is(changed.prior) == expected
    assert what_it_is(load_domain(changed.reference).prior) == expected
    listing = json.loads((folder / "domain.json").read_text("utf-8"))
    listing |= {"lora": ["style.safetensors:0.25", "style.safetensors"], "vae": "better-vae"}
    (folder / "domain.json").write_text(json.dumps(listing), encoding="utf-8")
    assert what_it_is(load_domain(folder).prior) == pytest.approx((q + 1.25, c, 2 * v), abs=1e-6)
    # What is given is not looked for beside the domain's file.
    monkeypatch.chdir(folder.parent)
    save_file({"x": torch.zeros(1)}, "style.safetensors")
    with pytest.raises(ValueError, match="style.safetensors is .*; expected a LoRA"):
        _ = load_domain(folder, lora="style.safetensors").prior
    # Another teacher comes without what the domain names for its own.
    assert what_it_is(load_domain(folder, diffusion=folder / "diffusion").prior) == (q, c, v)
    assert what_it_is(load_domain(folder, vae=None, lora=[]).prior) == (q, c, v)


def test_on_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sdd, style = Sdd(capsys), folder / "style.safetensors"
    given = ("--domain", folder, "--images", 2, "--timesteps", "300,600", "--out")
    extra = ("--lora", f"{style}:2", "--lora", style, "--vae", folder / "better-vae")
    shown = sdd("select", "white hair", *given, folder / "run", *extra, "--variant", "fp16")
    assert shown.code == 0, shown.err
    assert f"--lora {style}:2 --lora {style}" in shown.out and "--variant fp16" in shown.out
    message = sdd.fails("select", "white hair", *given, folder / "other", "--lora", f"{style}x:1")
    assert f"the LoRA {style}x does not exist; expected FILE or FILE:scale" in message
    message = sdd.fails("select", "white hair", *given, folder / "other", "--vae", style)
    assert "is a LoRA, which changes a diffusion model" in message and "expected a VAE" in message
    message = sdd.fails("select", "white hair", *given, folder / "other", "--diffusion", style)
    assert "--lora FILE" in message


def test_a_missing_generator_is_said_before_the_hub_is_asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked(*_: object, **__: object) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", asked)
    monkeypatch.setenv("SDD_FAST_CHECKPOINTS", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    message = Sdd(capsys).fails("select", "white hair", "--domain", "ffhq-1024")
    assert "the generator of ffhq-1024 is missing" in message
    assert "--clip FOLDER" in " ".join(Sdd(capsys)("info", "ffhq-1024").out.split())
