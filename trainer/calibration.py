"""Writes the crops that an int8 model is calibrated on: faces of the prepared set, wearing the bank's masks.

    unmask-train calibration runs/data -o runs/calibration.npz
    unmask-engine build --precision int8 --calibration runs/calibration.npz --model mine.onnx

A hundred crops are enough. They show people: keep the file where the training data is.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from trainer.bank import open_bank
from unmask_rt.errors import MissingError, SinkError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unmask-train calibration``."""
    add = parser.add_argument
    add("data", type=Path, help="folder that `unmask-train prepare` wrote")
    add("-o", "--out", type=Path, required=True, help="the .npz file")
    add("--crops", type=int, default=96, help="how many (default: 96)")
    add("--seed", type=int, default=0, help="which ones (default: 0)")


def main(args: argparse.Namespace) -> int:
    """Writes the file; returns 0.

    Raises:
        MissingError: there is no bank, or fewer masks drawn than wanted.
        SinkError: the file cannot be written.
    """
    crops = draw(args.data, args.crops, args.seed)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(args.out, crops=crops)
    except OSError as error:
        raise SinkError(f"{args.out} cannot be written: {error.strerror}", "Choose another place with -o.") from error
    print(f"{args.out}: {len(crops)} crops of {crops.shape[1]} px")
    return 0


def draw(data: Path, count: int, seed: int) -> np.ndarray:
    """``count`` masked crops uint8[N, 256, 256, 3], as many of each family of masks as there are.

    Raises:
        MissingError: there is no bank, or fewer masks drawn than wanted.
    """
    try:
        bank = open_bank(data)
    except OSError as error:
        raise MissingError(f"{data} has no bank of masks", "Make one with `unmask-train prepare`.") from error
    drawn = np.argwhere(bank["done"])
    if count < 1 or len(drawn) < count:
        raise MissingError(f"{data} has {len(drawn)} masked faces, {count} are wanted", "Change --crops.")
    rng = np.random.default_rng(seed)
    rng.shuffle(drawn)
    families = bank["family"][drawn[:, 0], drawn[:, 1]]
    turn = np.zeros(len(drawn), np.int64)  # first of its family, second, ...
    for family in np.unique(families):
        turn[families == family] = np.arange((families == family).sum())
    chosen = drawn[np.argsort(turn, kind="stable")[:count]]
    return np.stack([bank["masked"][variant, row] for variant, row in chosen])
