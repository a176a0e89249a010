"""No global state of the caller changes what a public function gives, nor does one change it."""

from __future__ import annotations

import os
import random
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_domain import RESOLUTION, write_tiny_domain
from torch import Tensor, nn

import sdd_fast as sdd
from sdd_fast import draws
from sdd_fast.domains.faces64.measure import measure_edit
from sdd_fast.domains.faces64.renderer import render, sample_faces
from sdd_fast.editing.animation import save_animation
from sdd_fast.images import save_png
from sdd_fast.inversion.invert import invert
from sdd_fast.inversion.refine import Refinement
from sdd_fast.metrics import evaluate

PROMPT, TIMESTEPS = "white hair", [800, 150]


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def default_device(device: str) -> Iterator[None]:
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_device(None)


@contextmanager
def strict(folder: Path) -> Iterator[None]:
    """Errors where there are warnings, other seeds, another folder."""
    before = torch.get_rng_state(), np.random.get_state(), random.getstate(), os.getcwd()  # noqa: NPY002
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(1234)
    np.random.seed(1234)  # noqa: NPY002
    random.seed(1234)
    os.chdir(folder)
    try:
        with warnings.catch_warnings(), np.errstate(all="raise"):
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", "the word .* is not in the vocabulary")  # it is not
            yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])  # noqa: NPY002
        random.setstate(before[2])
        os.chdir(before[3])


@contextmanager
def drawing_thread() -> Iterator[None]:
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            torch.randn(64)
            random.random()

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


STATES: dict[str, Callable[[Path], AbstractContextManager[Any]]] = {
    "autocast to bfloat16": lambda _: torch.autocast("cpu", torch.bfloat16),
    "autocast to float16": lambda _: torch.autocast("cpu", torch.float16),
    "no_grad": lambda _: torch.no_grad(),
    "inference_mode": lambda _: torch.inference_mode(),
    "float64 by default": lambda _: default_dtype(torch.float64),
    "bfloat16 by default": lambda _: default_dtype(torch.bfloat16),
    "no device by default": lambda _: default_device("meta"),
    "strict settings, seeds and folder": strict,
    "a thread that draws": lambda _: drawing_thread(),
}

NO_COMPUTATION = {
    "DistillConfig", "DistillResult", "EarlyStop", "Guidance", "GuidanceConfig", "LatentGenerator",
    "MapperInfo", "PromptEmbeds", "PromptsFailed", "SaveAs", "__version__", "build_info", "ops",
}  # fmt: skip
"""Data, and operators, which obey the caller's state as torch's own do."""


