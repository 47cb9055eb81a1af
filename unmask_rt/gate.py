"""Mask or no mask: decides for each face of each frame whether its patch is shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from unmask_rt.frames import Mode, Packet, Patch

__all__ = ["Gate", "Mode"]

ON, OFF = 0.6, 0.25
"""Scores (share of the lower face that the map covers) from which a face counts as masked, and below which it does not;
in between it stays what it was."""
CERTAIN = 0.75
"""Score that needs no second frame when there is no looking ahead."""
BARE, SURE = 0.03, 0.75
"""Pictures have no second frame: where the aligner is so sure that there is no mask, the map alone does not count, and
where it sees the face but no mask for certain (`WORN`), the score has to be higher. Where it does not see the face
(in profile), the score alone decides."""
LIKELY = 0.5
"""How sure of a mask the aligner has to be for the mouth to be looked for where that of a turned head is."""
WORN, MAPPED = 0.9, 0.3
"""Where the aligner is so sure of a mask, a map that covers this share of the lower face is enough."""
SPAN_FRAMES = 3
"""Frames with a score of `ON` that make a masked span; fewer are an error of the map."""
LOOK_AHEAD_S = 0.5
LOOK_AHEAD_FRAMES = 30
MISSED_S = 0.25
"""How long a masked face that was lost is reported as missed: after that nobody knows where it is."""
HIDDEN = 0.05
"""Share of the smaller box that another face in view may cover before the lost one counts as hidden behind it."""

Box = tuple[float, float, float, float]


@dataclass(slots=True)
class _State:
    """What is known about one track.

    Attributes:
        on: it is being unmasked.
        box: where it was last, display pixels.
        seen_s: when that was, seconds.
        against: frames in a row whose score speaks against ``on``.
    """

    on: bool
    box: Box
    seen_s: float
    against: int = 0


class Gate:
    """Sets `Patch.strength` from `Patch.score` with hysteresis in time, for each track on its own.

    The strength is 0 or 1: a patch that fades shows the mask through the face.

    Args:
        mode: "file" holds packets back for half a second, so that a masked span begins at its true first frame, short
            drop-outs are bridged and single frames vanish; "live" decides within two frames and holds nothing back;
            "still" takes each frame for itself.
    """

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._waiting: deque[Packet] = deque()
        self._states: dict[int, _State] = {}

    def push(self, packet: Packet) -> list[Packet]:
        """Takes the next packet; returns those that are decided, oldest first."""
        if self._mode != "file":
            return [self._decided(packet, ())]
        self._waiting.append(packet)
        out = []
        newest_s = packet.frame.time_s
        while newest_s - self._waiting[0].frame.time_s >= LOOK_AHEAD_S or len(self._waiting) > LOOK_AHEAD_FRAMES:
            out.append(self._next())
        return out

    def flush(self) -> list[Packet]:
        """The packets still held back, oldest first."""
        return [self._next() for _ in range(len(self._waiting))]

    def _next(self) -> Packet:
        packet = self._waiting.popleft()
        shot = []
        for later in self._waiting:
            if later.cut:
                break
            shot.append(later)
        return self._decided(packet, shot)

    def _decided(self, packet: Packet, ahead: Sequence[Packet]) -> Packet:
        """The packet with strengths and missed faces; ``ahead`` are the known later packets of the same shot."""
        if packet.cut or self._mode == "still":
            self._states.clear()
        time_s = packet.frame.time_s
        patches = []
        for patch in packet.patches:
            track = patch.face.track
            state = self._states.setdefault(track, _State(False, patch.face.box, time_s))
            state.box, state.seen_s = patch.face.box, time_s
            match self._mode:
                case "file":
                    state.on = _foresee(state.on, [_evidence(patch), *(_score(p, track) for p in ahead)])
                case "live":
                    _react(state, _evidence(patch))
                case "still":
                    masked = WORN if patch.face.masked is None else patch.face.masked
                    state.on = masked >= BARE and _evidence(patch) >= (ON if masked >= WORN else SURE)
            patches.append(replace(patch, strength=float(state.on)))
        self._states = {i: s for i, s in self._states.items() if time_s - s.seen_s <= MISSED_S}
        present = {patch.face.track for patch in packet.patches}
        lost = [state for track, state in self._states.items() if state.on and track not in present]
        view = [face.box for face in packet.faces]
        missed = tuple(
            state.box
            for state in lost
            if _inside(state.box, packet.frame.display_size) and not any(_hides(box, state.box) for box in view)
        )
        return replace(packet, patches=tuple(patches), missed=missed)


def _inside(box: Box, size: tuple[int, int]) -> bool:
    """Whether a face was wholly in view; one that was not has left the picture, and nothing is missed."""
    return box[0] >= 0 and box[1] >= 0 and box[2] <= size[0] and box[3] <= size[1]


def _hides(front: Box, box: Box) -> bool:
    """Whether a face in view is where another one was: that one is behind it, and not to be painted on it."""
    across = min(front[2], box[2]) - max(front[0], box[0])
    down = min(front[3], box[3]) - max(front[1], box[1])
    smaller = min((b[2] - b[0]) * (b[3] - b[1]) for b in (front, box))
    return across > 0 and down > 0 and across * down > HIDDEN * smaller


def _score(packet: Packet, track: int) -> float | None:
    """The evidence for a mask on a track in a packet, or None where it is not in view."""
    return next((_evidence(patch) for patch in packet.patches if patch.face.track == track), None)


def _evidence(patch: Patch) -> float:
    """The patch's score, lifted to `ON` where the aligner sees a mask and the map only part of it."""
    masked = patch.face.masked
    return max(patch.score, ON) if masked is not None and masked >= WORN and patch.score >= MAPPED else patch.score


def _foresee(on: bool, scores: Sequence[float | None]) -> bool:
    """Whether a face is masked, knowing its score now (first) and in the frames to come (None: not in view)."""
    now = scores[0]
    assert now is not None
    masked = sum(score is not None and score >= ON for score in scores)
    if on:
        return now >= OFF or masked > 0
    rising = 0
    for score in scores:
        if score is None or score < OFF:
            break
        rising += 1
    begins = any(score is not None and score >= ON for score in scores[:rising])
    return begins and masked >= min(SPAN_FRAMES, len(scores))


def _react(state: _State, score: float) -> None:
    """Live: turns a state when two frames in a row, or one certain one, speak against it."""
    contrary = score < OFF if state.on else score >= ON
    state.against = state.against + 1 if contrary else 0
    if state.against >= 2 or (contrary and score >= CERTAIN):
        state.on, state.against = not state.on, 0
