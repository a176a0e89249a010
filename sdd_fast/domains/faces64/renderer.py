"""Draws faces: signed-distance shapes, anti-aliased over one pixel, softly shaded, in batches.

The frame is [-1, 1]², x to the right and y down. A face is painted back to front: background,
long hair behind, shoulders, neck, ears, head, beard, mouth, nose, eyes, hair cap, brows, glasses.
Turning the head (yaw) moves every feature over a sphere, so that a side view is more than a shift.
Features are drawn larger than life: at 64 pixels an expression must survive a VAE that sees a
quarter of that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .attributes import sample_attributes, value_index

_SKIN = ((0.96, 0.82, 0.74), (0.88, 0.66, 0.48), (0.62, 0.41, 0.27), (0.36, 0.22, 0.15))
_HAIR = (
    (0.11, 0.10, 0.11),
    (0.40, 0.24, 0.13),
    (0.88, 0.72, 0.36),
    (0.70, 0.24, 0.10),
    (0.93, 0.93, 0.95),
    (0.18, 0.32, 0.82),
)
_BACKGROUND = (
    (0.66, 0.67, 0.69),
    (0.50, 0.68, 0.85),
    (0.52, 0.74, 0.54),
    (0.92, 0.70, 0.45),
    (0.70, 0.58, 0.82),
)
_SHIRT = ((0.24, 0.30, 0.42), (0.55, 0.22, 0.24), (0.25, 0.42, 0.34), (0.80, 0.79, 0.75))

YAW_ANGLE = 0.50  # radians of a turned head, before its own jitter

# name: (mean, half range) of what makes two faces two persons; uniform
_GEOMETRY: dict[str, tuple[float, float]] = {
    "head_w": (0.53, 0.045),
    "head_h": (0.66, 0.04),
    "jaw": (0.16, 0.10),
    "eye_dx": (0.235, 0.022),
    "eye_y": (-0.07, 0.02),
    "eye_size": (1.0, 0.12),
    "brow_w": (0.050, 0.012),
    "nose_len": (0.16, 0.03),
    "nose_w": (0.065, 0.015),
    "mouth_y": (0.38, 0.025),
    "mouth_w": (0.24, 0.03),
    "lip": (0.0, 1.0),
    "ear": (0.10, 0.02),
    "hairline": (-0.36, 0.05),
    "volume": (0.09, 0.03),
    "iris": (0.5, 0.5),
    "shirt": (0.5, 0.5),
    "skin_shift": (0.0, 1.0),
}
# the same, of what changes from one picture of a person to the next
_POSE: dict[str, tuple[float, float]] = {
    "dx": (0.0, 0.03),
    "dy": (0.0, 0.02),
    "yaw_jitter": (0.0, 0.10),
    "light": (0.0, 0.5),
    "hair_shift": (0.0, 1.0),
    "background_shift": (0.0, 1.0),
    "strength": (0.92, 0.08),
}


@dataclass(frozen=True)
class Faces:
    """A batch of faces to draw: attribute labels {name: int64 [B]} and geometry {name: [B]}."""

    labels: dict[str, Tensor]
    geometry: dict[str, Tensor]

    def __len__(self) -> int:
        return len(self.labels["skin"])

    def with_labels(self, **values: str) -> Faces:
        """The same persons with some attributes set, e.g. `with_labels(expression="angry")`."""
        labels = dict(self.labels)
        for name, value in values.items():
            labels[name] = torch.full_like(labels[name], value_index(name, value))
        return Faces(labels, self.geometry)

    def same_person(self, rng: torch.Generator) -> Faces:
        """The same persons in another picture: pose and every attribute but skin drawn anew."""
        labels = sample_attributes(len(self), rng) | {"skin": self.labels["skin"]}
        return Faces(labels, self.geometry | _uniform(_POSE, len(self), rng))


def _uniform(
    ranges: dict[str, tuple[float, float]], n: int, rng: torch.Generator
) -> dict[str, Tensor]:
    draws = torch.rand(len(ranges), n, generator=rng) * 2 - 1
    return {k: m + h * draws[i] for i, (k, (m, h)) in enumerate(ranges.items())}


def sample_faces(n: int, rng: torch.Generator) -> Faces:
    """Draws `n` faces with independent attributes and geometry."""
    return Faces(sample_attributes(n, rng), _uniform(_GEOMETRY | _POSE, n, rng))


def _palette(colors: tuple[tuple[float, float, float], ...], index: Tensor) -> Tensor:
    return torch.tensor(colors)[index][:, :, None, None]  # [B, 3, 1, 1]


class _Canvas:
    """RGB in [0, 1], painted with coverage from signed distances (negative inside)."""

    def __init__(self, n: int, resolution: int) -> None:
        self.pixel = 2.0 / resolution
        axis = (torch.arange(resolution) + 0.5) * self.pixel - 1.0
        self.x = axis[None, None, None, :]
        self.y = axis[None, None, :, None]
        self.rgb = torch.zeros(n, 3, resolution, resolution)

    def paint(self, distance: Tensor, color: Tensor, opacity: Tensor | float = 1.0) -> None:
        """`distance` [B,1,H,W]; `color` broadcastable to [B,3,H,W]."""
        alpha = (0.5 - distance / self.pixel).clamp_(0.0, 1.0) * opacity
        self.rgb += alpha * (color - self.rgb)


def _ellipse(x: Tensor, y: Tensor, rx: Tensor | float, ry: Tensor | float) -> Tensor:
    """First-order signed distance: f / |∇f| of the implicit ellipse, exact on the outline."""
    k = (x / rx).square() + (y / ry).square()
    grad = ((x / rx**2).square() + (y / ry**2).square()).sqrt_().clamp_(min=1e-4)
    return (k - 1.0) / (2.0 * grad)


def _segment(x: Tensor, y: Tensor, ax: Tensor, ay: Tensor, bx: Tensor, by: Tensor) -> Tensor:
    """Distance to the segment a–b."""
    dx, dy = bx - ax, by - ay
    t = (((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy + 1e-8)).clamp_(0.0, 1.0)
    return ((x - ax - t * dx).square() + (y - ay - t * dy).square()).sqrt_()


def _arc(x: Tensor, y: Tensor, cx: Tensor, cy: Tensor, half: Tensor, bend: Tensor) -> Tensor:
    """Distance to a shallow parabola through (±half, 0) whose middle lies `bend` lower."""
    u = (x - cx) / half
    v = u.clamp(-1.0, 1.0)
    slope = 2.0 * bend * v / half
    dy = (y - cy - bend * (1.0 - v * v)) / (1.0 + slope.square()).sqrt()
    return (dy.square() + ((u - v) * half).square()).sqrt()


def render(faces: Faces, resolution: int = 64) -> Tensor:
    """Draws a batch of faces.

    Returns:
        float32 [B, 3, resolution, resolution] in [-1, 1].
    """
    lab = faces.labels
    g = {k: v[:, None, None, None] for k, v in faces.geometry.items()}  # [B, 1, 1, 1]
    n = len(faces)

    def has(attribute: str, value: str) -> Tensor:
        hit = lab[attribute] == value_index(attribute, value)
        return hit.float()[:, None, None, None]

    smiling, angry = has("expression", "smiling"), has("expression", "angry")
    surprised, neutral = has("expression", "surprised"), has("expression", "neutral")
    bald, long = has("hair_length", "bald"), has("hair_length", "long")
    beard, glasses = has("beard", "yes"), has("glasses", "yes")
    turn = has("yaw", "right") - has("yaw", "left")
    yaw = turn * YAW_ANGLE + g["yaw_jitter"]
    side = yaw.sin()

    skin = _palette(_SKIN, lab["skin"]) * (1.0 + 0.05 * g["skin_shift"])
    hair = _palette(_HAIR, lab["hair_color"]) * (1.0 + 0.06 * g["hair_shift"])
    dark = torch.tensor((0.10, 0.07, 0.06))[None, :, None, None]
    brow = 0.55 * dark + 0.45 * hair * 0.8
    lips = 0.45 * skin + 0.55 * torch.tensor((0.72, 0.20, 0.22))[None, :, None, None]
    lips = lips * (1.0 + 0.08 * g["lip"])

    c = _Canvas(n, resolution)
    # background: a vertical gradient
    back = _palette(_BACKGROUND, lab["background"]) * (1.0 + 0.05 * g["background_shift"])
    c.rgb += back * (1.06 - 0.14 * (c.y + 1.0) / 2.0 * 2.0).clamp(0.0, 1.2)

    x, y = c.x - g["dx"], c.y - g["dy"] - 0.06
    w, h = g["head_w"], g["head_h"]
    # the skull sits behind the face: a turned head shows it on the far side
    hx = x + 0.10 * side
    # jaw: the outline narrows below the eyes
    narrow = 1.0 - g["jaw"] * (y / h).clamp(0.0, 1.0).square()
    head = _ellipse(x / narrow, y, w, h)
    # Lambert shading of the head seen as an ellipsoid, lit from above and one side
    nx, ny = (x / w).clamp(-1, 1), (y / h).clamp(-1, 1)
    nz = (1.0 - 0.85 * (nx.square() + ny.square())).clamp(min=0.02).sqrt()
    light = (0.35 * g["light"] * nx - 0.40 * ny + 0.85 * nz) / 0.95
    shade = 0.74 + 0.28 * light

    # long hair behind everything
    vol = g["volume"]
    curtain_w = w + vol + 0.05
    fall = torch.maximum((hx.abs() - curtain_w * (1.0 + 0.06 * (y + 0.2))), y - 0.80)
    behind = torch.minimum(_ellipse(hx, y + 0.06, w + vol, h + vol), torch.maximum(fall, -y - 0.1))
    c.paint(behind, hair * 0.80, long)

    # shoulders, neck, ears
    shirt_index = (g["shirt"].flatten() * 3.999).long().clamp(0, 3)
    shirt = _palette(_SHIRT, shirt_index)
    c.paint(_ellipse(x, y - 1.22, 0.92, 0.44), shirt * (1.0 - 0.12 * x * g["light"]))
    c.paint(torch.maximum((x.abs() - 0.24), (y - 0.92).abs() - 0.34), skin * 0.72)
    for s in (-1.0, 1.0):
        visible = (1.0 - (s * side * 4.0).clamp(0.0, 1.0)) * (1.0 - long)
        ear_x = x - s * (w - 0.01) - 0.12 * side
        c.paint(_ellipse(ear_x, y - 0.02, g["ear"], g["ear"] * 1.5), skin * 0.84, visible)

    # head
    c.paint(head, skin * shade)

    def place(px: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """A feature at frontal offset px on a sphere of `radius` head widths: where it is seen,
        and how much it is foreshortened."""
        theta = (px / (w * radius)).clamp(-0.95, 0.95).asin() + yaw
        return w * radius * theta.sin(), theta.cos().clamp(min=0.35)

    zero = torch.zeros_like(w)
    mouth_x, mouth_f = place(zero, 0.78)
    mouth_y = g["mouth_y"]
    amount = g["strength"]

    # beard: the lower face, fading in above the mouth at the cheeks
    across = (x - mouth_x) / w
    edge = mouth_y - 0.10 - 0.32 * across.clamp(-1.0, 1.0).square()
    chin = torch.maximum(torch.maximum(head - 0.02, edge - y), (across.abs() - 0.95) * w)
    c.paint(chin, hair * (0.62 + 0.26 * light), beard)

    # mouth: lips along an arc; a smile shows teeth, surprise opens wide
    mw = g["mouth_w"] * mouth_f * (1.0 + 0.26 * smiling - 0.10 * angry - 0.30 * surprised)
    mx, my = x, y
    bend = amount * (0.17 * smiling - 0.14 * angry) + 0.02 * neutral
    level = mouth_y - 0.07 * smiling + 0.09 * angry
    arc = _arc(mx, my, mouth_x, level, mw, bend) - 0.048
    open_smile = torch.maximum(arc - 0.012, level - 0.02 - my)
    # region between the lip line and the chord: the teeth of a smile
    teeth = torch.maximum(
        (my - level - bend * (1.0 - ((mx - mouth_x) / mw).square())), level + 0.005 - my
    )
    c.paint(arc, lips * 0.86, 1.0 - surprised)
    c.paint(teeth, torch.tensor((0.97, 0.96, 0.93))[None, :, None, None], smiling)
    c.paint(torch.maximum(open_smile, arc), lips * 0.80, smiling)
    o_rx, o_ry = 0.125 * mouth_f * amount + 0.02, 0.155 * amount + 0.01
    ring = _ellipse(mx - mouth_x, my - mouth_y - 0.03, o_rx + 0.045, o_ry + 0.045)
    hole = _ellipse(mx - mouth_x, my - mouth_y - 0.03, o_rx, o_ry)
    c.paint(ring, lips * 0.86, surprised)
    c.paint(hole, dark, surprised)

    # nose: a shadowed ridge and base that protrude when the head turns
    nose_x, nose_f = place(zero, 1.18)
    ny0, ny1 = g["eye_y"] + 0.05, g["eye_y"] + 0.07 + g["nose_len"]
    ridge = _segment(x, y, nose_x * 0.75, ny0, nose_x + 0.02, ny1) - 0.022
    c.paint(ridge, skin * 0.80)
    c.paint(_ellipse(x - nose_x, y - ny1, g["nose_w"] * nose_f + 0.02, zero + 0.04), skin * 0.70)

    # eyes, brows
    white = torch.tensor((0.97, 0.97, 0.96))[None, :, None, None]
    iris = (1.0 - g["iris"]) * torch.tensor((0.16, 0.10, 0.07))[None, :, None, None]
    iris = iris + g["iris"] * torch.tensor((0.16, 0.30, 0.38))[None, :, None, None]
    lid = 1.0 + amount * (0.42 * surprised - 0.20 * angry - 0.18 * smiling)
    brow_lift = amount * (0.10 * surprised - 0.045 * angry + 0.01 * smiling)
    brow_tilt = amount * (0.11 * angry - 0.02 * surprised)
    brow_bend = -0.03 - amount * 0.045 * surprised + 0.03 * angry
    eyes = []
    for s in (-1.0, 1.0):
        ex, ef = place(s * g["eye_dx"], 0.98)
        ry = 0.085 * g["eye_size"] * lid
        ball = _ellipse(x - ex, y - g["eye_y"], 0.125 * g["eye_size"] * ef, ry)
        c.paint(ball - 0.016, skin * 0.55)
        c.paint(ball, white)
        pupil = _ellipse(x - ex - 0.025 * side, y - g["eye_y"], 0.062 * ef + 0.01, zero + 0.068)
        c.paint(torch.maximum(pupil, ball), iris)
        eyes.append((ex, ef))

    # hair cap over the forehead; short hair hugs the skull, long hair runs down the sides
    cap_line = g["hairline"] + 0.30 * ((x - 0.35 * side) / w).square() + 0.05 * long
    outer = _ellipse(hx, y + 0.05, w + 0.75 * vol, h + 0.85 * vol)
    strand = 0.90 + 0.16 * light + 0.04 * (18.0 * (x - 0.3 * side)).sin()
    c.paint(torch.maximum(outer, y - cap_line), hair * strand, 1.0 - bald)
    # locks in front of the cheeks; the side of the head turned to us shows more
    locks = None
    for s in (-1.0, 1.0):
        inner = w * 0.80 + 0.30 * (s * side)
        lock = torch.maximum(inner - s * x + 0.10 * (y - 0.2), s * x - curtain_w - 0.02 * y)
        locks = lock if locks is None else torch.minimum(locks, lock)
    assert locks is not None
    locks = torch.maximum(torch.maximum(locks, y - 0.72), g["hairline"] - 0.02 - y)
    c.paint(locks, hair * (0.84 + 0.14 * light), long)

    for s, (ex, ef) in zip((-1.0, 1.0), eyes, strict=True):
        by = g["eye_y"] - 0.20 - brow_lift
        half = 0.155 * ef
        slant = s * brow_tilt * (x - ex) / half
        line = _arc(x, y + slant, ex, by - brow_bend * 0.3, half, brow_bend)
        c.paint(line - g["brow_w"], brow)

    # glasses: two rims, a bridge, and the temple towards the visible ear
    frame = torch.tensor((0.07, 0.07, 0.09))[None, :, None, None]
    rims = None
    for ex, ef in eyes:
        d = _ellipse(x - ex, y - g["eye_y"] - 0.01, 0.195 * (0.45 + 0.55 * ef), zero + 0.175)
        c.paint(d, torch.tensor((0.75, 0.85, 0.92))[None, :, None, None], 0.22 * glasses)
        rim = d.abs() - 0.030
        rims = rim if rims is None else torch.minimum(rims, rim)
    assert rims is not None
    (lx, lf), (rx, rf) = eyes
    rim_l, rim_r = 0.195 * (0.45 + 0.55 * lf), 0.195 * (0.45 + 0.55 * rf)
    bridge = _segment(x, y, lx + rim_l, g["eye_y"] - 0.02, rx - rim_r, g["eye_y"] - 0.02) - 0.028
    arm_l = _segment(x, y, lx - rim_l, g["eye_y"] - 0.02, -w, g["eye_y"] - 0.05) - 0.024
    arm_r = _segment(x, y, rx + rim_r, g["eye_y"] - 0.02, w, g["eye_y"] - 0.05) - 0.024
    arms = torch.maximum(torch.minimum(arm_l, arm_r), head - 0.02)
    c.paint(torch.minimum(torch.minimum(rims, bridge), arms), frame, glasses)

    return c.rgb.clamp_(0.0, 1.0) * 2.0 - 1.0


def identity_distance(a: Faces, b: Faces) -> Tensor:
    """Root-mean-square difference of what makes a person, in units of each quantity's range [B]."""
    total = torch.zeros(len(a))
    for name, (_, half) in _GEOMETRY.items():
        total += ((a.geometry[name] - b.geometry[name]) / half).square()
    return (total / len(_GEOMETRY)).sqrt() / math.sqrt(2.0 / 3.0)