class Parts:
    """Files and networks of a small domain; made once, in the plain state."""

    def __init__(self, folder: Path, sd_folder: Path) -> None:
        self.folder = folder
        self.home = write_tiny_domain(folder / "tiny", sd_folder)
        self.domain = sdd.load_domain(self.home)
        self.prior = self.domain.prior
        self.images = render(sample_faces(3, torch.Generator().manual_seed(0)), RESOLUTION)
        self.picture = folder / "face.png"
        save_png(self.picture, self.images[0])
        self.embeds = self.prior.encode_prompt(PROMPT)
        layers, dim = self.domain.generator.num_layers, self.domain.generator.w_dim
        with draws.private(0):
            self.noise = torch.randn(3, *self.prior.latent_shape)
            self.mapper = sdd.LevelsMapper(layers, dim, ["coarse", "medium"], zero_init=False)
        self.info = sdd.MapperInfo(PROMPT, 0.3)
        sdd.save_mapper(folder / "mapper.safetensors", self.mapper, self.info)
        self.mapper.save(folder / "levels.safetensors")
        dims = self.domain.generator.style_dims
        sdd.StyleSpaceMapper(dims).save(folder / "styles.safetensors")
        torch.save([torch.randn(2, 1, dim, 1, 1) for dim in dims], folder / "styles.pt")
        self.curve = self.hqs()
        assert self.domain.clip and self.domain.encoder and self.domain.identity

    def hqs(self) -> sdd.HQSCurve:
        return sdd.hqs(
            self.prior, self.domain.held_out[:2], PROMPT, TIMESTEPS,
            generator=self.domain.generator, progress=False,
        )  # fmt: skip

    def distill(self) -> sdd.DistillResult:
        return sdd.distill(
            self.prior, self.domain.generator, self.domain.w_plus[:4], PROMPT, TIMESTEPS,
            identity=self.domain.identity, held_out=self.domain.held_out[:2], progress=False,
            config=sdd.DistillConfig(steps=3, batch_size=2, keep_weight=0.2),
        )  # fmt: skip

    def editor(self) -> Any:
        editor = sdd.Editor.load(self.folder / "mapper.safetensors", self.home)
        edited = editor.edit([self.picture, self.images[1]], 0.7), editor.encode(self.images)
        (file,) = editor.edit_files(self.picture, self.folder / "out", 0.7, overwrite=True)
        return *edited, file.read_bytes()

    def video(self) -> Any:
        """Of frames of one color; compressed files of the same pixels are equal."""
        source = self.folder / "clip.mp4"
        if not source.exists():
            frames = [Image.new("RGB", (32, 32), (40 * i, 90, 90)) for i in range(3)]
            save_animation(source, frames, bounce=False)
        editor = sdd.Editor.load(self.folder / "mapper.safetensors", self.home)
        out = self.folder / "edited.mp4"
        return sdd.edit_video(editor, source, out, 0.7, overwrite=True, progress=False).read_bytes()

    def monitor(self) -> Any:
        monitor = sdd.EditMonitor(
            self.domain.generator, self.domain.held_out[:2], prompt=PROMPT, source_text="a face",
            clip=self.domain.clip, identity=self.domain.identity,
        )  # fmt: skip
        return monitor(self.mapper, 0.3)

    def load_domain(self) -> Any:
        domain = sdd.load_domain(self.home)
        names = "generator encoder clip identity classifier w_plus held_out w_std resolution"
        return [getattr(domain, name) for name in names.split()]

    def prior_anew(self) -> Any:
        prior = sdd.DiffusionPrior.from_pretrained(self.home / "diffusion")
        z = prior.encode(self.images)
        noise = prior.predict_noise(z, 400, prior.encode_prompt(PROMPT), 3.0)
        sample = prior.sample(PROMPT, 2, rng=torch.Generator().manual_seed(0))
        return z, noise, prior.decode(z), sample, prior.alphas_cumprod, prior.unet

    def convert(self) -> Any:
        target = self.folder / "converted.safetensors"
        target.unlink(missing_ok=True)
        return sdd.convert(self.folder / "mapper.safetensors", target), target.read_bytes()

    def save_mapper(self) -> bytes:
        sdd.save_mapper(self.folder / "saved.safetensors", self.mapper, self.info)
        return (self.folder / "saved.safetensors").read_bytes()

    def export(self) -> Any:
        about = {"prompt": PROMPT, "lam": 0.3, "timesteps": TIMESTEPS, "domain": "tiny"}
        sdd.export_torchscript(self.mapper, self.folder / "mapper.pt", overwrite=True, **about)
        module, told = sdd.load_torchscript(self.folder / "mapper.pt")
        return list(module.state_dict().values()), told

    def export_edit(self) -> Any:
        editor = sdd.Editor(self.domain.generator, [(self.mapper, self.info)], self.domain.encoder)
        path = self.folder / "editor.pt"
        done = sdd.export_edit(editor, path, part="editor", overwrite=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path))
        return list(module.state_dict().values()), done.about, done.tolerance

    def invert(self) -> Any:
        folder, out = self.folder / "pictures", self.folder / "inverted.safetensors"
        folder.mkdir(exist_ok=True)
        save_png(folder / "face.png", self.images[0])
        found = invert(
            folder, self.domain.encoder, self.domain.generator, out, resume=False, progress=False,
            refinement=Refinement(steps=2), identity=self.domain.identity,
        )  # fmt: skip
        return found.w_plus, found.psnr

    def measure(self) -> Any:
        target = ("hair_color", ("white",))
        return measure_edit(self.domain, self.mapper, 0.3, PROMPT, target=target, images=2)


CALLS: dict[str, Callable[[Parts], Any]] = {
    "ConvClassifier": lambda p: sdd.ConvClassifier.load(p.home / "classifier.safetensors"),
    "ConvEmbedding": lambda p: sdd.ConvEmbedding.load(p.home / "identity.safetensors"),
    "DiffusionPrior": Parts.prior_anew,
    "Domain load_domain": Parts.load_domain,
    "EditMonitor": Parts.monitor,
    "Editor": Parts.editor,
    "Encoder": lambda p: sdd.Encoder.load(p.home / "encoder.safetensors"),
    "HQSCurve": lambda p: [
        (curve.plateau(), curve.scores)
        for curve in (p.curve, sdd.HQSCurve.load(p.curve.save(p.folder / "curve.json")))
    ],
    "LevelsMapper": lambda p: sdd.LevelsMapper.load(p.folder / "levels.safetensors"),
    "StyleGAN2": lambda p: sdd.StyleGAN2.load(p.home / "generator.safetensors"),
    "StyleSpaceMapper": lambda p: sdd.StyleSpaceMapper.load(p.folder / "styles.safetensors"),
    "balanced_guidance_scale": lambda p: sdd.balanced_guidance_scale(
        p.prior, p.images, PROMPT, TIMESTEPS
    ),
    "convert": Parts.convert,
    "distill": Parts.distill,
    "edit_video": Parts.video,
    "export_edit": Parts.export_edit,
    "export_torchscript load_torchscript": Parts.export,
    "guidance": lambda p: sdd.guidance(p.prior, p.images, PROMPT, 600, p.noise),
    "hqs": Parts.hqs,
    "image_gradient": lambda p: sdd.image_gradient(p.prior, p.images, p.embeds, 600, p.noise),
    "inversion.invert": Parts.invert,
    "load_clip": lambda p: sdd.load_clip(p.home / "clip").encode_texts([PROMPT]),
    "load_encoder": lambda p: sdd.load_encoder(p.home / "encoder.safetensors"),
    "load_generator": lambda p: sdd.load_generator(p.home / "generator.safetensors"),
    "load_identity": lambda p: sdd.load_identity(p.home / "identity.safetensors"),
    "load_image": lambda p: sdd.load_image(p.picture, (20, 24)),
    "load_latents": lambda p: sdd.load_latents(p.home / "latents.safetensors"),
    "load_mapper": lambda p: sdd.load_mapper(p.folder / "mapper.safetensors"),
    "load_styles": lambda p: sdd.load_styles(p.folder / "styles.pt", p.domain.generator.style_dims),
    "measure_edit": Parts.measure,
    "metrics.evaluate": lambda p: evaluate(p.domain, p.images, p.images.flip(3), PROMPT).to_json(),
    "residual": lambda p: [
        sdd.residual(p.prior, p.noise, p.embeds, 600, p.noise, sdd.GuidanceConfig(jacobian=kind))
        for kind in ("skip", "full")
    ],
    "save_mapper": Parts.save_mapper,
}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory, tiny_sd: Path) -> Parts:
    return Parts(tmp_path_factory.mktemp("state"), tiny_sd)


