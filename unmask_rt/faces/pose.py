"""Where a face lies in a picture: poses, what can be done with them, and finds, which say who saw a pose."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unmask_rt.align import TEMPLATE, Affine, Points, apply, invert, similarity
from unmask_rt.frames import FoundBy

Pose = NDArray[np.float64]
"""float64[16], where a face lies in a picture: x and y of the anchors' centre (pixels), natural logarithm of the side
of the canonical crop (pixels), roll (radians), and how the six anchors deviate from the template (crop sides). Poses
can be mixed and filtered number by number, anchors cannot: a filter on points would let the crop breathe."""

Box = tuple[float, float, float, float]

_TEMPLATE = np.asarray(TEMPLATE - 0.5, np.float64)
_CENTRE = _TEMPLATE.mean(axis=0)
_FACE = np.array([[0.18, 0.08], [0.82, 0.08], [0.82, 0.86], [0.18, 0.86]]) - 0.5
"""The face from forehead to chin in the canonical crop, median of some thousand meshes."""
_EYES_TO_NOSE = math.radians(43.5)
"""How far below the horizontal the nose tip of a profile lies, seen from its eyes: of the mean head, 62 to 80 degrees
aside, level to 20 degrees down."""
_PROFILE_SIDE, _PROFILE_BACK = 4.2, 0.20
"""Side of a profile's crop, and how far behind its eyes the crop's middle lies, in distances of eyes and nose tip. Of
the mean head the first is 3.68 (`align.PROFILE_HIGH`, as in training); real masks stand off further than drawn ones."""


def pose_of(anchors: Points) -> Pose:
    """The pose of six anchors, float[6, 2] pixels in the order of `align.MESH_ANCHORS`.

    Raises:
        ValueError: the anchors coincide.
    """
    to_crop = similarity(anchors, _TEMPLATE.astype(np.float32))
    x, y = apply(invert(to_crop), _CENTRE[None])[0]
    a, b = to_crop[0, 0], to_crop[1, 0]
    residual = np.asarray(anchors, np.float64) @ to_crop[:, :2].T + to_crop[:, 2] - _TEMPLATE
    return np.array([x, y, -0.5 * math.log(a * a + b * b), -math.atan2(b, a), *residual.ravel()])


def profile_pose(anchors: Points, nose: NDArray[np.float32], yaw: float) -> Pose:
    """The pose of a head in profile: upright along the line from its eyes to its nose tip, whose length is its size.

    That is where `faces.look` puts a profile that the finder sees, and where training cuts one, by the box around it,
    but for its size (`_PROFILE_SIDE`).

    Args:
        anchors: float[6, 2] pixels, order of `align.MESH_ANCHORS`.
        nose: float[2] pixels, the nose tip.
        yaw: degrees, of which the sign counts: positive where the nose points to the picture's right.

    Raises:
        ValueError: eyes and nose tip coincide.
    """
    eyes = np.asarray(anchors[:4], np.float64).mean(axis=0)
    way = math.copysign(1.0, yaw)
    ahead, down = np.asarray(nose, np.float64) - eyes
    length = math.hypot(ahead, down)
    if length < 1e-3:
        raise ValueError("the eyes of a profile and its nose coincide")
    roll = way * (math.atan2(down, way * ahead) - _EYES_TO_NOSE)
    pose = np.zeros(16)
    pose[2:4] = math.log(length * _PROFILE_SIDE), wrapped(roll)
    back = -way * _PROFILE_BACK * length
    pose[:2] = eyes + back * np.array([math.cos(roll), math.sin(roll)])
    return pose


def to_picture(pose: Pose) -> Affine:
    """Affine from the canonical crop (side 1, its centre at the origin) to the picture."""
    side, roll = math.exp(pose[2]), pose[3]
    linear = side * np.array([[math.cos(roll), -math.sin(roll)], [math.sin(roll), math.cos(roll)]])
    return np.hstack([linear, (pose[:2] - linear @ _CENTRE)[:, None]])


def anchors_of(pose: Pose) -> Points:
    """float32[6, 2] pixels; the inverse of `pose_of`."""
    return apply(to_picture(pose), (_TEMPLATE + pose[4:].reshape(6, 2)).astype(np.float32))


def box_of(pose: Pose) -> Box:
    """(x0, y0, x1, y1) pixels, the whole face from forehead to chin."""
    points = apply(to_picture(pose), _FACE.astype(np.float32))
    (x0, y0), (x1, y1) = points.min(axis=0), points.max(axis=0)
    return float(x0), float(y0), float(x1), float(y1)


def side_of(pose: Pose) -> float:
    """Side of the canonical crop in pixels; a frontal face fills about three quarters of it."""
    return math.exp(pose[2])


def moved(pose: Pose, motion: Affine) -> Pose:
    """The pose after the picture moved by a similarity."""
    a, b = motion[0, 0], motion[1, 0]
    out = pose.copy()
    out[:2] = motion[:, :2] @ pose[:2] + motion[:, 2]
    out[2] += 0.5 * math.log(a * a + b * b)
    out[3] = wrapped(out[3] + math.atan2(b, a))
    return out


def difference(pose: Pose, base: Pose) -> Pose:
    """What to add to ``base`` to get ``pose``, the short way round the circle."""
    out = pose - base
    out[3] = wrapped(out[3])
    return out


def mixed(first: Pose, second: Pose, share: float) -> Pose:
    """Between two poses: ``share`` 0 is the first, 1 the second."""
    return first + share * difference(second, first)


def distance(first: Pose, second: Pose) -> float:
    """How unlike two poses are: centres apart in crop sides, plus half the log of the size ratio."""
    side = math.exp((first[2] + second[2]) / 2)
    return float(np.hypot(*(first[:2] - second[:2])) / side + 0.5 * abs(first[2] - second[2]))


def wrapped(angle: float) -> float:
    """The same angle within half a turn of zero, radians."""
    return math.remainder(angle, math.tau)


@dataclass(frozen=True, slots=True)
class Find:
    """One face found in one picture, not yet anybody's.

    Attributes:
        pose: where it is, pixels of the picture that was looked at.
        found_by: who saw it.
        confidence: 0..1.
        masked: 0..1, whether a mask is worn, where the aligner looked.
    """

    pose: Pose
    found_by: FoundBy
    confidence: float
    masked: float | None = None
