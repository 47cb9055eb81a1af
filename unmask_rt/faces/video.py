"""Finds and follows faces from one picture of a video to the next, without looking ahead.

Works in pixels of the preview. The aligner follows everybody from where they were last, moved on by their motion; flow
carries a face over pictures in which the aligner is not sure, the finder looks for whoever is missing, and the mesh
confirms one face after the other.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from unmask_rt.align import Image
from unmask_rt.faces.aligner import Aligner
from unmask_rt.faces.appearance import describe
from unmask_rt.faces.centerface import CenterFace
from unmask_rt.faces.flow import follow
from unmask_rt.faces.identity import Identities
from unmask_rt.faces.look import ZOOMS, align_find, finder_find, is_face, mesh_find, mesh_inside
from unmask_rt.faces.mesh import FaceMesh
from unmask_rt.faces.motion import CutDetector, Motion
from unmask_rt.faces.pose import Find, Pose, difference, distance, mixed, side_of
from unmask_rt.faces.seek import Answer, Aside, AtOnce, Question, Seeker
from unmask_rt.faces.sight import Picture, Sight
from unmask_rt.faces.tracker import CONVINCING, MATCH, MEMORY_S, SEEN_BY, Tracker

SEARCH_FRAMES, WATCH_FRAMES, AGAIN_FRAMES = 5, 15, 3
"""Frames between looks of the finder: while a face is missing, while all are well, and at the least."""
MESH_FRAMES = 24
"""Frames between looks of the mesh, at one face after the other."""
TAKE, KEEP, DOUBT = 0.75, 0.7, 0.85
"""How sure the aligner has to be to take up a face, and to go on following it; below the last the mesh is asked too."""
CARRY_S = 1.0
"""How long flow alone may carry a face."""
HOLD_S = 0.1
"""How long a face keeps its place when even flow has lost it."""
TRUST = 0.3
"""How far one look of the finder, 8 % of the eyes' distance off, may pull a face that flow carries smoothly."""
LEAP = 0.25
"""Change of a face's size (natural logarithm) from one picture to the next that is an error, not motion."""
TILT = math.radians(12)
"""The same of its roll, unless the aligner is sure (`CLEARLY`): it may take a profile for a tilted frontal face."""
COARSE = 1.25
"""How much larger a face may turn out to be than the finder says; one that is too small even so is not looked at."""
ASTRAY, OFF = 0.25, 0.08
"""`distance` of a track from what the finder, and (where the aligner is in doubt) the mesh sees, from which it is put
right."""
DENIED, CLEARLY = 3, 0.85
"""So many looks of the finder in a row that see nothing end a track, unless the aligner is that sure of it; as sure it
has to be of a face that rests on one weak look of the finder, which may be a neck above a gown."""


