"""A state's file: what is damaged is refused with a message, and nothing of it is used."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdd_fast.files import load_tensors, save_tensors
from sdd_fast.training_loop import train
from sdd_fast.training_setup import Schedule
from sdd_fast.training_state import _KEY, StateFile, TrainingState, _checksum, begin

STEPS = 4
Change = Callable[[dict[str, Tensor], dict[str, Any]], object]


def started(average: bool = True) -> TrainingState:
    rng = torch.Generator().manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    return begin(module, average=average)


def learn(
    state: TrainingState,
    store: StateFile | None,
    log_every: int = 2,
    steps: int = STEPS,
    save_every: int = 3,
) -> None:
    def loss(step: int) -> tuple[Tensor, dict[str, Tensor]]:
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(step))
        value = state.module(x).square().mean()
        return value, {"value": value.detach()}

    schedule = Schedule(steps, lambda *_: 0.1, ema=0.9, log_every=log_every, save_every=save_every)
    train(state, loss, schedule, "a test", store=store, progress=False)


def store_in(folder: Path, **description: Any) -> StateFile:
    told = {"what": "test", **description}
    return StateFile(folder / "state.safetensors", told, STEPS, "delete it")


@pytest.fixture
def store(tmp_path: Path) -> StateFile:
    store = store_in(tmp_path)
    learn(started(), store)
    return store


def changed(store: StateFile, change: Change, *, sealed: bool = True) -> None:
    """Write the file again with a change; `sealed` with a checksum that fits it."""
    tensors, metadata = load_tensors(store.path)
    content = json.loads(metadata[_KEY])
    change(tensors, content)
    if sealed:
        del content["checksum"]
        content["checksum"] = _checksum(tensors, json.dumps(content))
    save_tensors(store.path, tensors, {_KEY: json.dumps(content)})


def test_a_state_is_restored_in_full(store: StateFile) -> None:
    trained, restored = started(), started()
    learn(trained, None)
    assert store.load(restored)
    for a, b in ((trained.module, restored.module), (trained.average, restored.average)):
        assert a is not None and b is not None
        x, y = a.state_dict(), b.state_dict()
        assert all(torch.equal(x[key], y[key]) for key in x)
    for p, q in zip(trained.trained.values(), restored.trained.values(), strict=True):
        x, y = trained.optimizer.state[p], restored.optimizer.state[q]
        assert x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)
    assert restored.step == STEPS and restored.history[-1]["step"] == STEPS


def test_long_steps_are_saved_after_a_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many steps are to lie between checkpoints: what is killed loses no more than that."""
    clock = SimpleNamespace(perf_counter=count(0, 40).__next__)  # 40 s a step
    monkeypatch.setattr("sdd_fast.training_loop.time", clock)
    store, saved = store_in(tmp_path), []
    monkeypatch.setattr(StateFile, "save", lambda _, state: saved.append(state.step))
    learn(started(), store, steps=7, save_every=100)
    assert saved == [2, 4, 6, 7]


def test_equal_states_are_equal_files(tmp_path: Path) -> None:
    files = []
    for name in ("a", "b"):
        state, store = started(), store_in(tmp_path / name)
        learn(state, None)
        state.seconds, state.history = 1.0, []
        store.save(state)
        files.append(store.path.read_bytes())
    assert files[0] == files[1]


def test_no_file_is_nothing_to_restore(tmp_path: Path) -> None:
    assert not store_in(tmp_path).load(started())


