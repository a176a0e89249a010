"""What a run folder keeps: finished work is never lost, and other runs are told apart."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import DistillResult, distill
from sdd_fast.editing.editor import mapper_file
from sdd_fast.files import load_tensors, read_json, save_tensors, write_json
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.lock import locked
from sdd_fast.models import StyleGAN2
from sdd_fast.run_folder import (
    CHECKPOINT_FILE,
    CONFIG_FILE,
    HISTORY_FILE,
    MAPPER_FILE,
    RUN_FILE,
    RUN_FORMAT,
    WRITTEN,
    remembered_domain,
)
from sdd_fast.teacher.attention import set_attention
from sdd_fast.teacher.prior import DiffusionPrior

Run = Callable[..., DistillResult]


@pytest.fixture(scope="module")
def run(tiny_prior: DiffusionPrior) -> Run:
    """distill() on the tiny networks for a few steps; `stop` raises in the given step."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = StyleGAN2(32, w_dim=8, z_dim=8, n_mlp=1, channel_base=128, channel_max=4)
    w_plus = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))

    def call(
        folder: Path | None, *, prompt: str = "white hair", stop: int = 0, steps: int = 3,
        send: signal.Signals | None = None, **options: Any,
    ) -> DistillResult:  # fmt: skip
        count = 0

        def identity(images: Tensor) -> Tensor:
            nonlocal count
            count += torch.is_grad_enabled()
            if stop and count == stop and send:
                os.kill(os.getpid(), send)
            elif stop and count == stop:
                raise KeyboardInterrupt
            return nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)

        config = DistillConfig(
            steps=steps, batch_size=2, checkpoint_every=2, log_every=1, keep_weight=0.2,
            guidance=GuidanceConfig(7.5),
        )  # fmt: skip
        return distill(
            tiny_prior, generator, w_plus, prompt, [150, 800], identity=identity, config=config,
            run_dir=folder, progress=False, **options,
        )  # fmt: skip

    return call


def test_a_folder_stays_where_it_was_when_the_program_moves(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)

    def move(mapper: nn.Module, lam: float) -> dict[str, Any]:
        os.chdir("elsewhere")
        return {}

    run(Path("here"), monitor=move)
    assert {CONFIG_FILE, MAPPER_FILE, HISTORY_FILE} <= set(content(tmp_path / "here"))
    assert not list((tmp_path / "elsewhere").iterdir())


def never(*_: Any) -> dict[str, Any]:
    pytest.fail("trained again")


def content(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if not p.name.startswith(".")}


def weights(result: DistillResult) -> list[Tensor]:
    return list(result.mapper.state_dict().values())


def same(a: DistillResult, b: DistillResult) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def test_a_finished_run_without_its_checkpoint_is_returned(run: Run, tmp_path: Path) -> None:
    first = run(tmp_path)
    (tmp_path / CHECKPOINT_FILE).unlink()
    before = content(tmp_path)
    again = run(tmp_path, monitor=never)
    assert same(first, again) and again.history == first.history and again.info == first.info
    assert not again.mapper.training and again.seconds == first.history[-1]["seconds"]
    assert content(tmp_path) == before


@pytest.mark.parametrize("checkpoint", [True, False])
def test_another_run_in_a_finished_folder_is_refused(
    run: Run, tmp_path: Path, checkpoint: bool
) -> None:
    run(tmp_path)
    if not checkpoint:
        (tmp_path / CHECKPOINT_FILE).unlink()
    before = content(tmp_path)
    where = "in the checkpoint" if checkpoint else "there"
    for change, line in (
        ({"steps": 5}, rf"config.steps: 3 {where}, 5 now"),
        ({"prompt": "bald"}, rf"prompt: 'white hair' {where}, 'bald' now"),
        ({"levels": ["coarse"]}, "levels: "),
    ):
        with pytest.raises(ValueError, match=rf"other settings:(.|\n)*{line}(.|\n)*resume=False"):
            run(tmp_path, **change)
    assert content(tmp_path) == before


def test_another_teacher_is_another_run(
    run: Run, tmp_path: Path, tiny_prior: DiffusionPrior
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=3)
    weight = next(tiny_prior.unet.parameters())
    with torch.no_grad():
        weight.neg_()
    try:
        with pytest.raises(ValueError, match=r"other settings:\n  networks.teacher: '\w+' in the"):
            run(tmp_path)
    finally:
        with torch.no_grad():
            weight.neg_()
    assert same(run(tmp_path), run(None))


