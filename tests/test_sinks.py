"""One suite for every sink, then what each kind promises by itself."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from PIL import Image, ImageCms

from tests.media import moving_gradient, write_video
from unmask_rt import orient, planes
from unmask_rt.errors import ExtraError, SinkError, SourceError, UsageError
from unmask_rt.provenance import DIGITAL_SOURCE_TYPE, Provenance
from unmask_rt.sinks import EncodeOptions, Sink, SinkReport, open_sink
from unmask_rt.sinks import video as video_sink
from unmask_rt.sinks.encoders import available_encoders, encoder_options, find_encoder, pixel_format
from unmask_rt.sinks.null import NullSink
from unmask_rt.sinks.pictures import PictureSink, plan_names
from unmask_rt.sinks.streams import WAIT_S, SideStreams, _Clock
from unmask_rt.sinks.video import VideoSink
from unmask_rt.sources import Source, open_source
from unmask_rt.sources.arrays import ArraySource
from unmask_rt.sources.pictures import PictureSource
from unmask_rt.sources.stamps import Stamps

HASH = "0123456789abcdef" * 4
MADE_BY = Provenance(HASH, "unmask-rt test")
QUICK = EncodeOptions(preset="ultrafast")


def copy(source: Source, out: Path | None, options: EncodeOptions = QUICK, **more: Any) -> SinkReport:
    """The whole way from a source to an output with nothing in between."""
    sink = open_sink(out, source, encode=options, provenance=MADE_BY, **more)
    for frame in source:
        sink.write(frame)
    return sink.finish()


def packets(path: Path, kind: str = "audio") -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        return [
            (packet.pts * packet.time_base, bytes(packet))
            for packet in container.demux(**{kind: 0})
            if packet.size and packet.pts is not None
        ]


def decoded(path: Path, *, torn: bool = False) -> list[av.VideoFrame]:
    """Every frame; of a file that was torn off, every frame before the tear."""
    frames: list[av.VideoFrame] = []
    with av.open(str(path)) as container, contextlib.suppress(*([av.FFmpegError] if torn else [])):
        frames.extend(container.decode(video=0))
    return frames


def samples(video: av.VideoFrame) -> list[np.ndarray]:
    return [p.copy() for p in planes.rows(video)]


# Conformance


def a_video(folder: Path) -> tuple[Source, Sink]:
    source = ArraySource(moving_gradient(6))
    return source, VideoSink(folder / "out.mp4", source.info, QUICK, MADE_BY)


def a_folder(folder: Path) -> tuple[Source, Sink]:
    (folder / "in").mkdir()
    for i, picture in enumerate(moving_gradient(6)):
        Image.fromarray(picture).save(folder / "in" / f"{i}.png")
    source = PictureSource(folder / "in")
    return source, PictureSink(folder / "out", source, MADE_BY)


def a_window(folder: Path) -> tuple[Source, Sink]:
    pytest.importorskip("pygame")
    from unmask_rt.sinks.preview import PreviewSink

    return ArraySource(moving_gradient(6)), PreviewSink()


def nothing(_: Path) -> tuple[Source, Sink]:
    return ArraySource(moving_gradient(6)), NullSink()


def labelled(folder: Path) -> tuple[Source, Sink]:
    source = ArraySource(moving_gradient(6))
    return source, open_sink(folder / "out.mkv", source, encode=QUICK, label="on")


@pytest.fixture(params=[a_video, a_folder, a_window, nothing, labelled], ids=lambda f: f.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return lambda: request.param(tmp_path)


def test_conformance(make: Callable[[], tuple[Source, Sink]]) -> None:
    source, sink = make()
    assert not sink.stopped
    for frame in source:
        before = samples(frame.video)
        sink.write(frame)
        assert frame.video.pts == frame.pts
        assert all((p == q).all() for p, q in zip(samples(frame.video), before, strict=True)), "frames are not changed"
    report = sink.finish()
    assert (report.frames, report.complete) == (6, True)
    assert report.path is None or report.path.exists()
    assert sink.finish() == report
    assert sink.abort() == report


def test_abort(make: Callable[[], tuple[Source, Sink]]) -> None:
    source, sink = make()
    frames = iter(source)
    for _ in range(3):
        sink.write(next(frames))
    report = sink.abort()
    assert (report.frames, report.complete) == (3, False)
    assert sink.abort() == report
    source.close()


def test_abort_before_the_first_frame(make: Callable[[], tuple[Source, Sink]]) -> None:
    source, sink = make()
    report = sink.abort()
    assert (report.frames, report.complete, report.path) == (0, False, None)
    source.close()


# Videos


@pytest.mark.parametrize(
    "fmt",
    ["yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le", "gray", "gray10le"],
)
def test_untouched_frames_arrive_bit_by_bit(tmp_path: Path, fmt: str) -> None:
    frames = [planes.clone(f.video) for f in ArraySource(moving_gradient(4), pixel_format=fmt)]
    report = copy(ArraySource(moving_gradient(4), pixel_format=fmt), tmp_path / "out.mkv", EncodeOptions(codec="ffv1"))
    assert report.notes == ()
    for wrote, read in zip(frames, decoded(tmp_path / "out.mkv"), strict=True):
        assert read.format.name == fmt.replace("yuvj", "yuv") and planes.is_full_range(read) == planes.is_full_range(
            wrote
        )
        assert all((p == q).all() for p, q in zip(samples(wrote), samples(read), strict=True))


def test_colour_tags_and_range_are_kept(tmp_path: Path) -> None:
    source = ArraySource(moving_gradient(3), pixel_format="yuv420p10le")
    sink = VideoSink(tmp_path / "out.mp4", source.info, QUICK, MADE_BY)
    for frame in source:
        frame.video.colorspace, frame.video.color_range = 9, planes.LIMITED
        frame.video.color_primaries, frame.video.color_trc = 9, 18  # BT.2020, HLG
        sink.write(frame)
    sink.finish()
    video = decoded(tmp_path / "out.mp4")[0]
    tags = video.colorspace, video.color_range, video.color_primaries, video.color_trc
    assert (video.format.name, *tags) == ("yuv420p10le", 9, planes.LIMITED, 9, 18)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("degrees", [0, 90, 270])
def test_rotation_and_aspect_are_kept(tmp_path: Path, suffix: str, degrees: int) -> None:
    source = ArraySource(moving_gradient(3))
    turn = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 270: (0, -1, 1, 0)}[degrees]
    a, b, c, d = (v << 16 for v in turn)
    transform, size = orient.to_display(96, 64, Fraction(64, 45), (a, b, 0, c, d, 0, 0, 0, 1 << 30))
    sink = VideoSink(tmp_path / f"out{suffix}", source.info, QUICK, MADE_BY)
    for frame in source:
        sink.write(replace(frame, to_display=transform, display_size=size))
    sink.finish()
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(64, 45)
    again = open_source(tmp_path / f"out{suffix}")
    frame = next(iter(again))
    assert np.allclose(frame.to_display, transform) and frame.display_size == size
    again.close()


@pytest.mark.parametrize("size", [(93, 61), (96, 61), (93, 64)])
def test_odd_sizes_keep_their_size(tmp_path: Path, size: tuple[int, int]) -> None:
    report = copy(ArraySource(moving_gradient(3, size)), tmp_path / "out.mp4")
    video = decoded(tmp_path / "out.mp4")[0]
    assert (video.width, video.height) == size
    assert any("converted" in note for note in report.notes)


def test_a_keyframe_every_two_seconds_whatever_the_rate(tmp_path: Path) -> None:
    source = ArraySource([moving_gradient(1)[0]] * 40, rate=Fraction(4))
    copy(source, tmp_path / "out.mp4", EncodeOptions(preset="veryfast"))
    with av.open(str(tmp_path / "out.mp4")) as container:
        keys = [p.pts * p.time_base for p in container.demux(video=0) if p.is_keyframe and p.pts is not None]
    assert max(b - a for a, b in zip(keys, [*keys[1:], Fraction(10)], strict=True)) <= 2


def test_decoded_picture_types_are_no_orders(tmp_path: Path) -> None:
    write_video(tmp_path / "in.mp4", moving_gradient(30), options={"g": "1"})
    copy(open_source(tmp_path / "in.mp4"), tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(p.is_keyframe for p in container.demux(video=0) if p.size) <= 3


def test_every_encoder_that_opens_encodes(tmp_path: Path) -> None:
    usable = [name for name, reason in available_encoders().items() if not reason]
    assert "libx264" in usable
    for name in usable:
        out = tmp_path / (f"{name}.mov" if name == "prores_ks" else f"{name}.mkv")
        report = copy(ArraySource(moving_gradient(3)), out, EncodeOptions(codec=name, crf=30))
        assert len(decoded(out)) == 3 and report.codec == name
        error = np.abs(decoded(out)[1].to_ndarray(format="rgb24").astype(int) - moving_gradient(3)[1])
        assert error.mean() < 12, name


def test_no_encoder_leaves_a_thread_on_real_time_priority() -> None:
    if not hasattr(os, "sched_getscheduler"):
        pytest.skip("no scheduling classes on this system")
    available_encoders()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # one that has just ended
            assert os.sched_getscheduler(int(task.name)) == os.SCHED_OTHER


def test_a_thread_that_ends_just_then_does_not_keep_an_encoder_from_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(os, "sched_getscheduler"):
        pytest.skip("no scheduling classes on this system")
    asked = []

    def gone(thread: int) -> int:
        asked.append(thread)
        raise ProcessLookupError(3, "No such process")

    monkeypatch.setattr(os, "sched_getscheduler", gone)
    copy(ArraySource(moving_gradient(3)), tmp_path / "out.mp4")
    assert asked and len(decoded(tmp_path / "out.mp4")) == 3


def test_hardware_that_is_not_there(tmp_path: Path) -> None:
    missing = [name for name, reason in available_encoders().items() if reason]
    if not missing:
        pytest.skip("every encoder works here")
    with pytest.raises(ExtraError, match=f"{missing[0]} does not work on this machine") as caught:
        VideoSink(tmp_path / "out.mp4", ArraySource(moving_gradient(1)).info, EncodeOptions(codec=missing[0]), MADE_BY)
    assert caught.value.exit_code == 3 and "libx264" in caught.value.hint


def test_hevc_has_the_tag_that_quicktime_plays(tmp_path: Path) -> None:
    copy(ArraySource(moving_gradient(3)), tmp_path / "out.mp4", EncodeOptions(codec="libx265"))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


def test_the_pixel_format_is_kept_or_the_nearest() -> None:
    for codec, given, expected in (
        ("libx264", "yuv422p10le", "yuv422p10le"),
        ("libx264", "yuv420p12le", "yuv420p10le"),
        ("libx264", "yuva420p", "yuv420p"),
        ("libsvtav1", "yuvj420p", "yuv420p"),
        ("libx265", "gbrp", "gbrp"),
        ("libx264", "bgr24", "yuv420p"),  # what cameras give
        ("libvpx-vp9", "rgb24", "yuv420p"),
        ("libx264rgb", "bgr24", "bgr24"),
        ("ffv1", "rgb24", "bgr0"),
    ):
        assert pixel_format(find_encoder(codec), given, 64, 64) == expected, (codec, given)
    assert pixel_format(find_encoder("libx264"), "yuv420p", 63, 64) == "yuv444p"


def test_low_latency_leaves_nothing_in_the_encoder(tmp_path: Path) -> None:
    source = ArraySource(moving_gradient(10))
    sink = VideoSink(tmp_path / "out.mp4", source.info, replace(QUICK, low_latency=True), MADE_BY)
    counts = []
    mux = sink._mux

    def count(packet: av.Packet[Any]) -> None:
        counts.append(1)
        mux(packet)

    sink._mux = count  # type: ignore[method-assign]
    for i, frame in enumerate(source, 1):
        sink.write(frame)
        assert len(counts) == i
    sink.finish()


# Streams beside the picture


def with_everything(path: Path, seconds: int = 3, lines: list[tuple[int, int]] | None = None) -> Path:
    """MP4 with sound, text subtitles, chapters, titles and languages.

    Args:
        path: of the file.
        seconds: how long it is.
        lines: beginning and length of each line of subtitles in milliseconds; None for half a line each second.
    """
    with av.open(str(path), "w") as container:
        container.metadata.update({"title": "A title", "comment": "Mine"})
        video: Any = container.add_stream("libx264", rate=25, width=96, height=64)
        audio: Any = container.add_stream("aac", rate=48_000, layout="mono")
        words: Any = container.add_mux_stream("mov_text")
        words.time_base = Fraction(1, 1000)
        audio.metadata.update({"language": "fra", "title": "Comment"})
        video.metadata.update({"language": "deu", "title": "Main"})
        container.set_chapters(
            [
                {"id": 1, "start": 0, "end": 1000, "time_base": Fraction(1, 1000), "metadata": {"title": "One"}},
                {"id": 2, "start": 1000, "end": 3000, "time_base": Fraction(1, 1000), "metadata": {"title": "Two"}},
            ]
        )
        container.start_encoding()
        for i, picture in enumerate(moving_gradient(25 * seconds)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave = np.sin(np.arange(48_000 * seconds, dtype=np.float32) / 20)[None] * 0.2
        sound = av.AudioFrame.from_ndarray(wave, "fltp", "mono")
        sound.sample_rate, sound.pts = 48_000, 0
        container.mux(audio.encode(sound))
        container.mux(audio.encode(None))
        for i, (begin, length) in enumerate(lines or [(i * 1000, 500) for i in range(seconds)]):
            text = f"Line {i}".encode()
            packet: Any = av.Packet(len(text).to_bytes(2, "big") + text)
            packet.stream, packet.time_base = words, Fraction(1, 1000)
            packet.pts = packet.dts = begin
            packet.duration = length
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_everything(tmp_path_factory.mktemp("media") / "in.mp4")


def test_sound_and_subtitles_are_copied_bit_by_bit(tmp_path: Path, everything: Path) -> None:
    report = copy(open_source(everything), tmp_path / "out.mp4")
    assert report.notes == ()
    assert packets(tmp_path / "out.mp4") == packets(everything)
    lines = [(t, data) for t, data in packets(everything, "subtitles") if len(data) > 2]
    assert [(t, d) for t, d in packets(tmp_path / "out.mp4", "subtitles") if len(d) > 2] == lines and len(lines) == 3
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.metadata["title"] == "A title"
        assert container.metadata["comment"].startswith("Mine; ")
        assert container.streams.audio[0].language == "fra"
        names = [(c["start"] * (c["time_base"] or 0), c["metadata"]["title"]) for c in container.chapters()]
        assert names == [(0, "One"), (1, "Two")]


def test_sound_lies_beside_its_picture(tmp_path: Path, everything: Path) -> None:
    copy(open_source(everything), tmp_path / "out.mkv")
    latest = {"video": Fraction(0), "audio": Fraction(0)}
    with av.open(str(tmp_path / "out.mkv")) as container:
        for packet in container.demux():
            if packet.dts is not None and packet.stream.type in latest:
                latest[packet.stream.type] = packet.dts * packet.time_base
                assert abs(latest["video"] - latest["audio"]) < 1


def test_a_cut_takes_its_own_sound(tmp_path: Path, everything: Path) -> None:
    source = open_source(everything, start_s=1.0, duration_s=1.0)
    copy(source, tmp_path / "out.mp4")
    whole = packets(everything)
    expected = [(t - 1, data) for t, data in whole if 1 <= t < 2]
    cut = packets(tmp_path / "out.mp4")
    assert [d for _, d in cut] == [d for _, d in expected]
    assert max(abs(a[0] - b[0]) for a, b in zip(cut, expected, strict=True)) < Fraction(1, 24_000)
    frames = decoded(tmp_path / "out.mp4")
    assert len(frames) == 25 and frames[0].time == 0
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [c["metadata"]["title"] for c in container.chapters()] == ["Two"]


def test_no_audio(tmp_path: Path, everything: Path) -> None:
    copy(open_source(everything), tmp_path / "out.mp4", replace(QUICK, audio=False))
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert [s.type for s in container.streams] == ["video"]


def test_what_the_container_does_not_take_is_said(tmp_path: Path, everything: Path) -> None:
    report = copy(open_source(everything), tmp_path / "out.webm", EncodeOptions(codec="libvpx-vp9", crf=40))
    assert any("converted to opus" in note for note in report.notes)
    assert any("subtitles (mov_text) are not copied" in note for note in report.notes)
    with av.open(str(tmp_path / "out.webm")) as container:
        assert [s.type for s in container.streams] == ["video", "audio"]
        heard = sum(f.samples for f in container.decode(audio=0))
    assert abs(heard - 3 * 48_000) < 4000


def test_pcm_becomes_aac_where_needed(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        video: Any = container.add_stream("libx264", rate=25, width=96, height=64)
        audio: Any = container.add_stream("pcm_s16le", rate=44_100, layout="stereo")
        for i, picture in enumerate(moving_gradient(25)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 88_200), np.int16), "s16", "stereo")
        sound.sample_rate, sound.pts = 44_100, 0
        container.mux(audio.encode(sound))
    assert copy(open_source(tmp_path / "in.mkv"), tmp_path / "same.mov").notes == ()
    report = copy(open_source(tmp_path / "in.mkv"), tmp_path / "out.ts", label="off")
    assert any("converted to aac" in note for note in report.notes)


def with_sound(
    path: Path, codec: str, sound: str, *, seconds: int = 1, heard_s: tuple[float, float] | None = None
) -> Path:
    """A file with sound as its container keeps it: AAC with headers in MPEG-TS, PCM without places in AVI.

    Args:
        path, codec, sound: of the file, of its picture and of its sound.
        seconds: how long it is.
        heard_s: where the sound begins and ends, in seconds; None for all along.
    """
    begin_s, end_s = heard_s or (0.0, seconds)
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream(codec, rate=25, width=96, height=64)
        video.pix_fmt = "yuv420p"
        audio: Any = container.add_stream(sound, rate=48_000, layout="stereo")
        for i, picture in enumerate(moving_gradient(25 * seconds)):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        wave = np.sin(np.arange(round(48_000 * (end_s - begin_s)), dtype=np.float32) / 20)[None].repeat(2, 0) * 0.2
        heard = av.AudioFrame.from_ndarray(np.ascontiguousarray(wave), "fltp", "stereo")
        heard.sample_rate, heard.pts, heard.time_base = 48_000, round(48_000 * begin_s), Fraction(1, 48_000)
        coder = audio.codec_context
        cut = av.AudioResampler(coder.format, "stereo", 48_000, coder.frame_size or 1024)
        for piece in (*cut.resample(heard), *cut.resample(None)):
            container.mux(audio.encode(piece))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize(
    ("source", "codec", "sound", "suffix", "becomes"),
    [
        ("in.avi", "mpeg4", "pcm_s16le", ".mp4", "aac"),
        ("in.avi", "mpeg4", "pcm_s16le", ".mov", "pcm_s16le"),
        ("in.ts", "libx264", "aac", ".mp4", "aac"),
        ("in.ts", "libx264", "aac", ".mov", "aac"),
        ("in.ts", "libx264", "aac", ".avi", "aac"),
        ("in.mkv", "libx264", "libopus", ".mov", "aac"),
        ("in.mkv", "libx264", "flac", ".mov", "aac"),
    ],
)
def test_sound_of_any_container_arrives_in_any_other(
    tmp_path: Path, source: str, codec: str, sound: str, suffix: str, becomes: str
) -> None:
    path = with_sound(tmp_path / source, codec, sound)
    copied = sound == becomes and suffix != ".avi"
    report = copy(open_source(path), tmp_path / f"out{suffix}", EncodeOptions(codec="mpeg4", preset=None))
    assert any("was converted to aac" in note for note in report.notes) is not copied
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        assert container.streams.audio[0].codec_context.name == becomes
        heard = [frame.to_ndarray() for frame in container.decode(audio=0)]
    assert abs(sum(h.shape[-1] // (1 if h.shape[0] == 2 else 2) for h in heard) - 48_000) < 4000
    assert max(float(np.abs(h.astype(np.float64)).max()) for h in heard) > 0.1, "silence"


def broken_off(source: Source, out: Path, count: int, preset: str) -> SinkReport:
    """A run that ends after ``count`` frames."""
    sink = open_sink(out, source, encode=EncodeOptions(preset=preset))
    for frame in source:
        sink.write(frame)
        if frame.index + 1 == count:
            break
    source.close()
    return sink.abort()


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("sound", ["ac3", "eac3"])
def test_sound_that_describes_itself_is_looked_for_before_the_header(tmp_path: Path, sound: str, suffix: str) -> None:
    """MP4 and MOV write no header before the first packets of AC-3 and its kin."""
    path = with_sound(tmp_path / "in.mkv", "libx264", sound, seconds=5, heard_s=(0.5, 2))
    whole, later, never = (tmp_path / f"{name}{suffix}" for name in ("whole", "later", "never"))
    assert copy(open_source(path), whole).notes == ()
    assert [data for _, data in packets(whole)] == [data for _, data in packets(path)]
    report = copy(open_source(path, start_s=3, duration_s=0.8), never)
    assert "there is none of it in this part" in report.notes[0] and len(report.notes) == 1
    report = copy(open_source(path, start_s=3), later)
    assert "converted to aac" in report.notes[0] and "starts with the picture" in report.notes[0]
    assert (len(decoded(never)), len(decoded(later))) == (20, 50)


@pytest.mark.parametrize(("begin_s", "becomes"), [(0.0, "same"), (0.6, "same"), (2.0, "aac")])
@pytest.mark.parametrize("preset", ["ultrafast", "veryfast"])
@pytest.mark.parametrize("sound", ["ac3", "eac3"])
def test_a_file_that_is_broken_off_before_its_sound_begins_plays(
    tmp_path: Path, sound: str, preset: str, begin_s: float, becomes: str
) -> None:
    path = with_sound(tmp_path / "in.mkv", "libx264", sound, seconds=4, heard_s=(begin_s, 3))
    for count in (1, 5):
        report = broken_off(open_source(path), tmp_path / f"{count}.mp4", count, preset)
        assert report.path is not None and len(decoded(report.path)) == count
        assert not any("cannot be played" in note for note in report.notes)
        with av.open(str(report.path)) as container:
            assert container.streams.audio[0].codec_context.name == (sound if becomes == "same" else becomes)


def test_sound_begins_with_the_file_where_its_clock_is_no_whole_microsecond(tmp_path: Path) -> None:
    path = with_sound(tmp_path / "in.ts", "libx264", "aac")
    first_s, started = packets(path)[0][0], av.open(str(path))
    assert Fraction(started.start_time or 0, 1_000_000) > first_s, "FFmpeg rounds it up"
    started.close()
    copy(open_source(path), tmp_path / "out.mkv")
    assert len(packets(tmp_path / "out.mkv")) == len(packets(path))


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", ".mp4"), ("mpeg2video", ".mkv"), ("prores_ks", ".mov")])
def test_interlaced_video_stays_so(tmp_path: Path, codec: str, suffix: str) -> None:
    path = write_video(tmp_path / "in.mp4", moving_gradient(5), options={"flags": "+ildct+ilme"})
    assert decoded(path)[0].interlaced_frame
    copy(open_source(path), tmp_path / f"out{suffix}", EncodeOptions(codec=codec, preset=None))
    assert decoded(tmp_path / f"out{suffix}")[0].interlaced_frame
    report = copy(open_source(path), tmp_path / "out.webm", EncodeOptions(codec="libvpx-vp9", crf=40))
    assert any("does not write interlaced video" in note for note in report.notes)


def test_lines_at_the_edges_of_a_cut_are_cut(tmp_path: Path) -> None:
    path = with_everything(tmp_path / "in.mp4", lines=[(200, 700), (1200, 1700)])
    copy(open_source(path, start_s=0.5, duration_s=1.0), tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        lines = [
            (float(p.pts * p.time_base), float((p.duration or 0) * p.time_base))
            for p in container.demux(subtitles=0)
            if p.size > 2 and p.pts is not None
        ]
        assert container.duration is not None and container.duration < 1_050_000
    assert np.allclose(lines, [(0, 0.4), (0.7, 0.3)], atol=0.002)


def test_a_line_that_begins_long_before_a_cut_is_found(tmp_path: Path) -> None:
    """Also where the file is searched by the picture's keyframes."""
    plain = write_video(tmp_path / "plain.mkv", moving_gradient(100), options={"g": "10"})
    with av.open(str(plain)) as given, av.open(str(tmp_path / "in.mkv"), "w") as container:
        video: Any = container.add_stream_from_template(given.streams.video[0])
        words: Any = container.add_mux_stream("subrip")
        words.time_base = Fraction(1, 1000)
        container.start_encoding()
        line: Any = av.Packet(b"A line")
        line.stream, line.time_base, line.pts, line.dts, line.duration = words, Fraction(1, 1000), 500, 500, 3000
        container.mux(line)
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = video
                container.mux(packet)
    copy(open_source(tmp_path / "in.mkv", start_s=3), tmp_path / "out.mkv")
    assert packets(tmp_path / "out.mkv", "subtitles") == [(0, b"A line")]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_streams_keep_their_titles_and_languages(tmp_path: Path, everything: Path, suffix: str) -> None:
    copy(open_source(everything), tmp_path / f"out{suffix}")
    with av.open(str(tmp_path / f"out{suffix}")) as container:
        for stream, language, title in (
            (container.streams.video[0], ("deu", "ger"), "Main"),
            (container.streams.audio[0], ("fra", "fre"), "Comment"),
        ):
            assert stream.metadata["language"] in language
            assert stream.metadata.get("title", stream.metadata.get("name")) == title
            assert stream.disposition & Disposition.default


