"""The face finder at work on whole pictures of a video: at once, or in a thread of its own that delays nobody."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from unmask_rt.align import Image
from unmask_rt.faces.centerface import CenterFace, FoundFace
from unmask_rt.faces.pose import Pose

VIDEO_SIDE = 320
"""Longest side for CenterFace in video: masked faces from 5 % of it up are found as often as at any larger size."""


@dataclass(frozen=True, slots=True)
class Question:
    """A picture for the finder.

    Attributes:
        rgb: uint8[H, W, 3].
        grey: uint8[H, W], its luma.
        time_s: its presentation time in seconds.
        shot: number of the shot that it belongs to.
        poses: track id -> pose of everybody in view in it.
    """

    rgb: Image
    grey: Image
    time_s: float
    shot: int
    poses: Mapping[int, Pose]


@dataclass(frozen=True, slots=True)
class Answer:
    """What the finder found: faces in pixels of the picture that was asked about."""

    question: Question
    faces: list[FoundFace]


class Seeker(Protocol):
    """Answers one question at a time."""

    @property
    def busy(self) -> bool:
        """Whether it still works on a question."""
        ...

    def ask(self, question: Question) -> None:
        """Hands over a question; not to be called while it is busy."""
        ...

    def answer(self) -> Answer | None:
        """The answer to the last question, once, as soon as there is one."""
        ...

    def close(self) -> None:
        """Stops working; calling it twice is harmless."""
        ...


class AtOnce:
    """Answers within `ask`: the same pictures give the same answers at the same places."""

    busy = False

    def __init__(self, finder: CenterFace) -> None:
        self._finder = finder
        self._answer: Answer | None = None

    def ask(self, question: Question) -> None:
        self._answer = Answer(question, self._finder(question.rgb, VIDEO_SIDE))

    def answer(self) -> Answer | None:
        answer, self._answer = self._answer, None
        return answer

    def close(self) -> None:
        self._answer = None


class Aside:
    """Answers in a thread of its own; the thread lives from the first question to `close`."""

    def __init__(self, finder: CenterFace) -> None:
        self._finder = finder
        self._wake = threading.Condition()
        self._question: Question | None = None
        self._answer: Answer | BaseException | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        with self._wake:
            return self._question is not None

    def ask(self, question: Question) -> None:
        with self._wake:
            self._question, self._answer = question, None
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="unmask-rt finder", daemon=True)
                self._thread.start()
            self._wake.notify()

    def answer(self) -> Answer | None:
        """As `Seeker.answer`; an error of the finder is raised here."""
        with self._wake:
            answer, self._answer = self._answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while True:
            with self._wake:
                while self._question is None and not self._closed:
                    self._wake.wait()
                question = self._question
                if self._closed or question is None:
                    return
            answer: Answer | BaseException
            try:
                answer = Answer(question, self._finder(question.rgb, VIDEO_SIDE))
            except Exception as error:
                answer = error
            with self._wake:
                self._question, self._answer = None, answer
