"""Things in front of a face: heads of other people, hair, hands, seats, whatever is held up. None of it is mask.

In a crowd a mask is seen past somebody's head. A map that has only seen masks whole takes that head for a part of them,
and a face is drawn over it.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from trainer.augment import SIZE, Planes
from trainer.masks import any_colour, value_noise

LEAST_SEEN = 0.2
"""Share of a mask that has to stay in view; where a thing covers more, another is drawn."""
EYES = slice(60, 104)
"""Rows of an aligned crop with the eyes, and `EYES_SEEN` the share of them that has to stay in view."""
EYES_SEEN = 0.75
TRIES = 6
HAIRS = ((0.06, 0.055, 0.055), (0.12, 0.09, 0.07), (0.27, 0.19, 0.13), (0.5, 0.37, 0.23), (0.7, 0.58, 0.42),
         (0.45, 0.25, 0.16), (0.55, 0.55, 0.55), (0.8, 0.79, 0.77))  # fmt: skip
"""Colours of hair, 0..1 RGB: black (most), browns, blond, red, grey, white."""
HAIR_SHARES = (0.36, 0.16, 0.14, 0.09, 0.07, 0.05, 0.08, 0.05)

Rng = np.random.Generator
Thing = tuple[np.ndarray, np.ndarray]
"""A picture float32[256, 256, 3] of 0..255 and its cover float32[256, 256] of 0..1."""


def put_in_front(planes: Planes, another: np.ndarray, rng: Rng) -> Planes:
    """Draws something in front of the lower face, into the masked picture and the truth alike.

    Args:
        planes: as for the jitters.
        another: uint8[256, 256, 3], somebody else's crop, masked or not.
        rng: of what, where and how.

    Returns:
        The four, alpha without what is hidden; as they were where nothing fits.
    """
    masked, truth, alpha, valid = planes
    worn = float(alpha.sum())
    for _ in range(TRIES):
        draw = _THINGS[int(rng.choice(len(_THINGS), p=_SHARES))]
        picture, cover = draw(another, rng)
        rest = alpha * (1 - cover)
        if cover[EYES, 64:192].mean() > 1 - EYES_SEEN or (worn and rest.sum() < LEAST_SEEN * worn):
            continue
        picture = picture * np.exp(rng.normal(0, 0.2))
        if rng.random() < 0.5:  # nearer than the face, and so out of focus
            sigma = float(rng.uniform(0.7, 5))
            picture, cover = (cv2.GaussianBlur(p.astype(np.float32), (0, 0), sigma) for p in (picture, cover))
            rest = alpha * (1 - cover)
        masked, truth = (
            np.clip(p + (picture - p) * cover[..., None] + 0.5, 0, 255).astype(np.uint8) for p in (masked, truth)
        )
        return masked, truth, (rest + 0.5).astype(np.uint8), valid
    return planes


def _someone(another: np.ndarray, rng: Rng) -> Thing:
    """Another one's head, from the hair down: of crops, which end at the hair, the upper rim is bent to a dome."""
    scale, angle = float(np.exp(rng.normal(0, 0.3))), float(rng.normal(0, 12))
    matrix = cv2.getRotationMatrix2D((127.5, 127.5), angle, scale)
    top = _top(rng)
    matrix[:, 2] += rng.uniform(-110, 110), top - (127.5 - 124 * scale)
    if rng.random() < 0.5:
        matrix = matrix @ np.array([[-1, 0, 255], [0, 1, 0], [0, 0, 1.0]])
    shape = np.zeros((SIZE, SIZE), np.uint8)  # OpenCV smooths edges in bytes only
    wide = float(rng.uniform(84, 112))
    cv2.ellipse(shape, (128, 128), (round(wide), 126), 0, 180, 360, 255, -1, cv2.LINE_AA)
    cv2.rectangle(shape, (round(128 - wide), 128), (round(128 + wide), 400), 255, -1)
    picture = cv2.warpAffine(another, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    cover = cv2.warpAffine(shape, matrix, (SIZE, SIZE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return picture.astype(np.float32), _frayed(cover.astype(np.float32) / 255, rng)


def _hair(another: np.ndarray, rng: Rng) -> Thing:
    """A head from behind or above: a dome of hair with strands and a sheen."""
    middle, top = rng.uniform(0, 256), _top(rng)
    wide, high = rng.uniform(45, 130), rng.uniform(50, 150)
    x, y = np.arange(SIZE, dtype=np.float32) - middle, np.arange(SIZE, dtype=np.float32)[:, None] - top
    power = rng.uniform(1.8, 2.8)
    down = np.clip(1 - y / high, 0, None)
    inside = 1 - (np.abs(x) / wide) ** power - down**power  # above 0 inside of the dome
    cover = np.clip(inside * min(wide, high) / 2 / rng.uniform(1, 4) + 0.5, 0, 1).astype(np.float32)
    colour = np.array(HAIRS[int(rng.choice(len(HAIRS), p=HAIR_SHARES))]) * np.exp(rng.normal(0, 0.25))
    across = np.arctan2(x, np.maximum(y + high * rng.uniform(0.2, 1.0), 4))  # strands run from the crown down
    strands = value_noise(rng, (1, 512), (int(rng.integers(60, 200)), 2))[0]
    strand = strands[np.clip((across / np.pi + 0.5) * 511, 0, 511).astype(np.int32)]
    sheen = np.exp(-(((y - high * rng.uniform(0.2, 0.6)) / (high * rng.uniform(0.1, 0.35))) ** 2))
    light = 1 + strand * rng.uniform(0.1, 0.5) + sheen * rng.uniform(0, 0.9)
    light = light + value_noise(rng, (SIZE, SIZE), (6, 6)) * rng.uniform(0, 0.3)
    return (colour * 255 * light[..., None]).astype(np.float32), _frayed(cover, rng)


def _object(another: np.ndarray, rng: Rng) -> Thing:
    """A seat, a telephone, a cup, a microphone, a sheet of paper: one colour in some light, or a cut of a picture."""
    shape = np.zeros((SIZE, SIZE), np.uint8)
    kind = rng.random()
    if kind < 0.15:  # what stands in front, up to the crop's lower border
        x = np.arange(SIZE, dtype=np.float32)
        edge = _top(rng) + (x - 128) * rng.normal(0, 0.25)
        edge = edge + (np.abs(x - rng.uniform(0, 256)) / rng.uniform(60, 250)) ** rng.uniform(1.5, 4) * 40
        shape = (np.clip(np.arange(SIZE, dtype=np.float32)[:, None] - edge + 0.5, 0, 1) * 255).astype(np.uint8)
    else:
        at = float(rng.uniform(20, 236)), float(rng.uniform(120, 256))
        size = rng.uniform(14, 60), rng.uniform(14, 60)
        if kind < 0.7:
            cv2.ellipse(shape, (at, (2 * size[0], 2 * size[1]), float(rng.uniform(0, 180))), 255, -1, cv2.LINE_AA)
        else:
            corners = cv2.boxPoints((at, (2 * size[0], 2 * size[1]), float(rng.uniform(0, 180))))
            cv2.fillConvexPoly(shape, np.round(corners).astype(np.int32), 255, cv2.LINE_AA)
        if rng.random() < 0.4:  # and what holds it
            end = at[0] + rng.normal(0, 40), 300.0
            ends = [tuple(int(v) for v in point) for point in (at, end)]
            cv2.line(shape, ends[0], ends[1], 255, int(rng.integers(6, 40)), cv2.LINE_AA)
    if rng.random() < 0.35:
        side = int(rng.integers(40, 200))
        left, top = rng.integers(0, SIZE - side, 2)
        cut = another[top : top + side, left : left + side]
        picture = cv2.resize(cut, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR).astype(np.float32)
    else:
        ramp = np.linspace(-1, 1, SIZE, dtype=np.float32)
        light = 1 + ramp * rng.normal(0, 0.2) + ramp[:, None] * rng.normal(0, 0.2)
        cells = int(rng.integers(2, 30)), int(rng.integers(2, 30))
        light = light + value_noise(rng, (SIZE, SIZE), cells) * rng.uniform(0, 0.25)
        picture = any_colour(rng) * np.float32(255) * light[..., None]
    return picture, shape.astype(np.float32) / 255


def _fingers(another: np.ndarray, rng: Rng) -> Thing:
    """A hand before mouth, chin or cheek."""
    cover = np.zeros((SIZE, SIZE), np.uint8)
    layer = np.zeros((SIZE, SIZE, 3), np.uint8)
    hand(layer, cover, np.array([rng.uniform(40, 216), rng.uniform(130, 240)]), float(rng.uniform(30, 75)), rng)
    return layer.astype(np.float32), cover.astype(np.float32) / 255


def _top(rng: Rng) -> float:
    """Row of the upper end of what rises from below: between the nose and the chin."""
    return float(rng.uniform(105, 240))


def _frayed(cover: np.ndarray, rng: Rng) -> np.ndarray:
    """An edge that waves a little, as hair does."""
    bend = [value_noise(rng, (SIZE, SIZE), (14, 14)) * np.float32(rng.uniform(0, 5)) for _ in range(2)]
    x, y = np.arange(SIZE, dtype=np.float32), np.arange(SIZE, dtype=np.float32)[:, None]
    return np.asarray(cv2.remap(cover, x + bend[0], y + bend[1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))


def skin(rng: Rng) -> np.ndarray:
    """A colour of skin under some light, uint8[3]."""
    dark, light = np.array([70, 45, 35]), np.array([240, 205, 180])
    colour = dark + (light - dark) * rng.random() + rng.normal(0, 8, 3)
    return np.clip(colour, 0, 255).astype(np.uint8)


def hand(layer: np.ndarray, alpha: np.ndarray, centre: np.ndarray, unit: float, rng: Rng) -> None:
    """Draws a palm and fingers in skin colour, shaded.

    Args:
        layer: uint8[S, S, 3], drawn on.
        alpha: uint8[S, S] of zeros, its cover.
        centre: of the palm, float[2] pixels.
        unit: the palm's size in pixels.
        rng: of colour and pose.
    """
    colour = skin(rng).astype(np.float32)
    angle = rng.uniform(0, 2 * np.pi)
    cv2.ellipse(alpha, whole(centre), whole((unit * 0.5, unit * 0.6)), float(np.degrees(angle)), 0, 360, 255, -1)
    for i in range(int(rng.integers(2, 6))):
        a = angle + (i - 1.8) * 0.28 + rng.normal(0, 0.05)
        tip = centre + unit * rng.uniform(0.9, 1.5) * np.array([np.cos(a), np.sin(a)])
        cv2.line(alpha, whole(centre), whole(tip), 255, max(2, round(unit * rng.uniform(0.14, 0.22))), cv2.LINE_AA)
    edges = cv2.GaussianBlur(alpha, (0, 0), max(1.0, unit * 0.08)).astype(np.float32)[..., None] / 255
    layer[:] = np.clip(colour * (0.55 + 0.45 * edges) + rng.normal(0, 3, layer.shape), 0, 255).astype(np.uint8)


def whole(point: object) -> tuple[int, int]:
    """A point in whole pixels, as OpenCV draws at."""
    x, y = np.round(np.asarray(point, np.float64))
    return int(x), int(y)


_THINGS: tuple[Callable[[np.ndarray, Rng], Thing], ...] = (_someone, _hair, _object, _fingers)
_SHARES = (0.35, 0.3, 0.22, 0.13)
