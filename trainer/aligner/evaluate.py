"""Figures of an aligner on people that it has not seen.

    python -m trainer.aligner.evaluate runs/data --loose runs/loose            # the bundled one
    python -m trainer.aligner.evaluate runs/data --loose runs/loose --model mine.onnx --faces 200

Errors are distances to the mesh on the bare face, in % of the distance of its outer eye corners (of a profile's from
the front, about). The aligner is told where the face is as badly as CenterFace's eyes tell it, and then, as in the
tool, looks once more where it found it; the mesh looks at the same pictures as the tool lets it, and is counted where
it finds the face. Turned faces are those of 20 degrees and more; few of them are beyond 40, so heads turned further by
drawing (`trainer.aligner.turn`), some of them into profiles, are told apart.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.aligner.augment import nothing, shoot
from trainer.aligner.samples import UNCLEAR, Samples, wearing
from trainer.aligner.turn import Turner
from trainer.bank import NAMES
from unmask_rt import models
from unmask_rt.align import PROFILE, Image, Points, apply
from unmask_rt.faces.aligner import Aligner, placed
from unmask_rt.faces.look import ZOOMS, mesh_inside
from unmask_rt.faces.mesh import FaceMesh
from unmask_rt.faces.motion import OneEuro
from unmask_rt.faces.pose import Pose, anchors_of, pose_of, side_of, to_picture

TURNED = 20.0
LARGER = 2
"""How much the loose crops are enlarged: faces as they come in 720p video."""
EYES, BRIDGE = slice(0, 4), slice(4, 6)
GROUPS = ("frontal", "turned", "drawn", "profile")
APART = 1.7
"""From the front the outer eye corners are so many times as far apart as eyes and nose tip are in profile."""


@dataclass(frozen=True, slots=True)
class Case:
    """One picture of a face with what is true of it.

    Attributes:
        rgb: uint8[H, W, 3].
        points: float32[7, 2], pixels of ``rgb``.
        yaw: degrees.
        masked: a mask is worn.
        clear: False where it is not plain whether one is.
        group: one of `GROUPS`.
    """

    rgb: Image
    points: Points
    yaw: float
    masked: bool
    clear: bool
    group: str


def cases(data: Path, loose: Path, count: int, seed: int = 1) -> list[Case]:
    """Faces of the test split as they are, then turned further by drawing, then in profile, each bare and masked."""
    rng = np.random.default_rng(seed)
    samples, turner = Samples(data, loose, "test", seed), Turner(data, loose)
    arrays = samples.open()
    found = []
    for row in rng.permutation(samples.rows)[:count]:
        picture, points, yaw = np.asarray(arrays["loose"][row]), arrays["points"][row], float(samples.yaw[row])
        dressed, _ = wearing(picture, arrays["masks"][0, row], arrays["to_loose"][row])
        clear = NAMES[arrays["family"][0, row]] not in UNCLEAR
        group = "turned" if abs(yaw) >= TURNED else "frontal"
        for masked, face in enumerate((picture, dressed)):
            found.append(_case(face, points, yaw, bool(masked), clear, group))
        for profiles in (0.0, 1.0):
            drawn = turner(row, 0, rng, profiles)
            group = "profile" if abs(drawn.yaw) > PROFILE else "drawn"
            for masked, face in enumerate((drawn.bare, drawn.masked)):
                found.append(_case(face, drawn.points, drawn.yaw, bool(masked), clear, group))
    return found


def _case(picture: Image, points: Points, yaw: float, masked: bool, clear: bool, group: str) -> Case:
    large = cv2.resize(picture, None, fx=LARGER, fy=LARGER, interpolation=cv2.INTER_CUBIC)
    where = ((np.asarray(points) + 0.5) * LARGER - 0.5).astype(np.float32)
    return Case(np.asarray(large), where, yaw, masked, clear or not masked, group)


def expected(case: Case, rng: np.random.Generator) -> Pose:
    """The case's pose as a finder has it: 3 % of the side off, 10 % in size, 6 degrees."""
    pose = placed(case.points[:6], case.points[6], case.yaw)
    pose[:2] += rng.normal(0, 0.03, 2) * side_of(pose)
    pose[2:4] += rng.normal(0, 0.1, 2)
    pose[4:] = 0
    return pose


