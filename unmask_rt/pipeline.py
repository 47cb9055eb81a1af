"""Threads, bounded queues, order, drop policy and clocks. Knows nothing about faces.

    decode -> [queue] -> stage -> [queue] -> ... -> stage -> [queue] -> encode

One thread each, one packet type, output always in input order. Files wait (a full queue blocks whoever fills it); live
sources never wait (a packet that still waits when the next one comes is dropped, and counted for the stage that was
too busy to take it).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from unmask_rt.channel import Channel
from unmask_rt.frames import Packet, StageTime
from unmask_rt.latency import LatencyRecorder, LatencyReport

if TYPE_CHECKING:
    from unmask_rt.sinks.base import Sink, SinkReport
    from unmask_rt.sources.base import Source

log = logging.getLogger(__name__)

DECODE, ENCODE = "decode", "encode"
THREAD_PREFIX = "unmask-rt "
PROGRESS_INTERVAL_S = 0.2
FINALISE_TIMEOUT_S = 10.0
"""How long a failed or interrupted run waits for the sink to close its file."""
JOIN_TIMEOUT_S = 1.0
"""How long it then waits for the other threads."""


class Stage(Protocol):
    """One step of the way of a frame. Knows nothing of threads; called and closed from one thread only.

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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: frames decoded and written so far, drops by stage, seconds since the start."""

    frames_in: int
    frames_out: int
    dropped: Mapping[str, int]
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a run went.

    Attributes:
        frames_in: frames that the source gave.
        frames_out: frames that the sink took.
        dropped: stage -> frames that came while it was too busy (live only).
        interrupted: Ctrl-C ended the run.
        latency: waiting, work and end-to-end times.
        sink: what was written; None if the sink could not be closed in time.
    """

    frames_in: int
    frames_out: int
    dropped: Mapping[str, int]
    interrupted: bool
    latency: LatencyReport
    sink: SinkReport | None


