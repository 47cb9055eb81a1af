"""Coordinates on a mask, smooth noise, colours."""

from __future__ import annotations

import cv2
import numpy as np

from trainer.masks.head import Floats, Outline, Rng, Style

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


def flat(u: Floats, style: Style) -> Floats:
    return np.broadcast_to(style.colour, (*u.shape, 3)).copy()


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


def foam_colour(rng: Rng) -> Floats:
    """Black and greys, seldom another even colour."""
    if rng.random() < 0.8:
        grey = float(rng.uniform(0.03, 0.4))
        return np.clip(grey + rng.normal(0, 0.012, 3), 0.01, 1).astype(np.float32)
    return rng.uniform(0.1, 0.9, 3).astype(np.float32)
