"""Who is who from frame to frame: matching by place and by looks, track ids, and how long somebody is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from unmask_rt.faces.appearance import Looks, unlikeness
from unmask_rt.faces.centerface import iou
from unmask_rt.faces.motion import Motion
from unmask_rt.faces.pose import Find, Pose, box_of, distance, side_of

MATCH = 0.45
"""`distance` up to which a find belongs to a track: about three quarters of a face's width."""
MEMORY_S, LOOKS_S = 1.0, 8.0
"""How long a lost track can come back under its old id: by its place alone, and by its looks anywhere in the shot."""
STRAY = 0.6
"""How much the tolerance of `MATCH` grows with each second that a track is out of sight."""
ALIKE, STRANGE = 0.30, 0.55
"""`appearance.unlikeness` up to which somebody who is back is taken for the same person wherever they are, and from
which a face in the right place is taken for somebody else's."""
ROOM = 0.55
"""`distance` to whoever is in view below which there is no room for another face: it is the same one."""
CONVINCING = 0.6
"""Confidence of the finder from which a second look settles a doubt."""
CROWDED = 1.3
"""When there are more faces than wanted, a newcomer has to be this much larger to take a track's place."""
SEEN_BY = ("mesh", "aligner", "finder")
"""Who sees the face itself; flow and memory only carry it."""


@dataclass(slots=True)
class Track:
    """One person for as long as they can be followed.

    Attributes:
        id: from 1 on, never used twice.
        last: the latest place, by whatever means.
        seen_s: presentation time of ``last`` in seconds.
        begun_s: when it began.
        supported_s: when mesh, aligner or finder last saw the face itself.
        checked_s: when the mesh last looked, whatever it saw.
        denied: looks of the finder in a row that found nothing there.
        motion: where it is going.
        looks: what the upper face looks like, as remembered; None until it was seen well.
    """

    id: int
    last: Find
    seen_s: float
    begun_s: float
    supported_s: float
    checked_s: float = 0.0
    denied: int = 0
    motion: Motion = field(default_factory=Motion)
    looks: Looks | None = None

    def expected(self, time_s: float) -> Pose:
        """Where it should be at ``time_s`` by its motion."""
        return self.motion.ahead(self.last.pose, time_s - self.seen_s)


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
        """Forgets tracks last placed more than `MEMORY_S` ago, or `LOOKS_S` if it is known what they look like."""
        self.tracks = {
            i: t for i, t in self.tracks.items() if time_s - t.seen_s <= (MEMORY_S if t.looks is None else LOOKS_S)
        }

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

    def recall(self, find: Find, looks: Looks | None, time_s: float, visible: Mapping[int, Pose]) -> Track | None:
        """The track out of view that a face without a track belongs to, or None for a newcomer.

        Args:
            find: the face.
            looks: what it looks like, where that could be told.
            time_s: presentation time in seconds.
            visible: those in view, who are nobody's second self.
        """
        best: tuple[float, Track] | None = None
        for i, track in self.tracks.items():
            if i in visible:
                continue
            gone_s = max(0.0, time_s - track.seen_s)
            apart = distance(find.pose, track.expected(time_s)) / (MATCH + STRAY * min(gone_s, 1.0))
            near = apart <= 1 and gone_s <= MEMORY_S
            unlike = None if looks is None or track.looks is None else unlikeness(looks, track.looks)
            fits = near if unlike is None else unlike <= ALIKE or (near and unlike <= STRANGE)
            score = _score(apart, unlike)
            if fits and (best is None or score < best[0]):
                best = (score, track)
        return None if best is None else best[1]

    def place(self, track: Track, find: Find, time_s: float) -> None:
        """Moves a track to where it was found or carried to."""
        track.motion.learn(find.pose, track.last.pose, time_s - track.seen_s)
        track.last, track.seen_s = find, time_s
        if find.found_by in SEEN_BY:
            # A second look at a weak find, or the mesh at any time, makes it real.
            if time_s > track.supported_s and find.confidence >= CONVINCING:
                self.confirmed.add(track.id)
            track.supported_s = time_s
            if find.found_by != "aligner":
                track.denied = 0

    def begin(self, find: Find, time_s: float, *, sure: bool, visible: Mapping[int, Pose]) -> Track | None:
        """Starts a track for a newcomer, or returns None if it is somebody already in view, or too many are.

        Args:
            find: the newcomer.
            time_s: presentation time in seconds.
            sure: False for a face that has to be seen again before it counts.
            visible: track id -> pose of those in view; whoever has to give way is dropped from `tracks`.
        """
        if not self.make_room(find, visible):
            return None
        track = Track(self._next, find, time_s, time_s, time_s)
        self._next += 1
        self.tracks[track.id] = track
        if sure:
            self.confirmed.add(track.id)
        return track

    def exchange(self, first: int, second: int) -> None:
        """Gives two tracks each other's places and motion; ids and looks stay."""
        a, b = self.tracks[first], self.tracks[second]
        self.tracks[first] = replace(b, id=first, looks=a.looks)
        self.tracks[second] = replace(a, id=second, looks=b.looks)

    def make_room(self, find: Find, visible: Mapping[int, Pose]) -> bool:
        """Whether a face may come into view: nobody is there yet, and not too many are, or a small one gives way."""
        box = box_of(find.pose)
        if any(distance(find.pose, pose) < ROOM or iou(box, box_of(pose)) > 0.3 for pose in visible.values()):
            return False
        if not self.has_room(side_of(find.pose), visible):
            return False
        present = self._present(visible)
        if len(present) >= self._max_faces:
            del self.tracks[min(present, key=lambda i: present[i][2])]
        return True

    def has_room(self, side: float, visible: Mapping[int, Pose]) -> bool:
        """Whether there are not too many in view for a face of this crop side in pixels, or a small one gives way."""
        present = self._present(visible)
        return len(present) < self._max_faces or side >= CROWDED * min(map(side_of, present.values()))

    def _present(self, visible: Mapping[int, Pose]) -> dict[int, Pose]:
        return {i: pose for i, pose in visible.items() if i in self.tracks}


def _score(apart: float, unlike: float | None) -> float:
    """How badly a face fits a track: looks count most where they are known, the place decides among the rest."""
    return apart if unlike is None else 0.3 * min(apart, 3.0) + unlike / ALIKE
