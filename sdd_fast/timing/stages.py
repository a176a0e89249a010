"""The stages of a unit, each alone, and what the device can do at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..distillation.default_mapper import new_mapper
from ..distillation.generator_dtype import choose_generator_dtype, in_dtype
from ..editing.edit_inputs import input_size
from ..gradients.image_gradient import EncodedImages
from ..manipulator import frozen, manipulate
from ..ops.softmax_entropy_l1 import softmax_entropy_l1
from .clock import Run
from .units import Case

_JUDGED = 0.8  # share of the steps of a training in which the teacher judges images as well


@dataclass(frozen=True)
class Stage:
    """A part of a unit that is timed alone.

    Args:
        unit: the name of the unit. name: for people.
        ready: prepares it, untimed, and returns what runs it once.
        per_unit: how many runs of it a unit takes.
    """

    unit: str
    name: str
    ready: Callable[[], Run]
    per_unit: float

    @classmethod
    def of(cls, unit: str, name: str, run: Run, per_unit: float) -> Stage:
        """Return one that needs no preparation."""
        return cls(unit, name, lambda: run, per_unit)

    @property
    def key(self) -> str:
        return f"{self.unit}: {self.name}"


def stages_of(case: Case) -> list[Stage]:
    """Return the stages of one HQS evaluation, one step of a training and one edit.

    What they leave out of a unit, such as drawing noise and the optimizer, is the rest of its time.
    """
    return [*_of_evaluation(case), *_of_step(case), *_of_edit(case)]


def ceilings(device: torch.device, dtype: torch.dtype) -> list[Stage]:
    """Return a large matrix product and a copy, to whose rates the stages are compared."""
    side, elements = (8192, 2**28) if device.type == "cuda" else (2048, 2**25)
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    source = torch.randn(elements, device=device)
    target = torch.empty_like(source)
    return [
        Stage.of("ceiling", f"product of matrices {side}²", lambda: a @ b, 1),
        Stage.of("ceiling", f"copy of {source.nbytes:,} bytes", lambda: target.copy_(source), 1),
    ]


def _of_evaluation(case: Case) -> list[Stage]:
    domain, prior, count = case.domain, case.domain.prior, case.images
    w_plus, embeds = domain.held_out[:count], prior.encode_prompt(case.prompt)
    images = _rendered(case, count)
    d = torch.randn_like(images)
    # As many (image, timestep) as go through the U-Net together.
    evaluations = count * len(case.timesteps)
    together = max(1, min(evaluations, case.rows // 2))
    t = torch.tensor(case.timesteps, device=prior.device).repeat(count)[:together]
    z = torch.randn(together, *_latent_shape(case), device=prior.device)
    r = torch.randn(count, *_latent_shape(case), device=prior.device)

    def backward() -> Run:
        encoded = EncodedImages(prior, images)  # not kept: its graph takes gigabytes
        return lambda: encoded.gradient(r)

    @torch.no_grad()
    def predict() -> None:
        prior.predict_noise(z, t, embeds, 100.0)

    def of(name: str, run: Run, per_unit: float) -> Stage:
        return Stage.of("evaluation", name, run, per_unit)

    once = 1 / evaluations  # for all timesteps of an image
    generate = torch.no_grad()(lambda: domain.generator.synthesis(w_plus))
    return [
        of("generator", generate, once),
        of("VAE encoder, forward", lambda: EncodedImages(prior, images), once),
        of(f"U-Net, {2 * together} rows", predict, 1 / together),
        Stage("evaluation", "VAE encoder, backward", backward, 1 / count),
        of("entropy and L1", lambda: softmax_entropy_l1(d.flatten(1)), 1 / count),
    ]


def _of_step(case: Case) -> list[Stage]:
    domain, prior, count = case.domain, case.domain.prior, case.batch_size
    generator, identity = domain.generator, domain.identity
    w_plus = domain.w_plus[torch.arange(count) % len(domain.w_plus)]
    mapper = new_mapper(generator, domain.w_plus, 0, w_std=domain.w_std)
    trained_through = in_dtype(generator, choose_generator_dtype(generator, w_plus, "auto"))
    images, embeds = _rendered(case, count), prior.encode_prompt(case.prompt)
    z, r = (torch.randn(count, *_latent_shape(case), device=prior.device) for _ in range(2))
    t, d = case.timesteps[len(case.timesteps) // 2], torch.randn_like(images)

    def generate() -> None:
        with frozen(generator):
            edited = manipulate(trained_through, w_plus, [(mapper, 1.0)]).images
            torch.autograd.grad((edited * d).sum(), list(mapper.parameters()))

    @torch.no_grad()
    def predict(scale: float) -> None:
        prior.predict_noise(z, t, embeds, scale)

    def of(name: str, run: Run, per_unit: float = 1.0) -> Stage:
        return Stage.of("step", name, run, per_unit)

    found = [
        of("mapper and generator, both ways", generate),
        of("VAE encoder, both ways", lambda: EncodedImages(prior, images).gradient(r)),
        of(f"U-Net, {2 * count} rows", lambda: predict(100.0)),
        of(f"judge: U-Net, {count} rows", lambda: predict(1.0), _JUDGED),
    ]
    if identity is not None:

        def recognize() -> None:
            with frozen(identity):
                seen = images.clone().requires_grad_()
                torch.autograd.grad(identity(seen).sum(), seen)

        found.append(of("identity network, both ways", recognize))
    return found


def _of_edit(case: Case) -> list[Stage]:
    domain, count = case.domain, case.edits
    w_plus = domain.held_out[:1].expand(count, -1, -1)
    mapper = new_mapper(domain.generator, domain.w_plus, 0, w_std=domain.w_std)

    def of(name: str, run: Run) -> Stage:
        return Stage.of("edit", name, torch.no_grad()(run), 1 / count)

    found = [
        of("mapper", lambda: mapper(w_plus)),
        of("generator", lambda: domain.generator.synthesis(w_plus)),
    ]
    encoder = domain.encoder
    if encoder is not None:
        images = torch.rand(count, 3, *input_size(encoder), device=domain.device) * 2 - 1
        found.insert(0, of("encoder", lambda: encoder(images)))
    return found


def _rendered(case: Case, count: int) -> torch.Tensor:  # [count, 3, H, W]
    with torch.no_grad():
        image = case.domain.generator.synthesis(case.domain.held_out[:1])
    return image.clamp(-1, 1).repeat(count, 1, 1, 1)


def _latent_shape(case: Case) -> tuple[int, int, int]:
    return case.domain.prior.latent_shape_for(*case.domain.generator.image_size)
