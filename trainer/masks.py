"""Synthetic face masks, placed on the face mesh and drawn so that they sit, fold, shade and cast a shadow.

    masked, alpha = draw_mask(rgb, mesh, np.random.default_rng(7))

Numpy and OpenCV only: the demo clip and the benchmark use this module too. A mask is drawn in three steps: an outline
(smooth curves through points of the mesh, by family), a texture over the outline's own coordinates (u from ear to ear,
v from the upper edge to the lower), and light: the shading of the visible upper face carried over, a cylinder's
falloff, folds, and a contact shadow on the skin beside the edge.

Placing masks by landmarks follows A. Anwar and A. Raychowdhury, "Masked Face Recognition for Secure Authentication"
(MaskTheFace), arXiv:2008.11104, 2020; shapes and drawing are our own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Points = NDArray[np.floating[Any]]
"""Points on their way to an outline, in single or double precision."""
Rng = np.random.Generator

JAW_RIGHT = (234, 93, 132, 58, 172, 136, 150, 149, 176, 148)
"""The subject's right jaw (left in the picture), from the ear down to beside the chin."""
JAW_LEFT = (454, 323, 361, 288, 397, 365, 379, 378, 400, 377)
CHIN = 152


@dataclass(frozen=True, slots=True)
class Style:
    """What one drawn mask looks like; every length is a share of the face's height (bridge to chin).

    Attributes:
        colour: float32[3], RGB albedo 0..1.
        top: how far up the nose the upper edge sits: 0 nose tip, 1 between the eyes.
        side: how far out the side edges sit: 0 mid-cheek, 1 at the jaw line.
        drop: how far the lower edge hangs below the chin.
        noise: strength of the weave.
        folds: strength of wrinkles.
        straps: (upper, lower) thickness of ear loops or bands, 0 for none.
        strap_colour: float32[3] 0..1.
        opacity: 0..1 of the cloth itself.
    """

    colour: Floats
    top: float
    side: float
    drop: float
    noise: float
    folds: float
    straps: float
    strap_colour: Floats
    opacity: float = 1.0


class Head:
    """Mesh points in a frame whose y axis runs from the nose bridge to the chin; lengths in face heights."""

    def __init__(self, mesh: Floats) -> None:
        mesh = np.asarray(mesh, np.float32)
        origin, chin = mesh[168], mesh[CHIN]
        eyes = mesh[263] - mesh[33]
        axis = chin - origin
        across = np.array([axis[1], -axis[0]], np.float32)
        if float(across @ eyes) < 0:
            across = -across
        self.height = max(float(np.hypot(*axis)), 1e-3)
        direction = across / max(float(np.hypot(*across)), 1e-3) + eyes / max(float(np.hypot(*eyes)), 1e-3)
        right = direction / max(float(np.hypot(*direction)), 1e-3)
        down = np.array([-right[1], right[0]], np.float32)
        if float(down @ axis) < 0:  # the mesh of a mirrored picture that kept its indices
            down = -down
        self.rotation = np.array([right, down], np.float32)
        self.origin = origin
        self.points = (mesh - origin) @ self.rotation.T / self.height

    def __getitem__(self, index: int) -> Floats:
        return np.asarray(self.points[index])

    def to_picture(self, points: Floats) -> Floats:
        """float32[K, 2] of the head's frame in picture pixels."""
        return np.asarray(points @ self.rotation * self.height + self.origin, np.float32)

    def from_grid(self, x0: int, y0: int, x1: int, y1: int) -> tuple[Floats, Floats]:
        """The head's x and y at each pixel of a rectangle, two float32[H, W]."""
        xs = np.arange(x0, x1, dtype=np.float32) - self.origin[0]
        ys = np.arange(y0, y1, dtype=np.float32)[:, None] - self.origin[1]
        r = self.rotation / self.height
        return xs * r[0, 0] + ys * r[0, 1], xs * r[1, 0] + ys * r[1, 1]


def mix(a: Points, b: Points, share: float) -> Points:
    """The point ``share`` of the way from ``a`` to ``b``."""
    return a + (b - a) * np.float32(share)


def shifted(point: Points, x: float, y: float) -> Points:
    return point + np.array([x, y])


