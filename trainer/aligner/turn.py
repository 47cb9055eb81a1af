"""Heads turned further than they were photographed: few of the prepared faces look more than 25 degrees aside.

    python -m trainer.aligner.turn runs/data --loose runs/loose -o runs/turned --count 4000

Drawn by `trainer.turning` as the other modules see them, half of them to 50 degrees and more, bare and with the bank's
mask. Writes loose.npy uint8[2N, 168, 168, 3] (bare ones first), points, yaw, grown (how much larger than the fit to its
eyes a crop is), corners, weight and masked, rows as `trainer.aligner.samples` takes them.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from trainer.aligner.data import SIZE, ZOOM
from trainer.aligner.samples import NEEDED, UNCLEAR, Samples, wearing
from trainer.bank import NAMES
from trainer.heads import Head, grown
from trainer.parallel import batched, processors, run_jobs
from trainer.turning import CAMOUFLAGED, PROFILES, into_profile, turn_further
from unmask_rt.align import PROFILE, Affine, Image, Points, apply, compose, invert

FINE = 3
"""Heads are turned in pictures so many times as large: their crops have the size there that masks are made for."""
TO_FINE: Affine = np.array([[FINE, 0.0, (FINE - 1) / 2], [0.0, FINE, (FINE - 1) / 2]])
HEADS_A_JOB = 50


@dataclass(frozen=True, slots=True)
class Drawn:
    """One head, turned.

    Attributes:
        bare, masked: uint8[168, 168, 3], loose crops.
        points: float32[7, 2], pixels of them.
        corners: float32[4, 2], the picture's corners.
        yaw: degrees.
        grown: how much larger than the fit to its eyes the crop is; 1 for a profile, which its box places.
    """

    bare: Image
    masked: Image
    points: Points
    corners: Points
    yaw: float
    grown: float


class Turner:
    """Turns heads of a prepared set.

    Args:
        data: the set.
        loose: its loose crops.
    """

    def __init__(self, data: Path, loose: Path) -> None:
        self.stored = {n: np.load(loose / f"{n}.npy", mmap_mode="r") for n in NEEDED}
        self._meshes = np.load(data / "mesh.npy", mmap_mode="r")
        self._head = Head(np.load(loose / "shape.npy"), SIZE * FINE, ZOOM)

    def __call__(self, row: int, variant: int, rng: np.random.Generator, profiles: float) -> Drawn:
        """Draws the head of a row with one of its masks; ``profiles`` is the chance that it looks aside altogether."""
        to_fine = compose(TO_FINE, self.stored["to_loose"][row])
        bare = np.asarray(cv2.warpAffine(np.asarray(self.stored["loose"][row]), TO_FINE, (SIZE * FINE,) * 2,
                                         flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))  # fmt: skip
        dressed, alpha = wearing(bare, self.stored["masks"][variant, row], to_fine)
        planes = dressed, bare, alpha, np.full_like(alpha, 255)
        mesh = apply(to_fine, np.asarray(self._meshes[row], np.float32))
        if rng.random() < profiles:
            (masked, bare, _, _), turned = into_profile(planes, mesh, self._head, rng, CAMOUFLAGED)
        else:
            (masked, bare, _, _), turned = turn_further(planes, mesh, self._head, rng)
        small = [np.asarray(cv2.resize(p, (SIZE, SIZE), interpolation=cv2.INTER_AREA)) for p in (bare, masked)]
        edges = apply(turned.moved, apply(TO_FINE, self.stored["corners"][row]))
        points, edges = (apply(invert(TO_FINE), p) for p in (turned.points, edges))
        size = 1.0 if abs(turned.yaw) > PROFILE else float(grown(turned.yaw))
        return Drawn(small[0], small[1], points, edges, turned.yaw, size)


@dataclass(frozen=True, slots=True)
class Job:
    """Numbers of heads to turn."""

    data: Path
    loose: Path
    numbers: tuple[int, ...]
    seed: int


def draw(job: Job) -> Mapping[int, tuple[Drawn, bool]]:
    """The heads of a job by number, each with whether its mask says for certain that one is worn."""
    cv2.setNumThreads(1)
    samples, turner = Samples(job.data, job.loose, "train", job.seed), Turner(job.data, job.loose)
    found = {}
    for number in job.numbers:
        rng = np.random.default_rng([job.seed, number])
        row, variant = samples.any_row(rng), int(rng.integers(len(turner.stored["masks"])))
        certain = NAMES[turner.stored["family"][variant, row]] not in UNCLEAR
        found[number] = turner(row, variant, rng, PROFILES), certain
    return found


def turn_all(data: Path, loose: Path, out: Path, count: int, *, seed: int = 5, workers: int | None = None) -> None:
    """Turns ``count`` faces of the training split and writes them, each bare and masked.

    Args:
        data: a prepared set.
        loose: its loose crops.
        out: folder for the result.
        count: how many faces.
        seed: of faces and turns.
        workers: processes; None: one a processor.
    """
    out.mkdir(parents=True, exist_ok=True)
    pictures = np.lib.format.open_memmap(out / "loose.npy", "w+", np.uint8, (2 * count, SIZE, SIZE, 3))
    arrays = {
        "points": np.zeros((2 * count, 7, 2), np.float32),
        "corners": np.zeros((2 * count, 4, 2), np.float32),
        "yaw": np.zeros(2 * count, np.float32),
        "grown": np.ones(2 * count, np.float32),
        "masked": np.stack([np.repeat([0, 1], count), np.ones(2 * count)], 1).astype(np.float32),
        "weight": np.ones((2 * count, 7), np.float32),
    }
    jobs = [Job(data, loose, tuple(numbers), seed) for numbers in batched(range(count), HEADS_A_JOB)]
    processes = workers or processors()
    for part in run_jobs(draw, jobs, workers=processes, description="turn heads", size=lambda job: len(job.numbers)):
        for number, (drawn, certain) in part.items():
            for row, picture in ((number, drawn.bare), (count + number, drawn.masked)):
                pictures[row], arrays["points"][row], arrays["corners"][row] = picture, drawn.points, drawn.corners
                arrays["yaw"][row], arrays["grown"][row] = drawn.yaw, drawn.grown
            arrays["masked"][count + number, 1] = certain
    pictures.flush()
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared set")
    parser.add_argument("--loose", type=Path, required=True, help="its loose crops (trainer.aligner.data)")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    turn_all(arguments.data, arguments.loose, arguments.out, arguments.count, seed=arguments.seed)


if __name__ == "__main__":
    main()
