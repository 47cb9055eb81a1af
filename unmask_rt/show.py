"""The blend stage: what the viewer finally sees, by gate, miss policy and view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal

import av
import cv2
import numpy as np

from unmask_rt import align, blend, planes
from unmask_rt.align import Image
from unmask_rt.errors import UsageError
from unmask_rt.frames import Frame, Packet, Patch
from unmask_rt.gate import Gate, Mode
from unmask_rt.overlay import draw_overlay

OnMiss = Literal["pass", "hold", "blur"]
Box = tuple[float, float, float, float]


class BlendStage:
    """Patches into the frame.

    Args:
        mode: how the gate decides ("file" looks ahead, "live" does not, "still" takes each frame alone).
        feather: width of the soft edge as a share of the crop's side.
        on_miss: what a masked face shows that was lost: the frame as it is, its last patch, or a blur.
        view: a key of `VIEWS`.
    """

    name = "blend"

    def __init__(self, mode: Mode, *, feather: float, on_miss: OnMiss, view: str) -> None:
        if view not in VIEWS:
            raise UsageError(f"there is no view {view!r}", f"Choose one of: {', '.join(VIEWS)}.")
        self._gate = Gate(mode)
        self._feather = feather
        self._on_miss = on_miss
        self._view = VIEWS[view]
        self._last: dict[int, Patch] = {}
        self._grain: dict[int, Grain] = {}

    def __call__(self, packet: Packet) -> Sequence[Packet]:
        return [self._show(ready) for ready in self._gate.push(packet)]

    def flush(self) -> Sequence[Packet]:
        return [self._show(ready) for ready in self._gate.flush()]

    def close(self) -> None:
        self._last.clear()
        self._grain.clear()

    def _show(self, packet: Packet) -> Packet:
        frame = packet.frame
        for patch in packet.patches:
            if patch.strength > 0:
                grain = self._grain.setdefault(patch.face.track, Grain())
                frame = put(frame, patch, self._feather, grain)
                self._last[patch.face.track] = patch
        for box in packet.missed:
            if self._on_miss == "hold":
                held = next((p for p in self._last.values() if p.face.box == box), None)
                frame = put(frame, held, self._feather) if held is not None else frame
            elif self._on_miss == "blur":
                frame = blur(frame, box)
        here = {patch.face.track for patch in packet.patches}
        self._last = {i: p for i, p in self._last.items() if i in here or p.face.box in packet.missed}
        self._grain = {i: g for i, g in self._grain.items() if i in self._last}
        return replace(packet, frame=self._view(packet, frame))


class Grain:
    """The fine detail that one track's patches lack: measured now and then, and smoothed so that it does not pop."""

    EVERY = 15
    """Frames from one measurement to the next: it costs as much as the rest of blending."""

    def __init__(self) -> None:
        self._levels: blend.Levels | None = None
        self._age = 0

    def levels(self, picture: Image, completed: Image, region: blend.Region, transform: align.Affine) -> blend.Levels:
        """Levels for `blend.paste`; the arguments are its own."""
        if self._levels is None or self._age % self.EVERY == 0:
            fresh = blend.missing_levels(picture, completed, region, transform)
            known = self._levels is not None and self._levels.shape == fresh.shape
            self._levels = (self._levels + fresh) / 2 if known and self._levels is not None else fresh
        self._age += 1
        return self._levels


def put(frame: Frame, patch: Patch, feather: float, grain: Grain | None = None) -> Frame:
    """The frame with one patch blended in; everything outside its edge stays as decoded.

    ``grain`` is the track's memory; without it the missing detail is measured afresh.
    """
    region = blend.region_of(patch.map, feather, patch.grown)
    if region.bounds is None:
        return frame
    rect = planes.align_rect(frame.video, blend.bounds_in_picture(patch.transform, region.bounds))
    if rect[2] - rect[0] < 2 or rect[3] - rect[1] < 2:
        return frame
    if patch.strength < 1:
        region = replace(region, weight=region.weight * np.float32(patch.strength))
    before = planes.read_rgb(frame.video, rect)
    transform = align.compose(patch.transform, np.array([[1.0, 0.0, rect[0]], [0.0, 1.0, rect[1]]]))
    levels = (grain or Grain()).levels(before, patch.completed, region, transform)
    after, touched = blend.paste(before, patch.completed, region, transform, levels)
    return planes.write_rgb(frame, rect, before, after, touched)


def blur(frame: Frame, box: Box) -> Frame:
    """The frame with a box (display pixels) blurred beyond recognition."""
    to_coded = align.invert(frame.to_display)
    edges = align.apply(to_coded, np.array([box[:2], box[2:]], np.float32))
    rect = planes.rect_around(frame.video, edges)
    if rect[2] - rect[0] < 2 or rect[3] - rect[1] < 2:
        return frame
    before = planes.read_rgb(frame.video, rect)
    small = cv2.resize(before, (8, 8), interpolation=cv2.INTER_AREA)
    after = np.asarray(cv2.resize(small, before.shape[1::-1], interpolation=cv2.INTER_CUBIC), np.uint8)
    return planes.write_rgb(frame, rect, before, after, np.full(before.shape[:2], 255, np.uint8))


def _picture(frame: Frame, rgb: Image) -> Frame:
    """A frame of a new picture at the time of another one: 4:2:0 where a video's was YUV, as players expect it."""
    video = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
    if not frame.video.format.is_rgb and rgb.shape[0] % 2 == rgb.shape[1] % 2 == 0:
        video = planes.convert(video, "yuv420p")
    video.color_primaries, video.color_trc = (
        frame.video.color_primaries,
        frame.video.color_trc,
    )  # values are as they were
    video.pts, video.time_base = frame.pts, frame.time_base
    identity = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    return replace(frame, video=video, to_display=identity, display_size=(rgb.shape[1], rgb.shape[0]))


def _result(packet: Packet, done: Frame) -> Frame:
    return done


def _side_by_side(packet: Packet, done: Frame) -> Frame:
    return _picture(done, np.hstack([planes.upright(packet.frame), planes.upright(done)]))


def _difference(packet: Packet, done: Frame) -> Frame:
    change = cv2.absdiff(planes.upright(packet.frame), planes.upright(done))
    return _picture(done, np.asarray(cv2.convertScaleAbs(change, alpha=4)))


def _mask(packet: Packet, done: Frame) -> Frame:
    return _picture(done, draw_overlay(planes.upright(packet.frame), packet))


VIEWS: dict[str, Callable[[Packet, Frame], Frame]] = {
    "result": _result,
    "side-by-side": _side_by_side,
    "mask": _mask,
    "difference": _difference,
}
"""Name on the command line -> what makes the shown frame from the packet and the finished frame."""