def smooth_curve(points: list[Points], steps: int = 8) -> Floats:
    """Centripetal-like Catmull-Rom spline through points, float32[K, 2]."""
    p = np.array([2 * points[0] - points[1], *points, 2 * points[-1] - points[-2]], np.float32)
    t = (np.arange(steps, dtype=np.float32) / steps)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.asarray(np.vstack([curve.transpose(1, 0, 2).reshape(-1, 2), p[-2:-1]]), np.float32)


@dataclass(frozen=True, slots=True)
class Outline:
    """Upper and lower edge of a mask from the picture's left to its right, float32[K, 2] in the head's frame."""

    top: Floats
    bottom: Floats

    @property
    def polygon(self) -> Floats:
        return np.vstack([self.top, self.bottom[::-1]])


def nose_point(head: Head, top: float) -> Points:
    """A point on the ridge of the nose: 0 its tip, 1 between the eyes; below 0 it slides under the nose."""
    ridge = [head[164], head[1], head[4], head[5], head[195], head[197], head[6]]
    place = np.clip(top * 5 + 1, 0, 5.999)
    return mix(ridge[int(place)], ridge[int(place) + 1], float(place - int(place)))


def jaw_bottom(head: Head, side_low: tuple[Points, Points], drop: float, rng: Rng, *, pointed: float) -> Floats:
    """Lower edge along the jaw and below the chin."""
    down = np.array([0, drop], np.float32)
    out = 1.0 + float(rng.uniform(0.0, 0.06))
    centre = head[CHIN]
    left, right = side_low
    wide = [(0, 0.15), (1, 0.5 - pointed * 0.2)] + ([(2, 0.95)] if pointed < 0.4 else [])
    chain_r = [centre + (head[(136, 149, 176)[i]] - centre) * out + down * s for i, s in wide]
    chain_l = [centre + (head[(365, 378, 400)[i]] - centre) * out + down * s for i, s in reversed(wide)]
    return smooth_curve([left, *chain_r, centre + down * (1 + pointed * 0.6), *chain_l, right])


def outline_cloth(head: Head, style: Style, rng: Rng, *, pointed: float = 0.3, tall_sides: float = 0.5) -> Outline:
    """From cheek to cheek over nose and chin: surgical, KN95, cup and cloth masks, by how they peak and hang."""
    nose = nose_point(head, style.top)
    nose_left = mix(head[126 if style.top > 0.4 else 129], nose, 0.35)
    nose_right = mix(head[355 if style.top > 0.4 else 358], nose, 0.35)
    lift = (nose[1] - (nose_left[1] + nose_right[1]) / 2) * 0.7
    shift = np.array([0, lift], np.float32)
    cheek_height = float(rng.uniform(0.0, 0.45))
    cheek_r, cheek_l = mix(head[50], head[205], cheek_height), mix(head[280], head[425], cheek_height)
    ear = float(np.clip(0.25 + tall_sides * 0.5, 0, 1))
    high_r, high_l = mix(head[132], head[93], ear), mix(head[361], head[323], ear)
    if rng.random() < 0.35:  # large masks (KF94 and the like) reach up to the lower lids and the ears
        lift_up = float(rng.uniform(0.2, 1.0))
        cheek_r, cheek_l = mix(cheek_r, head[118], lift_up), mix(cheek_l, head[347], lift_up)
        high_r, high_l = mix(high_r, head[234], lift_up * 0.8), mix(high_l, head[454], lift_up * 0.8)
    high_r, high_l = mix(high_r, head[187], 1 - style.side), mix(high_l, head[411], 1 - style.side)
    low_r = mix(mix(head[132], head[172], 0.4 + 0.6 * tall_sides), head[214], (1 - style.side) * 0.8)
    low_l = mix(mix(head[361], head[397], 0.4 + 0.6 * tall_sides), head[434], (1 - style.side) * 0.8)
    top = smooth_curve([high_r, cheek_r, nose_left + shift, nose, nose_right + shift, cheek_l, high_l])
    return Outline(top, jaw_bottom(head, (low_r, low_l), style.drop, rng, pointed=pointed))


