"""The inpaint stage: cuts the aligned crop of each face and lets the engine complete it.

A mask may reach out of the crop that fits a face: it hangs below the chin, or the head is bowed or turned. What lies
outside would stay, cut off along a straight line, so the crop is cut larger then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.base import Engine
from unmask_rt import align, blend, planes
from unmask_rt.align import Affine, Image
from unmask_rt.blend import lower_face, mask_score, worn_share
from unmask_rt.frames import Face, Frame, Mode, Packet, Patch
from unmask_rt.gate import LIKELY, MAPPED, OFF, ON, WORN

LEAST_SEEN = 0.5
"""Share of mouth and chin that has to be in the picture for the map alone to be believed."""
PARTLY = 0.15
"""Share of where masks are worn (`blend.worn_share`) that has to be mask where the aligner is sure of one."""
LEAVES, STRAP = 0.12, 0.015
"""Share of the lower end of a crop, or of the lower four fifths of a side, up to which a strap covers it and no mask,
and below which nothing does."""
LARGER = 1.2
"""How much larger a crop is cut at most that a mask or its straps leave: a mask that leaves this one too is clothes of
its colour, and straps that do go around the head."""
GROWTH_A_S, SHRINKING_A_S = 1.6, 0.85
"""In video it grows and shrinks by these factors a second, so that the face does not jump."""
TIGHT, ROOMY = 0.035, 0.12
"""A mask leaves the crop that comes as near as that to its lower end, or half as near to a side, in crop sides (patches
fade towards the border); the crop shrinks while it stays farther away than the second."""
FORGOTTEN_S = 0.25
"""A track that was out of view for longer begins anew."""


def seen_share(frame: Frame, transform: Affine, size: int, grown: float = 1.0) -> float:
    """Share 0..1 of mouth and chin (`blend.lower_face`) that lies inside the picture.

    Args:
        frame: the picture.
        transform: coded to crop pixels.
        size: side of the crop.
        grown: how much larger than the fit it was cut.
    """
    rows, columns = lower_face(size, grown)
    x, y = np.meshgrid(np.linspace(columns.start, columns.stop - 1, 5), np.linspace(rows.start, rows.stop - 1, 5))
    return float(_in_picture(frame, transform, np.stack([x.ravel(), y.ravel()], axis=1)).mean())


def _in_picture(frame: Frame, transform: Affine, points: NDArray[Any]) -> NDArray[np.bool_]:
    """Which crop points, [K, 2], lie inside the picture: bool[K]."""
    places = align.apply(align.invert(transform), points.astype(np.float32))
    edge = np.array([frame.video.width, frame.video.height]) - 0.5
    return np.asarray(((places >= -0.5) & (places <= edge)).all(axis=1))


def leaving(frame: Frame, patch: Patch, inset: float) -> float:
    """Largest share 0..1 of a crop's lower end, or of the lower four fifths of a side, that the mask covers, or 0.

    Outside the picture a crop repeats its border, and next to the face other people wear masks: neither counts.

    Args:
        frame: the picture.
        patch: with the crop's map.
        inset: how far above the crop's lower end to look, in its sides, and twice how far inside of these.
    """
    size = len(patch.map)
    first, last, end = inset * size / 2, size - 1 - inset * size / 2, size - 1 - inset * size
    along, low = np.linspace(first, last, 128), np.linspace(size / 5, end, 128)
    lines = [(along, np.full(128, end)), (np.full(128, first), low), (np.full(128, last), low)]
    points = np.round([np.stack(line, axis=1) for line in lines]).astype(np.int32)  # (3, 128, 2)
    columns, rows = points[..., 0], points[..., 1]
    if (patch.map[rows, columns] >= blend.MAP_THRESHOLD).mean(axis=1).max() < STRAP:
        return 0.0
    inside = _in_picture(frame, patch.transform, points.reshape(-1, 2)).reshape(3, 128)
    worn = blend.worn_mask(patch.map, patch.grown)[rows, columns] > 0
    share = float((worn & inside).mean(axis=1).max())
    return share if share >= STRAP else 0.0


@dataclass(frozen=True, slots=True)
class _Known:
    """What is kept of a track: how much larger its next crop is cut, when it was in view last (seconds), and what share
    of the crop's sides may be mask: none, or that of straps that go around the head."""

    factor: float
    seen_s: float
    most: float


