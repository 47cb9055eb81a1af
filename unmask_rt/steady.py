"""The steady stage keeps what is drawn calm from frame to frame: it follows what is seen to move.

A generator that knows one frame at a time invents a slightly other mouth in each. Here its output is averaged over time
along the optical flow of the aligned input: what moves with the mask, the drawn face does too. The map is not averaged:
a mask that goes on has to be covered in that very frame.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask_rt.align import Image
from unmask_rt.blend import MAP_THRESHOLD
from unmask_rt.frames import Packet

SIDE = 128
"""Pixels of the crop's side at which flow is sought; the average is kept in the crop's own."""
TIME_S = 0.5
"""Time constant of the average in seconds, where flow explains what is seen."""
TOLERATED, DOUBT = 2.0, 0.03
"""Where the input differs from what flow makes of the one before by more levels (of 255) than this, each further level
adds that share of the new frame: a hand or a change of light is not averaged away."""
AGREED, DISSENT = 12.0, 0.1
"""The same for what is drawn: where it differs from the average by more, as it does when a head has turned, the average
is of another face and is left sooner."""
LONGEST_GAP_S = 0.25
"""After a longer time without a frame the average begins anew."""


@functools.lru_cache(maxsize=4)
def _grid(side: int) -> NDArray[np.float32]:
    """The places of a square's pixels, float32[side, side, 2] as (x, y)."""
    return np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=2).astype(np.float32)


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept of a frame: luma uint8[SIDE, SIDE], averaged face float32[S, S, 3], time in seconds."""

    grey: Image
    average: NDArray[np.float32]
    time_s: float


class Steady:
    """The memory of one track."""

    def __init__(self) -> None:
        # Dense inverse search: T. Kroeger et al., "Fast Optical Flow using Dense Inverse Search", ECCV 2016.
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
        self._flow.setFinestScale(1)  # a quarter of the error for twice the time: errors add up from frame to frame
        self._known: _Known | None = None

    def __call__(self, crop: Image, completed: Image, time_s: float) -> Image:
        """Takes the next frame of a track.

        Args:
            crop: uint8[S, S, 3] RGB, the aligned input.
            completed: uint8[S, S, 3] RGB, what the generator made of it.
            time_s: the frame's presentation time in seconds.

        Returns:
            ``completed`` averaged over time, uint8[S, S, 3]; unchanged for a first frame.
        """
        grey, average = _small(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)), completed.astype(np.float32)
        known = self._known
        if known is not None and 0 < time_s - known.time_s <= LONGEST_GAP_S:
            average = self._follow(known, grey, average, time_s - known.time_s)
            completed = cv2.addWeighted(average, 1, average, 0, 0, dtype=cv2.CV_8U)  # rounded, within 0..255
        self._known = _Known(grey, average, time_s)
        return np.asarray(completed)

    def _follow(self, known: _Known, grey: Image, face: NDArray[np.float32], passed_s: float) -> NDArray[np.float32]:
        """The new average, float32[S, S, 3]."""
        side = len(face)
        flow = self._flow.calc(grey, known.grey, None)  # float32[SIDE, SIDE, 2]
        expected = cv2.remap(known.grey, _grid(SIDE) + flow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        where = cv2.resize(flow, (side, side), interpolation=cv2.INTER_LINEAR) * np.float32(side / SIDE) + _grid(side)
        carried = cv2.remap(known.average, where, None, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        surprise = cv2.blur(cv2.absdiff(grey, expected), (9, 9)).astype(np.float32)
        dissent = cv2.blur(np.abs(_small(cv2.cvtColor(cv2.subtract(face, carried), cv2.COLOR_RGB2GRAY))), (9, 9))
        share = np.float32(1 - math.exp(-passed_s / TIME_S)) + np.maximum(surprise - TOLERATED, 0) * DOUBT
        share += np.maximum(dissent - AGREED, 0) * DISSENT
        share = cv2.resize(np.minimum(share, np.float32(1)), (side, side), interpolation=cv2.INTER_LINEAR)
        return np.asarray(cv2.blendLinear(face, carried, share, 1 - share))


def _small(picture: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA))


class SteadyStage:
    """Patches averaged over time, those of faces without any mask as they are. A thread of its own: the network sets
    the pace, and would wait for this otherwise."""

    name = "steady"

    def __init__(self) -> None:
        self._tracks: dict[int, Steady] = {}

    def __call__(self, packet: Packet) -> Sequence[Packet]:
        """Calms the patches of the next frame; forgets who is not in it, and everybody at a cut."""
        if packet.cut:
            self._tracks.clear()
        masked = {patch.face.track for patch in packet.patches if patch.map.max() > MAP_THRESHOLD}
        for track in self._tracks.keys() - masked:
            del self._tracks[track]
        patches = []
        for patch in packet.patches:
            if patch.face.track in masked:
                steady = self._tracks.setdefault(patch.face.track, Steady())
                patch = replace(patch, completed=steady(patch.crop, patch.completed, packet.frame.time_s))
            patches.append(patch)
        return [replace(packet, patches=tuple(patches))]

    def flush(self) -> Sequence[Packet]:
        return []

    def close(self) -> None:
        pass
