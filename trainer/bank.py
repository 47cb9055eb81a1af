"""A bank of drawn masks: every prepared face with ``variants`` masks, drawn once and read many times.

    DATA/bank/masked.npy   uint8[V, N, 256, 256, 3]  the crop wearing a mask
    DATA/bank/alpha.npy    uint8[V, N, 256, 256]     its coverage
    DATA/bank/family.npy   uint8[V, N]               index into `NAMES`
    DATA/bank/done.npy     uint8[V, N]               1 where drawn: a second call goes on where the first stopped
    DATA/bank/bank.json    the seed and the weight of each family; older banks, of the classic families, lack it

Drawing a mask costs several times a training sample's share of the processor; so it happens ahead. The mask of a face
depends on (seed, families, variant, row) alone: the same data and settings give the same bank.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trainer.masks import FAMILIES, FAMILY_WEIGHTS, draw_mask
from trainer.parallel import batched, processors, run_jobs
from unmask_rt.errors import UnmaskError, UsageError

NAMES = tuple(FAMILIES)
"""Families by the number that a bank stores."""
ROWS_A_JOB = 64


@dataclass(frozen=True, slots=True)
class Settings:
    """What a bank's masks depend on.

    Attributes:
        seed: of all masks.
        families: weight of each family that is drawn, of sum 1.
    """

    seed: int
    families: Mapping[str, float]

    def record(self) -> dict[str, Any]:
        return {"seed": self.seed, "families": dict(self.families)}


CLASSIC = Settings(1, FAMILY_WEIGHTS)


def open_bank(data: Path, mode: str = "r") -> dict[str, np.ndarray]:
    """Memory maps of a bank's arrays."""
    names = ("masked", "alpha", "family", "done")
    return {n: np.load(data / "bank" / f"{n}.npy", mmap_mode=mode) for n in names}  # type: ignore[arg-type]


def create(data: Path, count: int, variants: int, settings: Settings = CLASSIC) -> None:
    """Makes empty (sparse) arrays where there are none.

    Raises:
        UsageError: there is a bank, but of another number of faces or variants, or drawn with other settings.
    """
    folder = data / "bank"
    record = folder / "bank.json"
    if (folder / "done.npy").exists():
        there = np.load(folder / "done.npy", mmap_mode="r").shape
        if there != (variants, count):
            wanted = variants, count
            raise UsageError(
                f"{folder} is a bank of {there} (variants, faces), wanted is one of {wanted}",
                "Delete it, or prepare into another folder.",
            )
        if record.exists() and json.loads(record.read_text()) != settings.record():
            raise UsageError(
                f"{folder} was drawn with another seed or other families",
                "Delete it, or call again with the settings in its bank.json.",
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(settings.record(), indent=1) + "\n")
    shapes = {"masked": (256, 256, 3), "alpha": (256, 256), "family": (), "done": ()}  # done last: it marks a bank
    for name, shape in shapes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (variants, count, *shape)).flush()


@dataclass(frozen=True, slots=True)
class Job:
    """Some rows of one variant."""

    data: Path
    variant: int
    rows: tuple[int, ...]
    settings: Settings


def draw_rows(job: Job) -> int:
    """Draws the masks of some rows of one variant; returns how many."""
    cv2.setNumThreads(1)
    bank = open_bank(job.data, "r+")
    crops, meshes = np.load(job.data / "crops.npy", mmap_mode="r"), np.load(job.data / "mesh.npy", mmap_mode="r")
    names, weights = list(job.settings.families), list(job.settings.families.values())
    variant = job.variant
    for row in job.rows:
        if bank["done"][variant, row]:
            continue
        rng = np.random.default_rng([job.settings.seed, variant, row])
        family = str(rng.choice(names, p=weights))
        masked, alpha = draw_mask(np.asarray(crops[row]), np.asarray(meshes[row], np.float32), rng, family)
        bank["masked"][variant, row] = masked
        bank["alpha"][variant, row] = np.round(alpha * 255)
        bank["family"][variant, row] = NAMES.index(family)
        bank["done"][variant, row] = 1
    return len(job.rows)


def draw_bank(
    data: Path,
    *,
    variants: int = 2,
    seed: int = 1,
    workers: int | None = None,
    families: Mapping[str, float] = FAMILY_WEIGHTS,
) -> None:
    """Draws all masks of a prepared set, variant by variant, in parallel.

    Args:
        data: the prepared set.
        variants: masks a face.
        seed: of all masks.
        workers: processes; None for one a processor.
        families: weight of each family that is drawn (`trainer.masks.choose_families`), of sum 1.

    Raises:
        UsageError: there is a bank made with other settings, or it was asked for less than one variant.
        UnmaskError: the disk is too small.
    """
    if variants < 1:
        raise UsageError(f"{variants} masks a face: there has to be at least one")
    settings = Settings(seed, families)
    count = len(np.load(data / "mesh.npy", mmap_mode="r"))
    create(data, count, variants, settings)
    done = open_bank(data)["done"]
    wanted, free = int((done == 0).sum()) * 4 * 256 * 256, shutil.disk_usage(data).free
    if wanted > free:  # the arrays are sparse: a full disk would end the workers without a word
        raise UnmaskError(
            f"{data}: the masks need {wanted / 1e9:.1f} GB, {free / 1e9:.1f} GB are free",
            "Free some space, or draw fewer variants.",
        )
    order = np.random.default_rng(seed).permutation(count).tolist()
    jobs = []
    for variant in range(variants):
        missing = [row for row in order if not done[variant, row]]
        jobs += [Job(data, variant, rows, settings) for rows in batched(missing, ROWS_A_JOB)]
    for _ in run_jobs(
        draw_rows, jobs, workers=workers or processors(), description="draw masks", size=lambda job: len(job.rows)
    ):
        pass


def add_families(group: argparse._ActionsContainer, default: str = "classic") -> None:
    """The arguments that choose families of masks."""
    group.add_argument(
        "--families",
        default=default,
        metavar="LIST",
        help=f"families or groups of masks with commas between, each with :WEIGHT if wanted (default: {default}; "
        "groups: classic, everyday, landmark, geometric)",
    )
    group.add_argument("--without", default="", metavar="LIST", help="families or groups to leave out of these")