CHANGES: dict[str, tuple[Change, str]] = {
    "missing": (lambda t, c: t.pop("module/0.weight"), "module/0.weight is missing"),
    "extra": (lambda t, c: t.update(odd=torch.ones(1)), "odd is not part of it"),
    "misshapen": (
        lambda t, c: t.update({"module/0.bias": torch.ones(3)}),
        r"module/0.bias is torch.float32 \[3\], expected torch.float32 \[2\]",
    ),
    "dtype": (
        lambda t, c: t.update({"module/0.bias": torch.ones(2, dtype=torch.float16)}),
        "module/0.bias is torch.float16",
    ),
    "NaN": (
        lambda t, c: t["average/0.bias"].fill_(float("nan")),
        "average/0.bias holds NaN",
    ),
    "infinite moment": (
        lambda t, c: t["optimizer/0.bias/exp_avg"].fill_(float("inf")),
        "optimizer/0.bias/exp_avg holds NaN or infinity",
    ),
    "negative squares": (
        lambda t, c: t["optimizer/0.bias/exp_avg_sq"].fill_(-1.0),
        "holds negative squares",
    ),
    "half a moment": (
        lambda t, c: t.pop("optimizer/0.bias/exp_avg"),
        "optimizer/0.bias/exp_avg is missing",
    ),
    "optimizer ahead": (
        lambda t, c: t["optimizer/0.bias/step"].fill_(99.0),
        "optimizer/0.bias/step is 99 after 4 steps",
    ),
    "step -3": (lambda t, c: c.update(step=-3), "it says step -3 of 4"),
    "step 99": (lambda t, c: c.update(step=99), "it says step 99 of 4"),
    "step true": (lambda t, c: c.update(step=True), "it says step True of 4"),
    "step of 100 digits": (lambda t, c: c.update(step=10**100), "a number of 333 bits"),
    "step of 400 digits": (lambda t, c: c.update(step=10**400), "an integer of 401 digits"),
    "count": (lambda t, c: c.update(count=None), "it says that None steps are not logged"),
    "seconds": (lambda t, c: c.update(seconds=float("nan")), "it says that nan seconds"),
    "compiling": (lambda t, c: c.update(compile_seconds=-1), "it says that -1 seconds"),
    "history": (lambda t, c: c.update(history={}), "its history is not a list"),
    "history of others": (lambda t, c: c.update(history=[1]), "its history is not a list"),
    "history of text": (lambda t, c: c.update(history=[{"step": "1"}]), "its history is not"),
    "description": (lambda t, c: c.update(description=3), "other settings"),
    "no description": (lambda t, c: c.pop("description"), "other settings"),
    "format": (lambda t, c: c.update(format=3), "of another version"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_damaged_state_is_refused_and_changes_nothing(store: StateFile, name: str) -> None:
    change, message = CHANGES[name]
    changed(store, change)
    state = started()
    before = {key: value.clone() for key, value in state.module.state_dict().items()}
    with pytest.raises(ValueError, match=message) as caught:
        store.load(state)
    assert str(store.path) in str(caught.value) and "delete it" in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in state.module.state_dict().items())
    assert state.step == 0 and not state.optimizer.state


def test_a_changed_payload_does_not_fit_its_checksum(store: StateFile) -> None:
    changed(store, lambda t, c: t["module/0.bias"].add_(1), sealed=False)
    with pytest.raises(ValueError, match="does not fit its checksum"):
        store.load(started())


@pytest.mark.parametrize("content", [b"", b"\x00" * 50, b"hello", b"\x80\x02}."])
def test_other_files_are_refused(store: StateFile, content: bytes) -> None:
    store.path.write_bytes(content)
    with pytest.raises(ValueError, match="delete it"):
        store.load(started())


def test_a_truncated_file_is_refused(store: StateFile) -> None:
    store.path.write_bytes(store.path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"not a complete safetensors file(.|\n)*delete it"):
        store.load(started())


def test_a_state_without_an_average_does_not_fit_one_with(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    learn(started(average=False), store)
    with pytest.raises(ValueError, match="average/0.bias is missing"):
        store.load(started())


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, stopped, store = started(), started(), store_in(tmp_path)
    learn(whole, None)

    class Stopping(StateFile):
        def save(self, state: TrainingState) -> None:
            super().save(state)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        learn(stopped, Stopping(store.path, store.description, STEPS, ""))
    resumed = started()
    assert store.load(resumed) and resumed.step == 3 and resumed.count == 1
    learn(resumed, store)
    x, y = whole.module.state_dict(), resumed.module.state_dict()
    assert all(torch.equal(x[key], y[key]) for key in x)
    timeless = [[{**entry, "seconds": 0} for entry in s.history] for s in (whole, resumed)]
    assert timeless[0] == timeless[1]
