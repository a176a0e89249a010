"""The teacher's noise schedule: the one place that knows ᾱ_t (`alphas_cumprod`).

    z_t = α_t z + σ_t ε,    α_t = √ᾱ_t,    σ_t = √(1 − ᾱ_t)

Everything else asks for α_t, σ_t, w(t), noised latents and noise predictions, so that a teacher
with another path from image to noise needs another schedule and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Timesteps = int | Sequence[int] | Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction")
NO_SIGNAL = 1e-10
"""ᾱ_t, the image's share of the variance of z_t, below which z_t tells nothing of it."""


class Schedule:
    """α_t, σ_t and what follows from them.

    Args:
        scheduler: of diffusers; only its `alphas_cumprod` and its prediction type are read.
        dtype: of α_t, σ_t and w(t).

    Attributes:
        alphas_cumprod: [T] float32, ᾱ_t on `device`.
        prediction_type: what the U-Net predicts, "epsilon" or "v_prediction".
        with_signal: the timesteps below this one are all at which z_t shows anything of z.
    """

    def __init__(
        self,
        scheduler: Any,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod.to(device, torch.float32)
        self.prediction_type: str = scheduler.config.prediction_type
        self.with_signal = int((scheduler.alphas_cumprod >= NO_SIGNAL).sum())
        self.dtype = dtype

    def __len__(self) -> int:
        """Return T; timesteps run from 0 to T − 1."""
        return len(self.alphas_cumprod)

    def timesteps_tensor(self, timesteps: Timesteps, batch: int) -> Tensor:
        """Check timesteps and return them as int64 [batch] on the schedule's device.

        The range 0 … T − 1 is checked for Python ints, lists and CPU tensors. A tensor that lives
        on another device is not checked, because reading it would make the host wait for the
        device.

        Args:
            timesteps: one for all samples, or one per sample.

        Raises:
            TypeError: not integers. ValueError: out of range, or a number other than 1 or `batch`.
        """
        t = timesteps if isinstance(timesteps, Tensor) else torch.as_tensor(timesteps)
        if t.is_floating_point() or t.is_complex() or t.dtype == torch.bool:
            raise TypeError(f"timesteps must be integers, got {t.dtype}: {timesteps!r}")
        t = t.reshape(-1)
        if len(t) not in (1, batch):
            raise ValueError(
                f"got {len(t)} timesteps for a batch of {batch}; expected 1 or {batch}"
            )
        if t.device.type == "cpu":
            outside = [int(v) for v in t if not 0 <= v < len(self)]
            if outside:
                raise ValueError(
                    f"timestep {outside[0]} is out of range; this model has timesteps 0 to "
                    f"{len(self) - 1}"
                )
        return t.to(self.alphas_cumprod.device, torch.int64).expand(batch)

    def without_signal(self, timesteps: Timesteps) -> list[int]:
        """List those of `timesteps` at which z_t is noise alone, as with zero terminal SNR.

        Predicting v, the teacher answers with that noise there: its residual is 0 whatever image
        and prompt. A tensor on another device than the CPU is not read, and gives [].
        """
        t = timesteps if isinstance(timesteps, Tensor) else torch.as_tensor(timesteps)
        if t.device.type != "cpu":
            return []
        return [int(v) for v in t.flatten() if v >= self.with_signal]

    def check_signal(self, timesteps: Timesteps) -> None:
        """Raise ValueError if one of `timesteps` carries no signal; see `without_signal`."""
        silent = self.without_signal(timesteps)
        if silent:
            raise ValueError(self.no_signal(silent[0]))

    def no_signal(self, t: int) -> str:
        """Say that timestep t carries no signal, and which do."""
        return (
            f"timestep {t} carries no signal: there this teacher's z_t is noise alone (zero "
            "terminal SNR), its residual is 0 whatever the image and the prompt; give timesteps "
            f"up to {self.with_signal - 1}"
        )

    def alpha(self, t: Tensor) -> Tensor:
        """Return α_t [B, 1, 1, 1] for int64 t [B]: ∂z_t/∂z."""
        return self._abar(t).sqrt()

    def sigma(self, t: Tensor) -> Tensor:
        """Return σ_t [B, 1, 1, 1] for int64 t [B]: ∂z_t/∂ε."""
        return (1 - self._abar(t)).sqrt()

    def weight(self, t: Tensor, weighting: str) -> Tensor:
        """Return w(t) [B, 1, 1, 1] for int64 t [B]: of `GuidanceConfig.weighting`."""
        abar = self._abar(t)
        return torch.ones_like(abar) if weighting == "uniform" else 1 - abar

    def add_noise(self, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return z_t = α_t z + σ_t ε for z and ε [B, C, h, w] and int64 t [B]."""
        return self.alpha(t) * z + self.sigma(t) * noise

    def noise_prediction(self, output: Tensor, z_t: Tensor, t: Tensor) -> Tensor:
        """Turn the U-Net's output at (z_t, t) into a prediction of ε; all [B, C, h, w].

        v = α ε − σ z and z_t = α z + σ ε, hence ε = α v + σ z_t. This being linear in v, guidance,
        whose weights sum to 1, may be applied before.
        """
        if self.prediction_type == "epsilon":
            return output
        return self.alpha(t) * output + self.sigma(t) * z_t.to(self.dtype)

    def _abar(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod[t].to(self.dtype).view(-1, 1, 1, 1)


def check_schedule(alphas_cumprod: Tensor, prediction_type: str) -> None:
    """Raise ValueError unless ᾱ_t [T] falls from 1 towards 0 as this prediction type needs it."""
    falls = alphas_cumprod.diff() <= 0
    if not (bool(falls.all()) and 0 <= alphas_cumprod[-1] and 0 < alphas_cumprod[0] <= 1):
        raise ValueError(
            "the scheduler's betas give no noise schedule: ᾱ_t must fall from at most 1 to at "
            "least 0; each beta is between 0 and 1"
        )
    if prediction_type == "epsilon" and float(alphas_cumprod[-1]) <= 0:
        # z_T is the noise itself: ε̂ = z_T says nothing about the image, and x_0 = 0/0.
        raise ValueError(
            "the scheduler has zero terminal SNR (rescale_betas_zero_snr) but predicts epsilon, "
            "which is undefined there; such models predict v: set prediction_type to v_prediction"
        )
