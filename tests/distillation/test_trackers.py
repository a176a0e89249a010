"""Trackers follow a training without touching it: every entry once, whatever happens."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from sdd_fast.distillation.config import DistillConfig
from sdd_fast.distillation.distill import distill
from sdd_fast.gradients.config import GuidanceConfig
from sdd_fast.models import StyleGAN2
from sdd_fast.teacher.prior import DiffusionPrior

tracking = pytest.importorskip("accelerate.tracking")
pytest.importorskip("tensorboard")
pytestmark = pytest.mark.filterwarnings("ignore:the words? .* not in the vocabulary")

STEPS, LOGGED, MEASURED = 7, [3, 5, 6, 7], [5, 7]
FIGURES = {"lr", "seconds", "residual", "gradient", "l2", "range", "keep"}


class Notebook(tracking.GeneralTracker):
    """Writes down what it is told; `trouble` is called before."""

    name, requires_logging_directory = "notebook", False
    tracker = None

    def __init__(self, trouble: Callable[[str], None] = lambda what: None) -> None:
        super().__init__()
        self.trouble = trouble
        self.told: list[tuple[str, int | None, Any]] = []

    def _write(self, what: str, step: int | None = None, values: Any = None) -> None:
        self.trouble(what)
        self.told.append((what, step, values))

    def start(self) -> None:
        self._write("start")

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self._write("settings", None, values)

    def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
        self._write("figures", step, values)

    def log_images(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
        self._write("images", step, values)

    def finish(self) -> None:
        self._write("finish")

    def steps(self, what: str = "figures") -> list[int | None]:
        return [step for kind, step, _ in self.told if kind == what]


class Stop(Exception):
    """As if the process had been killed."""


class Identity(nn.Module):
    """Stops the training in step `at` (from 1)."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.linear, self.at, self.edited = nn.Linear(48, 6), at, 0

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.linear(nn.functional.adaptive_avg_pool2d(images, 4).flatten(1))
        if torch.is_grad_enabled():
            self.edited += 1
            if self.edited == self.at:
                raise Stop
        return out


@pytest.fixture(scope="module")
def run(tiny_prior: DiffusionPrior, generator: StyleGAN2) -> Callable[..., Any]:
    """distill() of 7 steps; checkpoints fall after 2, 4, 6 and 7."""
    w_plus = torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(1))

    def call(
        prompt: str | Sequence[str] = "white hair", stop: int = 0, samples: Any = None, **given: Any
    ) -> Any:
        config = DistillConfig(
            steps=STEPS, batch_size=2, lr=0.5, log_every=3, checkpoint_every=2, monitor_every=5,
            guidance=GuidanceConfig(7.5), prior_weight=0.0, samples=samples,
        )  # fmt: skip
        given = {"held_out": w_plus[:3], "identity": Identity(stop), "config": config} | given
        if "tensorboard" in str(given.get("tracker")):
            # Its files are read in the order of their names, which tell the second.
            time.sleep(1 - time.time() % 1)
        return distill(
            tiny_prior, generator, w_plus, prompt, [800, 150], progress=False, **given
        )  # fmt: skip

    return call


def events(folder: Path) -> Any:
    """What TensorBoard shows of a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0})
    found.Reload()
    return found


def check_events(folder: Path, history: list[dict[str, Any]]) -> None:
    found = events(folder / "tensorboard")
    assert set(found.Tags()["scalars"]) > FIGURES
    for name in FIGURES | {"edit_size", "peak_change", "identity"}:
        wanted = [(entry["step"], entry[name]) for entry in history if name in entry]
        got = [(event.step, event.value) for event in found.Scalars(name)]
        assert [step for step, _ in got] == [step for step, _ in wanted], name
        if name != "seconds":
            assert [v for _, v in got] == pytest.approx([v for _, v in wanted], rel=1e-6)
    assert [event.step for event in found.Images("samples")] == MEASURED


def test_every_entry_is_told_when_it_is_made(run: Callable[..., Any], tmp_path: Path) -> None:
    made: list[int] = []
    notebook = Notebook(lambda what: made.append(what == "figures"))
    result = run(tracker=notebook, run_dir=tmp_path)
    kinds = [what for what, _, _ in notebook.told]
    assert kinds == ["start", "settings", *["figures"] * 2, "images", *["figures"] * 2, "images",
                     "finish"]  # fmt: skip
    assert notebook.steps() == LOGGED and notebook.steps("images") == MEASURED
    told = {step: values for what, step, values in notebook.told if what == "figures"}
    for entry in result.history:
        numbers = {k: v for k, v in entry.items() if isinstance(v, float)}
        assert told[entry["step"]] == numbers and numbers.keys() >= FIGURES
    (settings,) = (values for what, _, values in notebook.told if what == "settings")
    assert settings["prompt"] == "white hair" and settings["timesteps"] == "150, 800"
    assert settings["guidance.guidance_scale"] == 7.5 and settings["steps"] == STEPS
    assert all(isinstance(value, (bool, int, float, str)) for value in settings.values())


def test_a_tracker_changes_nothing(run: Callable[..., Any]) -> None:
    plain, told = run(), run(tracker=Notebook())
    for name, value in plain.mapper.state_dict().items():
        assert torch.equal(value, told.mapper.state_dict()[name])


def test_tensorboard_shows_what_the_history_says(run: Callable[..., Any], tmp_path: Path) -> None:
    result = run(tracker="tensorboard", run_dir=tmp_path)
    check_events(tmp_path, result.history)


def test_tensorboard_has_the_settings_in_the_log_itself(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """By name, or a tracker of one's own; no folders named by the time lie beside it."""
    from tensorboard.plugins.hparams import metadata

    own = tracking.TensorBoardTracker("mine", tmp_path / "own")
    for tracker, place in (("tensorboard", tmp_path / "tensorboard"), (own, tmp_path / "own/mine")):
        run(tracker=tracker, run_dir=tmp_path, resume=False)
        (log,) = place.iterdir()
        assert log.is_file()
        told = events(place).summary_metadata[metadata.SESSION_START_INFO_TAG].plugin_data.content
        settings = metadata.parse_session_start_info_plugin_data(told).hparams
        assert settings["prompt"].string_value == "white hair"
        assert settings["guidance.guidance_scale"].number_value == 7.5


