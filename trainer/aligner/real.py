"""Faces that really wear masks, labelled where augmented views of them agree.

    python -m trainer.aligner.real masked-faces.tar --run runs/aligner -o runs/real-loose

Every face that CenterFace finds is shown to a trained aligner in twelve views: shifted, turned, scaled, mirrored,
darker, with fewer pixels. Points on which the views agree become labels, together with the mesh's where it finds the
face and does not contradict (after D.-H. Lee, "Pseudo-Label", ICML workshop 2013). What is written has the form of
`trainer.aligner.turn`'s; ``sheet.jpg`` is to be looked at.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from trainer.aligner.augment import shoot
from trainer.aligner.data import MIRRORED, POINTS, SIZE, ZOOM
from trainer.aligner.network import CROP, AlignNet, Exported
from trainer.aligner.network import ZOOM as INPUT_ZOOM
from trainer.aligner.train import load_net
from trainer.datasets import open_sources, read_members
from trainer.quality import decode
from unmask_rt.align import PROFILE, TEMPLATE, Image, Points, apply, invert
from unmask_rt.faces.aligner import placed, quick_cut
from unmask_rt.faces.centerface import CenterFace
from unmask_rt.faces.look import STILL_SIDES, WINDOW, finder_find
from unmask_rt.faces.mesh import FaceMesh
from unmask_rt.faces.pose import Pose, distance, pose_of, side_of
from unmask_rt.faces.window import cut, window_of

VIEWS = 12
AGREED = 0.035
"""Spread of a point over the views, in distances of the outer eye corners, up to which it is a label."""
AGREED_FACE = 0.5
"""Mean ``sure`` of the views from which on it is a face."""
NEAR_MESH = 0.07
"""Mean distance of the anchors up to which mesh and views mean the same, likewise."""
EYES_APART = float(TEMPLATE[3, 0] - TEMPLATE[0, 0])
"""The outer eye corners' distance in crop sides."""
LEAST = 40
"""Canonical side in pixels from which on faces are taken."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One face of a picture.

    Attributes:
        points: float32[7, 2] pixels of the picture.
        weight: float32[7], 1 where the views agree.
        yaw: degrees.
        masked: mean of the views, 0..1.
    """

    points: Points
    weight: NDArray[np.float32]
    yaw: float
    masked: float


def agreed(net: AlignNet, rgb: Image, expected: Pose, rng: np.random.Generator) -> Labelled | None:
    """What augmented views agree on, or None where they do not.

    Args:
        net: a trained one.
        rgb: uint8[H, W, 3].
        expected: the face, as a finder has it.
        rng: draws the views.
    """
    pose = expected
    for spread in (0.0, 1.0):
        crops, windows, mirrored = [], [], []
        for k in range(VIEWS if spread else 4):
            off = pose + spread * np.concatenate(
                [rng.normal(0, 0.04, 2) * side_of(pose), rng.normal(0, 0.1, 2), [0] * 12]
            )
            window = window_of(off, CROP, INPUT_ZOOM)
            crop = quick_cut(rgb, window, CROP)
            crop = shoot(crop, rng) if spread and k % 3 == 0 else crop
            crops.append(crop[:, ::-1] if k % 2 else crop)
            windows.append(window)
            mirrored.append(bool(k % 2))
        with torch.no_grad():
            points, _, face = (t.numpy() for t in Exported(net)(torch.from_numpy(np.stack(crops))))
        for k in (i for i, turned in enumerate(mirrored) if turned):
            points[k, :, 0] = CROP - 1 - points[k, :, 0]
            points[k] = points[k, list(MIRRORED)]
            face[k, 1] *= -1
        there = np.stack([apply(invert(w), p) for w, p in zip(windows, points, strict=True)])
        mean = np.median(there, axis=0)
        if face[:, 0].mean() < (AGREED_FACE if spread else 0.2):
            return None
        yaw = float(face[:, 1].mean())
        try:
            pose = placed(mean[:6].astype(np.float32), mean[6].astype(np.float32), yaw)
        except ValueError:
            return None
        if distance(pose, expected) > 0.5:
            return None
    eyes = EYES_APART * side_of(pose)
    apart = np.sqrt(((there - mean) ** 2).sum(axis=2).mean(axis=0)) / max(eyes, 1e-3)
    return Labelled(mean.astype(np.float32), (apart < AGREED).astype(np.float32), yaw, float(face[:, 2].mean()))


