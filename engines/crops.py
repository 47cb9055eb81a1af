"""The fixed crops that engines are compared on: the sample picture's face under varied masks, light and pose.

    python -m engines.crops        # draws them again; needs the package's own trainer.masks

One JPEG of tiles ships with the package. Decoders may differ by a level; both engines see the same.
"""

from __future__ import annotations

import io
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as Pictures

from engines.base import Batch

COLUMNS, ROWS, SIDE = 4, 3, 256
_FILE = "parity.jpg"
_FAMILIES = ("surgical", "surgical", "cloth", "kn95", "gaiter", "cup")


def load(side: int = SIDE, count: int = COLUMNS * ROWS) -> Batch:
    """uint8[count, side, side, 3], RGB."""
    with Pictures.open(io.BytesIO((_assets() / _FILE).read_bytes())) as picture:
        sheet = np.asarray(picture.convert("RGB"), np.uint8)
    tiles = sheet.reshape(ROWS, SIDE, COLUMNS, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)[:count]
    if side == SIDE:
        return np.ascontiguousarray(tiles)
    return np.stack([cv2.resize(tile, (side, side), interpolation=cv2.INTER_AREA) for tile in tiles]).astype(np.uint8)


def draw(seed: int = 0) -> Batch:
    """Draws the crops: masks of every family, faces mirrored, turned and foreshortened, light dim, bright and coloured;
    the last one wears none."""
    from trainer.masks import draw_mask
    from unmask_rt import align, sample

    face, mesh = sample.astronaut(), sample.astronaut_mesh()
    upright = align.crop_transform(mesh[list(align.MESH_ANCHORS)], SIDE)
    rng = np.random.default_rng(seed)
    tiles = []
    for number in range(COLUMNS * ROWS):
        family = _FAMILIES[number % len(_FAMILIES)]
        bare = number == COLUMNS * ROWS - 1
        picture = face if bare else draw_mask(face, mesh, rng, family)[0]
        pose = np.array([[rng.uniform(0.78, 1.0), rng.uniform(-0.12, 0.12)], [rng.uniform(-0.12, 0.12), 1.0]])
        bridge = np.array([0.5, 0.345]) * SIDE
        bent = np.hstack([pose, (bridge - pose @ bridge)[:, None]])
        tile = align.warp(picture, align.compose(bent, upright), SIDE)
        light = rng.uniform(0.55, 1.15) * rng.uniform(0.9, 1.1, 3)
        tile = np.clip((tile / 255.0) ** rng.uniform(0.8, 1.25) * light * 255, 0, 255).astype(np.uint8)
        tiles.append(tile[:, ::-1] if number % 2 else tile)
    return np.stack(tiles)


def main() -> None:
    tiles = draw()
    sheet = tiles.reshape(ROWS, COLUMNS, SIDE, SIDE, 3).swapaxes(1, 2).reshape(ROWS * SIDE, COLUMNS * SIDE, 3)
    target = _assets() / _FILE
    target.parent.mkdir(exist_ok=True)
    Pictures.fromarray(sheet).save(target, quality=92)
    print(f"{target}: {target.stat().st_size} bytes")


def _assets() -> Path:
    return Path(str(resources.files("engines"))) / "assets"


if __name__ == "__main__":
    main()
