"""Results on stdout, the rest on stderr, and nothing but plain text where no terminal is."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console as RichConsole

from tests.test_latency import times
from unmask_rt.console import Console, RunProgress, clock, faces_table, latency_table
from unmask_rt.errors import ModelError, UsageError
from unmask_rt.latency import LatencyRecorder
from unmask_rt.pipeline import Progress

MS = 1_000_000


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def some_table() -> object:
    recorder = LatencyRecorder()
    recorder.add(times(0, wait=1, work=2, held=3), 9 * MS)
    return latency_table(recorder.report(frames=1, wall_s=1, cpu_s=1), "unpaced")


def fail(error: BaseException) -> int:
    raise error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (UsageError("--start is negative", "Give 0 or more."), 2, "--start is negative\nGive 0 or more."),
        (ModelError("it is damaged"), 3, "it is damaged"),
        (ZeroDivisionError("oh"), 1, "unexpected ZeroDivisionError: oh"),
    ],
)
def test_what_ends_a_command_becomes_a_message_and_a_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert Console("quiet").outcome(lambda: fail(error)) == code
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {said}") and "Traceback" not in shown
    assert Console("verbose").outcome(lambda: fail(error)) == code
    assert ("in fail" in capsys.readouterr().err) == (code == 1), "where it happened, if nobody foresaw it"
    assert Console().outcome(lambda: 7) == 7


def test_streams_and_no_escape_codes(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console()
    console.result("out.mp4 [bold]900 frames")
    console.result(some_table())  # type: ignore[arg-type]
    console.note("a note")
    console.warn("a warning")
    console.error("an error\nwith a hint")
    out, err = capsys.readouterr()
    assert "out.mp4 [bold]900 frames" in out
    assert "end to end" in out and "  held" in out
    assert err == "note: a note\nwarning: a warning\nerror: an error\nwith a hint\n"
    assert "\x1b" not in out + err


def test_latency_table_fits_a_terminal_of_80_columns() -> None:
    recorder = LatencyRecorder()
    slow = tuple(replace(t, stage="inpaint") for t in times(0, wait=99_999, work=99_999, held=99_999))
    recorder.add(slow, 888_888 * MS)
    screen = io.StringIO()
    RichConsole(file=screen, width=80).print(latency_table(recorder.report(frames=1, wall_s=1, cpu_s=1)))
    text = screen.getvalue()
    assert "…" not in text and text.count("99999") == 4 * 3
    assert max(len(line) for line in text.splitlines()) <= 80 and "888888" in text


def test_long_lines_are_not_broken(capsys: pytest.CaptureFixture[str]) -> None:
    path = "/somewhere" * 40
    Console().result(f"{path} written")
    Console().error(f"{path} broken")
    out, err = capsys.readouterr()
    assert out == f"{path} written\n"
    assert err == f"error: {path} broken\n"


def test_quiet_says_only_errors(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console("quiet")
    console.result("result")
    console.note("note")
    console.warn("warning")
    with RunProgress(console) as progress:
        progress.update(Progress(1, 1, {}, 1.0), 0)
    console.error("error")
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: error\n"


@pytest.mark.parametrize(("verbosity", "expected"), [("normal", 1), ("verbose", 3), ("quiet", 0)])
def test_logs_go_to_stderr(capsys: pytest.CaptureFixture[str], verbosity: str, expected: int) -> None:
    Console(verbosity).start_logging()  # type: ignore[arg-type]
    log = logging.getLogger("unmask_rt.something")
    try:
        log.debug("deep")
        log.info("plain")
        log.warning("odd")
    finally:
        logging.basicConfig(level=logging.WARNING, handlers=[], force=True)
        for name in ("unmask_rt", "engines"):
            logging.getLogger(name).setLevel(logging.NOTSET)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == expected


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("unmask_rt.console.time.monotonic", lambda: now[0])
    with RunProgress(Console(), frames=900) as progress:
        for step in range(126):
            now[0] = 100.0 + step / 5
            progress.update(Progress(6 * step + 4, 6 * step, {"find": 1, "encode": 2}, step / 5), 1)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "300 of 900 frames, 30.0 fps, 1 face, 3 dropped, 0:20 left",
        "600 of 900 frames, 30.0 fps, 1 face, 3 dropped, 0:10 left",
    ]


def test_progress_on_a_terminal_is_a_bar() -> None:
    screen = io.StringIO()
    console = Console()
    console.__dict__["err"] = RichConsole(file=screen, force_terminal=True, width=100)
    with RunProgress(console, seconds=10.0) as progress:
        progress.update(Progress(10, 10, {"find": 0}, 0.0), 2)
        progress.update(Progress(160, 160, {"find": 5}, 5.0), 2)
    assert "30.0 fps, 2 faces, 5 dropped, 0:05 left" in screen.getvalue()
    assert "50%" in screen.getvalue()


def test_clock() -> None:
    assert [clock(s) for s in (-1, 0, 59.6, 3599, 3661)] == ["0:00", "0:00", "1:00", "59:59", "1:01:01"]


NATIVE = """
import os, sys
from unmask_rt import native_logs
native_logs.quiet()
os.write(2, b"W0000 00:00:17.687060    7742 graph.cc:174] chatter\\n")
os.write(2, b"INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\\n")
os.write(2, b"E0000 00:00:17.687060    7742 graph.cc:174] a real error\\n")
print("python's own", file=sys.stderr)
os.write(2, b"unfinished")
"""


def test_native_chatter_is_filtered_and_the_rest_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", NATIVE], capture_output=True, text=True, check=True)
    assert "chatter" not in done.stderr and "XNNPACK" not in done.stderr
    assert "a real error" in done.stderr and "python's own" in done.stderr and done.stderr.endswith("unfinished")


def test_a_crash_still_shows(tmp_path: Path) -> None:
    code = "from unmask_rt import native_logs; native_logs.quiet(); import os; os.abort()"
    # In a folder of its own: where the system keeps core dumps, one is left behind.
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0
    assert "Fatal Python error: Aborted" in done.stderr


def test_the_table_of_who_found_the_faces() -> None:
    told = {"aligner": {"count": 90, "share": 0.9, "confidence": 0.876}, "flow": {"count": 10, "share": 0.1}}
    told["flow"]["confidence"] = 0.4
    console = Console()
    with console.out.capture() as screen:
        console.result(faces_table(told))
    lines = [line.split() for line in screen.get().splitlines() if line.strip()]
    assert ["aligner", "90", "90.0%", "0.88"] in lines and ["flow", "10", "10.0%", "0.40"] in lines
