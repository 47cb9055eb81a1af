"""The seam between the tool and whatever yields frames: files, pictures, cameras, streams, arrays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal, Protocol

from unmask_rt.frames import Frame

NETWORK_TIMEOUT_S = 10.0
"""How long a read over a network may take."""

Kind = Literal["video", "picture", "live"]
"""How a source wants to be treated: every frame, every frame on its own, or the latest frame."""


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """What is known of a source before its first frame.

    Attributes:
        name: for people: file name, address, "camera 0".
        kind: "video" (a file: every frame, in order), "picture" (no frame has to do with the next) or "live".
        live: True where frames arrive by the clock and waiting means losing some.
        display_size: (width, height) upright with square pixels; None where it differs from frame to frame.
        coded_size: (width, height) as stored; None where it differs from frame to frame.
        frame_count: frames to come, an estimate where the container only hints at it; None if unknown.
        duration_s: seconds to come, after ``--start`` and ``--duration``; None if unknown or endless.
        rate: nominal frames a second; None for pictures or if unknown. Timestamps rule, not this.
        pixel_format: FFmpeg's name of the frames' format, "" where it differs from frame to frame.
        path: the file or folder that is read, None for cameras, streams and arrays.
        origin_s: media time, in seconds, that is zero in the output.
        end_s: media time, in seconds, at which the output ends; None for the end of the file.
        audio_streams: number of audio streams beside the picture.
        address: what is opened a second time for sound and subtitles: the path, or a file's address on a network; None
            where there is nothing to be had.
        resets: seconds by which times are moved on after the first, the second, ... time that the file's clock began
            anew (joined recordings); grows while frames come.
    """

    name: str
    kind: Kind
    live: bool
    display_size: tuple[int, int] | None
    coded_size: tuple[int, int] | None
    frame_count: int | None
    duration_s: float | None
    rate: Fraction | None
    pixel_format: str = ""
    path: Path | None = None
    origin_s: Fraction = Fraction(0)
    end_s: Fraction | None = None
    audio_streams: int = 0
    address: str | None = None
    resets: list[Fraction] = field(default_factory=list)


class Source(Protocol):
    """Yields frames once, in presentation order, from one thread.

    Attributes:
        info: known right after opening.
        notes: sentences for the user about what was repaired, skipped or converted; complete after the last frame.
        failures: sentences that name what could not be read although the rest went on (a corrupt picture of a
            folder): the run ends with exit code 1 if there is one.

    Iteration raises SourceError when nothing (more) can be read that should be there.
    """

    info: SourceInfo
    notes: list[str]
    failures: list[str]

    def __iter__(self) -> Iterator[Frame]:
        """The frames; indices count from 0 without gaps and pts rise strictly."""
        ...

    def close(self) -> None:
        """Frees the input; may be called from another thread and twice, and ends a running iteration."""
        ...
