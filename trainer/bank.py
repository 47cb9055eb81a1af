"""A bank of drawn masks: every prepared face with ``variants`` masks, drawn once and read many times.

    DATA/bank/masked.npy   uint8[V, N, 256, 256, 3]  the crop wearing a mask
    DATA/bank/alpha.npy    uint8[V, N, 256, 256]     its coverage
    DATA/bank/family.npy   uint8[V, N]               index into `masks.FAMILIES`
    DATA/bank/done.npy     uint8[V, N]               1 where drawn: a second call goes on where the first stopped

Drawing a mask costs several times a training sample's share of the processor; so it happens ahead. The mask of a face
depends on (seed, variant, row) alone: the same data and seed give the same bank.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from trainer.masks import FAMILIES, FAMILY_WEIGHTS, draw_mask

NAMES = tuple(FAMILIES)


def open_bank(data: Path, mode: str = "r") -> dict[str, np.ndarray]:
    """Memory maps of a bank's arrays."""
    names = ("masked", "alpha", "family", "done")
    return {n: np.load(data / "bank" / f"{n}.npy", mmap_mode=mode) for n in names}  # type: ignore[arg-type]


def create(data: Path, count: int, variants: int) -> None:
    """Makes empty (sparse) arrays where there are none.

    Raises:
        ValueError: there is a bank, but of another number of faces or variants.
    """
    folder = data / "bank"
    if (folder / "done.npy").exists():
        there = np.load(folder / "done.npy", mmap_mode="r").shape
        if there != (variants, count):
            wanted = variants, count
            raise ValueError(f"{folder} is a bank of {there} (variants, faces), wanted is one of {wanted}: delete it")
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, shape in (("masked", (256, 256, 3)), ("alpha", (256, 256)), ("family", ()), ("done", ())):
        np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.uint8, (variants, count, *shape)).flush()


def draw_rows(job: tuple[Path, int, Sequence[int], int]) -> int:
    """Draws the masks of some rows of one variant; returns how many."""
    data, variant, rows, seed = job
    cv2.setNumThreads(1)
    bank = open_bank(data, "r+")
    crops, meshes = np.load(data / "crops.npy", mmap_mode="r"), np.load(data / "mesh.npy", mmap_mode="r")
    for row in rows:
        if bank["done"][variant, row]:
            continue
        rng = np.random.default_rng([seed, variant, row])
        family = str(rng.choice(NAMES, p=[FAMILY_WEIGHTS[n] for n in NAMES]))
        masked, alpha = draw_mask(np.asarray(crops[row]), np.asarray(meshes[row], np.float32), rng, family)
        bank["masked"][variant, row] = masked
        bank["alpha"][variant, row] = np.round(alpha * 255)
        bank["family"][variant, row] = NAMES.index(family)
        bank["done"][variant, row] = 1
    return len(rows)


def draw_bank(data: Path, *, variants: int = 2, seed: int = 1, workers: int = 2) -> None:
    """Draws all masks of a prepared set, variant by variant, in parallel."""
    from rich.progress import track

    count = len(np.load(data / "mesh.npy", mmap_mode="r"))
    create(data, count, variants)
    order = np.random.default_rng(seed).permutation(count)
    jobs = [(data, v, order[i : i + 64].tolist(), seed) for v in range(variants) for i in range(0, count, 64)]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for _ in track(pool.imap(draw_rows, jobs), total=len(jobs), description="draw masks"):
            pass
