"""Video through PyAV: files, network streams and FFmpeg's own test patterns."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.stream import Disposition

from unmask_rt import orient, planes
from unmask_rt.align import Affine
from unmask_rt.errors import SourceError
from unmask_rt.frames import Frame
from unmask_rt.sources.base import NETWORK_TIMEOUT_S, SourceInfo
from unmask_rt.sources.stamps import Stamps, may_begin_anew

PATTERN = "lavfi:"
STREAMS = ("rtsp://", "rtsps://", "rtmp://", "rtmps://", "udp://", "tcp://", "rtp://", "http://", "https://")
HTTP = ("http://", "https://")
PQ = 16
"""AVColorTransferCharacteristic of SMPTE ST 2084."""

PIPE_HINT = "A pipe can be read once only, from front to back: save it to a file first and give that."

_MICROSECOND = Fraction(1, 1_000_000)
_MAX_READ_ERRORS = 100
_MAX_WAITING = 1000
"""Most packets since the last keyframe that are kept while the start is looked for."""


class VideoSource:
    """Frames of a video, each decoded frame once, with the timestamps that the file gives.

    Args:
        spec: path of a file, address of a stream, or ``lavfi:`` and a filter graph (``lavfi:testsrc=size=1280x720``).
        start_s: where to begin, in seconds from the file's first moment; files only.
        duration_s: how much to take, in seconds; None for everything.

    Raises:
        SourceError: it does not exist, is no video, holds no picture that can be decoded, or is PQ HDR.
    """

    def __init__(self, spec: str | Path, *, start_s: float = 0.0, duration_s: float | None = None) -> None:
        self.notes: list[str] = []
        self.failures: list[str] = []
        self._name = str(spec)
        self._live = self._name.startswith((PATTERN, *STREAMS))
        self._paced = self._name.startswith(PATTERN)
        path = None if self._live else Path(spec).absolute()
        self._start = Fraction(0) if self._live else Fraction(start_s).limit_denominator(1_000_000)
        self._stop = threading.Event()
        self._running = False
        self._broken = self._unstamped = self._backwards = self._resized = 0
        self._last_pts: int | None = None
        self._last_step = 1
        self._given, self._passed = Stamps(), Stamps()
        self._passing, self._furthest = False, 0
        self._waiting: deque[av.Packet[av.VideoStream]] = deque(maxlen=_MAX_WAITING)
        self._shift = 0
        self._resets: list[Fraction] = []
        self._first_dts: int | None = None
        self._delay: int | None = None
        self._path = path
        self._container = self._open()
        if self._live and self._name.startswith(HTTP) and self._container.duration:
            self._live = False  # a file on a server, which waits
        self._stream = self._pick()
        try:
            self._time_base = self._stream.time_base or Fraction(1, 90_000)
            begins = Fraction(self._container.start_time or 0) * _MICROSECOND
            free_clock = may_begin_anew(self._container)
            cut = self._start > 0 or begins < 0 or free_clock or self._live
            self._origin = begins + self._start if cut else Fraction(0)
            self._passing = self._start > 0 and free_clock
            if self._start > 0 and not free_clock:
                self._seek()
            self._decoded = self._decode()
            self._first = self._next_wanted()
            if self._first is None:
                raise SourceError(
                    f"{self._name} holds no picture that can be decoded"
                    + (f" from {float(self._start):g} s on" if self._start else ""),
                    "Give a later or complete file, or an earlier --start." if self._start else "Is it complete?",
                )
            if self._live:
                self._origin = (self._first.pts or 0) * self._time_base
            self._end = None
            if duration_s is not None:
                from_s = max(self._origin, begins) if not self._live else self._origin
                self._end = from_s + Fraction(duration_s).limit_denominator(1_000_000)
            self._format = self._first.format.name
            self._size = self._first.width, self._first.height
            self._to_display, display = self._geometry(self._first)
            self.info = self._describe(display, begins, duration_s)
        except BaseException:
            self._container.close()
            raise

    def __iter__(self) -> Iterator[Frame]:
        self._running = True
        started_s, index, video = time.monotonic(), 0, self._first
        try:
            while video is not None and not self._stop.is_set():
                assert video.pts is not None
                when = video.pts * self._time_base
                if self._end is not None and when >= self._end:
                    break
                if self._paced:
                    self._stop.wait(max(0.0, started_s + float(when - self._origin) - time.monotonic()))
                yield Frame(
                    video=video,
                    index=index,
                    pts=video.pts,
                    time_base=self._time_base,
                    captured_ns=time.monotonic_ns(),
                    to_display=self._to_display,
                    display_size=self.info.display_size or self._size,
                )
                index += 1
                self._first = None
                video = self._next_wanted()
            else:
                if video is None:
                    self._check_length(index)
        finally:
            self._sum_up()
            self._decoded.close()
            self._container.close()
            self._running = False

    def close(self) -> None:
        """Ends the iteration, or frees the file if there was none."""
        self._stop.set()
        if not self._running:
            self._decoded.close()
            self._container.close()

    def _open(self) -> av.container.InputContainer:
        if self._path is not None and not self._path.exists():
            raise SourceError(f"{self._name} does not exist", "Check the path.")
        if self._path is not None and self._path.is_dir():
            raise SourceError(f"{self._name} is a folder, not a video", "Give a file.")
        try:
            if self._paced:
                return av.open(self._name.removeprefix(PATTERN), format="lavfi")
            if self._path is None:
                options = {"flags": "low_delay"} if self._live else {}
                return av.open(self._name, options=options, timeout=NETWORK_TIMEOUT_S)
            return av.open(str(self._path), metadata_errors="replace")
        except (av.FFmpegError, OSError, ValueError) as error:
            hint = "Check the address and the network."
            if self._path is not None:
                hint = PIPE_HINT if self._piped else "It is no video, damaged, or cut off too early."
            raise SourceError(f"{self._name} cannot be opened: {_reason(error)}", hint) from error

    @property
    def _piped(self) -> bool:
        """Whether what is read can be read once only, and not searched."""
        return self._path is not None and (self._path.is_fifo() or self._path.is_socket())

    def _pick(self) -> av.VideoStream:
        stream = moving_picture(self._container)
        if stream is None:
            self._container.close()
            raise SourceError(f"{self._name} has no video stream", "Give a file with pictures in it.")
        decoder: object = stream.codec_context
        if decoder is None:
            self._container.close()
            raise SourceError(f"{self._name}: there is no decoder for its video", "Convert it with another tool first.")
        stream.thread_type = "SLICE" if self._live else "AUTO"
        return stream

    def _seek(self) -> None:
        """To the keyframe before the start; from the top where the file cannot do that or lands behind it."""
        target = int(self._origin / self._time_base)
        try:
            self._container.seek(target, stream=self._stream, backward=True)
            for packet in self._container.demux(self._stream):
                if packet.pts is None or packet.pts <= target:
                    self._container.seek(target, stream=self._stream, backward=True)
                    return
                break
        except av.FFmpegError:
            pass
        self._container.close()
        self._container = self._open()
        self._stream = self._pick()

    def _decode(self) -> Generator[av.VideoFrame, None, None]:
        """Every frame that the decoder gives; what is broken is skipped and counted."""
        packets = self._container.demux(self._stream)
        read_errors = 0
        while not self._stop.is_set():
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError) as error:
                read_errors += 1
                if self._path is None:
                    raise SourceError(f"{self._name} broke off: {_reason(error)}", "Start again.") from error
                if read_errors > _MAX_READ_ERRORS:
                    hint = PIPE_HINT if self._piped else "Is the disk or the file damaged?"
                    raise SourceError(f"{self._name} can be read no further: {_reason(error)}", hint) from error
                packets = self._container.demux(self._stream)
                continue
            if self._first_dts is None:
                self._first_dts = packet.dts
            for ready in self._reached(packet) if self._passing else (packet,):
                try:
                    frames = ready.decode()
                except av.FFmpegError:
                    self._broken += 1
                    continue
                yield from frames

    def _reached(self, packet: av.Packet[av.VideoStream]) -> list[av.Packet[av.VideoStream]]:
        """The way to the start in a file whose clock may begin anew: from the top, without decoding.

        Returns:
            Nothing before the start; there, and at the end of the file, all packets since the last keyframe.
        """
        if packet.pts is not None:
            if packet.dts is not None and self._passed.read(packet.dts * self._time_base):
                self._begin_anew(packet.pts, self._furthest + (packet.duration or 1))
            self._furthest = max(self._furthest, packet.pts + self._shift)
        if packet.is_keyframe:
            self._waiting.clear()
        self._waiting.append(packet)
        if packet.size and self._furthest * self._time_base < self._origin:
            return []
        self._passing = False
        since, self._waiting = self._waiting, deque()
        return list(since)

    def _next_wanted(self) -> av.VideoFrame | None:
        for video in self._decoded:
            if video.color_trc == PQ:
                raise SourceError(
                    f"{self._name} is PQ HDR (SMPTE ST 2084), which would come out with false colours",
                    "Convert it to HLG or SDR first, for example with FFmpeg's zscale and tonemap filters.",
                )
            video.pts = self._stamp(video)
            video.time_base = self._time_base
            if video.pts * self._time_base < self._origin - self._time_base / 2 and self._start > 0:
                continue
            return self._like_the_first(planes.direct(video))
        return None

    def _stamp(self, video: av.VideoFrame) -> int:
        """The frame's own time; what is missing or runs backwards is mended and counted."""
        pts, last, step = video.pts, self._last_pts, self._step(video)
        if pts is not None:
            if self._given.read(pts * self._time_base) and last is not None and self._container.format.name != "avi":
                self._begin_anew(pts, last + step)
            pts += self._shift
        if self._container.format.name == "avi":
            # AVI stores no presentation times and FFmpeg makes wrong ones up where there are B-frames: a frame is due
            # when the packet came that pushed it out of the decoder, less the decoder's delay.
            if self._delay is None:
                self._delay = (video.dts or 0) - (self._first_dts or 0)
            due = None if video.dts is None else video.dts - self._delay
            pts = due if due is not None and (last is None or due > last) else (0 if last is None else last + step)
        elif pts is None:
            self._unstamped += 1
            pts = None if video.dts is None else video.dts + self._shift
            if pts is None or (last is not None and pts <= last):
                pts = (self._stream.start_time or 0) if last is None else last + step
        elif last is not None and pts <= last:
            self._backwards += 1
            pts = last + 1
        self._last_pts, self._last_step = pts, step
        return pts

    def _begin_anew(self, pts: int, due: int) -> None:
        """From a stamp of the file on, times are moved so that it is ``due``."""
        self._shift = due - pts
        self._resets.append(self._shift * self._time_base)

    def _step(self, video: av.VideoFrame) -> int:
        return video.duration or (round(1 / (self._rate() * self._time_base)) if self._rate() else 0) or 1

    def _like_the_first(self, video: av.VideoFrame) -> av.VideoFrame:
        if self._first_done and (video.format.name, video.width, video.height) != (self._format, *self._size):
            self._resized += 1
            pts = video.pts
            video = planes.convert(video, self._format, *self._size)
            video.pts, video.time_base = pts, self._time_base
        return video

    @property
    def _first_done(self) -> bool:
        return hasattr(self, "_format")

    def _rate(self) -> Fraction:
        for rate in (self._stream.average_rate, self._stream.guessed_rate):
            if rate is not None and 0 < rate <= 1000:
                return rate
        return Fraction(0)

    def _geometry(self, video: av.VideoFrame) -> tuple[Affine, tuple[int, int]]:
        aspect = self._stream.sample_aspect_ratio or Fraction(1)
        return orient.to_display(video.width, video.height, aspect, orient.display_matrix(video))

    def _length_s(self) -> Fraction | None:
        if self._live:
            return None
        if self._stream.duration:
            return self._stream.duration * self._time_base
        return Fraction(self._container.duration) * _MICROSECOND if self._container.duration else None

    def _describe(self, display: tuple[int, int], begins: Fraction, duration_s: float | None) -> SourceInfo:
        rate, length = self._rate(), self._length_s()
        left = None if length is None else max(Fraction(0), length - self._start)
        if duration_s is not None:
            wanted = Fraction(duration_s).limit_denominator(1_000_000)
            left = wanted if left is None else min(left, wanted)
        whole = self._start == 0 and duration_s is None
        count = self._stream.frames if whole and self._stream.frames else round(left * rate) if left and rate else None
        return SourceInfo(
            name=self._path.name if self._path is not None else self._name,
            kind="live" if self._live else "video",
            live=self._live,
            display_size=display,
            coded_size=self._size,
            frame_count=None if self._live else count,
            duration_s=None if left is None else float(left),
            rate=rate or None,
            pixel_format=self._format,
            path=self._path,
            origin_s=self._origin,
            end_s=self._end,
            audio_streams=len(self._container.streams.audio),
            address=None if self._live or self._piped else self._name if self._path is None else str(self._path),
            resets=self._resets,
        )

    def _check_length(self, given: int) -> None:
        """Says so where a file ends before its own index does."""
        if self._live or self._last_pts is None:
            return
        if self._container.format.name.startswith("matroska"):
            self._check_end(self._last_pts)
            return
        expected, length = self._stream.frames, self._length_s()
        if self._start > 0 or not expected or length is None:
            return
        missing_s = length - (self._last_pts - (self._stream.start_time or 0)) * self._time_base
        if given + self._broken + 1 < expected and missing_s * expected > 2.5 * length:
            self.notes.append(f"The file ends early: {given} of {expected} frames were there.")

    def _check_end(self, last_pts: int) -> None:
        """Says so where a Matroska file ends before the time that it gives itself: it counts no frames."""
        length, step = self._picture_end_s(), self._last_step * self._time_base
        end = (last_pts + self._last_step) * self._time_base
        if length is not None and not self._resets and length - end > max(min(Fraction(1), length / 10), 2 * step):
            self.notes.append(f"The file ends early: {float(end):.1f} of {float(length):.1f} s were there.")

    def _picture_end_s(self) -> Fraction | None:
        """When the picture of a Matroska file should end; None if only the end of its longest stream is known."""
        text = {k.upper(): v for k, v in self._stream.metadata.items()}.get("DURATION", "")
        try:
            hours, minutes, seconds = text.split(":")
            return int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
        except ValueError:
            pass
        if len(self._container.streams) > 1 or not self._container.duration:
            return None
        return Fraction(self._container.duration) * _MICROSECOND

    def _sum_up(self) -> None:
        rate = f"{float(self._rate()):g} a second" if self._rate() else "the clock's next tick"
        for count, text in (
            (self._broken, "{} broken packets were skipped."),
            (self._unstamped, "{} frames had no timestamp; they follow the one before at " + rate + "."),
            (self._backwards, "{} timestamps ran backwards and were moved behind the frame before."),
            (self._resized, "{} frames of another size or format were made like the first."),
            (len(self._resets), "The file's clock began anew {} times: what follows was put behind what was before."),
        ):
            if count:
                self.notes.append(text.format(count))
        self._broken = self._unstamped = self._backwards = self._resized = 0


def moving_picture(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video stream that is read: the best, without covers; None if there is none."""
    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    best = container.streams.best("video")
    return best if isinstance(best, av.VideoStream) and best in moving else next(iter(moving), None)


def _reason(error: BaseException) -> str:
    if isinstance(error, av.ExitError):  # how PyAV ends a read that takes too long
        return f"nothing came for {NETWORK_TIMEOUT_S:g} s"
    return getattr(error, "strerror", None) or str(error)
