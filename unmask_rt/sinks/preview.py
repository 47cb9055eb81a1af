"""The result in a window, through pygame-ce (extra ``preview``)."""

from __future__ import annotations

import os
from typing import Any

from unmask_rt import planes
from unmask_rt.align import Image
from unmask_rt.errors import ExtraError
from unmask_rt.frames import Frame
from unmask_rt.provenance import draw_label
from unmask_rt.sinks.base import SinkReport

MAX_SIDE = 1280
_NO_SCREEN = ("dummy", "offscreen", "evdev", "")


class PreviewSink:
    """Shows frames until its window is closed, or Escape or Q pressed.

    Args:
        title: of the window.
        label: whether the mark is drawn: a window has no metadata that could say it.

    Raises:
        ExtraError: pygame-ce is not installed, or there is no display.
    """

    def __init__(self, title: str = "unmask-rt", *, label: bool = True) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
        except ImportError as error:
            raise ExtraError(
                "The preview window needs pygame-ce", "pip install 'unmask-rt[preview]', or write a file with -o."
            ) from error
        hint = "Start it from a desktop, or write a file with -o."
        try:
            pygame.display.init()
            driver = pygame.display.get_driver()
            pygame.display.quit()
        except pygame.error as error:
            raise ExtraError(f"There is no display to show a window on: {error}", hint) from error
        if driver in _NO_SCREEN and os.environ.get("SDL_VIDEODRIVER") != driver:
            raise ExtraError("There is no display to show a window on", hint)
        self._pygame: Any = pygame
        self._title, self._label = title, label
        self._screen: Any = None
        self._frames = 0
        self._report: SinkReport | None = None
        self.stopped = False

    def write(self, frame: Frame) -> None:
        """Shows a frame and looks whether the window was closed."""
        picture, _ = planes.preview(frame, MAX_SIDE)
        self._show(draw_label(picture) if self._label else picture)
        self._frames += 1

    def finish(self) -> SinkReport:
        """Closes the window."""
        return self._end(complete=True)

    def abort(self) -> SinkReport:
        """Closes the window."""
        return self._end(complete=False)

    def _show(self, picture: Image) -> None:
        pygame, size = self._pygame, (picture.shape[1], picture.shape[0])
        # The window belongs to the thread that shows the frames, so it is made here and not in the constructor.
        if self._screen is None or self._screen.get_size() != size:
            pygame.display.init()
            self._screen = pygame.display.set_mode(size)
            pygame.display.set_caption(self._title)
        self._screen.blit(pygame.image.frombuffer(picture, size, "RGB"), (0, 0))
        pygame.display.flip()
        for event in pygame.event.get():
            quits = event.type == pygame.KEYDOWN and event.key in (pygame.K_ESCAPE, pygame.K_q)
            self.stopped = self.stopped or event.type == pygame.QUIT or quits

    def _end(self, *, complete: bool) -> SinkReport:
        if self._report is None:
            if self._screen is not None:
                self._pygame.display.quit()
            self._report = SinkReport(None, self._frames, complete)
        return self._report
