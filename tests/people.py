"""A composed clip of five people with known truth: where everybody's face is in each frame, and who wears a mask.

The people are the sample picture's head, mirrored, tinted and squeezed, with drawn masks on two of them, over a smooth
background. They sway a little; one turns away and back, one leaves the picture, two cross, the masked one in front.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.masks import draw_mask
from unmask_rt import sample
from unmask_rt.align import MESH_ANCHORS, TEMPLATE, Affine, Image, Points, apply, compose

SIZE = 960, 540
RATE = 25
FRAMES = 80
MASK_BLUE = np.array([95.0, 150.0, 215.0])
TURN = 18, 58
"""Frames between which the one who turns away is not seen from the front."""


@dataclass(frozen=True, slots=True)
class Person:
    """One of the people.

    Attributes:
        picture: uint8[512, 512, 3], with the mask if one is worn.
        cover: float32[512, 512], which pixels of it are the person's.
        anchors: float32[6, 2] in it, in the order of `MESH_ANCHORS`.
        masked: a mask is worn.
        width: pixels of the face in the clip.
    """

    picture: Image
    cover: NDArray[np.float32]
    anchors: Points
    masked: bool
    width: float


@dataclass(frozen=True, slots=True)
class Truth:
    """Where one person's face is in one frame.

    Attributes:
        anchors: float32[6, 2], pixels of the frame.
        seen: the face is wholly in the picture, not turned away and not behind somebody.
    """

    anchors: Points
    seen: bool


def people() -> list[Person]:
    """The five, always the same."""
    return [
        _person((1.0, 1.0, 1.0), hair=(1.0, 1.0, 1.0), masked=True, width=92),
        _person((0.74, 0.66, 0.60), hair=(0.35, 0.32, 0.35), mirror=True, width=88),
        _person((1.04, 0.95, 0.88), hair=(1.25, 0.75, 0.45), width=84),
        _person((0.86, 0.80, 0.76), hair=(0.55, 0.50, 0.55), mirror=True, masked=True, width=96),
        _person((1.05, 1.02, 0.98), hair=(1.35, 1.32, 1.25), width=90),
    ]


def frames() -> Iterator[tuple[Image, dict[int, Truth]]]:
    """Pictures uint8[540, 960, 3] and, by the person's number, the truth about them."""
    cast = people()
    width, height = SIZE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    background = np.stack([125 + 25 * np.sin(x / 170), 120 + 25 * np.cos(y / 110), 110 + 15 * np.sin((x + y) / 140)], 2)
    rng = np.random.default_rng(4)
    for k in range(FRAMES):
        canvas = background.copy()
        where = {i: _path(i, k) for i in range(5)}
        truth: dict[int, Truth] = {}
        for i in (0, 1, 2, 4, 3):  # the fourth passes in front of the fifth
            centre, squeeze = where[i]
            to_frame = _place(cast[i], centre, squeeze, roll=0.04 * np.sin(k / 9 + i))
            _paste(canvas, cast[i], to_frame, hidden=i == 1 and squeeze < 0.4)
            anchors = apply(to_frame, cast[i].anchors)
            inside = bool((anchors > 12).all() and (anchors < np.array(SIZE) - 12).all())
            behind = i == 4 and abs(where[3][0][0] - centre[0]) < 1.1 * cast[3].width
            truth[i] = Truth(anchors, inside and squeeze > 0.85 and not behind)
        noise = rng.normal(0, 1.5, (height, width, 1))
        yield np.clip(canvas + noise, 0, 255).astype(np.uint8), truth


def _path(i: int, k: int) -> tuple[tuple[float, float], float]:
    """Centre of a person's face in frame ``k`` and how far the head is squeezed by its turn."""
    sway = 3.0 * np.sin(k / 7 + 2 * i), 2.0 * np.cos(k / 11 + i)
    squeeze = 1.0
    match i:
        case 0:
            x, y = 150.0, 150.0
        case 1:
            x, y = 430.0, 150.0
            begin, end = TURN
            if begin <= k <= end:
                squeeze = float(np.clip(1.0 - 0.9 * np.sin(np.pi * (k - begin) / (end - begin)), 0.25, 1.0))
        case 2:
            x, y = 760.0 + max(0.0, k - 25.0) * 7.0, 150.0
        case 3:
            x, y = 330.0 + 4.0 * k, 390.0
        case _:
            x, y = 650.0 - 4.0 * k, 380.0
    return (x + sway[0], y + sway[1]), squeeze


