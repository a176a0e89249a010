"""Measure what is imperfect in edits of faces64 against what the renderer draws; draw a picture.

    python tools/measure_imperfections.py runs/imperfect     # stop it and go on at will

"a face with white hair" at growing strength and with other settings (SIDES): color of the hair,
beards, saturated values, sharpness and background, each beside what encoder and generator alone do
to the drawn face and to the right answer. Then, why: what the teacher sees of a beard at each
timestep, and whether the generator can show the old beard under white hair. Writes
benchmarks/imperfections-faces64.json, docs/images/imperfections.png and the tables in
docs/guide.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from imperfections_page import write_page
from torch import Tensor

import sdd_fast as sdd
from sdd_fast.domains import Domain
from sdd_fast.domains.faces64.attributes import ATTRIBUTES
from sdd_fast.domains.faces64.edits import EDITS
from sdd_fast.domains.faces64.held_out import faces_without
from sdd_fast.domains.faces64.renderer import Faces, render
from sdd_fast.draws import generator, private
from sdd_fast.files import write_json
from sdd_fast.grid import grid
from sdd_fast.images import psnr
from sdd_fast.manipulator import manipulate
from sdd_fast.metrics.attributes import measure_attributes, read_attributes
from sdd_fast.metrics.saturation import saturation
from sdd_fast.models import LevelsMapper

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "imperfections-faces64.json"
CHOSEN = ROOT / "benchmarks" / "guidance-faces64.json"
PICTURE = ROOT / "docs" / "images" / "imperfections.png"
PROMPT = "a face with white hair"
FACES = 256
STRENGTHS = (1.0, 1.25, 1.5)
SEEN_AT = (300, 400, 500, 600, 700, 750, 800, 850)
PAIRS, PAIRS_SEED, PAIRS_STEPS = 1024, 4711, 1200
DEFAULT = "default"
SIDES: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "timesteps 600 to 850": {"timesteps": [600, 650, 700, 750, 800, 850]},
}
"""What differs from the default settings (timesteps: from what was selected). Others than the
default are tried with the first seed alone, at strength 1."""


@dataclass(frozen=True)
class Scene:
    """Faces that lack white hair, and where in them things are.

    Args:
        before, right: [N, 3, R, R] in [-1, 1]; as drawn, and drawn with white hair.
        hair, beard: bool [N, 1, R, R]: what of the head's hair and of the beard turns white.
        background: whatever is more than a pixel away from the face.
        untouched: whatever is not background and more than two pixels away from the change.
    """

    faces: Faces
    before: Tensor
    right: Tensor
    hair: Tensor
    beard: Tensor
    background: Tensor
    untouched: Tensor

    @property
    def bearded(self) -> Tensor:
        """Bool [N]."""
        return self.faces.labels["beard"] == ATTRIBUTES["beard"].index("yes")


@torch.no_grad()
def draw_scene(count: int, resolution: int) -> Scene:
    """Draw faces, and find regions by what changes when the renderer is told something else."""
    faces = faces_without(*EDITS[PROMPT], count)

    def changed(one: dict[str, str], other: dict[str, str], least: float) -> Tensor:
        drawn = [render(faces.with_labels(**labels), resolution) for labels in (one, other)]
        return (drawn[0] - drawn[1]).abs().amax(1, keepdim=True) > least

    before, right = (render(f, resolution) for f in (faces, faces.with_labels(hair_color="white")))
    shaved = changed({"beard": "yes"}, {"beard": "no"}, 0.05)
    hair = changed({"hair_color": "white"}, {"hair_color": "black"}, 0.9)
    behind = changed({"background": "blue"}, {"background": "orange"}, 0.5)
    moves = (right - before).abs().amax(1, keepdim=True)
    return Scene(
        faces, before, right, hair & ~shaved, shaved & (moves > 0.3),
        background=~_grown(~behind, 1), untouched=~_grown(moves > 0.1, 2) & ~behind,
    )  # fmt: skip


def _grown(mask: Tensor, by: int) -> Tensor:
    return F.max_pool2d(mask.float(), 2 * by + 1, 1, by) > 0.5


def rebuilt(domain: Domain, images: Tensor) -> Tensor:
    """Encode and generate again."""
    return edited(domain, None, images, 0.0)


@torch.no_grad()
def edited(domain: Domain, mapper: Any, images: Tensor, factor: float) -> Tensor:
    """Return [N, 3, R, R] in [-1, 1], edited as `Editor` does."""
    assert domain.encoder is not None
    edits = [] if mapper is None else [(mapper, factor)]
    parts = [manipulate(domain.generator, domain.encoder(x), edits) for x in images.split(64)]
    return torch.cat([part.images for part in parts]).clamp(-1, 1)


def figures(domain: Domain, scene: Scene, images: Tensor) -> dict[str, Any]:
    """Measure images [N, 3, R, R] that should be the right answers."""
    outcome = measure_attributes(
        domain, scene.before, images, EDITS[PROMPT], labels=scene.faces.labels
    )
    assert outcome.success is not None
    kept = {name: float(values.nanmean()) for name, values in outcome.kept.items()}
    mean = _means(images / 2 + 0.5, scene.hair)  # [N, 3], the color of the hair in [0, 1]
    chroma, number = mean.amax(1) - mean.amin(1), scene.faces.labels["hair_color"]
    colors = [name for name in ATTRIBUTES["hair_color"] if name not in EDITS[PROMPT][1]]
    of = {name: number == ATTRIBUTES["hair_color"].index(name) for name in colors}
    slope, mottle = shading(images, scene.background)
    drawn_slope, _ = shading(scene.before, scene.background)
    sharp, drawn_sharp = (sharpness(x, scene.untouched) for x in (images, scene.before))
    found = {
        "success": float(outcome.success.double().mean()),
        "kept": sum(kept.values()) / len(kept),
        "kept_beard": kept["beard"],
        "bearded_kept": float(outcome.kept["beard"][scene.bearded].mean()),
        "hair_moved": float(moved(scene, images, scene.hair).mean()),
        "beard_moved": float(moved(scene, images, scene.beard)[scene.bearded].mean()),
        "saturated": float(saturation(scene.before, images).mean()),
        "psnr": float(psnr(images, scene.right).mean()),
        "sharpness": sharp / drawn_sharp,
        "shading": float(slope.mean() / drawn_slope.mean()),
        "mottle": float(mottle.mean()),
    }
    return {name: round(value, 4) for name, value in found.items()} | {
        "chroma": {name: round(float(chroma[rows].mean()), 4) for name, rows in of.items()},
        "lightness": {name: round(float(mean[rows].mean()), 4) for name, rows in of.items()},
    }


def moved(scene: Scene, images: Tensor, where: Tensor) -> Tensor:
    """Return [N] how far a region has come from the old color (0) to the right one (1)."""
    way = (scene.right - scene.before) * where
    return ((images - scene.before) * way).sum((1, 2, 3)) / way.square().sum((1, 2, 3))


def sharpness(images: Tensor, where: Tensor) -> float:
    """Return the energy of the Laplacian of the gray image over a region [N, 1, R, R]."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    gray = F.pad(images.mean(1, keepdim=True), [1, 1, 1, 1], mode="replicate")
    return float(F.conv2d(gray, kernel)[where].square().mean())


