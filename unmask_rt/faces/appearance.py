"""What somebody looks like: a small descriptor of the upper face, cheap enough to be taken a few times a second.

Colour and edges of the aligned face from the hair to just below the eyes, the part that a mask leaves free: mean
chroma and lightness of a grid of cells, and histograms of oriented gradients (Dalal and Triggs, "Histograms of Oriented
Gradients for Human Detection", CVPR 2005). It tells apart people in one scene; it is no face recognition.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask_rt.align import Image
from unmask_rt.faces.pose import Pose
from unmask_rt.faces.window import cut, window_of

Looks = NDArray[np.float32]
"""float32[`SIZE`]: Lab colours of the cells over `COLOUR_UNIT`, then the histograms, each half of unit weight."""

WINDOW = 40
"""Side of the aligned picture that is described; it shows `ZOOM` canonical crop sides."""
ZOOM = 1.1
ROWS, COLUMNS = slice(2, 22), slice(6, 34)
"""Hair, forehead, brows and eyes in that picture: 20 x 28 pixels."""
CELLS = (4, 4)
BINS = 6
SIZE = 16 * (3 + BINS)
COLOUR_UNIT = 24.0
"""Lab steps of 8 bits that count as wholly different."""


def describe(rgb: Image, pose: Pose) -> Looks:
    """The looks of the face at ``pose`` in uint8[H, W, 3], at least 16 pixels high and wide."""
    picture = cut(rgb, window_of(pose, WINDOW, ZOOM), WINDOW)
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB).astype(np.float32)[ROWS, COLUMNS]
    colours = np.asarray(cv2.resize(lab, CELLS, interpolation=cv2.INTER_AREA)).reshape(-1, 3)
    # Light changes from place to place: lightness counts by its pattern and, at a quarter, by its level.
    colours[:, 0] -= 0.75 * colours[:, 0].mean()
    light = lab[..., 0]
    x, y = cv2.Sobel(light, cv2.CV_32F, 1, 0), cv2.Sobel(light, cv2.CV_32F, 0, 1)
    strength, angle = cv2.cartToPolar(x, y)
    sector = (angle * (BINS / np.pi)).astype(np.int32) % BINS
    layers = np.stack([np.where(sector == k, strength, np.float32(0)) for k in range(BINS)], axis=2)
    edges = np.sqrt(np.asarray(cv2.resize(layers, CELLS, interpolation=cv2.INTER_AREA)).ravel())
    edges /= float(np.linalg.norm(edges)) + 1e-6
    return np.concatenate([colours.ravel() / COLOUR_UNIT, edges]).astype(np.float32)


def unlikeness(first: Looks, second: Looks) -> float:
    """0 for the same picture, about 1 for two that have nothing in common."""
    split = 16 * 3
    colour = float(np.abs(first[:split] - second[:split]).mean())
    edges = 1.0 - float(first[split:] @ second[split:])
    return 0.6 * min(colour, 1.5) + 0.4 * min(2.5 * edges, 1.5)


def remembered(old: Looks | None, new: Looks, share: float = 0.25) -> Looks:
    """A memory that follows slowly: light and expression change, people do not."""
    return new if old is None else old + np.float32(share) * (new - old)
