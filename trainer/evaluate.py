"""Figures of an exported model on faces that it has not been trained on.

    python -m trainer.evaluate unmask_rt/assets/unmask-256.onnx --data runs/data --sheet runs/sheet.jpg

Each face of the split gets one freshly drawn mask (seeded, other than the training's). The hole is the one that the
network finds by itself. Baselines on the same pictures stand beside: the masked input and OpenCV's Telea inpainting
with the true hole.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from engines import open_engine
from trainer.masks import FAMILY_WEIGHTS, draw_mask
from unmask_rt.blend import mask_score

Image = NDArray[np.uint8]
NAMES = tuple(FAMILY_WEIGHTS)


def luma(rgb: Image) -> NDArray[np.float64]:
    return rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def psnr(output: Image, truth: Image, where: NDArray[np.bool_] | None = None) -> float:
    """10 log10(255^2 / mean squared error) in dB over all channels, of all pixels or of a region."""
    difference = (output.astype(np.float64) - truth) ** 2
    error = float((difference if where is None else difference[where]).mean())
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


def ssim(output: Image, truth: Image) -> float:
    """Mean SSIM of luma, 7x7 uniform window, sample covariance (scikit-image's default)."""
    x, y = luma(output), luma(truth)
    unbiased = 49 / 48

    def mean(a: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(cv2.blur(a, (7, 7)))[3:-3, 3:-3]

    mx, my = mean(x), mean(y)
    vx, vy, vxy = (
        (mean(a * b) - ma * mb) * unbiased for a, b, ma, mb in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
    )
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())


def sharpness(output: Image, truth: Image, hole: NDArray[np.bool_]) -> float:
    """Edge strength in the hole eroded by 5x5, of the output over that of the truth."""
    inner = cv2.erode(hole.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0

    def strength(rgb: Image) -> float:
        grey = luma(rgb).astype(np.float32)
        edges = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1))
        return float(edges[inner].mean()) if inner.any() else 1.0

    return strength(output) / max(strength(truth), 1e-6)


def figures_of(output: Image, truth: Image, masked: Image, hole: NDArray[np.bool_]) -> dict[str, float]:
    """The still-picture figures of one pair."""
    moved = np.abs(output.astype(np.int16) - masked).mean(2)
    should = hole & (np.abs(truth.astype(np.int16) - masked).mean(2) > 40)
    return {
        "whole_psnr": psnr(output, truth),
        "hole_psnr": psnr(output, truth, hole),
        "ssim": ssim(output, truth),
        "sharpness": sharpness(output, truth, hole),
        "treated": float(moved[hole].mean() > 2),
        "mask_left": float((should & (moved < 14)).sum() / max(int(should.sum()), 1)),
    }


def summarise(rows: list[dict[str, float]]) -> dict[str, float]:
    """Means, of sharpness the median, and 95 % intervals of the mean hole PSNR."""
    result = {
        k: float(np.median([r[k] for r in rows]) if k == "sharpness" else np.mean([r[k] for r in rows]))
        for k in rows[0]
    }
    spread = float(np.std([r["hole_psnr"] for r in rows]) / np.sqrt(len(rows)))
    return {k: round(v, 4) for k, v in result.items()} | {
        "hole_psnr_interval": round(1.96 * spread, 3),
        "count": len(rows),
    }


def evaluate(
    model: Path, data: Path, *, split: str, count: int, seed: int, sheet: Path | None
) -> dict[str, dict[str, float]]:
    """Runs a model over a split; returns figures by system, mask family and source.

    Raises:
        ValueError: the split has no faces.
    """
    records = json.loads((data / "meta.json").read_text())
    crops, meshes = np.load(data / "crops.npy", mmap_mode="r"), np.load(data / "mesh.npy", mmap_mode="r")
    rows = [i for i, r in enumerate(records) if r["split"] == split]
    rows = np.random.default_rng(seed).permutation(rows)[:count].tolist()
    gathered: dict[str, list[dict[str, float]]] = defaultdict(list)
    if not rows:
        raise ValueError(f"no prepared face in {data} belongs to the split {split!r}")
    engine = open_engine("auto", model.read_bytes(), threads=2)
    pictures: list[Image] = []
    for row in rows:
        rng = np.random.default_rng([seed, row, 99])
        family = str(rng.choice(NAMES, p=list(FAMILY_WEIGHTS.values())))
        truth = np.asarray(crops[row])
        masked, alpha = draw_mask(truth, np.asarray(meshes[row], np.float32), rng, family)
        hole = alpha > 0.5
        output, found = (a[0] for a in engine(masked[None]))
        bare = mask_score(engine(truth[None])[1][0])
        own = figures_of(output, truth, masked, hole)
        own["map_iou"] = float(((found > 127) & hole).sum() / max(int(((found > 127) | hole).sum()), 1))
        own["gate_masked"], own["gate_bare"] = float(mask_score(found) > 0.5), float(bare <= 0.5)
        gathered["model"].append(own)
        gathered[f"family {family}"].append(own)
        gathered[f"source {records[row]['source']}"].append(own)
        gathered["masked input"].append(figures_of(masked, truth, masked, hole))
        wide = cv2.dilate(hole.astype(np.uint8), np.ones((5, 5), np.uint8))
        gathered["telea"].append(
            figures_of(np.asarray(cv2.inpaint(masked, wide, 5, cv2.INPAINT_TELEA)), truth, masked, hole)
        )
        if len(pictures) < 40:
            pictures.append(np.hstack([masked, output, truth]))
    if sheet is not None:
        pictures += [np.zeros_like(pictures[0])] * (-len(pictures) % 4)
        grid = np.vstack([np.hstack(pictures[i : i + 4]) for i in range(0, len(pictures), 4)])
        cv2.imwrite(str(sheet), cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))
    engine.close()
    return {name: summarise(values) for name, values in gathered.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--seed", type=int, default=5)
    parser.add_argument("--sheet", type=Path, help="write masked | result | truth of the first 40 faces here")
    a = parser.parse_args()
    for name, values in evaluate(a.model, a.data, split=a.split, count=a.count, seed=a.seed, sheet=a.sheet).items():
        print(f"{name:18s}", "  ".join(f"{k} {v:g}" for k, v in values.items()))


if __name__ == "__main__":
    main()
