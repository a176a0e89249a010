"""Parts of a domain: what is resumed equals what was not interrupted."""

from __future__ import annotations

import signal

import pytest
import torch
from torch import nn

from sdd_fast.files import save_tensors
from sdd_fast.training.part import PartTrainer, Recipe


def make_problem():
    torch.manual_seed(0)
    model = nn.Linear(4, 2)

    def loss_fn(rng):
        x = torch.randn(8, 4, generator=rng)
        loss = (model(x) - x[:, :2].sin()).square().mean()
        return loss, {}

    return model, loss_fn


RECIPE = Recipe(steps=20, batch_size=8, lr=0.05, warmup=3, ema=0.9, bf16=False, seed=3)


def train(folder, name, model, loss_fn, recipe=RECIPE, **options):
    return PartTrainer(folder, progress=False).train(name, model, loss_fn, recipe, **options)


class StopError(Exception):
    pass


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    model, loss_fn = make_problem()
    whole = train(tmp_path, "a", model, loss_fn, save_every=5).state_dict()

    model, loss_fn = make_problem()
    calls = 0

    def stopping(rng):
        nonlocal calls
        calls += 1
        if calls == 13:
            raise StopError
        return loss_fn(rng)

    with pytest.raises(StopError):
        train(tmp_path, "b", model, stopping, save_every=5)
    model, loss_fn = make_problem()  # a new process starts from scratch
    resumed = train(tmp_path, "b", model, loss_fn, save_every=5).state_dict()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_ctrl_c_finishes_the_step_and_the_next_call_goes_on(tmp_path):
    model, loss_fn = make_problem()
    whole = train(tmp_path, "a", model, loss_fn).state_dict()

    model, loss_fn = make_problem()
    steps = 0

    def interrupted(rng):
        nonlocal steps
        steps += 1
        if steps == 7:
            signal.raise_signal(signal.SIGINT)
        return loss_fn(rng)

    with pytest.raises(KeyboardInterrupt, match="step 7 of 20 of b"):
        train(tmp_path, "b", model, interrupted)
    model, loss_fn = make_problem()
    resumed = train(tmp_path, "b", model, interrupted).state_dict()
    assert steps == RECIPE.steps
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_finished_part_is_not_trained_again(tmp_path):
    model, loss_fn = make_problem()
    first = train(tmp_path, "a", model, loss_fn).state_dict()

    def never(rng):
        raise AssertionError("trained again")

    fresh, _ = make_problem()
    again = train(tmp_path, "a", fresh, never).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_another_recipe_is_refused(tmp_path):
    model, loss_fn = make_problem()
    train(tmp_path, "a", model, loss_fn)
    other = Recipe(steps=30, batch_size=8, lr=0.05)
    told = r"other settings:(.|\n)*steps: 20 in the checkpoint, 30 now(.|\n)*delete a\.checkpoint"
    with pytest.raises(ValueError, match=told):
        train(tmp_path, "a", model, loss_fn, other)


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path):
    model, _ = make_problem()
    with pytest.raises(
        FloatingPointError, match=r"training a: .* in step 1 of 20\..*learning rate"
    ):
        train(tmp_path, "a", model, lambda rng: (model.weight.sum() * float("nan"), {}))


def test_learning_rate_rises_then_falls_to_zero():
    rates = [RECIPE.lr_at(k) for k in range(RECIPE.steps)]
    assert rates[0] < rates[2] and rates[-1] < 0.02 * RECIPE.lr
    assert max(rates) <= RECIPE.lr


def test_the_record_of_what_was_trained(tmp_path):
    model, loss_fn = make_problem()
    train(tmp_path, "a", model, loss_fn)
    ((name, row),) = PartTrainer(tmp_path).record().items()
    assert name == "a" and row.pop("seconds") > 0
    assert row == {"steps": 20, "batch_size": 8, "lr": 0.05, "seed": 3}


def test_the_state_of_an_earlier_version_is_refused(tmp_path):
    model, loss_fn = make_problem()
    path = tmp_path / "a.checkpoint.safetensors"
    save_tensors(path, model.state_dict(), {"step": "20", "seconds": "1.0", "schedule": "{}"})
    with pytest.raises(ValueError, match=r"one of another version(.|\n)*delete a\.checkpoint"):
        train(tmp_path, "a", model, loss_fn)
