"""Finds and follows faces from one picture of a video to the next, without looking ahead.

Works in pixels of the preview: mesh first, CenterFace where it fails, optical flow in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from unmask_rt.align import Image
from unmask_rt.faces.centerface import CenterFace
from unmask_rt.faces.flow import follow
from unmask_rt.faces.look import ZOOMS, finder_find, is_face, mesh_find, mesh_inside
from unmask_rt.faces.mesh import FaceMesh
from unmask_rt.faces.motion import CutDetector
from unmask_rt.faces.pose import Find, Pose, difference, mixed, side_of
from unmask_rt.faces.tracker import Tracker

VIDEO_SIDE = 320
"""Longest side for CenterFace in video: masked faces from 5 % of it up are found as often as at any larger size."""
SEARCH_FRAMES, WATCH_FRAMES, AGAIN_FRAMES = 5, 15, 3
"""Frames between looks of the finder: while a face is missing, while all are well, and at the least."""
CARRY_S = 1.0
"""How long flow alone may carry a face."""
HOLD_S = 0.1
"""How long a face keeps its place when even flow has lost it."""
TRUST = 0.3
"""How far one look of the finder, 8 % of the eyes' distance off, may pull a face that flow carries smoothly."""


@dataclass(frozen=True, slots=True)
class Sight:
    """One track in one picture.

    Attributes:
        find: where it is and who says so.
        pull: what a look moved it by against where flow had carried it, or None where flow had no say.
    """

    find: Find
    pull: Pose | None = None


