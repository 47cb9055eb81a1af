"""Figures of video: does the drawn face flicker, and is any of the mask still there?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

STILL_MASKED = 6.0
"""Mean change of a pixel, in levels of 255, below which it is still the mask's."""


def motion(earlier: Image, later: Image) -> NDArray[np.float32]:
    """Where each pixel of the earlier picture is in the later: DIS optical flow, medium preset, float32[H, W, 2]."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    a, b = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (earlier, later))
    height, width = a.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(np.float32)
    return np.asarray(grid + flow.calc(a, b, None), np.float32)


def unrest(
    pictures: Sequence[Image], motions: Sequence[NDArray[np.float32]], holes: Sequence[NDArray[np.bool_]]
) -> float:
    """Mean absolute difference, in the hole, of each picture and its successor warped back onto it.

    Args:
        pictures: N of uint8[H, W, 3].
        motions: N - 1 of `motion`, of the truth.
        holes: N of bool[H, W].
    """
    total, count = 0.0, 0
    for now, following, where, hole in zip(pictures[:-1], pictures[1:], motions, holes[:-1], strict=True):
        back = cv2.remap(following, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        total += float(np.abs(now.astype(np.float32) - back)[hole].sum())
        count += 3 * int(hole.sum())
    return total / max(count, 1)


def flicker(outputs: Sequence[Image], truths: Sequence[Image], holes: Sequence[NDArray[np.bool_]]) -> float:
    """`unrest` of the output over that of the truth, both along the truth's motion; 1 is as calm as life.

    Raises:
        ValueError: fewer than two pictures.
    """
    if len(truths) < 2:
        raise ValueError("flicker needs two pictures at least")
    motions = [motion(a, b) for a, b in pairwise(truths)]
    return unrest(outputs, motions, holes) / max(unrest(truths, motions, holes), 1e-6)


def still_masked(output: Image, masked: Image, hole: NDArray[np.bool_]) -> float:
    """Share of the hole's pixels that changed by less than `STILL_MASKED`."""
    moved = np.abs(output.astype(np.float32) - masked).mean(2)
    return float((moved[hole] < STILL_MASKED).mean())