def outline_gaiter(head: Head, style: Style, rng: Rng) -> Outline:
    """A tube or scarf: from the nose down over the neck, out past the jaw on both sides."""
    nose = nose_point(head, style.top)
    wide = 1.0 + float(rng.uniform(0.0, 0.12))
    reach = float(rng.uniform(0.9, 1.9))
    widen = np.array([wide, 1])
    side_r, side_l = head[234] * widen, head[454] * widen
    sag = float(rng.uniform(-0.02, 0.12))
    high_r = mix(side_r, head[93] * widen, rng.uniform(0, 1))
    high_l = mix(side_l, head[323] * widen, rng.uniform(0, 1))
    cheek_r, cheek_l = mix(head[117], head[205], 0.35 + sag), mix(head[346], head[425], 0.35 + sag)
    top = smooth_curve([high_r, cheek_r, nose, cheek_l, high_l])
    base = head[CHIN][1]
    neck = np.array([0, reach], np.float32)
    low_r = np.array([head[172][0] * wide * rng.uniform(0.95, 1.3), base], np.float32) + neck * 0.8
    low_l = np.array([head[397][0] * wide * rng.uniform(0.95, 1.3), base], np.float32) + neck * 0.8
    jaw_r, jaw_l = head[58] * widen.astype(np.float32), head[288] * widen.astype(np.float32)
    lowest = head[CHIN] + neck
    bottom = smooth_curve([shifted(high_r, 0, 0.05), jaw_r, low_r, lowest, low_l, jaw_l, shifted(high_l, 0, 0.05)])
    return Outline(top, bottom)


def texture_grid(outline: Outline, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """(u, v) of each pixel inside an outline: u 0..1 from its left to its right, v 0..1 from upper to lower edge."""
    left, right = float(outline.polygon[:, 0].min()), float(outline.polygon[:, 0].max())
    u = np.clip((x - left) / max(right - left, 1e-3), 0, 1).astype(np.float32)
    samples = np.linspace(left, right, 96, dtype=np.float32)
    edges = []
    for curve in (outline.top, outline.bottom):
        order = np.argsort(curve[:, 0], kind="stable")
        edges.append(np.interp(samples, curve[order, 0], curve[order, 1]).astype(np.float32))
    columns = (u * 95).astype(np.int32)
    upper, lower = edges[0][columns], edges[1][columns]
    v = np.clip((y - upper) / np.maximum(lower - upper, 0.05), 0, 1).astype(np.float32)
    return u, v


def value_noise(rng: Rng, shape: tuple[int, int], cells: tuple[int, int]) -> Floats:
    """Smooth noise in -1..1: random values on a coarse grid, bicubic in between."""
    coarse = rng.uniform(-1, 1, (max(cells[1], 2), max(cells[0], 2))).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC))


def sample(texture: Floats, u: Floats, v: Floats) -> Floats:
    """A texture float32[h, w(, 3)] looked up at (u, v)."""
    h, w = texture.shape[:2]
    return np.asarray(cv2.remap(texture, u * (w - 1), v * (h - 1), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT))


Painter = Callable[[Floats, Floats, Style, Rng], tuple[Floats, Floats]]
"""(u, v, style, rng) -> (albedo float32[H, W, 3], relief float32[H, W]: brightness added by creases)."""


def flat(u: Floats, style: Style) -> Floats:
    return np.broadcast_to(style.colour, (*u.shape, 3)).copy()


def paint_pleats(u: Floats, v: Floats, style: Style, rng: Rng) -> tuple[Floats, Floats]:
    """Surgical: two to four horizontal pleats, stitched borders, a nose wire."""
    albedo = flat(u, style)
    count = int(rng.integers(2, 5))
    bow = (u - 0.5) ** 2 * float(rng.uniform(-0.25, 0.45))
    place = (v + bow - 0.2) / 0.6 * count
    inside = (place > 0) & (place < count)
    saw = np.where(inside, place - np.floor(place), 0.5)
    crease = np.where(inside, np.exp(-saw / 0.08) * -0.25 + np.exp(-(1 - saw) / 0.15) * 0.1, 0)
    relief = crease * float(rng.uniform(0.3, 1.2))
    border = float(rng.uniform(0.03, 0.07))
    edge = (np.minimum(v, 1 - v) < border) | (np.minimum(u, 1 - u) < border * 0.8)
    albedo[edge] = np.clip(albedo[edge] * float(rng.uniform(0.9, 1.12)), 0, 1)
    relief -= 0.15 * np.exp(-(((np.minimum(v, 1 - v) - border) / 0.012) ** 2)) * float(rng.uniform(0, 1))
    if rng.random() < 0.6:
        wire = np.exp(-(((v - 0.07) / 0.025) ** 2)) * (np.abs(u - 0.5) < 0.2)
        relief += wire * float(rng.uniform(-0.1, 0.12))
    return albedo, np.asarray(relief, np.float32)


