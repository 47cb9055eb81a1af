"""One run out of two, by interpolating their weights: between sharp and true, after training.

    unmask-train mix runs/l1 runs/gan --share 0.7 -o runs/between
    unmask-train compare runs/l1 runs/between runs/gan --data DATA       # the curve

Network interpolation (X. Wang et al., "ESRGAN", ECCV workshops 2018, section 3.4). It holds for networks that one
training has led apart: the second run began with the first one's weights (``--start``), or both with the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from trainer import checkpoint
from trainer.checkpoint import Checkpoint, State
from unmask_rt.errors import SinkError, UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unmask-train mix``."""
    parser.add_argument("first", type=Path, metavar="RUN", help="a run: share 0")
    parser.add_argument("second", type=Path, metavar="RUN", help="a run of the same network: share 1")
    parser.add_argument("--share", type=float, required=True, help="of the second run, 0..1")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="RUN", help="the new run's folder")


def main(arguments: argparse.Namespace) -> int:
    """``unmask-train mix``: writes the run; returns the exit code.

    Raises:
        UsageError: the share is none, the networks differ, or there is a run of that name already.
        MissingError, ModelError: a run cannot be read.
        SinkError: the new one cannot be written.
    """
    a = arguments
    if not 0 <= a.share <= 1:
        raise UsageError(f"--share {a.share} is none", "Give a number from 0 (the first run) to 1 (the second).")
    if checkpoint.exists(a.out):
        raise UsageError(f"{a.out} holds a run already", "Give another folder.")
    mixed = mix(checkpoint.load(a.first), checkpoint.load(a.second), a.share)
    mixed.meta["mixed"] = f"{a.share:g} of {a.second.resolve().name} in {a.first.resolve().name}"
    try:
        a.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"{a.out} cannot be made: {error.strerror}", "Give another folder.") from error
    checkpoint.save(a.out, mixed)
    print(f"{a.out}: {mixed.meta['mixed']}")
    return 0


def mix(first: Checkpoint, second: Checkpoint, share: float) -> Checkpoint:
    """The first run with its averaged weights moved towards the second one's; it cannot be trained on.

    Raises:
        UsageError: their networks differ.
    """
    shapes = [{n: {k: v.shape for k, v in state.items()} for n, state in c.average.items()} for c in (first, second)]
    if shapes[0] != shapes[1]:
        raise UsageError("these runs are of different networks", "Mix runs of one stage of one preset.")
    average = {name: _between(state, second.average[name], share) for name, state in first.average.items()}
    return Checkpoint(first.preset, first.meta | {"done": True}, average=average, carried=first.carried)


def _between(first: State, second: State, share: float) -> State:
    """Floating-point weights interpolated in single precision, counters those of the first."""
    return {
        k: torch.lerp(v.float(), second[k].float(), share) if v.is_floating_point() else v for k, v in first.items()
    }
