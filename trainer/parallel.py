"""Jobs over several processes with a progress bar; what is begun is finished when the work is interrupted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from unmask_rt import native_logs
from unmask_rt.errors import UnmaskError

Job = TypeVar("Job")
Result = TypeVar("Result")
Item = TypeVar("Item")

PLAIN_INTERVAL_S = 10.0


def processors() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run_jobs(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    workers: int,
    description: str,
    size: Callable[[Job], int] = lambda job: 1,
    jobs_per_process: int | None = None,
) -> Iterator[Result]:
    """Results of ``function`` over ``jobs`` as they come, from spawned processes.

    Args:
        function: a function of a module, so that it can be pickled.
        jobs: what it is called with.
        workers: how many processes.
        description: what the progress bar says.
        size: how many pictures a job is, for the progress bar.
        jobs_per_process: fresh processes after so many jobs of each, in the mean; for functions that leak memory.

    Raises:
        UnmaskError: a process died.
    """
    with progress(description, sum(map(size, jobs))) as advance:
        processes = max(1, min(workers, len(jobs)))
        # A pool for each round: max_tasks_per_child of a pool stops dead now and then (CPython issue 115634).
        for part in batched(jobs, processes * jobs_per_process if jobs_per_process else max(1, len(jobs))):
            yield from _round(function, part, processes, description, lambda job: advance(size(job)))


def _round(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    processes: int,
    description: str,
    done: Callable[[Job], None],
) -> Iterator[Result]:
    pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    try:
        waiting: dict[Future[Result], Job] = {pool.submit(function, job): job for job in jobs}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                job = waiting.pop(future)
                yield future.result()
                done(job)
    except BrokenProcessPool as error:
        raise UnmaskError(
            f"{description}: a worker process ended without a word, most likely for want of memory",
            "Call again with fewer --workers: it goes on where it stopped.",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """Ctrl-C reaches the parent alone, and native libraries do not write into its progress bar."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    native_logs.quiet()


def progress(description: str, total: int) -> AbstractContextManager[Callable[[int], None]]:
    """A progress bar on stderr (rich where it is installed, else a line now and then); gives what moves it on."""
    try:
        import rich  # noqa: F401
    except ImportError:
        return _plain_progress(description, total)
    return _rich_progress(description, total)


@contextmanager
def _rich_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=total)
        yield lambda count: bar.advance(task, count)


@contextmanager
def _plain_progress(description: str, total: int) -> Iterator[Callable[[int], None]]:
    done, said = 0, time.monotonic()

    def advance(count: int) -> None:
        nonlocal done, said
        done += count
        if time.monotonic() - said > PLAIN_INTERVAL_S or done >= total:
            said = time.monotonic()
            print(f"{description}: {done} of {total}", file=sys.stderr, flush=True)

    yield advance


def batched(items: Iterable[Item], length: int) -> Iterator[tuple[Item, ...]]:
    """Consecutive runs of up to ``length`` items."""
    run: list[Item] = []
    for item in items:
        run.append(item)
        if len(run) == length:
            yield tuple(run)
            run = []
    if run:
        yield tuple(run)