def test_a_teacher_that_only_computes_otherwise_is_another_one(
    run: Run, tmp_path: Path, tiny_prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are the same: what its configs say is not."""
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=3)
    with monkeypatch.context() as patch:
        patch.setattr(tiny_prior.schedule, "prediction_type", "v_prediction")
        with pytest.raises(ValueError, match=r"other settings:\n  networks.prediction_type: "):
            run(tmp_path)
    factor = tiny_prior.vae.config.scaling_factor
    tiny_prior.vae.register_to_config(scaling_factor=2 * factor)
    try:
        with pytest.raises(ValueError, match=r"other settings:\n  networks.scaling_factor: "):
            run(tmp_path)
    finally:
        tiny_prior.vae.register_to_config(scaling_factor=factor)
    networks = {"unet": tiny_prior.unet, "vae": tiny_prior.vae}
    set_attention(networks, "sdpa-math", 8)
    try:
        with pytest.raises(ValueError, match=r"other settings:\n  attention: .*sdpa-math.* now"):
            run(tmp_path)
    finally:
        set_attention(networks, "sdpa", 8)
    assert same(run(tmp_path), run(None))


@pytest.mark.parametrize("stop", [1, 3])
def test_a_restart_that_is_stopped_keeps_the_finished_mapper(
    run: Run, tmp_path: Path, stop: int
) -> None:
    run(tmp_path)
    before = content(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, prompt="bald", resume=False, stop=stop)
    after = content(tmp_path)
    assert after[MAPPER_FILE] == before[MAPPER_FILE]
    if stop == 1:  # nothing was made that could replace anything
        assert after == before
        assert same(run(tmp_path, monitor=never), run(None))
    else:
        resumed = run(tmp_path, prompt="bald")
        assert same(resumed, run(None, prompt="bald"))
        assert load_tensors(tmp_path / MAPPER_FILE)[1]["prompt"] == '"bald"'
        assert read_json(tmp_path / CONFIG_FILE)["prompt"] == "bald"


def test_a_restart_replaces_the_run(run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    other = run(tmp_path, prompt="bald", resume=False)
    (tmp_path / CHECKPOINT_FILE).unlink()
    assert same(run(tmp_path, prompt="bald", monitor=never), other)


def test_an_unfinished_run_without_checkpoint_starts_over(run: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, prompt="bald", stop=1)
    assert set(content(tmp_path)) == {CONFIG_FILE}
    assert same(run(tmp_path), run(None))


def test_a_finished_run_whose_history_is_lost(run: Run, tmp_path: Path) -> None:
    first = run(tmp_path)
    (tmp_path / HISTORY_FILE).write_text("[")
    assert run(tmp_path, monitor=never).history == first.history  # the checkpoint has it
    assert read_json(tmp_path / HISTORY_FILE) == first.history
    (tmp_path / CHECKPOINT_FILE).unlink()
    (tmp_path / HISTORY_FILE).write_text("[]")
    with pytest.raises(ValueError, match=r"history\.json is not(.|\n)*resume=False"):
        run(tmp_path, monitor=never)


def test_what_is_not_finite_is_null_in_history_json(run: Run, tmp_path: Path) -> None:
    def monitor(mapper: nn.Module, lam: float) -> dict[str, Any]:
        return {"verdict": "", "edit_size": float("nan")}

    result = run(tmp_path, monitor=monitor)
    assert read_json(tmp_path / HISTORY_FILE)[-1]["edit_size"] is None
    assert result.history[-1]["edit_size"] != result.history[-1]["edit_size"]


@pytest.mark.parametrize("name", [MAPPER_FILE, CONFIG_FILE, HISTORY_FILE])
def test_files_that_a_run_did_not_write_are_not_replaced(
    run: Run, tmp_path: Path, name: str
) -> None:
    if name == MAPPER_FILE:
        save_tensors(tmp_path / name, {"a": torch.ones(1)})
    else:
        write_json(tmp_path / name, {"my": "own"})
    before = content(tmp_path)
    with pytest.raises(ValueError, match=rf"{name} is not of a run(.|\n)*resume=False"):
        run(tmp_path)
    assert content(tmp_path) == before
    run(tmp_path, resume=False)


def test_a_folder_in_use_is_refused(run: Run, tmp_path: Path) -> None:
    import threading

    refused: list[str] = []

    def other() -> None:
        try:
            run(tmp_path)
        except BlockingIOError as error:
            refused.append(str(error))

    with locked(tmp_path):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert f"process {os.getpid()}" in refused[0]
        run(tmp_path)  # by whoever holds the lock


def test_a_read_only_folder_is_refused_before_any_work(
    run: Run, tmp_path: Path, tiny_prior: DiffusionPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(tmp_path / ".lock"))

    monkeypatch.setattr("sdd_fast.lock.FileLock.acquire", refuse)
    calls = tiny_prior.unet_calls
    with pytest.raises(PermissionError, match="Read-only.*choose another place") as caught:
        run(tmp_path)
    assert caught.value.filename == str(tmp_path)
    assert tiny_prior.unet_calls == calls and not content_names(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_with_a_checkpoint(
    run: Run, tmp_path: Path, number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt, match=r"after step 1 of 3.*step 1 is in .*resume"):
        run(tmp_path, stop=1, send=number)
    assert f"{number.name}: finishing this step" in capsys.readouterr().err
    assert same(run(tmp_path), run(None))


@pytest.mark.parametrize("name", [MAPPER_FILE, CONFIG_FILE, HISTORY_FILE, CHECKPOINT_FILE])
def test_a_folder_in_place_of_a_file_is_found_first(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    for resume in (True, False):
        with pytest.raises(IsADirectoryError, match=name):
            run(tmp_path, resume=resume, stop=1)
    assert set(content_names(tmp_path)) == {name}


def content_names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")]


def test_a_restart_takes_the_record_of_the_mapper_that_it_replaces(
    run: Run, tmp_path: Path
) -> None:
    run(tmp_path)
    written = {name: b"of the first" for name in WRITTEN if name != RUN_FILE}
    for name, data in written.items():
        (tmp_path / name).write_bytes(data)
    write_json(tmp_path / RUN_FILE, {"format": RUN_FORMAT, "prompt": "white hair"})
    with pytest.raises(KeyboardInterrupt):  # before there is another mapper
        run(tmp_path, prompt="bald", resume=False, stop=1)
    assert set(written) | {RUN_FILE} <= set(content_names(tmp_path))
    run(tmp_path, prompt="bald", resume=False)
    assert not set(WRITTEN) & set(content_names(tmp_path))


def test_records_of_others(run: Run, tmp_path: Path) -> None:
    write_json(tmp_path / RUN_FILE, {"format": RUN_FORMAT, "prompt": "bald"})
    with pytest.raises(ValueError, match=r"run\.json tells of a run of another prompt; .*resume=F"):
        run(tmp_path)
    write_json(tmp_path / RUN_FILE, {"id": 3})
    for resume in (True, False):
        with pytest.raises(ValueError, match=r"run\.json is not of a run"):
            run(tmp_path, resume=resume)
    assert content_names(tmp_path) == [RUN_FILE]


def test_a_damaged_mapper_is_made_again_from_the_checkpoint(run: Run, tmp_path: Path) -> None:
    first = run(tmp_path)
    (tmp_path / MAPPER_FILE).write_bytes((tmp_path / MAPPER_FILE).read_bytes()[:100])
    assert same(run(tmp_path, monitor=never), first)
    assert load_tensors(tmp_path / MAPPER_FILE)[1]["prompt"] == '"white hair"'
    (tmp_path / CHECKPOINT_FILE).unlink()
    (tmp_path / MAPPER_FILE).write_bytes(b"")
    with pytest.raises(ValueError, match=r"mapper\.safetensors is empty(.|\n)*resume=False"):
        run(tmp_path)


def test_a_finished_run_needs_no_checkpoint_however_damaged(run: Run, tmp_path: Path) -> None:
    first = run(tmp_path)
    for data in (b"", b"x" * 50, (tmp_path / CHECKPOINT_FILE).read_bytes()[:-9]):
        (tmp_path / CHECKPOINT_FILE).write_bytes(data)
        assert same(run(tmp_path, monitor=never), first)


def forget_checksum(folder: Path) -> None:
    config = read_json(folder / CONFIG_FILE)
    del config["mapper_sha256"]
    write_json(folder / CONFIG_FILE, config)


def test_a_finished_mapper_of_nan_is_named(run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    forget_checksum(tmp_path)  # as of an earlier version
    tensors, metadata = load_tensors(tmp_path / MAPPER_FILE)
    next(iter(tensors.values())).fill_(float("nan"))
    save_tensors(tmp_path / MAPPER_FILE, tensors, metadata)
    with pytest.raises(ValueError, match=r"mapper\.safetensors holds NaN(.|\n)*resume=False"):
        run(tmp_path)


def change(path: Path) -> None:
    tensors, metadata = load_tensors(path)
    next(iter(tensors.values())).mul_(1.01)
    save_tensors(path, tensors, metadata)


@pytest.mark.parametrize("checkpoint", [True, False])
@pytest.mark.parametrize("changed", [True, False])
def test_a_mapper_that_is_not_of_the_run_is_kept_and_not_used(
    run: Run, tmp_path: Path, checkpoint: bool, changed: bool
) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    first, _ = run(mine), run(other, prompt="bald")
    own = (mine / MAPPER_FILE).read_bytes()
    if not checkpoint:
        (mine / CHECKPOINT_FILE).unlink()
    if changed:
        change(mine / MAPPER_FILE)
    else:
        (mine / MAPPER_FILE).write_bytes((other / MAPPER_FILE).read_bytes())
    before = content(mine)
    for use in (lambda: run(mine, monitor=never), lambda: mapper_file(mine)):
        with pytest.raises(ValueError, match=r"is not the mapper of the run in .*resume=False"):
            use()
    assert content(mine) == before and mapper_file(other) == other / MAPPER_FILE
    (mine / MAPPER_FILE).rename(tmp_path / "elsewhere.safetensors")
    assert same(run(mine), first)
    assert (mine / MAPPER_FILE).read_bytes() == own


def test_a_mapper_put_into_an_unfinished_run_is_kept(run: Run, tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    run(other, prompt="bald")
    with pytest.raises(KeyboardInterrupt):
        run(mine, stop=3)
    (mine / MAPPER_FILE).write_bytes((other / MAPPER_FILE).read_bytes())
    before = content(mine)
    with pytest.raises(ValueError, match="is not the mapper of the run"):
        run(mine)
    assert content(mine) == before


# --- folders of earlier versions --------------------------------------------------------------


def as_before(folder: Path, *, checkpoint: bool) -> None:
    """Turn the finished run in the folder into one as the first version left it."""
    config = read_json(folder / CONFIG_FILE)
    del config["request"], config["mapper_sha256"]
    config["distill"]["pull"] = config["distill"].pop("guidance_rms")
    write_json(folder / CONFIG_FILE, config)
    tensors, metadata = load_tensors(folder / MAPPER_FILE)
    metadata.pop("request")
    save_tensors(folder / MAPPER_FILE, tensors, metadata)
    (folder / CHECKPOINT_FILE).unlink()
    if checkpoint:
        named = {f"mapper/{name}": tensor for name, tensor in tensors.items()}
        told = {"format": "1", "description": "{}", "progress": "{}"}
        save_tensors(folder / CHECKPOINT_FILE, named, told)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_a_finished_run_of_an_earlier_version(run: Run, tmp_path: Path, checkpoint: bool) -> None:
    first = run(tmp_path)
    as_before(tmp_path, checkpoint=checkpoint)
    before = content(tmp_path)
    assert same(run(tmp_path, monitor=never), first)
    for change in ({"steps": 5}, {"prompt": "bald"}):
        with pytest.raises(ValueError, match="other settings"):
            run(tmp_path, **change)
    assert content(tmp_path) == before


def test_an_unfinished_run_of_an_earlier_version(run: Run, tmp_path: Path) -> None:
    run(tmp_path)
    as_before(tmp_path, checkpoint=True)
    (tmp_path / MAPPER_FILE).unlink()
    with pytest.raises(ValueError, match=r"of another version(.|\n)*resume=False"):
        run(tmp_path)
    assert same(run(tmp_path, resume=False), run(None))


def test_a_damaged_checkpoint_names_a_way_out(run: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop=3)
    before = content(tmp_path)
    for metadata in ({}, {"format": "9"}, {"sdd_fast.training": "{"}):
        save_tensors(tmp_path / CHECKPOINT_FILE, {"a": torch.ones(1)}, metadata)
        with pytest.raises(ValueError, match=r"checkpoint\.safetensors is (.|\n)*resume=False"):
            run(tmp_path)
    (tmp_path / CHECKPOINT_FILE).write_bytes(before[CHECKPOINT_FILE][:-9])
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors is trunc(.|\n)*resume=False"):
        run(tmp_path)
    assert same(run(tmp_path, resume=False), run(None))


@pytest.mark.parametrize("text", ["null", "[]", "3", '"run"', '{"domain_reference": 2.5}', "{"])
def test_a_damaged_record_does_not_tell_the_domain(tmp_path: Path, text: str) -> None:
    assert remembered_domain(tmp_path) is None
    (tmp_path / "run.json").write_text('{"domain_reference": "faces64"}')
    assert remembered_domain(tmp_path) == "faces64"
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(ValueError, match=r"run\.json is"):
        remembered_domain(tmp_path)
