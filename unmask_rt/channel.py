"""The bounded queue between two threads of the pipeline.

It sleeps on a condition variable: a thread that polls would cost the native ones milliseconds at each turn.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import replace

from unmask_rt.frames import Packet


class Channel:
    """A bounded queue from one thread to the next.

    Args:
        capacity: packets that may wait.
        latest_wins: True replaces a packet that waits; False makes `put` wait for room.
    """

    def __init__(self, capacity: int, *, latest_wins: bool) -> None:
        self._capacity = 1 if latest_wins else capacity
        self._latest_wins = latest_wins
        self._items: deque[tuple[Packet, int]] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self.aborted = False
        self.dropped = 0

    def put(self, packet: Packet, *, patient: bool = False) -> bool:
        """Hands a packet over; ``patient`` waits for room even where the latest wins.

        Returns:
            False once nobody will take packets any more.
        """
        offered_ns = time.monotonic_ns()
        with self._changed:
            if self._latest_wins and not patient:
                if self._items and not self._ended:
                    cut = any(waiting.cut for waiting, _ in self._items)  # the new shot begins with the next one then
                    packet = replace(packet, cut=packet.cut or cut)
                    self._items.clear()
                    self.dropped += 1
            else:
                while len(self._items) >= self._capacity and not self._ended:
                    self._changed.wait()
            if self._ended:
                return False
            self._items.append((packet, offered_ns))
            self._changed.notify()
            return True

    def get(self) -> tuple[Packet, int] | None:
        """The next packet and when it was offered (`time.monotonic_ns`); None at the end or after `abort`."""
        with self._changed:
            while not self._items and not self._ended:
                self._changed.wait()
            if self.aborted or not self._items:
                return None
            item = self._items.popleft()
            self._changed.notify()
            return item

    def end(self) -> None:
        """No packet comes any more; those that wait are still given out."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def abort(self) -> None:
        """Throws away what waits and wakes both sides."""
        with self._changed:
            self._ended = self.aborted = True
            self._items.clear()
            self._changed.notify_all()
