"""Ctrl-C (or a plain kill) as a request: the loop finishes its step, writes a checkpoint and leaves."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupt:
    """Turns the first Ctrl-C (or SIGTERM) into a request that the loop sees; the second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    @contextmanager
    def listening(self) -> Iterator[Interrupt]:
        old = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                old[number] = signal.signal(number, self._ask)
        except ValueError:  # not the main thread: whoever runs us listens
            pass
        try:
            yield self
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)
