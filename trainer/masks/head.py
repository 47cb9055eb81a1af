"""The frame in which masks are placed: mesh points by face heights, curves through them, the outline of a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Points = NDArray[np.floating[Any]]
"""Points on their way to an outline, in single or double precision."""
Rng = np.random.Generator

CHIN = 152


@dataclass(frozen=True, slots=True)
class Style:
    """What one drawn mask looks like; every length is a share of the face's height (bridge to chin).

    Attributes:
        colour: float32[3], RGB albedo 0..1.
        top: how far up the nose the upper edge sits: 0 nose tip, 1 between the eyes.
        side: how far out the side edges sit: 0 mid-cheek, 1 at the jaw line.
        drop: how far the lower edge hangs below the chin.
        noise: strength of the weave.
        folds: strength of wrinkles.
        straps: (upper, lower) thickness of ear loops or bands, 0 for none.
        strap_colour: float32[3] 0..1.
        opacity: 0..1 of the cloth itself.
    """

    colour: Floats
    top: float
    side: float
    drop: float
    noise: float
    folds: float
    straps: float
    strap_colour: Floats
    opacity: float = 1.0


class Head:
    """Mesh points in a frame whose y axis runs from the nose bridge to the chin; lengths in face heights."""

    def __init__(self, mesh: Floats) -> None:
        mesh = np.asarray(mesh, np.float32)
        origin, chin = mesh[168], mesh[CHIN]
        eyes = mesh[263] - mesh[33]
        axis = chin - origin
        across = np.array([axis[1], -axis[0]], np.float32)
        if float(across @ eyes) < 0:
            across = -across
        self.height = max(float(np.hypot(*axis)), 1e-3)
        direction = across / max(float(np.hypot(*across)), 1e-3) + eyes / max(float(np.hypot(*eyes)), 1e-3)
        right = direction / max(float(np.hypot(*direction)), 1e-3)
        down = np.array([-right[1], right[0]], np.float32)
        if float(down @ axis) < 0:  # the mesh of a mirrored picture that kept its indices
            down = -down
        self.rotation = np.array([right, down], np.float32)
        self.origin = origin
        self.points = (mesh - origin) @ self.rotation.T / self.height

    def __getitem__(self, index: int) -> Floats:
        return np.asarray(self.points[index])

    def to_picture(self, points: Floats) -> Floats:
        """float32[K, 2] of the head's frame in picture pixels."""
        return np.asarray(points @ self.rotation * self.height + self.origin, np.float32)

    def from_grid(self, x0: int, y0: int, x1: int, y1: int) -> tuple[Floats, Floats]:
        """The head's x and y at each pixel of a rectangle, two float32[H, W]."""
        xs = np.arange(x0, x1, dtype=np.float32) - self.origin[0]
        ys = np.arange(y0, y1, dtype=np.float32)[:, None] - self.origin[1]
        r = self.rotation / self.height
        return xs * r[0, 0] + ys * r[0, 1], xs * r[1, 0] + ys * r[1, 1]


def mix(a: Points, b: Points, share: float) -> Points:
    """The point ``share`` of the way from ``a`` to ``b``."""
    return a + (b - a) * np.float32(share)


def shifted(point: Points, x: float, y: float) -> Points:
    return point + np.array([x, y])


def smooth_curve(points: list[Points], steps: int = 8) -> Floats:
    """Centripetal-like Catmull-Rom spline through points, float32[K, 2]."""
    p = np.array([2 * points[0] - points[1], *points, 2 * points[-1] - points[-2]], np.float32)
    t = (np.arange(steps, dtype=np.float32) / steps)[:, None, None]
    a, b, c, d = p[:-3], p[1:-2], p[2:-1], p[3:]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.asarray(np.vstack([curve.transpose(1, 0, 2).reshape(-1, 2), p[-2:-1]]), np.float32)


@dataclass(frozen=True, slots=True)
class Outline:
    """Upper and lower edge of a mask from the picture's left to its right, float32[K, 2] in the head's frame."""

    top: Floats
    bottom: Floats

    @property
    def polygon(self) -> Floats:
        return np.vstack([self.top, self.bottom[::-1]])
