"""Masks placed by a handful of landmarks: a flat template, its halves warped to six points of the face.

The way of A. Anwar and A. Raychowdhury, "Masked Face Recognition for Secure Authentication" (MaskTheFace),
arXiv:2008.11104, 2020: six key points on a flat picture of a mask (upper and lower edge, each left, middle, right), six
on the face (jaw, nose bridge, chin), and one perspective transform for each half; the brightness follows the face's.
Nothing folds, bulges or casts a shadow: what the systems that this project descends from were trained on. The
templates are drawn here, so that no picture of a mask has to be distributed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import cv2
import numpy as np

from trainer.masks.families import CLASSIC, draw_style
from trainer.masks.head import CHIN, Floats, Head, Image, Rng, mix, shifted, smooth_curve
from trainer.masks.light import face_light, polygon_alpha

TEMPLATE = (160, 240)
"""Height and width of a template in pixels."""
SHAPES: dict[str, tuple[float, float, float]] = {
    "surgical": (0.06, 0.22, 0.84),
    "cup": (0.25, 0.28, 0.80),
    "cloth": (0.16, 0.24, 0.72),
}
"""By look, as shares of the template's height and width: how far the upper corners lie below the middle of the upper
edge, how far the lower ones above that of the lower edge, and how wide the lower edge is."""
OVERLAP = 2
"""Columns by which each half reaches over the middle, so that no skin shows between them."""


def draw_template(look: str, rng: Rng) -> tuple[Floats, Floats, Floats]:
    """A flat mask from the front.

    Args:
        look: a key of `SHAPES`, whose family gives colour and paint.

    Returns:
        Colour float32[160, 240, 3] and coverage float32[160, 240], both 0..1, and six key points float32[6, 2] in its
        pixels: upper edge left, middle, right; lower edge left, middle, right.
    """
    height, width = TEMPLATE
    kind = CLASSIC[look]
    style = replace(draw_style(kind, rng), opacity=1.0)
    u, v = np.meshgrid(np.linspace(0, 1, width, dtype=np.float32), np.linspace(0, 1, height, dtype=np.float32))
    albedo, relief = kind.paint(u, v, style, rng)
    high, low, wide = SHAPES[look]
    across = np.array([0, 0.5, 1, (1 - wide) / 2, 0.5, (1 + wide) / 2], np.float32) * (width - 25) + 12
    along = np.array([high, 0, high, 1 - low, 1, 1 - low], np.float32) * (height - 9) + 4
    keys = np.stack([across, along], 1)
    left, right = mix(keys[0], keys[3], 0.5), mix(keys[2], keys[5], 0.5)
    round_r = shifted(mix(keys[3], keys[4], 0.5), -0.02 * width, 0.3 * low * height)
    round_l = shifted(mix(keys[5], keys[4], 0.5), 0.02 * width, 0.3 * low * height)
    lower = smooth_curve([keys[5], round_l, keys[4], round_r, keys[3]])
    outline = np.vstack([keys[:3], shifted(right, 5, 0), lower, shifted(left, -5, 0)]).astype(np.float32)
    colour = np.clip(albedo * (1 + relief)[..., None], 0, 1)
    return colour, polygon_alpha(outline, TEMPLATE, 0.8), keys


def face_points(head: Head, rng: Rng) -> Floats:
    """The six points of the face that a template's key points go to, float32[6, 2] in the head's frame."""
    rise = float(rng.uniform(0.0, 1.0))
    top = mix(head[195], head[197], rise)
    high_r, high_l = mix(head[93], head[234], rise * 0.5), mix(head[323], head[454], rise * 0.5)
    low_r, low_l = head[172], head[397]
    chin = shifted(head[CHIN], 0, float(rng.uniform(0.0, 0.06)))
    return np.array([high_r, top, high_l, low_r, chin, low_l], np.float32)


def draw_landmark(look: str) -> Callable[[Image, Floats, Rng], tuple[Image, Floats]]:
    """A drawer of masks of one look (a key of `SHAPES`), called as `trainer.masks.draw_mask` is."""

    def draw(rgb: Image, mesh: Floats, rng: Rng) -> tuple[Image, Floats]:
        mesh = np.asarray(mesh, np.float32)[:, :2]
        head = Head(mesh)
        colour, cover, keys = draw_template(look, rng)
        places = head.to_picture(face_points(head, rng))
        light, _ = face_light(rgb, mesh)
        colour = np.clip(colour * float(np.clip(0.35 + light.mean(), 0.25, 1.15)), 0, 1)
        size = rgb.shape[1::-1]
        masked, alpha = rgb.astype(np.float32), np.zeros(rgb.shape[:2], np.float32)
        middle = round(float(keys[1, 0]))
        for corners, columns in (
            ((0, 1, 4, 3), slice(0, middle + OVERLAP)),
            ((1, 2, 5, 4), slice(middle - OVERLAP, None)),
        ):
            half = np.zeros(TEMPLATE, np.float32)
            half[:, columns] = cover[:, columns]
            index = list(corners)
            matrix = cv2.getPerspectiveTransform(keys[index], places[index])
            cloth = cv2.warpPerspective(colour * half[..., None], matrix, size, flags=cv2.INTER_LINEAR)
            over = np.asarray(cv2.warpPerspective(half, matrix, size, flags=cv2.INTER_LINEAR))
            masked = masked * (1 - over[..., None]) + cloth * np.float32(255)
            alpha = alpha * (1 - over) + over
        return np.clip(masked + 0.5, 0, 255).astype(np.uint8), alpha.astype(np.float32)

    return draw
