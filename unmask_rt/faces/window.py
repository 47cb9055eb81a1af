"""Upright square windows around a face: what flow, mesh and finder look at once they know where to look."""

from __future__ import annotations

import numpy as np

from unmask_rt.align import Affine, Image, compose, corners, invert, scale_of, warp
from unmask_rt.faces.pose import Pose, to_picture


def window_of(pose: Pose, size: int, zoom: float) -> Affine:
    """Affine from the picture to a window of ``size`` pixels whose side is ``zoom`` crop sides long."""
    centre, side = (size - 1) / 2, size / zoom
    return compose(np.array([[side, 0.0, centre], [0.0, side, centre]]), invert(to_picture(pose)))


def cut(picture: Image, to_window: Affine, size: int) -> Image:
    """`align.warp` that touches no more of the picture than it needs: a large face would have all of it shrunk first.

    Args:
        picture: uint8[H, W, C] or uint8[H, W], at least 16 pixels high and wide.
        to_window: picture to window.
        size: side of the window in pixels.

    Returns:
        uint8[size, size, C] or uint8[size, size].
    """
    edges = corners(to_window, size)
    factor = max(1, int(1 / max(scale_of(to_window), 1e-6)))
    margin = 2 + 3 * factor
    limit = np.array([picture.shape[1], picture.shape[0]])
    low = np.clip(np.floor(edges.min(axis=0) - margin), 0, limit - 16).astype(int)
    high = np.clip(np.ceil(edges.max(axis=0) + margin), low + 16, limit).astype(int)
    if (high - low).min() >= 16 * factor:  # shrinking by a whole number is several times faster
        high -= (high - low) % factor
    shift = np.array([[1.0, 0.0, low[0]], [0.0, 1.0, low[1]]])
    return warp(np.ascontiguousarray(picture[low[1] : high[1], low[0] : high[0]]), compose(to_window, shift), size)
