"""The inpaint stage: cuts the aligned crop of each face and lets the engine complete it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engines.base import Engine
from unmask_rt import align, planes
from unmask_rt.align import Affine, Image
from unmask_rt.blend import lower_face, mask_score
from unmask_rt.frames import Face, Frame, Packet, Patch
from unmask_rt.gate import LIKELY, OFF, ON, WORN

LEAST_SEEN = 0.5
"""Share of mouth and chin that has to be in the picture for the map alone to be believed."""


def seen_share(frame: Frame, transform: Affine, size: int) -> float:
    """Share 0..1 of mouth and chin (`blend.lower_face`) that lies inside the picture.

    Args:
        frame: the picture.
        transform: coded to crop pixels.
        size: side of the crop.
    """
    rows, columns = lower_face(size)
    x, y = np.meshgrid(np.linspace(columns.start, columns.stop - 1, 5), np.linspace(rows.start, rows.stop - 1, 5))
    points = align.apply(align.invert(transform), np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32))
    edge = np.array([frame.video.width, frame.video.height]) - 0.5
    return float(((points >= -0.5) & (points <= edge)).all(axis=1).mean())


class InpaintStage:
    """Faces to patches.

    Args:
        engine: belongs to whoever made the stage; closing the stage leaves it open.
    """

    name = "inpaint"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._size = engine.spec.crop_size
        self._template = np.array(engine.spec.template, np.float32)

    def __call__(self, packet: Packet) -> Sequence[Packet]:
        """Completes every face of a frame; one engine call a face, as engines have fixed shapes."""
        patches = []
        for face in packet.faces:
            cutting = self._cut(packet.frame, face)
            if cutting is None:
                continue
            crop, transform = cutting
            completed, mask_map = self._engine(crop[None])
            score = self._score(packet.frame, face, transform, mask_map[0])
            patches.append(Patch(face, transform, crop, completed[0], mask_map[0], score))
        return [replace(packet, patches=tuple(patches))]

    def _score(self, frame: Frame, face: Face, transform: Affine, mask_map: Image) -> float:
        """What the gate decides on; where mouth and chin lie outside the picture it is left at what it was.

        Outside the picture a crop repeats its border, which looks like cloth: there only the aligner may be believed.
        """
        worn = face.masked is not None and face.masked >= LIKELY  # else a blur beside a bare mouth would count
        score = mask_score(mask_map, turned=worn)
        sure = face.masked is not None and face.masked >= WORN
        if sure or seen_share(frame, transform, self._size) >= LEAST_SEEN:
            return score
        return min(score, (ON + OFF) / 2)

    def flush(self) -> Sequence[Packet]:
        return []

    def close(self) -> None:
        pass

    def _cut(self, frame: Frame, face: Face) -> tuple[Image, Affine] | None:
        """The crop and its transform from coded pixels; None for a face that lies outside the picture."""
        to_crop = align.crop_transform(face.anchors, self._size, self._template)
        transform = align.compose(to_crop, frame.to_display)
        rect = planes.rect_around(frame.video, align.corners(transform, self._size))
        if rect[2] - rect[0] < 4 or rect[3] - rect[1] < 4:
            return None
        rgb = planes.read_rgb(frame.video, rect)
        shift = np.array([[1.0, 0.0, rect[0]], [0.0, 1.0, rect[1]]])
        return align.warp(rgb, align.compose(transform, shift), self._size), transform
