"""`paper` end to end on the tiny domain: everything really run, resumed, and written as a page."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from sdd_fast import baselines
from sdd_fast.baselines import Baseline
from sdd_fast.domains import Domain, load_domain
from sdd_fast.evidence import limited, paper as module
from sdd_fast.evidence.case import Case
from sdd_fast.evidence.paper import paper
from sdd_fast.evidence.plan import Budget, Plan
from sdd_fast.evidence.store import Store

pytestmark = [
    pytest.mark.usefixtures("quick_figures"),
    pytest.mark.filterwarnings("ignore:the words? .* not in the vocabulary:UserWarning"),
    pytest.mark.filterwarnings("ignore:the prompt .* only 16 are used:UserWarning"),
]

PLAN = Plan.quick(
    steps=2, images=6, ablation_images=6, budget=Budget(steps=1, batch_size=1), shown=2,
    ablation_seeds=1, study_timesteps=3, selection_images=2, resamples=50,
    settings={"sdedit": {"level": 0.75}},
)  # fmt: skip


class Negative(Baseline):
    """Turns colors around."""

    name = "Negative"
    paper = "nobody"

    def __init__(self, domain: Domain, level: float = 1.0) -> None:
        super().__init__(domain)
        self.level = level

    def edit(self, images: Tensor, prompt: str, *, seed: int = 0) -> Tensor:
        return images * (1 - 2 * self.level)


class Needy(Baseline):
    name = "Needy StyleCLIP"
    paper = "nobody"

    def edit(self, images: Tensor, prompt: str, *, seed: int = 0) -> Tensor:
        raise ValueError("the domain has no crystal ball")


@pytest.fixture(autouse=True)
def two_baselines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "BASELINES", {"sdedit": Negative, "needy": Needy})
    monkeypatch.setattr("sdd_fast.evidence.editing.BASELINES", baselines.BASELINES)


def test_a_quick_run_measures_everything_and_a_second_one_nothing(
    tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = paper(tiny, tmp_path / "out", PLAN, progress=False)
    assert set(failures.values()) == {"the domain has no crystal ball"}
    assert {name.split(",")[0] for name in failures} == {"edits/needy"}
    page = (tmp_path / "out" / "results.md").read_text()
    assert "Made by `sdd bench paper --domain tiny --quick -m 6`\n" in page
    assert "(quick run)" in page and "A **quick** run" in page
    assert "| Negative | nobody | level = 0.75 |" in page
    assert "the domain has no crystal ball" in page
    row = next(line for line in page.splitlines() if line.startswith("| Needy StyleCLIP | nobody"))
    assert "not measured" in row
    for line in page.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "out" / line[line.index("](") + 2 : -1]).is_file()
    drawn = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    assert drawn == set(module.FIGURES) - {"pose"} or drawn == set(module.FIGURES)
    table = json.loads((tmp_path / "out" / "table3.json").read_text())
    assert [row["strategy"] for row in table["rows"]] == [
        "random", "small ξ", "large ξ", "largest HQS", "lowest HQS",
    ]  # fmt: skip
    assert all(0 <= row["success"]["estimate"] <= 1 for row in table["rows"])

    def never(*of: object, **more: object) -> None:
        raise AssertionError("a unit was done again")

    monkeypatch.setattr(limited, "distill", never)
    monkeypatch.setattr(Negative, "edit", never)
    paper(tiny, tmp_path / "out", PLAN, progress=False)
    assert (tmp_path / "out" / "results.md").read_text() == page


def test_a_part_alone_leaves_the_others_not_measured_and_is_gone_on_with(
    tiny: Domain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    plan = replace(PLAN, prompts=1, ablation_prompts=1)
    real, keep = limited.trained, Store.keep

    def interrupted(*given: object, **more: object) -> object:
        if len(done) == 3:
            raise KeyboardInterrupt
        return real(*given, **more)  # type: ignore[arg-type]

    def kept(self: Store, unit: object, outcome: object) -> None:
        done.append(unit.name)  # type: ignore[attr-defined]
        keep(self, unit, outcome)  # type: ignore[arg-type]

    monkeypatch.setattr(limited, "trained", interrupted)
    monkeypatch.setattr(Store, "keep", kept)
    with pytest.raises(KeyboardInterrupt, match="3 of 11 measurements done; they are kept in"):
        paper(tiny, tmp_path / "out", plan, only=["table3"], progress=False)
    first = list(done)
    unfinished = (tmp_path / "out" / "results.md").read_text()
    random = next(x for x in unfinished.splitlines() if x.startswith("| random |"))
    largest = next(x for x in unfinished.splitlines() if x.startswith("| largest HQS |"))
    assert "not measured" not in random and largest.count("not measured") == 5
    monkeypatch.setattr(limited, "trained", real)
    paper(tiny, tmp_path / "out", plan, only=["table3"], progress=False)
    assert len(set(done)) == len(done) == 11 and done[:3] == first
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| SDD (ours) | W" not in page.split("## Editors")[0]
    for heading in ("(Table 1)", "(Table 2)", "pick well?"):  # what was not asked for
        assert page.split(heading)[1].strip().startswith("Not measured.")
    assert "| largest HQS |" in page

    more = replace(plan, budget=Budget(steps=2, batch_size=1))
    with pytest.raises(FileExistsError, match="of another plan .*budget .* is kept"):
        paper(tiny, tmp_path / "out", more, only=["table3"], progress=False)
    assert (tmp_path / "out" / "results.md").read_text() == page and len(done) == 11
    paper(tiny, tmp_path / "out", more, only=["table3"], overwrite=True, progress=False)
    assert len(done) == 11 + 10  # the curves do not depend on the budget


def test_a_domain_without_labels_is_measured_by_clip(unlabeled: Domain, tmp_path: Path) -> None:
    plan = replace(PLAN, prompts=1, ablation_prompts=1)
    paper(unlabeled, tmp_path, plan, only=["table3"], progress=False)
    table = json.loads((tmp_path / "table3.json").read_text())
    assert "success" not in table["rows"][0]
    assert -1 <= table["rows"][0]["clip_direction"]["estimate"] <= 1


def test_what_is_refused(tiny: Domain, tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="parts are table1, table2, table3, hqs, figures; got all"):
        paper(tiny, tmp_path, PLAN, only=["all"])
    with pytest.raises(ValueError, match="unknown method 'magic'; there are: sdedit, needy"):
        paper(tiny, tmp_path, replace(PLAN, methods=("magic",)))
    blind = load_domain(tiny_folder, classifier=None, clip=None)
    with pytest.raises(ValueError, match="neither a classifier of labels nor a CLIP"):
        paper(blind, tmp_path, PLAN)
    (tmp_path / "of-another").mkdir()
    (tmp_path / "of-another" / "plan.json").write_text(
        json.dumps({"format": module.FORMAT, "domain": "other"})
    )
    with pytest.raises(ValueError, match="holds evidence of the domain 'other', not of 'tiny'"):
        paper(tiny, tmp_path / "of-another", PLAN)
    shutil.rmtree(tmp_path / "of-another")
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(FileExistsError, match="mine.txt is no file of `sdd bench paper`"):
        paper(tiny, tmp_path, PLAN)
    with pytest.raises(ValueError, match="images must be a positive integer"):
        replace(PLAN, images=0)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_page_is_of_its_plan_judges_trained_editors_networks_and_threads(
    tiny: Domain, tmp_path: Path
) -> None:
    case = Case(tiny, PLAN, Store(tmp_path))
    content = json.loads(json.dumps(module.request_of(case)))
    assert module._differing(content, case) == []
    for changed, told in (
        ({"plan": {**content["plan"], "images": 9}}, "images 9 instead of 6"),
        ({"judges": {"lpips": "alex"}}, "other judges"),
        ({"trained": {"few-step": "1234"}}, "other trained"),
        ({"everywhere": {**content["everywhere"], "threads": 99}}, "other threads"),
        ({"everywhere": {**content["everywhere"], "networks": "1234"}}, "other networks"),
    ):
        assert module._differing({**content, **changed}, case) == [told]