def test_samples_show_the_edit_as_it_comes(run: Callable[..., Any], tmp_path: Path) -> None:
    """Before stays; after moves. Without a tracker if they are asked for; else not at all."""
    run(samples=2, run_dir=tmp_path / "asked")
    pictures = sorted((tmp_path / "asked" / "samples").iterdir())
    assert [path.name for path in pictures] == ["step-000005.png", "step-000007.png"]
    first, last = (np.asarray(Image.open(path).convert("L")).astype(int) for path in pictures)
    side, gap, margin = 160, 4, 20  # of images of 32 pixels on a grid
    after = len(first) - margin - side
    before, changed = after - gap - side, (first != last).any(1)
    assert changed[:before].any() and not changed[before:after].any() and changed[after:].any()
    run(run_dir=tmp_path / "not")
    run(samples=0, tracker=Notebook(), run_dir=tmp_path / "none")
    assert not (tmp_path / "not" / "samples").exists()
    assert not (tmp_path / "none" / "samples").exists()
    with pytest.raises(ValueError, match="samples must be an integer of at least 0"):
        run(samples=-1)
    with pytest.raises(ValueError, match="samples=2 have nowhere to go: give run_dir"):
        run(samples=2)
    for without in ({"held_out": None}, {"monitor": lambda mapper, lam: {}}):
        with pytest.raises(ValueError, match="of which there are none: give held_out"):
            run(samples=2, run_dir=tmp_path / "never", **without)
    assert not (tmp_path / "never" / "config.json").exists()
    run(tracker=(notebook := Notebook()), held_out=None)
    assert notebook.steps() == [3, 6, 7] and not notebook.steps("images")


def test_samples_of_another_training_go(run: Callable[..., Any], tmp_path: Path) -> None:
    run(samples=1, run_dir=tmp_path)
    mine = tmp_path / "samples" / "mine.png"
    mine.write_bytes(b"mine")
    run(run_dir=tmp_path, resume=False)
    assert list((tmp_path / "samples").iterdir()) == [mine]


