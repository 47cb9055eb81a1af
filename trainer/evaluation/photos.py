"""The gate on labelled photographs: is a face that wears a mask treated, and everything else left alone?

A set of photographs is a folder with ``masked/``, ``unmasked/`` (photographs in which nobody wears a mask) and, for
each, a list of the labelled faces, ``masked.json`` and ``unmasked.json``: ``[{"file", "faces": [{"label", "box"}]}]``
with the labels ``with_mask``, ``without_mask`` and ``with_incorrect_mask`` (counted neither way), and boxes x0, y0, x1,
y1 in pixels. Needs mediapipe and av.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from engines.base import Engine
from trainer.evaluation.engine import tool_stages
from trainer.evaluation.figures import Estimate, estimate
from trainer.evaluation.tables import PHOTO_TITLES
from unmask_rt import models, planes
from unmask_rt.errors import UsageError
from unmask_rt.faces.aligner import Aligner
from unmask_rt.faces.pose import box_of
from unmask_rt.frames import Packet
from unmask_rt.sources.pictures import PictureSource

Box = tuple[float, float, float, float]
LARGE, SMALL = 60, 30
"""Longer side of a labelled face, pixels: from the first on it counts as large, from the second on as small."""
TURNED = 25.0
"""Degrees of yaw from which a head counts as turned, and so does one of which the aligner cannot tell."""
CHANGED, SHARE = 8, 0.2
"""A face counts as treated if more than this share of its box's lower half changed by more than so many levels."""
KINDS = ("masked", "unmasked")


def measure_photos(
    engine: Engine, folder: Path, *, face_model: Path | None, finder_model: Path | None
) -> dict[str, Estimate]:
    """The gate's figures, keys of `tables.PHOTO_TITLES`; of those that cannot be told for want of faces none.

    Raises:
        UsageError: the folder is no such set.
    """
    labelled = {kind: read_labels(folder / f"{kind}.json") for kind in KINDS}
    aligner = Aligner(models.load_aligner_model())
    counted: dict[str, list[float]] = defaultdict(list)
    console = Console(stderr=True)
    with tool_stages(engine, "still", face_model=face_model, finder_model=finder_model) as (find, inpaint, blend):
        for kind in KINDS:
            source = PictureSource(folder / kind)
            for frame in track(source, kind, len(source.paths), console=console, disable=not console.is_terminal):
                (packet,) = find(Packet(frame))
                (packet,) = inpaint(packet)
                (finished,) = blend(packet)
                before = planes.upright(frame)
                moved = np.abs(before.astype(np.int16) - planes.upright(finished.frame)).max(2)
                verdicts = [(patch.face.box, patch.strength > 0) for patch in finished.patches]
                if kind == "unmasked":
                    counted["unchanged"].append(float(not moved.any()))
                name = str(source.picture(frame.index).relative)
                faces = labelled[kind].get(name, [])
                count_faces(counted, faces, moved, verdicts, [is_turned(aligner, before, f["box"]) for f in faces])
    counted["gate"] = counted["gate_masked"] + counted["gate_bare"]
    found = {key: estimate(counted[key], "share") for key in PHOTO_TITLES}
    return {key: value for key, value in found.items() if value is not None}


def read_labels(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The labelled faces by the name of their photograph.

    Raises:
        UsageError: there is no such file, or it is none.
    """
    try:
        labelled = {r["file"]: r["faces"] for r in json.loads(path.read_text())}
        if not all({"label", "box"} <= face.keys() for faces in labelled.values() for face in faces):
            raise ValueError("a face has no label or no box")
        return labelled
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is no list of labelled faces: {error}",
            "A set of photographs has masked/, unmasked/, masked.json and unmasked.json.",
        ) from error


def count_faces(
    counted: dict[str, list[float]],
    faces: list[dict[str, Any]],
    moved: NDArray[np.int16],
    verdicts: list[tuple[Box, bool]],
    turned: list[bool],
) -> None:
    """Counts the labelled faces of one photograph.

    Args:
        counted: 1 or 0 for each decision, by figure; added to.
        faces: labels and boxes.
        moved: int16[H, W], largest change of a pixel's channels.
        verdicts: box of each face that was found, and whether the gate takes it for masked.
        turned: of each labelled face, whether the head is turned away.
    """
    for face, away in zip(faces, turned, strict=True):
        label = face["label"]
        x0, y0, x1, y1 = (round(v) for v in face["box"])
        side = max(x1 - x0, y1 - y0)
        if label not in ("with_mask", "without_mask") or side < SMALL:
            continue
        if label == "with_mask":
            lower = moved[max(0, (y0 + y1) // 2) : y1, max(0, x0) : x1] > CHANGED
            treated = float(lower.size > 0 and lower.mean() > SHARE)
            counted["treated_large" if side >= LARGE else "treated_small"].append(treated)
            if side >= LARGE:
                counted["treated_turned" if away else "treated_frontal"].append(treated)
        verdict = verdict_at((x0, y0, x1, y1), verdicts)
        if verdict is not None:
            key = "gate_masked" if label == "with_mask" else "gate_bare"
            counted[key].append(float(verdict == (label == "with_mask")))


def is_turned(aligner: Aligner, rgb: NDArray[np.uint8], box: Box) -> bool:
    """Whether the head in a labelled box is turned by `TURNED` degrees, or so far that the aligner does not see it."""
    x0, y0, x1, y1 = box
    pose = np.zeros(16)
    left, top, right, bottom = box_of(pose)  # of an upright face whose crop has the side 1
    side = max((x1 - x0) / (right - left), (y1 - y0) / (bottom - top))
    pose[:2] = (x0 + x1 - side * (left + right)) / 2, (y0 + y1 - side * (top + bottom)) / 2
    pose[2] = np.log(max(side, 1.0))
    aligned = aligner(rgb, pose)
    return aligned is None or aligned.sure < 0.5 or abs(aligned.yaw) >= TURNED


def verdict_at(box: Box, verdicts: list[tuple[Box, bool]]) -> bool | None:
    """Verdict on the found face whose middle lies in a labelled box, the nearest one; None where there is none."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    inside = []
    for (x0, y0, x1, y1), verdict in verdicts:
        u, v = (x0 + x1) / 2, (y0 + y1) / 2
        if box[0] <= u <= box[2] and box[1] <= v <= box[3]:
            inside.append((np.hypot(u - x, v - y), verdict))
    return min(inside)[1] if inside else None