class VideoLooker:
    """Finds and follows the faces of a video.

    One face alone is followed by the mesh's own video mode, the fastest and the smoothest. Whoever it misses, and
    everybody once there are two, is looked at in an upright window around the place where flow expects them: there the
    mesh sees half as many masked faces again. Every few pictures CenterFace looks for what is missing.

    Attributes:
        tracker: the tracks, also those out of view.
    """

    def __init__(self, face_model: bytes, finder_model: bytes, max_faces: int) -> None:
        self._mesh = FaceMesh(face_model, max_faces=1, video=True)
        self._close_up = FaceMesh(face_model, max_faces=1, video=False)
        self._finder = CenterFace(finder_model)
        self._is_cut = CutDetector()
        self._before: Image | None = None
        self._visible: dict[int, Sight] = {}
        self._zoom: dict[int, int] = {}
        self._idle_frames = WATCH_FRAMES
        self.tracker = Tracker(max_faces)

    def __call__(self, rgb: Image, grey: Image, time_s: float, min_side: float) -> tuple[dict[int, Sight], bool]:
        """Looks at the next picture.

        Args:
            rgb: uint8[H, W, 3].
            grey: uint8[H, W], its luma.
            time_s: presentation time in seconds.
            min_side: smallest crop side of a new face, pixels.

        Returns:
            Track id -> sight for everybody in view, and True if a new shot begins here.
        """
        cut = self._is_cut(grey) or (self._before is not None and self._before.shape != grey.shape)
        if cut:
            self.tracker.reset()
            self._visible.clear()
            self._zoom.clear()
        self.tracker.expire(time_s)
        sights: dict[int, Sight] = {}
        if len(self._visible) <= 1:
            self._look_alone(rgb, time_s, min_side, sights)
        carried = self._carry(grey, time_s, sights)
        for i in self._visible:
            if i in self.tracker.tracks and i not in sights:
                self._look_closely(rgb, i, carried.get(i), time_s, sights)
        self._idle_frames += 1
        if self._finder_is_due(cut, sights, carried):
            self._idle_frames = 0
            self._search(rgb, time_s, min_side, sights, carried)
        self._hold(time_s, sights, carried)
        self._before, self._visible = grey, sights
        return sights, cut

    def close(self) -> None:
        """Frees the native graphs; calling it twice is harmless."""
        self._mesh.close()
        self._close_up.close()

    def _look_alone(self, rgb: Image, time_s: float, min_side: float, sights: dict[int, Sight]) -> None:
        finds = [f for f in map(mesh_find, self._mesh(rgb, round(time_s * 1000))) if f is not None]
        matched, strangers = self.tracker.match(finds, {i: t.last.pose for i, t in self.tracker.tracks.items()})
        for i, find in matched.items():
            self._place(i, Sight(find), time_s, sights)
        for find in strangers:
            if side_of(find.pose) >= min_side:
                self._begin(find, is_face(self._finder, rgb, find), time_s, sights)

    def _carry(self, grey: Image, time_s: float, sights: dict[int, Sight]) -> dict[int, Pose]:
        """Flow's word on everybody who was in view a picture ago and is not found yet in this one."""
        carried: dict[int, Pose] = {}
        for i, sight in self._visible.items():
            if i in sights or i not in self.tracker.tracks or self._before is None or sight.find.found_by == "held":
                continue
            pose = follow(self._before, grey, sight.find.pose)
            if pose is not None:
                carried[i] = pose
        return carried

    def _look_closely(self, rgb: Image, i: int, carried: Pose | None, time_s: float, sights: dict[int, Sight]) -> None:
        """One look of the mesh where a track should be; the zoom changes whenever it finds nothing."""
        expected = self.tracker.tracks[i].last.pose if carried is None else carried
        turn = self._zoom.get(i, 0)
        find = mesh_inside(self._close_up, rgb, expected, (ZOOMS[turn % len(ZOOMS)],))
        if find is None:
            self._zoom[i] = turn + 1
            return
        self._place(i, Sight(find, None if carried is None else difference(find.pose, carried)), time_s, sights)

    def _finder_is_due(self, cut: bool, sights: dict[int, Sight], carried: dict[int, Pose]) -> bool:
        if cut:
            return True
        missing = [i for i in self._visible if i in self.tracker.tracks and i not in sights]
        if any(i not in carried or i not in self.tracker.confirmed for i in missing):
            return self._idle_frames >= AGAIN_FRAMES
        if any(self._visible[i].find.found_by in ("mesh", "finder") for i in missing):  # lost just now
            return self._idle_frames >= AGAIN_FRAMES
        if missing or not sights:
            return self._idle_frames >= SEARCH_FRAMES
        return self._idle_frames >= WATCH_FRAMES

    def _search(
        self, rgb: Image, time_s: float, min_side: float, sights: dict[int, Sight], carried: dict[int, Pose]
    ) -> None:
        """CenterFace looks at the whole picture: supports tracks that the mesh has lost, and begins new ones."""
        finds = [f for f in map(finder_find, self._finder(rgb, VIDEO_SIDE)) if f is not None]
        expected = {i: t.last.pose for i, t in self.tracker.tracks.items()}
        expected |= carried | {i: s.find.pose for i, s in sights.items()}
        matched, strangers = self.tracker.match(finds, expected)
        for i, coarse in matched.items():
            if i in sights:
                continue
            find = mesh_inside(self._close_up, rgb, coarse.pose, ZOOMS) or coarse
            flowed = carried.get(i)
            if flowed is not None and find.found_by == "finder":
                find = Find(mixed(flowed, find.pose, TRUST), "finder", find.confidence)
            self._place(i, Sight(find, None if flowed is None else difference(find.pose, flowed)), time_s, sights)
        for coarse in strangers:
            if side_of(coarse.pose) >= min_side:
                find = mesh_inside(self._close_up, rgb, coarse.pose, ZOOMS) or coarse
                sure = find.found_by == "mesh" or is_face(self._finder, rgb, find)
                self._begin(find, sure, time_s, sights)
        for i in carried:
            if i not in sights and i in self.tracker.tracks:
                self.tracker.tracks[i].denied += 1

    def _hold(self, time_s: float, sights: dict[int, Sight], carried: dict[int, Pose]) -> None:
        """Places those that nobody saw where flow carried them, or for a moment where they were."""
        for i in self._visible:
            track = self.tracker.tracks.get(i)
            if i in sights or track is None:
                continue
            alone_s = time_s - track.supported_s
            if i in carried and alone_s <= CARRY_S and track.denied < 2:
                self._place(i, Sight(Find(carried[i], "flow", track.last.confidence * 0.97)), time_s, sights)
            elif i not in carried and alone_s <= HOLD_S:
                sights[i] = Sight(Find(track.last.pose, "held", track.last.confidence * 0.8))

    def _place(self, i: int, sight: Sight, time_s: float, sights: dict[int, Sight]) -> None:
        self.tracker.place(self.tracker.tracks[i], sight.find, time_s)
        sights[i] = sight

    def _begin(self, find: Find, sure: bool, time_s: float, sights: dict[int, Sight]) -> None:
        track = self.tracker.begin(find, time_s, sure=sure, visible={i: s.find.pose for i, s in sights.items()})
        for i in [i for i in sights if i not in self.tracker.tracks]:  # whoever had to give way
            del sights[i]
        if track is not None:
            sights[track.id] = Sight(find)
