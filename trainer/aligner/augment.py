"""What samples for the aligner go through: crops that are off, things in the way, light and camera."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.aligner.network import CROP, ZOOM
from trainer.augment import as_jpeg
from trainer.front import hand, whole
from unmask_rt.align import TEMPLATE, Affine, Image

CENTRE = (CROP - 1) / 2
SIDE = CROP / ZOOM
"""Pixels of the canonical crop's side in the input."""
ABOVE = float(TEMPLATE[:, 1].mean()) - 0.5
"""Where the anchors' middle lies below the crop's, in sides."""
EYES = 0.39 * SIDE
"""Pixels between a frontal face's outer eye corners in the input."""


def jitter(rng: np.random.Generator, wide: float = 0.25) -> tuple[float, float, float, float]:
    """Angle (radians), natural logarithm of scale, and shift (input pixels) by which an expected pose is off.

    CenterFace's eyes miss by 8 % of their distance (median; p90 13 %), which is 3 % of the crop's side in place, 10 %
    in size and 6 degrees; a share ``wide`` is off by what a face moves while it is lost.
    """
    if rng.random() < wide:
        angle, scale, shift = rng.normal(0, 0.28), rng.normal(0, 0.2), rng.normal(0, 0.11, 2)
    else:
        angle, scale, shift = rng.normal(0, 0.10), rng.normal(0, 0.09), rng.normal(0, 0.035, 2)
    x, y = np.clip(shift, -0.3, 0.3) * SIDE
    return float(np.clip(angle, -0.7, 0.7)), float(np.clip(scale, -0.45, 0.45)), float(x), float(y)


def view(off: tuple[float, float, float, float], size: int, zoom: float, grown: float, mirror: bool) -> Affine:
    """Affine from a loose crop to the input.

    Args:
        off: `jitter`.
        size: side of the loose crop in pixels.
        zoom: the same in canonical sides.
        grown: how much larger the expected pose is than the fit to the eyes.
        mirror: left and right change places.
    """
    angle, log_scale, x, y = off
    scale = CROP / size * zoom / ZOOM / grown * np.exp(log_scale)
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[c, -s], [s, c]])
    if mirror:
        linear = linear @ np.diag([-1.0, 1.0])
    middle = (size - 1) / 2
    # A pose stands on the anchors' middle, which lies above the crop's: it turns and grows about that.
    eyes = np.array([middle, middle + ABOVE * size / zoom])
    target = np.array([CENTRE + x, CENTRE + ABOVE * SIDE + y])
    return np.hstack([linear, (target - linear @ eyes)[:, None]])


def surround(picture: Image, inside: Image, other: Image, rng: np.random.Generator) -> Image:
    """What lies outside the picture a face was cut from repeats its border; here it becomes another one's content.

    Args:
        picture: uint8[S, S, 3].
        inside: uint8[S, S], 255 inside the picture.
        other: uint8[S, S, 3].
    """
    if rng.random() < 0.3:
        other = np.broadcast_to(rng.integers(0, 256, 3, dtype=np.uint8), picture.shape)
    return np.where(inside[..., None] > 127, picture, other)


def blend(picture: Image, over: Image, alpha: Image) -> Image:
    """uint8[S, S, 3] with ``over`` laid on it where alpha (uint8[S, S]) says."""
    share = (alpha.astype(np.float32) / 255)[..., None]
    return (picture + (over.astype(np.float32) - picture) * share + 0.5).astype(np.uint8)


def occlude(picture: Image, eyes: NDArray[np.float32], mouth: NDArray[np.float32], rng: np.random.Generator) -> Image:
    """Draws one thing that gets in the way: glasses, hand, cap, hair, microphone, or anything.

    Args:
        picture: uint8[S, S, 3] RGB; drawn on a copy.
        eyes: float32[4, 2] eye corners in input pixels, from the picture's left to its right.
        mouth: float32[2], about the mouth.
    """
    out = picture.copy()
    draw = (_glasses, _glasses, _hand, _hand, _cap, _hair, _microphone, _anything)[rng.integers(8)]
    layer, alpha = out.copy(), np.zeros(out.shape[:2], np.uint8)
    draw(layer, alpha, eyes, mouth, rng)
    if rng.random() < 0.5:
        alpha = np.asarray(cv2.GaussianBlur(alpha, (0, 0), float(rng.uniform(0.4, 1.2))))
    return blend(out, layer, alpha)


