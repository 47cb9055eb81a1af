"""``--view mask``: the input with everything drawn in that decides what happens to a face.

Boxes, anchors and who found the face, how sure that was, the map, and the gate's score and state. Colours by Okabe and
Ito, "Color Universal Design" (2008), which colour-blind people can tell apart; whatever a colour says, a word says too.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from unmask_rt import align
from unmask_rt.align import Image
from unmask_rt.frames import Face, FoundBy, Packet, Patch

Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]

SOURCES: dict[FoundBy, Colour] = {
    "mesh": (86, 180, 233),
    "aligner": (0, 190, 140),
    "finder": (230, 159, 0),
    "flow": (204, 121, 167),
    "held": (240, 228, 66),
}
"""Colour of boxes and words by who placed a face; the aligner's green is a little lighter than Okabe and Ito's."""
ON, OFF, LOST = (213, 94, 0), (0, 114, 178), (213, 94, 0)
"""Colour of a map whose face is being unmasked, of one that is left alone, and of the box of a masked face that was
lost."""
TINT = 0.45
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_EM = 22
"""Pixels of a capital letter of that font at scale 1."""


def draw_overlay(rgb: Image, packet: Packet) -> Image:
    """A copy of the upright input, uint8[H, W, 3], with faces, maps and the gate's decisions drawn in."""
    out = rgb.copy()
    for patch in packet.patches:
        _tint(out, patch, packet.frame.to_display)
    patches = {patch.face.track: patch for patch in packet.patches}
    for face in packet.faces or tuple(patch.face for patch in packet.patches):
        colour = SOURCES[face.found_by]
        _box(out, face.box, colour)
        for x, y in face.anchors:
            centre = round(float(x)), round(float(y))
            cv2.circle(out, centre, _thick(out) + 1, (0, 0, 0), -1, cv2.LINE_AA)
            cv2.circle(out, centre, _thick(out), colour, -1, cv2.LINE_AA)
        _words(out, face.box, _lines(face, patches.get(face.track)), colour)
    for box in packet.missed:
        _box(out, box, LOST)
        _words(out, box, ["lost"], LOST)
    return out


def _lines(face: Face, patch: Patch | None) -> list[str]:
    first = f"#{face.track} {face.found_by} {face.confidence:.2f}"
    if patch is None:
        return [first]
    return [first, f"mask {patch.score:.2f} {'taken off' if patch.strength > 0 else 'left'}"]


def _thick(picture: Image) -> int:
    return max(1, round(min(picture.shape[:2]) / 540))


def _box(picture: Image, box: Box, colour: Colour) -> None:
    x0, y0, x1, y1 = (round(edge) for edge in box)
    thick = _thick(picture)
    cv2.rectangle(picture, (x0, y0), (x1, y1), (0, 0, 0), thick + 2)
    cv2.rectangle(picture, (x0, y0), (x1, y1), colour, thick)


def _words(picture: Image, box: Box, lines: Sequence[str], colour: Colour) -> None:
    """Lines of text on a dark ground above a box, or inside it where there is no room."""
    height, width = picture.shape[:2]
    scale = max(0.4, 0.4 * min(height, width) / 540)
    stroke = max(1, round(1.6 * scale))
    step = round(1.7 * _EM * scale)
    pad = max(2, step // 5)
    wide = max(cv2.getTextSize(line, _FONT, scale, stroke)[0][0] for line in lines) + 2 * pad
    high = step * len(lines) + pad
    left = min(max(0, round(box[0])), max(0, width - wide))
    top = round(box[1]) - high - 2 * _thick(picture)
    top = min(max(0, top if top >= 0 else round(box[1])), max(0, height - high))
    ground = picture[top : top + high, left : left + wide]
    ground[:] = ground // 4
    for k, line in enumerate(lines, 1):
        place = (left + pad, top + k * step - pad)
        cv2.putText(picture, line, place, _FONT, scale, colour, stroke, cv2.LINE_AA)


def _tint(picture: Image, patch: Patch, to_display: align.Affine) -> None:
    """Lays the map over its face, with its outline at one half."""
    to_crop = align.compose(patch.transform, align.invert(to_display))
    edges = align.corners(to_crop, patch.map.shape[0])
    limit = np.array(picture.shape[1::-1])
    low = np.clip(np.floor(edges.min(axis=0)), 0, limit).astype(int)
    high = np.clip(np.ceil(edges.max(axis=0)) + 1, 0, limit).astype(int)
    if (high <= low).any():
        return
    part = picture[low[1] : high[1], low[0] : high[0]]
    from_part = align.compose(to_crop, np.array([[1.0, 0.0, low[0]], [0.0, 1.0, low[1]]]))
    cover = np.asarray(cv2.warpAffine(patch.map, align.invert(from_part), (part.shape[1], part.shape[0])))
    colour = ON if patch.strength > 0 else OFF
    share = (cover.astype(np.float32) * (TINT / 255))[..., None]
    part[:] = (part + (np.array(colour, np.float32) - part) * share + 0.5).astype(np.uint8)
    outlines, _ = cv2.findContours((cover > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    drawn = np.ascontiguousarray(part)
    cv2.drawContours(drawn, outlines, -1, colour, _thick(picture), cv2.LINE_AA)
    part[:] = drawn