def test_a_cut_does_not_keep_the_time_code_of_the_whole(tmp_path: Path) -> None:
    path = write_video(tmp_path / "in.mkv", moving_gradient(25), metadata={"timecode": "01:00:00:00"})
    for start_s, code in ((0, "01:00:00:00"), (0.4, None)):
        report = copy(open_source(path, start_s=start_s), tmp_path / "out.mkv", overwrite=True)
        assert any("time code is not copied" in note for note in report.notes) is (code is None)
        with av.open(str(tmp_path / "out.mkv")) as container:
            assert {k.lower(): v for k, v in container.metadata.items()}.get("timecode") == code


def test_a_comment_in_capitals_is_kept(tmp_path: Path) -> None:
    """Matroska's own key is COMMENT."""
    path = write_video(tmp_path / "plain.mkv", moving_gradient(3))
    with av.open(str(path)) as given, av.open(str(tmp_path / "in.mkv"), "w") as container:
        container.metadata["comment"] = "my own words"
        video: Any = container.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(given.streams.video[0]):
            if packet.size:
                packet.stream = video
                container.mux(packet)
    copy(open_source(tmp_path / "in.mkv"), tmp_path / "out.mkv")
    with av.open(str(tmp_path / "out.mkv")) as container:
        comments = [text for key, text in container.metadata.items() if key.lower() == "comment"]
    assert comments == [f"my own words; {MADE_BY.comment}"]


