"""What a step costs, counted: calls and rows of networks, waits for the device, tensors kept."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sdd_fast import training_loop
from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import distill
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.gradients.image_gradient import EncodedImages
from sdd_fast.models import StyleGAN2
from sdd_fast.progress import Progress
from sdd_fast.teacher.prior import DiffusionPrior
from sdd_fast.teacher.schedule import Schedule
from sdd_fast.teacher.vae_encoder import VAEEncoder

pytestmark = pytest.mark.filterwarnings("ignore:the words? .* not in the vocabulary")

STEPS, BATCH, BATCHES = 15, 2, 3  # of 5 latents; the teacher judges from the fourth step on
PROMPTS = ["white hair", "bald"]
Train = Callable[..., None]


@pytest.fixture(scope="module")
def train(tiny_prior: DiffusionPrior, generator: StyleGAN2) -> Train:
    torch.manual_seed(1)
    w_plus = torch.randn(5, 8, 8)
    identity = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 6))

    def call(prompts: Any, **arguments: Any) -> None:
        config = DistillConfig(
            steps=STEPS, batch_size=BATCH, guidance=GuidanceConfig(7.5), prior_timesteps=(20, 90),
            log_every=5, checkpoint_every=7, generator_dtype="float32",
        )  # fmt: skip
        given = {"identity": identity, "config": config, "progress": False} | arguments
        distill(tiny_prior, generator, w_plus, prompts, [150, 800], **given)

    return call


@pytest.mark.parametrize("prompts", [PROMPTS[0], PROMPTS], ids=["one prompt", "two prompts"])
def test_calls_and_rows_of_the_networks(
    train: Train, tiny_prior: DiffusionPrior, generator: StyleGAN2,
    monkeypatch: pytest.MonkeyPatch, prompts: Any,
) -> None:  # fmt: skip
    seen: Counter[tuple[str, int, bool]] = Counter()

    def counted(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            rows = next(len(x) for x in arguments if isinstance(x, Tensor))
            seen[name, rows, torch.is_grad_enabled()] += 1
            return function(*arguments, **named)

        monkeypatch.setattr(owner, name, call)

    counted(generator, "synthesis")
    counted(VAEEncoder, "encode")
    counted(EncodedImages, "gradient")
    counted(DiffusionPrior, "unet_output")
    train(prompts)
    count = 2 if prompts is PROMPTS else 1
    images, judged = count * BATCH, STEPS - STEPS // 5
    assert seen == {
        ("synthesis", images, True): STEPS,
        ("synthesis", BATCH, False): BATCHES,  # unedited, for all prompts, once
        ("encode", images, True): STEPS,
        ("gradient", images, True): STEPS,
        ("unet_output", 2 * images, False): STEPS - judged,
        ("unet_output", 3 * images, False): judged,
    }


class Asked(TorchDispatchMode):
    """Counts what makes the host wait for its result, but for the optimizer's numbers of steps,
    which lie on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.count, self.counts = 0, False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        waits = func.overloadpacket.__name__ in ("_local_scalar_dense", "nonzero", "equal")
        self.count += waits and self.counts
        return func(*args, **(kwargs or {}))


def test_the_host_waits_only_when_something_is_logged_or_saved(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, where what is NaN is looked for no more often."""
    asked, steps = Asked(), []
    begin, update = training_loop._Loop.__init__, torch.optim.AdamW.step

    def begin_as_on_a_gpu(self: Any, *arguments: Any) -> None:
        begin(self, *arguments)
        self.device, asked.counts = torch.device("cuda"), True

    def unwatched(self: Any, *arguments: Any) -> None:
        asked.counts = False
        update(self, *arguments)
        asked.counts = True

    def listen(event: Progress) -> None:
        if not event.closed and event.done > 0:
            steps.append(asked.count)
        asked.count = 0

    monkeypatch.setattr(training_loop._Loop, "__init__", begin_as_on_a_gpu)
    monkeypatch.setattr(torch.optim.AdamW, "step", unwatched)
    monkeypatch.setattr(Schedule, "timesteps_tensor", lambda _, t, n: torch.as_tensor(t).expand(n))
    with asked:
        train(PROMPTS, progress=listen)
    waits = [step for step, count in enumerate(steps, 1) if count]
    assert len(steps) == STEPS
    assert waits == [5, 7, 10, 14, 15]


def test_nothing_grows_from_step_to_step(train: Train) -> None:
    def alive() -> list[Tensor]:
        gc.collect()
        return [x for x in gc.get_objects() if issubclass(type(x), Tensor)]

    earlier = alive()  # of other tests: held, so that none of them is freed meanwhile
    ids, kept = {id(x) for x in earlier}, []

    def listen(event: Progress) -> None:
        if event.done in (5, 10) and not event.closed:  # after entries, where sums begin anew
            tensors = [x for x in alive() if id(x) not in ids]
            kept.append((len(tensors), sum(x.nbytes for x in tensors)))

    train(PROMPTS, progress=listen)
    assert len(kept) == 2 and kept[0] == kept[1]
