"""Keeps people apart who come close to each other: nobody is followed twice, nobody takes another's name."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

from unmask_rt.align import Image
from unmask_rt.faces.appearance import Looks, describe, remembered, unlikeness
from unmask_rt.faces.pose import Pose, distance
from unmask_rt.faces.tracker import Track

ONE = 0.28
"""`distance` below which two tracks sit on one face."""
BEHIND = 0.5
"""`distance` below which one face covers so much of another that the covered one is let go."""
CLOSE = 1.1
"""`distance` below which two people may be mistaken for each other: nobody's memory learns there."""
MARGIN = 0.12
"""How much better two faces have to fit with their names exchanged."""
SWAP_LOOKS = 2
"""Looks in a row that have to agree on that."""
LEARN_FRAMES = 6
"""Pictures from one lesson of a memory to the next."""


class Identities:
    """What everybody looks like, and what follows from it."""

    def __init__(self) -> None:
        self._against: dict[tuple[int, int], int] = {}
        self._frame = 0

    def reset(self) -> None:
        """Forgets doubts; call it at the beginning of a shot."""
        self._against.clear()

    def settle(self, rgb: Image, tracks: Mapping[int, Track], poses: Mapping[int, Pose], time_s: float) -> list[int]:
        """Looks at everybody in view.

        Args:
            rgb: uint8[H, W, 3].
            tracks: by id; memories are updated, and those of two people who were mistaken for each other are left with
                their names, which the caller exchanges (see `swapped`).
            poses: track id -> where somebody was seen, or carried to, in this picture.
            time_s: presentation time in seconds.

        Returns:
            Ids of tracks that sit on somebody else's face and have to be let go.
        """
        self._frame += 1
        known = {i: pose for i, pose in poses.items() if i in tracks}
        close = [(a, b) for a, b in combinations(sorted(known), 2) if distance(known[a], known[b]) < CLOSE]
        crowd = {i for pair in close for i in pair}
        seen: dict[int, Looks] = {i: describe(rgb, known[i]) for i in crowd}
        for i in known:
            if i not in crowd and (tracks[i].looks is None or (self._frame + i) % LEARN_FRAMES == 0):
                tracks[i].looks = remembered(tracks[i].looks, describe(rgb, known[i]))
        gone: list[int] = []
        for a, b in close:
            if a in gone or b in gone:
                continue
            apart = distance(known[a], known[b])
            if apart < ONE:
                gone.append(self._stranger(tracks[a], tracks[b], seen[a], known, time_s))
            elif apart < BEHIND:
                covered = {i: _change(tracks[i], seen[i]) for i in (a, b)}
                if abs(covered[a] - covered[b]) > MARGIN:
                    gone.append(max(covered, key=lambda i: covered[i]))
        doubts = {pair: self._against.get(pair, 0) for pair in close if not set(pair) & set(gone)}
        self._against = {pair: n + 1 if _exchanged(tracks, seen, *pair) else 0 for pair, n in doubts.items()}
        return gone

    def swapped(self) -> list[tuple[int, int]]:
        """Pairs of tracks that carry each other's names since a while; each is told once."""
        pairs = [pair for pair, n in self._against.items() if n >= SWAP_LOOKS]
        for pair in pairs:
            del self._against[pair]
        return pairs

    def _stranger(self, a: Track, b: Track, looks: Looks, known: Mapping[int, Pose], time_s: float) -> int:
        """Of two tracks on one face the id of the one that it does not belong to."""
        if a.looks is not None and b.looks is not None:
            lead = unlikeness(looks, a.looks) - unlikeness(looks, b.looks)
            if abs(lead) > MARGIN / 2:
                return a.id if lead > 0 else b.id
        if (a.looks is None) != (b.looks is None):
            return a.id if a.looks is None else b.id
        # Alike: who had to leave their way further to get here.
        return max((a, b), key=lambda t: distance(known[t.id], t.expected(time_s))).id


def _change(track: Track, looks: Looks) -> float:
    """How little somebody looks like they used to."""
    return 0.0 if track.looks is None else unlikeness(looks, track.looks)


def _exchanged(tracks: Mapping[int, Track], seen: Mapping[int, Looks], a: int, b: int) -> bool:
    """Whether two faces fit clearly better with their names exchanged."""
    first, second = tracks[a].looks, tracks[b].looks
    if first is None or second is None:
        return False
    kept = unlikeness(seen[a], first) + unlikeness(seen[b], second)
    return unlikeness(seen[a], second) + unlikeness(seen[b], first) < kept - MARGIN
