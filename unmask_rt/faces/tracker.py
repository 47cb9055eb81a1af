"""Who is who from frame to frame: poses, matching, track ids, smoothing, and where a new shot begins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask_rt.align import TEMPLATE, Affine, Image, Points, apply, invert, similarity
from unmask_rt.faces.centerface import iou
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
    out[3] = _wrapped(out[3] + math.atan2(b, a))
    return out


def difference(pose: Pose, base: Pose) -> Pose:
    """What to add to ``base`` to get ``pose``, the short way round the circle."""
    out = pose - base
    out[3] = _wrapped(out[3])
    return out


def mixed(first: Pose, second: Pose, share: float) -> Pose:
    """Between two poses: ``share`` 0 is the first, 1 the second."""
    return first + share * difference(second, first)


def distance(first: Pose, second: Pose) -> float:
    """How unlike two poses are: centres apart in crop sides, plus half the log of the size ratio."""
    side = math.exp((first[2] + second[2]) / 2)
    return float(np.hypot(*(first[:2] - second[:2])) / side + 0.5 * abs(first[2] - second[2]))


def _wrapped(angle: float) -> float:
    return math.remainder(angle, math.tau)


@dataclass(frozen=True, slots=True)
class Find:
    """One face found in one picture, not yet anybody's.

    Attributes:
        pose: where it is, pixels of the picture that was looked at.
        found_by: who saw it.
        confidence: 0..1.
    """

    pose: Pose
    found_by: FoundBy
    confidence: float


@dataclass(slots=True)
class Track:
    """One person for as long as they can be followed.

    Attributes:
        id: from 1 on, never used twice.
        last: the latest place, by whatever means.
        seen_s: presentation time of ``last`` in seconds.
        supported_s: when mesh or finder last saw the face itself.
        denied: looks of the finder in a row that found nothing there.
    """

    id: int
    last: Find
    seen_s: float
    supported_s: float
    denied: int = 0


MATCH = 0.45
"""`distance` up to which a find belongs to a track: about three quarters of a face's width."""
MEMORY_S = 1.0
"""How long a lost track can come back under its old id."""
CONVINCING = 0.6
"""Confidence of the finder from which a second look settles a doubt."""
CROWDED = 1.3
"""When there are more faces than wanted, a newcomer has to be this much larger to take a track's place."""


class Tracker:
    """Gives finds their track ids.

    Args:
        max_faces: the most tracks in view at once; the largest faces win.

    Attributes:
        tracks: by id, those in view and those that may come back.
        confirmed: ids of all tracks, past ones too, that rest on more than one weak look.
    """

    def __init__(self, max_faces: int) -> None:
        self._max_faces = max_faces
        self._next = 1
        self.tracks: dict[int, Track] = {}
        self.confirmed: set[int] = set()

    def reset(self) -> None:
        """Forgets everybody (a new shot); ids are not used again."""
        self.tracks.clear()

    def expire(self, time_s: float) -> None:
        """Forgets tracks that were last placed more than `MEMORY_S` ago."""
        self.tracks = {i: t for i, t in self.tracks.items() if time_s - t.seen_s <= MEMORY_S}

    def match(self, finds: Sequence[Find], among: Mapping[int, Pose]) -> tuple[dict[int, Find], list[Find]]:
        """Pairs finds with tracks, nearest pair first.

        Args:
            finds: what was found in one picture.
            among: track id -> where the track is expected.

        Returns:
            Track id -> find, and the finds that are nobody's.
        """
        pairs = sorted((distance(f.pose, pose), i, k) for k, f in enumerate(finds) for i, pose in among.items())
        matched: dict[int, Find] = {}
        used: set[int] = set()
        for apart, i, k in pairs:
            if apart <= MATCH and i not in matched and k not in used:
                matched[i] = finds[k]
                used.add(k)
        return matched, [f for k, f in enumerate(finds) if k not in used]

    def place(self, track: Track, find: Find, time_s: float) -> None:
        """Moves a track to where it was found or carried to."""
        track.last, track.seen_s = find, time_s
        if find.found_by in ("mesh", "finder"):
            # A second look at a weak find, or the mesh at any time, makes it real.
            if time_s > track.supported_s and find.confidence >= CONVINCING:
                self.confirmed.add(track.id)
            track.supported_s, track.denied = time_s, 0

    def begin(self, find: Find, time_s: float, *, sure: bool, visible: Mapping[int, Pose]) -> Track | None:
        """Starts a track for a newcomer, or returns None if it is somebody already in view, or too many are.

        Args:
            find: the newcomer.
            time_s: presentation time in seconds.
            sure: False for a face that has to be seen again before it counts.
            visible: track id -> pose of those in view; whoever has to give way is dropped from `tracks`.
        """
        box = box_of(find.pose)
        if any(iou(box, box_of(pose)) > 0.3 for pose in visible.values()):
            return None
        present = [i for i in visible if i in self.tracks]
        if len(present) >= self._max_faces:
            smallest = min(present, key=lambda i: visible[i][2])
            if side_of(find.pose) < CROWDED * side_of(visible[smallest]):
                return None
            del self.tracks[smallest]
        track = Track(self._next, find, time_s, time_s)
        self._next += 1
        self.tracks[track.id] = track
        if sure:
            self.confirmed.add(track.id)
        return track


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
        self._pose[3] = _wrapped(self._pose[3])
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
