"""Where output files go: checks before the work starts, and the way from partial file to finished one."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from pathlib import Path

from unmask_rt.errors import SinkError, UsageError


def partial_of(path: Path) -> Path:
    """The file beside an output that is written first, of a name that nothing has: what an earlier run has left
    unfinished may be somebody's only copy."""
    for number in itertools.count(1):
        partial = path.with_name(f".{path.stem}.partial{f'-{number}' if number > 1 else ''}{path.suffix}")
        if not os.path.lexists(partial):
            return partial
    raise AssertionError("names do not run out")


def check_output(path: Path, *, inputs: Iterable[Path], overwrite: bool) -> None:
    """Makes sure that ``path`` may and can be written, without touching it.

    Args:
        path: the output.
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
    partial = partial_of(path)
    try:
        with partial.open("xb"):
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
