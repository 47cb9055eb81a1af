"""Carries a face from one picture to the next by sparse optical flow of what a mask leaves free."""

from __future__ import annotations

import cv2
import numpy as np

from unmask_rt.align import Image, apply, compose, invert
from unmask_rt.faces.pose import Pose, moved, to_picture
from unmask_rt.faces.window import cut, window_of

FACE = 112
"""Pixels of the canonical crop's side in the pictures that flow compares: near and far faces look alike to it."""
WINDOW = 192
"""Side of those pictures: room for a face that moves by a third of the crop from one frame to the next."""
MIN_POINTS = 8
MAX_RETURN = 0.7
"""Pixels that a point may miss its start by when followed forth and back."""
MIN_LIKENESS = 0.6
"""Normalised correlation of eyes and forehead before and after, below which it is not the same face any more."""

_LK = {
    "winSize": (17, 17),
    "maxLevel": 3,
    "criteria": (cv2.TERM_CRITERIA_EPS | cv2.TERM_CRITERIA_COUNT, 15, 0.02),
}


def _region() -> tuple[slice, slice]:
    """Brows, eyes, bridge and forehead in the window: rows and columns."""
    start = (WINDOW - FACE) / 2
    rows, columns = (int(start + f * FACE) for f in (0.10, 0.45)), (int(start + f * FACE) for f in (0.22, 0.78))
    return slice(*rows), slice(*columns)


_REGION = _region()


def follow(before: Image, after: Image, pose: Pose) -> Pose | None:
    """Where a face of picture ``before`` is in picture ``after``.

    Pyramidal Lucas-Kanade (Bouguet 2000) on strong corners (Shi and Tomasi 1994) with the forward-backward check of
    Kalal et al. 2010, then a RANSAC similarity.

    Args:
        before: uint8[H, W] grey.
        after: uint8[H, W] grey, the next or the previous picture.
        pose: the face in ``before``.

    Returns:
        Its pose in ``after``, or None if too few points agree.
    """
    to_window = window_of(pose, WINDOW, WINDOW / FACE)
    first, second = cut(before, to_window, WINDOW), cut(after, to_window, WINDOW)
    mask = np.zeros_like(first)
    mask[_REGION] = 255
    start = cv2.goodFeaturesToTrack(first, 48, 0.01, 4, mask=mask, blockSize=5)
    if start is None or len(start) < MIN_POINTS:
        return None
    end, there, _ = cv2.calcOpticalFlowPyrLK(first, second, start, None, **_LK)  # type: ignore[call-overload]
    back, home, _ = cv2.calcOpticalFlowPyrLK(second, first, end, None, **_LK)  # type: ignore[call-overload]
    astray = np.linalg.norm(back - start, axis=2)[:, 0]
    good = (there[:, 0] == 1) & (home[:, 0] == 1) & (astray < MAX_RETURN)
    if int(good.sum()) < max(MIN_POINTS, 0.4 * len(start)):
        return None
    motion, inliers = cv2.estimateAffinePartial2D(start[good], end[good], ransacReprojThreshold=1.5)
    if motion is None or int(inliers.sum()) < max(MIN_POINTS, 0.6 * int(good.sum())):
        return None
    grown = float(np.hypot(motion[0, 0], motion[1, 0]))
    if not 0.85 < grown < 1.18:
        return None
    target = moved(pose, compose(invert(to_window), compose(np.asarray(motion), to_window)))
    height, width = after.shape
    eyes = apply(to_picture(target), np.array([[0.0, -0.155]], np.float32))[0]
    if not (0 <= eyes[0] < width and 0 <= eyes[1] < height):
        return None
    undone = cv2.warpAffine(second, np.asarray(motion), (WINDOW, WINDOW), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    if likeness(first, np.asarray(undone)) < MIN_LIKENESS:
        return None
    return target


def likeness(first: Image, second: Image) -> float:
    """Normalised correlation of brows, eyes and forehead of two aligned windows, -1..1."""
    return float(cv2.matchTemplate(first[_REGION], second[_REGION], cv2.TM_CCOEFF_NORMED)[0, 0])