def test_a_stream_s_sound_is_left_and_said(tmp_path: Path) -> None:
    info = replace(ArraySource(moving_gradient(3)).info, kind="live", live=True, audio_streams=1)
    sink = VideoSink(tmp_path / "out.mp4", info, QUICK, MADE_BY)
    for frame in ArraySource(moving_gradient(3)):
        sink.write(frame)
    assert any("sound is not recorded" in note for note in sink.finish().notes)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_recordings_that_were_joined_go_on_where_the_first_ended(tmp_path: Path, suffix: str) -> None:
    """Their clock begins anew at the joint: every frame and the sound follow what was before, as long as both parts."""
    part = with_sound(tmp_path / "part.ts", "libx264", "aac", seconds=2).read_bytes()
    (tmp_path / "in.ts").write_bytes(part + part)
    source = open_source(tmp_path / "in.ts")
    report = copy(source, tmp_path / f"out{suffix}")
    assert any("began anew 1 times" in note for note in source.notes) and report.frames == 100
    out = tmp_path / f"out{suffix}"
    steps = np.diff([float(frame.time or 0) for frame in decoded(out)])
    assert np.allclose(steps, 0.04, atol=0.002), "the joint is a frame like any other"
    sound = [float(when) for when, _ in packets(out)]
    assert all(0.01 < step < 0.06 for step in np.diff(sound)) and 3.8 < sound[-1] < 4.1


