"""Loose crops of prepared faces, with room around them for a tracker's errors.

    python -m trainer.aligner.data runs/data --tars faces/*.tar -o runs/loose

The prepared set (`trainer.prepare`) knows where each crop lies in its picture, so nothing is looked for again. Writes

    loose.npy      uint8[N, 168, 168, 3]  RGB, rows as in the prepared set
    points.npy     float32[N, 7, 2]       six anchors (`align.MESH_ANCHORS`) and the nose tip, pixels of the loose crop
    to_loose.npy   float32[N, 2, 3]       affine from the 256 px crop (and its masks) to the loose crop
    corners.npy    float32[N, 4, 2]       the picture's corners, likewise: outside, the border is repeated
    yaw.npy        float32[N]             degrees, positive where the nose points to the picture's right
    done.npy       uint8[N]               1 where a crop was cut
    masks.npy      uint8[V, N, 128, 128, 4]  the bank's masks at half the size: RGB of the masked crop, and coverage
    family.npy     uint8[V, N]            their families

so that a sample is a few short reads.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.bank import open_bank
from trainer.datasets import open_sources, read_members
from trainer.heads import ANCHORS_NOSE, CROP, grown, head_shape, yaw_of
from trainer.parallel import run_jobs
from trainer.quality import decode
from unmask_rt.align import Affine, apply, compose, similarity
from unmask_rt.errors import MissingError
from unmask_rt.faces.window import cut

SIZE = 168
ZOOM = 1.9
"""Side of a loose crop in canonical sides."""
POINTS = ANCHORS_NOSE
MIRRORED = (3, 2, 1, 0, 4, 5, 6)
"""Which of `POINTS` each one becomes in a mirrored picture."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Pictures of one source: their rows in the set, the corners that place them, and the size each is cut at."""

    source: Path
    name: str
    rows: tuple[tuple[str, int], ...]
    corners: NDArray[np.float32]
    zooms: NDArray[np.float32]
    out: Path


def to_loose(zoom: float) -> Affine:
    """Affine from the 256 px crop to a loose crop whose side is ``zoom`` canonical sides."""
    scale = SIZE / (CROP * zoom)
    shift = (SIZE - 1) / 2 - scale * (CROP - 1) / 2
    return np.array([[scale, 0.0, shift], [0.0, scale, shift]])


def _cut(job: _Job) -> int:
    cv2.setNumThreads(1)
    wanted = {name: (row, i) for i, (name, row) in enumerate(job.rows)}
    [source] = open_sources([job.source])
    members = [member for member in source.members if member.name in wanted]
    loose = np.load(job.out / "loose.npy", mmap_mode="r+")
    done = np.load(job.out / "done.npy", mmap_mode="r+")
    for name, data in read_members(source.path, members):
        row, i = wanted[name]
        rgb = decode(data)
        if rgb is None or done[row]:
            continue
        height, width = rgb.shape[:2]
        edges = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
        to_crop = similarity(edges.astype(np.float32), job.corners[i])
        loose[row] = cut(rgb, compose(to_loose(float(job.zooms[i])), to_crop), SIZE)
        done[row] = 1
    return len(members)


def cut_all(data: Path, tars: Sequence[Path], face_model: bytes, out: Path, workers: int = 2) -> int:
    """Cuts every face of a prepared set; returns how many. A second call goes on where the first stopped.

    Raises:
        MissingError: a source of the set was not given.
    """
    records = json.loads((data / "meta.json").read_text("utf-8"))
    mesh = np.load(data / "mesh.npy", mmap_mode="r")
    crops = np.load(data / "crops.npy", mmap_mode="r")
    corners = np.load(data / "corners.npy")
    by_name = {source.name: source for source in open_sources(tars)}
    missing = {record["source"] for record in records} - set(by_name)
    if missing:
        raise MissingError(f"pictures of {', '.join(sorted(missing))} are not among --tars", "Give these tars too.")
    out.mkdir(parents=True, exist_ok=True)
    shape = head_shape(crops, np.array([record["yaw"] for record in records]), face_model)
    yaw = np.array([yaw_of(np.asarray(points, np.float32), shape) for points in mesh], np.float32)
    zooms = (ZOOM * grown(yaw)).astype(np.float32)
    affines = np.stack([to_loose(float(zoom)) for zoom in zooms])
    points = np.stack([apply(a, np.asarray(p[list(POINTS)], np.float32)) for a, p in zip(affines, mesh, strict=True)])
    edges = np.stack([apply(a, c) for a, c in zip(affines, corners, strict=True)])
    for name, array in (("points", points), ("corners", edges), ("to_loose", affines), ("yaw", yaw)):
        np.save(out / f"{name}.npy", array.astype(np.float32))
    np.save(out / "shape.npy", shape)
    for name, dtype, tail in (("loose", np.uint8, (SIZE, SIZE, 3)), ("done", np.uint8, ())):
        if not (out / f"{name}.npy").exists():
            np.lib.format.open_memmap(out / f"{name}.npy", "w+", dtype, (len(records), *tail)).flush()
    jobs = []
    for source in by_name.values():
        rows = [(str(r["name"]), i) for i, r in enumerate(records) if r["source"] == source.name]
        for start in range(0, len(rows), 500):
            part = rows[start : start + 500]
            index = [row for _, row in part]
            jobs.append(_Job(source.path, source.name, tuple(part), corners[index], zooms[index], out))
    return sum(run_jobs(_cut, jobs, workers=workers, description="cut loose crops", size=lambda job: len(job.rows)))


def shrink_masks(data: Path, out: Path) -> None:
    """Writes the bank's masks at half the size beside the loose crops."""
    bank = open_bank(data)
    variants, count = bank["done"].shape
    side = CROP // 2
    masks = np.lib.format.open_memmap(out / "masks.npy", "w+", np.uint8, (variants, count, side, side, 4))
    for variant in range(variants):
        for row in np.nonzero(bank["done"][variant])[0]:
            both = np.dstack([bank["masked"][variant, row], bank["alpha"][variant, row]])
            masks[variant, row] = cv2.resize(both, (side, side), interpolation=cv2.INTER_AREA)
    masks.flush()
    np.save(out / "family.npy", np.asarray(bank["family"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared set")
    parser.add_argument("--tars", type=Path, nargs="+", required=True, help="the pictures it was prepared from")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    from unmask_rt.models import load_face_model

    count = cut_all(arguments.data, arguments.tars, load_face_model(), arguments.out)
    shrink_masks(arguments.data, arguments.out)
    print(f"{count} loose crops in {arguments.out}")


if __name__ == "__main__":
    main()
