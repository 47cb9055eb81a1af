"""Figures of video: does the drawn face flicker, and is any of the mask still there?"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

STILL_MASKED = 6.0
"""Mean change of a pixel, in levels of 255, below which it is still the mask's."""
TINY = 1e-6
"""Least that is divided by: a truth that stands still has no unrest."""


def motion(earlier: Image, later: Image) -> NDArray[np.float32]:
    """Where each pixel of the earlier picture is in the later: DIS optical flow, medium preset, float32[H, W, 2]."""
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    a, b = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (earlier, later))
    height, width = a.shape
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(np.float32)
    return np.asarray(grid + flow.calc(a, b, None), np.float32)


def unrest(
    pictures: Sequence[Image], motions: Sequence[NDArray[np.float32]], holes: Sequence[NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """Absolute difference, in the hole, of each picture and its successor warped back onto it.

    Args:
        pictures: N of uint8[H, W, 3].
        motions: N - 1 of `motion`, of the truth.
        holes: N of bool[H, W].

    Returns:
        float64[N - 1, 2]: the sum of the differences in levels, and over how many values.
    """
    found = []
    for now, following, where, hole in zip(pictures[:-1], pictures[1:], motions, holes[:-1], strict=True):
        back = cv2.remap(following, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        found.append((float(np.abs(now.astype(np.float32) - back)[hole].sum()), 3.0 * int(hole.sum())))
    return np.array(found, np.float64).reshape(-1, 2)


def flicker_and_popping(
    outputs: Sequence[Image],
    truths: Sequence[Image],
    holes: Sequence[NDArray[np.bool_]],
    motions: Sequence[NDArray[np.float32]],
) -> tuple[float, float]:
    """How restless the output is beside the truth, both along the truth's motion (`motion` of each two neighbours).

    Returns:
        Flicker: `unrest` of the output over that of the truth; 1 is as calm as life. Popping: the greatest step from
        one picture to the next, in `unrest` of the output's median step, over the same of the truth; above 1 where a
        picture stands out more than the truth's own motion does.

    Raises:
        ValueError: fewer than two pictures.
    """
    if len(truths) < 2:
        raise ValueError("flicker needs two pictures at least")
    found, wanted = (unrest(pictures, motions, holes) for pictures in (outputs, truths))
    flicker = mean_of(found) / max(mean_of(wanted), TINY)
    return flicker, greatest_step(found) / max(greatest_step(wanted), TINY)


def mean_of(steps: NDArray[np.float64]) -> float:
    """Mean difference of all steps of `unrest`, in levels."""
    total, count = steps.sum(0)
    return float(total / max(count, 1.0))


def greatest_step(steps: NDArray[np.float64]) -> float:
    """The greatest of the steps of `unrest` over their median; 1 where nothing moves."""
    means = steps[:, 0] / np.maximum(steps[:, 1], 1.0)
    return float((means.max() + TINY) / (np.median(means) + TINY))


def still_masked(output: Image, masked: Image, hole: NDArray[np.bool_]) -> float:
    """Share of the hole's pixels that changed by less than `STILL_MASKED`."""
    moved = np.abs(output.astype(np.float32) - masked).mean(2)
    return float((moved[hole] < STILL_MASKED).mean())