def with_mesh(mesh: FaceMesh, rgb: Image, label: Labelled) -> Labelled:
    """The label, drawn half way to the mesh's where the mesh sees the same face."""
    pose = placed(label.points[:6], label.points[6], label.yaw)
    eyes = EYES_APART * side_of(pose)
    for zoom in (2.0, 1.4):
        window = window_of(pose, WINDOW, zoom)
        for face in mesh(cut(rgb, window, WINDOW)):
            points = apply(invert(window), face.points[list(POINTS)])
            if np.linalg.norm(points[:6] - label.points[:6], axis=1).mean() / eyes < NEAR_MESH:
                return Labelled(((points + label.points) / 2).astype(np.float32), label.weight, label.yaw, label.masked)
    return label


def label_all(pictures: Path, run: Path, out: Path) -> int:
    """Labels the faces of a folder or tar; returns how many were kept."""
    from unmask_rt.models import load_face_model, load_finder_model

    cv2.setNumThreads(1)
    rng = np.random.default_rng(1)
    net, finder = load_net(run), CenterFace(load_finder_model())
    kept: dict[str, list[object]] = {n: [] for n in ("loose", "points", "weight", "yaw", "grown", "corners", "masked")}
    [source] = open_sources([pictures])
    with FaceMesh(load_face_model(), max_faces=1, video=False) as mesh:
        for _, data in read_members(source.path, source.members):
            rgb = decode(data)
            if rgb is None or min(rgb.shape[:2]) < 32:
                continue
            height, width = rgb.shape[:2]
            for found in finder.at_scales(rgb, STILL_SIDES[:2]):
                find = finder_find(found)
                if find is None or side_of(find.pose) < LEAST:
                    continue
                label = agreed(net, rgb, find.pose, rng)
                if label is None or label.weight[:6].sum() < 4:
                    continue
                label = with_mesh(mesh, rgb, label)
                pose = placed(label.points[:6], label.points[6], label.yaw)
                size = 1.0 if abs(label.yaw) > PROFILE else side_of(pose) / side_of(pose_of(label.points[:6]))
                to_loose = window_of(pose, SIZE, ZOOM)
                edges = [[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]]
                kept["loose"].append(cut(rgb, to_loose, SIZE))
                kept["points"].append(apply(to_loose, label.points))
                kept["weight"].append(label.weight)
                kept["yaw"].append(np.float32(label.yaw))
                kept["grown"].append(np.float32(size))
                kept["corners"].append(apply(to_loose, np.array(edges, np.float32)))
                kept["masked"].append(np.array([1.0, float(label.masked > 0.6)], np.float32))
    if not kept["yaw"]:
        raise ValueError("no face was kept: train the aligner further first")
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in kept.items():
        np.save(out / f"{name}.npy", np.stack(rows))  # type: ignore[arg-type]
    sheet(out)
    return len(kept["yaw"])


def sheet(out: Path, columns: int = 20, most: int = 400) -> None:
    """Draws the labels into ``sheet.jpg``."""
    tiles = []
    loose, points, weight = (np.load(out / f"{n}.npy") for n in ("loose", "points", "weight"))
    for picture, where, sure in list(zip(loose, points, weight, strict=True))[:most]:
        tile = np.ascontiguousarray(picture[:, :, ::-1])
        for (x, y), w in zip(where, sure, strict=True):
            cv2.circle(tile, (round(float(x)), round(float(y))), 2, (0, 255, 0) if w else (0, 0, 255), -1)
        tiles.append(tile[24:144, 24:144])
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)]
    cv2.imwrite(str(out / "sheet.jpg"), np.vstack(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder or tar of people wearing masks")
    parser.add_argument("--run", type=Path, required=True, help="a trained aligner's, or its exported .onnx file")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    print(f"{label_all(arguments.pictures, arguments.run, arguments.out)} faces in {arguments.out}")


if __name__ == "__main__":
    main()
