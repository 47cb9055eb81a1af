"""Where the time of a frame goes: waiting and work of each stage, and the whole way.

Three spans for each stage: *wait* from being offered to the stage until it takes the frame, *work* the call itself,
*held* from then until the stage gives the frame on (looking ahead). End to end runs from the frame leaving the decoder
or the camera until the sink has encoded it. Waiting, work and holding of all stages after decode add up to it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask_rt.frames import StageTime

KEPT_FRAMES = 1 << 17
"""Percentiles count at least the last so many frames (over an hour at 30 fps); maxima count all."""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Milliseconds."""

    p50: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class StageLatency:
    """One stage's spans in milliseconds (see the module's docstring)."""

    stage: str
    wait_ms: Percentiles
    work_ms: Percentiles
    held_ms: Percentiles


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """The times of a run.

    Attributes:
        frames: frames written.
        wall_s: seconds by the clock.
        cpu_s: CPU seconds of the whole process in that time, all threads.
        stages: in the order of the pipeline.
        end_to_end_ms: frame captured to packet encoded; None if no frame was written.
    """

    frames: int
    wall_s: float
    cpu_s: float
    stages: tuple[StageLatency, ...]
    end_to_end_ms: Percentiles | None

    @property
    def fps(self) -> float:
        """Frames written a second."""
        return self.frames / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def cpu_s_per_frame(self) -> float:
        """CPU seconds for each frame written."""
        return self.cpu_s / self.frames if self.frames else 0.0

    def to_dict(self) -> dict[str, Any]:
        """For JSON; milliseconds rounded to microseconds."""
        return {
            "frames": self.frames,
            "wall_s": round(self.wall_s, 3),
            "fps": round(self.fps, 2),
            "cpu_s_per_frame": round(self.cpu_s_per_frame, 5),
            "end_to_end_ms": asdict(self.end_to_end_ms) if self.end_to_end_ms else None,
            "stages": [asdict(stage) for stage in self.stages],
        }


class LatencyRecorder:
    """Collects the times of finished frames; called from one thread."""

    def __init__(self, kept_frames: int = KEPT_FRAMES) -> None:
        self._kept_frames = kept_frames
        self._names: tuple[str, ...] = ()
        self._rows = array("q")  # [frame][wait, work, held of each stage ..., end to end], ns
        self._row_length = 0
        self._max: NDArray[np.int64] | None = None

    def add(self, times: Sequence[StageTime], end_to_end_ns: int) -> None:
        """Takes the times of one finished frame; every frame has to pass the same stages.

        Args:
            times: of each stage, in order.
            end_to_end_ns: from the frame captured to the packet encoded.
        """
        if not self._names:
            self._names = tuple(t.stage for t in times)
            self._row_length = 3 * len(times) + 1
        given_on = [t.queued_ns for t in times[1:]]
        given_on.append(times[-1].ended_ns if times else 0)
        for t, next_ns in zip(times, given_on, strict=True):
            self._rows.extend((t.started_ns - t.queued_ns, t.ended_ns - t.started_ns, next_ns - t.ended_ns))
        self._rows.append(end_to_end_ns)
        if len(self._rows) >= 2 * self._kept_frames * self._row_length:
            old = self._kept_frames * self._row_length
            forgotten = np.array(self._rows[:old], np.int64).reshape(-1, self._row_length).max(axis=0)
            self._max = forgotten if self._max is None else np.maximum(self._max, forgotten)
            del self._rows[:old]

    def report(self, *, frames: int, wall_s: float, cpu_s: float) -> LatencyReport:
        """Sums up; ``frames`` written in ``wall_s`` seconds for ``cpu_s`` CPU seconds."""
        if not self._rows:
            return LatencyReport(frames, wall_s, cpu_s, (), None)
        rows = np.array(self._rows, np.int64).reshape(-1, self._row_length)
        top = rows.max(axis=0) if self._max is None else np.maximum(rows.max(axis=0), self._max)
        p50, p95, p99 = np.percentile(rows, (50, 95, 99), axis=0) / 1e6

        def column(i: int) -> Percentiles:
            values = (p50[i], p95[i], p99[i], top[i] / 1e6)
            return Percentiles(*(round(float(value), 3) for value in values))

        stages = tuple(
            StageLatency(name, column(3 * i), column(3 * i + 1), column(3 * i + 2))
            for i, name in enumerate(self._names)
        )
        return LatencyReport(frames, wall_s, cpu_s, stages, column(self._row_length - 1))
