"""The format of pix2pix: ``train/*.jpg`` and ``test/*.jpg``, each picture an input and its target side by side.

Halves that are not square are squeezed to squares, as pix2pix does it. Nobody says where a mask is in them, so alpha is
empty: systems that need it cannot be trained on such a folder.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from trainer.augment import JITTERS, SIZE, plain, resized
from trainer.data import Sample, as_sample
from unmask_rt.errors import SourceError, UsageError

EXTENSIONS = {".jpg", ".jpeg", ".png"}
HALVES = ("left", "right")


def is_pairs(folder: Path) -> bool:
    """Whether a folder looks like this format rather than like a prepared set."""
    return (folder / "train").is_dir() and not (folder / "meta.json").exists()


class Pairs(Dataset[Sample]):
    """Pairs of a split, drawn at random (train, with jitter) or in the order of their names.

    Args:
        folder: holds ``train`` and ``test``.
        split: "train"; every other split reads ``test``.
        seed: of the order and the augmentation.
        size: side of the samples.
        augment: False gives the pictures in order, unaltered.
        jitter: a key of `augment.JITTERS`.
        input_half: which half is the network's input, "left" or "right"; the other one is the target.

    Raises:
        UsageError: no picture there, or no such half.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        seed: int,
        *,
        size: int = SIZE,
        augment: bool = True,
        jitter: str = "pix2pix",
        input_half: str = "left",
    ) -> None:
        if input_half not in HALVES:
            raise UsageError(f"a picture has no half {input_half!r}", f"input_half is one of: {', '.join(HALVES)}.")
        place = folder / ("train" if split == "train" else "test")
        self.paths = sorted(p for p in place.glob("*") if p.suffix.lower() in EXTENSIONS)
        if not self.paths:
            raise UsageError(f"{place} holds no .jpg or .png pictures", "Put input and target there, side by side.")
        self.seed, self.size, self.augment, self.jitter = seed, size, augment, JITTERS[jitter]
        self.first_is_input = input_half == "left"

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> Sample:
        cv2.setNumThreads(1)
        pick = int(np.random.default_rng([self.seed, number]).integers(len(self)))
        left, right = self.read(self.paths[pick if self.augment else number % len(self)])
        masked, truth = (left, right) if self.first_is_input else (right, left)
        planes = masked, truth, np.zeros((SIZE, SIZE), np.uint8), np.full((SIZE, SIZE), 255, np.uint8)
        rng = np.random.default_rng([self.seed, number, 1])
        return as_sample((self.jitter if self.augment else plain)(planes, rng, self.size))

    @staticmethod
    def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
        """The halves of a picture, uint8[256, 256, 3] RGB each.

        Raises:
            SourceError: it cannot be read, or is no two pictures side by side.
        """
        picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
        if picture is None:
            raise SourceError(f"{path} is no readable picture", "Delete or replace it.")
        wide = picture.shape[1]
        if wide % 2 or wide < picture.shape[0]:
            raise SourceError(f"{path} is {wide}x{picture.shape[0]}: no two pictures side by side", "Replace it.")
        rgb = np.asarray(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB))
        halves = rgb[:, : wide // 2], rgb[:, wide // 2 :]
        left, right = (np.ascontiguousarray(resized(np.asarray(h), SIZE)) for h in halves)
        return left, right