def test_a_cut_of_joined_recordings_is_counted_from_the_first_frame(tmp_path: Path) -> None:
    """Also where the same time is there twice."""
    part = with_sound(tmp_path / "part.ts", "libx264", "aac", seconds=2).read_bytes()
    (tmp_path / "in.ts").write_bytes(part + part)
    pictures = [frame.to_ndarray(format="gray") for frame in decoded(tmp_path / "part.ts")]
    for start, first in ((1.0, 25), (3.0, 25), (2.4, 10)):
        source = open_source(tmp_path / "in.ts", start_s=start, duration_s=0.4)
        report = copy(source, out := tmp_path / f"{start}.mkv", EncodeOptions(codec="ffv1"))
        assert report.frames == 10, start
        assert np.array_equal(decoded(out)[0].to_ndarray(format="gray"), pictures[first]), start
        sound = [float(when) for when, _ in packets(out)]
        assert 0 <= sound[0] < 0.05 and 0.3 < sound[-1] < 0.45, start
    with pytest.raises(SourceError, match="from 9 s on"):
        open_source(tmp_path / "in.ts", start_s=9.0)


def test_one_wrong_stamp_is_no_new_beginning(tmp_path: Path) -> None:
    plain = write_video(tmp_path / "plain.mkv", moving_gradient(100), options={"bf": "0"})
    with av.open(str(plain)) as given, av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream: Any = container.add_stream_from_template(given.streams.video[0])
        for index, packet in enumerate(p for p in given.demux(given.streams.video[0]) if p.size):
            assert packet.pts is not None
            packet.pts += 5000 if index == 30 else 0  # milliseconds
            packet.stream = stream
            container.mux(packet)
    source = open_source(tmp_path / "in.mkv")
    copy(source, tmp_path / "out.mkv")
    times = [float(frame.time or 0) for frame in decoded(tmp_path / "out.mkv")]
    assert not any("began anew" in note for note in source.notes) and len(times) == 100
    assert times[29] == pytest.approx(1.16) and times[-1] < 6.3, "the rest is not moved away from its sound"


