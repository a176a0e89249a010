"""The training loop: what is resumed equals what was not interrupted."""

from __future__ import annotations

import signal

import pytest
import torch
from torch import nn

from sdd_fast.training_loop import Schedule, step_rng, train


def make_problem():
    torch.manual_seed(0)
    model = nn.Linear(4, 2)

    def loss_fn(rng):
        x = torch.randn(8, 4, generator=rng)
        loss = (model(x) - x[:, :2].sin()).square().mean()
        return loss, {}

    return model, loss_fn


SCHEDULE = Schedule(steps=20, batch_size=8, lr=0.05, warmup=3, ema=0.9, bf16=False, seed=3)


class StopError(Exception):
    pass


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    model, loss_fn = make_problem()
    whole = train("a", model, loss_fn, SCHEDULE, tmp_path, checkpoint_every=5).state_dict()

    model, loss_fn = make_problem()
    calls = 0

    def stopping(rng):
        nonlocal calls
        calls += 1
        if calls == 13:
            raise StopError
        return loss_fn(rng)

    with pytest.raises(StopError):
        train("b", model, stopping, SCHEDULE, tmp_path, checkpoint_every=5)
    model, loss_fn = make_problem()  # a new process starts from scratch
    resumed = train("b", model, loss_fn, SCHEDULE, tmp_path, checkpoint_every=5).state_dict()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_ctrl_c_finishes_the_step_and_the_next_call_goes_on(tmp_path):
    model, loss_fn = make_problem()
    whole = train("a", model, loss_fn, SCHEDULE, tmp_path).state_dict()

    model, loss_fn = make_problem()
    steps = 0

    def interrupted(rng):
        nonlocal steps
        steps += 1
        if steps == 7:
            signal.raise_signal(signal.SIGINT)
        return loss_fn(rng)

    with pytest.raises(KeyboardInterrupt, match="step 7 of 20 of b"):
        train("b", model, interrupted, SCHEDULE, tmp_path)
    model, loss_fn = make_problem()
    resumed = train("b", model, interrupted, SCHEDULE, tmp_path).state_dict()
    assert steps == SCHEDULE.steps
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_a_finished_part_is_not_trained_again(tmp_path):
    model, loss_fn = make_problem()
    first = train("a", model, loss_fn, SCHEDULE, tmp_path).state_dict()

    def never(rng):
        raise AssertionError("trained again")

    fresh, _ = make_problem()
    again = train("a", fresh, never, SCHEDULE, tmp_path).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_another_schedule_is_refused(tmp_path):
    model, loss_fn = make_problem()
    train("a", model, loss_fn, SCHEDULE, tmp_path)
    with pytest.raises(ValueError, match="another schedule"):
        train("a", model, loss_fn, Schedule(steps=30, batch_size=8, lr=0.05), tmp_path)


def test_a_loss_that_is_not_finite_stops_and_says_where(tmp_path):
    model, _ = make_problem()
    with pytest.raises(FloatingPointError, match="step 0"):
        train("a", model, lambda rng: (model.weight.sum() * float("nan"), {}), SCHEDULE, tmp_path)


def test_learning_rate_rises_then_falls_to_zero():
    rates = [SCHEDULE.lr_at(k) for k in range(SCHEDULE.steps)]
    assert rates[0] < rates[2] and rates[-1] < 0.02 * SCHEDULE.lr
    assert max(rates) <= SCHEDULE.lr


def test_steps_draw_independently():
    a, b = (torch.rand(4, generator=step_rng(0, k)) for k in (1, 2))
    assert not torch.equal(a, b)
    assert torch.equal(a, torch.rand(4, generator=step_rng(0, 1)))
