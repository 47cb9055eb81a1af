"""What goes along with the picture: audio, subtitles, attachments, chapters and metadata of the source file.

The file is opened a second time and read in step with the encoded video, so that nothing piles up in memory and the
packets lie beside the pictures they belong to. Packets are copied as they are.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any

import av
from av.stream import Discard, Disposition

from unmask_rt.sources.base import NETWORK_TIMEOUT_S, SourceInfo
from unmask_rt.sources.stamps import Stamps, may_begin_anew

AAC_BITS = 192_000
_OWN_KEYS = frozenset({"major_brand", "minor_version", "compatible_brands", "encoder", "duration"})
_ONLY = {
    "mpegts": {
        "mp2",
        "mp3",
        "mp3float",
        "aac",
        "aac_latm",
        "ac3",
        "eac3",
        "dca",
        "truehd",
        "opus",
        "dvbsub",
        "dvb_teletext",
    }
}
"""What a container really takes where FFmpeg would say yes to anything."""
_NEVER = {"mov": {"opus", "flac"}}
"""What it takes at first and refuses when the file is finished."""
_NO_NEGATIVE = frozenset({"matroska", "webm"})
_STREAM_KEYS = frozenset({"language", "title", "handler_name"})
WAIT_S = 10
"""How far the picture may get before a stream whose clock has begun anew no longer waits for the picture's to do so."""


class _Clock:
    """The time of one stream, whose stamps may begin anew where recordings were joined (`SourceInfo.resets`).

    Attributes:
        end: media time, in seconds, up to which the stream has been written.
    """

    def __init__(self, resets: list[Fraction]) -> None:
        self._resets = resets
        self._given = Stamps()
        self._count = 0
        self._own: dict[int, Fraction] = {}
        self.end = Fraction(0)

    def read(self, raw_s: Fraction) -> None:
        """Takes note of a stamp, in the order of the file."""
        self._count += self._given.read(raw_s)

    def shift(self, raw_s: Fraction, picture_s: Fraction | None) -> Fraction | None:
        """What the stamp last read is moved on by, in seconds: as far as the picture's at the same place; None until
        that is known.

        Args:
            raw_s: the stamp.
            picture_s: media time that the picture has come to; None at its end.
        """
        count = self._count
        if count in self._own:
            return self._own[count]
        if count <= len(self._resets):
            return self._resets[count - 1] if count else Fraction(0)
        if picture_s is not None and picture_s < self.end + WAIT_S:
            return None
        return self._own.setdefault(count, self.end - raw_s)  # the picture's clock goes on: only this one began anew

    def overlaps(self, time_s: Fraction, length_s: Fraction) -> bool:
        """Whether a packet after a new beginning belongs before what has been written."""
        return self._count > 0 and time_s + length_s / 2 < self.end


