"""Stand-ins: an engine that paints, and the sample picture's face in frames of every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from engines.base import Batch
from engines.spec import ModelSpec
from unmask_rt import orient, planes, sample
from unmask_rt.align import MESH_ANCHORS, TEMPLATE, Image, Points
from unmask_rt.frames import Face, Frame
from unmask_rt.sources.arrays import frame_of

ANCHORS = sample.astronaut_mesh()[list(MESH_ANCHORS)]
ONE = 1 << 16
QUARTER = {
    90: (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30),
    180: (-ONE, 0, 0, 0, -ONE, 0, 0, 0, 1 << 30),
    270: (0, -ONE, 0, ONE, 0, 0, 0, 0, 1 << 30),
}


class FakeEngine:
    """Paints the hole in one colour.

    Args:
        mask_map: uint8[S, S], what it says the mask is, whatever the crop shows.
        colour: RGB of the completed face, all over the crop.
        template: of the model, as in `ModelSpec`.
    """

    name = "fake"
    sha256 = "0" * 64

    def __init__(
        self, mask_map: Image, colour: tuple[int, int, int] = (200, 40, 120), template: np.ndarray = TEMPLATE
    ) -> None:
        anchors = tuple((float(x), float(y)) for x, y in template)
        self.spec = ModelSpec("fake", mask_map.shape[0], anchors, (), "none", "not at all")
        self.mask_map, self.colour = mask_map, colour
        self.crops: list[Batch] = []
        self.closed = False

    def describe(self) -> Mapping[str, Any]:
        return {"engine": self.name, "model_sha256": self.sha256}

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        self.crops.append(crop)
        face = np.empty_like(crop)
        face[:] = self.colour
        return face, np.repeat(self.mask_map[None], len(crop), axis=0)

    def close(self) -> None:
        self.closed = True


def worn_map(size: int = 128) -> Image:
    """A map of one sure mask over mouth and chin, uint8[size, size]."""
    mask_map = np.zeros((size, size), np.uint8)
    cv2.ellipse(mask_map, (size // 2, round(0.66 * size)), (round(0.24 * size), round(0.2 * size)), 0, 0, 360, 255, -1)
    return mask_map


def face_at(anchors: Points = ANCHORS, track: int = 1) -> Face:
    """A face at these anchors in the display."""
    low, high = anchors.min(0) - 40, anchors.max(0) + 60
    return Face(track, anchors, (float(low[0]), float(low[1]), float(high[0]), float(high[1])), "mesh", 0.9)


def turned(picture: Image, degrees: int, pixel_format: str = "rgb24") -> Frame:
    """A frame whose planes lie on their side and whose matrix sets them upright again."""
    for quarter_turns in range(4):
        coded = np.ascontiguousarray(np.rot90(picture, quarter_turns))
        frame = frame_of(coded, pixel_format=pixel_format)
        matrix, size = orient.to_display(coded.shape[1], coded.shape[0], matrix=QUARTER[degrees])
        frame = replace(frame, to_display=matrix, display_size=size)
        upright = planes.upright(frame)
        if upright.shape == picture.shape and np.abs(upright.astype(int) - picture).mean() < 8:
            return frame
    raise AssertionError(f"no turn of the planes gives the picture back at {degrees} degrees")