def test_stamps_tell_a_joint_from_a_slip() -> None:
    def beginnings(*stamps: float) -> list[int]:
        clock = Stamps()
        return [i for i, stamp in enumerate(stamps) if clock.read(Fraction(stamp))]

    assert beginnings(0, 1, 2, 0, 1, 2, 0.5) == [3, 6]
    assert beginnings(0, 0.04, 5, 0.08, 0.12) == []
    assert beginnings(9, 8.5, 9.5, 0, 0.04) == [3]


def test_sound_of_which_nothing_is_known_is_left_and_said() -> None:
    """A recording without sound joined with one that has it: FFmpeg's probe ends before it."""

    class Unknown:
        type, name, index, disposition = "audio", "aac", 1, 0
        codec_context = SimpleNamespace(sample_rate=0, layout=SimpleNamespace(nb_channels=0))

    side = SideStreams.__new__(SideStreams)
    side._notes = []
    assert side._take(Unknown()) is False and "does not say how it is coded" in side._notes[0]


def test_sound_that_a_server_does_not_give_twice_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = with_sound(tmp_path / "in.mkv", "libx264", "aac")

    def refused(*_: Any) -> SideStreams:
        raise PermissionError(13, "403 Forbidden")

    monkeypatch.setattr(video_sink, "SideStreams", refused)
    report = copy(open_source(path), tmp_path / "out.mp4")
    assert report.frames == 25 and "The sound could not be read: 403 Forbidden" in report.notes


