"""How faces move: smoothing, prediction, and where a new shot begins."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask_rt.align import Image
from unmask_rt.faces.pose import Pose, difference, side_of, wrapped


class Motion:
    """Constant velocity in the similarity's parameters (place in crop sides, log scale, angle), fading with time.

    Nobody goes on as they did for long: ahead of the last sight the velocity dies away with `FADE_S`.
    """

    FADE_S = 0.5
    SLOPE_HZ = 4.0
    """Cut-off frequency of the velocity itself."""

    def __init__(self) -> None:
        self.velocity = np.zeros(4)
        """Crop sides, crop sides, 1 and radians a second."""

    def learn(self, pose: Pose, before: Pose, step_s: float) -> None:
        """Takes in that a face went from ``before`` to ``pose`` within ``step_s`` seconds."""
        if step_s <= 0:
            return
        side = side_of(pose)
        speed = difference(pose, before)[:4] / np.array([side, side, 1.0, 1.0]) / step_s
        self.velocity += _share(self.SLOPE_HZ, step_s) * (speed - self.velocity)

    def ahead(self, pose: Pose, step_s: float) -> Pose:
        """Where a face at ``pose`` will be ``step_s`` seconds later."""
        reach_s = self.FADE_S * (1.0 - math.exp(-max(0.0, step_s) / self.FADE_S))
        side = side_of(pose)
        out = pose.copy()
        out[:4] += self.velocity * reach_s * np.array([side, side, 1.0, 1.0])
        out[3] = wrapped(out[3])
        return out


class OneEuro:
    """Smooths one track's pose: strongly at rest, hardly in motion.

    Casiez, Roussel, Vogel, "1 Euro Filter: A Simple Speed-based Low-pass Filter for Noisy Input in Interactive
    Systems", CHI 2012, with the real time between frames. Speed is measured in crop sides a second, so that near and
    far faces are treated alike; one speed rules the whole pose, so that its parts do not lag apart.

    Args:
        rest_hz: cut-off frequency at rest.
        speed_hz: how much the cut-off rises for a speed of one crop side a second.
        slope_hz: cut-off frequency of the speed itself.
    """

    def __init__(self, rest_hz: float = 0.8, speed_hz: float = 45.0, slope_hz: float = 2.0) -> None:
        self._rest_hz, self._speed_hz, self._slope_hz = rest_hz, speed_hz, slope_hz
        self._pose: Pose | None = None
        self._slope = np.zeros(4)
        self._time_s = 0.0

    def __call__(self, pose: Pose, time_s: float) -> Pose:
        """The smoothed pose at ``time_s`` (seconds, rising; a time that does not rise counts as a millisecond)."""
        if self._pose is None:
            self._pose, self._time_s = pose.copy(), time_s
            return pose
        step_s = max(time_s - self._time_s, 1e-3)
        self._time_s = time_s
        change = difference(pose, self._pose)
        units = np.array([side_of(pose), side_of(pose), 1.0, 1.0])
        self._slope += _share(self._slope_hz, step_s) * (change[:4] / units / step_s - self._slope)
        speed = float(np.linalg.norm(self._slope))
        self._pose = self._pose + _share(self._rest_hz + self._speed_hz * speed, step_s) * change
        self._pose[3] = wrapped(self._pose[3])
        return self._pose.copy()


def _share(cutoff_hz: float, step_s: float) -> float:
    """Weight of the new value in a first-order low-pass filter."""
    return 1.0 / (1.0 + 1.0 / (math.tau * cutoff_hz * step_s))


class CutDetector:
    """Tells where a new shot begins from thumbnails of consecutive pictures.

    A cut changes brightness at most places and leaves no likeness; a flash keeps likeness, motion keeps most places.
    """

    def __init__(self) -> None:
        self._last: NDArray[np.float32] | None = None

    def __call__(self, grey: Image) -> bool:
        """True if ``grey``, uint8[H, W], belongs to another shot than the picture before it."""
        step = max(1, min(grey.shape) // 128)
        thin = np.ascontiguousarray(grey[::step, ::step])
        thumb = np.asarray(cv2.resize(thin, (32, 32), interpolation=cv2.INTER_AREA), np.float32)
        last, self._last = self._last, thumb
        if last is None:
            return False
        if float(np.abs(thumb - last).mean()) < 12:
            return False
        a, b = thumb - thumb.mean(), last - last.mean()
        likeness = float((a * b).sum()) / (float(np.sqrt((a * a).sum() * (b * b).sum())) + 1e-6)
        return likeness < 0.6
