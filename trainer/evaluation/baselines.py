"""What any model has to beat: nothing done, OpenCV's inpainting, and the mean face."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]

MEAN_OF = 1000
"""At most so many training faces make the mean face."""
RING_SHARE = 1 / 12
"""Width of the ring around the hole that colours are matched on, as a share of the side."""


def telea(masked: Image, hole: NDArray[np.bool_]) -> Image:
    """OpenCV's inpainting after A. Telea (2004), radius 5, of the true hole widened by 2 px."""
    wide = cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8))
    return np.asarray(cv2.inpaint(masked, wide, 5, cv2.INPAINT_TELEA))


def mean_face(data: Path) -> Floats:
    """Mean of the training crops of a prepared set, float32[256, 256, 3]; of every k-th where there are many.

    Raises:
        ValueError: the set has no training face.
    """
    records = json.loads((data / "meta.json").read_text())
    rows = [i for i, r in enumerate(records) if r["split"] == "train"]
    if not rows:
        raise ValueError(f"no prepared face in {data} belongs to the split 'train': there is no mean face")
    crops = np.load(data / "crops.npy", mmap_mode="r")
    rows = rows[:: -(-len(rows) // MEAN_OF)]
    total = np.zeros(crops.shape[1:], np.float64)
    for row in rows:
        total += crops[row]
    return (total / len(rows)).astype(np.float32)


def paste_mean(mean: Floats, masked: Image, alpha: Floats) -> Image:
    """The mean face in the hole, its colours matched to the face around.

    Each channel gets the mean and the deviation (a factor of 0.5 to 2) of what is visible on a ring around the hole.

    Args:
        mean: float32[S, S, 3].
        masked: uint8[S, S, 3].
        alpha: float32[S, S] 0..1.
    """
    reach = max(2, round(masked.shape[0] * RING_SHARE))
    covered = (alpha > 0.05).astype(np.uint8)
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1))
    ring = (cv2.dilate(covered, kernel) > 0) & (covered == 0)
    fitted = mean
    if int(ring.sum()) >= 16:
        seen, there = masked[ring].astype(np.float32), mean[ring]
        gain = np.clip(seen.std(0) / np.maximum(there.std(0), 1e-3), 0.5, 2)
        fitted = (mean - there.mean(0)) * gain + seen.mean(0)
    weight = alpha[..., None]
    return np.clip(masked * (1 - weight) + fitted * weight + 0.5, 0, 255).astype(np.uint8)