def paint_fold(u: Floats, v: Floats, style: Style, rng: Rng) -> tuple[Floats, Floats]:
    """KN95 / FFP2: a ridge down the middle, embossed seams, sometimes a print."""
    albedo = flat(u, style)
    ridge = u - 0.5 - (v - 0.5) * float(rng.uniform(-0.02, 0.02))
    relief = np.tanh(ridge / 0.05) * float(rng.uniform(-0.12, 0.12))
    relief += np.exp(-((ridge / 0.012) ** 2)) * float(rng.uniform(0.0, 0.14))
    for place in rng.uniform(0.05, 0.95, int(rng.integers(1, 4))):
        seam = v - place - (u - 0.5) ** 2 * float(rng.uniform(-0.6, 0.6))
        relief -= np.exp(-((seam / 0.012) ** 2)) * float(rng.uniform(0.03, 0.14))
    return albedo, np.asarray(relief, np.float32)


def paint_cup(u: Floats, v: Floats, style: Style, rng: Rng) -> tuple[Floats, Floats]:
    """Cup N95: a dome with a rim, ribs, a metal strip on the nose, sometimes a valve."""
    albedo = flat(u, style)
    x, y = (u - 0.5) * 2, (v - 0.5) * 2
    radius = np.sqrt(x * x + y * y)
    relief = -0.28 * np.clip(radius, 0, 1.3) ** 2 + 0.08 - 0.10 * y
    relief -= np.exp(-(((radius - 0.85) / 0.04) ** 2)) * float(rng.uniform(0.0, 0.15))
    if rng.random() < 0.5:
        for place in (-0.25, 0.25):
            relief -= np.exp(-(((y - place) / 0.04) ** 2)) * (np.abs(x) < 0.7) * 0.08
    if rng.random() < 0.7:
        strip = (np.abs(v - 0.08) < 0.03) & (np.abs(u - 0.5) < 0.22)
        albedo[strip] = float(rng.uniform(0.45, 0.8))
    if rng.random() < 0.35:
        centre_x, centre_y = rng.uniform(-0.3, 0.3), rng.uniform(-0.1, 0.3)
        valve = np.hypot(x - centre_x, (y - centre_y) * 1.1)
        albedo[valve < 0.2] = rng.uniform(0.2, 0.95, 3)
        relief -= np.exp(-(((valve - 0.2) / 0.03) ** 2)) * 0.2
    return albedo, relief


