"""The aligner on photographs of people really wearing masks, to be looked at.

    python -m trainer.aligner.photos masked-photos -o runs/photos       # the bundled aligner

CenterFace looks at several sizes, as in still pictures; the aligner takes what it found. Prints how many labelled
masked faces were aligned with certainty, and on how much background the aligner is sure of a face; draws every
labelled face with its points into ``sheet-N.jpg`` (red frame: not aligned).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from trainer.quality import decode
from unmask_rt import models
from unmask_rt.align import Image
from unmask_rt.faces.aligner import Aligned, Aligner
from unmask_rt.faces.centerface import CenterFace, iou
from unmask_rt.faces.look import STILL_SIDES, finder_find
from unmask_rt.faces.pose import Box, box_of
from unmask_rt.faces.window import cut

SURE = 0.5
LARGE, SMALL = 60, 30
"""Longer side of a labelled face, pixels, as in `trainer.evaluation.photos`."""
TILE = 160


def found_in(rgb: Image, finder: CenterFace, aligner: Aligner) -> list[Aligned]:
    """Every face that the aligner is sure of where the finder expects one."""
    finds = [f for f in map(finder_find, finder.at_scales(rgb, STILL_SIDES)) if f is not None]
    looks = [aligner(rgb, find.pose) for find in finds]
    return [look for look in looks if look is not None and look.sure >= SURE]


def of_box(found: Sequence[Aligned], box: Box) -> Aligned | None:
    """Whose eyes lie in the upper three quarters of a labelled box that overlaps with the face; the best."""
    x0, y0, x1, y1 = box

    def fits(aligned: Aligned) -> bool:
        x, y = aligned.anchors.mean(axis=0)
        return x0 < x < x1 and y0 < y < y0 + 0.75 * (y1 - y0) and iou(box, box_of(aligned.pose)) > 0.25

    return max(filter(fits, found), key=lambda a: iou(box, box_of(a.pose)), default=None)


def tile(rgb: Image, box: Box, aligned: Aligned | None) -> Image:
    """A labelled face with its surroundings, uint8[TILE, TILE, 3] BGR."""
    x0, y0, x1, y1 = box
    scale = TILE / (1.5 * max(x1 - x0, y1 - y0))
    middle = np.array([(x0 + x1) / 2, (y0 + y1) / 2])
    matrix = np.hstack([scale * np.eye(2), (TILE / 2 - scale * middle)[:, None]])
    out = np.ascontiguousarray(cut(rgb, matrix, TILE)[:, :, ::-1])
    if aligned is None:
        cv2.rectangle(out, (0, 0), (TILE - 1, TILE - 1), (0, 0, 255), 3)
        return out
    points = np.vstack([aligned.anchors, aligned.nose]) @ matrix[:, :2].T + matrix[:, 2]
    for k, (x, y) in enumerate(points):
        cv2.circle(out, (round(float(x)), round(float(y))), 2, ((0, 255, 0), (255, 128, 0))[k >= 4], -1, cv2.LINE_AA)
    text = f"{aligned.sure:.2f} {aligned.yaw:.0f} m{aligned.masked:.1f}"
    cv2.putText(out, text, (3, TILE - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 255, 255), 1, cv2.LINE_AA)
    return out


def backgrounds(rgb: Image, boxes: Sequence[Box], aligner: Aligner, rng: np.random.Generator) -> list[float]:
    """``sure`` at a few places that touch no labelled face."""
    height, width = rgb.shape[:2]
    sure = []
    for _ in range(6):
        side = float(np.exp(rng.uniform(np.log(40), np.log(0.5 * min(height, width)))))
        x, y = rng.uniform(side / 2, width - side / 2), rng.uniform(side / 2, height - side / 2)
        place = x - 0.8 * side, y - 0.8 * side, x + 0.8 * side, y + 0.8 * side
        if any(iou(place, box) > 0 for box in boxes):
            continue
        aligned = aligner(rgb, np.array([x, y - 0.146 * side, np.log(side), 0.0, *[0.0] * 12]))
        sure.append(aligned.sure if aligned is not None else 0.0)
    return sure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder with masked/ and masked.json (see trainer.evaluation.photos)")
    parser.add_argument("--model", type=Path, help="an exported aligner (default: the bundled one)")
    parser.add_argument("-o", "--out", type=Path, required=True)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    finder = CenterFace(models.load_finder_model())
    aligner = Aligner(arguments.model.read_bytes() if arguments.model else models.load_aligner_model())
    rng = np.random.default_rng(1)
    hits: dict[str, list[bool]] = {"60 px and more": [], "30 to 60 px": []}
    worn, false, tiles = [], [], []
    for record in json.loads((arguments.photos / "masked.json").read_text("utf-8")):
        rgb = decode((arguments.photos / "masked" / record["file"]).read_bytes())
        assert rgb is not None
        found = found_in(rgb, finder, aligner)
        boxes: list[Box] = [tuple(face["box"]) for face in record["faces"]]
        if min(rgb.shape[:2]) > 90:
            false += backgrounds(rgb, boxes, aligner, rng)
        for face, box in zip(record["faces"], boxes, strict=True):
            longer = max(box[2] - box[0], box[3] - box[1])
            if face["label"] != "with_mask" or longer < SMALL:
                continue
            aligned = of_box(found, box)
            hits["60 px and more" if longer >= LARGE else "30 to 60 px"].append(aligned is not None)
            if aligned is not None:
                worn.append(aligned.masked > 0.5)
            tiles.append(tile(rgb, box, aligned))
    for name, rows in hits.items():
        print(f"masked faces of {name}: {np.mean(rows):.1%} of {len(rows)} aligned")
    print(f"of these told masked: {np.mean(worn):.1%}")
    print(f"backgrounds: sure above {SURE} in {np.mean(np.array(false) > SURE):.1%} of {len(false)}")
    arguments.out.mkdir(parents=True, exist_ok=True)
    tiles += [np.zeros((TILE, TILE, 3), np.uint8)] * (-len(tiles) % 70)
    for k in range(0, len(tiles), 70):
        rows_of = [np.hstack(tiles[i : i + 10]) for i in range(k, k + 70, 10)]
        cv2.imwrite(str(arguments.out / f"sheet-{k // 70}.jpg"), np.vstack(rows_of))


if __name__ == "__main__":
    main()