def test_sound_whose_clock_alone_begins_anew_goes_on(tmp_path: Path) -> None:
    clock = _Clock(resets := [])
    for stamp in (0, 5, 9):
        clock.read(Fraction(stamp))
        assert clock.shift(Fraction(stamp), Fraction(stamp)) == 0
    clock.end = Fraction(10)
    clock.read(Fraction(0))
    assert clock.shift(Fraction(0), Fraction(12)) is None, "the picture may come to a joint yet"
    assert clock.shift(Fraction(0), Fraction(10 + WAIT_S)) == 10 == clock.shift(Fraction(0), None)
    clock.read(Fraction(3))
    assert clock.shift(Fraction(3), Fraction(0)) == 10 and not clock.overlaps(Fraction(13), Fraction(1))
    assert clock.overlaps(Fraction(9), Fraction(1))
    other = _Clock(resets)
    other.read(Fraction(9))
    other.read(Fraction(1))
    assert other.shift(Fraction(1), Fraction(9)) is None
    resets.append(Fraction(8))
    assert other.shift(Fraction(1), Fraction(9)) == 8


# Partial files, kills, full disks


def test_what_an_earlier_run_has_left_is_not_touched(tmp_path: Path) -> None:
    out, left = tmp_path / "out.mp4", tmp_path / ".out.partial.mp4"
    write_video(left, moving_gradient(3))
    before = left.read_bytes()
    assert copy(ArraySource(moving_gradient(4)), out).path == out
    assert left.read_bytes() == before and sorted(tmp_path.iterdir()) == [left, out]
    report = copy(open_source(left), out, overwrite=True)  # the rescued part itself as input
    assert report.frames == 3 and left.read_bytes() == before


def test_nothing_partial_is_left_and_names_with_colons_work(tmp_path: Path) -> None:
    out = tmp_path / "a: b%d.mp4"
    assert copy(ArraySource(moving_gradient(3)), out).path == out
    assert list(tmp_path.iterdir()) == [out]


def test_abort_takes_the_name_only_if_it_is_free(tmp_path: Path) -> None:
    for taken in (False, True):
        out = tmp_path / f"{taken}.mp4"
        if taken:
            out.write_bytes(b"precious")
        source = ArraySource(moving_gradient(30))
        sink = VideoSink(out, source.info, QUICK, MADE_BY, overwrite=True)
        for frame in source:
            sink.write(frame)
        report = sink.abort()
        assert report.path is not None and len(decoded(report.path)) == 30
        if taken:
            assert out.read_bytes() == b"precious" and report.path != out
            assert any(str(report.path) in note for note in report.notes)
        else:
            assert report.path == out


