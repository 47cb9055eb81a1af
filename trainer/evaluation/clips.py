"""A model on talking faces with a mask laid over them, so that the truth is known. Needs mediapipe and av.

The mask is drawn once, on the first frame that shows a face, and carried along as a mask on that face would be: from
frame to frame it moves as the skin under it does on the whole (an affine fit to the truth's optical flow there), in the
long run it stays where the face mesh has it. By the mesh alone it would slide and tremble: a mesh that is smoothed over
time lags behind, so that the mask moves on while the face stands still, and one that is not jitters. The clip then goes
through the tool's own stages, as a file does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import Engine
from trainer.evaluation.engine import tool_stages
from trainer.evaluation.metrics import psnr
from trainer.evaluation.video import TINY, flicker_and_popping, mean_of, motion, still_masked, unrest
from trainer.masks import draw_mask
from unmask_rt import align, models, planes
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
PULL = 0.02
"""Weight of a frame's mesh beside that of the skin's motion from one frame to the next: it is felt after 7 frames."""


def measure_clip(
    engine: Engine, path: Path, *, seed: int, face_model: Path | None, finder_model: Path | None
) -> dict[str, Any]:
    """Flicker, popping, mask left over and hole PSNR of one clip.

    Returns:
        name, frames, flicker, popping, pasted (flicker of one drawn face that is moved with the mask, the mean of
        three: what is left where nothing that is drawn changes at all), still_masked (mean over frames), hole_psnr
        (mean over frames, dB).

    Raises:
        UsageError: fewer than two frames show a face.
    """
    truths, meshes = shown(path, face_model=models.load_face_model(face_model))
    motions = [motion(a, b) for a, b in pairwise(truths)]
    masked, holes, transforms = wear(truths, meshes, motions, seed=seed)
    with tool_stages(engine, "file", face_model=face_model, finder_model=finder_model) as stages:
        frames = (frame_of(picture, i) for i, picture in enumerate(masked))
        outputs = [planes.upright(frame) for frame in through(stages, frames)]
    flicker, popping = flicker_and_popping(outputs, truths, holes, motions)
    quarters = [len(truths) * k // 4 for k in (1, 2, 3)]
    stuck = [mean_of(unrest(pasted(outputs, truths, holes, transforms, k), motions, holes)) for k in quarters]
    alive = mean_of(unrest(truths, motions, holes))
    return {
        "name": path.stem,
        "frames": len(truths),
        "flicker": flicker,
        "popping": popping,
        "pasted": float(np.mean(stuck)) / max(alive, TINY),
        "still_masked": float(np.mean([still_masked(o, m, h) for o, m, h in zip(outputs, masked, holes, strict=True)])),
        "hole_psnr": float(np.mean([psnr(o, g, h) for o, g, h in zip(outputs, truths, holes, strict=True)])),
    }


def shown(path: Path, *, face_model: bytes) -> tuple[list[Image], list[NDArray[np.float32]]]:
    """The first run of frames in which the mesh finds the face: uint8[H, W, 3] and meshes float32[478, 2].

    Raises:
        UsageError: fewer than two frames show a face.
    """
    truths: list[Image] = []
    meshes: list[NDArray[np.float32]] = []
    source = open_source(path)
    with FaceMesh(face_model, max_faces=1, video=True) as find, closing(source):
        for frame in source:
            picture = planes.upright(frame)
            found = find(picture, round(frame.time_s * 1000))
            if found:
                truths.append(picture)
                meshes.append(found[0].points)
            if (truths and not found) or len(truths) == FRAMES:
                break
    if len(truths) < 2:
        raise UsageError(f"{path} shows no face for two frames", "Give a clip of a face without a mask.")
    return truths, meshes


def wear(
    truths: Sequence[Image], meshes: Sequence[NDArray[np.float32]], motions: Sequence[NDArray[np.float32]], *, seed: int
) -> tuple[list[Image], list[NDArray[np.bool_]], list[NDArray[np.float64]]]:
    """A mask on the face of each frame: masked uint8[H, W, 3], hole bool[H, W], and where it is (`carried`)."""
    layer, cover = draw_mask(truths[0], meshes[0], np.random.default_rng(seed), FAMILY)
    fits = [affine_fit(meshes[0], mesh) for mesh in meshes]
    masked: list[Image] = []
    holes: list[NDArray[np.bool_]] = []
    transforms = carried(cover, fits, motions)
    for picture, transform in zip(truths, transforms, strict=True):
        m, alpha = lay(picture, layer, cover, transform)
        masked.append(m)
        holes.append(alpha > 0.5)
    return masked, holes, transforms


def pasted(
    outputs: Sequence[Image],
    truths: Sequence[Image],
    holes: Sequence[NDArray[np.bool_]],
    transforms: Sequence[NDArray[np.float64]],
    frame: int,
) -> list[Image]:
    """The truths with the hole's content of one output in each, moved as the mask is: uint8[H, W, 3]."""
    found = []
    for truth, hole, transform in zip(truths, holes, transforms, strict=True):
        onto = align.compose(transform, align.invert(transforms[frame]))
        moved = cv2.warpAffine(
            outputs[frame], onto, truth.shape[1::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        found.append(np.where(hole[..., None], moved, truth))
    return found


def carried(
    cover: NDArray[np.float32], fits: Sequence[NDArray[np.float64]], motions: Sequence[NDArray[np.float32]]
) -> list[NDArray[np.float64]]:
    """Where a mask is in each frame.

    The corners of its box are placed so that the sum of the squares of two errors is least: how far they are from where
    the mesh has them, times `PULL`, and how far their step from frame to frame is from the skin's.

    Args:
        cover: of the mask in the first frame, float32[H, W] in 0..1.
        fits: N affine transforms from the first frame, by the mesh.
        motions: N - 1 of `video.motion`.

    Returns:
        N affine transforms from the first frame.
    """
    rows, columns = np.nonzero(cover > 0.5)
    left, right, top, bottom = columns.min(), columns.max(), rows.min(), rows.max()
    box = np.array([[left, top], [right, top], [left, bottom], [right, bottom]], np.float32)
    places = np.array([align.apply(fit, box) for fit in fits], np.float64)  # (N, 4, 2)
    errors, wanted = PULL * np.eye(len(fits)), PULL * places
    for i, where in enumerate(motions):
        alpha = cv2.warpAffine(cover, fits[i], cover.shape[::-1])
        y, x = np.nonzero(alpha > 0.5)
        if not len(x):  # the mask has left the picture
            continue
        skin = affine_fit(np.stack([x, y], 1).astype(np.float32), where[y, x])
        step = align.apply(skin, places[i]) - places[i]
        errors[i : i + 2, i : i + 2] += [[1, -1], [-1, 1]]
        wanted[i] -= step
        wanted[i + 1] += step
    settled = np.linalg.solve(errors, wanted.reshape(len(fits), -1)).reshape(places.shape).astype(np.float32)
    return [affine_fit(box, corners) for corners in settled]


def affine_fit(source: NDArray[np.float32], target: NDArray[np.float32]) -> NDArray[np.float64]:
    """Least-squares affine float64[2, 3] between two sets of points float[K, 2]."""
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
