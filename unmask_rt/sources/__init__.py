"""Where frames come from: `open_source` finds the right kind for a file, a folder, an address or a camera."""

from __future__ import annotations

from pathlib import Path

from unmask_rt.errors import UsageError
from unmask_rt.sources.base import Source, SourceInfo

CAMERA = "camera:"

__all__ = ["CAMERA", "Source", "SourceInfo", "open_source"]


def open_source(
    spec: str | Path, *, start_s: float = 0.0, duration_s: float | None = None, leave_out: Path | None = None
) -> Source:
    """Opens whatever ``spec`` names.

    Args:
        spec: a video file, a picture, a folder of pictures, an address (``rtsp://`` ...), ``camera:N``, or ``lavfi:``
            and a filter graph.
        start_s: where to begin, files only.
        duration_s: how much to take; None for everything.
        leave_out: a folder below one of pictures that is not read: where the results of a run before lie.

    Raises:
        SourceError: it cannot be read.
        UsageError: the options do not fit the source.
    """
    text = str(spec)
    if start_s < 0 or (duration_s is not None and duration_s <= 0):
        raise UsageError("--start must not be negative and --duration must be above 0")
    if text.startswith(CAMERA):
        from unmask_rt.sources.camera import CameraSource

        number = text.removeprefix(CAMERA)
        if not number.isdigit():
            raise UsageError(f"{text} is no camera", "Cameras have numbers: camera:0, camera:1 ...")
        _no_start(start_s, "a camera")
        return CameraSource(int(number), duration_s=duration_s)
    from unmask_rt.sources.pictures import SUFFIXES, PictureSource
    from unmask_rt.sources.video import PATTERN, STREAMS, VideoSource

    if text.startswith((PATTERN, *STREAMS)):
        _no_start(start_s, "a stream")
        return VideoSource(text, duration_s=duration_s)
    path = Path(spec)
    if path.is_dir() or path.suffix.lower() in SUFFIXES:
        if start_s or duration_s is not None:
            raise UsageError("--start and --duration do not go with pictures")
        return PictureSource(path, leave_out)
    return VideoSource(path, start_s=start_s, duration_s=duration_s)


def _no_start(start_s: float, what: str) -> None:
    if start_s:
        raise UsageError(f"--start does not go with {what}", "Leave it out.")