def paint_cloth(u: Floats, v: Floats, style: Style, rng: Rng) -> tuple[Floats, Floats]:
    """Sewn cloth: plain, striped, checked, dotted or printed; a curved seam down the middle, a hem."""
    albedo = flat(u, style)
    kind = rng.choice(["plain", "stripes", "checks", "dots", "print", "print", "camouflage"])
    other = rng.uniform(0, 1, 3).astype(np.float32)
    turn = float(rng.uniform(0, np.pi))
    a = (u - 0.5) * np.cos(turn) + (v - 0.5) * 0.7 * np.sin(turn)
    b = -(u - 0.5) * np.sin(turn) + (v - 0.5) * 0.7 * np.cos(turn)
    count = float(rng.uniform(5, 28))
    if kind == "stripes":
        albedo[np.sin(a * count * 2 * np.pi) > rng.uniform(-0.6, 0.6)] = other
    elif kind == "checks":
        weight = ((np.sin(a * count * 2 * np.pi) > 0).astype(np.float32) + (np.sin(b * count * 2 * np.pi) > 0)) / 2
        albedo += (other - albedo) * weight[..., None]
    elif kind == "dots":
        cell = np.hypot((a * count) % 1 - 0.5, (b * count) % 1 - 0.5)
        albedo[cell < rng.uniform(0.15, 0.4)] = other
    elif kind in ("print", "camouflage"):
        texture = flat(np.zeros((96, 128), np.float32), style)
        scale = int(rng.integers(4, 22 if kind == "print" else 9))
        for _ in range(int(rng.integers(1, 4))):
            spots = value_noise(rng, (96, 128), (scale, max(scale * 3 // 4, 2))) > rng.uniform(0.0, 0.5)
            texture[spots] = rng.uniform(0, 1, 3)
        albedo = sample(texture, u, v)
    relief = np.zeros_like(u)
    if rng.random() < 0.6:
        relief -= np.exp(-(((u - 0.5) / 0.012) ** 2)) * float(rng.uniform(0.05, 0.25))
        relief += np.tanh((u - 0.5) / 0.06) * float(rng.uniform(-0.08, 0.08))
    hem = np.exp(-(((np.minimum(v, 1 - v) - 0.06) / 0.012) ** 2)) * float(rng.uniform(0.0, 0.15))
    return np.clip(albedo, 0, 1), np.asarray(relief - hem, np.float32)


def paint_sport(u: Floats, v: Floats, style: Style, rng: Rng) -> tuple[Floats, Floats]:
    """Smooth stretch cloth, usually black: a soft sheen, a seam, sometimes valves and a logo."""
    albedo = flat(u, style)
    relief = 0.1 * np.exp(-((u - rng.uniform(0.3, 0.7)) ** 2 / 0.03)) * float(rng.uniform(0, 1))
    relief += np.exp(-(((u - 0.5) / 0.01) ** 2)) * float(rng.uniform(-0.12, 0.08))
    if rng.random() < 0.3:
        for centre in (0.28, 0.72):
            valve = np.hypot(u - centre, (v - 0.55) * 0.7)
            albedo[valve < 0.06] = float(rng.uniform(0.02, 0.5))
    return albedo, relief


def paint_tube(u: Floats, v: Floats, style: Style, rng: Rng) -> tuple[Floats, Floats]:
    """Gaiter, bandana or scarf: cloth prints and deep, mostly level folds."""
    albedo, relief = paint_cloth(u, v, style, rng)
    texture = value_noise(rng, (128, 64), (int(rng.integers(2, 5)), int(rng.integers(5, 16))))
    return albedo, relief * 0.3 + sample(texture, u, v) * float(rng.uniform(0.03, 0.2))


def add_print(albedo: Floats, u: Floats, v: Floats, rng: Rng) -> Floats:
    """A word or a badge somewhere on the mask."""
    canvas = np.zeros((96, 160), np.uint8)
    if rng.random() < 0.7:
        letters = "".join(rng.choice(list("ABCDEFGHKLMNOPRSTUVWXYZ0123456789"), int(rng.integers(2, 8))))
        place = (8, int(rng.integers(30, 80)))
        font, scale, thickness = int(rng.integers(0, 8)), float(rng.uniform(0.4, 1.3)), int(rng.integers(1, 4))
        cv2.putText(canvas, letters, place, font, scale, 255, thickness, cv2.LINE_AA)
    else:
        axes, turn = (int(rng.integers(8, 40)), int(rng.integers(8, 30))), float(rng.uniform(0, 180))
        thickness = int(rng.choice([-1, 2, 4]))
        cv2.ellipse(canvas, (80, 48), axes, turn, 0, 360, 255, thickness, cv2.LINE_AA)
    size, du, dv = float(rng.uniform(0.5, 2.5)), float(rng.uniform(-0.3, 0.3)), float(rng.uniform(-0.25, 0.25))
    x, y = ((u - 0.5 - du) * size + 0.5) * 159, ((v - 0.5 - dv) * size + 0.5) * 95
    weight = cv2.remap(canvas, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    colour = rng.uniform(0, 1, 3).astype(np.float32)
    return albedo + (colour - albedo) * (weight.astype(np.float32) / 255 * float(rng.uniform(0.6, 1)))[..., None]


SURGICAL_COLOURS = (
    (0.62, 0.80, 0.90),
    (0.55, 0.74, 0.88),
    (0.70, 0.86, 0.92),
    (0.92, 0.94, 0.95),
    (0.60, 0.83, 0.78),
    (0.12, 0.12, 0.13),
    (0.92, 0.72, 0.78),
    (0.40, 0.62, 0.85),
    (0.75, 0.72, 0.88),
    (0.85, 0.88, 0.92),
)
FILTER_COLOURS = (
    (0.95, 0.95, 0.95),
    (0.92, 0.92, 0.90),
    (0.10, 0.10, 0.11),
    (0.60, 0.62, 0.65),
    (0.85, 0.80, 0.72),
    (0.35, 0.4, 0.5),
)


def choose(colours: tuple[tuple[float, ...], ...], rng: Rng, spread: float = 0.05) -> Floats:
    colour = np.array(colours[int(rng.integers(len(colours)))])
    return np.clip(colour + rng.normal(0, spread, 3), 0.02, 1).astype(np.float32)


def any_colour(rng: Rng) -> Floats:
    """Cloth colours: a third dark, a sixth light, the rest anything, a few close to skin."""
    pick = rng.random()
    if pick < 0.33:
        return rng.uniform(0.02, 0.2, 3).astype(np.float32)
    if pick < 0.5:
        return rng.uniform(0.75, 1.0, 3).astype(np.float32)
    if pick < 0.6:
        skin = np.array([0.8, 0.6, 0.48]) * rng.uniform(0.4, 1.1)
        return np.clip(skin + rng.normal(0, 0.05, 3), 0, 1).astype(np.float32)
    return rng.uniform(0.05, 0.95, 3).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of mask: how its outline runs, what is painted on it, and the ranges that its style is drawn from."""

    paint: Painter
    colour: Callable[[Rng], Floats]
    shape: Callable[[Head, Style, Rng], Outline]
    top: tuple[float, float] = (0.35, 0.95)
    side: tuple[float, float] = (0.55, 1.0)
    drop: tuple[float, float] = (0.0, 0.10)
    folds: tuple[float, float] = (0.0, 0.10)
    noise: tuple[float, float] = (0.0, 0.03)
    straps: str = "loops"
    prints: float = 0.1


def _cloth(pointed: float, tall: tuple[float, float]) -> Callable[[Head, Style, Rng], Outline]:
    def shape(head: Head, style: Style, rng: Rng) -> Outline:
        return outline_cloth(head, style, rng, pointed=pointed, tall_sides=float(rng.uniform(*tall)))

    return shape


FAMILIES: dict[str, Family] = {
    "surgical": Family(paint_pleats, lambda r: choose(SURGICAL_COLOURS, r), _cloth(0.2, (0.3, 0.8)), prints=0.05),
    "kn95": Family(
        paint_fold, lambda r: choose(FILTER_COLOURS, r, 0.03), _cloth(1.0, (0.1, 0.6)), folds=(0, 0.05), prints=0.2
    ),
    "cup": Family(
        paint_cup,
        lambda r: choose(FILTER_COLOURS, r, 0.04),
        _cloth(0.6, (0.1, 0.5)),
        side=(0.25, 0.8),
        folds=(0, 0.02),
        straps="bands",
        prints=0.3,
    ),
    "cloth": Family(paint_cloth, any_colour, _cloth(0.5, (0.2, 0.8)), noise=(0.0, 0.06)),
    "sport": Family(
        paint_sport,
        lambda r: r.uniform(0.01, 0.15, 3).astype(np.float32),
        _cloth(0.7, (0.4, 1.0)),
        side=(0.8, 1.0),
        prints=0.3,
    ),
    "gaiter": Family(
        paint_tube, any_colour, outline_gaiter, top=(0.1, 0.8), straps="none", folds=(0.02, 0.15), noise=(0.0, 0.06)
    ),
}
FAMILY_WEIGHTS = {"surgical": 0.34, "kn95": 0.16, "cup": 0.09, "cloth": 0.21, "sport": 0.08, "gaiter": 0.12}


def draw_style(family: Family, rng: Rng) -> Style:
    """A random mask of a family; one in fourteen is worn under the nose, a few have a see-through cloth."""
    top = float(rng.uniform(*family.top))
    if rng.random() < 0.07:
        top = float(rng.uniform(-0.2, 0.0))
    light = rng.random() < 0.7
    return Style(
        colour=family.colour(rng),
        top=top,
        side=float(rng.uniform(*family.side)),
        drop=float(rng.uniform(*family.drop)),
        noise=float(rng.uniform(*family.noise)),
        folds=float(rng.uniform(*family.folds)),
        straps=float(rng.uniform(0.010, 0.032)) if family.straps != "none" and rng.random() < 0.85 else 0.0,
        strap_colour=(rng.uniform(0.75, 1, 3) if light else rng.uniform(0, 0.3, 3)).astype(np.float32),
        opacity=float(rng.uniform(0.9, 0.99)) if rng.random() < 0.08 else 1.0,
    )


def face_light(rgb: Image, mesh: Floats) -> tuple[Floats, float]:
    """Light on the visible upper face: colour float32[3] 0..1, and how it falls from left to right (-1..1)."""
    height, width = rgb.shape[:2]
    samples = {}
    for side, indices in (("left", (117, 118, 50, 104, 69, 67)), ("right", (346, 347, 280, 333, 299, 297))):
        xy = np.round(mesh[list(indices)]).astype(int)
        xy[:, 0] = np.clip(xy[:, 0], 1, width - 2)
        xy[:, 1] = np.clip(xy[:, 1], 1, height - 2)
        samples[side] = np.median([rgb[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1)) for x, y in xy], axis=0) / 255
    mean = (samples["left"] + samples["right"]) / 2
    slope = float((samples["right"].mean() - samples["left"].mean()) / max(mean.mean(), 0.05))
    return mean.astype(np.float32), float(np.clip(slope, -1, 1))


def polygon_alpha(polygon: Floats, shape: tuple[int, int], softness_px: float) -> Floats:
    """Coverage 0..1 of a polygon given in pixels, antialiased by subpixel filling and a slight blur."""
    alpha = np.zeros(shape, np.uint8)
    cv2.fillPoly(alpha, [np.round(polygon * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return np.asarray(cv2.GaussianBlur(alpha, (0, 0), max(softness_px, 0.3)), np.float32) / np.float32(255)


def rim_fade(shape: tuple[int, int], width_px: float) -> Floats:
    """1 inside, falling to 0 at the edge of a rectangle: what reaches it must not end in a straight line."""
    rows, columns = (np.minimum(np.arange(n), np.arange(n)[::-1]) / max(width_px, 1.0) for n in shape)
    return np.minimum(np.minimum(rows[:, None], columns), 1).astype(np.float32)


def strap_lines(head: Head, outline: Outline, kind: str, rng: Rng) -> list[Floats]:
    """Ear loops or head bands as curves in the head's frame."""
    lines = []
    for ear, top_end, bottom_end, sign in (
        (234, outline.top[0], outline.bottom[0], -1),
        (454, outline.top[-1], outline.bottom[-1], 1),
    ):
        side = head[ear]
        outside = side + np.array([sign * rng.uniform(0.0, 0.10), rng.uniform(-0.15, 0.08)], np.float32)
        if kind == "bands":
            bend = shifted(mix(top_end, outside, 0.5), 0, -0.03)
            lines.append(smooth_curve([top_end, bend, shifted(outside, sign * 0.1, -0.15)]))
            bend = shifted(mix(bottom_end, outside, 0.5), 0, 0.12)
            lines.append(smooth_curve([bottom_end, bend, shifted(outside, sign * 0.1, 0.35)]))
        else:
            bend = shifted(mix(top_end, outside, 0.55), 0, rng.uniform(-0.03, 0.02))
            lines.append(smooth_curve([top_end, bend, outside]))
            low = outside + np.array([0, rng.uniform(0.1, 0.25)], np.float32)
            bend = shifted(mix(bottom_end, low, 0.55), 0, rng.uniform(-0.02, 0.04))
            lines.append(smooth_curve([bottom_end, bend, low]))
    return lines


def draw_mask(rgb: Image, mesh: Floats, rng: Rng, family: str | None = None) -> tuple[Image, Floats]:
    """Draws one mask on one face.

    Args:
        rgb: uint8[H, W, 3] picture.
        mesh: float[478, 2] (or more columns; only x and y count) face mesh in its pixels.
        rng: source of all randomness: the same state draws the same mask.
        family: a key of `FAMILIES`, or None for a weighted random one.

    Returns:
        The masked picture uint8[H, W, 3] and the mask's coverage float32[H, W] in 0..1 (cloth and straps; the contact
        shadow on the skin is not part of it).

    Raises:
        KeyError: there is no such family.
    """
    mesh = np.asarray(mesh, np.float32)[:, :2]
    if family is None:
        family = str(rng.choice(list(FAMILY_WEIGHTS), p=list(FAMILY_WEIGHTS.values())))
    kind = FAMILIES[family]
    style = draw_style(kind, rng)
    head = Head(mesh)
    outline = kind.shape(head, style, rng)
    straps = strap_lines(head, outline, kind.straps, rng) if style.straps else []

    height, width = rgb.shape[:2]
    polygon = head.to_picture(outline.polygon)
    everything = np.vstack([polygon, *(head.to_picture(s) for s in straps)])
    margin = 0.08 * head.height + 2
    x0, y0 = np.clip(np.floor(everything.min(0) - margin), 0, [width - 1, height - 1]).astype(int)
    x1, y1 = np.clip(np.ceil(everything.max(0) + margin), 1, [width, height]).astype(int)
    alpha_full = np.zeros((height, width), np.float32)
    if x1 - x0 < 8 or y1 - y0 < 8:
        return rgb.copy(), alpha_full
    x, y = head.from_grid(x0, y0, x1, y1)
    u, v = texture_grid(outline, x, y)
    shape = u.shape
    offset = np.array([x0, y0], np.float32)

    albedo, relief = kind.paint(u, v, style, rng)
    if rng.random() < kind.prints:
        albedo = add_print(albedo, u, v, rng)
    if style.folds > 0.005:
        for cells in ((6, 4), (14, 9)):
            relief = relief + sample(value_noise(rng, (64, 96), cells), u, v) * style.folds * float(rng.uniform(0.3, 1))
    if style.noise > 0.002:
        relief = relief + rng.normal(0, style.noise, shape).astype(np.float32)
    light, slope = face_light(rgb, mesh)
    exposure = np.clip(0.45 + 0.75 * light, 0.15, 1.15) * float(rng.uniform(0.8, 1.15))
    tint = exposure / exposure.mean()
    exposure = exposure.mean() * (1 + (tint - 1) * float(rng.uniform(0, 0.6)))
    round_off = float(rng.uniform(0.05, 0.5))
    shade = 1 - round_off * (2 * u - 1) ** 2 * 0.6 + slope * (u - 0.5) * float(rng.uniform(0.5, 1.4))
    shade = shade * (1 - float(rng.uniform(-0.05, 0.25)) * np.clip(v - 0.45, 0, 1)) * (1 + relief)
    cloth = np.clip(albedo * exposure.astype(np.float32) * shade[..., None], 0, 1.0)

    softness = float(rng.uniform(0.35, 1.1)) * max(head.height / 130, 0.5)
    body = polygon_alpha(polygon - offset, shape, softness)
    alpha = body * style.opacity
    picture = rgb[y0:y1, x0:x1].astype(np.float32) / 255

    reach = head.height * float(rng.uniform(0.01, 0.045))
    shadow = cv2.GaussianBlur(body, (0, 0), max(reach, 0.5))
    shadow = cv2.warpAffine(
        shadow,
        np.array([[1, 0, reach * rng.uniform(-0.5, 0.5)], [0, 1, reach * rng.uniform(-0.2, 0.9)]], np.float32),
        shape[::-1],
    )
    shadow = shadow * rim_fade(shape, margin)
    dark = (1 - shadow * float(rng.uniform(0.0, 0.45)) * (1 - body))[..., None]
    picture = picture * dark

    strap_cover = np.zeros(shape, np.uint8)
    thickness = max(1, round(style.straps * head.height))
    for line in straps:
        points = np.round((head.to_picture(line) - offset) * 16).astype(np.int32)
        cv2.polylines(strap_cover, [points], False, 255, thickness, cv2.LINE_AA, 4)
    if straps:
        cover = cv2.GaussianBlur(strap_cover, (0, 0), softness * 0.8).astype(np.float32) / 255
        colour = style.strap_colour * exposure.mean() * (1 + slope * (u - 0.5))[..., None]
        picture = picture + (np.clip(colour, 0, 1) - picture) * cover[..., None]
        alpha = np.maximum(alpha, cover)
    picture = picture + (cloth - picture) * (body * style.opacity)[..., None]

    masked = rgb.copy()
    masked[y0:y1, x0:x1] = np.clip(picture * 255 + 0.5, 0, 255).astype(np.uint8)
    alpha_full[y0:y1, x0:x1] = alpha
    return masked, alpha_full
