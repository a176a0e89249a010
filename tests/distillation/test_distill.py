from __future__ import annotations

import errno
import inspect
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdd_fast import draws
from sdd_fast.checkpoints.load import load_mapper
from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.default_mapper import new_mapper
from sdd_fast.distillation.distill import DistillResult, distill
from sdd_fast.editing.editor import Editor
from sdd_fast.files import load_tensors, read_json
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.lock import LOCK_FILE
from sdd_fast.models import LevelsMapper, StyleGAN2, StyleSpaceMapper
from sdd_fast.selection.hqs import hqs
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.training_state import StateFile

STEPS, TIMESTEPS = 7, [800, 150]
FILES = ["checkpoint.safetensors", "config.json", "history.json", "mapper.safetensors"]


@pytest.fixture(scope="module")
def w_plus() -> Tensor:
    return torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))


class Identity(nn.Module):
    """A face recognizer of sorts; `trouble` is called with the number of edited batches so far."""

    def __init__(self, trouble: Callable[[int, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        with draws.private(2):  # threads make one each
            self.linear = nn.Linear(3 * 16, 6)
        self.trouble, self.edited = trouble, 0

    def forward(self, images: Tensor) -> Tensor:
        out = self.linear(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))
        if torch.is_grad_enabled():
            self.edited += 1
            if self.trouble is not None:
                return self.trouble(self.edited, out)
        return out


@pytest.fixture(scope="module")
def run(
    tiny_prior: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor
) -> Callable[..., DistillResult]:
    """distill() on the tiny networks; checkpoints fall between history entries on purpose."""

    def call(
        trouble: Callable[[int, Tensor], Tensor] | None = None,
        config: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> DistillResult:
        settings: dict[str, Any] = {
            "steps": STEPS, "batch_size": 2, "lr": 0.5, "keep_weight": 0.2, "log_every": 3,
            "checkpoint_every": 2, "monitor_every": 5, "guidance": GuidanceConfig(7.5),
        }  # fmt: skip
        given = {"identity": Identity(trouble), "held_out": w_plus[:2]} | arguments
        settings |= config or {}
        data = given.pop("w_plus", w_plus)
        prompt = given.pop("prompt", "white hair")
        timesteps = given.pop("timesteps", TIMESTEPS)
        return distill(
            tiny_prior, generator, data, prompt, timesteps,
            config=DistillConfig(**settings), progress=False, **given,
        )  # fmt: skip

    return call


@pytest.fixture(scope="module")
def uninterrupted(run: Callable[..., DistillResult]) -> DistillResult:
    return run()


def without_time(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if k != "seconds"} for entry in history]


def assert_same(a: DistillResult, b: DistillResult) -> None:
    """Bit for bit."""
    assert without_time(a.history) == without_time(b.history)
    x, y = a.mapper.state_dict(), b.mapper.state_dict()
    assert x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK_FILE)


def step_of(folder: Path) -> int:
    return int(StateFile(folder / "checkpoint.safetensors", {}, STEPS, "").read()["step"])


@pytest.mark.parametrize(("resolution", "want"), [(256, 64), (512, 32)])
def test_a_teacher_of_large_images_is_balanced_on_fewer(
    run: Callable[..., DistillResult],
    tiny_prior: DiffusionPrior,
    w_plus: Tensor,
    monkeypatch: pytest.MonkeyPatch,
    resolution: int,
    want: int,
) -> None:
    def note(prior: DiffusionPrior, images: Tensor, *_: Any, **__: Any) -> float:
        seen.append(len(images))
        raise InterruptedError

    seen: list[int] = []
    monkeypatch.setitem(inspect.unwrap(distill).__globals__, "balanced_guidance_scale", note)
    monkeypatch.setattr(tiny_prior, "resolution", resolution)
    with pytest.raises(InterruptedError):
        run(w_plus=w_plus[:1].repeat(70, 1, 1), config={"guidance": None}, w_std=torch.ones(8, 8))
    assert seen == [want]


def test_result_history_and_run_folder(run: Callable[..., DistillResult], tmp_path: Path) -> None:
    result = run(run_dir=tmp_path / "run", domain="tiny")
    assert [entry["step"] for entry in result.history] == [3, 5, 6, 7]
    assert ["verdict" in entry for entry in result.history] == [False, True, False, True]
    for entry in result.history:
        assert {"lr", "seconds", "residual", "gradient", "l2", "identity_loss"} < entry.keys()
        assert entry["gradient"] > 0
    assert result.history[-1]["latent_change"] > 0
    assert not result.mapper.training
    folder = tmp_path / "run"
    assert names(folder) == FILES
    assert read_json(folder / "history.json") == result.history
    mapper, info = load_mapper(folder / "mapper.safetensors")
    assert info == result.info
    assert (info.prompt, info.lam, info.domain) == ("white hair", 1.0, "tiny")
    assert (info.timesteps, info.levels) == ((150, 800), ("coarse", "medium"))
    trained = result.mapper.state_dict()
    assert all(torch.equal(v, trained[k]) for k, v in mapper.state_dict().items())
    described = read_json(folder / "config.json")
    assert described["distill"]["guidance"]["guidance_scale"] == 7.5
    assert described["timesteps"] == [150, 800]


def test_same_seed_same_result_other_seed_another(run: Callable[..., DistillResult]) -> None:
    first, second, other = (run(config={"steps": 3, "seed": seed}) for seed in (0, 0, 1))
    assert_same(first, second)
    assert other.history[0]["residual"] != first.history[0]["residual"]


def test_the_default_mapper_beside_a_thread_that_draws(
    generator: StyleGAN2, w_plus: Tensor
) -> None:
    def draw() -> None:
        while not stop.is_set():
            torch.randn(64)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        scale = torch.ones(8, 8)
        wanted = LevelsMapper(8, 8, ["coarse", "medium"], scale=scale, output_activation=False)
    stop, thread = threading.Event(), threading.Thread(target=draw)
    thread.start()
    try:
        for _ in range(30):
            mapper = new_mapper(generator, w_plus, 3, w_std=scale)
            for name, value in mapper.state_dict().items():
                assert torch.equal(value, wanted.state_dict()[name])
    finally:
        stop.set()
        thread.join()


def test_two_distillations_at_once_do_not_disturb_each_other(
    run: Callable[..., DistillResult], generator: StyleGAN2
) -> None:
    """Nor is the generator, which they share, left in another state than before."""
    results: dict[int, DistillResult] = {}

    def work(seed: int) -> None:
        results[seed] = run(config={"seed": seed, "steps": 4})

    generator.train().requires_grad_(True)
    threads = [threading.Thread(target=work, args=(seed,)) for seed in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert generator.training and all(p.requires_grad for p in generator.parameters())
    for seed, result in results.items():
        assert_same(result, run(config={"seed": seed, "steps": 4}))


def test_logging_does_not_change_the_result(
    run: Callable[..., DistillResult], uninterrupted: DistillResult
) -> None:
    other = run(config={"log_every": 1, "monitor_every": 2})
    assert all(
        torch.equal(v, uninterrupted.mapper.state_dict()[k])
        for k, v in other.mapper.state_dict().items()
    )
    # An entry is the mean over the steps since the last one.
    steps = {entry["step"]: entry["residual"] for entry in other.history}
    want = sum(steps[k] for k in (1, 2, 3)) / 3
    assert uninterrupted.history[0]["residual"] == pytest.approx(want, rel=1e-5)


def test_only_the_mapper_gets_gradients(
    run: Callable[..., DistillResult], tiny_prior: DiffusionPrior, generator: StyleGAN2
) -> None:
    identity = Identity()
    generator.conv1.conv.weight.requires_grad_(False)  # an odd one out, to be restored as it was
    generator.train()
    flags = [p.requires_grad for p in generator.parameters()]
    collected = []
    mapper = LevelsMapper(8, 8, ["coarse"])
    for parameter in mapper.parameters():
        parameter.register_hook(lambda g: collected.append(float(g.abs().sum())))
    run(identity=identity, mapper=mapper, config={"steps": 2})
    assert sum(collected) > 0
    teacher = (tiny_prior.vae, tiny_prior.unet, tiny_prior.text_encoder)
    for network in (generator, identity, *teacher):
        assert all(p.grad is None for p in network.parameters())
    assert [p.requires_grad for p in generator.parameters()] == flags and generator.training
    assert all(p.requires_grad for p in identity.parameters()) and identity.training
    assert not any(p.requires_grad for network in teacher for p in network.parameters())


def test_text_is_encoded_once_and_the_unet_called_once_a_step(
    run: Callable[..., DistillResult], tiny_prior: DiffusionPrior
) -> None:
    texts = []
    handle = tiny_prior.text_encoder.register_forward_hook(lambda *_: texts.append(1))
    calls, rows = tiny_prior.unet_calls, tiny_prior.unet_rows
    run()
    judged = sum(step >= 0.2 * STEPS for step in range(STEPS))
    handle.remove()
    assert len(texts) == 2  # the prompt and the empty one
    assert (tiny_prior.unet_calls - calls, tiny_prior.unet_rows - rows) == (
        STEPS,
        STEPS * 4 + judged * 2,
    )


def test_training_moves_images_where_the_teacher_wants_them(
    tiny_prior: DiffusionPrior, generator: StyleGAN2, w_plus: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of a teacher that wants one certain image, r is the way there: its norm must shrink."""
    with torch.no_grad():
        other = tiny_prior.encode(generator.synthesis(w_plus[1:2]))
    wanted = tiny_prior.alphas_cumprod[300].sqrt() * other

    def predict_noise(z_t: Tensor, *_: object) -> Tensor:
        return z_t - wanted

    monkeypatch.setattr(tiny_prior, "predict_noise", predict_noise)

    class Offset(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.delta = nn.Parameter(torch.zeros(8, 8))

        def forward(self, w: Tensor) -> Tensor:
            return self.delta.expand_as(w)

    config = DistillConfig(
        steps=15, batch_size=1, lr=0.1, warmup=0.0, l2_weight=0.0, range_weight=0.0,
        keep_weight=0.0, prior_weight=0.0, log_every=1,
        guidance=GuidanceConfig(guidance_scale=1.0, noise="zero", weighting="uniform"),
    )  # fmt: skip
    result = distill(
        tiny_prior, generator, w_plus[:1], "hair", [300], mapper=Offset(), config=config
    )
    values = [entry["residual"] for entry in result.history]
    assert values[-1] < 0.8 * values[0], values


def test_other_manipulators(
    run: Callable[..., DistillResult], generator: StyleGAN2, tiny_prior: DiffusionPrior,
    tmp_path: Path,
) -> None:  # fmt: skip
    styles = StyleSpaceMapper(generator.style_dims)
    result = run(mapper=styles, run_dir=tmp_path, config={"steps": 2})
    assert result.mapper is styles and result.history[-1]["latent_change"] > 0
    assert isinstance(load_mapper(tmp_path / "mapper.safetensors")[0], StyleSpaceMapper)
    network = nn.Conv2d(3, 3, 1)
    before = network.weight.clone()
    distill(
        tiny_prior, None, torch.rand(3, 3, 32, 32), "hair", [500], mapper=network,
        config=DistillConfig(steps=2, batch_size=2),
    )  # fmt: skip
    assert not torch.equal(network.weight, before)


class Projector(nn.Module):
    """A generator of one's own: a linear map of a single vector to an image."""

    num_layers, w_dim, image_size = 1, 6, (32, 32)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 3 * 32 * 32)

    def synthesis(self, w_plus: Tensor) -> Tensor:
        return self.linear(w_plus[:, 0]).view(-1, 3, 32, 32)


class Shift(nn.Module):
    """A mapper of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(6))

    def forward(self, w_plus: Tensor) -> Tensor:
        return self.shift.expand_as(w_plus)


def test_a_generator_and_a_mapper_of_ones_own(tiny_prior: DiffusionPrior, tmp_path: Path) -> None:
    generator, latents = Projector(), torch.randn(6, 1, 6)
    curve = hqs(tiny_prior, latents[:2], "hair", [150, 800], generator=generator, progress=False)
    arguments: dict[str, Any] = {
        "config": DistillConfig(steps=2, batch_size=2), "held_out": latents[:2], "progress": False
    }  # fmt: skip
    timesteps = [curve.largest()]
    result = distill(tiny_prior, generator, latents, "hair", timesteps, **arguments)
    assert result.info.levels == ("coarse",)
    edited = Editor(generator, [(result.mapper, result.info)]).edit(latents, 2.0)
    assert edited.shape == (6, 3, 32, 32)
    arguments |= {"mapper": Shift(), "run_dir": tmp_path}
    own = distill(tiny_prior, generator, latents, "hair", timesteps, **arguments)
    path = tmp_path / "mapper.safetensors"
    loaded, info = load_mapper(path, into=Shift())
    assert torch.equal(loaded.shift, own.mapper.shift) and info == own.info
    assert loaded.shift.abs().min() > 0 and not loaded.shift.requires_grad
    with pytest.raises(ValueError, match=r"class of its maker, Shift.*into=Shift\(…\)"):
        load_mapper(path)
    with pytest.raises(ValueError, match="holds Shift, not the Projector"):
        load_mapper(path, into=Projector())


def test_what_is_no_generator(tiny_prior: DiffusionPrior, tmp_path: Path) -> None:
    other_size, detached = Projector(), Projector()
    other_size.image_size = (16, 16)
    detached.synthesis = torch.no_grad()(detached.synthesis)  # type: ignore[method-assign]
    for generator, error, message in (
        (
            nn.Linear(2, 2),
            TypeError,
            r"the generator \(Linear\) has no num_layers and .* no synthesis; .*sdd.*Gen",
        ),
        (other_size, ValueError, r"\[1, 3, 32, 32\] .* promises \[1, 3, 16, 16\]"),
        (detached, ValueError, "carry no gradient"),
    ):
        with pytest.raises(error, match=message):
            distill(
                tiny_prior, generator, torch.randn(6, 1, 6), "hair", [500], run_dir=tmp_path / "run"
            )  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


# --- stopping and resuming --------------------------------------------------------------------


def test_resume_after_a_crash_is_bit_for_bit_the_same(
    run: Callable[..., DistillResult], uninterrupted: DistillResult, tmp_path: Path
) -> None:
    def crash(count: int, out: Tensor) -> Tensor:
        if count == 6:
            raise RuntimeError("power cut")
        return out

    with pytest.raises(RuntimeError, match="power cut"):
        run(crash, run_dir=tmp_path)
    assert step_of(tmp_path) == 4 and names(tmp_path) == FILES[:3]
    resumed = run(run_dir=tmp_path)
    assert_same(resumed, uninterrupted)
    assert names(tmp_path) == FILES
    again = run(lambda *_: pytest.fail("a finished run trains no more"), run_dir=tmp_path)
    assert_same(again, uninterrupted)


def test_ctrl_c_completes_the_step_saves_and_resumes(
    run: Callable[..., DistillResult], uninterrupted: DistillResult, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def press(count: int, out: Tensor) -> Tensor:
        if count == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return out

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match=r"after step 5 of 7.*step 5 is in .*resume"):
        run(press, run_dir=tmp_path)
    assert signal.getsignal(signal.SIGINT) is before
    assert "press it again" in capsys.readouterr().err
    assert step_of(tmp_path) == 5
    assert_same(run(run_dir=tmp_path), uninterrupted)


def test_second_ctrl_c_stops_at_once_and_keeps_the_last_checkpoint(
    run: Callable[..., DistillResult], uninterrupted: DistillResult, tmp_path: Path
) -> None:
    def press(count: int, out: Tensor) -> Tensor:
        if count == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return out

    with pytest.raises(KeyboardInterrupt, match=r"after step 5 of 7.*step 4 is in"):
        run(press, run_dir=tmp_path)
    assert step_of(tmp_path) == 4
    assert_same(run(run_dir=tmp_path), uninterrupted)


def test_keyboard_interrupt_within_a_step_saves_the_last_complete_one(
    run: Callable[..., DistillResult], uninterrupted: DistillResult, tmp_path: Path
) -> None:
    # How it arrives where Ctrl-C is not deferred, such as under another signal handler.
    def raise_it(count: int, out: Tensor) -> Tensor:
        if count == 6:
            raise KeyboardInterrupt
        return out

    with pytest.raises(KeyboardInterrupt, match=r"after step 5 of 7.*step 5 is in"):
        run(raise_it, run_dir=tmp_path)
    assert step_of(tmp_path) == 5
    assert_same(run(run_dir=tmp_path), uninterrupted)


def test_ctrl_c_during_the_update_does_not_save_a_torn_state(
    run: Callable[..., DistillResult], uninterrupted: DistillResult, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    update, count = torch.optim.AdamW.step, 0

    def torn(self: torch.optim.AdamW, *arguments: Any) -> Any:
        nonlocal count
        count += 1
        out = update(self, *arguments)
        if count == 6:
            raise KeyboardInterrupt
        return out

    monkeypatch.setattr(torch.optim.AdamW, "step", torn)
    with pytest.raises(KeyboardInterrupt, match="step 4 is in"):
        run(run_dir=tmp_path)
    monkeypatch.undo()
    assert_same(run(run_dir=tmp_path), uninterrupted)


def test_ctrl_c_without_a_run_folder(run: Callable[..., DistillResult]) -> None:
    def raise_it(count: int, out: Tensor) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="Nothing is saved, because no run_dir"):
        run(raise_it)


class NaNGradient(torch.autograd.Function):
    """The identity, whose gradient is NaN: the loss itself stays finite."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * float("nan")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_nan_stops_with_advice_and_keeps_the_last_good_checkpoint(
    run: Callable[..., DistillResult], uninterrupted: DistillResult, tmp_path: Path, where: str
) -> None:
    def poison(count: int, out: Tensor) -> Tensor:
        if count != 4:
            return out
        return out * float("nan") if where == "loss" else NaNGradient.apply(out)  # type: ignore

    with pytest.raises(FloatingPointError, match=r"in step 4 of 7.*after step 2 is kept.*lower lr"):
        run(poison, run_dir=tmp_path)
    assert step_of(tmp_path) == 2
    tensors, _ = load_tensors(tmp_path / "checkpoint.safetensors")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values())
    assert_same(run(run_dir=tmp_path), uninterrupted)