class SideStreams:
    """Copies the streams beside the picture from a source file to an open container.

    Args:
        output: not started yet; streams are added to it here.
        info: of the source; its ``address`` is opened again.
        notes: gets a sentence for each thing that the output does not take.
    """

    def __init__(self, output: av.container.OutputContainer, info: SourceInfo, notes: list[str]) -> None:
        assert info.address is not None
        self._output, self._info, self._notes = output, info, notes
        timeout_s = None if info.path is not None else NETWORK_TIMEOUT_S
        self._input = av.open(info.address, metadata_errors="replace", timeout=timeout_s)
        self._copied: dict[int, Any] = {}
        self._filters: dict[int, av.BitStreamFilterContext] = {}
        self._coded: dict[int, _Transcoder] = {}
        self._broken = 0
        self._pending: av.Packet[Any] | None = None
        for stream in self._input.streams:
            if not self._take(stream):
                stream.discard = Discard.all
        self._copy_metadata()
        streams = [self._input.streams[i] for i in (*self._copied, *self._coded)]
        later = info.origin_s * 1_000_000 > (self._input.start_time or 0)
        if info.origin_s > 0 and streams and later and not may_begin_anew(self._input):
            try:
                self._input.seek(int(info.origin_s * 1_000_000))
            except av.FFmpegError:
                self._notes.append("The file cannot be searched: its sound was read from the start.")
        self._clocks = {stream.index: _Clock(info.resets) for stream in streams}
        self._open = set(self._clocks)
        self._packets = self._packets_of(streams)

    def advance(self, until_s: Fraction | None) -> None:
        """Copies what belongs before that time of the output; None copies the rest."""
        origin, end = self._info.origin_s, self._info.end_s
        until_s = None if until_s is None else until_s + origin
        while self._open:
            packet = self._pending or next(self._packets, None)
            self._pending = None
            if packet is None:
                return
            clock = self._clocks[packet.stream.index]
            shift = clock.shift(_stamp(packet), until_s)
            if shift is None or (until_s is not None and _decoded_s(packet) + shift > until_s):
                self._pending = packet
                return
            time_s, length_s = _stamp(packet) + shift, (packet.duration or 0) * packet.time_base
            if end is not None and time_s >= end:
                self._open.discard(packet.stream.index)
            elif (origin <= 0 or time_s >= origin) and not clock.overlaps(time_s, length_s):
                clock.end = max(clock.end, time_s + length_s)
                self._write(packet, origin - shift)

    def finish(self, end_s: Fraction | None) -> None:
        """Copies what is left up to the end of the cut (None: of the file) and empties the encoders."""
        self.advance(end_s)
        for index, bits in self._filters.items():
            for packet in bits.filter(None):
                self._send(index, packet)
        for coder in self._coded.values():
            for packet in coder.flush():
                self._output.mux(packet)
        if self._broken:
            self._notes.append(f"{self._broken} broken packets of sound or subtitles were skipped.")

    def close(self) -> None:
        """Frees the file."""
        self._packets.close()
        self._input.close()

    def _take(self, stream: Any) -> bool:
        kind, name = stream.type, stream.name or "unknown"
        if kind == "video":
            if stream.disposition & Disposition.attached_pic:
                self._notes.append("The cover picture is not copied.")
            return False
        if kind == "attachment":
            if "matroska" in self._output.format.name:
                self._output.add_stream_from_template(stream)
            else:
                self._notes.append(f"The attachment {name} is not copied: the output has no place for it.")
            return False
        if name == "bin_data" and self._input.chapters():
            return False  # how MP4 holds its chapters, which are copied as such
        if kind == "data" or stream.codec_context is None:
            self._notes.append(f"The data stream {name} is not copied.")
            return False
        if kind == "audio" and not (stream.codec_context.sample_rate and stream.codec_context.layout.nb_channels):
            self._notes.append(f"The sound ({name}) is not copied: the file does not say how it is coded.")
            return False
        try:
            if not self._takes(stream, name):
                raise ValueError(name)
            copy: Any = self._output.add_stream_from_template(stream)
        except (ValueError, av.FFmpegError):
            if kind != "audio":
                self._notes.append(
                    f"The subtitles ({name}) are not copied: {self._output.format.name} does not take them."
                )
                return False
            coder = _Transcoder(self._output, stream)
            self._coded[stream.index] = coder
            copy = coder.stream
            self._notes.append(
                f"The sound ({name}) was converted to {coder.name}: {self._output.format.name} does not take it."
            )
        else:
            self._copied[stream.index] = copy
            if _is_adts(stream) and self._output.format.name in ("mp4", "mov"):
                self._filters[stream.index] = av.BitStreamFilterContext("aac_adtstoasc", stream)
        copy.metadata.update({k: v for k, v in stream.metadata.items() if k in _STREAM_KEYS})
        copy.disposition = stream.disposition
        return True

    def _takes(self, stream: Any, name: str) -> bool:
        """Whether the container keeps a stream as it is; what FFmpeg refuses when it is added is found out then."""
        container = self._output.format.name
        if name not in _ONLY.get(container, {name}) or name in _NEVER.get(container, ()):
            return False
        if container == "avi" and _is_adts(stream):
            return False
        return not (container == "mp4" and name.startswith("pcm_") and "channels" in stream.codec_context.layout.name)

    def _copy_metadata(self) -> None:
        self._output.metadata.update({k: v for k, v in self._input.metadata.items() if k.lower() not in _OWN_KEYS})
        chapters = []
        for chapter in self._input.chapters():
            unit = chapter["time_base"] or Fraction(1, 1000)
            begin, end = (chapter[k] * unit - self._info.origin_s for k in ("start", "end"))
            if self._info.end_s is not None:
                end = min(end, self._info.end_s - self._info.origin_s)
            begin = max(begin, Fraction(0))
            if begin < end:
                times = {"start": round(begin / unit), "end": round(end / unit), "time_base": unit}
                chapters.append(chapter | times)
        if chapters:
            self._output.set_chapters(chapters)  # type: ignore[arg-type]

    def _packets_of(self, streams: list[Any]) -> Generator[av.Packet[Any], None, None]:
        packets = self._input.demux(streams) if streams else iter(())
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except (av.FFmpegError, OSError):
                self._broken += 1
                if self._broken > 100 or self._info.path is None:
                    return
                packets = self._input.demux(streams)
                continue
            if packet.size == 0 or (packet.pts is None and packet.dts is None):
                continue
            if packet.stream.index in self._open:
                self._clocks[packet.stream.index].read(_stamp(packet))
                yield packet

    def _write(self, packet: av.Packet[Any], origin_s: Fraction) -> None:
        """Copies or converts a packet; the output's time begins at ``origin_s`` of its stamps."""
        index = packet.stream.index
        if packet.stream.name == "mov_text" and packet.size <= 2:
            return  # the end of a line, which the muxer writes by itself
        if index in self._coded:
            for coded in self._coded[index].encode(packet, origin_s):
                self._output.mux(coded)
            return
        shift = round(origin_s / packet.time_base)
        if packet.pts is not None:
            packet.pts -= shift
        if packet.dts is not None:
            packet.dts -= shift
        if self._output.format.name in _NO_NEGATIVE:
            # The muxer would move all streams, the picture too, to make room for an encoder's few lead-in samples.
            packet.pts = None if packet.pts is None else max(0, packet.pts)
            packet.dts = None if packet.dts is None else max(0, packet.dts)
        if index in self._filters:
            for filtered in self._filters[index].filter(packet):
                self._send(index, filtered)
        else:
            self._send(index, packet)

    def _send(self, index: int, packet: av.Packet[Any]) -> None:
        packet.stream = self._copied[index]
        self._output.mux(packet)


