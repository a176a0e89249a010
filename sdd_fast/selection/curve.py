"""The HQS curve: statistics per image and timestep, their score, and choices made by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .._deprecated import renamed_fields, warn
from ..files import PathLike, atomic_path, read_json, write_json
from ..gradients.config import GuidanceConfig
from ..notebook import png_of
from .plot import hqs_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "sdd_fast.hqs_curve"
VERSION = 1
NORMALIZATIONS = ("per-image", "of-mean")


@renamed_fields(normalise="normalize")
@dataclass(frozen=True, eq=False, repr=False)
class HQSCurve:
    """Hybrid Quality Score of one prompt over timesteps (Eq. 9–12).

    Args:
        timesteps: T timesteps, ascending.
        entropy: [N, T] float64, H_t of each of N images (Eq. 9), in nats. NaN, here and in the
            other two, where an adaptive search did not evaluate an image; at least at one timestep
            all are evaluated.
        deficit: [N, T] float64, log n − H_t for a gradient map of n elements. It carries H_t's
            variation over t without the rounding of H ≈ log n; scores are computed from it.
        l1: [N, T] float64, N_t (Eq. 10).
        prompt, negative_prompt, config, gradient_map, noise_draws, seed, gradient_at: how it was
            computed; see `hqs`.
        search: "exhaustive" or "adaptive".
        confidence: of an adaptive search: the share of bootstraps over images in which `largest()`
            is the largest; None of one image, which has none.
        candidates: how many timesteps there were to search; 0: T.
        normalize: "per-image" applies Eq. 11 to each image and then averages (the paper); "of-mean"
            averages H and N over images and then applies Eq. 11 once. Either can be derived from
            the same statistics: `dataclasses.replace(curve, normalize="of-mean")`.
    """

    timesteps: tuple[int, ...]
    entropy: Tensor
    deficit: Tensor
    l1: Tensor
    prompt: str = ""
    negative_prompt: str = ""
    config: GuidanceConfig = field(default_factory=GuidanceConfig)
    gradient_map: str = "signed"
    normalize: str = "per-image"
    noise_draws: int = 1
    seed: int = 0
    gradient_at: str = "image"
    search: str = "exhaustive"
    confidence: float | None = None
    candidates: int = 0

    def __post_init__(self) -> None:
        if not self.timesteps or list(self.timesteps) != sorted(set(self.timesteps)):
            raise ValueError(f"timesteps must be ascending and distinct, got {self.timesteps}")
        if self.normalize not in NORMALIZATIONS:
            raise ValueError(
                f"normalize must be one of {', '.join(NORMALIZATIONS)}; got {self.normalize!r}"
            )
        for name in ("entropy", "deficit", "l1"):
            values = torch.as_tensor(getattr(self, name), dtype=torch.float64, device="cpu")
            object.__setattr__(self, name, values)
            if values.ndim != 2 or values.shape[1] != len(self.timesteps) or not len(values):
                raise ValueError(
                    f"{name} must be [images, {len(self.timesteps)} timesteps], got "
                    f"{tuple(values.shape)}"
                )
            if values.shape != self.entropy.shape or values.isinf().any():
                raise ValueError(
                    f"{name} must be finite and of the same shape as entropy, "
                    f"{tuple(self.entropy.shape)}"
                )
            if not torch.equal(values.isnan(), self.entropy.isnan()):
                raise ValueError(f"{name} must be there where entropy is")
        if not bool(self.evaluated.all(0).any()) or not bool(self.evaluated.any(0).all()):
            raise ValueError(
                "entropy, deficit and l1 must be finite for some image at every timestep, and for "
                "all images at one"
            )

    @property
    def num_images(self) -> int:
        """N."""
        return len(self.entropy)

    @property
    def evaluated(self) -> Tensor:
        """[N, T] bool: of which images and timesteps there are statistics."""
        return ~self.entropy.isnan()

    @property
    def evaluations(self) -> tuple[int, int]:
        """Pairs of image and timestep that were evaluated, and those of an exhaustive search."""
        return int(self.evaluated.sum()), self.num_images * (self.candidates or len(self.timesteps))

    def normalized(self) -> tuple[Tensor, Tensor]:
        """Return (H̄, N̄), each [N, T] float64: entropy and L1 after min-max over t (Eq. 11).

        With "per-image" every row spans [0, 1]. With "of-mean" all rows share the minimum and
        maximum of the mean curve, so that the mean over rows, not each row, spans [0, 1]. A curve
        that is flat over t becomes zeros. Minimum and maximum are those of what is evaluated.
        """
        return _normalized(self.deficit, self.l1, self.normalize)

    def normalised(self) -> tuple[Tensor, Tensor]:
        """Return `normalized()`, by its earlier name."""
        warn("HQSCurve.normalised is now called normalized")
        return self.normalized()

    @property
    def scores(self) -> Tensor:
        """[N, T] float64: N̄ − H̄ of every image; in [-1, 1] with normalize="per-image"."""
        return scores(self.deficit, self.l1, self.normalize)

    @property
    def mean(self) -> Tensor:
        """[T] float64: HQS_t, the mean of `scores` over images (Eq. 12), in [-1, 1].

        Where not all images are evaluated, it is the mean at the best timestep at which all are,
        plus the mean difference to it over the images that are evaluated at t; less than the mean
        at that timestep in any case, since an adaptive search did not choose t.
        """
        scores, there = self.scores, self.evaluated
        if bool(there.all()):
            return scores.mean(0)
        means = scores.mean(0)  # NaN, unless all images are there
        best = int(means.nan_to_num(-math.inf).argmax())
        largest = float(means[best])
        others = largest + (scores - scores[:, best : best + 1]).nanmean(0)
        others = others.clamp(max=math.nextafter(largest, -math.inf))
        return torch.where(there.all(0), means, others)

    def select(self, threshold: float) -> list[int]:
        """Select S = {t : HQS_t > threshold}, ascending.

        Raises:
            ValueError: S is empty; the message gives the largest HQS there is.
        """
        if not isinstance(threshold, int | float) or isnan(threshold):
            raise ValueError(f"threshold must be a number in [-1, 1], got {threshold!r}")
        mean = self.mean
        chosen = [t for t, score in zip(self.timesteps, mean, strict=True) if score > threshold]
        if not chosen:
            raise ValueError(
                f"no timestep has an HQS above {threshold:g}: the largest is "
                f"{float(mean.max()):.4f} at timestep {self.largest()}; use a smaller threshold, "
                "or largest() or top(k)"
            )
        return chosen

    def largest(self) -> int:
        """Return the timestep of the largest HQS (the smallest such timestep if several tie)."""
        return self.timesteps[int(self.mean.argmax())]

    def plateau(self, margin: float = 0.1) -> list[int]:
        """Select {t : HQS_t ≥ max HQS − margin}, ascending: those as good as the best.

        The largest value alone depends on chance where the curve is flat.
        """
        if not isinstance(margin, int | float) or not margin >= 0:
            raise ValueError(f"margin must be a number from 0, got {margin!r}")
        mean = self.mean
        near = mean >= mean.max() - margin
        return [t for t, keep in zip(self.timesteps, near.tolist(), strict=True) if keep]

    def top(self, k: int) -> list[int]:
        """Select the k timesteps of largest HQS, best first."""
        if not 1 <= k <= len(self.timesteps):
            raise ValueError(f"k must be 1 to {len(self.timesteps)} (the timesteps known), got {k}")
        order = torch.argsort(self.mean, descending=True, stable=True)
        return [self.timesteps[int(i)] for i in order[:k]]

    def plot(
        self,
        path: PathLike,
        *,
        chosen: Sequence[int] | None = None,
        threshold: float | None = None,
    ) -> Path:
        """Draw the curve to an image file, atomically; the suffix decides the format.

        Args:
            path: ends in .png, .svg or .pdf, for example.
            chosen: timesteps to mark; default: those above `threshold`, or else the largest.
            threshold: drawn as a horizontal line when given.
        """
        figure = self.figure(chosen=chosen, threshold=threshold)
        with atomic_path(path) as temporary:
            figure.savefig(temporary)
        return Path(path)

    def figure(
        self, *, chosen: Sequence[int] | None = None, threshold: float | None = None
    ) -> Figure:
        """Draw the curve as a figure of matplotlib; see `plot`."""
        if chosen is None:
            chosen = [self.largest()] if threshold is None else self.select(threshold)
        unknown = sorted(set(chosen) - set(self.timesteps))
        if unknown:
            raise ValueError(f"chosen timesteps {unknown} are not on the curve: {self.timesteps}")
        entropy, l1 = (values.nanmean(0).tolist() for values in self.normalized())
        note = f"{self.gradient_map}, {self.normalize}, guidance {self.config.guidance_scale:g}"
        if self.search != "exhaustive":
            spent, total = self.evaluations
            note += f"; {self.search}: {spent} of {total} evaluations"
        if self.gradient_at != "image":
            note += f"; approximate: gradient at the {self.gradient_at}"
        return hqs_figure(
            self.timesteps,
            self.scores,
            self.mean.tolist(),
            entropy,
            l1,
            chosen=chosen,
            threshold=threshold,
            prompt=self.prompt,
            note=note,
        )

    def __repr__(self) -> str:
        first, last = self.timesteps[0], self.timesteps[-1]
        count = f"{len(self.timesteps)} timesteps {first}…{last}" if last > first else f"t={first}"
        images = f"{self.num_images} image" + ("s" if self.num_images > 1 else "")
        best = f"largest {float(self.mean.max()):+.3f} at {self.largest()}"
        how = [self.gradient_map, self.normalize]
        how += [] if self.search == "exhaustive" else [self.search]
        how += [] if self.gradient_at == "image" else [f"gradient at the {self.gradient_at}"]
        return f"HQSCurve({self.prompt!r}, {count}, {images}, {best}; {', '.join(how)})"

    def _repr_png_(self) -> bytes:
        return png_of(self.figure())

    def save(self, path: PathLike) -> Path:
        """Write everything as JSON, atomically. Numbers keep all their digits."""
        content: dict[str, Any] = {"format": FORMAT, "version": VERSION}
        content |= {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("entropy", "deficit", "l1"):
            rows = content[name].tolist()
            content[name] = [[None if isnan(value) else value for value in row] for row in rows]
        content |= {"config": asdict(self.config), "hqs": self.mean, "largest": self.largest()}
        write_json(path, content)
        return Path(path)

    @classmethod
    def load(cls, path: PathLike) -> HQSCurve:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError: no such file. ValueError: not a curve, or a field is missing or
                wrong; names the field.
        """
        content = read_json(path)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f'{path} is not an HQS curve: it lacks "format": "{FORMAT}"')
        if content.get("version") != VERSION:
            raise ValueError(
                f"{path} has version {content.get('version')!r} of the format, expected {VERSION}"
            )
        try:
            return _from_json(content)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is not a valid HQS curve: {error}") from error


