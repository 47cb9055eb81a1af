"""Percentiles of waiting, work, look-ahead and the whole way."""

from __future__ import annotations

import pytest

from unmask_rt.frames import StageTime
from unmask_rt.latency import LatencyRecorder

MS = 1_000_000


def times(offset: int, wait: int, work: int, held: int) -> tuple[StageTime, ...]:
    """Two stages; the spans, in ms, are those of the first. The second waits 1 and works 2."""
    start = offset + wait
    end = start + work
    then = end + held
    return (
        StageTime("find", offset * MS, start * MS, end * MS),
        StageTime("encode", then * MS, (then + 1) * MS, (then + 3) * MS),
    )


def test_percentiles_of_each_span() -> None:
    recorder = LatencyRecorder()
    for i in range(101):
        recorder.add(times(1000 * i, wait=i, work=10, held=2 * i), (10 + 3 * i + 3) * MS)
    report = recorder.report(frames=101, wall_s=2.02, cpu_s=1.01)
    find, encode = report.stages
    assert (find.stage, encode.stage) == ("find", "encode")
    assert (find.wait_ms.p50, find.wait_ms.p95, find.wait_ms.p99, find.wait_ms.max) == (50, 95, 99, 100)
    assert (find.work_ms.p50, find.work_ms.max) == (10, 10)
    assert (find.held_ms.p50, find.held_ms.max) == (100, 200)
    assert (encode.wait_ms.max, encode.work_ms.max, encode.held_ms.max) == (1, 2, 0)
    assert report.end_to_end_ms is not None
    assert report.end_to_end_ms.p50 == 163
    assert report.fps == pytest.approx(50)
    assert report.cpu_s_per_frame == pytest.approx(0.01)


def test_long_runs_forget_old_frames_but_not_their_maximum() -> None:
    recorder = LatencyRecorder(kept_frames=10)
    recorder.add(times(0, wait=500, work=1, held=0), 900 * MS)
    for i in range(1, 60):
        recorder.add(times(i, wait=1, work=1, held=0), 5 * MS)
    report = recorder.report(frames=60, wall_s=1, cpu_s=1)
    assert report.stages[0].wait_ms.max == 500
    assert report.stages[0].wait_ms.p99 == 1
    assert report.end_to_end_ms is not None and report.end_to_end_ms.max == 900


def test_no_frame_at_all() -> None:
    report = LatencyRecorder().report(frames=0, wall_s=0.0, cpu_s=0.0)
    assert report.to_dict() == {
        "frames": 0,
        "wall_s": 0.0,
        "fps": 0.0,
        "cpu_s_per_frame": 0.0,
        "end_to_end_ms": None,
        "stages": [],
    }


def test_dict_names_its_units() -> None:
    recorder = LatencyRecorder()
    recorder.add(times(0, wait=1, work=2, held=3), 9 * MS)
    stage = recorder.report(frames=1, wall_s=1, cpu_s=1).to_dict()["stages"][0]
    assert stage["stage"] == "find"
    assert stage["work_ms"] == {"p50": 2.0, "p95": 2.0, "p99": 2.0, "max": 2.0}
    assert stage["held_ms"]["max"] == 3.0
