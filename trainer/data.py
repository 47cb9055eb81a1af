"""Training samples from a prepared set and its bank of masks.

Sample number ``i`` is drawn from random streams of its own, seeded with (seed, i): the order does not depend on the
number of workers, and a resumed run sees exactly what an uninterrupted one would have seen. Which face and which of its
masks come is drawn from a stream apart from the augmentation's: runs of one seed see the same faces with the same masks
in the same order, whatever is done to them afterwards.
"""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.augment import (
    JITTERS,
    SIZE,
    Planes,
    colour_in,
    dress,
    plain,
    shade,
    stand_off,
    trim,
    valid_of,
)
from trainer.bank import NAMES, open_bank
from trainer.front import put_in_front
from trainer.heads import Head
from trainer.people import person_of
from trainer.turning import turn, wide_head
from unmask_rt.errors import MissingError, UsageError

Sample = tuple[np.ndarray, ...]
"""masked and truth uint8[3, S, S], alpha and valid uint8[1, S, S]."""


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch: uint8 pictures (B, 3, S, S); alpha and valid (B, 1, S, S), 0..255."""

    masked: Tensor
    truth: Tensor
    alpha: Tensor
    valid: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        if device.type == "cpu":
            return self
        parts = (t.to(device, non_blocking=True) for t in (self.masked, self.truth, self.alpha, self.valid))
        return Batch(*parts)

    def floats(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(masked, truth) in -1..1 and (alpha, valid) in 0..1, channels last."""
        last = torch.channels_last
        masked, truth = (
            t.to(torch.float32).div(127.5).sub(1).to(memory_format=last) for t in (self.masked, self.truth)
        )
        return masked, truth, self.alpha.to(torch.float32) / 255, self.valid.to(torch.float32) / 255


def sampling_weights(
    records: list[dict[str, Any]], split: str, sources: Mapping[str, float], people: Mapping[str, float]
) -> np.ndarray:
    """How often each row is drawn, float64[N] of sum 1: by source, by what is told of the person (`people.person_of`),
    and more for smiles, open mouths, turned heads.

    Raises:
        UsageError: there is none.
    """
    weights = np.array([sources.get(r["source"], 1.0) * (r["split"] == split) for r in records], np.float64)
    smile = np.array([r["smile"] > 0.3 or r["open"] > 0.1 for r in records])
    turned = np.array([abs(r["yaw"]) > 0.25 for r in records])
    weights *= np.where(smile, 1.6, 1.0) * np.where(turned, 1.6, 1.0)
    weights *= [math.prod(people.get(word, 1.0) for word in person_of(r).values()) for r in records]
    if weights.sum() == 0:
        raise UsageError(
            f"no prepared face of the preset's sources belongs to the split {split!r}",
            "Prepare more faces, or give their source a weight above 0 in the preset's [sources].",
        )
    return weights / weights.sum()


