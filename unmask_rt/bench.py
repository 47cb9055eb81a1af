"""``unmask-rt bench``: how fast this machine is, and what that costs beside the bare decode + encode.

Three runs through the same threads, over the same frames, into the same encoder (x264 ultrafast):

* bare     no stages: what video costs by itself;
* unpaced  every frame, as fast as it goes;
* paced    frames come at a fixed rate, as from a camera: latest frame wins, latency is what counts.

And how long one waits: the whole command, in a process of its own, over the first frames of the same clip.

A figure only counts if the work was done: below 99 % treated frames there is none.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from unmask_rt.console import Console, latency_table
from unmask_rt.errors import SourceError, UnmaskError
from unmask_rt.frames import Frame
from unmask_rt.job import unmasker_options
from unmask_rt.pipeline import Pipeline, RunReport, Stage
from unmask_rt.report import Tally, check_place, environment, to_json, write_json
from unmask_rt.sample import builtin_clip
from unmask_rt.sinks import EncodeOptions, open_sink
from unmask_rt.sources import Source, open_source
from unmask_rt.unmasker import Unmasker

if TYPE_CHECKING:
    from rich.table import Table

LEAST_TREATED = 0.99
LIVE_DECIDES_FRAMES = 2
"""So many frames at its start a live run may leave alone: it looks at them before it decides."""
BUSY_LOAD = 0.5
BUILTIN_RATE = 30
STARTS = 3
START_S = 0.1
"""Of the clip that is taken where the start is measured, in seconds."""


class Feed:
    """The first frames of a source, as they come or at a fixed rate.

    Args:
        source: closed together with this.
        frames: at most so many.
        rate: frames a second; None for as they come.
    """

    def __init__(self, source: Source, frames: int, rate: float | None) -> None:
        self._source, self._frames, self._rate = source, frames, rate
        self.info = replace(source.info, live=rate is not None, frame_count=frames)
        self.notes, self.failures = source.notes, source.failures
        self.late = 0
        """Frames that the decoder gave more than a frame's time too late: the rate was not kept."""

    def __iter__(self) -> Iterator[Frame]:
        frames = islice(self._source, self._frames)
        if self._rate is None:
            yield from frames
            return
        start = None
        for index, frame in enumerate(frames):
            now = time.monotonic()
            start = now if start is None else start
            ahead_s = start + index / self._rate - now
            if ahead_s > 0:
                time.sleep(ahead_s)
            self.late += ahead_s < -1 / self._rate
            yield replace(frame, captured_ns=time.monotonic_ns())

    def close(self) -> None:
        """Closes the source."""
        self._source.close()


@dataclass(frozen=True, slots=True)
class Measurement:
    """One run.

    Attributes:
        name: "bare", "unpaced" or "paced".
        run: what the pipeline says.
        treated: frames in which something was unmasked.
        late: frames that came too late from the decoder (paced).
    """

    name: str
    run: RunReport
    treated: int
    late: int

    @property
    def share_treated(self) -> float:
        """Treated frames among those that had to be, 0..1."""
        due = self.run.frames_out - (LIVE_DECIDES_FRAMES if self.name == "paced" else 0)
        return min(1.0, self.treated / due) if due > 0 else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "frames_in": self.run.frames_in,
            "frames_out": self.run.frames_out,
            "treated": self.treated,
            "dropped": dict(self.run.dropped),
            "late": self.late,
            **self.run.latency.to_dict(),
        }


def run_bench(arguments: argparse.Namespace, console: Console) -> int:
    """Measures and prints; ``arguments`` are those of `unmask_rt.cli.bench_parser`.

    Returns:
        0, 1 if too few frames were treated, 130 if interrupted.
    """
    if arguments.json not in (None, "-"):
        check_place(Path(arguments.json), overwrite=arguments.overwrite)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    cv2.setNumThreads(1)
    unmasker = Unmasker(unmasker_options(arguments))
    runs: list[Measurement] = []
    try:
        with tempfile.TemporaryDirectory(prefix="unmask-rt-bench-") as folder:
            clip = _clip(arguments, Path(folder), console)
            for name in ("bare", "unpaced", "paced"):
                console.note(f"{name}: {arguments.frames} frames")
                rate = arguments.rate if name == "paced" else None
                stages = () if name == "bare" else unmasker.stages("live" if name == "paced" else "file")
                runs.append(measure(name, clip, arguments.frames, rate, stages, Path(folder) / f"{name}.mp4"))
                if runs[-1].run.interrupted:
                    console.error("interrupted")
                    return 130
            console.note(f"start: {STARTS} times")
            starts = [start_up(arguments, clip, Path(folder)) for _ in range(STARTS)]
        engine = dict(unmasker.describe())
    finally:
        unmasker.close()
    for run in runs[1:]:
        if run.share_treated < LEAST_TREATED:
            console.error(
                f"Only {run.treated} of {run.run.frames_out} frames were treated ({run.name}): that is no figure.\n"
                "A bench needs a masked face in every frame: leave --source out, or give another."
            )
            return 1
    _publish(arguments, console, runs, statistics.median(starts), engine, load)
    return 0


