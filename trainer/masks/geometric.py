"""Masks that are plain shapes: a rectangle or an oval of one colour over the lower face, as older work measured with.

Place, size, tilt and colour are random; nothing follows the face but the frame they are drawn in (`Head`).
"""

from __future__ import annotations

import numpy as np

from trainer.masks.head import Floats, Head, Image, Rng
from trainer.masks.light import polygon_alpha
from trainer.masks.texture import any_colour


def draw_rectangle(rgb: Image, mesh: Floats, rng: Rng) -> tuple[Image, Floats]:
    """A rectangle; arguments and result as those of `trainer.masks.draw_mask`."""
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float32)
    return _draw_shape(rgb, mesh, rng, corners)


def draw_oval(rgb: Image, mesh: Floats, rng: Rng) -> tuple[Image, Floats]:
    """An oval; arguments and result as those of `trainer.masks.draw_mask`."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    return _draw_shape(rgb, mesh, rng, np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32))


def _draw_shape(rgb: Image, mesh: Floats, rng: Rng, unit: Floats) -> tuple[Image, Floats]:
    """Fills a shape given in -1..1 after scaling, tilting and shifting it; lengths are shares of the face's height."""
    head = Head(np.asarray(mesh, np.float32)[:, :2])
    half = np.array([rng.uniform(0.25, 0.6), rng.uniform(0.18, 0.38)])
    centre = np.array([rng.uniform(-0.12, 0.12), rng.uniform(0.5, 0.8)])
    tilt = float(np.radians(rng.uniform(-8, 8)))
    turn = np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    polygon = head.to_picture(((unit * half) @ turn + centre).astype(np.float32))
    alpha = polygon_alpha(polygon, rgb.shape[:2], 0.0)
    colour = np.round(any_colour(rng) * 255)
    masked = rgb + (colour - rgb) * alpha[..., None]
    return np.clip(masked + 0.5, 0, 255).astype(np.uint8), alpha