def errors(points: Points, case: Case) -> NDArray[np.float64]:
    """Distances of the first K points to the true ones in % of the eyes' distance, float64[K]."""
    truth = case.points
    if case.group == "profile":
        apart = APART * float(np.linalg.norm(truth[6] - truth[:4].mean(axis=0)))
    else:
        apart = float(np.linalg.norm(truth[3] - truth[0]))
    return np.linalg.norm(np.asarray(points, np.float64) - truth[: len(points)], axis=1) / apart * 100


def accuracy(aligner: Aligner, mesh: FaceMesh, all_cases: Sequence[Case], mesh_share: float) -> None:
    """Prints errors by group, the mesh beside them on a part of the cases."""
    rng = np.random.default_rng(3)
    print(
        f"{'':18}{'faces':>6}{'found':>7}{'sure':>6} | eyes median   p90 | bridge median   p90 | nose median | yaw off"
    )
    for group in GROUPS:
        for masked in (False, True):
            chosen = [c for c in all_cases if c.group == group and c.masked == masked]
            if not chosen:
                continue
            by_aligner, by_mesh, sure, yaw, nose = [], [], [], [], []
            shown = 0
            for case in chosen:
                told = expected(case, rng)
                first = aligner(case.rgb, told)
                aligned = None if first is None else aligner(case.rgb, first.pose)
                if aligned is not None:
                    by_aligner.append(errors(aligned.anchors, case))
                    sure.append(aligned.sure)
                    yaw.append(abs(aligned.yaw - case.yaw))
                    nose.append(float(errors(np.vstack([aligned.anchors, aligned.nose]), case)[6]))
                if rng.random() < mesh_share:
                    shown += 1
                    find = mesh_inside(mesh, case.rgb, told, ZOOMS)
                    if find is not None:
                        by_mesh.append(errors(anchors_of(find.pose), case))
            name = f"{group} {'masked' if masked else 'bare'}"
            _line(name, len(chosen), by_aligner, float(np.mean(np.array(sure) > 0.5)), nose, yaw)
            _line("  mesh", shown, by_mesh)


def _line(
    name: str,
    count: int,
    found: Sequence[NDArray[np.float64]],
    sure: float | None = None,
    nose: Sequence[float] = (),
    yaw: Sequence[float] = (),
) -> None:
    if not found:
        print(f"{name:18}{count:6}{0:7.0%}")
        return
    rows = np.array(found)
    eyes, bridge = rows[:, EYES].mean(axis=1), rows[:, BRIDGE].mean(axis=1)
    print(
        f"{name:18}{count:6}{len(found) / count:7.0%}" + (f"{sure:6.0%}" if sure is not None else " " * 6),
        f"|      {np.median(eyes):6.2f} {np.percentile(eyes, 90):5.2f}",
        f"|        {np.median(bridge):6.2f} {np.percentile(bridge, 90):5.2f}",
        f"|      {np.median(nose):6.2f} | {np.median(yaw):5.1f}" if len(nose) else "|",
    )


def mask_accuracy(aligner: Aligner, all_cases: Sequence[Case]) -> None:
    """Prints how often masked and bare faces are told apart."""
    rng = np.random.default_rng(4)
    right: dict[str, list[bool]] = {"bare": [], "masked": []}
    for case in all_cases:
        aligned = aligner(case.rgb, expected(case, rng)) if case.clear else None
        if aligned is not None:
            right["masked" if case.masked else "bare"].append((aligned.masked > 0.5) == case.masked)
    for name, rows in right.items():
        print(f"{name} told right: {np.mean(rows):.1%} of {len(rows)}")


def false_faces(aligner: Aligner, data: Path, loose: Path, count: int) -> None:
    """Prints how often ``sure`` exceeds a half where there is no face: drawn nothings of the test split."""
    rng = np.random.default_rng(5)
    samples = Samples(data, loose, "test", 1)
    pictures = samples.open()["loose"]
    sure = []
    for _ in range(count):
        a, b = (np.asarray(pictures[row]) for row in rng.choice(samples.rows, 2))
        rgb = shoot(nothing(a, b, rng), rng)
        side = len(rgb) / 1.5
        middle = np.array([(len(rgb) - 1) / 2, (len(rgb) - 1) / 2 - 0.146 * side, np.log(side), 0.0])
        aligned = aligner(rgb, np.concatenate([middle, np.zeros(12)]))
        sure.append(aligned.sure if aligned is not None else 0.0)
    print(f"sure where there is no face: above 0.5 in {np.mean(np.array(sure) > 0.5):.1%}, above 0.8 in "
          f"{np.mean(np.array(sure) > 0.8):.1%} of {count}")  # fmt: skip


