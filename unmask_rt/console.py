"""What people see: results on stdout, everything else on stderr, and no escape codes where no terminal is.

Only this module formats for people. Rich is imported when the first line is printed, so that ``--help`` stays quick.
"""

from __future__ import annotations

import io
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

from unmask_rt.errors import INTERRUPTED, UnmaskError

if TYPE_CHECKING:
    from rich.console import Console as RichConsole
    from rich.progress import Progress as RichProgress
    from rich.table import Table

    from unmask_rt.latency import LatencyReport, Percentiles
    from unmask_rt.pipeline import Progress

Verbosity = Literal["quiet", "normal", "verbose"]
PLAIN_WIDTH = 120
"""Columns where the output is not a terminal: tables must not be cut to a guessed width."""
PLAIN_INTERVAL_S = 10.0
RATE_WINDOW_S = 3.0


class Console:
    """Two streams and how much goes to them."""

    def __init__(self, verbosity: Verbosity = "normal") -> None:
        self.verbosity = verbosity

    @cached_property
    def out(self) -> RichConsole:
        """stdout: results."""
        return _rich(stderr=False)

    @cached_property
    def err(self) -> RichConsole:
        """stderr: progress, notes, warnings, errors."""
        return _rich(stderr=True)

    def result(self, text: str | Table) -> None:
        """A line or table of the result."""
        if self.verbosity != "quiet":
            self.out.print(text, soft_wrap=isinstance(text, str))

    def note(self, text: str) -> None:
        """Something worth knowing."""
        if self.verbosity != "quiet":
            self.err.print(f"note: {text}", soft_wrap=True)

    def warn(self, text: str) -> None:
        """Something that may be wrong."""
        if self.verbosity != "quiet":
            self.err.print(f"warning: {text}", style="yellow", soft_wrap=True)

    def error(self, text: str) -> None:
        """Why it did not work; always printed."""
        self.err.print(f"error: {text}", style="red", soft_wrap=True)

    def outcome(self, work: Callable[[], int]) -> int:
        """Runs a command: its exit code, or that of what ended it, said as a message (see `unmask_rt.errors`)."""
        try:
            return work()
        except KeyboardInterrupt:
            self.error("interrupted")
            return INTERRUPTED
        except UnmaskError as error:
            self.error(str(error))
            return error.exit_code
        except Exception as error:
            shown = self.verbosity == "verbose"
            wish = "Please report this with what follows." if shown else "Please report this with the output of -v."
            self.error(f"unexpected {type(error).__name__}: {error}\n{wish}")
            if shown:
                self.err.print(traceback.format_exc(), soft_wrap=True)
            return 1

    def start_logging(self) -> None:
        """Sends the `logging` of this package (all of it with ``-v``) to stderr."""
        level = {"quiet": logging.ERROR, "normal": logging.WARNING, "verbose": logging.INFO}[self.verbosity]
        logging.basicConfig(level=level, handlers=[_Handler(self)], force=True)
        if self.verbosity == "verbose":
            for name in ("unmask_rt", "engines"):
                logging.getLogger(name).setLevel(logging.DEBUG)


class _Handler(logging.Handler):
    """Through the same console as the progress bar, so that a line does not tear it."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.err.print(f"{record.levelname.lower()}: {record.name}: {self.format(record)}", soft_wrap=True)


class RunProgress:
    """The progress of a run: a bar on a terminal, else a line now and then.

    Args:
        console: where it goes (its stderr).
        frames: frames to come, None if unknown.
        seconds: seconds that a live run takes, None if endless.
    """

    def __init__(self, console: Console, *, frames: int | None = None, seconds: float | None = None) -> None:
        self._console = console
        self._frames = frames
        self._seconds = seconds
        self._recent: deque[tuple[float, int]] = deque()
        self._spoke_s = 0.0
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        if self._console.verbosity != "quiet" and self._console.err.is_terminal:
            from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

            self._bar = Progress(
                BarColumn(bar_width=24),
                TaskProgressColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
                console=self._console.err,
                transient=True,
                auto_refresh=False,
            )
            self._bar.start()
            self._task = self._bar.add_task("starting", total=self._seconds or self._frames)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, progress: Progress, faces: int) -> None:
        """Shows where the run stands; ``faces`` in the latest frame."""
        if self._console.verbosity == "quiet":
            return
        text = self._describe(progress, faces)
        if self._bar is not None:
            done = progress.elapsed_s if self._seconds else progress.frames_out
            self._bar.update(self._task, completed=done, description=text, refresh=True)
        elif time.monotonic() - self._spoke_s >= PLAIN_INTERVAL_S:
            if self._spoke_s:
                total = f" of {self._frames}" if self._frames else ""
                self._console.err.print(f"{progress.frames_out}{total} frames, {text}", soft_wrap=True)
            self._spoke_s = time.monotonic()

    def _describe(self, progress: Progress, faces: int) -> str:
        self._recent.append((progress.elapsed_s, progress.frames_out))
        while len(self._recent) > 2 and progress.elapsed_s - self._recent[0][0] > RATE_WINDOW_S:
            self._recent.popleft()
        span_s = progress.elapsed_s - self._recent[0][0]
        fps = (progress.frames_out - self._recent[0][1]) / span_s if span_s > 0 else 0.0
        parts = [f"{fps:.1f} fps", f"{faces} {'face' if faces == 1 else 'faces'}"]
        parts.append(f"{sum(progress.dropped.values())} dropped")
        left_s = None
        if self._seconds:
            left_s = self._seconds - progress.elapsed_s
        elif self._frames and fps > 0:
            left_s = (self._frames - progress.frames_out) / fps
        if left_s is not None:
            parts.append(f"{clock(left_s)} left")
        return ", ".join(parts)


def clock(seconds: float) -> str:
    """A span as m:ss or h:mm:ss."""
    whole = max(0, round(seconds))
    minutes, hours = whole // 60 % 60, whole // 3600
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def latency_table(latency: LatencyReport, title: str = "") -> Table:
    """The table of waiting and work for each stage, in milliseconds; it fits into 80 columns.

    A line "held" follows a stage that looks ahead: so long it keeps a frame after its work on it.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("ms", no_wrap=True)
    for column in ("wait p50", "p95", "p99", "max", "work p50", "p95", "p99", "max"):
        table.add_column(column, justify="right", no_wrap=True)
    for stage in latency.stages:
        table.add_row(stage.stage, *_cells(stage.wait_ms), *_cells(stage.work_ms))
        if stage.held_ms.p50 >= 1.0:
            table.add_row("  held", "", "", "", "", *_cells(stage.held_ms))
    if latency.end_to_end_ms is not None:
        table.add_section()
        table.add_row("end to end", "", "", "", "", *_cells(latency.end_to_end_ms))
    return table


def faces_table(finders: Mapping[str, Mapping[str, float]]) -> Table:
    """The table of who found the faces and how sure that was; ``finders`` as `report.Tally.finders` gives them."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("found by", no_wrap=True)
    for column in ("faces", "share", "sure"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, told in finders.items():
        table.add_row(name, f"{told['count']:.0f}", f"{told['share']:.1%}", f"{told['confidence']:.2f}")
    return table


def _cells(values: Percentiles) -> tuple[str, ...]:
    return tuple(f"{ms:.1f}" if ms < 1000 else f"{ms:.0f}" for ms in (values.p50, values.p95, values.p99, values.max))


def _rich(*, stderr: bool) -> RichConsole:
    from rich.console import Console as RichConsole

    if not stderr and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: a name may be anything
    console = RichConsole(stderr=stderr, markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console
