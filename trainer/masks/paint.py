"""What is on a mask: pleats, ridges, ribs, weaves, prints, over the mask's own coordinates u and v."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from trainer.masks.head import Floats, Rng, Style
from trainer.masks.texture import flat, sample, value_noise

Painter = Callable[[Floats, Floats, Style, Rng], tuple[Floats, Floats]]
"""(u, v, style, rng) -> (albedo float32[H, W, 3], relief float32[H, W]: brightness added by creases)."""


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
    return np.clip(albedo, 0, 1), _sewn(u, v, rng)


def _sewn(u: Floats, v: Floats, rng: Rng) -> Floats:
    """Relief of a seam down the middle, of most masks, and of a hem."""
    relief = np.zeros_like(u)
    if rng.random() < 0.6:
        relief -= np.exp(-(((u - 0.5) / 0.012) ** 2)) * float(rng.uniform(0.05, 0.25))
        relief += np.tanh((u - 0.5) / 0.06) * float(rng.uniform(-0.08, 0.08))
    hem = np.exp(-(((np.minimum(v, 1 - v) - 0.06) / 0.012) ** 2)) * float(rng.uniform(0.0, 0.15))
    return np.asarray(relief - hem, np.float32)


def paint_patchwork(u: Floats, v: Floats, style: Style, rng: Rng) -> tuple[Floats, Floats]:
    """Pieces with straight edges in three to six colours, dark beside light, all along the mask's edge too."""
    count = int(rng.integers(6, 41))
    tall = float(rng.uniform(0.4, 1.4))
    middles = rng.uniform(-0.1, 1.1, (count, 2)).astype(np.float32)
    near = np.full(u.shape, np.inf, np.float32)
    piece = np.zeros(u.shape, np.int32)
    for number, (x, y) in enumerate(middles):
        distance = (u - x) ** 2 + ((v - y) * tall) ** 2
        closer = distance < near
        near[closer], piece[closer] = distance[closer], number
    spans = ((0.0, 0.15), (0.8, 1.0), (0.0, 1.0), (0.0, 1.0), (0.0, 1.0))
    chosen = [rng.uniform(*span, 3) for span in spans[: int(rng.integers(2, 6))]]
    if rng.random() < 0.5:
        chosen[0][:] = chosen[0].mean()  # black rather than a dark colour
    palette = np.array([style.colour, *chosen], np.float32)
    colours = palette[rng.integers(0, len(palette), count)]
    return np.clip(colours[piece], 0, 1), _sewn(u, v, rng)


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
