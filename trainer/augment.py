"""Augmentation: what a sample goes through before a network sees it.

Every jitter takes (masked and truth uint8[256, 256, 3], alpha and valid uint8[256, 256]), a random generator
and the side of the samples, and gives the four at that side. Geometry is the same for all four; light, blur, noise and
JPEG stay away from alpha and valid.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from trainer.masks import any_colour, value_noise

SIZE = 256
Planes = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Jitter = Callable[[Planes, np.random.Generator, int], Planes]


def valid_of(corners: np.ndarray) -> np.ndarray:
    """Where a crop lies inside its picture: uint8[256, 256], 0 or 255, of float[4, 2] corners."""
    valid = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillConvexPoly(valid, np.round(corners).astype(np.int32), 255)
    return valid


def tone_curve(rng: np.random.Generator) -> np.ndarray:
    """A random exposure, contrast, gamma and white balance as a lookup table uint8[256, 1, 3]."""
    x = np.linspace(0, 1, 256)[:, None] ** np.exp(rng.normal(0, 0.18))
    x = (x - 0.5) * np.exp(rng.normal(0, 0.1)) + 0.5 + rng.normal(0, 0.03)
    x = x * np.exp(rng.normal(0, 0.12) + rng.normal(0, 0.04, 3))
    return np.clip(x * 255 + 0.5, 0, 255).astype(np.uint8).reshape(256, 1, 3)


def dress(picture: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Clothes drawn up to the neck or over the chin, behind the mask, often in the mask's own colour.

    A gown, a scrub or a pullover that touches the mask must not be taken for a part of it.

    Args:
        picture: uint8[256, 256, 3], an aligned crop.
        alpha: uint8[256, 256], the coverage of the mask in it, which stays in front.
        rng: of colour, neckline and folds.
    """
    lower = float(np.nonzero(alpha.max(1) > 127)[0].max(initial=200))
    middle, edge = rng.uniform(70, 186), lower + rng.uniform(-25, 35)
    x = np.arange(SIZE, dtype=np.float32)
    reach = np.abs(x - middle) / rng.uniform(60, 130)
    neckline = edge - rng.uniform(5, 90) * reach ** rng.uniform(0.8, 2.0) + (x - 128) * rng.normal(0, 0.25)
    below = np.arange(SIZE, dtype=np.float32)[:, None] - neckline
    cover = np.clip(below / rng.uniform(0.7, 2.5) + 0.5, 0, 1)[..., None] * (1 - alpha[..., None] / np.float32(255))
    if alpha.any() and rng.random() < 0.75:
        colour = np.median(picture[alpha > 200], 0) if (alpha > 200).any() else any_colour(rng) * 255
        colour = colour * np.exp(rng.normal(0, 0.2)) + rng.normal(0, 10, 3)
    else:
        colour = any_colour(rng) * 255
    folds = value_noise(rng, (SIZE, SIZE), (int(rng.integers(2, 9)), int(rng.integers(2, 7)))) * rng.uniform(0, 0.35)
    rim = np.exp(-(((below - rng.uniform(3, 10)) / 2) ** 2)) * rng.uniform(-0.3, 0.2) * (rng.random() < 0.6)
    cloth = colour * (1 + folds + rim)[..., None]
    return np.clip(picture + (cloth - picture) * cover + 0.5, 0, 255).astype(np.uint8)


