"""Heads turned further than they were photographed: few of the prepared faces look more than 25 degrees aside.

    python -m trainer.aligner.turn runs/data --loose runs/loose -o runs/turned --count 2500

The mean head is fitted to the mesh, rotated, and the picture drawn on it anew, triangle by triangle from back to front
(after Zhu et al., "Face Alignment Across Large Poses: A 3D Solution", CVPR 2016): bare and with the bank's mask. Writes
loose.npy uint8[2N, 168, 168, 3] (bare ones first), points, yaw, corners, weight and masked, rows as
`trainer.aligner.samples` takes them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.aligner.augment import blend
from trainer.aligner.data import POINTS, SIZE, ZOOM, grown, yaw_of
from trainer.aligner.samples import NEEDED, UNCLEAR, Samples, compose_half
from trainer.bank import NAMES
from unmask_rt.align import TEMPLATE, Affine, Points, apply, invert, similarity

OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The mesh's rim, from the forehead over the subject's left side."""
HAIR, BEHIND = 1.4, 0.3
"""The head around the mesh: the rim this much larger, and this far behind it in canonical sides."""
RIM = 12
"""Points on each side of the crop that stay where they are."""


class Head:
    """The mean head with its surroundings, and the triangles between its points.

    Args:
        shape: `trainer.aligner.data.head_shape`.
    """

    def __init__(self, shape: NDArray[np.float64]) -> None:
        rim = shape[list(OVAL)]
        around = (rim - rim.mean(axis=0)) * HAIR + rim.mean(axis=0)
        around[:, 2] = rim[:, 2] + BEHIND
        self.shape = shape
        self.points = np.vstack([shape, around])  # (478 + 36, 3)
        step = np.linspace(-0.5, SIZE - 0.5, RIM)
        ends = np.full(RIM, -0.5), np.full(RIM, SIZE - 0.5)
        self.still = np.vstack([np.stack(pair, 1) for pair in
                                ((step, ends[0]), (step, ends[1]), (ends[0], step), (ends[1], step))])  # fmt: skip
        flat = self.points[:, :2] * SIZE / ZOOM + (SIZE / 2, SIZE / 2 + 0.04 * SIZE)
        self.triangles = triangles_of(np.vstack([flat, self.still]))

    def turned(
        self, mesh: Points, yaw_deg: float, pitch_deg: float
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], Points, float, Affine]:
        """Maps for `cv2.remap` from a loose crop to one of the head turned further.

        Args:
            mesh: float[478, 2], pixels of the loose crop.
            yaw_deg: how much further to the picture's right.
            pitch_deg: how much further down.

        Returns:
            map_x, map_y float32[S, S]; the seven points in the new crop, float32[7, 2]; its yaw in degrees; and
            how the background has moved.
        """
        camera = np.linalg.lstsq(self.shape, mesh - mesh.mean(axis=0), rcond=None)[0].T
        u, size, vt = np.linalg.svd(camera, full_matrices=False)
        rotation = np.vstack([u @ vt, np.cross(*(u @ vt))])
        scale = float(size.mean())
        a, b = np.radians(yaw_deg), np.radians(pitch_deg)
        aside = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
        down = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        before = scale * self.points @ rotation.T
        centre = np.array([0, 0, scale * BEHIND])
        after = (before - centre) @ (down @ aside).T + centre
        place = np.vstack([mesh, before[len(mesh) :, :2] + mesh.mean(axis=0)])
        moved = place + (after - before)[:, :2]
        yaw = yaw_of(moved[: len(mesh)].astype(np.float32), self.shape)
        side = SIZE / (ZOOM * float(grown(yaw)))
        target = (TEMPLATE - 0.5) * side + (SIZE - 1) / 2
        to_new = similarity(moved[list(POINTS[:6])].astype(np.float32), target.astype(np.float32))
        deep = np.concatenate([after[:, 2], np.full(len(self.still), 9 * scale)])
        source = np.vstack([place, self.still])
        goal = apply(to_new, np.vstack([moved, self.still]).astype(np.float32)).astype(np.float64)
        map_x, map_y = self._painted(source, goal, deep, invert(to_new))
        return map_x, map_y, goal[list(POINTS)].astype(np.float32), yaw, to_new

    def _painted(
        self, source: np.ndarray, goal: np.ndarray, deep: np.ndarray, back: Affine
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Where each pixel of the new crop comes from; what no triangle covers lies where the crop's move puts it."""
        corners = goal[self.triangles]  # (T, 3, 2)
        (x1, y1), (x2, y2) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
        facing = x1 * y2 - x2 * y1
        owner = np.full((SIZE, SIZE), -1, np.int32)
        for t in np.argsort(-deep[self.triangles].mean(axis=1)):
            if facing[t] > 0.02:
                cv2.fillConvexPoly(owner, np.round(corners[t]).astype(np.int32), int(t))
        ones = np.ones((*corners.shape[:2], 1))
        singular = np.abs(facing) < 0.02
        safe = np.where(singular[:, None, None], np.eye(3), np.concatenate([corners, ones], 2))
        affine = np.linalg.solve(safe, source[self.triangles])  # (T, 3, 2): (x, y, 1) -> source
        rows, columns = np.mgrid[:SIZE, :SIZE]
        places = np.stack([columns, rows, np.ones_like(rows)], 2).astype(np.float64)
        found = np.einsum("hwk,hwkc->hwc", places, affine[owner])
        plain = places @ back.T
        both = np.where(owner[..., None] >= 0, found, plain).astype(np.float32)
        return np.ascontiguousarray(both[..., 0]), np.ascontiguousarray(both[..., 1])


def triangles_of(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Delaunay triangulation of float[N, 2], int[T, 3], all turning the same way (clockwise on the screen)."""
    low, high = points.min(axis=0) - 2, points.max(axis=0) + 2
    plane = cv2.Subdiv2D((int(low[0]), int(low[1]), int(high[0] - low[0]) + 2, int(high[1] - low[1]) + 2))
    number: dict[tuple[float, float], int] = {}
    for i, (x, y) in enumerate(points.astype(np.float32)):
        if (float(x), float(y)) not in number:
            plane.insert((float(x), float(y)))
            number[float(x), float(y)] = i
    found = []
    for t in plane.getTriangleList():
        corners = [(float(t[k]), float(t[k + 1])) for k in (0, 2, 4)]
        if all(c in number for c in corners):
            i, j, k = (number[c] for c in corners)
            (x1, y1), (x2, y2) = points[j] - points[i], points[k] - points[i]
            found.append((i, j, k) if x1 * y2 - x2 * y1 > 0 else (i, k, j))
    return np.array(found)


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
    head = Head(np.load(loose / "shape.npy"))
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
        map_x, map_y, where, now, moved = head.turned(mesh, way * further, float(rng.normal(0, 10)))
        variant = int(rng.integers(2))
        mask = cv2.warpAffine(
            np.asarray(stored["masks"][variant, row]),
            compose_half(np.eye(2, 3), to_loose),
            (SIZE, SIZE),
            flags=cv2.INTER_LINEAR,
        )
        dressed = blend(picture, mask[..., :3], mask[..., 3])
        for k, face in ((i, picture), (count + i, dressed)):
            pictures[k] = cv2.remap(face, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            points[k], yaws[k], corners[k] = where, now, apply(moved, stored["corners"][row])
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
