"""One suite for every source, then what each kind promises by itself."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from tests.media import moving_gradient, write_video
from unmask_rt import orient, planes
from unmask_rt.errors import SourceError, UsageError
from unmask_rt.sinks import EncodeOptions, open_sink
from unmask_rt.sources import Source, open_source
from unmask_rt.sources.arrays import ArraySource
from unmask_rt.sources.camera import CameraSource
from unmask_rt.sources.pictures import PictureSource
from unmask_rt.sources.video import VideoSource


class FakeCamera:
    """A camera of 64x48 that can end, or hang in a read as real ones do."""

    def __init__(self, count: int = 1000, *, present: bool = True, hang_after: int | None = None) -> None:
        self.left, self.present, self.hang_after = count, present, hang_after
        self.released = threading.Event()

    def isOpened(self) -> bool:
        return self.present

    def get(self, _: int) -> float:
        return 30.0

    def read(self) -> tuple[bool, Any]:
        time.sleep(0.002)
        if self.hang_after is not None and self.left <= 1000 - self.hang_after:
            self.released.wait(30)
        self.left -= 1
        return self.left >= 0, np.full((48, 64, 3), self.left % 256, np.uint8)

    def release(self) -> None:
        self.released.set()


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def a_file(folder: Path) -> Source:
    return VideoSource(write_video(folder / "a.mp4", moving_gradient(12)))


def a_pattern(_: Path) -> Source:
    return VideoSource("lavfi:testsrc=size=96x64:rate=50", duration_s=0.2)


def a_camera(_: Path) -> Source:
    return CameraSource(0, capture=FakeCamera(), duration_s=0.15)


def a_folder(folder: Path) -> Source:
    for i, picture in enumerate(moving_gradient(3)):
        Image.fromarray(picture).save(folder / f"{i}.png")
    return PictureSource(folder)


def arrays(_: Path) -> Source:
    return ArraySource(moving_gradient(5))


def live_arrays(_: Path) -> Source:
    return ArraySource(moving_gradient(5), live=True, rate=Fraction(100))


SOURCES = [a_file, a_pattern, a_camera, a_folder, arrays, live_arrays]


@pytest.fixture(params=SOURCES, ids=lambda f: f.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Source]:
    return lambda: request.param(tmp_path)


def test_conformance(make: Callable[[], Source]) -> None:
    source = make()
    info = source.info
    started_ns = time.monotonic_ns()
    frames = list(source)
    assert len(frames) >= 3
    assert [f.index for f in frames] == list(range(len(frames)))
    assert all(a.pts < b.pts for a, b in pairwise(frames))
    for frame in frames:
        assert planes.layout_of(frame.video.format.name) is not None
        assert (frame.video.pts, frame.video.time_base) == (frame.pts, frame.time_base)
        assert started_ns - 2e9 < frame.captured_ns <= time.monotonic_ns()
        assert frame.display_size == orient.to_display(frame.video.width, frame.video.height)[1]
    assert info.live == (info.kind == "live") and info.name
    if info.display_size is not None:
        assert frames[0].display_size == info.display_size
        assert (frames[0].video.width, frames[0].video.height) == info.coded_size
        assert frames[0].video.format.name == info.pixel_format
    if info.frame_count is not None:
        assert info.frame_count == len(frames)
    assert source.failures == []
    assert all(isinstance(note, str) for note in source.notes)
    source.close()
    source.close()


def test_close_ends_the_iteration(make: Callable[[], Source]) -> None:
    source = make()
    frames = iter(source)
    next(frames)
    closer = threading.Thread(target=source.close)
    closer.start()
    closer.join(5)
    assert not closer.is_alive()
    assert len(list(frames)) <= 1


def test_close_without_iterating(make: Callable[[], Source]) -> None:
    make().close()


# Files


def test_cut_to_the_exact_frame(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "a.mp4", moving_gradient(50), options={"g": "12", "bf": "3", "x264-params": "scenecut=0"}
    )
    whole = {f.pts: planes.rows(f.video)[0].copy() for f in open_source(path)}
    for start in (0.2, 0.24, 0.5, 1.0, 1.9):
        source = open_source(path, start_s=start, duration_s=0.3)
        cut = list(source)
        times = [f.time_s for f in cut]
        wanted = [p for p in whole if start - 1e-6 <= p * float(cut[0].time_base) < start + 0.3 - 1e-6]
        assert [f.pts for f in cut] == wanted, (start, times)
        assert all((planes.rows(f.video)[0] == whole[f.pts]).all() for f in cut)
        assert cut[0].index == 0
        assert source.info.origin_s == Fraction(start).limit_denominator(1000)


def test_a_start_behind_the_end_says_so(tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", moving_gradient(5))
    with pytest.raises(SourceError, match="from 9 s on"):
        open_source(path, start_s=9)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi", "mov", "ts", "mpg"])
def test_containers(tmp_path: Path, suffix: str) -> None:
    codec = "mpeg1video" if suffix == "mpg" else "libx264"
    path = write_video(tmp_path / f"a.{suffix}", moving_gradient(20), codec=codec)
    source = open_source(path)
    frames = list(source)
    assert len(frames) == 20 and source.notes == []
    steps = {(b.pts - a.pts) * a.time_base for a, b in pairwise(frames)}
    assert steps == {Fraction(1, 25)}


def test_avi_knows_frames_that_were_left_out(tmp_path: Path) -> None:
    ticks = [0, 1, 2, 5, 6, 9, 10, 11]
    path = write_video(tmp_path / "a.avi", moving_gradient(8), codec="mpeg4", ticks=ticks)
    source = open_source(path)
    assert [f.pts for f in source] == ticks
    assert source.notes == []


def test_missing_timestamps_are_mended_and_said(tmp_path: Path) -> None:
    source = open_source(write_video(tmp_path / "a.h264", moving_gradient(10)))
    frames = list(source)
    assert len(frames) == 10
    assert all(a.pts < b.pts for a, b in pairwise(frames))
    assert any("no timestamp" in note for note in source.notes)


@pytest.mark.parametrize(("degrees", "shown"), [(0, (128, 64)), (90, (64, 128)), (180, (128, 64)), (270, (64, 128))])
def test_rotation_and_aspect_reach_the_frame(tmp_path: Path, degrees: int, shown: tuple[int, int]) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, width=96, height=64)
        stream.codec_context.sample_aspect_ratio = Fraction(4, 3)
        stream.set_display_rotation(degrees)
        for i in range(3):
            frame = av.VideoFrame.from_ndarray(moving_gradient(1)[0], "rgb24").reformat(format="yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    source = open_source(path)
    frame2 = next(iter(source))
    source.close()
    assert source.info.display_size == shown == frame2.display_size
    small, _ = planes.preview(frame2, 200)
    turned = np.rot90(moving_gradient(1)[0], degrees // 90)  # both count counter-clockwise
    corners = np.s_[[4, 4, -4, -4], [4, -4, 4, -4]]
    assert np.abs(small[corners].astype(int) - turned[corners]).max() < 40


def test_odd_sizes_and_palettes(tmp_path: Path) -> None:
    odd = write_video(tmp_path / "odd.mkv", moving_gradient(3, (93, 61)), codec="libvpx-vp9")
    assert [f.display_size for f in open_source(odd)] == [(93, 61)] * 3
    Image.fromarray(moving_gradient(1)[0]).quantize(16).save(tmp_path / "a.gif")
    assert next(iter(open_source(tmp_path / "a.gif"))).video.format.name in ("bgra", "rgba", "rgb24")


def test_pq_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25, width=64, height=48, pix_fmt="yuv420p10le")
        stream.codec_context.color_trc, stream.codec_context.color_primaries = 16, 9
        stream.codec_context.colorspace = 9
        frame = av.VideoFrame(64, 48, "yuv420p10le")
        frame.pts, frame.color_trc, frame.color_primaries, frame.colorspace = 0, 16, 9, 9
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match="PQ HDR"):
        open_source(path)


def test_a_test_pattern_keeps_time() -> None:
    started_s = time.monotonic()
    frames = list(open_source("lavfi:testsrc=size=64x48:rate=20", duration_s=0.5))
    assert len(frames) == 10
    assert time.monotonic() - started_s > 0.4


# Bad input


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="does not exist") as caught:
        open_source(tmp_path / "none.mp4")
    assert caught.value.exit_code == 1 and caught.value.hint


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no pictures"):
        open_source(tmp_path)


def test_text_named_mp4(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("This is no video.\n" * 50)
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(tmp_path / "a.mp4")


def test_an_mp4_cut_before_its_index(tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.mp4", moving_gradient(50)).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(SourceError, match="cannot be opened") as caught:
        open_source(tmp_path / "cut.mp4")
    assert "cut off" in caught.value.hint


def test_an_mp4_cut_behind_its_index_gives_what_it_has(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    write_video(tmp_path / "b.mp4", moving_gradient(50))
    with av.open(str(tmp_path / "b.mp4")) as given, av.open(str(path), "w", options={"movflags": "faststart"}) as out:
        copy = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    source = open_source(path)
    frames = list(source)
    assert 5 < len(frames) < 50
    assert any("ends early" in note and "of 50" in note for note in source.notes)


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("webm", "libvpx-vp9")])
@pytest.mark.parametrize("tagged", [True, False])
def test_a_matroska_file_that_was_cut_off_says_so(tmp_path: Path, suffix: str, codec: str, tagged: bool) -> None:
    """It counts no frames, but gives its length, and mostly the picture's own."""
    path = write_video(tmp_path / f"a.{suffix}", moving_gradient(50), codec=codec)
    data = path.read_bytes() if tagged else path.read_bytes().replace(b"DURATION", b"DURATIOM")
    path.write_bytes(data)
    for start_s in (0, 0.5):
        whole = open_source(path, start_s=start_s)
        assert len(list(whole)) > 30 and whole.notes == []
    path.write_bytes(data[: len(data) * 2 // 3])
    source = open_source(path)
    assert 5 < len(list(source)) < 45
    assert any("ends early" in note and "of 2.0 s" in note for note in source.notes)


@pytest.mark.parametrize("tagged", [True, False])
def test_sound_that_is_longer_than_the_picture_is_no_loss(tmp_path: Path, tagged: bool) -> None:
    write_video(tmp_path / "b.mkv", moving_gradient(50), tone_hz=440)
    with av.open(str(tmp_path / "b.mkv")) as given, av.open(str(tmp_path / "a.mkv"), "w") as out:
        copies = {stream: out.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            when = packet.pts * packet.time_base if packet.pts is not None else None
            if when is not None and (packet.stream.type == "audio" or when < 1):
                packet.stream = copies[packet.stream]
                out.mux(packet)
    if not tagged:
        data = (tmp_path / "a.mkv").read_bytes()
        (tmp_path / "a.mkv").write_bytes(data.replace(b"DURATION", b"DURATIOM"))
    source = open_source(tmp_path / "a.mkv")
    assert len(list(source)) == 25 and source.notes == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_pipe_that_would_have_to_be_read_twice_says_so(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (10, 240, 320, 3), np.uint8)
    data = write_video(tmp_path / "a.mp4", list(noise)).read_bytes()  # too long for FFmpeg to have it all at once
    os.mkfifo(tmp_path / "pipe.mp4")

    def pour() -> None:
        with contextlib.suppress(BrokenPipeError):
            (tmp_path / "pipe.mp4").write_bytes(data)

    thread = threading.Thread(target=pour, daemon=True)
    thread.start()
    with pytest.raises(SourceError) as caught:
        list(open_source(tmp_path / "pipe.mp4"))
    assert "save it to a file first" in caught.value.hint
    thread.join(5)


@pytest.mark.skipif(sys.platform == "win32", reason="needs named pipes")
def test_a_pipe_is_not_opened_a_second_time(tmp_path: Path) -> None:
    data = write_video(tmp_path / "a.mkv", moving_gradient(20), tone_hz=440).read_bytes()
    os.mkfifo(tmp_path / "pipe.mkv")
    thread = threading.Thread(target=(tmp_path / "pipe.mkv").write_bytes, args=(data,), daemon=True)
    thread.start()
    source = open_source(tmp_path / "pipe.mkv")
    assert source.info.address is None and source.info.audio_streams == 1
    assert len(list(source)) == 20
    thread.join(5)


def test_a_damaged_file_goes_on(tmp_path: Path) -> None:
    data = bytearray(write_video(tmp_path / "a.ts", moving_gradient(50), options={"g": "5"}).read_bytes())
    for at in range(len(data) // 3, len(data) // 2):
        data[at] ^= 0x5A
    (tmp_path / "b.ts").write_bytes(data)
    frames = list(open_source(tmp_path / "b.ts"))
    assert 20 < len(frames) <= 50


def test_no_frame_at_all(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        container.add_stream("libx264", rate=25, width=64, height=48)
        container.start_encoding()
    with pytest.raises(SourceError, match=r"no picture that can be decoded|cannot be opened|no video"):
        open_source(tmp_path / "a.mkv")


def test_sound_only(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream: Any = container.add_stream("aac", rate=48_000)
        sound = av.AudioFrame.from_ndarray(np.zeros((2, 4096), np.float32), "fltp", "stereo")
        sound.sample_rate, sound.pts = 48_000, 0
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    with pytest.raises(SourceError, match="no video stream"):
        open_source(tmp_path / "a.mp4")


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """A web server's address whose files are those of a folder."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_stream_over_http(tmp_path: Path) -> None:
    write_video(tmp_path / "a.ts", moving_gradient(30))
    with served(tmp_path) as address:
        source = open_source(f"{address}/a.ts")
        assert source.info.live and source.info.frame_count is None and source.info.path is None
        assert len(list(source)) == 30


def test_a_file_on_a_server_waits_and_keeps_its_sound(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", moving_gradient(30), tone_hz=440)
    with served(tmp_path) as address:
        source = open_source(f"{address}/a.mkv")
        assert not source.info.live and source.info.kind == "video" and source.info.path is None
        sink = open_sink(tmp_path / "out.mp4", source, encode=EncodeOptions(preset="ultrafast"))
        for frame in source:
            sink.write(frame)
        assert sink.finish().frames == 30
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert sum(f.samples for f in container.decode(audio=0)) > 48_000


def test_a_disk_that_fails_in_the_middle_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a file that ends there."""
    source = open_source(write_video(tmp_path / "a.mkv", moving_gradient(30)))
    given = []

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(container, name)

        def demux(self, stream: Any) -> Iterator[Any]:
            raise OSError(5, "Input/output error")
            yield

    for frame in (frames := iter(source)):
        given.append(frame)
        if len(given) == 5:
            break
    container = source._container  # type: ignore[attr-defined]
    source._container = Failing()  # type: ignore[attr-defined]
    source._decoded = source._decode()  # type: ignore[attr-defined]
    with pytest.raises(SourceError, match="can be read no further: Input/output error"):
        list(frames)


@pytest.mark.parametrize("spec", ["http://127.0.0.1:9/x.mp4", "rtsp://127.0.0.1:9/x", "lavfi:nosuchfilter"])
def test_streams_that_do_not_answer(spec: str) -> None:
    with pytest.raises(SourceError, match="cannot be opened"):
        open_source(spec)


def test_options_that_do_not_fit(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    for spec, options in (
        (tmp_path / "a.png", {"start_s": 1.0}),
        ("camera:0", {"start_s": 1.0}),
        ("camera:front", {}),
        ("lavfi:testsrc", {"start_s": 1.0}),
        (tmp_path / "a.mp4", {"duration_s": 0.0}),
        (tmp_path / "a.mp4", {"start_s": -1.0}),
    ):
        with pytest.raises(UsageError):
            open_source(spec, **options)


# Cameras


def test_a_camera_that_does_not_exist() -> None:
    with pytest.raises(SourceError, match="no camera 97") as caught:
        open_source("camera:97")
    assert "Cameras found" in caught.value.hint
    with pytest.raises(SourceError, match="no camera 3"):
        CameraSource(3, capture=FakeCamera(present=False))


def test_a_camera_that_gives_nothing() -> None:
    with pytest.raises(SourceError, match="gives no picture"):
        CameraSource(0, capture=FakeCamera(0))


def test_a_camera_that_is_pulled_out() -> None:
    frames = iter(CameraSource(0, capture=FakeCamera(5)))
    with pytest.raises(SourceError, match="is gone"):
        list(frames)


def test_a_camera_that_hangs_is_left_behind() -> None:
    source = CameraSource(0, capture=FakeCamera(hang_after=4), read_timeout_s=0.2)
    started_s = time.monotonic()
    with pytest.raises(SourceError, match=r"no picture for 0\.2 s"):
        list(source)
    assert time.monotonic() - started_s < 5


def test_a_slow_reader_sees_the_latest_picture() -> None:
    source = CameraSource(0, capture=FakeCamera())
    frames = iter(source)
    next(frames)
    time.sleep(0.1)
    before_ns = time.monotonic_ns()
    missed = source._missed
    assert missed and next(frames).captured_ns > before_ns - 50_000_000
    frames.close()  # type: ignore[attr-defined]
    assert any("faster than they were fetched" in note for note in source.notes)


# Pictures


def test_a_corrupt_picture_is_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    Image.fromarray(moving_gradient(1)[0]).save(tmp_path / "a.png")
    Image.fromarray(moving_gradient(1)[0]).save(tmp_path / "sub" / "c.jpg")
    (tmp_path / "b.jpg").write_bytes(b"not a picture")
    whole = (tmp_path / "sub" / "c.jpg").read_bytes()
    (tmp_path / "sub" / "d.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "notes.txt").write_text("no picture")
    source = PictureSource(tmp_path)
    frames = list(source)
    assert [f.index for f in frames] == [0, 1]
    assert len(source.failures) == 2
    assert source.failures[0].startswith("b.jpg") and source.failures[1].startswith(str(Path("sub/d.jpg")))
    assert [source.picture(i).relative for i in (0, 1)] == [Path("a.png"), Path("sub/c.jpg")]


def test_whatever_a_damaged_picture_raises_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b"):
        Image.fromarray(moving_gradient(1)[0]).save(tmp_path / f"{name}.png")
    read = PictureSource._read

    def damaged(self: PictureSource, path: Path, said: list[str]) -> Any:
        if path.name == "a.png":
            raise RuntimeError("a decoder's own")
        return read(self, path, said)

    monkeypatch.setattr(PictureSource, "_read", damaged)
    source = PictureSource(tmp_path)
    assert len(list(source)) == 1 and source.failures == ["a.png cannot be read: a decoder's own"]


def test_damaged_exif_data_cost_the_exif_data_only(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(moving_gradient(1)[0]).save(path, quality=95)
    plain = path.read_bytes()
    tags = bytes.fromhex("4d4d002a00000008 0001 0100 0002 00000001 35000000 00000000")  # a width that is a text
    path.write_bytes(plain[:2] + b"\xff\xe1" + (len(tags) + 8).to_bytes(2, "big") + b"Exif\0\0" + tags + plain[2:])
    source = PictureSource(path)
    (frame,) = source
    picture = source.picture(frame.index)
    assert picture.exif is None and any("EXIF data are damaged" in note for note in picture.notes)


def test_the_results_of_a_run_before_are_no_input(tmp_path: Path) -> None:
    for name in ("a.png", "out/a.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(moving_gradient(1)[0]).save(tmp_path / name)
    assert len(open_source(tmp_path).info.name) and len(list(open_source(tmp_path))) == 2
    assert len(list(open_source(tmp_path, leave_out=tmp_path / "out"))) == 1
    assert len(list(open_source(tmp_path / "out", leave_out=tmp_path / "out"))) == 1


def test_one_corrupt_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").write_bytes(b"not a picture")
    with pytest.raises(SourceError, match=r"b\.jpg cannot be read"):
        open_source(tmp_path / "b.jpg")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    picture = Image.fromarray(moving_gradient(1)[0])
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = orientation, "Maker"
    picture.save(tmp_path / "a.png", exif=exif)
    source = PictureSource(tmp_path / "a.png")
    (frame,) = source
    expected = {
        1: picture, 2: picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), 3: picture.rotate(180),
        4: picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM), 5: picture.transpose(Image.Transpose.TRANSPOSE),
        6: picture.rotate(-90, expand=True), 7: picture.transpose(Image.Transpose.TRANSVERSE),
        8: picture.rotate(90, expand=True),
    }[orientation]  # fmt: skip
    assert (planes.rows(frame.video)[0] == np.asarray(expected)).all()
    assert frame.display_size == expected.size == source.info.display_size
    kept = Image.Exif()
    kept.load(source.picture(0).exif or b"")
    assert 0x0112 not in kept and kept[0x010F] == "Maker"


def saved(picture: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def test_modes_that_cannot_stay_are_converted_and_said(tmp_path: Path) -> None:
    base = Image.fromarray(moving_gradient(1)[0])
    cases = {
        "l.png": (saved(base.convert("L"), format="PNG"), "gray", None),
        "rgba.png": (saved(base.convert("RGBA"), format="PNG"), "rgba", None),
        "p.png": (saved(base.quantize(8), format="PNG"), "rgb24", None),
        "one.png": (saved(base.convert("1"), format="PNG"), "gray", None),
        "cmyk.jpg": (saved(base.convert("CMYK"), format="JPEG"), "rgb24", "CMYK was converted"),
        "deep.png": (saved(Image.fromarray(np.full((8, 8), 32896, np.uint16)), format="PNG"), "gray", "8 bits"),
    }
    for name, (data, fmt, said) in cases.items():
        (tmp_path / name).write_bytes(data)
        source = PictureSource(tmp_path / name)
        (frame,) = source
        assert frame.video.format.name == fmt, name
        notes = source.picture(0).notes
        assert any(said in note for note in notes) if said else notes == (), (name, notes)
        if name == "deep.png":
            assert (planes.rows(frame.video)[0] == 128).all()


def test_moving_pictures_in_a_folder_are_named(tmp_path: Path) -> None:
    for name in ("a.png", "b.gif", "c.GIF"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    source = PictureSource(tmp_path)
    assert len(list(source)) == 1 and any("2 GIF files were left out" in note for note in source.notes)


def test_order_of_a_folder_is_by_name(tmp_path: Path) -> None:
    for name in ("b.png", "a.png", ".hidden.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    source = PictureSource(tmp_path)
    assert source.relative_paths == [Path("a.png"), Path("b.png")]
    assert source.info.frame_count == 2
