"""The find stage: every face of a frame, with a track id and smooth anchors in display pixels."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unmask_rt import planes
from unmask_rt.align import Image
from unmask_rt.faces.centerface import iou
from unmask_rt.faces.flow import follow
from unmask_rt.faces.look import StillLooker, grey_of
from unmask_rt.faces.motion import OneEuro
from unmask_rt.faces.pose import Find, Pose, anchors_of, box_of, distance, mixed
from unmask_rt.faces.sight import Sight
from unmask_rt.faces.tracker import MATCH, SEEN_BY, STRAY
from unmask_rt.faces.video import VideoLooker
from unmask_rt.frames import Face, Mode, Packet

VIDEO_PREVIEW = 1280
"""Most that the longest side of the picture searched in video may be. Larger ones are shrunk by a whole number, several
times faster than by any other factor; at half the size anchors differ by less than 1 % of the eyes' distance."""
STILL_PREVIEW = 1920
MIN_FACE = 30
"""Display pixels from forehead to chin below which a face is left alone."""
MIN_SIDE = MIN_FACE / 0.78
"""The same as the side of the canonical crop."""
LOOK_AHEAD_S = 0.5
LOOK_AHEAD_FRAMES = 30
"""Bound in frames, so that high frame rates do not fill the memory."""


@dataclass(slots=True)
class _Waiting:
    """A frame that waits for what the next ones tell about it.

    Attributes:
        packet: as it came.
        grey: luma of the preview.
        scale: display pixels for one preview pixel.
        cut: a new shot begins here.
        sights: track id -> sight, preview pixels.
    """

    packet: Packet
    grey: Image
    scale: float
    cut: bool
    sights: dict[int, Sight]