def _stamp(packet: av.Packet[Any]) -> Fraction:
    return Fraction((packet.pts if packet.pts is not None else packet.dts or 0) * packet.time_base)


def _decoded_s(packet: av.Packet[Any]) -> Fraction:
    return Fraction((packet.dts if packet.dts is not None else packet.pts or 0) * packet.time_base)


def _is_adts(stream: Any) -> bool:
    """AAC with a header before each packet, as transport streams have it, instead of one for all."""
    return stream.name == "aac" and not stream.codec_context.extradata


class _Transcoder:
    """Sound that the container does not take, as AAC, or as Opus where it is WebM."""

    def __init__(self, output: av.container.OutputContainer, source: Any) -> None:
        self.name = "opus" if output.format.name == "webm" else "aac"
        opus = self.name == "opus"
        rate = 48_000 if opus else source.codec_context.sample_rate or 48_000
        self.stream: Any = output.add_stream("libopus" if opus else "aac", rate=rate, bit_rate=AAC_BITS)
        layout = source.codec_context.layout
        if "channels" in layout.name:  # raw sound does not say where its channels belong
            layout = {1: "mono", 6: "5.1", 8: "7.1"}.get(layout.nb_channels, "stereo")
        self.stream.codec_context.layout = layout
        self.stream.codec_context.open()
        coder = self.stream.codec_context
        self._resampler = av.AudioResampler(coder.format, coder.layout, coder.sample_rate, coder.frame_size or 1024)

    def encode(self, packet: av.Packet[Any], origin_s: Fraction) -> Iterator[av.Packet[Any]]:
        try:
            frames: list[Any] = list(packet.decode())
        except av.FFmpegError:
            return
        for frame in frames:
            if frame.pts is not None and frame.time_base:
                frame.pts -= round(origin_s / frame.time_base)
            for resampled in self._resampler.resample(frame):
                yield from self.stream.encode(resampled)

    def flush(self) -> Iterator[av.Packet[Any]]:
        for resampled in self._resampler.resample(None):
            yield from self.stream.encode(resampled)
        yield from self.stream.encode(None)
