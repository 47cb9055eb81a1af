"""A model on talking faces with a mask laid over them, so that the truth is known. Needs mediapipe and av.

The mask is drawn once, on the first frame that shows a face, and carried along by the face mesh (an affine fit over its
points), so that it sits as still as a mask does. The clip then goes through the tool's own stages, as a file does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import Engine
from trainer.evaluation.engine import tool_stages
from trainer.evaluation.metrics import psnr
from trainer.evaluation.video import flicker_and_popping, still_masked
from trainer.masks import draw_mask
from unmask_rt import models, planes
from unmask_rt.errors import UsageError
from unmask_rt.faces.mesh import FaceMesh
from unmask_rt.frames import Frame, Packet
from unmask_rt.pipeline import Stage
from unmask_rt.sources import open_source
from unmask_rt.sources.arrays import frame_of

Image = NDArray[np.uint8]
FRAMES = 150
"""At most so many frames of a clip."""
FAMILY = "surgical"


def measure_clip(
    engine: Engine, path: Path, *, seed: int, face_model: Path | None, finder_model: Path | None
) -> dict[str, Any]:
    """Flicker, popping, mask left over and hole PSNR of one clip.

    Returns:
        name, frames, flicker, popping, still_masked (mean over frames), hole_psnr (mean over frames, dB).

    Raises:
        UsageError: fewer than two frames show a face.
    """
    truths, masked, holes = masked_frames(path, seed=seed, face_model=models.load_face_model(face_model))
    stages = tool_stages(engine, "file", face_model=face_model, finder_model=finder_model)
    with closing(stages[0]), closing(stages[2]):
        frames = (frame_of(picture, i) for i, picture in enumerate(masked))
        outputs = [planes.upright(frame) for frame in through(stages, frames)]
    flicker, popping = flicker_and_popping(outputs, truths, holes)
    return {
        "name": path.stem,
        "frames": len(truths),
        "flicker": flicker,
        "popping": popping,
        "still_masked": float(np.mean([still_masked(o, m, h) for o, m, h in zip(outputs, masked, holes, strict=True)])),
        "hole_psnr": float(np.mean([psnr(o, g, h) for o, g, h in zip(outputs, truths, holes, strict=True)])),
    }


def masked_frames(
    path: Path, *, seed: int, face_model: bytes
) -> tuple[list[Image], list[Image], list[NDArray[np.bool_]]]:
    """The first run of frames in which the mesh finds the face: truth and masked uint8[H, W, 3], hole bool[H, W].

    Raises:
        UsageError: fewer than two frames show a face.
    """
    truths: list[Image] = []
    masked: list[Image] = []
    holes: list[NDArray[np.bool_]] = []
    start: NDArray[np.float32] | None = None
    layer, cover = np.zeros((0, 0, 3), np.uint8), np.zeros((0, 0), np.float32)
    source = open_source(path)
    with FaceMesh(face_model, max_faces=1, video=True) as find, closing(source):
        for frame in source:
            picture = planes.upright(frame)
            found = find(picture, round(frame.time_s * 1000))
            if not found and truths:
                break
            if not found:
                continue
            mesh = found[0].points
            if start is None:
                start = mesh
                layer, cover = draw_mask(picture, mesh, np.random.default_rng(seed), FAMILY)
            m, alpha = lay(picture, layer, cover, affine_fit(start, mesh))
            truths.append(picture)
            masked.append(m)
            holes.append(alpha > 0.5)
            if len(truths) == FRAMES:
                break
    if len(truths) < 2:
        raise UsageError(f"{path} shows no face for two frames", "Give a clip of a face without a mask.")
    return truths, masked, holes


def affine_fit(source: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float64]:
    """Least-squares affine float64[2, 3] between two meshes float[K, 2]."""
    known = np.hstack([source, np.ones((len(source), 1))]).astype(np.float64)
    return np.asarray(np.linalg.lstsq(known, target.astype(np.float64), rcond=None)[0].T)


def lay(
    picture: Image, layer: Image, cover: NDArray[np.float32], transform: NDArray[np.float64]
) -> tuple[Image, NDArray[np.float32]]:
    """The mask of a layer, moved, over a picture: the masked picture and the coverage there."""
    size = picture.shape[1::-1]
    moved = cv2.warpAffine(layer, transform, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    alpha = np.asarray(cv2.warpAffine(cover, transform, size, flags=cv2.INTER_LINEAR))
    share = alpha[..., None]
    return np.clip(picture * (1 - share) + moved * share + 0.5, 0, 255).astype(np.uint8), alpha


def through(stages: Sequence[Stage], frames: Iterator[Frame]) -> Iterator[Frame]:
    """Frames through stages that may hold some back, in order."""

    def onward(packets: Sequence[Packet], number: int) -> Iterator[Packet]:
        for packet in packets:
            if number == len(stages):
                yield packet
            else:
                yield from onward(stages[number](packet), number + 1)

    for frame in frames:
        yield from (p.frame for p in onward([Packet(frame)], 0))
    for number, stage in enumerate(stages):
        yield from (p.frame for p in onward(stage.flush(), number + 1))


def measure_clips(
    engine: Engine, paths: Sequence[Path], *, seed: int, face_model: Path | None, finder_model: Path | None
) -> list[dict[str, Any]]:
    """`measure_clip` of each."""
    return [measure_clip(engine, p, seed=seed, face_model=face_model, finder_model=finder_model) for p in paths]