CHILD = """
import sys, resource, signal
from fractions import Fraction
from pathlib import Path
from tests.media import moving_gradient
from unmask_rt.errors import SinkError
from unmask_rt.provenance import Provenance
from unmask_rt.sinks import EncodeOptions
from unmask_rt.sinks.video import VideoSink
from unmask_rt.sources.arrays import ArraySource
import numpy as np

limit, out = int(sys.argv[1]), Path(sys.argv[2])
noise = np.random.default_rng(0).integers(0, 255, (64, 96, 3)).astype(np.uint8)
pictures = (np.roll(noise, i, 1) for i in range(100_000))
source = ArraySource(pictures, rate=Fraction(10))
sink = VideoSink(out, source.info, EncodeOptions(preset="ultrafast"), Provenance("", "test"))
if limit:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    for frame in source:
        sink.write(frame)
        if frame.index == 120:
            print("ready", flush=True)
except SinkError as error:
    print(error)
    report = sink.abort()
    print(report.path, report.complete)
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_kill_leaves_a_playable_file(tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"out{suffix}"
    child = subprocess.Popen([sys.executable, "-c", CHILD, "0", str(out)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    assert not out.exists()
    frames = decoded(tmp_path / f".out.partial{suffix}", torn=True)
    assert len(frames) >= 120 - 2 * 20 - 5


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_is_a_sink_error_and_leaves_a_playable_file(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "600000", str(out)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "cannot be written" in done.stdout and "Make room" in done.stdout and f"{out} False" in done.stdout
    assert out.stat().st_size <= 600_000
    assert len(decoded(out, torn=True)) >= 20


def test_a_part_that_does_not_play_is_not_said_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = VideoSink(tmp_path / "out.mp4", ArraySource(moving_gradient(3)).info, QUICK, MADE_BY)
    for frame in ArraySource(moving_gradient(3)):
        sink.write(frame)
    close = sink._close

    def torn() -> None:
        close()
        os.truncate(sink._partial, 40)

    monkeypatch.setattr(sink, "_close", torn)
    report = sink.abort()
    assert report.path == tmp_path / "out.mp4" and any("cannot be played" in note for note in report.notes)


def test_no_frame_is_an_error(tmp_path: Path) -> None:
    source = ArraySource(moving_gradient(1))
    sink = VideoSink(tmp_path / "out.mp4", source.info, QUICK, MADE_BY)
    with pytest.raises(SinkError, match="No frame came"):
        sink.finish()
    sink.abort()
    assert list(tmp_path.iterdir()) == []


# Outputs that make no sense


def test_outputs_that_make_no_sense(tmp_path: Path) -> None:
    path = write_video(tmp_path / "in.mp4", moving_gradient(3))
    (tmp_path / "there.mp4").write_bytes(b"precious")
    (tmp_path / "link.mp4").symlink_to(path)
    source = open_source(path)
    for out, options, message in (
        (path, QUICK, "is the input itself"),
        (tmp_path / "link.mp4", QUICK, "is the input itself"),
        (tmp_path, QUICK, "is a folder"),
        (tmp_path / "out.png", QUICK, "is no video file"),
        (tmp_path / "out", QUICK, "is no video file"),
        (tmp_path / "out.mp4", EncodeOptions(codec="libx999"), "no video encoder libx999"),
        (tmp_path / "out.mp4", EncodeOptions(codec="aac"), "no video encoder aac"),
        (tmp_path / "out.webm", QUICK, "webm does not take libx264"),
        (tmp_path / "out.mp4", EncodeOptions(preset="warp"), "no preset warp"),
        (tmp_path / "out.mp4", EncodeOptions(crf=99), "out of range"),
        (tmp_path / "out.mp4", EncodeOptions(codec="mpeg4", preset="slow"), "no presets"),
    ):
        with pytest.raises(UsageError, match=message) as caught:
            open_sink(out, source, encode=options, overwrite=True)
        assert caught.value.exit_code == 2 and caught.value.hint
    with pytest.raises(UsageError, match="is there already"):
        open_sink(tmp_path / "there.mp4", source)
    source.close()
    assert (tmp_path / "there.mp4").read_bytes() == b"precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "link.mp4", "there.mp4"]


def test_unknown_codecs_list_those_there_are() -> None:
    with pytest.raises(UsageError) as caught:
        find_encoder("h265")
    assert "libx264" in caught.value.hint and "libx265" in caught.value.hint


def test_unwritable_outputs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    source = ArraySource(moving_gradient(1))
    for out in (tmp_path / "none" / "out.mp4", tmp_path / "file" / "out.mp4"):
        with pytest.raises(SinkError, match="cannot be written") as caught:
            open_sink(out, source)
        assert caught.value.exit_code == 1
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(SinkError):
        open_sink(tmp_path / "file" / "out", PictureSource(tmp_path))
    with pytest.raises(SinkError):
        open_sink(tmp_path / "none" / "out.png", PictureSource(tmp_path / "a.png"))


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(SinkError, match="cannot be written"):
        open_sink(tmp_path / "locked" / "out.mp4", ArraySource(moving_gradient(1)))


def test_options_of_encoders() -> None:
    x264 = find_encoder("libx264")
    assert encoder_options(x264, EncodeOptions()) == ({"crf": "18", "preset": "veryfast"}, None)
    assert encoder_options(x264, EncodeOptions(low_latency=True))[0]["tune"] == "zerolatency"
    assert encoder_options(find_encoder("mpeg4"), EncodeOptions()) == ({}, 3)
    assert encoder_options(find_encoder("ffv1"), EncodeOptions()) == ({}, None)


# Pictures


@functools.cache  # it holds the time of its making
def profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def test_an_untouched_picture_keeps_its_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (33, 47, 4), np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(noise).save(tmp_path / "in" / "rgba.png")
    Image.fromarray(noise[..., :3]).save(tmp_path / "in" / "rgb.png")
    Image.fromarray(noise[..., 0]).save(tmp_path / "in" / "gray.png")
    Image.fromarray(noise[..., :3]).save(tmp_path / "in" / "lossy.jpg", quality=60)
    Image.fromarray(noise[..., :3]).save(tmp_path / "in" / "web.webp", lossless=True)
    Image.fromarray(rng.integers(0, 65535, (9, 9), np.uint16)).save(tmp_path / "in" / "deep.png")
    copy(PictureSource(tmp_path / "in"), tmp_path / "out")
    for path in (tmp_path / "in").iterdir():
        with Image.open(path) as given, Image.open(tmp_path / "out" / f"{path.stem}.png") as made:
            assert given.mode == made.mode and (np.asarray(given) == np.asarray(made)).all(), path
    for name in ("lossy.jpg", "web.webp", "rgb.png"):
        out = tmp_path / f"single-{name}"
        copy(PictureSource(tmp_path / "in" / name), out)
        with Image.open(tmp_path / "in" / name) as given, Image.open(out) as made:
            assert (np.asarray(given) == np.asarray(made)).all(), name


def test_what_a_picture_lost_is_said_only_where_it_lost_it(tmp_path: Path) -> None:
    """Not of a file that is passed on as it is."""
    Image.fromarray(np.full((40, 40), 32896, np.uint16)).save(tmp_path / "deep.png")
    Image.new("LA", (40, 40)).save(tmp_path / "la.png")
    for name, said in (("deep.png", "8 bits"), ("la.png", "LA was converted to RGBA")):
        source = PictureSource(tmp_path / name)
        assert copy(source, tmp_path / "out.png", overwrite=True).notes == () and source.notes == []
        with Image.open(tmp_path / name) as given, Image.open(tmp_path / "out.png") as made:
            assert given.mode == made.mode
        assert any(said in note for note in copy(PictureSource(tmp_path / name), tmp_path / f"{name}.webp").notes)
        source = PictureSource(tmp_path / name)
        sink = PictureSink(tmp_path / "touched.png", source, MADE_BY, overwrite=True)
        touch(source, sink)
        assert any(said in note for note in sink.finish().notes)


def touch(source: PictureSource, sink: Sink) -> None:
    """Brightens the middle of each picture."""
    for frame in source:
        rect = (8, 8, 24, 24)
        before = planes.read_rgb(frame.video, rect)
        after = np.clip(before.astype(int) + 40, 0, 255).astype(np.uint8)
        sink.write(planes.write_rgb(frame, rect, before, after, np.full((16, 16), 255, np.uint8)))
    sink.finish()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_profile_exif_and_alpha_are_kept(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "Maker"
    picture = Image.new("RGBA", (60, 40), (100, 50, 25, 128))
    picture.save(tmp_path / "in.png", exif=exif, icc_profile=profile())
    source = PictureSource(tmp_path / "in.png")
    touch(source, PictureSink(tmp_path / f"out{suffix}", source, MADE_BY))
    with Image.open(tmp_path / f"out{suffix}") as made:
        assert made.size == (40, 60)
        assert made.info["icc_profile"] == profile()
        assert made.getexif()[0x010F] == "Maker" and made.getexif().get(0x0112, 1) == 1
        if suffix == ".jpg":
            assert made.mode == "RGB"
        else:
            assert made.mode == "RGBA" and set(np.unique(np.asarray(made)[..., 3])) == {128}
        pixels = np.asarray(made.convert("RGB")).astype(int)
    if suffix == ".png":
        assert (pixels[30, 30] == (100, 50, 25)).all() and (pixels[12, 12] == (140, 90, 65)).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
@pytest.mark.parametrize("touched", [False, True])
def test_pictures_carry_their_origin(tmp_path: Path, suffix: str, touched: bool) -> None:
    Image.new("RGB", (40, 40), (90, 60, 30)).save(tmp_path / f"in{suffix}", xmp=b"<x:xmpmeta>mine</x:xmpmeta>")
    source = PictureSource(tmp_path / f"in{suffix}")
    sink = PictureSink(tmp_path / f"out{suffix}", source, MADE_BY)
    if touched:
        touch(source, sink)
    else:
        for frame in source:
            sink.write(frame)
        sink.finish()
    with Image.open(tmp_path / f"out{suffix}") as made:
        made.load()
        xmp = made.info.get("xmp") or made.info["XML:com.adobe.xmp"].encode()
    assert DIGITAL_SOURCE_TYPE.encode() in xmp and HASH.encode() in xmp and b"mine" not in xmp
    assert (tmp_path / f"out{suffix}").read_bytes().count(b"<x:xmpmeta") == 1


def test_names_are_decided_before_work_starts() -> None:
    given = ["a.jpg", "a.png", "sub/a.jpg", "B.webp", "b.jpg", "c.d.jpg", "x.jpg", "x.png", "x.jpg.png"]
    names = {str(k): str(v) for k, v in plan_names([Path(p) for p in given]).items()}
    assert names["a.jpg"] == "a.jpg.png" and names["a.png"] == "a.png.png"
    assert names["sub/a.jpg"] == str(Path("sub/a.png"))
    assert names["B.webp"] == "B.webp.png" and names["b.jpg"] == "b.jpg.png"
    assert names["c.d.jpg"] == "c.d.png"
    assert len({n.casefold() for n in names.values()}) == len(given)


def test_a_folder_is_mirrored(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "deep/er/b.jpg"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "in" / name)
    (tmp_path / "in" / "broken.png").write_bytes(b"no")
    source = PictureSource(tmp_path / "in")
    report = copy(source, tmp_path / "out")
    made = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file())
    assert made == ["a.jpg.png", "a.png.png", str(Path("deep/er/b.png"))]
    assert report.frames == 3 and len(source.failures) == 1 and "broken.png" in source.failures[0]


def test_pictures_are_never_written_over_their_source(tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    for out in (tmp_path, tmp_path / "a.png"):
        with pytest.raises(UsageError, match="is the input itself"):
            open_sink(out, PictureSource(tmp_path / "a.png" if out.is_file() else tmp_path), overwrite=True)
    Image.new("RGB", (16, 16)).save(tmp_path / "b.jpg")
    with pytest.raises(UsageError, match="2 pictures do not fit"):
        open_sink(tmp_path / "x.png", PictureSource(tmp_path))
    with pytest.raises(UsageError, match="is no picture file"):
        open_sink(tmp_path / "x.mp4", PictureSource(tmp_path))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "b.png").write_bytes(b"precious")
    with pytest.raises(UsageError, match="is there already"):
        open_sink(tmp_path / "out", PictureSource(tmp_path / "b.jpg"))


# Provenance in containers, the label, the window


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
def test_videos_carry_their_origin(tmp_path: Path, suffix: str) -> None:
    options = EncodeOptions(codec="libvpx-vp9", crf=40) if suffix == ".webm" else QUICK
    copy(ArraySource(moving_gradient(3)), tmp_path / f"out{suffix}", options)
    with av.open(str(tmp_path / f"out{suffix}"), options={"export_xmp": "1"}) as container:
        tags = {k.lower(): v for k, v in container.metadata.items()}
    assert DIGITAL_SOURCE_TYPE in tags["comment"] and HASH in tags["comment"]
    if suffix in (".mp4", ".mov"):
        assert DIGITAL_SOURCE_TYPE in tags["xmp"] and HASH in tags["xmp"]
    if suffix in (".mkv", ".webm"):
        assert tags["digital_source_type"] == DIGITAL_SOURCE_TYPE and tags["model_sha256"] == HASH


def test_the_label_is_drawn_where_nothing_else_can_say_it(tmp_path: Path) -> None:
    plain = np.full((64, 160, 3), 128, np.uint8)
    for name, label, drawn in (
        ("a.mp4", "auto", False),
        ("b.ts", "auto", True),
        ("c.ts", "off", False),
        ("d.mp4", "on", True),
    ):
        copy(ArraySource([plain] * 12), tmp_path / name, label=label)
        changed = np.abs(decoded(tmp_path / name)[0].to_ndarray(format="rgb24").astype(int) - 128).max(2) > 40
        assert changed.any() == drawn, name
        assert not changed[:32].any()


def test_the_window_shows_frames_and_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    pygame = pytest.importorskip("pygame")
    from unmask_rt.sinks.preview import PreviewSink

    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    source = ArraySource([np.full((64, 96, 3), (10, 200, 30), np.uint8)] * 5)
    sink = PreviewSink(label=False)
    frames = iter(source)
    sink.write(next(frames))
    shown = pygame.surfarray.array3d(pygame.display.get_surface())
    assert shown.shape == (96, 64, 3) and np.abs(shown[40, 30].astype(int) - (10, 200, 30)).max() < 6
    seen = [sink.stopped]
    pygame.event.post(pygame.event.Event(pygame.QUIT))
    sink.write(next(frames))
    assert [*seen, sink.stopped] == [False, True]
    assert sink.finish() == SinkReport(None, 2)


def test_without_a_display_or_the_extra_the_window_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask_rt.sinks.preview import PreviewSink

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pygame", None)
        with pytest.raises(ExtraError, match="needs pygame-ce") as caught:
            PreviewSink()
        assert caught.value.exit_code == 3 and "unmask-rt[preview]" in caught.value.hint
    pytest.importorskip("pygame")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    if sys.platform.startswith("linux"):
        with pytest.raises(ExtraError, match="no display") as missing:
            PreviewSink()
        assert "-o" in missing.value.hint


def test_a_live_file_grows_while_the_run_goes_on(tmp_path: Path) -> None:
    source = ArraySource(moving_gradient(60), rate=Fraction(10))
    sink = VideoSink(tmp_path / "out.mp4", source.info, replace(QUICK, low_latency=True), MADE_BY)
    for frame in source:
        sink.write(frame)
    assert len(decoded(tmp_path / ".out.partial.mp4", torn=True)) >= 30
    sink.finish()