def _person(
    skin: tuple[float, float, float],
    *,
    hair: tuple[float, float, float],
    mirror: bool = False,
    masked: bool = False,
    width: float,
) -> Person:
    picture, mesh = sample.astronaut(), sample.astronaut_mesh()
    worn = np.zeros(picture.shape[:2], np.float32)
    cloth = picture
    if masked:
        cloth, worn = draw_mask(picture, mesh, np.random.default_rng(1), "surgical")
    grey = cv2.cvtColor(cloth, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    oval = mesh[[10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176,
                 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109]]  # fmt: skip
    face = np.zeros(picture.shape[:2], np.float32)
    cv2.fillPoly(face, [np.round(oval).astype(np.int32)], 1.0)
    face = np.asarray(cv2.GaussianBlur(face, (0, 0), 4))[..., None]
    tinted = picture * (np.array(skin) * face + np.array(hair) * (1 - face))
    blue = MASK_BLUE * (grey / max(1.0, float(grey[worn > 0.5].mean()) if masked else 1.0))
    share = worn[..., None]
    low, high = mesh.min(axis=0), mesh.max(axis=0)
    cover = np.zeros(picture.shape[:2], np.float32)
    centre = (low + high) / 2 - (0, 0.12 * (high[1] - low[1]))
    radii = 0.72 * (high[0] - low[0]), 0.72 * (high[1] - low[1])
    cv2.ellipse(cover, (*map(int, centre),), (*map(int, radii),), 0, 0, 360, 1.0, -1)
    chin, wide = mesh[152], high[0] - low[0]
    body = chin + wide * np.array([[-0.4, -0.15], [0.4, -0.15], [1.2, 0.45], [1.3, 1.1], [-1.3, 1.1], [-1.2, 0.45]])
    cv2.fillConvexPoly(cover, np.round(body).astype(np.int32), 1.0)
    cover = np.asarray(cv2.GaussianBlur(cover, (0, 0), 3))
    out = np.clip(tinted * (1 - share) + blue * share, 0, 255).astype(np.uint8)
    anchors = mesh[list(MESH_ANCHORS)].astype(np.float32)
    if mirror:
        out, cover = np.ascontiguousarray(out[:, ::-1]), np.ascontiguousarray(cover[:, ::-1])
        anchors[:, 0] = 511 - anchors[:, 0]
        anchors = anchors[[3, 2, 1, 0, 4, 5]]
    return Person(out, cover, anchors, masked, width)


def _place(person: Person, centre: tuple[float, float], squeeze: float, roll: float) -> Affine:
    """Affine from the person's picture to the frame."""
    eyes = float(np.ptp(person.anchors[:, 0])) / float(np.ptp(TEMPLATE[:, 0]))  # side of the crop
    zoom = person.width / (0.64 * eyes)
    middle = person.anchors.mean(axis=0)
    turn = np.array([[np.cos(roll), -np.sin(roll), centre[0]], [np.sin(roll), np.cos(roll), centre[1]]])
    return compose(turn, np.array([[zoom * squeeze, 0, -zoom * squeeze * middle[0]], [0, zoom, -zoom * middle[1]]]))


def _paste(canvas: NDArray[np.float32], person: Person, to_frame: Affine, *, hidden: bool) -> None:
    """Lays a person over the picture; of a head that is turned away only hair is to be seen."""
    cover = np.asarray(cv2.warpAffine(person.cover, to_frame, SIZE))[..., None]
    picture = person.picture
    if hidden:
        picture = np.asarray(cv2.GaussianBlur(np.full_like(picture, (52, 38, 30)), (0, 0), 2))
    shown = cv2.warpAffine(picture, to_frame, SIZE, flags=cv2.INTER_AREA if hidden else cv2.INTER_LINEAR)
    canvas += (shown - canvas) * cover