class InpaintStage:
    """Faces to patches.

    Args:
        engine: belongs to whoever made the stage; closing the stage leaves it open.
        mode: "still" cuts a crop that a mask leaves again at once; in video that is done for the first frame of a
            face, and then it grows and shrinks from frame to frame.
    """

    name = "inpaint"

    def __init__(self, engine: Engine, mode: Mode) -> None:
        self._engine = engine
        self._mode = mode
        self._size = engine.spec.crop_size
        self._template = np.array(engine.spec.template, np.float32)
        self._known: dict[int, _Known] = {}

    def __call__(self, packet: Packet) -> Sequence[Packet]:
        """Completes every face of a frame; one engine call a face, as engines have fixed shapes."""
        frame, now_s = packet.frame, packet.frame.time_s
        fresh = packet.cut or self._mode == "still"
        known = {} if fresh else {i: k for i, k in self._known.items() if 0 <= now_s - k.seen_s <= FORGOTTEN_S}
        patches = []
        for face in packet.faces:
            before = known.get(face.track)
            patch = self._complete(frame, face, 1.0 if before is None else before.factor)
            if patch is None:
                continue
            if before is None:
                patch, leaves = self._wide_enough(frame, patch)
                straps = patch.grown == 1 and 0 < leaves <= LEAVES
                known[face.track] = _Known(patch.grown, now_s, LEAVES if straps else 0.0)
            else:
                factor = _next_factor(frame, patch, now_s - before.seen_s, before.most)
                known[face.track] = replace(before, factor=factor, seen_s=now_s)
            patches.append(patch)
        self._known = known
        return [replace(packet, patches=tuple(patches))]

    def _complete(self, frame: Frame, face: Face, factor: float) -> Patch | None:
        """A face's patch from a crop that is larger than its fit by a factor; None outside the picture."""
        cutting = self._cut(frame, face, factor)
        if cutting is None:
            return None
        crop, transform = cutting
        completed, mask_map = self._engine(crop[None])
        score = self._score(frame, face, transform, mask_map[0], factor)
        return Patch(face, transform, crop, completed[0], mask_map[0], score, grown=factor)

    def _wide_enough(self, frame: Frame, patch: Patch) -> tuple[Patch, float]:
        """The patch, or that of a larger crop which the mask does not leave, nor its straps if they alone leave the
        first, and how much leaves it (`leaving`); the gate's score is that of the first."""
        leaves = leaving(frame, patch, TIGHT)
        if patch.score < OFF or leaves == 0:
            return patch, leaves
        larger = self._complete(frame, patch.face, LARGER)
        if larger is None or larger.score < min(patch.score, ON):
            return patch, leaves
        still = leaving(frame, larger, TIGHT)
        if still > (LEAVES if leaves > LEAVES else 0):
            return patch, leaves
        return replace(larger, score=patch.score), still

    def _score(self, frame: Frame, face: Face, transform: Affine, mask_map: Image, factor: float) -> float:
        """What the gate decides on; where mouth and chin lie outside the picture it is left at what it was.

        Outside the picture a crop repeats its border, which looks like cloth: there only the aligner may be believed.
        Where it is sure of a mask, something in front may hide mouth and chin: a part of the mask is enough.
        """
        worn = face.masked is not None and face.masked >= LIKELY  # else a blur beside a bare mouth would count
        score = mask_score(mask_map, turned=worn, grown=factor)
        if face.masked is not None and face.masked >= WORN:
            return max(score, MAPPED) if worn_share(mask_map, factor) >= PARTLY else score
        if seen_share(frame, transform, self._size, factor) >= LEAST_SEEN:
            return score
        return min(score, (ON + OFF) / 2)

    def flush(self) -> Sequence[Packet]:
        return []

    def close(self) -> None:
        pass

    def _cut(self, frame: Frame, face: Face, factor: float) -> tuple[Image, Affine] | None:
        """The crop and its transform from coded pixels; None for a face that lies outside the picture."""
        middle = face.anchors.mean(axis=0)
        anchors = middle + (face.anchors - middle) * np.float32(factor)
        to_crop = align.crop_transform(anchors, self._size, self._template)
        transform = align.compose(to_crop, frame.to_display)
        rect = planes.rect_around(frame.video, align.corners(transform, self._size))
        if rect[2] - rect[0] < 4 or rect[3] - rect[1] < 4:
            return None
        rgb = planes.read_rgb(frame.video, rect)
        shift = np.array([[1.0, 0.0, rect[0]], [0.0, 1.0, rect[1]]])
        return align.warp(rgb, align.compose(transform, shift), self._size), transform


def _next_factor(frame: Frame, patch: Patch, passed_s: float, most: float) -> float:
    """How much larger than the fit the crop of the next frame is cut; ``most`` is that of `_Known`."""
    if patch.score >= OFF and leaving(frame, patch, TIGHT) > most:
        return min(patch.grown * GROWTH_A_S**passed_s, LARGER)
    if patch.grown > 1 and leaving(frame, patch, ROOMY) <= most:
        return max(patch.grown * SHRINKING_A_S**passed_s, 1.0)
    return patch.grown