def test_a_resumed_training_goes_on_in_the_same_log(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """Stopped in step 6: entry 5 was told, and is made again from the checkpoint after step 4."""
    notebook = Notebook()
    for stop in (6, 0):
        trackers = ["tensorboard", notebook]
        if stop:
            with pytest.raises(Stop):
                run(stop=stop, tracker=trackers, run_dir=tmp_path)
            assert notebook.steps() == [3, 5]
        else:
            result = run(tracker=trackers, run_dir=tmp_path)
    assert notebook.steps() == LOGGED and notebook.steps("images") == MEASURED
    assert [what for what, _, _ in notebook.told].count("settings") == 1
    check_events(tmp_path, result.history)


def test_tensorboard_forgets_what_nobody_remembers_to_have_told(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    """A process killed between the log and its note of it; and a restart."""
    with pytest.raises(Stop):
        run(stop=6, tracker="tensorboard", run_dir=tmp_path)
    (tmp_path / "tracked.json").write_text("{")
    check_events(tmp_path, run(tracker="tensorboard", run_dir=tmp_path).history)
    check_events(tmp_path, run(tracker="tensorboard", run_dir=tmp_path, resume=False).history)


def test_a_tracker_that_comes_later_gets_what_was_before(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    with pytest.raises(Stop):
        run(stop=6, run_dir=tmp_path)
    run(tracker=(notebook := Notebook()), run_dir=tmp_path)
    assert notebook.steps() == LOGGED and notebook.told[1][0] == "settings"


@pytest.mark.parametrize("failing", ["start", "settings", "figures", "images", "finish"])
def test_a_tracker_that_fails_is_warned_of_once(
    run: Callable[..., Any], tmp_path: Path, failing: str
) -> None:
    def trouble(what: str) -> None:
        if what == failing:
            raise ConnectionError("no route to host")

    other = Notebook()
    other.name = "other"
    with pytest.warns(UserWarning) as caught:
        result = run(tracker=[Notebook(trouble), other], run_dir=tmp_path)
    told = [str(one.message) for one in caught if "tracker" in str(one.message)]
    assert len(told) == 1 and "notebook failed: ConnectionError: no route to host" in told[0]
    assert [entry["step"] for entry in result.history] == LOGGED == other.steps()
    assert (tmp_path / "mapper.safetensors").exists()


def test_what_a_tracker_missed_is_sent_at_the_end(run: Callable[..., Any]) -> None:
    down = iter([False, True])

    def trouble(what: str) -> None:
        if what == "figures" and next(down, False):
            raise TimeoutError("the network is down")

    notebook = Notebook(trouble)
    with pytest.warns(UserWarning, match="the network is down"):
        run(tracker=notebook)
    assert notebook.steps() == LOGGED


def test_of_several_prompts_each_has_a_log(run: Callable[..., Any], tmp_path: Path) -> None:
    prompts, places = ["white hair", "bald"], [tmp_path / "a", tmp_path / "b"]
    books = [Notebook(), Notebook()]
    results = run(prompts, tracker=[[book, "tensorboard"] for book in books], run_dir=places)
    for result, place, book, prompt in zip(results, places, books, prompts, strict=True):
        check_events(place, result.history)
        assert book.steps() == LOGGED and book.told[1][2]["prompt"] == prompt
        told = {step: values for what, step, values in book.told if what == "figures"}
        assert told[7]["gradient"] == result.history[-1]["gradient"]
    assert books[0].told[2][2] != books[1].told[2][2]
    with pytest.raises(ValueError, match="a list of one for each of the 2"):
        run(prompts, tracker=Notebook())


def test_wandb_continues_the_run_of_this_folder(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its id, which a restart changes; of several prompts side by side."""
    made: list[dict[str, Any]] = []

    class Fake(Notebook):
        name = "wandb"

        def __init__(self, project: str, **settings: Any) -> None:
            super().__init__()
            made.append({"project": project, **settings})

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr(tracking, "_available_trackers", list(tracking.LoggerType))
    with pytest.raises(Stop):
        run(stop=4, tracker="wandb", run_dir=tmp_path)
    for resume in (True, False):
        run(tracker="wandb", run_dir=tmp_path, resume=resume)
    run(["bald", "white hair"], tracker="wandb")
    assert [one["name"] for one in made] == ["white hair"] * 3 + ["bald", "white hair"]
    ids = [one["id"] for one in made]
    assert ids[0] == ids[1] and len(set(ids)) == 4
    for one in made:
        assert (one["project"], one["resume"], one["reinit"]) == ("sdd_fast", "allow", "create_new")
        assert one["config"]["prompt"] == one["name"] and one["config"]["lr"] == 0.5
    run(tracker=(mine := Fake("my project")))
    assert made[-1] == {"project": "my project"} and mine.told[1][0] == "settings"


@pytest.mark.parametrize(
    ("tracker", "message"),
    [
        ("tensorbord", "there is no tracker 'tensorbord'; accelerate knows .*tensorboard.*wandb"),
        ("mlflow", "the package of the tracker mlflow is not installed: pip install mlflow"),
        (7, "a tracker must be a name or a GeneralTracker of accelerate .*, got 7"),
        ([Notebook(), Notebook()], "must differ, but 'notebook' is given twice"),
    ],
)
def test_refused_before_any_work(
    run: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tracker: Any,
    message: str,
) -> None:
    monkeypatch.setattr(tracking, "_available_trackers", [tracking.LoggerType.TENSORBOARD])
    with pytest.raises((ValueError, TypeError, ModuleNotFoundError), match=message):
        run(tracker=tracker, run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_is_missing_is_named(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="tensorboard writes files .*: give run_dir"):
        run(tracker="tensorboard")
    monkeypatch.setattr(tracking, "_available_trackers", list(tracking.LoggerType))
    with pytest.raises(ValueError, match="mlflow follows one training at a time"):
        run(["white hair", "bald"], tracker="mlflow")
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sdd_fast\[track\]'"):
        run(tracker="tensorboard", run_dir=tmp_path / "run")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'sdd_fast\[track\]'"):
        run(tracker="tensorboard", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_note_of_what_was_told_is_of_this_run(run: Callable[..., Any], tmp_path: Path) -> None:
    """Of one with other settings, stopped before its first checkpoint, nothing is continued."""
    with pytest.raises(Stop):
        run(stop=2, tracker=Notebook(), run_dir=tmp_path)
    note = json.loads((tmp_path / "tracked.json").read_text())
    note["steps"]["notebook"] = 5
    (tmp_path / "tracked.json").write_text(json.dumps(note))
    run("bald", tracker=(notebook := Notebook()), run_dir=tmp_path)
    assert notebook.steps() == LOGGED
