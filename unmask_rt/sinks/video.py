"""A video file through PyAV, as a video editor wants it."""

from __future__ import annotations

import contextlib
import errno
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.codec.context import Flags

from unmask_rt import orient, planes
from unmask_rt.errors import SinkError, UsageError
from unmask_rt.frames import Frame
from unmask_rt.provenance import Provenance, append_to_mp4
from unmask_rt.sinks import encoders
from unmask_rt.sinks.base import EncodeOptions, SinkReport
from unmask_rt.sinks.files import check_output, partial_of, place
from unmask_rt.sinks.streams import SideStreams
from unmask_rt.sources.base import SourceInfo

KEYFRAME_S = 2
"""A killed run loses at most this much, and players can search."""

CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".avi": "avi", ".ts": "mpegts",
}  # fmt: skip
_INTERLACES = frozenset({"libx264", "mpeg2video", "mpeg4", "prores_ks", "ffv1"})
"""Encoders that keep the fields of interlaced video apart."""
TAGGED = frozenset({"mp4", "mov", "matroska", "webm", "avi"})
"""Containers that keep a comment."""


class VideoSink:
    """Encodes frames into a file beside ``path``, which takes its place on success.

    The pixel format stays if the encoder takes it; matrix, range, transfer, primaries, sample aspect ratio, rotation
    and time stamps are the first frame's. Sound, subtitles, chapters and metadata come from the source file.

    Args:
        path: what to write; the suffix chooses the container.
        info: of the source.
        options: how to encode.
        provenance: goes into the metadata.
        overwrite: replace a file that is there.

    Raises:
        UsageError: the file is there, is the input, or container, codec and options do not go together.
        SinkError: nothing can be written there.
        ExtraError: a hardware encoder does not work on this machine.
    """

    stopped = False

    def __init__(
        self,
        path: str | Path,
        info: SourceInfo,
        options: EncodeOptions,
        provenance: Provenance,
        *,
        overwrite: bool = False,
    ) -> None:
        self._path = Path(path).absolute()
        container = CONTAINERS.get(self._path.suffix.lower())
        if container is None:
            raise UsageError(f"{path} is no video file", f"Give a name that ends in {', '.join(CONTAINERS)}.")
        self._container_name = container
        self._codec = encoders.find_encoder(options.codec)
        self._encoder_options, self._quantiser = encoders.encoder_options(self._codec, options)
        _check_codec(container, self._codec)
        encoders.check_hardware(options.codec)
        check_output(self._path, inputs=[info.path] if info.path else [], overwrite=overwrite)
        self._partial = partial_of(self._path)
        self._info, self._options, self._provenance = info, options, provenance
        self._notes: list[str] = []
        self._output: av.container.OutputContainer | None = None
        self._side: SideStreams | None = None
        self._stream: Any = None
        self._frames = 0
        self._format = ""
        self._next_key_s = Fraction(0)
        self._unit, self._last = Fraction(1, 1000), 0
        self._lengths: dict[int, int] = {}
        self._held: av.Packet[Any] | None = None
        self._report: SinkReport | None = None

    def write(self, frame: Frame) -> None:
        """Encodes a frame; see `Sink`."""
        try:
            if self._output is None:
                self._open(frame)
            for packet in self._stream.encode(self._prepare(frame)):
                self._mux(packet)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._failure(error) from error
        self._frames += 1

    def finish(self) -> SinkReport:
        """Empties the encoder, copies the rest of the sound, and puts the file in its place."""
        if self._report is None:
            if self._output is None:
                raise SinkError("No frame came, so nothing was written", "Check the source.")
            try:
                self._empty()
                if self._side is not None:
                    self._side.finish(None if self._info.end_s is None else self._info.end_s - self._info.origin_s)
                self._close()
                os.replace(self._partial, self._path)
            except (av.FFmpegError, OSError, ValueError) as error:
                raise self._failure(error) from error
            self._report = SinkReport(self._path, self._frames, True, tuple(self._notes), self._codec.name)
        return self._report

    def abort(self) -> SinkReport:
        """Closes the file as far as it goes; it gets its name only if nothing stood there."""
        if self._report is None:
            errors = (av.FFmpegError, OSError, ValueError)
            if self._output is not None:
                with contextlib.suppress(*errors):
                    self._empty()
                    if self._side is not None:
                        self._side.settle()
            with contextlib.suppress(*errors):
                self._close()
            kept = place(self._partial, self._path, self._notes) if self._frames else None
            if not self._frames:
                self._partial.unlink(missing_ok=True)
            elif kept is not None and not _plays(kept):
                self._notes.append(f"{kept} cannot be played as it is.")
            self._report = SinkReport(kept, self._frames, False, tuple(self._notes), self._codec.name)
        return self._report

    def _empty(self) -> None:
        """Writes what the encoder still has."""
        for packet in self._stream.encode(None):
            self._mux(packet)
        self._release()

    def _open(self, frame: Frame) -> None:
        video = frame.video
        self._format = encoders.pixel_format(self._codec, video.format.name, video.width, video.height)
        if self._format.replace("yuvj", "yuv") != video.format.name.replace("yuvj", "yuv"):
            self._notes.append(
                f"Pixels were converted from {video.format.name} to {self._format}, which {self._codec.name} takes."
            )
        if video.interlaced_frame and self._codec.name not in _INTERLACES:
            self._notes.append(
                f"{self._codec.name} does not write interlaced video: both fields lie in one progressive picture."
            )
        first = self._converted(video)
        rate = self._info.rate or Fraction(30)
        options = {"flush_packets": "1"}  # or a killed run loses what waits in the last buffer
        if self._container_name in ("mp4", "mov"):
            # Written late, the header knows where B-frames begin: without, they move the start. The finer movie clock
            # keeps rounding out of it.
            options["movflags"] = "+hybrid_fragmented+delay_moov"
            options["movie_timescale"] = str(min(frame.time_base.denominator, 1_000_000))
        # mpeg4 and its kin know no clock finer than 1/65535 s, and some only whole frames.
        coarse = Fraction(1, 60_000) if frame.time_base.denominator > 65_535 else frame.time_base
        error: Exception | None = None
        for unit in dict.fromkeys((frame.time_base, coarse, 1 / rate)):
            output = av.open(str(self._partial), "w", format=self._container_name, container_options=options)
            try:
                self._stream = self._add_video(output, first, frame, rate, unit)
            except (av.FFmpegError, OSError, ValueError) as problem:
                error = error or problem
                output.close()
                continue
            if unit != frame.time_base:
                self._notes.append(f"{self._codec.name} takes no finer clock than {unit} s: timestamps were rounded.")
            break
        else:
            raise SinkError(
                f"{self._codec.name} cannot encode {video.width}x{video.height} {self._format}: {error}",
                "Try another --codec.",
            )
        self._output, self._unit = output, unit
        if self._options.audio and self._info.address is not None:
            try:
                self._side = SideStreams(output, self._info, self._notes)
            except (av.FFmpegError, OSError) as problem:  # a server may give a file once only
                self._notes.append(f"The sound could not be read: {getattr(problem, 'strerror', None) or problem}")
        elif self._options.audio and self._info.audio_streams:
            self._notes.append("The stream's sound is not recorded.")
        own = {key for key in output.metadata if key.lower() == "comment"}  # Matroska's is in capitals
        output.metadata.update(self._provenance.tags("; ".join(output.metadata.pop(key) for key in sorted(own))))
        output.start_encoding()

    def _add_video(
        self, output: av.container.OutputContainer, first: av.VideoFrame, frame: Frame, rate: Fraction, unit: Fraction
    ) -> Any:
        os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes a page of settings to stderr otherwise
        stream: Any = output.add_stream(
            self._codec.name, rate=rate, options=dict(self._encoder_options), width=first.width, height=first.height
        )
        context = stream.codec_context
        context.pix_fmt = self._format
        context.time_base = stream.time_base = unit
        context.gop_size = max(1, int(KEYFRAME_S * rate))
        if self._quantiser is not None:
            context.qscale, context.global_quality = True, self._quantiser * 118  # FF_QP2LAMBDA
        if self._options.low_latency:
            context.max_b_frames = 0
        if frame.video.interlaced_frame and self._codec.name in _INTERLACES:
            context.flags |= int(Flags.interlaced_dct) | int(Flags.interlaced_me)
        context.colorspace, context.color_range = first.colorspace, first.color_range
        context.color_primaries, context.color_trc = first.color_primaries, first.color_trc
        if self._format.startswith("yuvj") or frame.video.format.name.startswith("yuvj"):
            context.color_range = planes.FULL
        aspect, matrix = orient.from_display(frame.to_display, first.width, first.height)
        context.sample_aspect_ratio = aspect
        if matrix[:5] != orient.UPRIGHT[:5]:
            stream.set_display_matrix(matrix)
            if self._container_name not in ("mp4", "mov", "matroska", "webm"):
                self._notes.append(f"{self._container_name} keeps no rotation: the picture lies on its side.")
        if self._container_name in ("mp4", "mov") and self._codec.canonical_name == "hevc":
            context.codec_tag = "hvc1"  # what QuickTime plays; FFmpeg's own choice is hev1
        with encoders.ordinary_priority():
            context.open()
        return stream

    def _converted(self, video: av.VideoFrame) -> av.VideoFrame:
        """A frame of the encoder's format that may be stamped without touching the one that came."""
        if video.format.name == self._format:
            return planes.reference(video)
        return planes.convert(video, self._format)

    def _prepare(self, frame: Frame) -> av.VideoFrame:
        video = self._converted(frame.video)
        ticks = (frame.pts * frame.time_base - self._info.origin_s) / self._unit
        before = self._last
        # A clock that is too coarse may put two frames into one tick; encoders refuse that.
        self._last = max(round(ticks), self._last + 1) if self._frames else round(ticks)
        video.pts, video.time_base = self._last, self._unit
        if self._frames:
            self._lengths[before] = self._last - before
        self._lengths[self._last] = round(self._length_s(frame) / self._unit)
        # The decoder's picture types would be taken as orders.
        video.pict_type = int(av.video.frame.PictureType.NONE)
        now_s = self._last * self._unit
        if self._frames == 0 or now_s >= self._next_key_s:
            video.pict_type = int(av.video.frame.PictureType.I)
            self._next_key_s = now_s + KEYFRAME_S - Fraction(1, 2) / (self._info.rate or 30)
        return video

    def _length_s(self, frame: Frame) -> Fraction:
        """How long a frame stays if none follows, up to the end of the cut; 0 if the source does not say."""
        length_s = (frame.video.duration or 0) * frame.time_base
        if self._info.end_s is None:
            return length_s
        return max(Fraction(0), min(length_s, self._info.end_s - frame.pts * frame.time_base))

    def _mux(self, packet: av.Packet[Any]) -> None:
        """Writes a packet of the encoder's; of a file the one before: how long a frame lasts the next one shows."""
        self._release()
        self._held = packet
        if self._info.live:
            self._release()

    def _release(self) -> None:
        """Writes the packet that was held back."""
        packet, self._held = self._held, None
        if packet is None:
            return
        assert self._output is not None
        length = self._lengths.pop(packet.pts, 0) if packet.pts is not None and packet.time_base == self._unit else 0
        if length:
            packet.duration = length
        if self._side is not None and packet.dts is not None:
            self._side.advance(packet.dts * packet.time_base)
        self._output.mux(packet)

    def _close(self) -> None:
        if self._side is not None:
            self._side.close()
        if self._output is not None:
            self._output.close()
            if self._container_name in ("mp4", "mov"):
                append_to_mp4(self._partial, self._provenance.xmp)

    def _failure(self, error: BaseException) -> SinkError:
        if isinstance(error, SinkError):
            return error
        reason = getattr(error, "strerror", None) or str(error)
        full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT)
        hint = "Make room on the disk or write elsewhere." if full else "Try another container or --codec."
        if self._frames:
            hint += " What was written so far is kept."
        return SinkError(f"{self._path} cannot be written: {reason}", hint)


def _plays(path: Path) -> bool:
    try:
        with av.open(str(path)) as container:
            return next(container.decode(video=0), None) is not None
    except (av.FFmpegError, OSError, IndexError):
        return False


def _check_codec(container: str, codec: av.Codec) -> None:
    takes = av.ContainerFormat(container, "w")
    with av.open(os.devnull, "w", format=takes.name) as probe:
        try:
            probe.add_stream(codec.name, rate=30)
        except ValueError as error:
            raise UsageError(
                f"{container} does not take {codec.name}",
                "Use another --codec, or write an .mkv, which takes them all.",
            ) from error
