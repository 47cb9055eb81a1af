"""Training samples for the aligner. Sample number ``i`` depends on (seed, i) alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainer.aligner.augment import blend, jitter, nothing, occlude, shoot, surround, view
from trainer.aligner.data import MIRRORED, SIZE, ZOOM
from trainer.aligner.network import CROP
from trainer.bank import NAMES
from trainer.data import Numbers
from trainer.heads import grown
from unmask_rt.align import Affine, Image, apply, compose
from unmask_rt.errors import MissingError

Sample = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""Crop uint8[128, 128, 3]; points float32[7, 2] in its pixels; their weights float32[7]; and about the face float32[4]:
1 if there is one, yaw in degrees, 1 if masked, weight of masked."""

WEIGHTS = {"generated": 0.5, "scut": 0.6, "aaf": 1.0, "utk": 1.3, "utk-more": 1.3, "portraits": 2.0, "snapshots": 2.5}
"""How often each source is drawn: natural pictures more often."""
UNCLEAR = ("chin", "held")
"""Families that leave the mouth free, or cover it with what is no mask worn: whether masked is not asked of them."""
EYE_CORNERS = [0, 1, 2, 3]
HALF_TO_CROP: Affine = np.array([[2.0, 0.0, 0.5], [0.0, 2.0, 0.5]])
"""Affine from the masks, at half the size, to the 256 px crop."""
NEEDED = ("loose", "points", "to_loose", "corners", "masks", "family")


