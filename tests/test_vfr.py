"""Variable frame rate, from the source through the sink: no frame may move."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest

from tests.media import moving_gradient, write_video
from unmask_rt.frames import Frame
from unmask_rt.sinks import EncodeOptions, open_sink
from unmask_rt.sources import open_source
from unmask_rt.sources.arrays import frame_of
from unmask_rt.sources.base import SourceInfo

TICKS = [0, 1, 2, 7, 8, 20, 21, 60, 61, 62, 90, 130, 131, 190, 191, 192, 193, 260, 300, 301]
"""In 1/100 s: bursts, gaps of more than half a second, nothing regular."""


def times(path: Path) -> list[Fraction]:
    with av.open(str(path)) as container:
        return [f.pts * f.time_base for f in container.decode(video=0) if f.pts is not None and f.time_base]


@pytest.fixture(params=[{"bf": "0"}, {"bf": "3"}], ids=["no B-frames", "B-frames"])
def clip(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / "in.mp4"
    return write_video(path, moving_gradient(len(TICKS)), rate=100, ticks=TICKS, options=request.param, tone_hz=440)


def test_the_source_keeps_every_time(clip: Path) -> None:
    source = open_source(clip)
    assert [f.pts * f.time_base for f in source] == [Fraction(t, 100) for t in TICKS]
    assert source.notes == []


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("preset", ["ultrafast", "veryfast"])
def test_the_sink_keeps_every_time(clip: Path, tmp_path: Path, suffix: str, preset: str) -> None:
    source = open_source(clip)
    sink = open_sink(tmp_path / f"out{suffix}", source, encode=EncodeOptions(preset=preset))
    for frame in source:
        sink.write(frame)
    sink.finish()
    assert times(tmp_path / f"out{suffix}") == [Fraction(t, 100) for t in TICKS]


@pytest.mark.parametrize(
    "unit", [Fraction(1, 90_000), Fraction(1001, 30_000), Fraction(1, 12_800), Fraction(1, 1_000_000)]
)
@pytest.mark.parametrize("first", [0, 31])
def test_odd_clocks_and_late_starts(tmp_path: Path, unit: Fraction, first: int) -> None:
    info = SourceInfo("x", "video", False, (96, 64), (96, 64), None, None, Fraction(30))
    sink = open_sink(tmp_path / "out.mp4", FakeSource(info), encode=EncodeOptions())
    ticks = [first + i * 3 + i % 2 for i in range(40)]
    scale = max(1, int(Fraction(1, 100) / unit))
    for i, tick in enumerate(ticks):
        frame = frame_of(moving_gradient(1)[0], i, 1 / unit, "yuv420p")
        sink.write(replace(frame, pts=tick * scale, time_base=unit))
    sink.finish()
    assert times(tmp_path / "out.mp4") == [t * scale * unit for t in ticks]


class FakeSource:
    """Only what a sink asks for."""

    def __init__(self, info: SourceInfo) -> None:
        self.info, self.notes, self.failures = info, list[str](), list[str]()

    def __iter__(self) -> Iterator[Frame]:
        return iter(())

    def close(self) -> None:
        pass


def test_a_cut_starts_at_zero_and_keeps_its_gaps(clip: Path, tmp_path: Path) -> None:
    source = open_source(clip, start_s=0.2, duration_s=1.2)
    sink = open_sink(tmp_path / "out.mp4", source, encode=EncodeOptions())
    for frame in source:
        sink.write(frame)
    sink.finish()
    assert times(tmp_path / "out.mp4") == [Fraction(t - 20, 100) for t in TICKS if 20 <= t < 140]


@pytest.mark.parametrize(("codec", "suffix"), [("libx264", ".mp4"), ("libx264", ".mkv"), ("ffv1", ".mkv")])
@pytest.mark.parametrize("preset", ["ultrafast", "veryfast"])
def test_the_last_frame_lasts_as_long_as_it_did(tmp_path: Path, codec: str, suffix: str, preset: str) -> None:
    """Also where the encoder gives it at once, and not beyond the end of a cut."""
    path = write_video(
        tmp_path / "in.mp4", moving_gradient(3), rate=10, ticks=[0, 1, 2], last_ticks=30, options={"bf": "0"}
    )
    for duration_s, length_s in ((None, 3.2), (1.0, 1.0)):
        source = open_source(path, duration_s=duration_s)
        options = EncodeOptions(codec=codec, preset=preset if codec == "libx264" else None)
        sink = open_sink(tmp_path / f"out{suffix}", source, encode=options, overwrite=True)
        for frame in source:
            sink.write(frame)
        sink.finish()
        assert times(tmp_path / f"out{suffix}") == [Fraction(t, 10) for t in range(3)]
        with av.open(str(tmp_path / f"out{suffix}")) as container:
            assert container.duration == length_s * 1_000_000


def test_mpeg_clock_starts_anywhere(tmp_path: Path) -> None:
    """Transport streams begin at any time; a file begins at zero and the distances stay."""
    path = write_video(tmp_path / "in.ts", moving_gradient(20), rate=25)
    assert times(path)[0] != 0
    source = open_source(path)
    sink = open_sink(tmp_path / "out.mp4", source, encode=EncodeOptions())
    for frame in source:
        sink.write(frame)
    sink.finish()
    assert times(tmp_path / "out.mp4") == [Fraction(i, 25) for i in range(20)]


def test_a_video_that_starts_after_its_sound_stays_there(tmp_path: Path) -> None:
    path = write_video(tmp_path / "in.mp4", moving_gradient(20), rate=25, ticks=[i + 5 for i in range(20)], tone_hz=440)
    assert times(path)[0] == Fraction(1, 5)
    source = open_source(path)
    sink = open_sink(tmp_path / "out.mp4", source, encode=EncodeOptions())
    for frame in source:
        sink.write(frame)
    sink.finish()
    assert times(tmp_path / "out.mp4") == times(path)


@pytest.mark.parametrize("codec", ["mpeg4", "mpeg2video"])
def test_encoders_with_a_coarse_clock_round_and_say_so(tmp_path: Path, codec: str) -> None:
    info = SourceInfo("x", "video", False, (96, 64), (96, 64), None, None, Fraction(25))
    sink = open_sink(tmp_path / "out.mkv", FakeSource(info), encode=EncodeOptions(codec=codec, preset=None))
    ticks = [i * 3600 + (1300 if i % 3 == 1 else 0) for i in range(20)]
    for i, tick in enumerate(ticks):
        frame = frame_of(moving_gradient(1)[0], i, Fraction(90_000), "yuv420p")
        sink.write(replace(frame, pts=tick))
    assert any("timestamps were rounded" in note for note in sink.finish().notes)
    wrong = [abs(a - Fraction(b, 90_000)) for a, b in zip(times(tmp_path / "out.mkv"), ticks, strict=True)]
    assert max(wrong) <= (Fraction(1, 1000) if codec == "mpeg4" else Fraction(1, 25))