def shading(images: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
    """Fit a line to the gray of the background, down the image.

    Returns:
        [N] its slope, in [-1, 1] over half an image; [N] the standard deviation from it, of 0…255.
    """
    gray, mask = images.mean(1, keepdim=True).double(), where.double()
    y = torch.linspace(-1, 1, images.shape[-2], dtype=torch.float64)[:, None].expand_as(gray)
    y, gray = ((v - _means(v, mask)[..., None, None]) * mask for v in (y, gray))
    slope = (y * gray).sum((2, 3)) / y.square().sum((2, 3))
    rest = (gray - slope[..., None, None] * y).square().sum((2, 3)) / mask.sum((2, 3))
    return slope[:, 0], 127.5 * rest.sqrt()[:, 0]


def _means(values: Tensor, where: Tensor) -> Tensor:
    """Return means [N, C] over a region [N, 1, R, R]."""
    return (values * where).sum((2, 3)) / where.sum((2, 3)).clamp(min=1)


@torch.no_grad()
def seen_by_teacher(domain: Domain, scene: Scene, count: int = 64) -> list[dict[str, Any]]:
    """Read beards off what the teacher predicts of noised right answers, all of them bearded."""
    prior = domain.prior
    embeds = prior.encode_prompt(PROMPT)
    z = prior.encode(scene.right[scene.bearded][:count])
    noise = torch.randn(z.shape, generator=generator(0))
    rows = []
    for step in SEEN_AT:
        t = torch.full((len(z),), step)
        alpha = prior.schedule.alpha(t)
        sigma = (1 - alpha.square()).sqrt()
        z_t = prior.add_noise(z, noise, t)
        clean = (z_t - sigma * prior.predict_noise(z_t, t, embeds, 1.0)) / alpha
        rows.append({"timestep": step, "beard": beards(domain, prior.decode(clean).clamp(-1, 1))})
    return rows


def old_beards(domain: Domain, scene: Scene) -> dict[str, float]:
    """Put the beard of before under white hair; read beards off it, and off it encoded and
    generated again. No face of the domain looks so: a beard has the color of the hair."""
    shaved = render(scene.faces.with_labels(hair_color="white", beard="no"), domain.resolution)
    beard = (scene.right - shaved).abs().amax(1, keepdim=True) > 0.05
    images = torch.where(beard, scene.before, scene.right)[scene.bearded]
    return {"drawn": beards(domain, images), "rebuilt": beards(domain, rebuilt(domain, images))}


def beards(domain: Domain, images: Tensor) -> float:
    """Return the share of images that a beard is read off."""
    read = read_attributes(domain, images)["beard"] == ATTRIBUTES["beard"].index("yes")
    return round(float(read.double().mean()), 4)


def train(domain: Domain, side: str, seed: int, work: Path) -> sdd.DistillResult:
    """Distill, or take what is there."""
    rows = json.loads(CHOSEN.read_text(encoding="utf-8"))["prompts"]
    settings = {"guidance_rms": domain.guidance_rms.get(PROMPT)} | SIDES[side]
    selected = next(row["chosen"]["100"] for row in rows if row["prompt"] == PROMPT)
    timesteps = settings.pop("timesteps", selected)
    return sdd.distill(
        domain.prior, domain.generator, domain.w_plus, PROMPT, timesteps,
        levels=domain.levels.get(PROMPT), w_std=domain.w_std, identity=domain.identity,
        config=sdd.DistillConfig(seed=seed, **settings), domain=domain.name,
        run_dir=work / f"{side.replace(' ', '-')}-{seed}",
    )  # fmt: skip


@torch.no_grad()
def by_right_answers(domain: Domain) -> LevelsMapper:
    """Train the default mapper on latents of right answers: no teacher, generator or loss of images
    has a part in it. What it lacks, the mapper or the latents cannot do."""
    assert domain.encoder is not None
    faces = faces_without(*EDITS[PROMPT], PAIRS, seed=PAIRS_SEED)
    drawn = (render(f, domain.resolution) for f in (faces, faces.with_labels(hair_color="white")))
    w, wanted = (torch.cat([domain.encoder(x) for x in images.split(64)]) for images in drawn)
    with private(PAIRS_SEED):
        mapper = LevelsMapper(w.shape[1], w.shape[2], scale=domain.w_std)
    optimizer = torch.optim.AdamW(mapper.parameters(), lr=0.1, betas=(0.9, 0.99), weight_decay=0)
    rng = generator(PAIRS_SEED)
    for step in range(PAIRS_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * min(1.0, 2 * (1 - step / PAIRS_STEPS))
        some = torch.randint(PAIRS, (64,), generator=rng)
        optimizer.zero_grad()
        with torch.enable_grad():
            left = (w[some] + mapper(w[some]) - wanted[some]) / domain.w_std
            left.square().mean().backward()
        optimizer.step()
    return mapper.eval()


def shown(scene: Scene) -> list[int]:
    """Return one face without and one with a beard of each color of hair: the first ones."""
    colors, found = scene.faces.labels["hair_color"], []
    for color in colors.unique():
        for bearded in (False, True):
            found.append(int(((colors == color) & (scene.bearded == bearded)).nonzero()[0, 0]))
    return found


def draw_picture(domain: Domain, scene: Scene, mappers: dict[str, sdd.DistillResult]) -> None:
    """Draw faces before and after every edit, and what is right."""
    some = shown(scene)
    before = scene.before[some]
    rows = {"drawn": before, "encoded, generated": rebuilt(domain, before)}
    for side, result in mappers.items():
        for strength in STRENGTHS if side == DEFAULT else STRENGTHS[:1]:
            label = f"{side}, strength {strength:g}"
            rows[label] = edited(domain, result.mapper, before, strength * result.config.lam)
    rows["right answer"] = scene.right[some]
    rows["that, encoded, generated"] = rebuilt(domain, scene.right[some])
    grid(list(rows.values()), row_labels=list(rows), cell=64).save(PICTURE, optimize=True)


def measure_unedited(domain: Domain, scene: Scene) -> dict[str, Any]:
    """Measure what no teacher has a part in: the limits of encoder, generator and mapper."""
    images = {
        "drawn": scene.before,
        "rebuilt": rebuilt(domain, scene.before),
        "right": scene.right,
        "right rebuilt": rebuilt(domain, scene.right),
        "by right answers": edited(domain, by_right_answers(domain), scene.before, 1.0),
    }
    return {name: figures(domain, scene, x) for name, x in images.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path, help="folder for runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--sides", nargs="+", default=list(SIDES), choices=list(SIDES))
    options = parser.parse_args()

    domain = sdd.load_domain("faces64")
    scene = draw_scene(FACES, domain.resolution)
    content: dict[str, Any] = {"domain": domain.name, "prompt": PROMPT, "faces": FACES, "edits": []}
    if RESULTS.exists():
        content = json.loads(RESULTS.read_text(encoding="utf-8"))
    parts: dict[str, Callable[..., Any]] = {
        "unedited": measure_unedited,
        "teacher": seen_by_teacher,
        "old_beards": old_beards,
    }
    for name, measure in parts.items():
        if name not in content:
            print(name, flush=True)
            content[name] = measure(domain, scene)
            write_json(RESULTS, content)
    done = [(edit["side"], edit["seed"], edit["strength"]) for edit in content["edits"]]
    mappers: dict[str, sdd.DistillResult] = {}
    for side, seed in product(options.sides, options.seeds):
        tried = side != DEFAULT
        if tried and seed != options.seeds[0]:
            continue
        result = train(domain, side, seed, options.work)
        mappers.setdefault(side, result)
        for strength in STRENGTHS[:1] if tried else STRENGTHS:
            if (side, seed, strength) in done:
                continue
            print(f"{side}, seed {seed}, strength {strength:g}", flush=True)
            images = edited(domain, result.mapper, scene.before, strength * result.config.lam)
            row = {"side": side, "seed": seed, "strength": strength}
            content["edits"].append(row | figures(domain, scene, images))
            write_json(RESULTS, content)
    draw_picture(domain, scene, mappers)
    write_page(content)
    print(f"written: {RESULTS}, {PICTURE}")


if __name__ == "__main__":
    main()
