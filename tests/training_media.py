"""Prepared faces made of arithmetic, and presets whose networks are tiny: training without a single real picture."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import preset
from trainer.bank import NAMES
from trainer.preset import Preset
from trainer.systems import SYSTEMS
from trainer.systems.base import System
from unmask_rt import align, sample

SPLITS = ["train"] * 6 + ["validation"] * 2 + ["test"] * 2
FAMILY = ("surgical", "cloth")
"""Of the first and the second mask of each face."""
Corners = Sequence[tuple[float, float]]
WHOLE: Corners = ((-0.5, -0.5), (255.5, -0.5), (255.5, 255.5), (-0.5, 255.5))
"""Corners of a picture that fills its crop."""


def crop_mesh() -> np.ndarray:
    """The mesh of the sample face in its crop, float32[478, 2]."""
    mesh = sample.astronaut_mesh()
    return align.apply(align.crop_transform(mesh[list(align.MESH_ANCHORS)], 256), mesh)


def head_shape() -> np.ndarray:
    """A head for `trainer.heads.Head`, float64[478, 3] in crop sides: the sample's mesh laid on a bowl."""
    flat = crop_mesh() / 256 - crop_mesh().mean(0) / 256
    deep = 1.2 * (flat**2).sum(1)
    return np.column_stack([flat, deep - deep.mean()]).astype(np.float64)


def write_set(folder: Path) -> Path:
    """A prepared set of ten "faces" (ovals before a gradient), each with two "masks" (blue and red rectangles)."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:256, :256]
    crops = np.empty((len(SPLITS), 256, 256, 3), np.uint8)
    for crop in crops:
        ramp = (x[..., None] * rng.uniform(0.2, 0.8, 3) + y[..., None] * rng.uniform(0, 0.2, 3)).astype(np.uint8)
        oval = ((x - 128) / rng.uniform(70, 90)) ** 2 + ((y - 130) / rng.uniform(90, 110)) ** 2 < 1
        crop[:] = np.where(oval[..., None], rng.integers(90, 240, 3, np.uint8), ramp)
        crop[190:200, 100:156] = rng.integers(0, 80, 3, np.uint8)  # a mouth
    masked, alpha = np.stack([crops, crops]), np.zeros((2, len(SPLITS), 256, 256), np.uint8)
    for variant, colour in enumerate(((70, 120, 220), (200, 40, 60))):
        for row in range(len(SPLITS)):
            top, left = 140 + 4 * row, 60 + 10 * variant
            masked[variant, row, top:230, left : 256 - left] = colour
            alpha[variant, row, top:230, left : 256 - left] = 255
    return write_arrays(folder, crops, masked, alpha, [{"split": split} for split in SPLITS])


def write_arrays(
    folder: Path,
    crops: np.ndarray,
    masked: np.ndarray,
    alpha: np.ndarray,
    told: list[dict[str, Any]],
    corners: Corners = WHOLE,
) -> Path:
    """A prepared set of given faces and masks.

    Args:
        folder: of the set.
        crops: uint8[N, 256, 256, 3].
        masked: uint8[V, N, 256, 256, 3], V not above 2; their families are `FAMILY`.
        alpha: uint8[V, N, 256, 256].
        told: what each face's record says beside its name, a plain face of the split "train" and the source "drawn".
        corners: of all faces' pictures in their crops.
    """
    variants, count = masked.shape[:2]
    (folder / "bank").mkdir(parents=True)
    mesh = np.tile(crop_mesh().astype(np.float16), (count, 1, 1))
    whole = np.tile(np.array(corners, np.float32), (count, 1, 1))
    for name, array in (("crops", crops), ("corners", whole), ("mesh", mesh), ("shape", head_shape())):
        np.save(folder / f"{name}.npy", array)
    families = np.array([[NAMES.index(f)] * count for f in FAMILY[:variants]], np.uint8)
    bank = {"masked": masked, "alpha": alpha, "family": families, "done": np.ones((variants, count), np.uint8)}
    for name, array in bank.items():
        np.save(folder / "bank" / f"{name}.npy", array)
    plain = {"source": "drawn", "split": "train", "smile": 0.0, "open": 0.0, "yaw": 0.0}
    records = [plain | {"name": str(i)} | more for i, more in enumerate(told)]
    (folder / "meta.json").write_text(json.dumps(records))
    return folder


TINY: dict[str, dict[str, Any]] = {
    "pix2pix": {"width": 4, "discriminator_width": 4},
    "dual-patch": {"width": 4, "discriminator_width": 4, "batch": 2},
    "segmentation": {"widths": [4, 4, 6, 8], "batch": 2},
    "realtime": {"widths": [8, 8, 8, 8, 8], "map_widths": [4, 4, 6, 8], "critic": 8, "batch": 2},
}
"""System -> what makes it small."""


def raw_preset(name: str, size: int = 32) -> dict[str, Any]:
    """A preset's content with tiny networks; the realtime networks keep their sizes."""
    raw = copy.deepcopy(preset.read(name)[1])
    for stage in raw["stage"]:
        stage |= TINY[stage["system"]]
        if "face" in stage.get("loss", {}):
            stage["loss"]["face"] = 0.0  # its network would have to be fetched
    return raw if name == "realtime" else raw | {"size": size}


def tiny_preset(name: str, size: int = 32, **stage_options: Any) -> Preset:
    """A checked preset with tiny networks, and the same options set in all of its stages."""
    raw = raw_preset(name, size)
    for stage in raw["stage"]:
        stage |= stage_options
    return preset.check(name, raw)


def tiny_system(stage: str, **options: Any) -> System:
    """A stage's system of the tiny preset `realtime`, always of the same weights, ready to be trained."""
    torch.manual_seed(0)
    found = tiny_preset("realtime", **options).stage(stage)
    made = SYSTEMS[found.system](found.options, found.size)
    made.prepare()
    return made


def tiny_file(path: Path, name: str, size: int = 32) -> Path:
    """The same as a file."""
    path.write_text(preset.to_toml(raw_preset(name, size)), "utf-8")
    return path
