"""Training samples from a prepared set and its bank of masks.

Sample number ``i`` is drawn from a random stream of its own, seeded with (seed, i): the order does not depend on the
number of workers, and a resumed run sees exactly what an uninterrupted one would have seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.bank import NAMES, open_bank
from trainer.masks import any_colour, value_noise

SIZE = 256


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: uint8 pictures (B, 3, S, S); alpha and valid (B, 1, S, S), 0..255."""

    masked: Tensor
    truth: Tensor
    alpha: Tensor
    valid: Tensor

    def floats(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(masked, truth) in -1..1 and (alpha, valid) in 0..1, channels last."""
        last = torch.channels_last
        masked, truth = (
            t.to(torch.float32).div(127.5).sub(1).to(memory_format=last) for t in (self.masked, self.truth)
        )
        return masked, truth, self.alpha.to(torch.float32) / 255, self.valid.to(torch.float32) / 255


def sampling_weights(records: list[dict[str, Any]], split: str, sources: Mapping[str, float]) -> np.ndarray:
    """How often each row is drawn, float64[N] of sum 1: by source, and more for smiles, open mouths, turned heads."""
    weights = np.array([sources.get(r["source"], 1.0) * (r["split"] == split) for r in records], np.float64)
    smile = np.array([r["smile"] > 0.3 or r["open"] > 0.1 for r in records])
    turned = np.array([abs(r["yaw"]) > 0.25 for r in records])
    weights *= np.where(smile, 1.6, 1.0) * np.where(turned, 1.6, 1.0)
    if weights.sum() == 0:
        raise ValueError(f"no prepared face belongs to the split {split!r}")
    return weights / weights.sum()


def tone_curve(rng: np.random.Generator) -> np.ndarray:
    """A random exposure, contrast, gamma and white balance as a lookup table uint8[256, 1, 3]."""
    x = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.normal(0, 0.18))
    x = (x - 0.5) * np.exp(rng.normal(0, 0.1)) + 0.5 + rng.normal(0, 0.03)
    x = x * np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.04, 3))
    return np.clip(x * 255 + 0.5, 0, 255).astype(np.uint8).reshape(256, 1, 3)


def dress(picture: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Clothes drawn up to the neck or over the chin, behind the mask, often in the mask's own colour.

    A gown, a scrub or a pullover that touches the mask must not be taken for a part of it.

    Args:
        picture: uint8[256, 256, 3], an aligned crop.
        alpha: uint8[256, 256], the coverage of the mask in it, which stays in front.
        rng: of colour, neckline and folds.
    """
    lower = float(np.nonzero(alpha.max(1) > 127)[0].max(initial=200))
    middle, edge = rng.uniform(70, 186), lower + rng.uniform(-25, 35)
    x = np.arange(SIZE, dtype=np.float32)
    reach = np.abs(x - middle) / rng.uniform(60, 130)
    neckline = edge - rng.uniform(5, 90) * reach ** rng.uniform(0.8, 2.0) + (x - 128) * rng.normal(0, 0.25)
    below = np.arange(SIZE, dtype=np.float32)[:, None] - neckline
    cover = np.clip(below / rng.uniform(0.7, 2.5) + 0.5, 0, 1)[..., None] * (1 - alpha[..., None] / np.float32(255))
    if alpha.any() and rng.random() < 0.75:
        colour = np.median(picture[alpha > 200], 0) if (alpha > 200).any() else any_colour(rng) * 255
        colour = colour * np.exp(rng.normal(0, 0.2)) + rng.normal(0, 10, 3)
    else:
        colour = any_colour(rng) * 255
    folds = value_noise(rng, (SIZE, SIZE), (int(rng.integers(2, 9)), int(rng.integers(2, 7)))) * rng.uniform(0, 0.35)
    rim = np.exp(-(((below - rng.uniform(3, 10)) / 2) ** 2)) * rng.uniform(-0.3, 0.2) * (rng.random() < 0.6)
    cloth = colour * (1 + folds + rim)[..., None]
    return np.clip(picture + (cloth - picture) * cover + 0.5, 0, 255).astype(np.uint8)


class Faces(Dataset[tuple[np.ndarray, ...]]):
    """Augmented pairs of a masked crop and the truth under the mask.

    Args:
        data: a prepared set with a bank.
        split: "train", "validation" or "test".
        seed: of the order and the augmentation.
        sources: weight by source.
        augment: False gives the rows of the split in order, unaltered.
        bare: share of samples whose mask is left out, so that a map learns what is no mask.
        dressed: share of samples with clothes drawn over neck and chin (`dress`). For the map module only.
        size: side of the samples, 256 or less.
        real: folder of pseudo labels (`trainer.pseudo`); their certainty stands in ``valid``. For the map module only.
        real_share: share of samples that come from there.
    """

    def __init__(
        self,
        data: Path,
        split: str,
        seed: int,
        sources: Mapping[str, float],
        *,
        augment: bool = True,
        bare: float = 0.0,
        dressed: float = 0.0,
        size: int = SIZE,
        real: Path | None = None,
        real_share: float = 0.0,
    ) -> None:
        self.data, self.seed, self.augment, self.bare, self.size = data, seed, augment, bare, size
        self.dressed = dressed
        records = json.loads((data / "meta.json").read_text())
        self.rows = np.array([i for i, r in enumerate(records) if r["split"] == split])
        self.cumulated = np.cumsum(sampling_weights(records, split, sources))
        self.real, self.real_share = real, real_share if real is not None else 0.0
        self.arrays: dict[str, np.ndarray] | None = None

    def _open(self) -> dict[str, np.ndarray]:
        if self.arrays is None:
            cv2.setNumThreads(1)
            plain = {n: np.load(self.data / f"{n}.npy", mmap_mode="r") for n in ("crops", "corners")}
            bank = open_bank(self.data)
            if not bank["done"][:, self.rows].any():
                raise ValueError(
                    f"no mask has been drawn yet for these faces in {self.data / 'bank'}; draw the bank first"
                )
            self.arrays = plain | bank
            if self.real is not None:
                self.arrays |= {
                    f"real_{n}": np.load(self.real / f"{n}.npy", mmap_mode="r") for n in ("crops", "alpha", "weight")
                }
        return self.arrays

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> tuple[np.ndarray, ...]:
        arrays = self._open()
        rng = np.random.default_rng([self.seed, number])
        if rng.random() < self.real_share:
            row = int(rng.integers(len(arrays["real_crops"])))
            crop, alpha, weight = (np.asarray(arrays[f"real_{n}"][row]) for n in ("crops", "alpha", "weight"))
            masked, truth, alpha, weight = self._augment(crop, crop, alpha, weight, rng)
            return masked.transpose(2, 0, 1), truth.transpose(2, 0, 1), alpha[None], weight[None]
        variants = len(arrays["done"])
        if self.augment:
            row = int(np.searchsorted(self.cumulated, rng.random() * self.cumulated[-1]))
            variant = int(rng.integers(variants))
        else:
            row, variant = int(self.rows[number % len(self.rows)]), 0
        while not arrays["done"][variant, row]:  # a bank that is still being drawn
            variant = (variant - 1) % variants
            if variant == variants - 1:
                row = int(np.searchsorted(self.cumulated, rng.random() * self.cumulated[-1]))
        truth = np.asarray(arrays["crops"][row])
        bare = rng.random() < self.bare
        masked = truth if bare else np.asarray(arrays["masked"][variant, row])
        alpha = np.zeros((SIZE, SIZE), np.uint8) if bare else np.asarray(arrays["alpha"][variant, row])
        if rng.random() < self.dressed and (bare or arrays["family"][variant, row] != NAMES.index("gaiter")):
            masked = dress(masked, alpha, rng)
        valid = np.zeros((SIZE, SIZE), np.uint8)
        cv2.fillConvexPoly(valid, np.round(arrays["corners"][row]).astype(np.int32), 255)
        if self.augment:
            masked, truth, alpha, valid = self._augment(masked, truth, alpha, valid, rng)
        elif self.size != SIZE:
            half = (self.size, self.size)
            masked, truth, alpha, valid = (
                np.asarray(cv2.resize(p, half, interpolation=cv2.INTER_AREA)) for p in (masked, truth, alpha, valid)
            )
        return masked.transpose(2, 0, 1), truth.transpose(2, 0, 1), alpha[None], valid[None]

    def _augment(
        self, masked: np.ndarray, truth: np.ndarray, alpha: np.ndarray, valid: np.ndarray, rng: np.random.Generator
    ) -> tuple[np.ndarray, ...]:
        angle, scale = rng.normal(0, 3.5), np.exp(rng.normal(0, 0.045))
        matrix = cv2.getRotationMatrix2D((127.5, 127.5), angle, scale)
        matrix[:, 2] += rng.normal(0, 4.0, 2)
        if rng.random() < 0.5:
            matrix = matrix @ np.array([[-1, 0, 255], [0, 1, 0], [0, 0, 1.0]])
        if self.size != SIZE:
            ratio = self.size / SIZE
            matrix = np.array([[ratio, 0, ratio / 2 - 0.5], [0, ratio, ratio / 2 - 0.5]]) @ np.vstack(
                [matrix, [0, 0, 1.0]]
            )
        size = (self.size, self.size)
        masked, truth = (
            cv2.warpAffine(p, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            for p in (masked, truth)
        )
        alpha = cv2.warpAffine(alpha, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        valid = cv2.warpAffine(valid, matrix, size, flags=cv2.INTER_NEAREST)
        curve = tone_curve(rng)
        masked, truth = cv2.LUT(masked, curve), cv2.LUT(truth, curve)
        if rng.random() < 0.15:
            sigma = float(rng.uniform(0.4, 1.6)) * self.size / SIZE
            masked, truth = (cv2.GaussianBlur(p, (0, 0), sigma) for p in (masked, truth))
        if rng.random() < 0.2:
            noise = rng.normal(0, rng.uniform(1, 7), (*size, 1)).astype(np.float32)
            masked = np.clip(masked + noise, 0, 255).astype(np.uint8)
        if rng.random() < 0.3:
            _, code = cv2.imencode(".jpg", masked, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))])
            masked = np.asarray(cv2.imdecode(code, cv2.IMREAD_COLOR))
        return np.asarray(masked), np.asarray(truth), np.asarray(alpha), np.asarray(valid)


class Numbers(Sampler[int]):
    """Sample numbers from ``start`` on, without end."""

    def __init__(self, start: int) -> None:
        self.start = start

    def __iter__(self) -> Iterator[int]:
        number = self.start
        while True:
            yield number
            number += 1


def batches(dataset: Faces, batch: int, start: int, workers: int) -> Iterator[Batch]:
    """Endless batches of a training set from sample number ``start`` on."""
    loader: DataLoader[Any] = DataLoader(
        dataset, batch_size=batch, sampler=Numbers(start), num_workers=workers, prefetch_factor=4 if workers else None
    )
    for arrays in loader:
        yield Batch(*arrays)