def _glasses(layer: Image, alpha: Image, eyes: np.ndarray, mouth: np.ndarray, rng: np.random.Generator) -> None:
    across = eyes[3] - eyes[0]
    width = float(np.hypot(*across))
    angle = float(np.degrees(np.arctan2(across[1], across[0])))
    colour = rng.integers(0, 80, 3) if rng.random() < 0.7 else rng.integers(0, 256, 3)
    layer[:] = colour.astype(np.uint8)
    lens = int(rng.choice([0, 0, 40, 90, 200, 245]))
    thick = int(rng.integers(1, 4))
    size = (width * rng.uniform(0.24, 0.33), width * rng.uniform(0.16, 0.27))
    centres = [(eyes[0] + eyes[1]) / 2, (eyes[2] + eyes[3]) / 2]
    down = np.array([-across[1], across[0]]) / max(width, 1) * width * rng.uniform(-0.02, 0.08)
    for centre in centres:
        if lens:
            cv2.ellipse(alpha, whole(centre + down), whole(size), angle, 0, 360, lens, -1)
        cv2.ellipse(alpha, whole(centre + down), whole(size), angle, 0, 360, 255, thick, cv2.LINE_AA)
    cv2.line(alpha, whole(eyes[1] + down), whole(eyes[2] + down), 255, thick, cv2.LINE_AA)
    if rng.random() < 0.5:  # a reflection
        at = centres[rng.integers(2)] + rng.normal(0, width * 0.06, 2)
        cv2.line(alpha, whole(at), whole(at + rng.normal(0, width * 0.12, 2)), 200, 2, cv2.LINE_AA)
        layer[:] = np.maximum(layer, 255 * (rng.random() < 0.3))


def _hand(layer: Image, alpha: Image, eyes: np.ndarray, mouth: np.ndarray, rng: np.random.Generator) -> None:
    near = mouth if rng.random() < 0.6 else eyes[rng.integers(4)]
    hand(layer, alpha, near + rng.normal(0, 14, 2), float(rng.uniform(14, 34)), rng)


def _cap(layer: Image, alpha: Image, eyes: np.ndarray, mouth: np.ndarray, rng: np.random.Generator) -> None:
    middle = eyes.mean(axis=0)
    up = (middle - mouth) / max(float(np.hypot(*(middle - mouth))), 1)
    across = np.array([-up[1], up[0]])
    low = middle + up * rng.uniform(6, 22)
    corners = [low - 70 * across, low + 70 * across, low + 70 * across + 90 * up, low - 70 * across + 90 * up]
    cv2.fillConvexPoly(alpha, np.round(corners).astype(np.int32), 255, cv2.LINE_AA)
    if rng.random() < 0.5:  # a peak
        cv2.ellipse(alpha, whole(low), whole((rng.uniform(25, 45), rng.uniform(3, 9))), _angle(across), 0, 360, 255, -1)
    layer[:] = rng.integers(0, 256, 3, dtype=np.uint8)
    _stripes(layer, rng)


def _hair(layer: Image, alpha: Image, eyes: np.ndarray, mouth: np.ndarray, rng: np.random.Generator) -> None:
    middle = eyes.mean(axis=0)
    up = (middle - mouth) / max(float(np.hypot(*(middle - mouth))), 1)
    across = np.array([-up[1], up[0]]) * rng.choice([-1, 1])
    for _ in range(int(rng.integers(3, 14))):
        start = middle + up * rng.uniform(25, 45) + across * rng.uniform(-20, 35)
        end = middle - up * rng.uniform(-20, 25) + across * rng.uniform(0, 40)
        bend = (start + end) / 2 + rng.normal(0, 6, 2)
        line = np.round([start, bend, end]).astype(np.int32)
        cv2.polylines(alpha, [line], False, 255, int(rng.integers(1, 5)), cv2.LINE_AA)
    layer[:] = np.clip(rng.uniform(5, 120) * np.array([1.0, 0.75, 0.55]) + rng.normal(0, 10, 3), 0, 255).astype(
        np.uint8
    )


