"""A prepared set of a few faces made without any model, and restorers whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from unmask_rt import align, sample

Image = NDArray[np.uint8]
SPLITS = ("train",) * 4 + ("test",) * 6 + ("validation",)
SIZE = 256


def aligned_astronaut() -> tuple[Image, NDArray[np.float32]]:
    """The sample face as a crop uint8[256, 256, 3], and its mesh float32[478, 2] in crop pixels."""
    mesh = sample.astronaut_mesh()
    transform = align.crop_transform(mesh[list(align.MESH_ANCHORS)], SIZE)
    return align.warp(sample.astronaut(), transform, SIZE), align.apply(transform, mesh)


def write_set(folder: Path) -> Path:
    """Writes a prepared set: the sample face, each time of another brightness, as different people of two sources."""
    crop, mesh = aligned_astronaut()
    crops = [np.clip(crop * (0.7 + 0.05 * i), 0, 255).astype(np.uint8) for i in range(len(SPLITS))]
    np.save(folder / "crops.npy", np.stack(crops))
    np.save(folder / "mesh.npy", np.repeat(mesh[None], len(SPLITS), 0).astype(np.float16))
    records = [
        {"name": f"{i}.png", "source": "ab"[i % 2], "identity": f"person-{i}", "split": split}
        | ({"age": 8 * i, "sex": "f"} if i % 2 else {})
        for i, split in enumerate(SPLITS)
    ]
    (folder / "meta.json").write_text(json.dumps(records))
    return folder


def write_inputs(folder: Path) -> list[Path]:
    """Writes the whole pictures that `write_set` could have been prepared from: a folder a source."""
    for i in range(len(SPLITS)):
        picture = np.clip(sample.astronaut() * (0.7 + 0.05 * i), 0, 255).astype(np.uint8)
        (folder / "ab"[i % 2]).mkdir(exist_ok=True)
        PIL.Image.fromarray(picture).save(folder / "ab"[i % 2] / f"{i}.png")
    return [folder / "a", folder / "b"]


class Idle:
    """Gives back what it gets, and says that there is no mask."""

    has_map = True

    def __init__(self, size: int = SIZE, name: str = "idle") -> None:
        self.size, self.name = size, name
        self.alphas: list[Image | None] = []

    def __call__(self, crops: Image, alpha: Image | None = None) -> tuple[Image, Image]:
        assert crops.shape[1:] == (self.size, self.size, 3) and crops.dtype == np.uint8
        self.alphas.append(alpha)
        return crops, np.zeros(crops.shape[:3], np.uint8)


class Painter(Idle):
    """Paints the true hole, or without it the lower half, in one colour; its map is what it painted."""

    def __init__(self, colour: int, size: int = SIZE, name: str = "painter") -> None:
        super().__init__(size, name)
        self.colour = colour

    def __call__(self, crops: Image, alpha: Image | None = None) -> tuple[Image, Image]:
        super().__call__(crops, alpha)
        where = np.zeros(crops.shape[:3], bool) if alpha is None else alpha > 127
        if alpha is None:
            where[:, self.size // 2 :] = True
        faces = crops.copy()
        faces[where] = self.colour
        return faces, where.astype(np.uint8) * 255