def jitter(aligner: Aligner, all_cases: Sequence[Case], count: int) -> None:
    """Prints how much still masked faces tremble under camera noise, in pixels of the 256 px crop.

    Noise of 2.5 levels is drawn anew for each of 30 frames at 30 a second; each look begins where the last one ended.
    What is told is the root mean square deviation of the crop's inner half from its mean place.
    """
    rng = np.random.default_rng(6)
    grid = np.stack(np.meshgrid([-0.25, 0.0, 0.25], [-0.25, 0.0, 0.25]), 2).reshape(-1, 2).astype(np.float32)
    plain, smooth = [], []
    for case in [c for c in all_cases if c.masked and c.group == "frontal"][:count]:
        told, filtered = expected(case, rng), OneEuro()
        raw, calm, scale = [], [], 256 / side_of(told)
        for frame in range(36):
            noisy = np.clip(case.rgb + rng.normal(0, 2.5, case.rgb.shape).astype(np.float32), 0, 255).astype(np.uint8)
            aligned = aligner(noisy, told)
            if aligned is None:
                break
            told = aligned.pose
            kept = filtered(told, frame / 30)
            if frame >= 6:  # settled
                raw.append(apply(to_picture(told), grid) * scale)
                calm.append(apply(to_picture(kept), grid) * scale)
        if len(raw) == 30:
            plain.append(_tremble(raw))
            smooth.append(_tremble(calm))
    for name, rows in (("as it is", plain), ("smoothed by OneEuro", smooth)):
        print(f"jitter of {len(rows)} still masked faces, {name}: median {np.median(rows):.3f}, p90 "
              f"{np.percentile(rows, 90):.3f} px of 256")  # fmt: skip


def _tremble(places: Sequence[Points]) -> float:
    rows = np.stack(places)
    return float(np.sqrt(((rows - rows.mean(axis=0)) ** 2).sum(axis=2).mean()))


def cost(aligner: Aligner, face_model: bytes, all_cases: Sequence[Case]) -> None:
    """Prints CPU time a call beside the mesh's in video mode, 720p, both measured in turn."""
    case = next(c for c in all_cases if not c.masked and c.group == "frontal")
    rgb = np.zeros((720, 1280, 3), np.uint8)
    height, width = case.rgb.shape[:2]
    rgb[100 : 100 + height, 300 : 300 + width] = case.rgb
    pose = pose_of(case.points[:6] + np.array([300, 100], np.float32))
    times: dict[str, list[float]] = {"aligner": [], "mesh": []}
    with FaceMesh(face_model, max_faces=1, video=True) as mesh:
        stamp = 0
        for _ in range(12):
            start = time.process_time()
            for _ in range(20):
                aligner(rgb, pose)
            times["aligner"].append((time.process_time() - start) / 20 * 1e3)
            start = time.process_time()
            for _ in range(6):
                stamp += 33
                mesh(rgb, stamp)
            times["mesh"].append((time.process_time() - start) / 6 * 1e3)
    a, m = (float(np.median(times[name][2:])) for name in ("aligner", "mesh"))
    print(f"CPU time: aligner {a:.2f} ms, mesh {m:.2f} ms a frame: {a / m:.3f} of the mesh")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared set with its bank of masks")
    parser.add_argument("--loose", type=Path, required=True, help="its loose crops (trainer.aligner.data)")
    parser.add_argument("--model", type=Path, help="an exported aligner (default: the bundled one)")
    parser.add_argument("--faces", type=int, default=400)
    parser.add_argument("--mesh-share", type=float, default=0.2, help="part of the faces that the mesh is measured on")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    model = arguments.model.read_bytes() if arguments.model else models.load_aligner_model()
    aligner = Aligner(model)
    face_model = models.load_face_model()
    all_cases = cases(arguments.data, arguments.loose, arguments.faces)
    with FaceMesh(face_model, max_faces=1, video=False) as mesh:
        accuracy(aligner, mesh, all_cases, arguments.mesh_share)
    mask_accuracy(aligner, all_cases)
    false_faces(aligner, arguments.data, arguments.loose, 3 * arguments.faces)
    jitter(Aligner(model, steady=4), all_cases, 24)
    cost(aligner, face_model, all_cases)


if __name__ == "__main__":
    main()
