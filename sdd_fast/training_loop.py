"""The loop every part of a domain is trained by: resumable, seeded by step, quiet off a terminal.

Whatever step k draws comes from a generator seeded by (seed, k), so a run that was interrupted
and resumed equals one that was not. Checkpoints are safetensors: parameters, optimiser moments
and the moving average, no pickle.
"""

from __future__ import annotations

import copy
import json
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from sdd_fast import draws
from sdd_fast.files import load_tensors, save_tensors
from sdd_fast.interrupt import InterruptAfterStep

LossFn = Callable[[torch.Generator], tuple[Tensor, dict[str, Tensor]]]


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a part learns.

    ``lr`` is reached after ``warmup`` steps and falls to zero along a cosine; ``ema`` is the decay
    of the moving average that is kept (0: none). ``bf16``
    runs convolutions and linears in bfloat16 where the processor or GPU has it.
    """

    steps: int
    batch_size: int
    lr: float
    warmup: int = 100
    weight_decay: float = 0.0
    ema: float = 0.0
    clip_grad: float = 1.0
    bf16: bool = True
    seed: int = 0

    def lr_at(self, step: int) -> float:
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        return self.lr * rise * 0.5 * (1.0 + math.cos(math.pi * step / self.steps))


def step_rng(seed: int, step: int) -> torch.Generator:
    """The generator of one step: a function of (seed, step) alone."""
    return draws.stream(seed, f"step {step}")


def train(
    name: str,
    module: nn.Module,
    loss_fn: LossFn,
    schedule: Schedule,
    folder: Path,
    *,
    lr_factors: dict[str, float] | None = None,
    checkpoint_every: int = 500,
    log_every: int = 100,
) -> nn.Module:
    """Minimises ``loss_fn`` over the trainable parameters of ``module``.

    Args:
        loss_fn: step generator → (scalar loss, scalars to log).
        lr_factors: {prefix of parameter names: factor on the learning rate}; 1 for all others.
        folder: holds ``<name>.checkpoint.safetensors`` while training runs and after.

    Returns:
        The moving average of ``module`` where ``schedule.ema`` > 0, else ``module``; in eval mode.

    Raises:
        FloatingPointError: the loss is not finite; the last checkpoint stays.
        KeyboardInterrupt: Ctrl-C, after the step and a checkpoint are finished.
    """
    path = folder / f"{name}.checkpoint.safetensors"
    params = {k: p for k, p in module.named_parameters() if p.requires_grad}
    groups = [
        {
            "params": [p],
            "factor": next((f for k, f in (lr_factors or {}).items() if key.startswith(k)), 1.0),
        }
        for key, p in params.items()
    ]
    opt = torch.optim.AdamW(
        groups, lr=schedule.lr, betas=(0.9, 0.99), weight_decay=schedule.weight_decay
    )
    average = copy.deepcopy(module).requires_grad_(False) if schedule.ema else module
    start, spent = 0, 0.0
    if path.exists():
        start, spent = _resume(path, module, average, opt, params, schedule)

    device = next(iter(params.values())).device
    module.train()
    bar = tqdm(
        range(start, schedule.steps), initial=start, total=schedule.steps, desc=name, disable=None
    )
    began = time.monotonic()
    with InterruptAfterStep() as interrupt:
        for step in bar:
            for group in opt.param_groups:
                group["lr"] = schedule.lr_at(step) * group["factor"]
            with torch.autocast(device.type, torch.bfloat16, enabled=schedule.bf16):
                loss, logs = loss_fn(step_rng(schedule.seed, step))
            opt.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(params.values(), schedule.clip_grad)
            if step % log_every == 0 or step + 1 == schedule.steps:
                value = loss.item()
                if not math.isfinite(value):
                    raise FloatingPointError(
                        f"training {name}: loss is {value} at step {step}; the last checkpoint is "
                        f"{path}. Lower the learning rate ({schedule.lr}) and start again."
                    )
                shown = {k: f"{v.item():.4g}" for k, v in logs.items()}
                bar.set_postfix(loss=f"{value:.4g}", **shown)
                if not sys.stderr.isatty():
                    rate = (step + 1 - start) / (time.monotonic() - began)
                    print(
                        f"{name} {step + 1}/{schedule.steps} loss {value:.4g} {shown} "
                        f"{rate:.2f} it/s",
                        flush=True,
                    )
            opt.step()
            if schedule.ema:
                # a short memory at first, so that the average forgets the random start
                decay = min(schedule.ema, (1 + step) / (10 + step))
                with torch.no_grad():
                    live = module.state_dict()
                    for key, value_avg in average.state_dict().items():
                        if value_avg.is_floating_point():
                            value_avg.lerp_(live[key], 1.0 - decay)
            last = step + 1 == schedule.steps
            if last or interrupt.requested or (step + 1) % checkpoint_every == 0:
                seconds = spent + time.monotonic() - began
                _save(path, module, average, opt, params, schedule, step + 1, seconds)
            if interrupt.requested:
                raise KeyboardInterrupt(
                    f"stopped after step {step + 1} of {schedule.steps} of {name}; the same "
                    "command goes on from there"
                )
    return average.eval()


def _save(
    path: Path,
    module: nn.Module,
    average: nn.Module,
    opt: torch.optim.Optimizer,
    params: dict[str, nn.Parameter],
    schedule: Schedule,
    step: int,
    seconds: float,
) -> None:
    tensors = {f"module.{k}": v for k, v in module.state_dict().items()}
    if average is not module:
        tensors |= {f"average.{k}": v for k, v in average.state_dict().items()}
    for key, p in params.items():
        # a parameter that no loss has reached yet has no moments
        for moment in ("exp_avg", "exp_avg_sq") if p in opt.state else ():
            tensors[f"opt.{moment}.{key}"] = opt.state[p][moment]
    copies = {k: v.detach().clone().contiguous() for k, v in tensors.items()}
    metadata = {
        "step": str(step),
        "seconds": f"{seconds:.1f}",
        "schedule": json.dumps(schedule.__dict__),
    }
    save_tensors(path, copies, metadata)


def _resume(
    path: Path,
    module: nn.Module,
    average: nn.Module,
    opt: torch.optim.Optimizer,
    params: dict[str, nn.Parameter],
    schedule: Schedule,
) -> tuple[int, float]:
    """Restores everything; returns the steps done and the seconds they took."""
    tensors, meta = load_tensors(path)
    if json.loads(meta["schedule"]) != schedule.__dict__:
        raise ValueError(
            f"{path} was written with another schedule ({meta['schedule']}); "
            "delete it to start this part again, or train with the settings it was started with"
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}

    module.load_state_dict(part("module."))
    if average is not module:
        average.load_state_dict(part("average."))
    first, second = part("opt.exp_avg."), part("opt.exp_avg_sq.")
    step = int(meta["step"])
    for key, p in params.items():
        if key not in first:
            continue
        opt.state[p] = {
            "step": torch.tensor(float(step)),
            "exp_avg": first[key].to(p.device),
            "exp_avg_sq": second[key].to(p.device),
        }
    return step, float(meta["seconds"])