def stand_off(
    masked: np.ndarray, alpha: np.ndarray, rng: np.random.Generator, way: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Pulls one side of a mask outwards, as real ones stand off the cheek and stick out behind a turned face.

    Args:
        masked: uint8[S, S, 3], an aligned crop.
        alpha: uint8[S, S], the coverage of the mask in it.
        rng: of the side and of how far.
        way: above 0 for the right side, below 0 for the left one, 0 for any.

    Returns:
        Both with the mask wider on one side; what was bare and still is stays as it was.
    """
    columns = np.nonzero((alpha > 127).any(0))[0]
    if len(columns) < 32:
        return masked, alpha
    left, right = float(columns[0]), float(columns[-1])
    pivot, wider = left + (right - left) * rng.uniform(0.35, 0.65), 1 + rng.uniform(0.05, 0.35)
    side = len(alpha)
    x, y = np.arange(side, dtype=np.float32), np.arange(side, dtype=np.float32)[:, None]
    way = way or rng.choice([-1.0, 1.0])
    outside = (x - pivot) * way > 0
    source = np.where(outside, pivot + (x - pivot) / wider, x).astype(np.float32)
    columns_from = np.ascontiguousarray(np.broadcast_to(source, (side, side)))
    rows_from = (y + rng.uniform(-0.1, 0.1) * (source - x)).astype(np.float32)
    moved, cover = (
        np.asarray(cv2.remap(p, columns_from, rows_from, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
        for p in (masked, alpha)
    )
    weight = cover[..., None] / np.float32(255)
    return (masked + (moved - masked.astype(np.float32)) * weight + 0.5).astype(np.uint8), np.maximum(alpha, cover)


def shade(picture: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The shadow that a mask throws on the neck: what is below its lower edge grows darker towards it.

    Args:
        picture: uint8[256, 256, 3], an aligned crop.
        alpha: uint8[256, 256], the coverage of the mask in it, which is not darkened.
        rng: of the shadow's depth and reach.
    """
    covered = alpha > 127
    inside = np.nonzero(covered.any(0))[0]
    if len(inside) < 32:
        return picture
    x = np.arange(SIZE)
    lowest = (SIZE - 1 - np.argmax(covered[::-1], 0))[inside]
    edge = cv2.GaussianBlur(np.interp(x, inside, lowest).astype(np.float32)[None], (0, 0), 4)[0]
    below = np.arange(SIZE, dtype=np.float32)[:, None] - edge
    under = np.clip(np.minimum(x - inside[0], inside[-1] - x) / 20 + 0.5, 0, 1) * (below > 0)
    depth = rng.uniform(0.2, 0.75) * np.exp(-np.clip(below, 0, None) / rng.uniform(10, 60)) * under
    light = 1 - depth * (1 - alpha / np.float32(255))
    return (picture * light[..., None] + 0.5).astype(np.uint8)


def trim(picture: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A strip of another colour along the upper or the lower edge of a mask: a lining that shows, a hem, glare.

    Args:
        picture: uint8[256, 256, 3], an aligned crop.
        alpha: uint8[256, 256], the coverage of the mask in it; the strip lies inside.
        rng: of the strip's edge, width and colour.
    """
    wide = float(rng.uniform(3, 26)) * (1 if rng.random() < 0.75 else -1)
    inwards = np.array([[1.0, 0, rng.normal(0, 0.3) * abs(wide)], [0, 1.0, wide]])
    rest = cv2.warpAffine(alpha, inwards, (SIZE, SIZE), flags=cv2.INTER_LINEAR)
    strip = np.clip(alpha.astype(np.float32) - rest, 0, 255) / 255
    strip = np.minimum(cv2.GaussianBlur(strip, (0, 0), float(rng.uniform(0.4, 2.0))), alpha / np.float32(255))
    colour = rng.uniform(180, 255) + rng.normal(0, 8, 3) if rng.random() < 0.6 else any_colour(rng) * 255
    cover = (strip * rng.uniform(0.6, 1.0))[..., None]
    return np.clip(picture + (colour - picture) * cover + 0.5, 0, 255).astype(np.uint8)


def colour_in(picture: np.ndarray, alpha: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some large patches of a mask in other colours, often in those of the hair, the skin or the wall beside it.

    A print of which one field has the colour of the hair next to it is no lock of hair; what tells them apart is that
    the field ends where the mask does. Light and folds of the mask stay.

    Args:
        picture: uint8[256, 256, 3], an aligned crop.
        alpha: uint8[256, 256], the coverage of the mask in it.
        rng: of fields and colours.
    """
    covered = alpha > 200
    if np.count_nonzero(covered) < 500:
        return picture
    rows, columns = np.nonzero(covered)
    count = int(rng.integers(3, 14))
    seeds = rng.integers(0, len(rows), count)
    bend = [value_noise(rng, (SIZE, SIZE), (5, 5)) * rng.uniform(0, 30) for _ in range(2)]
    x, y = np.arange(SIZE, dtype=np.float32) + bend[0], np.arange(SIZE, dtype=np.float32)[:, None] + bend[1]
    stretch = rng.uniform(0.5, 2.0)
    far = np.stack([(x - columns[i]) ** 2 + stretch * (y - rows[i]) ** 2 for i in seeds])
    field = np.argmin(far, 0)
    around = picture[(alpha < 5) & (np.arange(SIZE)[:, None] < rows.max())]
    colours = np.zeros((count, 3), np.float32)
    for i in range(count):
        near = len(around) and rng.random() < 0.5
        colours[i] = around[rng.integers(len(around))] + rng.normal(0, 8, 3) if near else any_colour(rng) * 255
    changed = (rng.random(count) < rng.uniform(0.15, 0.8))[field].astype(np.float32)
    light = picture.astype(np.float32).mean(2)
    relief = np.clip(light / max(float(np.median(light[covered])), 8), 0.3, 1.8)[..., None]
    cover = cv2.GaussianBlur(changed, (0, 0), float(rng.uniform(0.5, 1.5))) * (alpha / np.float32(255))
    print_ = colours[field] * relief ** rng.uniform(0.3, 1.0)
    return np.clip(picture + (print_ - picture) * cover[..., None] + 0.5, 0, 255).astype(np.uint8)


def camera(planes: Planes, rng: np.random.Generator, side: int, pose: float = 1.0) -> Planes:
    """What cameras and poses do: turn, scale, shift, mirror, light, blur, noise and JPEG; ``pose`` scales the first."""
    masked, truth, alpha, valid = planes
    angle, scale = rng.normal(0, 3.5 * pose), np.exp(rng.normal(0, 0.045 * pose))
    matrix = cv2.getRotationMatrix2D((127.5, 127.5), angle, scale)
    matrix[:, 2] += rng.normal(0, 4.0 * pose, 2)
    if rng.random() < 0.5:
        matrix = matrix @ np.array([[-1, 0, 255], [0, 1, 0], [0, 0, 1.0]])
    if side != SIZE:
        ratio = side / SIZE
        matrix = np.array([[ratio, 0, ratio / 2 - 0.5], [0, ratio, ratio / 2 - 0.5]]) @ np.vstack([matrix, [0, 0, 1.0]])
    size = (side, side)
    masked, truth = (
        cv2.warpAffine(p, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        for p in (masked, truth)
    )
    alpha = cv2.warpAffine(alpha, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    valid = cv2.warpAffine(valid, matrix, size, flags=cv2.INTER_NEAREST)
    curve = tone_curve(rng)
    masked, truth = cv2.LUT(masked, curve), cv2.LUT(truth, curve)
    if rng.random() < 0.15:
        sigma = float(rng.uniform(0.4, 1.6)) * side / SIZE
        masked, truth = (cv2.GaussianBlur(p, (0, 0), sigma) for p in (masked, truth))
    if rng.random() < 0.2:
        noise = rng.normal(0, rng.uniform(1, 7), (*size, 1)).astype(np.float32)
        masked = np.clip(masked + noise, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        masked = as_jpeg(masked, int(rng.integers(30, 90)))
    return np.asarray(masked), np.asarray(truth), np.asarray(alpha), np.asarray(valid)


def as_jpeg(picture: np.ndarray, quality: int) -> np.ndarray:
    """uint8[H, W, 3], RGB, as a JPEG file of a quality in 1..100 keeps it."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, code = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.cvtColor(cv2.imdecode(code, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB))


def crop_and_mirror(planes: Planes, rng: np.random.Generator, side: int) -> Planes:
    """Random jitter of pix2pix: resized to 286, a random 256 of it, mirrored every second time (other sides alike).

    P. Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017, section 6.2.
    """
    wide = round(side * 286 / 256)
    x, y = (int(v) for v in rng.integers(0, wide - side + 1, 2))
    mirror = rng.random() < 0.5

    def moved(plane: np.ndarray) -> np.ndarray:
        way = cv2.INTER_AREA if wide < len(plane) else cv2.INTER_LINEAR
        out = np.asarray(cv2.resize(plane, (wide, wide), interpolation=way))[y : y + side, x : x + side]
        return np.ascontiguousarray(out[:, ::-1] if mirror else out)

    masked, truth, alpha, valid = planes
    return moved(masked), moved(truth), moved(alpha), moved(valid)


def plain(planes: Planes, rng: np.random.Generator, side: int) -> Planes:
    """Nothing but the size."""
    masked, truth, alpha, valid = (resized(p, side) for p in planes)
    return masked, truth, alpha, valid


def resized(plane: np.ndarray, side: int) -> np.ndarray:
    """A square picture at another side."""
    if plane.shape[:2] == (side, side):
        return plane
    way = cv2.INTER_AREA if side < len(plane) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(plane, (side, side), interpolation=way))


def loose(planes: Planes, rng: np.random.Generator, side: int) -> Planes:
    """As `camera`, with what a map module has to bear beside: crops that fit the face less well, as optical flow or a
    finder's eyes cut them, faces of few pixels, coloured light. The truth is left behind; nothing is drawn from it."""
    masked, truth, alpha, valid = camera(planes, rng, side, 1.75)
    if rng.random() < 0.25:
        few = round(side / rng.uniform(2, 8))
        small = cv2.resize(masked, (few, few), interpolation=cv2.INTER_AREA)
        masked = np.asarray(cv2.resize(small, (side, side), interpolation=cv2.INTER_LINEAR))
    if rng.random() < 0.2:
        light = np.exp(rng.normal(0, 0.35, 3))
        masked = (masked * np.minimum(light / light.max(), 1.0) + 0.5).astype(np.uint8)
    return masked, truth, alpha, valid


JITTERS: dict[str, Jitter] = {"camera": camera, "loose": loose, "pix2pix": crop_and_mirror, "none": plain}
"""Value of ``jitter`` in a preset's [data] table -> what it does."""