def _microphone(layer: Image, alpha: Image, eyes: np.ndarray, mouth: np.ndarray, rng: np.random.Generator) -> None:
    at = mouth + rng.normal(0, 9, 2) + (0, 8)
    radius = float(rng.uniform(5, 13))
    cv2.ellipse(alpha, whole(at), whole((radius, radius * rng.uniform(1, 1.5))), 0, 0, 360, 255, -1)
    cv2.line(alpha, whole(at), whole((at[0] + rng.normal(0, 20), at[1] + 80)), 255, max(2, round(radius)), cv2.LINE_AA)
    layer[:] = rng.integers(0, 90, 3, dtype=np.uint8)
    _stripes(layer, rng)


def _anything(layer: Image, alpha: Image, eyes: np.ndarray, mouth: np.ndarray, rng: np.random.Generator) -> None:
    at = rng.uniform(0, CROP, 2)
    size = rng.uniform(8, 36, 2)
    if rng.random() < 0.5:
        cv2.ellipse(alpha, whole(at), whole(size), float(rng.uniform(0, 180)), 0, 360, 255, -1)
    else:
        box = cv2.boxPoints((tuple(at), tuple(size * 1.6), float(rng.uniform(0, 180))))
        cv2.fillConvexPoly(alpha, np.round(box).astype(np.int32), 255)
    layer[:] = rng.integers(0, 256, 3, dtype=np.uint8)
    _stripes(layer, rng)


def _stripes(layer: Image, rng: np.random.Generator) -> None:
    if rng.random() < 0.5:
        coarse = rng.normal(0, 25, (int(rng.integers(2, 12)), int(rng.integers(2, 12)), 3)).astype(np.float32)
        grain = cv2.resize(coarse, layer.shape[1::-1], interpolation=cv2.INTER_CUBIC)
        layer[:] = np.clip(layer + grain, 0, 255).astype(np.uint8)


def _angle(across: np.ndarray) -> float:
    return float(np.degrees(np.arctan2(across[1], across[0])))