class Faces(Dataset[Sample]):
    """Augmented pairs of a masked crop and the truth under the mask.

    Args:
        data: a prepared set with a bank.
        split: "train", "validation" or "test".
        seed: of the order and the augmentation.
        sources: weight by source.
        people: weight by what is told of a person: "60 and more", "black" (`people.person_of`).
        size: side of the samples, 256 or less.
        augment: False gives the rows of the split in order, unaltered.
        jitter: how samples are augmented, a key of `augment.JITTERS`.
        bare: share of samples whose mask is left out, so that a map learns what is no mask.
        dressed: share of samples with clothes drawn over neck and chin (`dress`). For the map module only.
        shaded: share of masked samples with a shadow on neck and clothes (`shade`). For the map module only.
        trimmed: share of masked samples whose mask has a strip of another colour (`trim`). For the map module only.
        coloured: share of masked samples with patches of other colours (`colour_in`). For the map module only.
        stood_off: share of masked samples whose mask sticks out on one side (`stand_off`).
        in_front: share of samples with something in front of the face (`front.put_in_front`).
        turned: share of samples whose head is turned further aside and down (`heads.Head`).
        without: families of masks that never come, held out for measuring.
        real: folder of pseudo labels (`trainer.pseudo`); their certainty stands in ``valid``. For the map module only.
        real_share: share of samples that come from there.

    Raises:
        MissingError: the folder is no prepared set.
        UsageError: no face belongs to the split, or no mask is left.
    """

    def __init__(
        self,
        data: Path,
        split: str,
        seed: int,
        sources: Mapping[str, float],
        *,
        size: int = SIZE,
        people: Mapping[str, float] = MappingProxyType({}),
        augment: bool = True,
        jitter: str = "camera",
        bare: float = 0.0,
        dressed: float = 0.0,
        shaded: float = 0.0,
        trimmed: float = 0.0,
        coloured: float = 0.0,
        stood_off: float = 0.0,
        in_front: float = 0.0,
        turned: float = 0.0,
        without: Sequence[str] = (),
        real: Path | None = None,
        real_share: float = 0.0,
    ) -> None:
        if not (data / "meta.json").is_file():
            raise MissingError(f"{data} is no prepared set of faces", "Make one: unmask-train prepare FACES -o DATA.")
        unknown = set(without) - set(NAMES)
        if unknown:
            raise UsageError(f"there is no mask family {', '.join(sorted(unknown))}", f"There are: {', '.join(NAMES)}.")
        self.data, self.seed, self.size, self.augment = data, seed, size, augment
        self.jitter, self.bare, self.dressed = JITTERS[jitter], bare, dressed
        self.shaded, self.trimmed, self.coloured = shaded, trimmed, coloured
        self.stood_off, self.in_front, self.turned = stood_off, in_front, turned
        self.head: Head | None = None
        self.left_out = np.array([NAMES.index(name) for name in without], np.uint8)
        records = json.loads((data / "meta.json").read_text())
        self.rows = np.array([i for i, r in enumerate(records) if r["split"] == split])
        self.cumulated = np.cumsum(sampling_weights(records, split, sources, people))
        self.real, self.real_share = real, real_share if real is not None else 0.0
        self.arrays: dict[str, np.ndarray] | None = None

    def opened(self) -> dict[str, np.ndarray]:
        """Memory maps of what it reads, by name; each process opens them for itself."""
        if self.arrays is None:
            cv2.setNumThreads(1)
            try:
                names = ("crops", "corners", *(("mesh",) if self.turned else ()))
                plain_arrays = {n: np.load(self.data / f"{n}.npy", mmap_mode="r") for n in names}
                if self.turned:
                    self.head = wide_head(np.load(self.data / "shape.npy"))
                bank = open_bank(self.data)
            except FileNotFoundError as error:
                raise MissingError(
                    f"{error.filename} is missing", "Prepare the set again: unmask-train prepare FACES -o DATA."
                ) from error
            self.arrays = plain_arrays | bank
            drawn = self.rows[self._usable(slice(None), self.rows).any(0)]
            if not len(drawn):
                raise UsageError(
                    f"no mask that may come has been drawn yet for these faces in {self.data / 'bank'}",
                    "Draw the bank first (unmask-train prepare), or hold fewer families out.",
                )
            if self.real is not None:
                self.arrays |= {
                    f"real_{n}": np.load(self.real / f"{n}.npy", mmap_mode="r") for n in ("crops", "alpha", "weight")
                }
        return self.arrays

    def usable(self) -> np.ndarray:
        """Which masks may come: bool[V, N]."""
        self.opened()
        found: np.ndarray = self._usable(slice(None), slice(None))
        return found

    def _usable(self, variant: Any, row: Any) -> Any:
        """Whether masks are drawn and of a family that may come."""
        assert self.arrays is not None
        return (self.arrays["done"][variant, row] != 0) & ~np.isin(self.arrays["family"][variant, row], self.left_out)

    def __len__(self) -> int:
        return len(self.rows)

    def choose(self, number: int) -> tuple[int, int]:
        """Row and variant of the sample with this number."""
        variants = len(self.opened()["done"])
        rng = np.random.default_rng([self.seed, number])
        if self.augment:
            row, variant = self._any_row(rng), int(rng.integers(variants))
        else:
            row, variant = int(self.rows[number % len(self.rows)]), 0
        tried = 0
        while not self._usable(variant, row):  # a family that is held out, or a bank that is still being drawn
            variant, tried = (variant - 1) % variants, tried + 1
            if tried % variants == 0:
                row = self._any_row(rng)
        return row, variant

    def _any_row(self, rng: np.random.Generator) -> int:
        return int(np.searchsorted(self.cumulated, rng.random() * self.cumulated[-1]))

    def __getitem__(self, number: int) -> Sample:
        arrays = self.opened()
        row, variant = self.choose(number)
        rng = np.random.default_rng([self.seed, number, 1])
        if rng.random() < self.real_share:
            row = int(rng.integers(len(arrays["real_crops"])))
            crop, alpha, weight = (np.asarray(arrays[f"real_{n}"][row]) for n in ("crops", "alpha", "weight"))
            return as_sample(self.jitter((crop, crop, alpha, weight), rng, self.size))
        truth = np.asarray(arrays["crops"][row])
        bare = rng.random() < self.bare
        masked = truth if bare else np.asarray(arrays["masked"][variant, row])
        alpha = np.zeros((SIZE, SIZE), np.uint8) if bare else np.asarray(arrays["alpha"][variant, row])
        valid = valid_of(arrays["corners"][row])
        if self.head is not None and rng.random() < self.turned:
            masked, truth, alpha, valid = turn((masked, truth, alpha, valid), arrays["mesh"][row], self.head, rng)
        if not bare and rng.random() < self.stood_off:
            masked, alpha = stand_off(masked, alpha, rng)
        if rng.random() < self.dressed and (bare or arrays["family"][variant, row] != NAMES.index("gaiter")):
            masked = dress(masked, alpha, rng)
        if not bare and rng.random() < self.coloured:
            masked = colour_in(masked, alpha, rng)
        if not bare and rng.random() < self.trimmed:
            masked = trim(masked, alpha, rng)
        if not bare and rng.random() < self.shaded:
            masked = shade(masked, alpha, rng)
        planes = masked, truth, alpha, valid
        if rng.random() < self.in_front:
            planes = put_in_front(planes, self._another(rng), rng)
        return as_sample((self.jitter if self.augment else plain)(planes, rng, self.size))

    def _another(self, rng: np.random.Generator) -> np.ndarray:
        """A crop of somebody else, masked every second time, uint8[256, 256, 3]."""
        arrays, row = self.opened(), self._any_row(rng)
        variant = int(rng.integers(len(arrays["done"])))
        masked = rng.random() < 0.5 and self._usable(variant, row)
        return np.asarray(arrays["masked"][variant, row] if masked else arrays["crops"][row])