class Pipeline:
    """Runs a source through stages into a sink, once.

    It closes the source and the stages and finishes (or aborts) the sink, each from the thread that used it. Once the
    sink is ``stopped`` (its window was closed) the run ends as at the end of the source.

    Args:
        source: where frames come from.
        stages: the steps between, in order.
        sink: where finished frames go.
        live: latest frame wins, queues of one; else every frame is processed.
        queue_size: packets that may wait before each stage (files).
        duration_s: stop the source so long after its first frame, by the clock (live).
        progress: called from the calling thread a few times a second.
        on_packet: called for each packet after it was written, from the encode thread: keep it short.
    """

    def __init__(
        self,
        source: Source,
        stages: Sequence[Stage],
        sink: Sink,
        *,
        live: bool = False,
        queue_size: int = 3,
        duration_s: float | None = None,
        progress: Callable[[Progress], None] | None = None,
        on_packet: Callable[[Packet], None] | None = None,
    ) -> None:
        self._source = source
        self._stages = tuple(stages)
        self._sink = sink
        self._live = live
        self._duration_s = duration_s
        self._progress = progress
        self._on_packet = on_packet
        self._channels = [Channel(queue_size, latest_wins=live) for _ in range(len(self._stages) + 1)]
        self._recorder = LatencyRecorder()
        self._frames_in = 0
        self._frames_out = 0
        self._first_ns: int | None = None
        self._error: BaseException | None = None
        self._error_lock = threading.Lock()
        self._stopping = False
        self._sink_closed = threading.Event()
        self.sink_report: SinkReport | None = None
        """What the sink said when it was closed: also there after `run` raised."""

    def run(self) -> RunReport:
        """Works until the source ends, ``duration_s`` is over, something fails or Ctrl-C.

        Ctrl-C ends a live run as its end would, and a file's run at once; both leave a playable file. A second Ctrl-C
        while that happens comes through as KeyboardInterrupt.

        Raises:
            Exception: the first error of any thread; every other one has been stopped and the sink aborted.
        """
        inboxes = self._channels
        threads = [self._thread(DECODE, self._decode, inboxes[0])]
        for stage, inbox, outbox in zip(self._stages, inboxes, inboxes[1:], strict=False):
            threads.append(self._thread(stage.name, self._work, stage, inbox, outbox))
        threads.append(self._thread(ENCODE, self._encode, inboxes[-1]))
        started, cpu_started = time.monotonic(), time.process_time()
        interrupted = False
        try:
            for thread in threads:
                thread.start()
            self._watch(started)
        except KeyboardInterrupt:
            interrupted = True
            self._stop(abort=not self._live)
            for thread in threads:
                if thread.ident is None:  # interrupted before it began: it still closes what it owns
                    thread.start()
            if self._live and not self._sink_closed.wait(JOIN_TIMEOUT_S):
                self._stop(abort=True)
            self._sink_closed.wait(FINALISE_TIMEOUT_S)
        except BaseException as error:
            self._fail(error)
            self._sink_closed.wait(FINALISE_TIMEOUT_S)
        wall_s, cpu_s = time.monotonic() - started, time.process_time() - cpu_started
        self._join(threads)
        if self._error is not None:
            raise self._error
        latency = self._recorder.report(frames=self._frames_out, wall_s=wall_s, cpu_s=cpu_s)
        return RunReport(self._frames_in, self._frames_out, self._dropped(), interrupted, latency, self.sink_report)

    def _thread(self, name: str, target: Callable[..., None], *args: object) -> threading.Thread:
        # Daemons: a camera that never answers must not keep the process alive.
        return threading.Thread(target=target, args=args, name=THREAD_PREFIX + name, daemon=True)

    def _join(self, threads: Sequence[threading.Thread]) -> None:
        """Waits for every thread, but not for ever: a camera may block its reader for seconds."""
        threads[0].join(JOIN_TIMEOUT_S / 2)
        if threads[0].is_alive():
            self._source.close()
        give_up = time.monotonic() + JOIN_TIMEOUT_S
        for thread in threads:
            thread.join(max(0.0, give_up - time.monotonic()))

    def _watch(self, started: float) -> None:
        """Waits for the sink to be closed; reports progress and minds the duration meanwhile."""
        closing = False
        while True:
            wait_s = PROGRESS_INTERVAL_S
            if self._duration_s is not None and self._first_ns is not None and not closing:
                left_s = self._first_ns / 1e9 + self._duration_s - time.monotonic()
                if left_s <= 0:
                    closing = True
                    self._stop(abort=False)
                wait_s = min(wait_s, max(left_s, 0.0))
            done = self._sink_closed.wait(wait_s)
            if self._progress is not None:
                elapsed_s = time.monotonic() - started
                self._progress(Progress(self._frames_in, self._frames_out, self._dropped(), elapsed_s))
            if done:
                return

    def _dropped(self) -> dict[str, int]:
        names = [stage.name for stage in self._stages] + [ENCODE]
        return {name: channel.dropped for name, channel in zip(names, self._channels, strict=True)}

    def _stop(self, *, abort: bool) -> None:
        """Takes no more frames; lets those under way finish, or with ``abort`` throws them away."""
        self._stopping = True
        if abort:
            for channel in self._channels:
                channel.abort()
        else:
            self._channels[0].end()

    def _fail(self, error: BaseException) -> None:
        """Keeps the first error and stops everything."""
        with self._error_lock:
            if self._error is None:
                self._error = error
            else:
                log.debug("a further error while stopping: %r", error)
        self._stop(abort=True)

    def _decode(self, outbox: Channel) -> None:
        try:
            try:
                self._read(outbox)
            finally:
                self._source.close()
            outbox.end()
        except BaseException as error:
            if self._stopping:
                log.debug("the source failed after it was stopped: %r", error)
            else:
                self._fail(error)

    def _read(self, outbox: Channel) -> None:
        started_ns = time.monotonic_ns()
        for frame in self._source:
            ended_ns = time.monotonic_ns()
            if self._first_ns is None:
                self._first_ns = ended_ns
            self._frames_in += 1
            # A live source mostly waits for its next frame: that is no work to report.
            times = () if self._live else (StageTime(DECODE, started_ns, started_ns, ended_ns),)
            if not outbox.put(Packet(frame, times=times)):
                self._frames_in -= 1
                return
            started_ns = time.monotonic_ns()

    def _work(self, stage: Stage, inbox: Channel, outbox: Channel) -> None:
        try:
            try:
                self._step(stage, inbox, outbox)
            finally:
                stage.close()
            outbox.end()
        except BaseException as error:
            if inbox.aborted:
                log.debug("stage %s failed after it was stopped: %r", stage.name, error)
            else:
                self._fail(error)

    def _step(self, stage: Stage, inbox: Channel, outbox: Channel) -> None:
        held: deque[tuple[int, StageTime]] = deque()

        def emit(packets: Iterable[Packet], patient: bool) -> None:
            # Of several packets at once only the first may replace one that waits: they must not drop each other.
            for packet in packets:
                index, taken = held.popleft() if held else (-1, None)
                if taken is None or index != packet.frame.index:
                    raise RuntimeError(f"stage {stage.name} gave out frame {packet.frame.index} out of turn")
                outbox.put(replace(packet, times=(*packet.times, taken)), patient=patient)
                patient = True

        while (item := inbox.get()) is not None:
            packet, queued_ns = item
            started_ns = time.monotonic_ns()
            ready = stage(packet)
            taken = StageTime(stage.name, queued_ns, started_ns, time.monotonic_ns())
            held.append((packet.frame.index, taken))
            emit(ready, patient=False)
        if inbox.aborted:
            return
        emit(stage.flush(), patient=True)
        if held:
            raise RuntimeError(f"stage {stage.name} swallowed {len(held)} frames, the first is {held[0][0]}")

    def _encode(self, inbox: Channel) -> None:
        finished = False
        try:
            while (item := inbox.get()) is not None:
                packet, queued_ns = item
                started_ns = time.monotonic_ns()
                self._sink.write(packet.frame)
                ended_ns = time.monotonic_ns()
                self._frames_out += 1
                times = (*packet.times, StageTime(ENCODE, queued_ns, started_ns, ended_ns))
                self._recorder.add(times, ended_ns - packet.frame.captured_ns)
                if self._on_packet is not None:
                    self._on_packet(packet)
                if self._sink.stopped:
                    break
            stopped = self._sink.stopped
            if stopped:
                self._stop(abort=True)
            if stopped or not inbox.aborted:
                self.sink_report = self._sink.finish()
                finished = True
        except BaseException as error:
            self._fail(error)
        finally:
            if not finished:
                self._abort_sink()
            self._sink_closed.set()

    def _abort_sink(self) -> None:
        try:
            self.sink_report = self._sink.abort()
        except BaseException as error:
            self._fail(error)
