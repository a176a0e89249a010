"""How the teacher's gradient is formed: the settings, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..checks import check_number

GUIDANCE_RMS = 3.2
"""What `balanced_guidance_scale` balances to."""


@dataclass(frozen=True)
class GuidanceConfig:
    """How the teacher's gradient is formed.

    Args:
        guidance_scale: g in ε̂ = ε_u + g·(ε_c − ε_u); 1 is the plain conditional prediction.
        jacobian: "skip" leaves out the U-Net's Jacobian; "full" back-propagates through the U-Net
            (equations: `gradients/sds.py`).
        weighting: w(t) = 1 − ᾱ_t ("one_minus_alphas_cumprod"), or 1 ("uniform").
        clip_topk: keep only the k elements of largest |r| of each sample (all that tie with the
            k-th are kept) and set the others to zero; None keeps everything. Which of two elements
            in a near tie is kept hangs on rounding, and so on the batch size: r then differs by
            what that element weighs.
        noise: what ε is when the caller gives none: "random" (standard normal) or "zero".
        residual_rms: scale the r of each sample to this root mean square, after clipping: prompts
            and timesteps then differ in the direction of r alone. None leaves its magnitude as it
            is.
    """

    guidance_scale: float = 100.0
    jacobian: Literal["skip", "full"] = "skip"
    weighting: Literal["one_minus_alphas_cumprod", "uniform"] = "one_minus_alphas_cumprod"
    clip_topk: int | None = None
    noise: Literal["random", "zero"] = "random"
    residual_rms: float | None = None

    def __post_init__(self) -> None:
        for name, allowed in (
            ("jacobian", ("skip", "full")),
            ("weighting", ("one_minus_alphas_cumprod", "uniform")),
            ("noise", ("random", "zero")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}; got {getattr(self, name)!r}"
                )
        scale = self.guidance_scale
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale < 1e6:
            raise ValueError(f"guidance_scale must be a number from 0 to 1e6, got {scale!r}")
        k = self.clip_topk
        if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
            raise ValueError(f"clip_topk must be a positive integer or None, got {k!r}")
        if self.residual_rms is not None:
            check_number("residual_rms", self.residual_rms, positive=True)