class FindStage:
    """Finds and follows faces.

    Args:
        face_model: bytes of ``face_landmarker.task``, hash checked.
        finder_model: bytes of ``centerface.onnx``, hash checked.
        aligner_model: bytes of ``aligner.onnx``, hash checked.
        max_faces: at most this many faces a frame, the largest ones.
        mode: "file" holds frames back for half a second, so that a face is followed back to its first frame and gaps
            are filled from both sides; "live" hands each frame on at once; "still" takes each frame for itself.

    Raises:
        ModelError: the finder's bytes are no such model.
    """

    name = "find"

    def __init__(
        self, face_model: bytes, finder_model: bytes, aligner_model: bytes, *, max_faces: int, mode: Mode
    ) -> None:
        self._mode = mode
        self._looker: StillLooker | VideoLooker
        if mode == "still":
            self._looker = StillLooker(face_model, finder_model, aligner_model, max_faces)
        else:
            self._looker = VideoLooker(face_model, finder_model, aligner_model, max_faces, live=mode == "live")
        self._waiting: deque[_Waiting] = deque()
        self._filters: dict[int, OneEuro] = {}

    def __call__(self, packet: Packet) -> Sequence[Packet]:
        """Takes the next packet; returns those whose faces are settled, oldest first."""
        if isinstance(self._looker, StillLooker):
            return [self._still(self._looker, packet)]
        rgb, shrink = planes.preview(packet.frame, _preview_side(max(packet.frame.display_size)))
        grey = grey_of(rgb)
        sights, cut = self._looker(rgb, grey, packet.frame.time_s, MIN_SIDE * shrink)
        self._waiting.append(_Waiting(packet, grey, 1 / shrink, cut, dict(sights)))
        if self._mode == "live":
            return self.flush()
        for i, sight in sights.items():
            if sight.find.found_by in SEEN_BY:
                self._look_back(i)
        return self._settle()

    def flush(self) -> Sequence[Packet]:
        """The packets still held back, oldest first."""
        out = [self._finished(waiting) for waiting in self._waiting]
        self._waiting.clear()
        return out

    def close(self) -> None:
        """Frees the native graphs; calling it twice is harmless."""
        self._looker.close()

    def _still(self, looker: StillLooker, packet: Packet) -> Packet:
        rgb, shrink = planes.preview(packet.frame, STILL_PREVIEW)
        finds = looker(rgb, MIN_SIDE * shrink)
        faces = tuple(_face(i, find, find.pose, 1 / shrink) for i, find in enumerate(finds, 1))
        return replace(packet, faces=faces)

    def _look_back(self, track: int) -> None:
        """Uses a fresh look at a track to mend its past: spreads flow's drift, follows it back, fills the gap."""
        now = len(self._waiting) - 1
        pull = self._waiting[now].sights[track].pull
        if pull is not None:
            # Flow has drifted by this much since the last look: each frame in between takes its share.
            first = now
            while first > 0 and self._by_flow(first - 1, track) and not self._waiting[first].cut:
                first -= 1
            for k in range(first, now):
                find = self._waiting[k].sights[track].find
                share = (k - first + 1) / (now - first + 1)
                self._waiting[k].sights[track] = Sight(replace(find, pose=find.pose + share * pull))
        begin = now
        while begin > 0 and not self._waiting[begin].cut and not self._seen(begin - 1, track):
            previous, current = self._waiting[begin - 1], self._waiting[begin]
            before = self._one_back(current, previous, current.sights[track].find)
            if before is None or self._taken(previous, before.pose, track):
                break
            previous.sights[track] = Sight(before)
            begin -= 1
        self._fill(track, begin)

    def _one_back(self, current: _Waiting, previous: _Waiting, find: Find) -> Find | None:
        """A face of one frame in the frame before it: by flow, and by the aligner where it is sure."""
        assert isinstance(self._looker, VideoLooker)
        pose = follow(current.grey, previous.grey, find.pose)
        frame = previous.packet.frame
        rgb, _ = planes.preview(frame, _preview_side(max(frame.display_size)))
        aligned = self._looker.align(rgb, find.pose if pose is None else pose)
        if aligned is not None:
            return aligned
        return None if pose is None else replace(find, pose=pose, found_by="flow")

    def _fill(self, track: int, end: int) -> None:
        """Interpolates a track over the frames before ``end`` where it was neither found nor carried."""
        start = end - 1
        while start >= 0 and not self._seen(start, track):
            if self._waiting[start + 1].cut:
                return
            start -= 1
        if start < 0 or self._waiting[start + 1].cut:
            return
        first, last = self._waiting[start], self._waiting[end]
        begin_s, end_s = first.packet.frame.time_s, last.packet.frame.time_s
        a, b = first.sights[track].find, last.sights[track].find
        if distance(a.pose, b.pose) > MATCH + STRAY * (end_s - begin_s):  # gone, and back elsewhere
            return
        confidence = 0.5 * min(a.confidence, b.confidence)
        for waiting in list(self._waiting)[start + 1 : end]:
            share = (waiting.packet.frame.time_s - begin_s) / max(end_s - begin_s, 1e-6)
            pose = mixed(a.pose, b.pose, share)
            if not self._taken(waiting, pose, track):
                waiting.sights[track] = Sight(Find(pose, "held", confidence))

    def _seen(self, k: int, track: int) -> bool:
        """Whether a held frame shows the track somewhere better than where it happened to be last."""
        sight = self._waiting[k].sights.get(track)
        return sight is not None and sight.find.found_by != "held"

    def _by_flow(self, k: int, track: int) -> bool:
        sight = self._waiting[k].sights.get(track)
        return sight is not None and sight.find.found_by == "flow"

    @staticmethod
    def _taken(waiting: _Waiting, pose: Pose, track: int) -> bool:
        box = box_of(pose)
        return any(i != track and iou(box, box_of(s.find.pose)) > 0.3 for i, s in waiting.sights.items())

    def _settle(self) -> list[Packet]:
        """Hands on the frames that are older than the look-ahead."""
        out = []
        newest_s = self._waiting[-1].packet.frame.time_s
        while newest_s - self._waiting[0].packet.frame.time_s >= LOOK_AHEAD_S or len(self._waiting) > LOOK_AHEAD_FRAMES:
            out.append(self._finished(self._waiting.popleft()))
        return out

    def _finished(self, waiting: _Waiting) -> Packet:
        assert isinstance(self._looker, VideoLooker)
        sights = {i: s for i, s in waiting.sights.items() if i in self._looker.tracker.confirmed}
        self._filters = {i: self._filters.get(i) or OneEuro() for i in sights}
        faces = []
        for i, sight in sorted(sights.items()):
            pose = self._filters[i](sight.find.pose, waiting.packet.frame.time_s)
            faces.append(_face(i, sight.find, pose, waiting.scale))
        return replace(waiting.packet, faces=tuple(faces), cut=waiting.cut)


def _preview_side(longest: int) -> int:
    return round(longest / math.ceil(longest / VIDEO_PREVIEW))


def _face(track: int, find: Find, pose: Pose, scale: float) -> Face:
    """A find as a face; ``scale`` is display pixels for one preview pixel."""
    anchors = (anchors_of(pose) + 0.5) * scale - 0.5
    x0, y0, x1, y1 = ((edge + 0.5) * scale - 0.5 for edge in box_of(pose))
    return Face(track, anchors, (x0, y0, x1, y1), find.found_by, find.confidence, find.masked)
