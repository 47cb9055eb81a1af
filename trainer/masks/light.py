"""Light on the visible face, coverage of a polygon, fading at a rectangle's rim."""

from __future__ import annotations

import cv2
import numpy as np

from trainer.masks.head import Floats, Image


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
