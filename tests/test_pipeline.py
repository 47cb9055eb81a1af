"""Order, waiting, dropping, failing and stopping of the pipeline, with fakes at both ends."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import count

import av
import numpy as np
import pytest

from unmask_rt.channel import Channel
from unmask_rt.frames import Frame, Packet
from unmask_rt.pipeline import THREAD_PREFIX, Pipeline, Progress
from unmask_rt.sinks.base import SinkReport
from unmask_rt.sources.base import Kind, SourceInfo

IDENTITY = np.eye(2, 3)
DEADLINE_S = 10.0


def make_frame(index: int) -> Frame:
    video = av.VideoFrame(16, 16, "gray")
    return Frame(video, index, index, Fraction(1, 30), time.monotonic_ns(), IDENTITY, (16, 16))


@dataclass
class FakeSource:
    frames: int | None = None
    interval_s: float = 0.0
    fail_at: int | None = None
    block_at: int | None = None
    live: bool = False
    given: int = 0
    closed: int = 0
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        kind: Kind = "live" if self.live else "video"
        self.info = SourceInfo("fake", kind, self.live, (16, 16), (16, 16), self.frames, None, Fraction(30))
        self.released = threading.Event()

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.frames) if self.frames is not None else count():
            if index == self.fail_at:
                raise OSError("source broke")
            if index == self.block_at:
                self.released.wait(DEADLINE_S)
                return
            if self.interval_s:
                time.sleep(self.interval_s)
            self.given += 1
            yield make_frame(index)

    def close(self) -> None:
        self.closed += 1
        self.released.set()


@dataclass
class FakeStage:
    name: str = "step"
    work_s: float = 0.0
    fail_at: int | None = None
    hold: int = 0
    fail_in: str = ""
    seen: list[int] = field(default_factory=list)
    closed: int = 0
    kept: list[Packet] = field(default_factory=list)

    def __call__(self, packet: Packet) -> Sequence[Packet]:
        if self.fail_at is not None and packet.frame.index >= self.fail_at:
            raise ValueError(f"{self.name} broke")
        if self.work_s:
            time.sleep(self.work_s)
        self.seen.append(packet.frame.index)
        self.kept.append(packet)
        if len(self.kept) <= self.hold:
            return []
        return [self.kept.pop(0)]

    def flush(self) -> Sequence[Packet]:
        if self.fail_in == "flush":
            raise ValueError("flush broke")
        kept, self.kept = self.kept, []
        return kept

    def close(self) -> None:
        self.closed += 1
        if self.fail_in == "close":
            raise ValueError("close broke")


@dataclass
class FakeSink:
    work_s: float = 0.0
    fail_in: str = ""
    stop_at: int | None = None
    written: list[int] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    stopped: bool = False
    on_write: Callable[[int], None] | None = None

    def write(self, frame: Frame) -> None:
        if self.fail_in == "write":
            raise OSError("sink broke")
        if self.work_s:
            time.sleep(self.work_s)
        self.written.append(frame.index)
        if self.on_write:
            self.on_write(frame.index)
        self.stopped = self.stop_at is not None and frame.index >= self.stop_at

    def finish(self) -> SinkReport:
        self.calls.append("finish")
        if self.fail_in == "finish":
            raise OSError("finish broke")
        return SinkReport(None, len(self.written))

    def abort(self) -> SinkReport:
        self.calls.append("abort")
        return SinkReport(None, len(self.written), complete=False)


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert own_threads() == []


def three_stages() -> list[FakeStage]:
    return [FakeStage("find"), FakeStage("inpaint"), FakeStage("blend")]


def test_file_every_frame_comes_out_in_order() -> None:
    source, sink, stages = FakeSource(200), FakeSink(), three_stages()
    report = Pipeline(source, stages, sink).run()
    assert sink.written == list(range(200))
    assert (report.frames_in, report.frames_out, report.interrupted) == (200, 200, False)
    assert report.dropped == {"find": 0, "inpaint": 0, "blend": 0, "encode": 0}
    assert sink.calls == ["finish"]
    assert report.sink is not None and report.sink.complete
    assert source.closed >= 1 and all(stage.closed == 1 for stage in stages)


def test_without_stages_and_without_frames() -> None:
    sink = FakeSink()
    assert Pipeline(FakeSource(3), [], sink).run().frames_out == 3
    empty = Pipeline(FakeSource(0), three_stages(), FakeSink()).run()
    assert empty.frames_out == 0
    assert empty.latency.end_to_end_ms is None


def test_slow_sink_holds_the_source_back() -> None:
    source, ahead = FakeSource(40), []
    sink = FakeSink(work_s=0.002, on_write=lambda index: ahead.append(source.given - index))
    Pipeline(source, [FakeStage()], sink, queue_size=2).run()
    # At most: two waiting in each queue, one with each thread and the one just read.
    assert max(ahead) <= 2 * 2 + 4
    assert sink.written == list(range(40))


def test_stages_that_look_ahead_are_flushed_in_order() -> None:
    sink = FakeSink()
    stages = [FakeStage("a", hold=7), FakeStage("b", hold=3), FakeStage("c")]
    report = Pipeline(FakeSource(20), stages, sink).run()
    assert sink.written == list(range(20))
    assert [stage.stage for stage in report.latency.stages] == ["decode", "a", "b", "c", "encode"]


def test_look_ahead_longer_than_the_source() -> None:
    sink = FakeSink()
    Pipeline(FakeSource(4), [FakeStage(hold=100)], sink).run()
    assert sink.written == [0, 1, 2, 3]


def test_stage_that_swallows_a_frame_is_an_error() -> None:
    class Swallows(FakeStage):
        def flush(self) -> Sequence[Packet]:
            return []

    with pytest.raises(RuntimeError, match="swallowed 2 frames"):
        Pipeline(FakeSource(5), [Swallows(hold=2)], FakeSink()).run()


def test_stage_that_reorders_is_an_error() -> None:
    class Reorders(FakeStage):
        def flush(self) -> Sequence[Packet]:
            return list(reversed(super().flush()))

    sink = FakeSink()
    with pytest.raises(RuntimeError, match="out of turn"):
        Pipeline(FakeSource(5), [Reorders(hold=5)], sink).run()
    assert sink.calls == ["abort"]


def test_live_drops_are_counted_for_the_busy_stage() -> None:
    source, sink = FakeSource(40, interval_s=0.003, live=True), FakeSink()
    fast, slow = FakeStage("fast"), FakeStage("slow", work_s=0.05)
    report = Pipeline(source, [fast, slow], sink, live=True).run()
    assert report.dropped["slow"] > 5
    assert report.frames_in == 40
    assert report.frames_out + sum(report.dropped.values()) == 40
    assert sink.written == sorted(set(sink.written))
    assert sink.written[-1] == 39  # the latest frame wins
    assert [stage.stage for stage in report.latency.stages] == ["fast", "slow", "encode"]


def test_live_burst_of_a_stage_does_not_drop_itself() -> None:
    sink = FakeSink(work_s=0.001)
    report = Pipeline(FakeSource(12, interval_s=0.001), [FakeStage(hold=12)], sink, live=True).run()
    assert report.dropped["encode"] == 0
    assert len(sink.written) == 12 - report.dropped["step"]


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("place", ["source", "first", "last", "flush", "close", "write", "finish"])
def test_first_error_stops_all_and_comes_out(place: str, live: bool) -> None:
    source = FakeSource(60, fail_at=30 if place == "source" else None, interval_s=0.001)
    first = FakeStage("first", fail_at=10 if place == "first" else None)
    last = FakeStage("last", fail_at=10 if place == "last" else None, fail_in=place)
    sink = FakeSink(fail_in=place)
    pipeline = Pipeline(source, [first, last], sink, live=live, queue_size=1)
    started = time.monotonic()
    with pytest.raises((OSError, ValueError), match="broke"):
        pipeline.run()
    assert time.monotonic() - started < DEADLINE_S / 2
    assert sink.calls == (["finish", "abort"] if place == "finish" else ["abort"])
    assert source.closed >= 1 and first.closed == 1 and last.closed == 1
    assert pipeline.sink_report is not None and not pipeline.sink_report.complete


def test_the_first_error_wins_over_those_that_follow() -> None:
    stages = [FakeStage("a", fail_at=5, fail_in="close"), FakeStage("b", fail_in="close")]
    with pytest.raises(ValueError, match="close broke") as caught:
        Pipeline(FakeSource(50), stages, FakeSink()).run()
    assert "a broke" in str(caught.value.__context__)


def test_error_in_the_progress_display_stops_the_run() -> None:
    def broken(progress: Progress) -> None:
        raise ValueError("display broke")

    sink = FakeSink()
    with pytest.raises(ValueError, match="display broke"):
        Pipeline(FakeSource(interval_s=0.001), [FakeStage()], sink, progress=broken).run()
    assert sink.calls == ["abort"]


def interrupt_at(index: int) -> Callable[[int], None]:
    raised: list[int] = []

    def act(written: int) -> None:
        if written >= index and not raised:
            raised.append(written)
            signal.raise_signal(signal.SIGINT)

    return act


def test_interrupt_of_a_file_finalises_what_there_is() -> None:
    source, sink = FakeSource(interval_s=0.001), FakeSink(on_write=interrupt_at(10))
    started = time.monotonic()
    report = Pipeline(source, three_stages(), sink).run()
    assert time.monotonic() - started < 2.0
    assert report.interrupted
    assert sink.calls == ["abort"]
    assert report.sink is not None and not report.sink.complete
    assert report.frames_out == len(sink.written) >= 11


def test_interrupt_is_the_ordinary_end_of_a_live_run() -> None:
    source, sink = FakeSource(interval_s=0.002, live=True), FakeSink(on_write=interrupt_at(10))
    report = Pipeline(source, three_stages(), sink, live=True).run()
    assert report.interrupted
    assert sink.calls == ["finish"]
    assert report.frames_in == report.frames_out + sum(report.dropped.values())


def test_interrupt_with_a_camera_that_does_not_answer() -> None:
    source = FakeSource(block_at=5, live=True)

    def later() -> None:
        time.sleep(0.3)
        signal.raise_signal(signal.SIGINT)

    threading.Thread(target=later).start()
    started = time.monotonic()
    report = Pipeline(source, three_stages(), FakeSink(), live=True).run()
    assert time.monotonic() - started < 2.0
    assert report.interrupted and source.closed >= 1


def test_interrupt_while_a_live_stage_hangs_gives_up_on_it() -> None:
    release = threading.Event()

    class Hangs(FakeStage):
        def __call__(self, packet: Packet) -> Sequence[Packet]:
            signal.raise_signal(signal.SIGINT)
            release.wait(DEADLINE_S)
            return super().__call__(packet)

    sink = FakeSink()
    started = time.monotonic()
    report = Pipeline(FakeSource(interval_s=0.01, live=True), [Hangs()], sink, live=True).run()
    assert time.monotonic() - started < 4.0
    assert report.interrupted and sink.calls == ["abort"]
    release.set()
    for thread in threading.enumerate():
        if thread.name.startswith(THREAD_PREFIX):
            thread.join(DEADLINE_S)


def test_duration_ends_a_live_run_as_a_success() -> None:
    sink = FakeSink()
    started = time.monotonic()
    report = Pipeline(FakeSource(interval_s=0.005, live=True), [], sink, live=True, duration_s=0.3).run()
    assert 0.3 <= time.monotonic() - started < 2.0
    assert not report.interrupted
    assert sink.calls == ["finish"]
    assert 0 < report.frames_out <= 61


def test_closed_window_ends_the_run_as_a_success() -> None:
    sink = FakeSink(stop_at=7)
    report = Pipeline(FakeSource(interval_s=0.001, live=True), [FakeStage()], sink, live=True).run()
    assert not report.interrupted
    assert [index for index in sink.written if index >= 7] == sink.written[-1:]
    assert sink.calls == ["finish"]


def test_progress_ends_with_the_final_numbers_and_packets_are_seen() -> None:
    seen: list[Progress] = []
    packets: list[int] = []
    pipeline = Pipeline(
        FakeSource(30),
        [FakeStage()],
        FakeSink(),
        progress=seen.append,
        on_packet=lambda p: packets.append(p.frame.index),
    )
    pipeline.run()
    assert (seen[-1].frames_in, seen[-1].frames_out) == (30, 30)
    assert packets == list(range(30))


def test_times_of_a_run_add_up() -> None:
    report = Pipeline(FakeSource(20), [FakeStage("slow", work_s=0.004)], FakeSink(), queue_size=1).run()
    slow = next(stage for stage in report.latency.stages if stage.stage == "slow")
    assert slow.work_ms.p50 >= 4.0
    assert slow.wait_ms.p50 > 4.0  # two frames wait for it at any time: one queued, one offered
    assert report.latency.end_to_end_ms is not None
    assert report.latency.end_to_end_ms.max >= slow.work_ms.max
    assert 0 < report.latency.fps < 260


def test_channel_refuses_after_its_end_but_gives_out_what_waits() -> None:
    channel = Channel(2, latest_wins=False)
    packet = Packet(make_frame(0))
    assert channel.put(packet)
    channel.end()
    assert not channel.put(packet)
    item = channel.get()
    assert item is not None and item[0] is packet
    assert channel.get() is None


def test_a_cut_outlives_the_packet_that_brought_it() -> None:
    channel = Channel(1, latest_wins=True)
    for index, cut in enumerate([False, True, False]):
        assert channel.put(replace(Packet(make_frame(index)), cut=cut))
    item = channel.get()
    assert item is not None and item[0].frame.index == 2 and item[0].cut and channel.dropped == 2
    assert channel.put(Packet(make_frame(3)))
    item = channel.get()
    assert item is not None and not item[0].cut


def test_channel_abort_wakes_both_sides() -> None:
    full, empty = Channel(1, latest_wins=False), Channel(1, latest_wins=False)
    full.put(Packet(make_frame(0)))
    results: list[object] = []
    threads = [
        threading.Thread(target=lambda: results.append(full.put(Packet(make_frame(1))))),
        threading.Thread(target=lambda: results.append(empty.get())),
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    full.abort()
    empty.abort()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert sorted(map(str, results)) == ["False", "None"]