class VideoLooker:
    """Finds and follows the faces of a video.

    Args:
        face_model: bytes of ``face_landmarker.task``.
        finder_model: bytes of ``centerface.onnx``.
        aligner_model: bytes of ``aligner.onnx``.
        max_faces: at most so many at once.
        live: True lets the finder work in a thread of its own, so that it delays no picture; what it finds counts some
            pictures later. False waits for it: the same pictures give the same faces.

    Attributes:
        tracker: the tracks, also those out of view.
    """

    def __init__(
        self, face_model: bytes, finder_model: bytes, aligner_model: bytes, max_faces: int, *, live: bool
    ) -> None:
        self._mesh = FaceMesh(face_model, max_faces=1, video=False)
        self._aligner = Aligner(aligner_model, steady=max_faces)
        finder = CenterFace(finder_model)
        self._seeker: Seeker = Aside(finder) if live else AtOnce(finder)
        self._second_look = None if live else finder
        self._zooms = ZOOMS[:1] if live else ZOOMS
        self._is_cut = CutDetector()
        self._identities = Identities()
        self._before: Image | None = None
        self._visible: dict[int, Sight] = {}
        self._zoom: dict[int, int] = {}
        self._shot = 0
        self._idle_frames = WATCH_FRAMES
        self._unchecked_frames = 0
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
            self._identities.reset()
            self._visible, self._zoom = {}, {}
            self._shot += 1
            self._idle_frames = WATCH_FRAMES
        self.tracker.expire(time_s)
        self._visible = {i: s for i, s in self._visible.items() if i in self.tracker.tracks}
        now = Picture(rgb, grey, time_s, min_side, {}, {})
        for i in self._visible:
            self._follow(now, i)
        if not self._visible:
            self._look_around(now)
        self._seek(now)
        self._hold(now)
        self._tell_apart(now)
        self._confirm(now)
        for i, sight in now.sights.items():
            if sight.find.found_by != "held":
                self.tracker.place(self.tracker.tracks[i], sight.find, time_s)
        self._before, self._visible = grey, now.sights
        return now.sights, cut

    def align(self, rgb: Image, expected: Pose, enough: float = TAKE) -> Find | None:
        """The face that the aligner is sure (``enough``) to see where one is expected, or None."""
        find = align_find(self._aligner, rgb, expected)
        return find if find is not None and find.confidence >= enough else None

    def close(self) -> None:
        """Frees the native graphs; calling it twice is harmless."""
        self._seeker.close()
        self._mesh.close()
        self._aligner.close()

    def _follow(self, now: Picture, i: int) -> None:
        """Looks for somebody who was in view a picture ago: the aligner, then flow, then the mesh."""
        track, last = self.tracker.tracks[i], self._visible[i].find
        expected = track.expected(now.time_s)
        flowed = self._flowed(now, last) if last.found_by == "flow" else None
        enough = KEEP if last.found_by in SEEN_BY else TAKE
        if i not in self.tracker.confirmed:
            enough = CLEARLY
        find = self._step(now, expected if flowed is None else flowed, enough)
        if find is None:
            flowed = flowed if flowed is not None or last.found_by == "flow" else self._flowed(now, last)
            find = None if flowed is None else self._step(now, flowed, enough)
        if find is None or find.confidence < DOUBT:
            turn = self._zoom.get(i, 0)
            zoom = ZOOMS[turn % len(ZOOMS)]
            seen = mesh_inside(self._mesh, now.rgb, expected if flowed is None else flowed, (zoom,))
            self._zoom[i] = turn if seen is not None else turn + 1
            find = seen or find
        if find is not None:
            now.sights[i] = Sight(find, None if flowed is None else difference(find.pose, flowed))
        elif flowed is not None:
            now.carried[i] = flowed

    def _step(self, now: Picture, expected: Pose, enough: float) -> Find | None:
        """The aligner's next sight of somebody; None if it is not sure enough, or sees another size or tilt at once."""
        find = align_find(self._aligner, now.rgb, expected)
        if find is None or find.confidence < enough:
            return None
        return None if abs(find.pose[2] - expected[2]) > LEAP or _tilts(find, expected) else find

    def _flowed(self, now: Picture, last: Find) -> Pose | None:
        if self._before is None or last.found_by == "held":
            return None
        return follow(self._before, now.grey, last.pose)

    def _look_around(self, now: Picture) -> None:
        """Nobody is in view: the mesh looks at the whole picture, which costs little and delays nobody."""
        for find in [f for f in map(mesh_find, self._mesh(now.rgb)) if f is not None]:
            if side_of(find.pose) >= now.min_side:
                self._welcome(now, find, self.align(now.rgb, find.pose) is not None or self._looks_again(now, find))

    def _seek(self, now: Picture) -> None:
        """Asks the finder when that is due, and takes its answer when there is one."""
        self._idle_frames += 1
        self._take_answer(now)
        if self._seeker.busy or not self._is_due(now):
            return
        self._idle_frames = 0
        poses = {i: t.expected(now.time_s) for i, t in self.tracker.tracks.items() if i in self._visible} | now.poses()
        self._seeker.ask(Question(now.rgb, now.grey, now.time_s, self._shot, poses))
        self._take_answer(now)

    def _is_due(self, now: Picture) -> bool:
        missing = [i for i in self._visible if i not in now.sights]
        if any(i not in now.carried or i not in self.tracker.confirmed for i in missing):
            return self._idle_frames >= AGAIN_FRAMES
        if any(self._visible[i].find.found_by in SEEN_BY for i in missing):  # lost just now
            return self._idle_frames >= AGAIN_FRAMES
        tracks = self.tracker.tracks.values()
        gone = any(t.id not in self._visible and now.time_s - t.seen_s <= MEMORY_S for t in tracks)
        if missing or gone or not now.sights:
            return self._idle_frames >= SEARCH_FRAMES
        return self._idle_frames >= WATCH_FRAMES

    def _take_answer(self, now: Picture) -> None:
        answer = self._seeker.answer()
        if answer is not None and answer.question.shot == self._shot:
            self._search(now, answer)

    def _search(self, now: Picture, answer: Answer) -> None:
        """What the finder saw supports tracks that the aligner has lost, and begins new ones."""
        then = answer.question
        finds = [f for f in map(finder_find, answer.faces) if f is not None]
        among = {i: pose for i, pose in then.poses.items() if i in self.tracker.tracks}
        matched, strangers = self.tracker.match(finds, among)
        strayed = sorted(among.keys() - matched.keys())
        for i in strayed:  # whose size has gone astray is still there
            mine = next((f for f in strangers if _inside(f.pose, among[i])), None)
            if mine is not None:
                matched[i] = mine
                strangers.remove(mine)
        for i in among:
            self.tracker.tracks[i].denied = 0 if i in matched else self.tracker.tracks[i].denied + 1
        for i, coarse in matched.items():
            if coarse.confidence >= CONVINCING and then.time_s > self.tracker.tracks[i].begun_s:
                self.tracker.confirmed.add(i)
            if i not in now.sights or distance(among[i], coarse.pose) > ASTRAY:
                flowed = now.carried.get(i)
                find = self._refined(now, then, coarse, flowed, i in self.tracker.confirmed)
                if i in now.sights and find.found_by == "finder" and i not in strayed:
                    continue
                if flowed is not None and find.found_by == "finder":
                    find = Find(mixed(flowed, find.pose, TRUST), "finder", find.confidence)
                now.sights[i] = Sight(find, None if flowed is None else difference(find.pose, flowed))
        for coarse in sorted(strangers, key=lambda find: -side_of(find.pose)):
            side = side_of(coarse.pose)
            if side >= now.min_side and self.tracker.has_room(side * COARSE, now.poses()):
                find = self._refined(now, then, coarse, None, coarse.confidence >= CONVINCING)
                self._welcome(now, find, find.found_by != "finder" or self._looks_again(now, coarse))

    def _refined(self, now: Picture, then: Question, coarse: Find, flowed: Pose | None, real: bool) -> Find:
        """A find of the finder, carried from the picture that was asked about to now, by whoever sees it better;
        ``flowed`` is where flow has carried that face, if it has, and ``real`` is that there is no doubt of it."""
        if then.rgb is not now.rgb:
            carried = follow(then.grey, now.grey, coarse.pose)
            coarse = coarse if carried is None else replace(coarse, pose=carried)
        enough = TAKE if real else CLEARLY
        find = self.align(now.rgb, coarse.pose, enough)
        find = None if find is None else self.align(now.rgb, find.pose, enough)
        if find is not None and flowed is not None and _tilts(find, flowed):
            find = None
        return find or mesh_inside(self._mesh, now.rgb, coarse.pose, self._zooms) or coarse

    def _looks_again(self, now: Picture, find: Find) -> bool:
        """A second look of the finder, where there is time for one; live a face has to be seen again to count."""
        return self._second_look is not None and is_face(self._second_look, now.rgb, find)

    def _welcome(self, now: Picture, find: Find, sure: bool) -> None:
        """A face that is nobody's in view: somebody who is back, or a newcomer."""
        poses, tracks = now.poses(), self.tracker.tracks
        known = any(t.looks is not None and i not in poses for i, t in tracks.items())
        looks = describe(now.rgb, find.pose) if known and find.found_by != "finder" else None
        track = self.tracker.recall(find, looks, now.time_s, poses) if sure else None
        if track is not None and self.tracker.make_room(find, poses):
            if distance(find.pose, track.expected(now.time_s)) > MATCH:
                track.motion, track.last, track.seen_s = Motion(), find, now.time_s
            track.denied = 0
            now.sights[track.id] = Sight(find)
        elif track is None:
            track = self.tracker.begin(find, now.time_s, sure=sure, visible=poses)
            if track is not None:
                now.sights[track.id] = Sight(find)
        for i in [i for i in now.sights if i not in tracks]:  # whoever had to give way
            del now.sights[i]

    def _hold(self, now: Picture) -> None:
        """Places those that nobody saw where flow carried them, or for a moment where they should be."""
        for i in self._visible:
            track = self.tracker.tracks.get(i)
            if track is None:
                continue
            if i in now.sights:
                if track.denied >= DENIED and now.sights[i].find.confidence < CLEARLY:
                    del now.sights[i]
                continue
            alone_s = now.time_s - track.supported_s
            if i in now.carried and alone_s <= CARRY_S and track.denied < DENIED:
                now.sights[i] = Sight(Find(now.carried[i], "flow", track.last.confidence * 0.97, track.last.masked))
            elif i not in now.carried and alone_s <= HOLD_S:
                now.sights[i] = Sight(
                    Find(track.expected(now.time_s), "held", track.last.confidence * 0.8, track.last.masked)
                )

    def _tell_apart(self, now: Picture) -> None:
        """Lets go of tracks that sit on another one's face, and gives people who were mixed up their names back."""
        poses = {i: s.find.pose for i, s in now.sights.items() if s.find.found_by != "held"}
        for i in self._identities.settle(now.rgb, self.tracker.tracks, poses, now.time_s):
            del now.sights[i]
        for a, b in self._identities.swapped():
            self.tracker.exchange(a, b)
            now.sights[a], now.sights[b] = now.sights[b], now.sights[a]

    def _confirm(self, now: Picture) -> None:
        """One look of the mesh at the face that has waited longest: whom it sees, needs no further proof."""
        self._unchecked_frames += 1
        waiting = [self.tracker.tracks[i] for i, s in now.sights.items() if s.find.found_by == "aligner"]
        if not waiting or self._unchecked_frames < MESH_FRAMES:
            return
        self._unchecked_frames = 0
        track = min(waiting, key=lambda t: t.checked_s)
        track.checked_s = now.time_s
        seen = mesh_inside(self._mesh, now.rgb, now.sights[track.id].find.pose, ZOOMS[:1])
        if seen is not None:
            track.denied = 0
            self.tracker.confirmed.add(track.id)
            mine = now.sights[track.id].find
            if distance(seen.pose, mine.pose) > (OFF if mine.confidence < DOUBT else ASTRAY):
                now.sights[track.id] = Sight(seen)


def _tilts(find: Find, expected: Pose) -> bool:
    """Whether the aligner sees a face tilted that was not, and is not sure of it."""
    return bool(abs(difference(find.pose, expected)[3]) > TILT) and find.confidence < CLEARLY


def _inside(pose: Pose, other: Pose) -> bool:
    """Whether a face's centre lies within another one, or the other way round."""
    return float(np.hypot(*(pose[:2] - other[:2]))) < 0.4 * max(side_of(pose), side_of(other))