def test_a_nan_in_the_identity_network_is_named(
    run: Callable[..., DistillResult], tmp_path: Path
) -> None:
    damaged = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 6))
    with torch.no_grad():
        damaged[2].bias[0] = float("nan")
    with pytest.raises(FloatingPointError, match=r"It arose in identity\.2 \(Linear\).*damaged"):
        run(identity=damaged, run_dir=tmp_path)


def test_full_disk_keeps_the_last_checkpoint(
    run: Callable[..., DistillResult], uninterrupted: DistillResult, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write, count = Path.write_bytes, 0

    def full(self: Path, data: bytes) -> int:
        nonlocal count
        count += self.suffix == ".safetensors"  # of the temporary name; the mapper comes last
        if count < 3:
            return write(self, data)
        write(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=r"no space left while writing .*checkpoint"):
        run(run_dir=tmp_path)
    monkeypatch.undo()
    assert names(tmp_path) == FILES[:3] and step_of(tmp_path) == 4
    assert_same(run(run_dir=tmp_path), uninterrupted)


def test_other_settings_are_not_resumed(
    run: Callable[..., DistillResult], w_plus: Tensor, tmp_path: Path
) -> None:
    run(run_dir=tmp_path, config={"steps": 2})
    kept = (tmp_path / "checkpoint.safetensors").read_bytes()
    for change, line in (
        ({"config": {"steps": 3}}, "config.steps: 2 in the checkpoint, 3 now"),
        ({"prompt": "bald"}, "prompt: 'white hair' in the checkpoint, 'bald' now"),
        ({"timesteps": [150]}, r"timesteps: \[150, 800\] in the checkpoint, \[150\] now"),
        ({"w_plus": w_plus + 1}, "latents: "),
        ({"identity": None}, "identity: True in the checkpoint, False now"),
        ({"mapper": LevelsMapper(8, 8, ["coarse"])}, "mapper: "),
    ):
        arguments = {"config": {"steps": 2}} | change
        with pytest.raises(ValueError, match=rf"other settings:(.|\n)*{line}(.|\n)*resume=False"):
            run(run_dir=tmp_path, **arguments)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == kept
    fresh = run(run_dir=tmp_path, config={"steps": 3}, resume=False)
    assert fresh.history[-1]["step"] == 3 and step_of(tmp_path) == 3


def test_damaged_checkpoint(run: Callable[..., DistillResult], tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError):
        run(lambda count, out: out * float("nan") if count == 5 else out, run_dir=tmp_path)
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    truncated = r"checkpoint\.safetensors is truncated(.|\n)*begin anew.*resume=False"
    with pytest.raises(ValueError, match=truncated):
        run(run_dir=tmp_path)
    path.write_bytes(whole)
    finished = run(run_dir=tmp_path)
    path.write_bytes(whole[:-100])  # which a finished run does not need
    untrained = run(lambda *_: pytest.fail("a finished run trains no more"), run_dir=tmp_path)
    assert_same(untrained, finished)


# --- bad input --------------------------------------------------------------------------------


def test_bad_input(
    run: Callable[..., DistillResult], w_plus: Tensor, tiny_prior: DiffusionPrior, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    for arguments, message in (
        ({"prompt": " "}, "prompt is empty"),
        ({"timesteps": []}, "selection is empty.*threshold"),
        ({"timesteps": [500, 1000]}, "timestep 1000 is out of range"),
        ({"timesteps": [-1]}, "timestep -1 is out of range"),
        ({"w_plus": w_plus[:, :7]}, r"\[N, 8, 8\].*\[5, 7, 8\]"),
        ({"w_plus": w_plus[0]}, r"\[N, 8, 8\]"),
        ({"w_plus": w_plus[:0]}, "N ≥ 1"),
        ({"w_plus": w_plus * float("nan")}, "NaN"),
        ({"w_plus": w_plus[:1]}, "standard deviation .* one latent"),
        ({"levels": ["fine"]}, "'fine' is empty"),
        ({"mapper": nn.Identity()}, "no weights to train"),
        (
            {"mapper": LevelsMapper(8, 16, ["coarse"])},
            r"edits W\+ of shape \[8, 16\], but .*\[8, 8\]",
        ),
        ({"mapper": StyleSpaceMapper([4, 4])}, "edits styles of .*belongs to another generator"),
    ):
        with pytest.raises(ValueError, match=message):
            run(run_dir=folder, **arguments)
    assert not folder.exists()
    for mapper in (None, LevelsMapper(8, 8, ["coarse"])):
        with pytest.raises(TypeError, match="no argument 'w_sdt'"):
            run(mapper=mapper, w_sdt=None)
    with pytest.raises(TypeError, match="integers"):
        run(timesteps=[0.5])
    with pytest.raises(ValueError, match="give the image manipulator"):
        distill(tiny_prior, None, torch.rand(2, 3, 32, 32), "hair", [500])
    with pytest.raises(ValueError, match=r"images \[N, 3, R, R\]"):
        distill(tiny_prior, None, torch.rand(3, 32, 32), "hair", [500], mapper=nn.Conv2d(3, 3, 1))


def test_one_latent_can_be_optimized_given_a_unit(
    run: Callable[..., DistillResult], w_plus: Tensor
) -> None:
    result = run(w_plus=w_plus[:1], w_std=torch.ones(1, 8), config={"steps": 2})
    assert result.history[-1]["step"] == 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_host_waits_for_the_gpu_only_when_logging(
    tiny_sd: Path, generator: StyleGAN2, w_plus: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdd_fast.distillation.objective import Objective

    loss = Objective.loss
    prior = DiffusionPrior.from_pretrained(tiny_sd, device="cuda")
    steps = []

    def strict(self: Objective, step: int, *of: Any) -> tuple[Tensor, dict[str, Tensor]]:
        # The first steps fill caches; between log entries nothing may synchronise.
        torch.cuda.set_sync_debug_mode("error" if 4 <= step < 18 else "default")
        steps.append(step)
        return loss(self, step, *of)

    monkeypatch.setattr(Objective, "loss", strict)
    import copy

    try:
        distill(
            prior, copy.deepcopy(generator).cuda(), w_plus, "hair", TIMESTEPS,
            identity=Identity().cuda(),
            config=DistillConfig(steps=20, batch_size=2, log_every=20, keep_weight=0.1),
        )  # fmt: skip
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert steps == list(range(20))


def test_trains_in_float32_whatever_the_generator_does_elsewhere(
    tiny_prior: DiffusionPrior, w_plus: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2(
            32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=8, num_fp16_res=2
        )
    generator.fp16 = True
    seen, synthesis = [], generator.synthesis_from_styles

    def watched(*arguments: Any, **options: Any) -> Tensor:
        seen.append((generator.fp16, torch.is_grad_enabled()))
        return synthesis(*arguments, **options)

    monkeypatch.setattr(generator, "synthesis_from_styles", watched)
    config = DistillConfig(steps=2, batch_size=2)
    distill(tiny_prior, generator, w_plus, "hair", [300], config=config)
    assert (False, True) in seen and (True, True) not in seen
    assert generator.fp16 is True
