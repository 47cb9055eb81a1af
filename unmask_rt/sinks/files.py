"""Where output files go: checks before the work starts, and the way from partial file to finished one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from unmask_rt.errors import SinkError, UsageError


def check_output(path: Path, partial: Path, *, inputs: Iterable[Path], overwrite: bool) -> None:
    """Makes sure that ``path`` may and can be written, without touching it.

    Args:
        path: the output.
        partial: the file beside it that is written first.
        inputs: files that must not be overwritten.
        overwrite: whether ``path`` may be there already.

    Raises:
        UsageError: it is an input, a folder, or there already.
        SinkError: its folder is missing or not writable.
    """
    for source in inputs:
        if path.exists() and source.exists() and path.samefile(source):
            raise UsageError(f"{path} is the input itself", "Give another name for the output.")
    if path.is_dir():
        raise UsageError(f"{path} is a folder", "Give a file name.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already", "Give another name, or -y to replace it.")
    try:
        with partial.open("wb"):
            pass
        partial.unlink()
    except OSError as error:
        raise SinkError(
            f"{path} cannot be written: {error.strerror}", "Does its folder exist, and may you write there?"
        ) from error


def place(partial: Path, path: Path, notes: list[str]) -> Path | None:
    """Gives an unfinished file its name if that is free, else leaves it and says where it is.

    Returns:
        Where it is now, None if nothing was written.
    """
    if not partial.exists():
        return None
    if partial.stat().st_size == 0:
        partial.unlink()
        return None
    if not path.exists():
        try:
            os.replace(partial, path)
            return path
        except OSError:
            pass
    notes.append(f"What was finished is in {partial}; {path} was left as it is.")
    return partial
