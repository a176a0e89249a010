from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sdd_fast.checkpoints.load import load_latents
from sdd_fast.domains.faces64.renderer import render, sample_faces
from sdd_fast.files import load_tensors, save_tensors
from sdd_fast.images import load_image, save_png
from sdd_fast.inversion import (
    contact_sheet as contact_sheet_module,
    invert as invert_module,
    latents_file,
)
from sdd_fast.inversion.align import align_face
from sdd_fast.inversion.contact_sheet import contact_sheet
from sdd_fast.inversion.refine import Refinement, content, multiscale_error, refine, w_std
from sdd_fast.lock import locked
from sdd_fast.models import Encoder, StyleGAN2

SIDE, W_DIM = 32, 16
PICTURES = 7


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contact_sheet_module, "CELL", 48)


class Networks:
    """A generator of random weights, and an encoder that also notes what it is given."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.generator = StyleGAN2(
                SIDE, w_dim=W_DIM, z_dim=W_DIM, n_mlp=2, channel_base=256, channel_max=8
            ).eval()
            self.encoder = Encoder(
                SIDE, self.generator.num_layers, W_DIM, channel_base=256, channel_max=8,
                head_channels=2,
            ).eval()  # fmt: skip
        self.generator.requires_grad_(False)
        self.encoder.requires_grad_(False)
        self.seen: list[int] = []
        self.on_batch: Callable[[int], None] = lambda number: None
        self.encoder.register_forward_hook(self._note)

    def _note(self, module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        self.seen.append(len(inputs[0]))
        self.on_batch(len(self.seen))

    def invert(self, folder: Path, out: Path, **settings: Any) -> latents_file.Inversion:
        settings = {"batch_size": 2, "progress": False, **settings}
        return invert_module.invert(folder, self.encoder, self.generator, out, **settings)


@pytest.fixture
def networks() -> Networks:
    return Networks()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    faces = render(sample_faces(PICTURES, torch.Generator().manual_seed(3)), 40)
    for i, face in enumerate(faces):
        save_png(tmp_path / "faces" / f"{i}.png", face)
    return tmp_path / "faces"


def encoded(networks: Networks, folder: Path, names: list[str]) -> Tensor:
    with torch.no_grad():
        return networks.encoder(torch.stack([load_image(folder / name, SIDE) for name in names]))


# --- the file -------------------------------------------------------------------------------------


def test_the_file_holds_latents_and_where_they_are_from(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    done = networks.invert(folder, tmp_path / "new" / "w.safetensors", domain="tiny")
    names = [f"{i}.png" for i in range(PICTURES)]
    tensors, metadata = load_tensors(done.path)
    assert set(tensors) == {"w_plus"} and tensors["w_plus"].dtype == torch.float32
    torch.testing.assert_close(tensors["w_plus"], encoded(networks, folder, names))
    assert torch.equal(load_latents(done.path, networks.generator.num_layers), done.w_plus)
    assert metadata["kind"] == "w_plus latents" and metadata["domain"] == "tiny"
    assert json.loads(metadata["names"]) == done.names == names
    assert json.loads(metadata["psnr"]) == done.psnr and len(done.psnr) == PICTURES
    assert json.loads(metadata["refinement"]) == "none" and done.skipped == {}
    assert sorted(path.name for path in done.path.parent.iterdir()) == ["w.png", "w.safetensors"]
    other = Networks()
    other.generator.latent_avg += 1
    changed = load_tensors(other.invert(folder, tmp_path / "o.safetensors").path)[1]
    assert changed["encoder"] == metadata["encoder"]
    assert changed["generator"] != metadata["generator"]


def test_networks_are_told_apart_by_every_tensor() -> None:
    one, other = nn.BatchNorm2d(2), nn.BatchNorm2d(2)  # with a count that has no dimensions
    assert latents_file.digest(one) == latents_file.digest(other)
    other.num_batches_tracked += 1
    assert latents_file.digest(one) != latents_file.digest(other)
    assert latents_file.digest(one) != latents_file.digest(one.bfloat16())


def test_psnr_is_that_of_pictures_spanning_two(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    done = networks.invert(folder, tmp_path / "w.safetensors")
    shown = networks.generator.synthesis(done.w_plus).clamp(-1, 1).double().numpy()
    for name, image, psnr in zip(done.names, shown, done.psnr, strict=True):
        target = load_image(folder / name, SIDE).double().numpy()
        expected = 20 * np.log10(2 / np.sqrt(((image - target) ** 2).mean()))
        assert abs(psnr - expected) < 1e-3
    assert done.psnr_encoder == done.psnr


def test_broken_pictures_are_skipped(networks: Networks, folder: Path, tmp_path: Path) -> None:
    (folder / "3.png").write_bytes(b"")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:200])
    done = networks.invert(folder, tmp_path / "w.safetensors")
    assert done.names == ["1.png", "2.png", "4.png", "5.png", "6.png"]
    torch.testing.assert_close(done.w_plus, encoded(networks, folder, done.names))
    assert done.skipped["3.png"] == "3.png is empty (0 bytes)"
    assert done.skipped["0.png"].startswith("0.png is a truncated or corrupt image")
    assert json.loads(load_tensors(done.path)[1]["skipped"]) == done.skipped


def test_nothing_but_broken_pictures(networks: Networks, tmp_path: Path) -> None:
    (tmp_path / "faces").mkdir()
    for name in ("a.png", "b.jpg"):
        (tmp_path / "faces" / name).write_bytes(b"")
    with pytest.raises(
        ValueError, match=r"none of the 2 pictures in .*faces could be used:\n  a\."
    ):
        networks.invert(tmp_path / "faces", tmp_path / "w.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["faces"]


def test_an_encoder_of_another_shape(networks: Networks, folder: Path, tmp_path: Path) -> None:
    class Wide(nn.Module):
        input_size = (24, 48)
        given: list[list[int]] = []

        def forward(self, images: Tensor) -> Tensor:
            self.given.append(list(images.shape[1:]))
            return networks.generator.latent_avg.expand(len(images), 8, W_DIM)

    def psnr(name: str, rows: slice) -> float:
        done = invert_module.invert(
            folder, Wide(), networks.generator, tmp_path / name, progress=False
        )
        networks.generator.content_rows = None
        image = networks.generator.synthesis(done.w_plus[:1])[0].clamp(-1, 1)
        error = (image[:, rows] - load_image(folder / "0.png", (16, 32))).square().mean()
        assert abs(done.psnr[0] - float(10 * torch.log10(4 / error))) < 1e-3
        return done.psnr[0]

    middle = psnr("whole.safetensors", slice(8, 24))  # of a square image
    networks.generator.content_rows = (10, 26)
    assert psnr("rows.safetensors", slice(10, 26)) != middle
    assert {tuple(shape) for shape in Wide.given} == {(3, 24, 48)}


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 3])
def test_interrupted_and_resumed_is_the_same_bit_for_bit(
    networks: Networks, folder: Path, tmp_path: Path, steps: int
) -> None:
    (folder / "2.png").write_bytes(b"")
    settings = {"refinement": Refinement(steps=steps)}
    straight = networks.invert(folder, tmp_path / "straight.safetensors", **settings)

    out, partial = tmp_path / "w.safetensors", tmp_path / "w.partial.safetensors"
    networks.seen.clear()
    networks.on_batch = lambda number: os.kill(os.getpid(), signal.SIGINT) if number == 2 else None
    with pytest.raises(KeyboardInterrupt, match=r"stopped after 4 of 7 .* Run the same again"):
        networks.invert(folder, out, **settings)
    assert networks.seen == [2, 1] and not out.exists()  # the second batch was finished
    assert len(load_tensors(partial)[0]["w_plus"]) == 3

    networks.seen.clear()
    networks.on_batch = lambda number: None
    resumed = networks.invert(folder, out, **settings)
    assert networks.seen[:2] == [2, 1] and not partial.exists()  # then those of the sheet
    assert torch.equal(resumed.w_plus, straight.w_plus)
    metadata = [load_tensors(path)[1] for path in (out, straight.path)]
    assert metadata[0] == metadata[1]
    assert resumed.sheet.read_bytes() == straight.sheet.read_bytes()


def test_a_crash_loses_little(
    networks: Networks, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invert_module, "_SAVE_AFTER", 0.0)
    monkeypatch.setattr(invert_module.time, "monotonic", iter(range(0, 10**6, 100)).__next__)

    def crash(number: int) -> None:
        if number == 3:
            raise RuntimeError("power cut")

    networks.on_batch = crash
    with pytest.raises(RuntimeError, match="power cut"):
        networks.invert(folder, tmp_path / "w.safetensors")
    assert len(load_tensors(tmp_path / "w.partial.safetensors")[0]["w_plus"]) in (2, 4)
    networks.on_batch = lambda number: None
    done = networks.invert(folder, tmp_path / "w.safetensors")
    torch.testing.assert_close(done.w_plus, encoded(networks, folder, done.names))


def test_a_second_signal_keeps_the_finished_batches(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    (folder / "3.png").write_bytes(b"")
    straight = networks.invert(folder, tmp_path / "straight.safetensors")

    def twice(number: int) -> None:
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)

    networks.seen.clear()
    networks.on_batch = twice
    out = tmp_path / "w.safetensors"
    with pytest.raises(KeyboardInterrupt, match=r"stopped after 2 of 7 .* Run the same again"):
        networks.invert(folder, out)
    networks.on_batch = lambda number: None
    resumed = networks.invert(folder, out)
    assert torch.equal(resumed.w_plus, straight.w_plus) and resumed.skipped == straight.skipped
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [
        "straight.png", "straight.safetensors", "w.png", "w.safetensors",
    ]  # fmt: skip


def test_a_picture_of_the_users_is_not_taken_for_a_sheet(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    picture = tmp_path / "me.png"
    picture.write_bytes(b"mine")
    for resume in (True, False):
        with pytest.raises(FileExistsError, match=r"me\.png would be replaced; choose"):
            networks.invert(folder, tmp_path / "me.safetensors", resume=resume)
    assert picture.read_bytes() == b"mine" and networks.seen == []


def test_a_file_that_another_process_writes_is_refused(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    out, refused = tmp_path / "w.safetensors", []

    def other() -> None:
        try:
            networks.invert(folder, out)
        except BlockingIOError as error:
            refused.append(error.filename)

    with locked(out, file=True):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert refused == [str(out)] and networks.seen == []


def test_what_is_finished_is_only_read(networks: Networks, folder: Path, tmp_path: Path) -> None:
    first = networks.invert(folder, tmp_path / "w.safetensors")
    written = first.path.stat().st_mtime_ns
    networks.seen.clear()
    again = networks.invert(folder, first.path)
    assert networks.seen == [] and torch.equal(again.w_plus, first.w_plus)
    assert (again.names, again.psnr) == (first.names, first.psnr)
    first.sheet.unlink()
    networks.invert(folder, first.path)
    assert first.sheet.exists() and first.path.stat().st_mtime_ns == written


def test_a_file_of_an_earlier_version_is_known(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    settings = Refinement(steps=1)
    done = networks.invert(folder, tmp_path / "w.safetensors", refinement=settings)
    tensors, metadata = load_tensors(done.path)
    recorded = json.loads(metadata["settings"])
    recorded["refinement"]["pull"] = recorded["refinement"].pop("l2_weight")
    save_tensors(done.path, tensors, metadata | {"settings": json.dumps(recorded)})
    before = done.path.read_bytes()
    networks.invert(folder, done.path, refinement=settings)
    assert done.path.read_bytes() == before


def test_other_pictures_or_settings_are_not_mixed(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "w.safetensors"
    networks.invert(folder, out)
    (folder / "0.png").rename(folder / "new.png")
    save_png(folder / "1.png", torch.zeros(3, 40, 40))
    with pytest.raises(ValueError) as error:
        networks.invert(folder, out, refinement=Refinement(steps=2))
    text = str(error.value)
    assert "w.safetensors belongs to other pictures or settings:\n" in text
    assert "refinement: none there, {'steps': 2" in text
    assert "pictures: 1 new (new.png)" in text and "pictures: 1 gone (0.png)" in text
    assert "pictures: 1 changed (1.png)" in text and "encoder" not in text
    assert "resume=False" in text
    done = networks.invert(folder, out, refinement=Refinement(steps=2), resume=False)
    assert done.names[-1] == "new.png"


def test_an_unfinished_one_is_started_over(
    networks: Networks, folder: Path, tmp_path: Path
) -> None:
    networks.on_batch = lambda number: os.kill(os.getpid(), signal.SIGINT) if number == 1 else None
    with pytest.raises(KeyboardInterrupt):
        networks.invert(folder, tmp_path / "w.safetensors")
    networks.on_batch = lambda number: None
    with pytest.raises(ValueError, match=r"w\.partial\.safetensors belongs to other"):
        networks.invert(folder, tmp_path / "w.safetensors", refinement=Refinement(steps=1))
    networks.seen.clear()
    done = networks.invert(folder, tmp_path / "w.safetensors", resume=False)
    assert networks.seen[:4] == [2, 2, 2, 1] and len(done.names) == PICTURES
    assert not (tmp_path / "w.partial.safetensors").exists()


def test_wrong_arguments(networks: Networks, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"to a \.safetensors file, got 'w\.pt'"):
        networks.invert(folder, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="batch_size must be a positive integer, .*got 0"):
        networks.invert(folder, tmp_path / "w.safetensors", batch_size=0)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        networks.invert(tmp_path / "nowhere", tmp_path / "w.safetensors")
    other = tmp_path / "mapper.safetensors"
    save_tensors(other, {"weight": torch.zeros(3)}, {"network": "LevelsMapper"})
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"mapper\.safetensors exists and holds no inversion"):
            networks.invert(folder, other, resume=resume)
        half = tmp_path / "half.partial.safetensors"
        half.write_bytes(other.read_bytes()[:-4])
        with pytest.raises(ValueError, match=r"half\.partial.* truncated.*delete it and"):
            networks.invert(folder, tmp_path / "half.safetensors", resume=resume)
    networks.encoder.latent_avg.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="encoder's latents hold NaN"):
        networks.invert(folder, tmp_path / "w.safetensors")


# --- faces ----------------------------------------------------------------------------------------


def test_faces_are_found_and_cropped(networks: Networks, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in ("none", "one", "two", "bad", "small"):
        pixels = rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((160, 120)).save(tmp_path / "photos" / f"{name}.png")
    face = np.array([[70.0, 50], [90, 50], [80, 62], [72, 72], [88, 72]])
    tiny = face[:, :] * 0.1 + 60
    # list_images sorts: bad, none, one, small, two
    found = {"bad": [face + 500], "none": [], "one": [face], "small": [tiny], "two": [face, tiny]}
    turns = iter([*sorted(found), "one", "two"])  # the last two for the contact sheet

    def detector(image: Image.Image) -> list[np.ndarray]:
        assert image.size == (160, 120) and image.mode == "RGB"
        return found[next(turns)]

    done = networks.invert(tmp_path / "photos", tmp_path / "w.safetensors", detector=detector)
    assert done.names == ["one.png", "two.png"]
    assert done.notes == {"two.png": "2 faces in the picture, the largest was taken"}
    assert done.skipped["none.png"] == "none.png: no face was found in it"
    assert done.skipped["bad.png"].startswith("bad.png: the eyes at (580, 550) lie outside")
    assert done.skipped["small.png"].startswith("small.png: the face is too small: a crop of 8")
    aligned = align_face(Image.open(tmp_path / "photos" / "one.png"), face, SIDE)
    with torch.no_grad():
        expected = networks.encoder(load_image(aligned)[None])
    torch.testing.assert_close(done.w_plus[:1], expected)
    with pytest.raises(ValueError, match="faces: found and cropped there, already cropped now"):
        networks.invert(tmp_path / "photos", done.path)


def test_a_small_face_is_noted(networks: Networks, tmp_path: Path) -> None:
    generator = networks.generator
    generator.resolution = 256  # as if: only the size that faces are cropped to is looked at
    job = invert_module._Job(networks.encoder, generator, None, Refinement(), None)
    face = np.array([[70.0, 50], [80, 50], [75, 56], [71, 60], [79, 60]])
    job.detector = lambda image: [face]
    Image.new("RGB", (160, 120)).save(tmp_path / "a.png")
    (_, target), note = job.load(tmp_path / "a.png")
    assert target.shape == (3, 256, 256)
    assert note == "a small face: its crop of 40 pixels is enlarged to 256 and stays blurred"


# --- refinement -----------------------------------------------------------------------------------


def test_refinement_comes_closer(networks: Networks, folder: Path, tmp_path: Path) -> None:
    plain = networks.invert(folder, tmp_path / "plain.safetensors")
    settings = Refinement(steps=15, lr=0.2)
    done = networks.invert(folder, tmp_path / "w.safetensors", refinement=settings)
    assert done.psnr_encoder == plain.psnr
    assert all(after > before + 0.3 for after, before in zip(done.psnr, plain.psnr, strict=True))
    saved = json.loads(load_tensors(done.path)[1]["refinement"])
    assert saved == {"steps": 15, "lr": 0.2, "l2_weight": 0.001, "identity": 0.02}


def refined(networks: Networks, count: int, settings: Refinement, **more: Any) -> Tensor:
    some = more.pop("some", slice(None))
    generator = networks.generator.double()
    start, targets = start_and_targets(count)
    return refine(generator, start[some], targets[some], w_std(generator), settings, **more)


def start_and_targets(count: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    start = torch.randn(count, 8, W_DIM, generator=rng, dtype=torch.float64)
    return start, torch.rand(count, 3, SIDE, SIDE, generator=rng, dtype=torch.float64) * 2 - 1


def color(images: Tensor) -> Tensor:
    """Stands for an identity network."""
    return images.mean((2, 3)) + torch.tensor([0.1, 0.0, 0.0])


def test_steps_against_adam_written_out(networks: Networks) -> None:
    settings = Refinement(steps=4, lr=0.1, l2_weight=0.3, identity=0.5)
    result = refined(networks, 2, settings, identity=color)
    start, targets = start_and_targets(2)
    std, generator = w_std(networks.generator).double(), networks.generator
    moved, mean, square = (torch.zeros_like(start) for _ in range(3))
    for step in range(4):
        moved.requires_grad_(True)
        images = generator.synthesis(start + moved * std)
        halves = [x.reshape(2, 3, 16, 2, 16, 2).mean((3, 5)) for x in (images, targets)]
        loss = ((images - targets) ** 2).mean() / 2 + ((halves[0] - halves[1]) ** 2).mean() / 2
        loss = 2 * loss + 0.3 * (moved**2).mean() * 2
        a, b = color(images), color(targets)
        loss = loss + 0.5 * (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).sum()
        (gradient,) = torch.autograd.grad(loss, [moved])
        mean, square = 0.9 * mean + 0.1 * gradient, 0.99 * square + 0.01 * gradient**2
        unbiased = mean / (1 - 0.9 ** (step + 1)), square / (1 - 0.99 ** (step + 1))
        moved = moved.detach() - settings.lr_at(step) * unbiased[0] / (unbiased[1].sqrt() + 1e-8)
    torch.testing.assert_close(result, start + moved * std, atol=1e-7, rtol=0)
    assert float(moved.abs().max()) > 0.1


def test_steps_that_lead_away_do_not_count(networks: Networks) -> None:
    start, targets = start_and_targets(2)
    targets[0] = networks.generator.double().synthesis(start[:1])[0]  # nothing is left to gain
    settings, std = Refinement(steps=3, lr=0.5), w_std(networks.generator)
    result = refine(networks.generator, start, targets, std, settings)
    assert torch.equal(result[0], start[0]) and not torch.equal(result[1], start[1])


def test_what_else_is_in_the_batch_does_not_matter(networks: Networks) -> None:
    settings = Refinement(steps=10)
    together = refined(networks, 3, settings)
    alone = torch.cat([refined(networks, 3, settings, some=slice(i, i + 1)) for i in range(3)])
    torch.testing.assert_close(together, alone, atol=1e-7, rtol=0)
    assert float((together - start_and_targets(3)[0]).abs().max()) > 0.05


def test_the_error_over_scales() -> None:
    a, b = torch.rand(2, 2, 3, 64, 48, dtype=torch.float64)
    halved = [x.reshape(2, 3, 32, 2, 24, 2).mean((3, 5)) for x in (a, b)]
    full = ((a - b) ** 2).sum((1, 2, 3)) / (3 * 64 * 48)
    half = ((halved[0] - halved[1]) ** 2).sum((1, 2, 3)) / (3 * 32 * 24)
    # 24 pixels across are not halved again: 12 would be below 16.
    torch.testing.assert_close(multiscale_error(a, b), (full + half) / 2)


def test_the_learning_rate_rises_and_falls() -> None:
    settings = Refinement(steps=200, lr=2.0)
    rates = [settings.lr_at(step) for step in range(200)]
    assert rates[0] == pytest.approx(0.2) and rates[4] == pytest.approx(1.0)  # 10 steps up
    assert rates[9:150] == [2.0] * 141
    assert rates[174] == pytest.approx(1.0)  # half-way down the cosine of 50 steps
    assert 0 < rates[199] == min(rates) and Refinement(steps=1).lr_at(0) > 0


def test_the_unit_is_the_deviation_of_w(networks: Networks) -> None:
    z = torch.randn(4096, W_DIM, generator=torch.Generator().manual_seed(0))
    w = networks.generator.mapping(z).double()
    expected = ((w - w.mean(0)) ** 2).sum(0).div(4095).sqrt()
    torch.testing.assert_close(w_std(networks.generator).double(), expected, atol=1e-6, rtol=1e-5)


def test_the_unit_of_a_generator_with_classes() -> None:
    generator = StyleGAN2(
        8, w_dim=4, z_dim=4, n_mlp=1, channel_base=64, channel_max=4, c_dim=3
    ).requires_grad_(False)
    std = w_std(generator)
    assert std.shape == (4,) and torch.equal(std, w_std(generator))
    one = generator.mapping(torch.randn(4096, 4), labels=torch.eye(3)[:1].expand(4096, 3))
    assert not torch.allclose(std, one.std(0), rtol=0.01)


def test_gradients_are_those_of_float32(networks: Networks) -> None:
    seen = []
    generator = networks.generator.double()
    generator.fp16 = True
    start, targets = start_and_targets(1)
    std = torch.ones(W_DIM)

    def note() -> None:
        seen.append(generator.fp16)

    refine(generator, start, targets, std, Refinement(steps=2), after_step=note)
    assert seen == [False, False] and generator.fp16 is True
    with pytest.raises(FloatingPointError):
        refine(generator, start, targets * float("nan"), std, Refinement(steps=1))
    assert generator.fp16 is True


def test_content_is_the_middle() -> None:
    image = torch.arange(16.0).reshape(1, 4, 4)
    assert content(image, (2, 4)).tolist() == [[[4, 5, 6, 7], [8, 9, 10, 11]]]
    assert content(image, (4, 4)).tolist() == image.tolist()


def test_a_refinement_that_makes_no_sense(networks: Networks) -> None:
    with pytest.raises(ValueError, match="steps must be an integer of at least 0, .*got -1"):
        Refinement(steps=-1)
    with pytest.raises(ValueError, match="lr must be a positive number, got 0"):
        Refinement(lr=0.0)
    with pytest.raises(ValueError, match="l2_weight must be 0 or more, got -1"):
        Refinement(l2_weight=-1.0)
    start, targets = torch.zeros(1, 8, W_DIM), torch.full((1, 3, SIDE, SIDE), float("nan"))
    with pytest.raises(FloatingPointError, match="refinement became NaN.* lower lr"):
        refine(networks.generator, start, targets, torch.ones(W_DIM), Refinement(steps=2))


# --- the contact sheet ----------------------------------------------------------------------------


def test_a_sheet_has_bands_of_eight() -> None:
    def sheet(count: int) -> Image.Image:
        row = torch.zeros(count, 3, 16, 16)
        return contact_sheet({"input": row, "encoder": row}, [f"{i}" for i in range(count)], "t")

    one, full, three = sheet(3), sheet(8), sheet(17)
    assert one.width < full.width == three.width and one.height == full.height
    assert three.height > 2 * full.height
    with pytest.raises(ValueError, match="N pictures and N captions"):
        contact_sheet({"input": torch.zeros(2, 3, 16, 16)}, ["a"], "t")


def test_of_many_pictures_the_first_and_the_worst_are_shown(
    networks: Networks, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invert_module, "SHOWN", 4)
    monkeypatch.setattr(invert_module, "WORST", 2)
    shown = {}

    def note(rows: dict[str, Tensor], captions: list[str], title: str) -> Image.Image:
        shown.update(rows=rows, captions=captions, title=title)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(invert_module, "contact_sheet", note)
    done = networks.invert(folder, tmp_path / "w.safetensors", refinement=Refinement(steps=1))
    order = sorted(range(2, PICTURES), key=lambda i: done.psnr[i])[:2]
    chosen = [0, 1, *order]
    assert [caption.split(" ")[0] for caption in shown["captions"]] == [f"{i}.png" for i in chosen]
    before, after = done.psnr_encoder[0], done.psnr[0]
    assert shown["captions"][0].replace("\xa0", " ") == f"0.png {before:.1f} → {after:.1f} dB"
    assert "7 pictures, PSNR" in shown["title"] and "the first 2, and the 2 worst" in shown["title"]
    rows = shown["rows"]
    assert list(rows) == ["input", "encoder", "refined, 1 steps"]
    inputs = torch.stack([load_image(folder / f"{i}.png", SIDE) for i in chosen])
    torch.testing.assert_close(rows["input"], inputs)
    w_plus = networks.encoder(inputs)
    images = networks.generator.synthesis(w_plus).clamp(-1, 1)
    torch.testing.assert_close(rows["encoder"], images, atol=1e-5, rtol=1e-5)
    images = networks.generator.synthesis(done.w_plus[chosen]).clamp(-1, 1)
    torch.testing.assert_close(rows["refined, 1 steps"], images, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": "{"}, "Expecting property name"),
        ({"names": "[1]"}, "names must be a list of file names"),
        ({"names": '["a"]'}, "does not fit 1 names"),
        ({"psnr": "null"}, "it lacks psnr"),
        ({"skipped": "[]"}, "skipped must be an object of texts"),
        ({"settings": "[]"}, "settings must be an object"),
        ({"settings": "9" * 400}, "400 digits"),
        (torch.full((2, 8, 16), torch.nan), "NaN or infinite"),
        (torch.zeros(2, 3), "does not fit"),
    ],
)
def test_a_damaged_inversion_is_named(
    networks: Networks, folder: Path, tmp_path: Path, change: Any, message: str
) -> None:
    out = tmp_path / "w.safetensors"
    networks.invert(folder, out)
    tensors, metadata = load_tensors(out)
    if isinstance(change, Tensor):
        w_plus = tensors["w_plus"]
        shape = w_plus.shape if change.ndim == 3 else change.shape
        tensors["w_plus"] = torch.full(shape, float(change.flatten()[0]))
    else:
        metadata |= change
    save_tensors(out, tensors, metadata)
    with pytest.raises(ValueError, match=rf"w\.safetensors is damaged: .*{message}.*resume=False"):
        networks.invert(folder, out)
    networks.invert(folder, out, resume=False)
