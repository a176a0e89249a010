"""Draw faces: signed-distance shapes, anti-aliased over one pixel, softly shaded, in batches.

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
        """Return the same persons with attributes set, e.g. `with_labels(expression="angry")`."""
        labels = dict(self.labels)
        for name, value in values.items():
            labels[name] = torch.full_like(labels[name], value_index(name, value))
        return Faces(labels, self.geometry)

    def same_person(self, rng: torch.Generator) -> Faces:
        """Return the persons in another image: pose and every attribute but skin drawn anew."""
        labels = sample_attributes(len(self), rng) | {"skin": self.labels["skin"]}
        return Faces(labels, self.geometry | _uniform(_POSE, len(self), rng))


def _uniform(
    ranges: dict[str, tuple[float, float]], n: int, rng: torch.Generator
) -> dict[str, Tensor]:
    draws = torch.rand(len(ranges), n, generator=rng) * 2 - 1
    return {k: m + h * draws[i] for i, (k, (m, h)) in enumerate(ranges.items())}


def sample_faces(n: int, rng: torch.Generator) -> Faces:
    """Draw `n` faces with independent attributes and geometry."""
    return Faces(sample_attributes(n, rng), _uniform(_GEOMETRY | _POSE, n, rng))


def _palette(colors: tuple[tuple[float, float, float], ...], index: Tensor) -> Tensor:
    return torch.tensor(colors)[index][:, :, None, None]  # [B, 3, 1, 1]


def _color(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor((red, green, blue))[None, :, None, None]  # [1, 3, 1, 1]


class _Canvas:
    """RGB in [0, 1], painted with coverage from signed distances (negative inside)."""

    def __init__(self, n: int, resolution: int) -> None:
        self.pixel = 2.0 / resolution
        axis = (torch.arange(resolution, dtype=torch.float32) + 0.5) * self.pixel - 1.0
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
    """Draw a batch of faces.

    Returns:
        float32 [B, 3, resolution, resolution] in [-1, 1].
    """
    drawing = _Drawing(faces, resolution)
    drawing.background()
    drawing.hair_behind()
    drawing.body_and_ears()
    drawing.head()
    drawing.beard()
    drawing.mouth()
    drawing.nose()
    drawing.eyes()
    drawing.hair_in_front()
    drawing.brows()
    drawing.glasses()
    return drawing.canvas.rgb.clamp_(0.0, 1.0) * 2.0 - 1.0


class _Drawing:
    """What the parts of a face share, and one method for each part; all tensors are [B, 1|3, H, W]
    or broadcast to it."""

    def __init__(self, faces: Faces, resolution: int) -> None:
        self.labels = faces.labels
        self.g = g = {k: v[:, None, None, None] for k, v in faces.geometry.items()}
        self.canvas = canvas = _Canvas(len(faces), resolution)

        self.smiling, self.angry = (
            self.has("expression", "smiling"),
            self.has("expression", "angry"),
        )
        self.surprised = self.has("expression", "surprised")
        self.long = self.has("hair_length", "long")
        turn = self.has("yaw", "right") - self.has("yaw", "left")
        self.yaw = turn * YAW_ANGLE + g["yaw_jitter"]
        self.side = self.yaw.sin()

        self.skin = _palette(_SKIN, self.labels["skin"]) * (1.0 + 0.05 * g["skin_shift"])
        self.hair = _palette(_HAIR, self.labels["hair_color"]) * (1.0 + 0.06 * g["hair_shift"])
        self.dark = _color(0.10, 0.07, 0.06)

        self.x, self.y = canvas.x - g["dx"], canvas.y - g["dy"] - 0.06
        self.w, self.h = g["head_w"], g["head_h"]
        self.zero = torch.zeros_like(self.w)
        # the skull sits behind the face: a turned head shows it on the far side
        self.skull_x = self.x + 0.10 * self.side
        self.curtain_w = self.w + g["volume"] + 0.05  # of long hair
        # jaw: the outline narrows below the eyes
        narrow = 1.0 - g["jaw"] * (self.y / self.h).clamp(0.0, 1.0).square()
        self.outline = _ellipse(self.x / narrow, self.y, self.w, self.h)
        # Lambert shading of the head seen as an ellipsoid, lit from above and one side
        nx, ny = (self.x / self.w).clamp(-1, 1), (self.y / self.h).clamp(-1, 1)
        nz = (1.0 - 0.85 * (nx.square() + ny.square())).clamp(min=0.02).sqrt()
        self.light = (0.35 * g["light"] * nx - 0.40 * ny + 0.85 * nz) / 0.95
        self.mouth_x, self.mouth_f = self.place(self.zero, 0.78)
        # left and right eye: where, and how much foreshortened
        self.eye_places = [self.place(s * g["eye_dx"], 0.98) for s in (-1.0, 1.0)]

    def has(self, attribute: str, value: str) -> Tensor:
        hit = self.labels[attribute] == value_index(attribute, value)
        return hit.float()[:, None, None, None]

    def place(self, px: Tensor, radius: float) -> tuple[Tensor, Tensor]:
        """A feature at frontal offset px on a sphere of `radius` head widths: where it is seen, and
        how much it is foreshortened."""
        theta = (px / (self.w * radius)).clamp(-0.95, 0.95).asin() + self.yaw
        return self.w * radius * theta.sin(), theta.cos().clamp(min=0.35)

    def background(self) -> None:
        """A vertical gradient."""
        c = self.canvas
        shift = 1.0 + 0.05 * self.g["background_shift"]
        back = _palette(_BACKGROUND, self.labels["background"]) * shift
        c.rgb += back * (1.06 - 0.14 * (c.y + 1.0) / 2.0 * 2.0).clamp(0.0, 1.2)

    def hair_behind(self) -> None:
        """Long hair behind everything."""
        x, y, vol = self.skull_x, self.y, self.g["volume"]
        fall = torch.maximum((x.abs() - self.curtain_w * (1.0 + 0.06 * (y + 0.2))), y - 0.80)
        behind = torch.minimum(
            _ellipse(x, y + 0.06, self.w + vol, self.h + vol), torch.maximum(fall, -y - 0.1)
        )
        self.canvas.paint(behind, self.hair * 0.80, self.long)

    def body_and_ears(self) -> None:
        c, g, x, y, skin = self.canvas, self.g, self.x, self.y, self.skin
        shirt_index = (g["shirt"].flatten() * 3.999).long().clamp(0, 3)
        shirt = _palette(_SHIRT, shirt_index)
        c.paint(_ellipse(x, y - 1.22, 0.92, 0.44), shirt * (1.0 - 0.12 * x * g["light"]))
        c.paint(torch.maximum((x.abs() - 0.24), (y - 0.92).abs() - 0.34), skin * 0.72)
        for s in (-1.0, 1.0):
            visible = (1.0 - (s * self.side * 4.0).clamp(0.0, 1.0)) * (1.0 - self.long)
            ear_x = x - s * (self.w - 0.01) - 0.12 * self.side
            c.paint(_ellipse(ear_x, y - 0.02, g["ear"], g["ear"] * 1.5), skin * 0.84, visible)

    def head(self) -> None:
        shade = 0.74 + 0.28 * self.light
        self.canvas.paint(self.outline, self.skin * shade)

    def beard(self) -> None:
        """The lower face, fading in above the mouth at the cheeks."""
        across = (self.x - self.mouth_x) / self.w
        edge = self.g["mouth_y"] - 0.10 - 0.32 * across.clamp(-1.0, 1.0).square()
        chin = torch.maximum(
            torch.maximum(self.outline - 0.02, edge - self.y), (across.abs() - 0.95) * self.w
        )
        self.canvas.paint(chin, self.hair * (0.62 + 0.26 * self.light), self.has("beard", "yes"))

    def mouth(self) -> None:
        """Lips along an arc; a smile shows teeth, surprise opens wide."""
        c, g, x, y = self.canvas, self.g, self.x, self.y
        smiling, angry, surprised = self.smiling, self.angry, self.surprised
        neutral, amount = self.has("expression", "neutral"), g["strength"]
        lips = 0.45 * self.skin + 0.55 * _color(0.72, 0.20, 0.22)
        lips = lips * (1.0 + 0.08 * g["lip"])
        mouth_x, mouth_y = self.mouth_x, g["mouth_y"]
        mw = g["mouth_w"] * self.mouth_f * (1.0 + 0.26 * smiling - 0.10 * angry - 0.30 * surprised)
        bend = amount * (0.17 * smiling - 0.14 * angry) + 0.02 * neutral
        level = mouth_y - 0.07 * smiling + 0.09 * angry
        arc = _arc(x, y, mouth_x, level, mw, bend) - 0.048
        open_smile = torch.maximum(arc - 0.012, level - 0.02 - y)
        # region between the lip line and the chord: the teeth of a smile
        teeth = torch.maximum(
            (y - level - bend * (1.0 - ((x - mouth_x) / mw).square())), level + 0.005 - y
        )
        c.paint(arc, lips * 0.86, 1.0 - surprised)
        c.paint(teeth, _color(0.97, 0.96, 0.93), smiling)
        c.paint(torch.maximum(open_smile, arc), lips * 0.80, smiling)
        o_rx, o_ry = 0.125 * self.mouth_f * amount + 0.02, 0.155 * amount + 0.01
        ring = _ellipse(x - mouth_x, y - mouth_y - 0.03, o_rx + 0.045, o_ry + 0.045)
        hole = _ellipse(x - mouth_x, y - mouth_y - 0.03, o_rx, o_ry)
        c.paint(ring, lips * 0.86, surprised)
        c.paint(hole, self.dark, surprised)

    def nose(self) -> None:
        """A shadowed ridge and base that protrude when the head turns."""
        g, x, y = self.g, self.x, self.y
        nose_x, nose_f = self.place(self.zero, 1.18)
        top, tip = g["eye_y"] + 0.05, g["eye_y"] + 0.07 + g["nose_len"]
        ridge = _segment(x, y, nose_x * 0.75, top, nose_x + 0.02, tip) - 0.022
        self.canvas.paint(ridge, self.skin * 0.80)
        base = _ellipse(x - nose_x, y - tip, g["nose_w"] * nose_f + 0.02, self.zero + 0.04)
        self.canvas.paint(base, self.skin * 0.70)

    def eyes(self) -> None:
        c, g, x, y = self.canvas, self.g, self.x, self.y
        white = _color(0.97, 0.97, 0.96)
        iris = (1.0 - g["iris"]) * _color(0.16, 0.10, 0.07)
        iris = iris + g["iris"] * _color(0.16, 0.30, 0.38)
        lid = 1.0 + g["strength"] * (
            0.42 * self.surprised - 0.20 * self.angry - 0.18 * self.smiling
        )
        for ex, ef in self.eye_places:
            ry = 0.085 * g["eye_size"] * lid
            ball = _ellipse(x - ex, y - g["eye_y"], 0.125 * g["eye_size"] * ef, ry)
            c.paint(ball - 0.016, self.skin * 0.55)
            c.paint(ball, white)
            pupil = _ellipse(
                x - ex - 0.025 * self.side, y - g["eye_y"], 0.062 * ef + 0.01, self.zero + 0.068
            )
            c.paint(torch.maximum(pupil, ball), iris)

    def hair_in_front(self) -> None:
        """A cap over the forehead; short hair hugs the skull, long hair runs down the sides."""
        c, g, x, y, w, side = self.canvas, self.g, self.x, self.y, self.w, self.side
        cap_line = g["hairline"] + 0.30 * ((x - 0.35 * side) / w).square() + 0.05 * self.long
        outer = _ellipse(
            self.skull_x, y + 0.05, w + 0.75 * g["volume"], self.h + 0.85 * g["volume"]
        )
        strand = 0.90 + 0.16 * self.light + 0.04 * (18.0 * (x - 0.3 * side)).sin()
        bald = self.has("hair_length", "bald")
        c.paint(torch.maximum(outer, y - cap_line), self.hair * strand, 1.0 - bald)
        # locks in front of the cheeks; the side of the head turned to us shows more
        left, right = (self._lock(s) for s in (-1.0, 1.0))
        locks = torch.maximum(torch.minimum(left, right), y - 0.72)
        locks = torch.maximum(locks, g["hairline"] - 0.02 - y)
        c.paint(locks, self.hair * (0.84 + 0.14 * self.light), self.long)

    def _lock(self, s: float) -> Tensor:
        inner = self.w * 0.80 + 0.30 * (s * self.side)
        return torch.maximum(
            inner - s * self.x + 0.10 * (self.y - 0.2),
            s * self.x - self.curtain_w - 0.02 * self.y,
        )

    def brows(self) -> None:
        g, x, y, amount = self.g, self.x, self.y, self.g["strength"]
        color = 0.55 * self.dark + 0.45 * self.hair * 0.8
        lift = amount * (0.10 * self.surprised - 0.045 * self.angry + 0.01 * self.smiling)
        tilt = amount * (0.11 * self.angry - 0.02 * self.surprised)
        bend = -0.03 - amount * 0.045 * self.surprised + 0.03 * self.angry
        for s, (ex, ef) in zip((-1.0, 1.0), self.eye_places, strict=True):
            by = g["eye_y"] - 0.20 - lift
            half = 0.155 * ef
            slant = s * tilt * (x - ex) / half
            line = _arc(x, y + slant, ex, by - bend * 0.3, half, bend)
            self.canvas.paint(line - g["brow_w"], color)

    def glasses(self) -> None:
        """Two rims, a bridge, and the temple towards the visible ear."""
        c, x, y, eye_y = self.canvas, self.x, self.y, self.g["eye_y"]
        glasses = self.has("glasses", "yes")
        rims = []
        for ex, ef in self.eye_places:
            d = _ellipse(x - ex, y - eye_y - 0.01, 0.195 * (0.45 + 0.55 * ef), self.zero + 0.175)
            c.paint(d, _color(0.75, 0.85, 0.92), 0.22 * glasses)
            rims.append(d.abs() - 0.030)
        (lx, lf), (rx, rf) = self.eye_places
        rim_l, rim_r = 0.195 * (0.45 + 0.55 * lf), 0.195 * (0.45 + 0.55 * rf)
        bridge = _segment(x, y, lx + rim_l, eye_y - 0.02, rx - rim_r, eye_y - 0.02) - 0.028
        arm_l = _segment(x, y, lx - rim_l, eye_y - 0.02, -self.w, eye_y - 0.05) - 0.024
        arm_r = _segment(x, y, rx + rim_r, eye_y - 0.02, self.w, eye_y - 0.05) - 0.024
        arms = torch.maximum(torch.minimum(arm_l, arm_r), self.outline - 0.02)
        frame = torch.minimum(torch.minimum(torch.minimum(*rims), bridge), arms)
        c.paint(frame, _color(0.07, 0.07, 0.09), glasses)


def identity_distance(a: Faces, b: Faces) -> Tensor:
    """Return the root-mean-square difference of what makes a person [B], in units of its ranges."""
    total = torch.zeros(len(a))
    for name, (_, half) in _GEOMETRY.items():
        total += ((a.geometry[name] - b.geometry[name]) / half).square()
    return (total / len(_GEOMETRY)).sqrt() / math.sqrt(2.0 / 3.0)
