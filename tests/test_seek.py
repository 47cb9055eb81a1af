"""The finder aside of the frames: it delays nobody, answers each question once, and its errors are not lost."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest

from unmask_rt.align import Image
from unmask_rt.faces.centerface import FoundFace
from unmask_rt.faces.seek import Answer, Aside, AtOnce, Question, Seeker

FACE = FoundFace((1.0, 2.0, 30.0, 40.0), np.zeros((5, 2), np.float32), 0.9)
PATIENCE_S = 10.0


class SlowFinder:
    """Finds one face as soon as it is let go."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.error: Exception | None = None
        self.threads: list[str] = []

    def __call__(self, rgb: Image, longest_side: int) -> list[FoundFace]:
        self.threads.append(threading.current_thread().name)
        assert self.go.wait(PATIENCE_S)
        if self.error is not None:
            raise self.error
        return [FACE]


def question(time_s: float = 0.0) -> Question:
    picture = np.zeros((32, 32, 3), np.uint8)
    return Question(picture, picture[..., 0], time_s, 0, {})


def awaited(seeker: Seeker) -> Answer:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        answer = seeker.answer()
        if answer is not None:
            return answer
        time.sleep(0.001)
    pytest.fail("no answer")


def test_aside_it_works_in_its_own_thread_and_answers_each_question_once() -> None:
    finder: Any = SlowFinder()
    seeker = Aside(finder)
    assert not seeker.busy
    for k in range(2):
        finder.go.clear()
        asked = question(float(k))
        seeker.ask(asked)
        assert seeker.busy and seeker.answer() is None  # the caller goes on meanwhile
        finder.go.set()
        answer = awaited(seeker)
        assert answer.question is asked and answer.faces == [FACE]
        assert not seeker.busy and seeker.answer() is None
    assert finder.threads == ["unmask-rt finder"] * 2
    seeker.close()
    seeker.close()
    assert not any(t.name == "unmask-rt finder" for t in threading.enumerate())


def test_an_error_of_the_finder_reaches_whoever_asked() -> None:
    finder: Any = SlowFinder()
    finder.error = ValueError("no memory")
    finder.go.set()
    seeker = Aside(finder)
    seeker.ask(question())
    with pytest.raises(ValueError, match="no memory"):
        awaited(seeker)
    finder.error = None
    seeker.ask(question())
    assert awaited(seeker).faces == [FACE]
    seeker.close()


def test_closing_waits_for_the_work_under_way_and_not_for_work_to_come() -> None:
    idle = Aside(SlowFinder())  # type: ignore[arg-type]
    idle.close()
    finder: Any = SlowFinder()
    seeker = Aside(finder)
    seeker.ask(question())
    end = time.monotonic() + PATIENCE_S
    while not finder.threads and time.monotonic() < end:  # until it is under way
        time.sleep(0.001)
    threading.Timer(0.05, finder.go.set).start()
    seeker.close()
    assert finder.go.is_set()


def test_at_once_the_answer_is_there_when_the_question_was_asked() -> None:
    finder: Any = SlowFinder()
    finder.go.set()
    seeker = AtOnce(finder)
    assert seeker.answer() is None
    seeker.ask(question())
    answer = seeker.answer()
    assert answer is not None and answer.faces == [FACE] and seeker.answer() is None
    seeker.close()
