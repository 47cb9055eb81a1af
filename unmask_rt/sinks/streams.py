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
from unmask_rt.sources.video import moving_picture

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
_STREAM_KEYS = {"language": "language", "name": "title", "title": "title", "handler_name": "handler_name"}
"""What a stream keeps of its source's tags, and under which name: FFmpeg reads MP4's titles as names."""
_SETTLES = {"ac3": 1, "eac3": 2, "truehd": 1}
"""Sound that MP4 and MOV describe by its own first packets: how many must be there before the header is written."""
LATE_S = 1
"""Where those come later after the beginning, a file broken off before them would not play."""
LOOK_BACK_S = 10
"""How long before a cut a line of subtitles may begin that is still on the screen there."""
_MICROSECOND = Fraction(1, 1_000_000)
"""What FFmpeg rounds the time to at which a file begins."""
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
        self._open_input = lambda: av.open(str(info.address), metadata_errors="replace", timeout=timeout_s)
        self._input = self._open_input()
        self._later = info.origin_s * 1_000_000 > (self._input.start_time or 0)
        self._settled_s = Fraction(0)
        self._picture = moving_picture(self._input)
        self._copied: dict[int, Any] = {}
        self._filters: dict[int, av.BitStreamFilterContext] = {}
        self._coded: dict[int, _Transcoder] = {}
        self._lines: dict[int, tuple[int, Fraction]] = {}
        self._broken = 0
        self._pending: av.Packet[Any] | None = None
        for stream in self._input.streams:
            if not self._take(stream):
                stream.discard = Discard.all
        self._copy_metadata()
        streams = [self._input.streams[i] for i in (*self._copied, *self._coded)]
        if info.origin_s > 0 and streams and self._later and not may_begin_anew(self._input):
            words = any(stream.type == "subtitle" for stream in streams)
            try:
                self._seek(self._input, info.origin_s - (LOOK_BACK_S if words else 0))
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
            elif self._belongs(packet, time_s, length_s) and not clock.overlaps(time_s, length_s):
                clock.end = max(clock.end, time_s + length_s)
                if packet.stream.type == "subtitle" and length_s:
                    self._trim(packet, shift)
                self._write(packet, origin - shift)

    def settle(self) -> None:
        """Copies as much as the header of the output needs, before a file that is broken off is closed."""
        self.advance(self._settled_s)
        self._end_lines()

    def finish(self, end_s: Fraction | None) -> None:
        """Copies what is left up to the end of the cut (None: of the file) and empties the encoders."""
        self.advance(end_s)
        for index, bits in self._filters.items():
            for packet in bits.filter(None):
                self._send(index, packet)
        for coder in self._coded.values():
            for packet in coder.flush():
                self._output.mux(packet)
        self._end_lines()
        if self._broken:
            self._notes.append(f"{self._broken} broken packets of sound or subtitles were skipped.")

    def _end_lines(self) -> None:
        """Ends the last line of MP4's text: the muxer's own end would last as long as that line."""
        for index, (pts, unit) in self._lines.items():
            end: av.Packet[Any] = av.Packet(bytes(2))
            end.pts = end.dts = pts
            end.time_base, end.duration = unit, 0
            self._send(index, end)

    def close(self) -> None:
        """Frees the file."""
        self._packets.close()
        self._input.close()

    def _seek(self, container: av.container.InputContainer, time_s: Fraction) -> None:
        container.seek(max(int(time_s * 1_000_000), container.start_time or 0))

    def _belongs(self, packet: av.Packet[Any], time_s: Fraction, length_s: Fraction) -> bool:
        """Whether a packet lies behind the beginning of the cut; a line of subtitles need only reach beyond it."""
        origin = self._info.origin_s
        overhangs = packet.stream.type == "subtitle" and time_s + length_s > origin
        return origin <= 0 or time_s >= origin - _MICROSECOND or overhangs

    def _trim(self, packet: av.Packet[Any], shift: Fraction) -> None:
        """Takes off what a line of subtitles lasts beyond the cut."""
        origin, end, unit = self._info.origin_s, self._info.end_s, packet.time_base
        begins_s = _stamp(packet)
        ends_s = begins_s + (packet.duration or 0) * unit
        if origin > 0:
            begins_s = max(begins_s, origin - shift)
        if end is not None:
            ends_s = min(ends_s, end - shift)
        packet.pts = packet.dts = round(begins_s / unit)
        packet.duration = max(1, round(ends_s / unit) - packet.pts)

    def _settles(self, stream: Any, name: str) -> str:
        """Whether sound comes early enough for the output's header: "yes", "late", or "never" in all of the cut."""
        count = _SETTLES.get(name, 0) if self._output.format.name in ("mp4", "mov") else 0
        if not count:
            return "yes"
        try:
            times, whole = self._first_packets(stream.index, count)
        except (av.FFmpegError, OSError):
            return "late"  # or never: it cannot be told
        if len(times) == count:
            self._settled_s = max(self._settled_s, times[-1] - self._info.origin_s)
            return "yes"
        return "never" if whole and not times else "late"

    def _first_packets(self, index: int, count: int) -> tuple[list[Fraction], bool]:
        """Looks for a stream's first packets in the cut.

        Returns:
            Their media times in seconds, ``count`` at most, and whether all of the cut was searched for them.
        """
        origin, end = self._info.origin_s, self._info.end_s
        times: list[Fraction] = []
        with self._open_input() as container:
            jumps = origin > 0 and self._later
            certain = not (jumps and may_begin_anew(container))
            until = max(origin, (container.start_time or 0) * _MICROSECOND) + LATE_S
            if jumps:
                self._seek(container, origin)
            for packet in container.demux():
                if packet.size == 0 or (packet.pts is None and packet.dts is None):
                    continue
                time_s = _stamp(packet)
                past = end is not None and time_s >= end
                if packet.stream.index == index and self._belongs(packet, time_s, Fraction(0)) and not past:
                    times.append(time_s)
                    if len(times) == count:
                        return times, False
                if _decoded_s(packet) >= (until if end is None else min(until, end)):
                    return times, certain and end is not None and end <= until
        return times, certain

    def _take(self, stream: Any) -> bool:
        kind, name = stream.type, stream.name or "unknown"
        if kind == "video":
            if stream is self._picture:
                _describe(self._output.streams.video[0], stream)
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
        settles, reason = self._settles(stream, name), f"{self._output.format.name} does not take it"
        if settles == "never":
            self._notes.append(f"The sound ({name}) is not copied: there is none of it in this part.")
            return False
        if settles == "late":
            reason = f"{self._output.format.name} takes it only where it starts with the picture"
        try:
            if settles == "late" or not self._takes(stream, name):
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
            self._notes.append(f"The sound ({name}) was converted to {coder.name}: {reason}.")
        else:
            self._copied[stream.index] = copy
            if _is_adts(stream) and self._output.format.name in ("mp4", "mov"):
                self._filters[stream.index] = av.BitStreamFilterContext("aac_adtstoasc", stream)
        _describe(copy, stream)
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
        tags = {k: v for k, v in self._input.metadata.items() if k.lower() not in _OWN_KEYS}
        timed = {k for k in tags if k.lower() == "timecode"} if self._later else set()
        if timed:
            self._notes.append("The time code is not copied: it counts from the beginning of the whole file.")
        self._output.metadata.update({k: v for k, v in tags.items() if k not in timed})
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
        if packet.stream.name == "mov_text" and self._output.format.name in ("mp4", "mov") and packet.pts is not None:
            self._lines[index] = packet.pts + (packet.duration or 0), packet.time_base
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


def _describe(copy: Any, stream: Any) -> None:
    """Gives a stream of the output its source's language, title and flags."""
    copy.metadata.update({_STREAM_KEYS[k]: v for k, v in stream.metadata.items() if k in _STREAM_KEYS})
    copy.disposition = stream.disposition


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
