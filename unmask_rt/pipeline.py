"""Threads, bounded queues, order, drop policy and clocks. Knows nothing about faces.

    decode -> [queue] -> stage -> [queue] -> ... -> stage -> [queue] -> encode

One thread each, one packet type, output always in input order. Files wait (a full queue blocks whoever fills it); live
sources never wait (a packet that still waits when the next one comes is dropped, and counted for the stage that was
too busy to take it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from unmask_rt.frames import Packet


class Stage(Protocol):
    """One step of the way of a frame. Knows nothing of threads; called from one thread only.

    Attributes:
        name: short word for tables and reports.
    """

    name: str

    def __call__(self, packet: Packet) -> Sequence[Packet]:
        """Takes the next packet and returns those that are ready, oldest first: often that one, none or several.

        A stage that looks ahead holds packets back; it never swallows, repeats or reorders them. It keeps
        ``packet.times`` and ``packet.frame.index`` as they are.
        """
        ...

    def flush(self) -> Sequence[Packet]:
        """The packets still held back, oldest first, once the source has ended."""
        ...

    def close(self) -> None:
        """Frees resources; calling it twice is harmless."""
        ...
