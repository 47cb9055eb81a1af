"""A sink that only counts: for measuring without an encoder."""

from __future__ import annotations

from unmask_rt.frames import Frame
from unmask_rt.sinks.base import SinkReport


class NullSink:
    """Counts frames and forgets them."""

    stopped = False

    def __init__(self) -> None:
        self._frames = 0
        self._report: SinkReport | None = None

    def write(self, frame: Frame) -> None:
        """Counts."""
        self._frames += 1

    def finish(self) -> SinkReport:
        """How many there were."""
        self._report = self._report or SinkReport(None, self._frames)
        return self._report

    def abort(self) -> SinkReport:
        """How many there were."""
        self._report = self._report or SinkReport(None, self._frames, complete=False)
        return self._report
