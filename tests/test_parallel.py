"""Jobs over processes: all results, the progress they make, and processes that fail or die."""

from __future__ import annotations

import os
import sys

import pytest

from trainer.parallel import batched, processors, progress, run_jobs
from unmask_rt.errors import SourceError, UnmaskError


def square(number: int) -> int:
    return number * number


def refuse(number: int) -> int:
    raise SourceError(f"number {number}", "Take another.")


def whose(number: int) -> tuple[int, int]:
    return number, os.getpid()


def die(number: int) -> int:
    os._exit(7)


def test_every_job_gives_its_result(capsys: pytest.CaptureFixture[str]) -> None:
    found = sorted(run_jobs(square, list(range(7)), workers=2, description="squares", size=lambda job: job))
    assert found == [0, 1, 4, 9, 16, 25, 36] and list(run_jobs(square, [], workers=2, description="none")) == []
    assert "squares" in capsys.readouterr().err


def test_processes_are_replaced_after_so_many_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_jobs(whose, list(range(5)), workers=2, description="turns", jobs_per_process=1)
    process = dict(found)
    assert sorted(process) == [0, 1, 2, 3, 4], "more jobs than two processes of one job each: all come back"
    rounds = [{process[job] for job in jobs} for jobs in ((0, 1), (2, 3), (4,))]
    assert not rounds[0] & rounds[1] and not (rounds[0] | rounds[1]) & rounds[2]
    assert os.getpid() not in process.values() and "turns" in capsys.readouterr().err
    kept = dict(run_jobs(whose, list(range(5)), workers=1, description="stays"))
    assert len(set(kept.values())) == 1 and sorted(kept) == [0, 1, 2, 3, 4]


def test_the_error_of_a_job_comes_through() -> None:
    with pytest.raises(SourceError, match="Take another"):
        list(run_jobs(refuse, [1, 2, 3], workers=1, description="refusals"))


def test_a_process_that_dies_is_an_error_that_says_so() -> None:
    with pytest.raises(UnmaskError, match="--workers"):
        list(run_jobs(die, [1, 2], workers=1, description="deaths"))


def test_progress_without_rich_is_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    with progress("walk", 5) as advance:
        advance(2)
        advance(3)
    captured = capsys.readouterr()
    assert captured.err == "walk: 5 of 5\n" and captured.out == ""


def test_numbers_are_batched_in_order() -> None:
    assert list(batched(range(5), 2)) == [(0, 1), (2, 3), (4,)] and list(batched([], 3)) == []
    assert processors() >= 1
