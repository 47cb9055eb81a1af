"""The inpaint stage: cuts the aligned crop of each face and lets the engine complete it.

A mask may reach out of the crop that fits a face: it hangs below the chin, or the head is bowed or turned. What lies
outside would stay, cut off along a straight line, so the crop is cut larger then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from engines.base import Engine
from unmask_rt import align, planes
from unmask_rt.align import Affine, Image
from unmask_rt.blend import lower_face, mask_score, worn_share
from unmask_rt.frames import Face, Frame, Mode, Packet, Patch
from unmask_rt.gate import LIKELY, MAPPED, OFF, ON, WORN

LEAST_SEEN = 0.5
"""Share of mouth and chin that has to be in the picture for the map alone to be believed."""
PARTLY = 0.15
"""Share of where masks are worn (`blend.worn_share`) that has to be mask where the aligner is sure of one."""
LEAVES = 0.1
"""Share of the crop's lower border, or of the lower two thirds of a side, that the map may cover: straps do."""
STEP, MOST = 1.2, 1.44
"""How much larger a crop is cut at a time that a mask leaves, and at most."""
GROWTH_A_S, SHRINKING_A_S = 1.6, 0.85
"""In video it grows and shrinks by these factors a second, so that the face does not jump."""
ROOMY = 0.86
"""It shrinks while the mask ends above this share of its height."""
LONGEST_STEP_S = 0.25


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
    points = align.apply(align.invert(transform), np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32))
    edge = np.array([frame.video.width, frame.video.height]) - 0.5
    return float(((points >= -0.5) & (points <= edge)).all(axis=1).mean())


def leaving(frame: Frame, transform: Affine, mask_map: Image) -> float:
    """Share 0..1 of the crop's lower border, or of a side's lower two thirds, that the map covers: the largest of them.

    Outside the picture a crop repeats its border; what is seen there does not count.

    Args:
        frame: the picture.
        transform: coded to crop pixels.
        mask_map: uint8[S, S], probability of mask 0..255.
    """
    size = len(mask_map)
    along, low = np.linspace(2, size - 3, 32).round(), np.linspace(size / 3, size - 3, 32).round()
    near, far = np.full(32, 2.0), np.full(32, size - 3.0)
    edge = np.array([frame.video.width, frame.video.height]) - 0.5
    shares = []
    for x, y in ((along, far), (near, low), (far, low)):
        points = align.apply(align.invert(transform), np.stack([x, y], axis=1).astype(np.float32))
        covered = mask_map[y.astype(int), x.astype(int)] > 127
        shares.append(float((covered & ((points >= -0.5) & (points <= edge)).all(axis=1)).mean()))
    return max(shares)


class InpaintStage:
    """Faces to patches.

    Args:
        engine: belongs to whoever made the stage; closing the stage leaves it open.
        mode: "still" cuts a crop that a mask leaves again at once; in video it grows from frame to frame.
    """

    name = "inpaint"

    def __init__(self, engine: Engine, mode: Mode = "still") -> None:
        self._engine = engine
        self._mode = mode
        self._size = engine.spec.crop_size
        self._template = np.array(engine.spec.template, np.float32)
        self._grown: dict[int, float] = {}
        self._before_s = 0.0

    def __call__(self, packet: Packet) -> Sequence[Packet]:
        """Completes every face of a frame; one engine call a face, as engines have fixed shapes."""
        if packet.cut or self._mode == "still":
            self._grown = {}
        frame, patches = packet.frame, []
        passed_s = min(max(frame.time_s - self._before_s, 0.0), LONGEST_STEP_S)
        for face in packet.faces:
            factor = self._grown.get(face.track, 1.0)
            patch = self._complete(frame, face, factor)
            if patch is None:
                continue
            if self._mode == "still":
                patch = self._wide_enough(frame, patch)
            else:
                self._grown[face.track] = _next_factor(frame, patch, factor, passed_s)
            patches.append(patch)
        self._grown = {track: factor for track, factor in self._grown.items() if factor > 1}
        self._before_s = frame.time_s
        return [replace(packet, patches=tuple(patches))]

    def _complete(self, frame: Frame, face: Face, factor: float) -> Patch | None:
        """A face's patch from a crop that is larger than its fit by a factor; None outside the picture."""
        cutting = self._cut(frame, face, factor)
        if cutting is None:
            return None
        crop, transform = cutting
        completed, mask_map = self._engine(crop[None])
        score = self._score(frame, face, transform, mask_map[0], factor)
        return Patch(face, transform, crop, completed[0], mask_map[0], score)

    def _wide_enough(self, frame: Frame, patch: Patch) -> Patch:
        """The patch, or that of a larger crop which more of the mask lies in; the gate's score is the first one's."""
        if patch.score < OFF:
            return patch
        share, factor = leaving(frame, patch.transform, patch.map), STEP
        while share > LEAVES and factor <= MOST:
            larger = self._complete(frame, patch.face, factor)
            if larger is None or (now := leaving(frame, larger.transform, larger.map)) >= share:
                break
            patch, share, factor = replace(larger, score=patch.score), now, factor * STEP
        return patch

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


def _next_factor(frame: Frame, patch: Patch, factor: float, passed_s: float) -> float:
    """How much larger than the fit the crop of the next frame is cut."""
    if patch.score >= OFF and leaving(frame, patch.transform, patch.map) > LEAVES:
        return min(factor * GROWTH_A_S**passed_s, MOST)
    if factor > 1 and not (patch.map[round(ROOMY * len(patch.map)) :] > 127).any():
        return max(factor * SHRINKING_A_S**passed_s, 1.0)
    return factor