def measure(
    name: str, clip: Path, frames: int, rate: float | None, stages: Sequence[Stage], output: Path
) -> Measurement:
    """One run over the first frames of a clip; ``rate`` None is unpaced."""
    feed = Feed(open_source(clip), frames, rate)
    live = rate is not None
    encode = EncodeOptions(preset="ultrafast", low_latency=live, audio=False)
    sink = open_sink(output, feed, encode=encode, overwrite=True, label="off")
    tally = Tally()
    run = Pipeline(feed, stages, sink, live=live, on_packet=tally.add).run()
    if not run.frames_out and not run.interrupted:
        raise SourceError(f"{clip} gave no frame", "Give another --source.")
    output.unlink(missing_ok=True)
    return Measurement(name, run, tally.treated, feed.late)


def start_up(arguments: argparse.Namespace, clip: Path, folder: Path) -> float:
    """Seconds from starting the command until the first `START_S` of a clip are a finished file.

    Raises:
        UnmaskError: the command failed.
    """
    given = ("engine", "threads", "model", "face_model", "finder_model", "max_faces")
    options = [(f"--{name.replace('_', '-')}", getattr(arguments, name)) for name in given]
    chosen = [str(part) for name, value in options if value is not None for part in (name, value)]
    command = [
        sys.executable,
        "-P",
        "-m",
        "unmask_rt",
        str(clip),
        "-o",
        str(folder / "start.mp4"),
        "--overwrite",
        "--quiet",
    ]
    started = time.monotonic()
    done = subprocess.run([*command, "--duration", str(START_S), *chosen], capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnmaskError(f"the command failed when its start was measured: {done.stderr.strip()}", "Report this.")
    return time.monotonic() - started


def _clip(arguments: argparse.Namespace, folder: Path, console: Console) -> Path:
    if arguments.source is not None:
        return Path(arguments.source)
    console.note("making the built-in clip")
    return builtin_clip(folder / "clip.mp4", seconds=arguments.frames / BUILTIN_RATE, rate=BUILTIN_RATE, sound=False)


def _publish(
    arguments: argparse.Namespace,
    console: Console,
    runs: list[Measurement],
    start_s: float,
    engine: dict[str, Any],
    load: float | None,
) -> None:
    bare, unpaced, paced = runs
    ratio = unpaced.run.latency.fps / bare.run.latency.fps
    if load is not None and load > BUSY_LOAD:
        console.warn(f"the machine was busy before the start (load {load:.2f}): the figures are too low")
    if paced.late:
        console.warn(f"{paced.late} frames came late from the decoder: the rate of the paced run was not kept")
    figures = {
        "clip": arguments.source or "builtin",
        "rate": arguments.rate,
        **{run.name: run.to_dict() for run in runs},
        "ratio_to_bare": round(ratio, 4),
        "start_s": round(start_s, 3),
        "engine": engine,
        "load_average": load,
        **environment(),
    }
    if arguments.json == "-":
        print(to_json(figures))
        return
    console.result(summary_table(runs, ratio, arguments.rate))
    console.result(latency_table(unpaced.run.latency, "unpaced"))
    console.result(latency_table(paced.run.latency, f"paced at {arguments.rate:g} fps"))
    console.result(f"start: {start_s:.2f} s from the command to a finished file of {START_S:g} s (median of {STARTS})")
    console.result("engine: " + ", ".join(f"{key} {value}" for key, value in engine.items()))
    console.result("versions: " + ", ".join(f"{key} {value}" for key, value in figures["versions"].items()))
    console.result("machine: " + ", ".join(f"{key} {value}" for key, value in figures["machine"].items()))
    if arguments.json:
        write_json(Path(arguments.json), figures)


def summary_table(runs: Sequence[Measurement], ratio: float, rate: float) -> Table:
    """One column a run."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="Bench", title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("")
    for heading in ("bare decode + encode", "unpaced", f"paced at {rate:g} fps"):
        table.add_column(heading, justify="right")
    latencies = [run.run.latency for run in runs]
    table.add_row("fps", *(f"{latency.fps:.1f}" for latency in latencies))
    table.add_row("of the bare rate", "1", f"{ratio:.3f}", "")
    table.add_row("frames", *(str(run.run.frames_out) for run in runs))
    table.add_row("treated", "", *(f"{run.treated} ({run.share_treated:.1%})" for run in runs[1:]))
    table.add_row("dropped", *(_drops(run) for run in runs))
    table.add_row("CPU ms a frame", *(f"{latency.cpu_s_per_frame * 1e3:.1f}" for latency in latencies))
    ends = [latency.end_to_end_ms for latency in latencies]
    for name in ("p50", "p95", "p99", "max"):
        table.add_row(f"end to end {name}, ms", *(f"{getattr(end, name):.1f}" if end else "" for end in ends))
    return table


def _drops(run: Measurement) -> str:
    by_stage = ", ".join(f"{stage} {count}" for stage, count in run.run.dropped.items() if count)
    return f"{sum(run.run.dropped.values())}" + (f" ({by_stage})" if by_stage else "")
