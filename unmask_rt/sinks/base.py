"""The seam between the tool and whatever takes frames: files, pictures, a window, nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from unmask_rt.frames import Frame


@dataclass(frozen=True, slots=True)
class EncodeOptions:
    """How a video is encoded.

    Attributes:
        codec: FFmpeg's name of the encoder.
        crf: constant quality, smaller is better; None for the encoder's own default.
        preset: speed against size; None for the encoder's own default.
        low_latency: each frame leaves the encoder before the next goes in (no look-ahead, no B-frames).
        audio: copy audio, subtitles and chapters of the source.
    """

    codec: str = "libx264"
    crf: float | None = 18
    preset: str | None = "veryfast"
    low_latency: bool = False
    audio: bool = True


@dataclass(frozen=True, slots=True)
class SinkReport:
    """What a sink made.

    Attributes:
        path: where the output is (file or folder), None where there is none (window, null).
        frames: how many frames were written.
        complete: False if the run was aborted: the output then ends early.
        notes: sentences for the user (converted pixel format, streams that the container does not take ...).
        codec: encoder or picture format used, "" where there is none.
    """

    path: Path | None
    frames: int
    complete: bool = True
    notes: tuple[str, ...] = field(default=())
    codec: str = ""


class Sink(Protocol):
    """Takes frames in presentation order, from one thread.

    Attributes:
        stopped: True once nobody wants more frames (the window was closed): the run then ends as a success.
    """

    stopped: bool

    def write(self, frame: Frame) -> None:
        """Takes one frame.

        Raises:
            SinkError: it could not be written; `abort` must follow.
        """
        ...

    def finish(self) -> SinkReport:
        """Completes the output; `write` may not follow. A second call returns the same report.

        Raises:
            SinkError: the last bytes could not be written; `abort` must follow.
        """
        ...

    def abort(self) -> SinkReport:
        """Ends the output early and leaves what is there playable. Never raises; harmless after `finish`."""
        ...
