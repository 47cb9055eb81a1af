"""Checkpoints: the whole state of a run in one file, written so that a crash leaves the old one or the new one.

    format, version    what the file is
    preset             the preset with all overrides
    meta               preset (its name), stage, step, seen (pictures), seconds, done; the run's budget, its stages, and
                       its folder of pseudo labels
    networks, average, optimizers    of the stage in work, by name
    carried            weights that earlier stages have left behind, by network

It holds tensors, numbers and words only: nothing in it is executed when it is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unmask_rt.errors import MissingError, ModelError, SinkError

NAME = "checkpoint.pt"
FORMAT = "unmask-train run"
VERSION = 1
META = {"preset", "stage", "step", "seen", "seconds", "done", "unit", "amount"}
State = dict[str, Tensor]


@dataclass(slots=True)
class Checkpoint:
    """What a checkpoint holds; see the module's head."""

    preset: dict[str, Any]
    meta: dict[str, Any]
    networks: dict[str, State] = field(default_factory=dict)
    average: dict[str, State] = field(default_factory=dict)
    optimizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    carried: dict[str, State] = field(default_factory=dict)

    def weights(self) -> dict[str, State]:
        """The newest weights of each network of the run, averaged where there is an average."""
        return self.carried | self.networks | self.average


def save(run: Path, checkpoint: Checkpoint) -> None:
    """Writes a run's checkpoint atomically.

    Raises:
        SinkError: the disk is full, or the folder cannot be written to; the old checkpoint is still there.
    """
    content = {name: getattr(checkpoint, name) for name in Checkpoint.__dataclass_fields__}
    partial = run / f"{NAME}.partial"
    try:
        with partial.open("wb") as file:
            torch.save({"format": FORMAT, "version": VERSION} | content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, run / NAME)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        partial.unlink(missing_ok=True)
        raise SinkError(f"the checkpoint cannot be written to {run}: {error}", "Make room, then --resume.") from error


def exists(run: Path) -> bool:
    """Whether there is something to resume."""
    return (run / NAME).exists()


def load(run: Path) -> Checkpoint:
    """Reads a run's checkpoint onto the CPU; nothing in it is executed (``weights_only``).

    Raises:
        MissingError: there is none.
        ModelError: it is damaged, of another program, or of a newer version.
    """
    path = run / NAME
    if not path.is_file():
        raise MissingError(f"{run} holds no run: {NAME} is missing", "Give the folder of a run of unmask-train.")
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch each have their own ways of complaining
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{path} is damaged or no checkpoint: {first}", "Delete the run and train it again."
        ) from error
    if not isinstance(stored, Mapping) or stored.get("format") != FORMAT:
        raise ModelError(f"{path} is no checkpoint of unmask-train", "Give the folder of a run of unmask-train.")
    if stored.get("version") != VERSION:
        hint = "Use the version of unmask-rt that wrote it."
        raise ModelError(f"{path} is of version {stored.get('version')}, this trainer reads {VERSION}", hint)
    lacking = set(Checkpoint.__dataclass_fields__) - set(stored) or META - set(stored["meta"])
    if lacking:
        raise ModelError(f"{path} lacks {', '.join(sorted(lacking))}", "Delete the run and train it again.")
    return Checkpoint(**{name: stored[name] for name in Checkpoint.__dataclass_fields__})
