"""Prepared faces turned further aside and down than they were photographed, drawn once for `resident`.

    DATA/bank/turned/rows.npy               int64[T, 2]            the masks they wear, and the faces they are of
    DATA/bank/turned/masked.npy, truth.npy  uint8[T, 256, 256, 3]  what `turning.turn` makes of them
    DATA/bank/turned/alpha.npy, valid.npy   uint8[T, 256, 256]

Turning a head costs more than all the rest of a sample, so it happens ahead, too. The heads lie in the bank's folder:
whoever deletes its masks deletes them as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from trainer.augment import SIZE, valid_of
from trainer.bank import open_bank
from trainer.parallel import batched, processors, run_jobs
from trainer.turning import turn, wide_head

PLANES = {"masked": (SIZE, SIZE, 3), "truth": (SIZE, SIZE, 3), "alpha": (SIZE, SIZE), "valid": (SIZE, SIZE)}
FACES_A_JOB = 64


@dataclass(frozen=True, slots=True)
class Job:
    """Some heads to turn.

    Attributes:
        data: a prepared set with a bank.
        first: place of the first one in the arrays.
        worn: variant and row of each one's mask in the bank.
        seed: of how far.
    """

    data: Path
    first: int
    worn: tuple[tuple[int, int], ...]
    seed: int


def draw(job: Job) -> int:
    """Draws the heads of a job into the arrays; returns how many."""
    cv2.setNumThreads(1)
    arrays = {n: np.load(job.data / f"{n}.npy", mmap_mode="r") for n in ("crops", "mesh", "corners")}
    bank = open_bank(job.data)
    head = wide_head(np.load(job.data / "shape.npy"))
    out = [np.load(folder_of(job.data) / f"{name}.npy", mmap_mode="r+") for name in PLANES]
    for place, (variant, row) in enumerate(job.worn, job.first):
        rng = np.random.default_rng([job.seed, place])
        planes = (
            np.asarray(bank["masked"][variant, row]),
            np.asarray(arrays["crops"][row]),
            np.asarray(bank["alpha"][variant, row]),
            valid_of(arrays["corners"][row]),
        )
        for array, plane in zip(out, turn(planes, arrays["mesh"][row], head, rng), strict=True):
            array[place] = plane
    return len(job.worn)


def folder_of(data: Path) -> Path:
    """Where a prepared set's turned heads lie."""
    return data / "bank" / "turned"


def draw_turned(
    data: Path, worn: Sequence[tuple[int, int]], *, seed: int = 1, workers: int | None = None
) -> dict[str, np.ndarray]:
    """One turned head for each of some (variant, row) of a prepared set's bank, drawn unless just these are there.

    Returns:
        The arrays by name, as memory maps.
    """
    if not worn:
        return {name: np.zeros((0, *shape), np.uint8) for name, shape in PLANES.items()}
    folder = folder_of(data)
    done = folder / "rows.npy"
    if not (done.exists() and np.array_equal(np.load(done), worn)):
        folder.mkdir(exist_ok=True)
        done.unlink(missing_ok=True)
        for name, shape in PLANES.items():
            np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (len(worn), *shape)).flush()
        jobs = [Job(data, part[0][0], tuple(mask for _, mask in part), seed)
                for part in batched(enumerate(worn), FACES_A_JOB)]  # fmt: skip
        processes = workers or processors()
        for _ in run_jobs(draw, jobs, workers=processes, description="turn heads", size=lambda job: len(job.worn)):
            pass
        np.save(done, np.asarray(worn, np.int64))  # last: it says that the others are whole
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in PLANES}