def as_sample(planes: Planes) -> Sample:
    """Channels first."""
    masked, truth, alpha, valid = planes
    return masked.transpose(2, 0, 1), truth.transpose(2, 0, 1), alpha[None], valid[None]


class Numbers(Sampler[list[int]]):
    """Batches of sample numbers from ``start`` on, without end; each process of several takes its part of them."""

    def __init__(self, start: int, batch: int, rank: int = 0, world: int = 1) -> None:
        self.start, self.batch, self.rank, self.world = start, batch, rank, world

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start + self.rank * self.batch
        while True:
            yield list(range(first, first + self.batch))
            first += self.batch * self.world


def batches(
    dataset: Dataset[Sample],
    batch: int,
    start: int,
    workers: int,
    *,
    rank: int = 0,
    world: int = 1,
    pinned: bool = False,
) -> Iterator[Batch]:
    """Endless batches of a training set from sample number ``start`` on, made ahead by ``workers`` processes."""
    loader: DataLoader[Any] = DataLoader(
        dataset,
        batch_sampler=Numbers(start, batch, rank, world),
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_ignore_interrupts,
        pin_memory=pinned,
    )
    for arrays in loader:
        yield Batch(*arrays)


def _ignore_interrupts(worker: int) -> None:
    """Ctrl-C is the main process's business: it still wants its batch, and writes a checkpoint."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def stacked(dataset: Dataset[Sample], numbers: Sequence[int]) -> Batch:
    """One batch of chosen samples."""
    columns = zip(*(dataset[i] for i in numbers), strict=True)
    return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))
