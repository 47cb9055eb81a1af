"""Frames made of arrays: for tests, the built-in clip, and programs that have pictures in memory."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain

import av

from unmask_rt import orient, planes
from unmask_rt.align import Image
from unmask_rt.frames import Frame
from unmask_rt.sources.base import SourceInfo


def frame_of(picture: Image, index: int = 0, rate: Fraction = Fraction(30), pixel_format: str = "rgb24") -> Frame:
    """One frame of an RGB picture uint8[h, w, 3], at ``index / rate`` seconds."""
    video = av.VideoFrame.from_ndarray(picture, "rgb24")
    if pixel_format != "rgb24":
        video = planes.convert(video, pixel_format)
    video.pts, video.time_base = index, 1 / rate
    transform, size = orient.to_display(video.width, video.height)
    return Frame(video, index, index, 1 / rate, time.monotonic_ns(), transform, size)


class ArraySource:
    """RGB pictures uint8[h, w, 3] of one size as a video.

    Args:
        pictures: taken one by one as they are needed.
        rate: frames a second.
        pixel_format: what the frames are converted to.
        live: True hands them out by the clock, as a camera would.
        frame_count: how many there are, if known.
    """

    def __init__(
        self,
        pictures: Iterable[Image],
        *,
        rate: Fraction = Fraction(30),
        pixel_format: str = "yuv420p",
        live: bool = False,
        frame_count: int | None = None,
    ) -> None:
        self.notes: list[str] = []
        self.failures: list[str] = []
        rest = iter(pictures)
        first = next(rest)
        self._pictures = chain([first], rest)
        self._format, self._stop = pixel_format, threading.Event()
        size = first.shape[1], first.shape[0]
        self.info = SourceInfo(
            name="pictures in memory",
            kind="live" if live else "video",
            live=live,
            display_size=size,
            coded_size=size,
            frame_count=frame_count,
            duration_s=None if frame_count is None else float(frame_count / rate),
            rate=rate,
            pixel_format=pixel_format,
        )

    def __iter__(self) -> Iterator[Frame]:
        started_s, rate = time.monotonic(), self.info.rate or Fraction(30)
        for index, picture in enumerate(self._pictures):
            if self.info.live:
                self._stop.wait(max(0.0, started_s + float(index / rate) - time.monotonic()))
            if self._stop.is_set():
                return
            yield frame_of(picture, index, rate, self._format)

    def close(self) -> None:
        """Ends the iteration."""
        self._stop.set()
