"""From coded to display pixels and back: rotation, mirror, sample aspect ratio."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from unmask_rt.align import Affine

UPRIGHT: tuple[int, ...] = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""FFmpeg's display matrix for a picture that is already upright."""


def display_matrix(video: av.VideoFrame) -> tuple[int, ...]:
    """The frame's display matrix as FFmpeg stores it: nine integers, 16.16 and 2.30 fixed point; else `UPRIGHT`."""
    side: Any = video.side_data.get("DISPLAYMATRIX")
    return UPRIGHT if side is None else tuple(int(v) for v in np.frombuffer(bytes(side), np.int32))


def to_display(
    width: int, height: int, aspect: Fraction = Fraction(1), matrix: Sequence[int] = UPRIGHT
) -> tuple[Affine, tuple[int, int]]:
    """How coded pixels land on an upright picture with square pixels.

    Pixels that are not square are widened or heightened, never shrunk. Turns are rounded to quarter turns.

    Args:
        width, height: of the coded picture.
        aspect: width of a pixel over its height.
        matrix: FFmpeg's display matrix.

    Returns:
        The affine float64[2, 3] from coded to display pixels, and (width, height) of the display.
    """
    turn = np.array([[matrix[0], matrix[3]], [matrix[1], matrix[4]]], np.float64) / 65536
    straight = abs(turn[0, 0]) + abs(turn[1, 1]) >= abs(turn[0, 1]) + abs(turn[1, 0])
    kept = np.eye(2) if straight else np.array([[0.0, 1.0], [1.0, 0.0]])
    turn = np.where(turn < 0, -1.0, 1.0) * kept
    if aspect <= 0:
        aspect = Fraction(1)
    linear = turn @ np.diag([max(float(aspect), 1.0), max(1.0 / float(aspect), 1.0)])
    edges = linear @ np.array([[0.0, width], [0.0, height]])
    extent, shift = np.abs(edges[:, 1]), -np.minimum(edges[:, 1], 0.0)
    offset = linear @ np.array([0.5, 0.5]) + shift - 0.5
    size = (max(1, round(float(extent[0]))), max(1, round(float(extent[1]))))
    return np.hstack([linear, offset[:, None]]), size


def from_display(transform: Affine, width: int, height: int) -> tuple[Fraction, tuple[int, ...]]:
    """Undoes `to_display`: the sample aspect ratio and FFmpeg's display matrix that a file needs.

    Args:
        transform: as `to_display` made it.
        width, height: of the coded picture.
    """
    x_scale, y_scale = np.linalg.norm(transform[:, :2], axis=0)
    aspect = Fraction(float(x_scale / y_scale)).limit_denominator(10000)
    turn = np.rint(transform[:, :2] / [x_scale, y_scale]).astype(int)
    shift = -np.minimum(turn @ np.array([width * float(aspect), height]), 0.0)
    one, (x, y) = 1 << 16, (round(v * (1 << 16)) for v in shift)
    matrix = (turn[0, 0] * one, turn[1, 0] * one, 0, turn[0, 1] * one, turn[1, 1] * one, 0, x, y, 1 << 30)
    return aspect, tuple(int(v) for v in matrix)