@pytest.fixture(scope="module")
def plain(parts: Parts) -> dict[str, Any]:
    return {name: call(parts) for name, call in CALLS.items()}


def content(value: Any) -> Any:
    """What can be compared of a result: tensors as bytes, without times."""
    if isinstance(value, Tensor):
        return str(value.dtype), str(value.device), list(value.shape), value.detach().tolist()
    if isinstance(value, nn.Module):
        return {key: content(tensor) for key, tensor in value.state_dict().items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: content(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: content(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [content(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.tolist()
    if hasattr(value, "encode_texts"):
        return content(value.encode_texts([PROMPT]))
    return value


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key != "seconds"}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def global_state() -> Any:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    return (
        torch.get_rng_state().tolist(), python, numpy[1].tolist(), torch.get_default_dtype(),
        torch.get_default_device(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"), np.geterr(), os.getcwd(),
    )  # fmt: skip


def test_a_domain_stays_where_it_was_found(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(parts.folder)
    domain = sdd.load_domain("tiny", clip="tiny/clip")
    monkeypatch.chdir(tmp_path)
    assert domain.generator is not None and domain.clip is not None and len(domain.w_plus)
    assert domain.folder == parts.home.resolve()


@pytest.mark.parametrize("name", ["generator", "mapper"])
def test_weights_without_a_way_for_gradients_are_refused(name: str, parts: Parts) -> None:
    with torch.inference_mode():
        generator = sdd.StyleGAN2(RESOLUTION, w_dim=16, z_dim=16, n_mlp=1, channel_base=256)
        mapper = sdd.LevelsMapper(generator.num_layers, 16, ["coarse"])
    networks = {"generator": parts.domain.generator, "mapper": parts.mapper}
    networks |= {"generator": generator} if name == "generator" else {"mapper": mapper}
    mapper_given = networks.pop("mapper")
    with pytest.raises(ValueError, match=f"weights of the {name} were made within torch.inferen"):
        sdd.distill(
            parts.prior, networks["generator"], parts.domain.w_plus, PROMPT, TIMESTEPS,
            mapper=mapper_given,
        )  # fmt: skip


def test_images_made_in_inference_mode_are_as_good_as_others(parts: Parts) -> None:
    with torch.inference_mode():
        images, noise, w_plus = (
            tensor.clone() for tensor in (parts.images, parts.noise, parts.domain.w_plus)
        )
    gradients = [
        sdd.image_gradient(parts.prior, some, parts.embeds, 600, parts.noise)
        for some in (images, parts.images)
    ]
    assert torch.equal(*gradients)
    assert sdd.guidance(parts.prior, images, PROMPT, 600, noise).residual.isfinite().all()
    config = sdd.DistillConfig(steps=1, batch_size=2)
    sdd.distill(
        parts.prior, parts.domain.generator, w_plus, PROMPT, TIMESTEPS, config=config,
        held_out=w_plus[:2], progress=False,
    )  # fmt: skip


def test_every_public_function_is_tried() -> None:
    tried = {name for names in CALLS for name in names.split()}
    assert tried | NO_COMPUTATION >= set(sdd.__all__)


@pytest.mark.parametrize("state", STATES)
def test_results_do_not_depend_on(
    state: str, parts: Parts, plain: dict[str, Any], tmp_path: Path
) -> None:
    for name, call in CALLS.items():
        with STATES[state](tmp_path):
            before = global_state()
            result = call(parts)
            if state != "a thread that draws":
                assert global_state() == before, name
        # A result may be used anywhere: nothing in it is left over from the state.
        assert without_times(content(result)) == without_times(content(plain[name])), name
