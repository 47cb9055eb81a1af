"""The aligner: eyes, bridge and nose tip of one face, where a tracker or a finder expects it, masked or not.

A small network of our own (`trainer.aligner`), a fifth of the mesh's time or less; it follows turned and masked faces
on which the mesh gives up.
"""

from __future__ import annotations

import json
import math
from collections import deque
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask_rt import align
from unmask_rt.align import Affine, Image, Points, apply, compose, corners, invert, scale_of
from unmask_rt.errors import ModelError
from unmask_rt.faces.pose import Pose, difference, distance, mixed, pose_of, profile_pose, side_of
from unmask_rt.faces.window import window_of
from unmask_rt.ort import ort

METADATA_KEY = "unmask_rt.aligner"
NOSE_TIP = 4
"""Which point of the mesh the nose tip is."""
NO_FACE = 0.05
"""`Aligned.sure` below which there is nothing to tell."""
FAR, FAR_ROLL = 0.10, math.radians(12)
"""A face that lies further (`tracker.distance`) from where it was expected, or is turned more, is looked at once more
where it was found: the network is most exact in the middle of its crop."""
WINDOWS, NEAR, NEAR_SIZE = 12, 0.03, 0.06
"""How many windows are remembered at least, and how far off one a face may be expected and still be looked through it:
in place (canonical sides), in size (logarithm) and roll (radians)."""
ASIDE = 50.0, align.PROFILE
"""Degrees up to which the anchors place a head, and from which eyes and nose tip place it as a profile."""


@dataclass(frozen=True, slots=True)
class Aligned:
    """One face as the aligner sees it.

    Attributes:
        anchors: float32[6, 2], pixels of the picture, order of `align.MESH_ANCHORS`.
        nose: float32[2], pixels of the picture: the nose tip, point 4 of the mesh. Under a mask it is a guess.
        confidence: float32[7], 0..1 for the anchors and the nose tip: how likely the point lies within 4.5 % of the
            distance of the outer eye corners.
        sure: 0..1, that there is a face, upright in the crop, and that its anchors are right.
        yaw: degrees that the head is turned, positive towards the picture's right.
        masked: 0..1, that a mask is worn.
    """

    anchors: Points
    nose: NDArray[np.float32]
    confidence: NDArray[np.float32]
    sure: float
    yaw: float
    masked: float

    @property
    def pose(self) -> Pose:
        """Where the tool cuts the crop (`placed`)."""
        return placed(self.anchors, self.nose, self.yaw)


def placed(anchors: Points, nose: NDArray[np.float32], yaw: float) -> Pose:
    """The pose of a head turned by ``yaw`` degrees: that of its anchors, as large as a turned head needs it
    (`align.MOST_TURNED`); of a profile, whose eyes say little, `profile_pose`; between the two of both.

    Args:
        anchors: float32[6, 2], pixels.
        nose: float32[2], the nose tip.
        yaw: positive towards the picture's right.

    Raises:
        ValueError: the points coincide.
    """
    turned = abs(yaw)
    if turned >= ASIDE[1]:
        return profile_pose(anchors, nose, yaw)
    pose = pose_of(anchors)
    pose[2] += math.log(min(max(1.0, 1 / math.cos(math.radians(turned)) / align.TURN_ALLOWED), align.MOST_TURNED))
    if turned <= ASIDE[0]:
        return pose
    return mixed(pose, profile_pose(anchors, nose, yaw), (turned - ASIDE[0]) / (ASIDE[1] - ASIDE[0]))


