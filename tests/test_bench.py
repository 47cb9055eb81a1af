"""The bench counts what was really done, and gives no figure where too little was. The unmasker is a fake."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.media import moving_gradient, write_video
from tests.test_cli import FakeUnmasker, a_patch, run, unmasks
from tests.test_pipeline import FakeSource
from unmask_rt import bench, cli
from unmask_rt.console import Console
from unmask_rt.errors import UnmaskError
from unmask_rt.frames import Packet
from unmask_rt.latency import LatencyRecorder
from unmask_rt.pipeline import RunReport
from unmask_rt.sources import open_source

FRAMES = 60
START_UP = bench.start_up


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeUnmasker]:
    class Fresh(FakeUnmasker):
        pass

    def small_clip(path: Path, *, seconds: float, rate: int, sound: bool) -> Path:
        assert (seconds, rate, sound) == (FRAMES / 30, 30, False)
        return write_video(path, moving_gradient(FRAMES), rate=rate)

    monkeypatch.setattr(bench, "Unmasker", Fresh)
    monkeypatch.setattr(bench, "start_up", lambda arguments, clip, folder: 1.25)
    monkeypatch.setattr(bench, "builtin_clip", small_clip)
    monkeypatch.setattr(cli, "_prepare_process", lambda console: None)
    return Fresh


def figures(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    assert run("bench", "--frames", FRAMES, "--rate", "200", "--json", "-", *arguments) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_figures_as_json(capsys: pytest.CaptureFixture[str], fake: type[FakeUnmasker]) -> None:
    told = figures(capsys, "--max-faces", "1")
    assert fake.modes == ["file", "live", "closed"]
    assert fake.options.max_faces == 1
    for name in ("bare", "unpaced"):
        assert (told[name]["frames_in"], told[name]["frames_out"]) == (FRAMES, FRAMES)
        assert sum(told[name]["dropped"].values()) == 0
    assert told["bare"]["treated"] == 0
    assert [stage["stage"] for stage in told["bare"]["stages"]] == ["decode", "encode"]
    assert told["unpaced"]["treated"] == FRAMES
    assert told["ratio_to_bare"] == pytest.approx(told["unpaced"]["fps"] / told["bare"]["fps"], rel=0.01)
    paced = told["paced"]
    assert paced["frames_out"] + sum(paced["dropped"].values()) == paced["frames_in"] == FRAMES
    assert paced["wall_s"] >= (FRAMES - 1) / 200
    assert {"p50", "p95", "p99", "max"} == set(paced["end_to_end_ms"])
    assert told["clip"] == "builtin" and told["engine"]["engine"] == "fake"
    assert "onnxruntime" in told["versions"] and "processor" in told["machine"]
    assert "load_average" in told and told["start_s"] == 1.25


def test_figures_as_tables_and_as_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "bench.json"
    assert run("bench", "--frames", FRAMES, "--rate", "200", "--json", path) == 0
    out = capsys.readouterr().out
    for words in (
        "bare decode + encode",
        "paced at 200 fps",
        "CPU ms a frame",
        "of the bare rate",
        "engine: ",
        "100.0%",
        "start: 1.25 s",
    ):
        assert words in out
    assert json.loads(path.read_text())["rate"] == 200


@pytest.mark.parametrize("lost", ["unpaced", "paced"])
def test_no_figure_below_99_percent(
    lost: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, fake: type[FakeUnmasker]
) -> None:
    def forgets(packet: Packet) -> Packet:
        leave = len(fake.modes) == (1 if lost == "unpaced" else 2) and packet.frame.index >= 0.8 * FRAMES
        return replace(packet, patches=(a_patch(strength=0.0),)) if leave else unmasks(packet)

    fake.act = staticmethod(forgets)
    path = tmp_path / "bench.json"
    assert run("bench", "--frames", FRAMES, "--rate", "100", "--json", path) == 1
    out, err = capsys.readouterr()
    assert out == "" and not path.exists()
    assert f"({lost})" in err and "that is no figure" in err


def test_a_live_run_may_look_at_two_frames_first(fake: type[FakeUnmasker], capsys: pytest.CaptureFixture[str]) -> None:
    def decides(packet: Packet) -> Packet:
        return packet if fake.modes[-1] == "live" and packet.frame.index < 2 else unmasks(packet)

    fake.act = staticmethod(decides)
    assert figures(capsys)["paced"]["treated"] <= FRAMES - 2


def test_drops_are_told_for_the_stage_that_was_too_slow(capsys: pytest.CaptureFixture[str]) -> None:
    latency = LatencyRecorder().report(frames=50, wall_s=2.0, cpu_s=1.0)
    dropped = {"find": 0, "inpaint": 7, "blend": 0, "encode": 3}
    run = bench.Measurement("paced", RunReport(60, 50, dropped, False, latency, None), treated=48, late=0)
    assert run.share_treated == 1.0  # two frames may be looked at first
    Console().result(bench.summary_table([run, run, run], 0.25, 30.0))
    out = capsys.readouterr().out
    assert "10 (inpaint 7, encode 3)" in out and "0.250" in out and "48 (100.0%)" in out


def test_a_busy_machine_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.25, 1.0, 1.0))
    assert figures_warn(capsys)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.25, 1.0, 1.0))
    assert not figures_warn(capsys)


def figures_warn(capsys: pytest.CaptureFixture[str]) -> bool:
    assert run("bench", "--frames", FRAMES, "--rate", "200") == 0
    return "busy" in capsys.readouterr().err


def test_a_place_for_the_figures_is_looked_for_first(tmp_path: Path, fake: type[FakeUnmasker]) -> None:
    assert run("bench", "--frames", FRAMES, "--json", tmp_path / "nowhere" / "x.json") == 2
    assert not hasattr(fake, "modes"), "something was measured in vain"


def test_source_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("bench", "--source", tmp_path / "missing.mp4") == 1
    assert "missing.mp4" in capsys.readouterr().err


def test_feed_paces_and_stamps() -> None:
    feed = bench.Feed(FakeSource(50), 11, 100.0)
    assert feed.info.live and feed.info.frame_count == 11
    stamps = [frame.captured_ns / 1e9 for frame in feed]
    assert len(stamps) == 11
    assert stamps[-1] - stamps[0] >= 0.1
    assert [frame.index for frame in bench.Feed(FakeSource(50), 3, None)] == [0, 1, 2]


def test_feed_names_a_decoder_that_is_late() -> None:
    feed = bench.Feed(FakeSource(10, interval_s=0.02), 10, 200.0)
    assert len(list(feed)) == 10
    assert feed.late >= 7


def test_the_start_is_that_of_the_command(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", moving_gradient(12), rate=30)
    arguments = cli.bench_parser().parse_args(["--max-faces", "2"])
    assert 0.1 < START_UP(arguments, clip, tmp_path) < 60
    assert sum(1 for _ in open_source(tmp_path / "start.mp4")) == 3, "a tenth of a second"
    arguments.model = tmp_path / "none.onnx"
    with pytest.raises(UnmaskError, match=r"none\.onnx"):
        START_UP(arguments, clip, tmp_path)
