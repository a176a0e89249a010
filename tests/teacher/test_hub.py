"""Hub ids: exactly what is needed is downloaded; offline they fail at once, with the cause."""

from __future__ import annotations

import shutil
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from sdd_fast.hub.download import from_hub
from sdd_fast.teacher.prior import DiffusionPrior


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No network, and no patience."""

    def refuse(*_: object, **__: object) -> None:
        raise socket.gaierror("Name or service not known")

    def never(_: float) -> None:
        raise AssertionError("waits to try again")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(time, "sleep", never)


@pytest.mark.usefixtures("offline")
def test_offline_the_cause_is_said_at_once() -> None:
    message = "hub id 'nobody/model' could not be read from it .*, and its cache has no model_index"
    with pytest.raises(FileNotFoundError, match=message) as caught:
        DiffusionPrior.from_pretrained("nobody/model")
    assert "Connect" in str(caught.value) or "not known" in str(caught.value)


@pytest.mark.usefixtures("offline")
def test_offline_what_was_downloaded_earlier_is_used(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(tiny_sd, tmp_path / "sd"))
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda name, file: str(folder / file)
    )
    assert DiffusionPrior.from_pretrained("someone/model").resolution == 32
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()  # an interrupted download
    with pytest.raises(FileNotFoundError, match="lacks unet/diffusion_pytorch_model.safetensors"):
        DiffusionPrior.from_pretrained("someone/model")


def answering(folder: Path, into: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the hub have the files of `folder`, and download into `into`; returns what it sent."""
    sent: list[str] = []

    def model_info(self: object, name: str, **_: object) -> SimpleNamespace:
        files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        siblings = [SimpleNamespace(rfilename=file) for file in files]
        return SimpleNamespace(siblings=siblings, sha="abc")

    def snapshot_download(name: str, allow_patterns: list[str]) -> str:
        for file in allow_patterns:
            if (folder / file).exists():
                sent.append(file)
                (into / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(folder / file, into / file)
        return str(into)

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return sent


def test_only_what_is_needed_is_downloaded(
    tiny_sdxl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Path(shutil.copytree(tiny_sdxl, tmp_path / "hub"))
    vae = there / "vae/diffusion_pytorch_model.safetensors"
    shutil.copy(vae, vae.with_suffix(".fp16.safetensors"))
    for extra in ("unet/diffusion_pytorch_model.bin", "safety_checker/model.safetensors",
                  "model.ckpt", "unet/diffusion_pytorch_model.onnx"):  # fmt: skip
        (there / extra).parent.mkdir(exist_ok=True)
        (there / extra).write_bytes(b"")
    for variant, name in ((None, ""), ("fp16", ".fp16")):
        into = tmp_path / f"cache{name}"
        sent = answering(there, into, monkeypatch)
        prior = DiffusionPrior.from_pretrained("someone/model", variant=variant)
        assert prior.text_encoder_2 is not None and prior.force_zeros_for_empty_prompt
        assert {file for file in sent if not file.endswith((".json", ".txt"))} == {
            f"vae/diffusion_pytorch_model{name}.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "text_encoder/model.safetensors",
            "text_encoder_2/model.safetensors",
        }


def test_nothing_large_is_downloaded_of_what_is_not_supported(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Path(shutil.copytree(tiny_sd, tmp_path / "hub"))
    index = there / "model_index.json"
    config = there / "unet/config.json"
    for path, old, new, message in (
        (config, '"in_channels": 4', '"in_channels": 9', "takes 9 channels"),
        (index, "StableDiffusionPipeline", "FluxPipeline", "of class 'FluxPipeline'; supported"),
    ):
        path.write_text(path.read_text("utf-8").replace(old, new), encoding="utf-8")
        sent = answering(there, tmp_path / f"cache-{path.stem}", monkeypatch)
        with pytest.raises(ValueError, match=message):
            DiffusionPrior.from_pretrained("someone/model")
        assert not [file for file in sent if file.endswith("safetensors")]
    index.unlink()
    answering(there, tmp_path / "cache", monkeypatch)
    with pytest.raises(FileNotFoundError, match="hub's someone/model has no model_index.json"):
        DiffusionPrior.from_pretrained("someone/model")


def test_an_incomplete_repository_is_named(
    tiny_sd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Path(shutil.copytree(tiny_sd, tmp_path / "hub"))
    (there / "unet/diffusion_pytorch_model.safetensors").unlink()
    answering(there, tmp_path / "cache", monkeypatch)
    with pytest.raises(FileNotFoundError, match="lacks unet/diffusion_pytorch_model.safetensors"):
        DiffusionPrior.from_pretrained("someone/model")


def test_a_repository_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    class Missing(RepositoryNotFoundError):
        def __init__(self) -> None:
            Exception.__init__(self, "404 Client Error")

    def model_info(self: object, name: str, **_: object) -> None:
        raise Missing

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    with pytest.raises(FileNotFoundError, match="'someone/model' is not on the hub, or is private"):
        from_hub("someone/model", list, "model_index.json")