class Aligner:
    """The aligner behind one call.

    Args:
        model: the bytes of ``aligner.onnx`` (already checked against their SHA-256).
        threads: threads of the network; one is fastest, it is so small.
        steady: for video, how many faces are looked at in turn: one that is expected almost where a window was cut
            before is looked at through that very window. Else noise would move the window, and the window the points:
            still faces would tremble twice as much. What a call returns then depends, by as little as that, on the
            calls before. 0: each call by itself.

    Raises:
        ModelError: the bytes are no such model.
    """

    def __init__(self, model: bytes, *, threads: int = 1, steady: int = 0) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            about = json.loads(self._session.get_modelmeta().custom_metadata_map[METADATA_KEY])
            self._size, self._zoom = int(about["crop_size"]), float(about["zoom"])
        except Exception as error:  # ONNX Runtime raises classes of its own for each kind of damage
            raise ModelError(f"The aligner's model cannot be loaded: {error}", "Install unmask-rt again.") from error
        self._input = self._session.get_inputs()[0].name
        self._windows: deque[Pose] = deque(maxlen=max(WINDOWS, steady + 4) if steady else 0)

    def __call__(self, rgb: Image, expected: Pose) -> Aligned | None:
        """Aligns one face.

        Args:
            rgb: uint8[H, W, 3], at least 16 pixels high and wide.
            expected: where the face should be, pixels of ``rgb``: off by a third of its width at most.

        Returns:
            The face, or None where there is none.
        """
        aligned = self._look(rgb, expected)
        if aligned is None:
            return None
        try:
            pose = aligned.pose
            if distance(pose, expected) > FAR or abs(difference(pose, expected)[3]) > FAR_ROLL:
                again = self._look(rgb, pose)
                aligned = again if again is not None and again.sure >= aligned.sure else aligned
                _ = aligned.pose
        except ValueError:  # points that coincide are no face
            return None
        return aligned

    def close(self) -> None:
        """Nothing is held that Python does not free; here for the sake of the other finders' shape."""

    def _look(self, rgb: Image, expected: Pose) -> Aligned | None:
        height, width = rgb.shape[:2]
        margin = side_of(expected) / 4
        if not (-margin < expected[0] < width + margin and -margin < expected[1] < height + margin):
            return None  # the eyes are not in the picture
        to_window = window_of(self._steadied(expected), self._size, self._zoom)
        crop = quick_cut(rgb, to_window, self._size)
        points, confidence, face = (out[0] for out in self._session.run(None, {self._input: crop[None]}))
        sure, yaw, masked = (float(value) for value in face)
        if not sure >= NO_FACE:  # also where it is no number
            return None
        points = apply(invert(to_window), points)
        return Aligned(points[:6], points[6], confidence, sure, yaw, masked)

    def _steadied(self, expected: Pose) -> Pose:
        """The pose of a window that was cut before and still fits, else the expected one, which is remembered."""
        for k, pose in enumerate(self._windows):
            off = np.abs(difference(expected, pose))
            if off[:2].max() < NEAR * side_of(pose) and off[2:4].max() < NEAR_SIZE:
                del self._windows[k]  # to the front, so that those in use are forgotten last
                self._windows.appendleft(pose)
                return pose
        self._windows.appendleft(expected.copy())
        return expected


def quick_cut(rgb: Image, to_window: Affine, size: int) -> Image:
    """As `window.cut`, but shrinks large faces by halves only: several times faster and a little less exact.

    Args:
        rgb: uint8[H, W, 3].
        to_window: picture to window.
        size: side of the window in pixels.

    Returns:
        uint8[size, size, 3]; what lies outside the picture repeats its border.
    """
    edges = corners(to_window, size)
    times = max(0, round(-math.log2(max(scale_of(to_window), 1e-3)) - 0.3))
    times = min(times, min(rgb.shape[:2]).bit_length() - 2)  # two pixels have to be left
    unit = 1 << times
    limit = np.array([rgb.shape[1], rgb.shape[0]])
    low = np.clip(np.floor(edges.min(axis=0) - 2 * unit), 0, np.maximum(limit - 2 * unit, 0)).astype(int)
    high = np.clip(np.ceil(edges.max(axis=0) + 2 * unit), low + np.minimum(2 * unit, limit), limit).astype(int)
    high -= (high - low) % unit
    part = rgb[low[1] : high[1], low[0] : high[0]]
    for _ in range(times):
        part = np.asarray(cv2.resize(part, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
    grow = np.array([[unit, 0.0, low[0] + (unit - 1) / 2], [0.0, unit, low[1] + (unit - 1) / 2]])
    matrix = compose(to_window, grow)
    return np.asarray(
        cv2.warpAffine(part, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )
