"""Heads turned further than they were photographed: few of the prepared faces look more than 25 degrees aside.

    python -m trainer.aligner.turn runs/data --loose runs/loose -o runs/turned --count 2500

Drawn by `trainer.heads`, bare and with the bank's mask. Writes loose.npy uint8[2N, 168, 168, 3] (bare ones first),
points, yaw, corners, weight and masked, rows as `trainer.aligner.samples` takes them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

from trainer.aligner.augment import blend
from trainer.aligner.data import SIZE, ZOOM
from trainer.aligner.samples import NEEDED, UNCLEAR, Samples, compose_half
from trainer.bank import NAMES
from trainer.heads import Head
from unmask_rt.align import apply


def turn_all(data: Path, loose: Path, out: Path, count: int, most: float = 62.0, seed: int = 5) -> None:
    """Turns ``count`` faces of the training split and writes them, each bare and masked.

    Args:
        data: a prepared set.
        loose: its loose crops.
        out: folder for the result.
        count: how many faces.
        most: degrees that a head is turned at most, about.
        seed: of faces and turns.
    """
    cv2.setNumThreads(1)
    rng = np.random.default_rng(seed)
    samples = Samples(data, loose, "train", seed)
    stored = {n: np.load(loose / f"{n}.npy", mmap_mode="r") for n in (*NEEDED, "yaw")}
    meshes = np.load(data / "mesh.npy", mmap_mode="r")
    head = Head(np.load(loose / "shape.npy"), SIZE, ZOOM)
    out.mkdir(parents=True, exist_ok=True)
    pictures = np.lib.format.open_memmap(out / "loose.npy", "w+", np.uint8, (2 * count, SIZE, SIZE, 3))
    points, yaws = np.zeros((2 * count, 7, 2), np.float32), np.zeros(2 * count, np.float32)
    corners = np.zeros((2 * count, 4, 2), np.float32)
    masked = np.repeat(np.array([0, 1], np.float32), count)
    certain = np.ones(2 * count, np.float32)
    for i in range(count):
        row = samples.any_row(rng)
        to_loose = stored["to_loose"][row]
        picture, mesh = np.asarray(stored["loose"][row]), apply(to_loose, np.asarray(meshes[row], np.float32))
        yaw = float(stored["yaw"][row])
        way = np.sign(yaw) if abs(yaw) > 4 else rng.choice([-1.0, 1.0])
        further = float(np.clip(rng.uniform(10, 0.62 * most), 0, max(most - abs(yaw), 5)))
        turned = head.turned(mesh, way * further, float(rng.normal(0, 10)))
        variant = int(rng.integers(len(stored["masks"])))
        mask = cv2.warpAffine(
            np.asarray(stored["masks"][variant, row]),
            compose_half(np.eye(2, 3), to_loose),
            (SIZE, SIZE),
            flags=cv2.INTER_LINEAR,
        )
        dressed = blend(picture, mask[..., :3], mask[..., 3])
        for k, face in ((i, picture), (count + i, dressed)):
            pictures[k] = cv2.remap(face, turned.map_x, turned.map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            points[k], yaws[k] = turned.points, turned.yaw
            corners[k] = apply(turned.moved, stored["corners"][row])
        certain[count + i] = float(NAMES[stored["family"][variant, row]] not in UNCLEAR)
    pictures.flush()
    arrays = {
        "points": points,
        "yaw": yaws,
        "masked": np.stack([masked, certain], 1),
        "weight": np.ones((2 * count, 7), np.float32),
        "corners": corners,
    }
    for name, array in arrays.items():
        np.save(out / f"{name}.npy", array)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared set")
    parser.add_argument("--loose", type=Path, required=True, help="its loose crops (trainer.aligner.data)")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2500)
    parser.add_argument("--most", type=float, default=62.0, metavar="DEGREES", help="how far heads are turned at most")
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    turn_all(arguments.data, arguments.loose, arguments.out, arguments.count, arguments.most, arguments.seed)


if __name__ == "__main__":
    main()