def scores(deficit: Tensor, l1: Tensor, normalize: str) -> Tensor:
    """Return N̄ − H̄ of every image, [N, T], of tables like those of an `HQSCurve`."""
    entropy, l1 = _normalized(deficit, l1, normalize)
    return l1 - entropy


def _normalized(deficit: Tensor, l1: Tensor, normalize: str) -> tuple[Tensor, Tensor]:
    shared = normalize == "of-mean"
    # Min-max of H equals min-max of −deficit.
    return _min_max(-deficit, shared), _min_max(l1, shared)


def _from_json(content: dict[str, Any]) -> HQSCurve:
    values: dict[str, Any] = {}
    if "normalise" in content:  # as version 0.1 wrote it
        content = content | {"normalize": content["normalise"]}
    # What earlier files do not tell.
    earlier = {"gradient_at": "image", "search": "exhaustive", "confidence": None, "candidates": 0}
    content = earlier | content
    for f in fields(HQSCurve):
        if f.name not in content:
            raise ValueError(f"field {f.name!r} is missing")
        values[f.name] = content[f.name]
    for name in ("prompt", "negative_prompt", "gradient_map", "normalize", "gradient_at", "search"):
        if not isinstance(values[name], str):
            raise ValueError(f"{name} must be a string, got {values[name]!r}")
    if not isinstance(values["confidence"], float | int | None):
        raise ValueError(f"confidence must be a number or null, got {values['confidence']!r}")
    integers = {name: values[name] for name in ("noise_draws", "seed", "candidates")}
    if not isinstance(values["timesteps"], list):
        raise ValueError(f"timesteps must be a list, got {values['timesteps']!r}")
    integers |= {f"timesteps[{i}]": t for i, t in enumerate(values["timesteps"])}
    for name, value in integers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} must be a non-negative integer, got {value!r}")
    values["timesteps"] = tuple(values["timesteps"])
    if not isinstance(values["config"], dict):
        raise ValueError(f"config must be an object, got {values['config']!r}")
    values["config"] = GuidanceConfig(**values["config"])
    for name in ("entropy", "deficit", "l1"):
        try:
            rows = [[math.nan if v is None else v for v in row] for row in values[name]]
            values[name] = torch.tensor(rows, dtype=torch.float64, device="cpu")
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"{name} must be a table of numbers: {error}") from error
    return HQSCurve(**values)


def _min_max(x: Tensor, shared: bool) -> Tensor:
    """Apply Eq. 11 along x [N, T], with each row's own extremes or those of the mean row.

    A flat row becomes 0; NaN stays NaN and is no extreme.
    """
    reference = x.nanmean(0, keepdim=True) if shared else x
    low = reference.nan_to_num(math.inf).amin(1, keepdim=True)
    spread = reference.nan_to_num(-math.inf).amax(1, keepdim=True) - low
    flat = spread == 0
    return torch.where(flat & ~x.isnan(), 0.0, (x - low) / spread.masked_fill(flat, 1))
