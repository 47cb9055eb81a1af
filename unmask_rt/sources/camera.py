"""A camera through OpenCV, behind a thread of its own: a read may block for seconds, and nobody should wait for it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import av
import cv2

from unmask_rt import orient
from unmask_rt.align import Image
from unmask_rt.errors import SourceError
from unmask_rt.frames import Frame
from unmask_rt.sources.base import SourceInfo

OPEN_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 5.0
_TICK = Fraction(1, 90_000)


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that is used."""

    def isOpened(self) -> bool: ...

    def read(self) -> tuple[bool, Any]: ...

    def get(self, prop: int) -> float: ...

    def release(self) -> None: ...


class CameraSource:
    """The latest picture of a camera, as BGR.

    Args:
        index: number of the camera, from 0.
        duration_s: how long to go on; None until `close`.
        capture: opened in place of the camera of that number (tests).
        read_timeout_s: no picture for so long means that the camera is gone.

    Raises:
        SourceError: there is no such camera, it gives no picture, or (while iterating) it is gone.
    """

    def __init__(
        self,
        index: int,
        *,
        duration_s: float | None = None,
        capture: Capture | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> None:
        self.notes: list[str] = []
        self.failures: list[str] = []
        self._index, self._duration_s, self._read_timeout_s = index, duration_s, read_timeout_s
        self._ready = threading.Condition()
        self._latest: tuple[Image, int] | None = None
        self._rate, self._missed = 0.0, 0
        self._ended = self._absent = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._grab, args=(capture,), name=f"camera {index}", daemon=True)
        self._thread.start()
        first = self._wait(OPEN_TIMEOUT_S, keep=True)
        if first is None:
            self._stop.set()
            found = ", ".join(list_cameras()) or "none"
            what = f"There is no camera {index}" if self._absent else f"Camera {index} gives no picture"
            raise SourceError(what, f"Cameras found: {found}. Is it plugged in, and not used by another program?")
        height, width = first[0].shape[:2]
        rate = Fraction(self._rate).limit_denominator(1001) if 1 <= self._rate <= 1000 else Fraction(30)
        self._to_display, size = orient.to_display(width, height)
        self.info = SourceInfo(
            name=f"camera {index}",
            kind="live",
            live=True,
            display_size=size,
            coded_size=(width, height),
            frame_count=None,
            duration_s=duration_s,
            rate=rate,
            pixel_format="bgr24",
        )

    def __iter__(self) -> Iterator[Frame]:
        first_ns: int | None = None
        index, last = 0, -1
        self._missed = 0  # what came while everything else was being opened nobody wanted
        try:
            while not self._stop.is_set():
                latest = self._wait(self._read_timeout_s)
                if self._stop.is_set():
                    return
                if latest is None:
                    why = "is gone" if self._ended else f"gave no picture for {self._read_timeout_s:g} s"
                    raise SourceError(f"Camera {self._index} {why}", "Check its cable and start again.")
                picture, taken_ns = latest
                first_ns = taken_ns if first_ns is None else first_ns
                if self._duration_s is not None and (taken_ns - first_ns) >= self._duration_s * 1e9:
                    return
                video = av.VideoFrame.from_ndarray(picture, "bgr24")
                pts = max(last + 1, round((taken_ns - first_ns) * 90_000 / 1e9))
                video.pts, video.time_base, last = pts, _TICK, pts
                assert self.info.display_size is not None
                yield Frame(video, index, pts, _TICK, taken_ns, self._to_display, self.info.display_size)
                index += 1
        finally:
            if self._missed:
                self.notes.append(f"{self._missed} pictures of the camera came faster than they were fetched.")
                self._missed = 0
            self.close()

    def close(self) -> None:
        """Lets the camera go; a read that blocks is left to end by itself."""
        self._stop.set()
        with self._ready:
            self._ready.notify_all()
        self._thread.join(timeout=1.0)

    def _wait(self, timeout_s: float, *, keep: bool = False) -> tuple[Image, int] | None:
        """The next picture and when it came; None if the camera has ended, is late, or `close` was called."""
        with self._ready:
            self._ready.wait_for(lambda: self._latest or self._ended or self._stop.is_set(), timeout_s)
            latest = self._latest
            if not keep:
                self._latest = None
            return latest

    def _grab(self, capture: Capture | None) -> None:
        try:
            level = cv2.utils.logging.getLogLevel()
            cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
            try:
                device: Any = cv2.VideoCapture(self._index) if capture is None else capture
            finally:
                cv2.utils.logging.setLogLevel(level)
            try:
                self._absent = not device.isOpened()
                self._rate = 0.0 if self._absent else float(device.get(cv2.CAP_PROP_FPS))
                while not self._absent and not self._stop.is_set():
                    good, picture = device.read()
                    if not good:
                        return
                    with self._ready:
                        self._missed += self._latest is not None
                        self._latest = (picture, time.monotonic_ns())
                        self._ready.notify_all()
            finally:
                device.release()
        finally:
            with self._ready:
                self._ended = True
                self._ready.notify_all()


def list_cameras() -> list[str]:
    """Cameras that the system names, without opening any: on Linux "0 (name)"; elsewhere unknown, so empty."""
    if not sys.platform.startswith("linux"):
        return []
    found = []
    for device in sorted(Path("/dev").glob("video[0-9]*"), key=lambda p: int(p.name[5:])):
        label = Path("/sys/class/video4linux") / device.name / "name"
        found.append(f"{device.name[5:]} ({label.read_text().strip()})" if label.exists() else device.name[5:])
    return found