def shoot(picture: Image, rng: np.random.Generator) -> Image:
    """What light and camera do: exposure, casts, few pixels, blur, noise, compression."""
    if rng.random() < 0.6:  # exposure, contrast, low light
        low = rng.random() < 0.2
        gain = rng.uniform(0.15, 0.5) if low else rng.uniform(0.6, 1.35)
        values = np.linspace(0, 1, 256) ** np.exp(rng.normal(0, 0.25)) * gain + rng.normal(0, 0.04)
        curve = np.clip(values * 255, 0, 255).astype(np.uint8)
        picture = np.asarray(cv2.LUT(picture, curve))
    if rng.random() < 0.35:  # coloured light
        light = np.exp(rng.normal(0, 0.22, 3))
        picture = (picture * np.minimum(light / light.max(), 1.0) + 0.5).astype(np.uint8)
    if rng.random() < 0.06:
        picture = np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    if rng.random() < 0.15:  # light from one side
        ramp = np.linspace(rng.uniform(0.3, 1), rng.uniform(0.3, 1), CROP, dtype=np.float32)
        ramp = ramp[None, :, None] if rng.random() < 0.7 else ramp[:, None, None]
        picture = (picture * ramp).astype(np.uint8)
    if rng.random() < 0.3:  # few pixels
        few = round(CROP / rng.uniform(1.3, 5))
        small = cv2.resize(picture, (few, few), interpolation=cv2.INTER_AREA)
        picture = np.asarray(cv2.resize(small, (CROP, CROP), interpolation=cv2.INTER_LINEAR))
    kind = rng.random()
    if kind < 0.12:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 1.8))))
    elif kind < 0.2:  # motion
        length = int(rng.integers(3, 10))
        kernel = np.zeros((length, length), np.float32)
        a = rng.uniform(0, np.pi)
        reach = (length - 1) / 2 * np.array([np.cos(a), np.sin(a)])
        middle = np.array([(length - 1) / 2] * 2)
        cv2.line(kernel, whole(middle - reach), whole(middle + reach), 1.0, 1)
        picture = np.asarray(cv2.filter2D(picture, -1, kernel / kernel.sum()))
    if rng.random() < 0.3:
        noise = rng.normal(0, rng.uniform(1, 9), picture.shape[:2] if rng.random() < 0.5 else picture.shape)
        noise = noise.astype(np.float32)
        picture = np.clip(picture + (noise if noise.ndim == 3 else noise[..., None]), 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        picture = as_jpeg(picture, int(rng.integers(15, 85)))
    return np.ascontiguousarray(picture, np.uint8)


def nothing(loose: Image, other: Image, rng: np.random.Generator) -> Image:
    """A crop without a face where one should be: backgrounds, necks, hands, pieces of faces, faces far off or upside
    down.

    Args:
        loose: uint8[S, S, 3], a loose crop of somebody.
        other: another one's.
    """
    kind = rng.random()
    size = len(loose)
    if kind < 0.3:  # a piece, magnified: cheek, neck, hair, background
        side = rng.uniform(0.12, 0.3) * size
        x, y = rng.uniform(0, size - side, 2)
        scale = CROP / side
        matrix = np.array([[scale, 0, -x * scale], [0, scale, -y * scale]])
        return np.asarray(cv2.warpAffine(loose, matrix, (CROP, CROP), borderMode=cv2.BORDER_REFLECT))
    if kind < 0.55:  # far off: the rest of the window shows another picture's rim
        angle = rng.uniform(0, 2 * np.pi)
        shift = CROP * rng.uniform(0.62, 0.85) * np.array([np.cos(angle), np.sin(angle)])
        scale = CROP / size * 1.9 / ZOOM * np.exp(rng.normal(0, 0.15))
        middle = np.array([(size - 1) / 2] * 2)
        matrix = np.hstack([scale * np.eye(2), (CENTRE + shift - scale * middle)[:, None]])
        return np.asarray(cv2.warpAffine(loose, matrix, (CROP, CROP), borderMode=cv2.BORDER_REFLECT_101 if
                                         rng.random() < 0.2 else cv2.BORDER_REPLICATE))  # fmt: skip
    if kind < 0.68:  # on its side or upside down
        angle = float(rng.uniform(65, 295))
        matrix = cv2.getRotationMatrix2D(((size - 1) / 2,) * 2, angle, CROP / size * rng.uniform(1.1, 1.5))
        matrix[:, 2] += CENTRE - (size - 1) / 2
        return np.asarray(cv2.warpAffine(loose, matrix, (CROP, CROP), borderMode=cv2.BORDER_REPLICATE))
    if kind < 0.78:  # shuffled pieces
        small = cv2.resize(loose, (CROP, CROP), interpolation=cv2.INTER_AREA)
        n = int(rng.choice([3, 4, 5]))
        piece = CROP // n
        out = np.asarray(cv2.resize(other, (CROP, CROP), interpolation=cv2.INTER_AREA))
        places = [(r * piece, c * piece) for r in range(n) for c in range(n)]
        for (r, c), k in zip(places, rng.permutation(len(places)), strict=True):
            y, x = places[k]
            out[r : r + piece, c : c + piece] = small[y : y + piece, x : x + piece]
        return out
    out = np.asarray(cv2.resize(np.asarray(other[: size // 4]), (CROP, CROP), interpolation=cv2.INTER_AREA))
    if kind < 0.86:  # gradients and noise
        out[:] = rng.integers(0, 256, 3, dtype=np.uint8)
        _stripes(out, rng)
    if kind < 0.96:  # a hand or two
        for _ in range(int(rng.integers(1, 3))):
            layer, alpha = out.copy(), np.zeros((CROP, CROP), np.uint8)
            hand(layer, alpha, rng.normal(CENTRE, 18, 2), float(rng.uniform(18, 48)), rng)
            out = blend(out, layer, alpha)
    return out