class Samples(Dataset[Sample]):
    """Augmented crops of the prepared faces, with drawn masks and bare, and of faces that really wear masks.

    Args:
        data: prepared set with its bank of masks.
        loose: its loose crops (`trainer.aligner.data`).
        split: "train", "validation" or "test".
        seed: of all randomness.
        extra: further sets of loose crops and the share of samples from each: heads turned further
            (`trainer.aligner.turn`), faces that really wear masks (`trainer.aligner.real`).
        masked: share of prepared faces that wear a mask.
        empty: share of samples without a face.
    """

    def __init__(
        self,
        data: Path,
        loose: Path,
        split: str,
        seed: int,
        *,
        extra: Sequence[tuple[Path, float]] = (),
        masked: float = 0.65,
        empty: float = 0.15,
    ) -> None:
        if not (loose / "yaw.npy").is_file():
            raise MissingError(
                f"{loose} holds no loose crops", "Make them: python -m trainer.aligner.data DATA --tars FACES -o LOOSE"
            )
        for folder, _ in extra:
            if not (folder / "grown.npy").is_file():
                hint = "Make them (again): python -m trainer.aligner.turn, or trainer.aligner.real."
                raise MissingError(f"{folder} holds no heads for the aligner, or those of an older version", hint)
        self.loose, self.seed = loose, seed
        self.extra = tuple(extra)
        self.masked, self.empty = masked, empty
        records = json.loads((data / "meta.json").read_text("utf-8"))
        self.yaw = np.load(loose / "yaw.npy")
        done = np.load(loose / "done.npy") != 0
        self.rows = np.array([i for i, r in enumerate(records) if r["split"] == split and done[i]])
        weights = np.array([WEIGHTS.get(records[i]["source"], 1.0) for i in self.rows])
        weights *= 1 + 4 * np.minimum(np.abs(self.yaw[self.rows]) / 45, 1.2) ** 1.5
        self.cumulated = np.cumsum(weights / weights.sum())
        self.arrays: dict[str, np.ndarray] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def open(self) -> dict[str, np.ndarray]:
        """The arrays by name, mapped into memory when they are first asked for."""
        if self.arrays is None:
            cv2.setNumThreads(1)
            self.arrays = {n: np.load(self.loose / f"{n}.npy", mmap_mode="r") for n in NEEDED}
            for k, (folder, _) in enumerate(self.extra):
                for name in ("loose", "points", "weight", "yaw", "grown", "corners", "masked"):
                    self.arrays[f"{name}-{k}"] = np.load(folder / f"{name}.npy", mmap_mode="r")
        return self.arrays

    def any_row(self, rng: np.random.Generator) -> int:
        """A row of the split, turned heads and natural pictures more often."""
        return int(self.rows[min(int(np.searchsorted(self.cumulated, rng.random())), len(self.rows) - 1)])

    def __getitem__(self, number: int) -> Sample:
        arrays = self.open()
        rng = np.random.default_rng([self.seed, number])
        another = self.rows[rng.integers(len(self.rows))]
        row = self.any_row(rng)
        if rng.random() < self.empty:
            crop = shoot(nothing(np.asarray(arrays["loose"][row]), np.asarray(arrays["loose"][another]), rng), rng)
            return crop, np.full((7, 2), CROP / 2, np.float32), np.zeros(7, np.float32), np.zeros(4, np.float32)
        mirror = rng.random() < 0.5
        off = jitter(rng)
        source, chosen = rng.random(), -1
        for k, (_, share) in enumerate(self.extra):
            if 0 <= source < share:
                chosen = k
            source -= share
        if chosen >= 0:
            row = int(rng.integers(len(arrays[f"yaw-{chosen}"])))
            picture, points, corners = (
                np.asarray(arrays[f"{n}-{chosen}"][row]) for n in ("loose", "points", "corners")
            )
            weight, yaw = np.array(arrays[f"weight-{chosen}"][row]), arrays[f"yaw-{chosen}"][row]
            full = float(arrays[f"grown-{chosen}"][row])
            masked, certain = arrays[f"masked-{chosen}"][row]
            about = (1.0, float(yaw), float(masked), float(certain))
            bare = True
        else:
            picture, points, corners = (np.asarray(arrays[n][row]) for n in ("loose", "points", "corners"))
            weight, yaw = np.ones(7, np.float32), self.yaw[row]
            full = float(grown(float(yaw)))
            variant = int(rng.integers(len(arrays["family"])))
            bare = rng.random() >= self.masked
            family = NAMES[arrays["family"][variant, row]]
            about = (1.0, float(yaw), float(not bare), float(bare or family not in UNCLEAR))
        expected = 1 + (full - 1) * float(rng.random())
        matrix = view(off, SIZE, ZOOM * full, expected, mirror)
        crop = np.asarray(
            cv2.warpAffine(picture, matrix, (CROP, CROP), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        )
        if not bare:
            crop, _ = wearing(crop, arrays["masks"][variant, row], compose(matrix, arrays["to_loose"][row]))
        if rng.random() < 0.5:
            inside = cv2.fillConvexPoly(
                np.zeros((CROP, CROP), np.uint8), np.round(apply(matrix, corners)).astype(np.int32), 255
            )
            scene = cv2.resize(np.asarray(arrays["loose"][another]), (CROP, CROP), interpolation=cv2.INTER_LINEAR)
            crop = surround(crop, np.asarray(inside), scene[::-1] if rng.random() < 0.3 else scene, rng)
        points = apply(matrix, points)
        if mirror:
            points, weight = points[list(MIRRORED)], weight[list(MIRRORED)]
            about = (about[0], -about[1], about[2], about[3])
        if rng.random() < 0.4:
            mouth = points[6] + 0.55 * (points[6] - points[:4].mean(axis=0))
            for _ in range(int(rng.integers(1, 3))):
                crop = occlude(crop, points[EYE_CORNERS], mouth, rng)
        return shoot(crop, rng), points.astype(np.float32), weight, np.array(about, np.float32)


def wearing(picture: Image, mask: NDArray[np.uint8], to_picture: Affine) -> tuple[Image, Image]:
    """A picture with one of the bank's masks laid over it, and where that covers it, uint8[H, W].

    Args:
        picture: uint8[H, W, 3].
        mask: uint8[128, 128, 4], a row of ``masks.npy``.
        to_picture: from the 256 px crop to the picture.
    """
    size = picture.shape[1::-1]
    laid = np.asarray(cv2.warpAffine(np.asarray(mask), compose(to_picture, HALF_TO_CROP), size, flags=cv2.INTER_LINEAR))
    alpha = np.ascontiguousarray(laid[..., 3])
    return blend(picture, laid[..., :3], alpha), alpha


def batches(samples: Samples, batch: int, start: int, workers: int) -> Iterator[list[Tensor]]:
    """Endless batches from sample number ``start`` on."""
    loader: DataLoader[Sample] = DataLoader(
        samples, batch_sampler=Numbers(start, batch), num_workers=workers, prefetch_factor=4 if workers else None
    )
    yield from loader


def stacked(samples: Samples, numbers: range) -> list[Tensor]:
    """One batch of chosen samples."""
    columns = zip(*(samples[i] for i in numbers), strict=True)
    return [torch.from_numpy(np.stack(column)) for column in columns]
