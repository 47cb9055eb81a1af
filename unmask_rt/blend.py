"""Puts a completed crop back into the picture so that nobody sees where it was.

Three things betray a patch: its edge, its softness and its lack of grain. The edge is feathered outside the mask map
and towards the crop's border; softness is met by sharpening what had to be enlarged; grain is measured on the skin
around the hole, band by band at the output's own resolution, and what the patch lacks is added.

The noise is a fixed tile laid at the patch's place: on a still scene it stands still.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask_rt.align import TEMPLATE, Affine, Image, compose, invert, scale_of

Weight = NDArray[np.float32]
Levels = NDArray[np.float64]
Window = tuple[slice, slice]

MAP_THRESHOLD = 64
"""Map value 0..255 from which a pixel counts as mask: low, since a mask pixel that stays is seen at once."""
SURE, NEAR, STRAP = 200, 0.12, 0.04
"""Map value from which a pixel is mask for sure, and how far from such ones (share of the crop's side) the others are
believed, unless they are as narrow as a strap: a coat in the mask's colour is half mask to the network, down to its
hem."""
WORN_AT, WORN_SIZE = 0.645, (0.36, 0.25)
"""Height of the middle, and half axes, of where masks are worn, in crop sides."""
LEAST_PART = 0.002
"""Share of the crop below which a part of a mask that is apart from the rest is a speck."""
BORDER_SHARE = 0.06
"""Width of the fade at the crop's border, as a share of its side."""
MINIMUM_WEIGHT = 1 / 128
MINIMUM_LEVEL = 0.25
"""Deviation (of 255) below which nobody sees that detail is missing."""
MOST_GRAIN = 5.0
"""Most that a band of noise may be: what deviates more beside a small face is hair, glasses or cloth."""
FINE, COARSE = 1.0, 1.6
"""Crop pixels a pixel of the picture up to which grain is met in full, and from which there is none: the skin around
the hole of a small face is a few pixels wide, and what is measured there is its outline."""
SMOOTHEST = 1.15
"""Deviation of grain over that of the smoothest fifth of its small neighbourhoods."""
STEEPEST = 1.5
"""How much stronger than the next finer one a band of added detail may be."""
TURNED = 1.4
"""By how much crops of turned heads are larger (`faces.look.MOST_TURNED` at most); bowed heads are shorter as well."""
_TILE = 512


@dataclass(frozen=True, slots=True)
class Region:
    """The part of a crop that changes.

    Attributes:
        weight: float32[S, S] 0..1, how much of the patch shows.
        bounds: (x0, y0, x1, y1) crop pixels around all that is not 0; None where nothing is.
    """

    weight: Weight
    bounds: tuple[int, int, int, int] | None


def region_of(mask_map: Image, feather: float, grown: float = 1.0) -> Region:
    """Where a patch shows.

    Everything that the map calls mask shows the patch in full; the feather lies outside of it. Islands that do not
    touch the mask over mouth and chin nor lie where masks are worn, and what is uncertain far from where the mask is
    sure, are left alone: they are not what the face wears.

    Args:
        mask_map: uint8[S, S], probability of mask 0..255.
        feather: width of the soft edge as a share of S.
        grown: how much larger than the fit to its eyes the crop was cut.
    """
    size = mask_map.shape[0]
    hard = worn_mask(mask_map, grown)
    width = max(1.0, feather * size)
    wider = cv2.dilate(hard, _disc(round(width * 0.5) + 2))
    weight = cv2.GaussianBlur(wider.astype(np.float32), (0, 0), width * 0.5)
    weight = np.maximum(weight, hard) * border_fade(size)
    weight[weight < MINIMUM_WEIGHT] = 0
    x, y, wide, high = cv2.boundingRect((weight > 0).astype(np.uint8))
    return Region(weight, (x, y, x + wide, y + high) if wide else None)


def worn_mask(mask_map: Image, grown: float = 1.0) -> Image:
    """What of a map is the face's own mask, uint8[S, S] of zeros and ones; the arguments are those of `region_of`."""
    hard = (mask_map >= MAP_THRESHOLD).astype(np.uint8)
    return _worn_parts(hard & (1 - _coat(mask_map, grown)), best_fit(mask_map, grown))


def _coat(mask_map: Image, grown: float) -> Image:
    """What may be mask but is too far from where that is sure (`SURE`), and no strap: uint8[S, S] of zeros and ones."""
    size = mask_map.shape[0] // 2  # at half the side: nobody sees where exactly it ends
    small = mask_map[::2, ::2]
    core = _worn_parts((small >= SURE).astype(np.uint8), best_fit(small, grown))
    far = (small >= MAP_THRESHOLD) & (cv2.distanceTransform(1 - core, cv2.DIST_L2, 3) > NEAR * size)
    if not core.any() or not far.any():
        return np.zeros_like(mask_map)
    thick = cv2.erode(far.astype(np.uint8), _disc(STRAP * size / 2))
    thick = cv2.dilate(thick, _disc(STRAP * size)) & far
    return np.asarray(cv2.resize(thick, mask_map.shape[::-1], interpolation=cv2.INTER_NEAREST))


@functools.lru_cache(maxsize=8)
def _disc(radius: float) -> Image:
    side = 2 * round(radius) + 1
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)), np.uint8)


def _worn_parts(flat: Image, grown: float) -> Image:
    """Of a map of zeros and ones the connected part that covers most of mouth and chin, and those that lie mostly where
    a mask is worn: something in front may cut it in two, or hide mouth and chin altogether."""
    count, labels = cv2.connectedComponents(flat, connectivity=8, ltype=cv2.CV_16U)
    within = np.bincount(labels[lower_face(len(flat), grown)].ravel(), minlength=count)
    within[0] = 0
    if count == 2 and within.any():
        return flat
    area = np.bincount(labels.ravel(), minlength=count)
    worn = np.bincount(labels[_where_worn(len(flat), round(grown, 2))], minlength=count) >= 0.5 * area
    kept = worn & (area >= LEAST_PART * flat.size)
    kept[int(within.argmax())] = True
    kept[0] = False
    return np.asarray(kept[labels], np.uint8)


@functools.lru_cache(maxsize=8)
def _where_worn(size: int, grown: float) -> NDArray[np.bool_]:
    """Where masks are worn in an aligned crop, from the nose to the chin and from cheek to cheek: bool[size, size].

    ``grown`` is as for `lower_face`.
    """
    y, (wide, high), eyes = WORN_AT, WORN_SIZE, float(TEMPLATE[:4, 1].mean())
    column, row = (np.arange(size) + 0.5) / size, (np.arange(size)[:, None] + 0.5) / size
    return ((column - 0.5) * grown / wide) ** 2 + ((eyes + (row - eyes) * grown - y) / high) ** 2 <= 1


def lower_face(size: int, grown: float = 1.0) -> Window:
    """Mouth and chin in an aligned crop, as an index: where a worn mask is sure to be.

    Args:
        size: side of the crop.
        grown: how much larger than the fit to its eyes the crop is, as it is for heads that are turned.
    """
    eyes = float(TEMPLATE[:4, 1].mean())
    top, bottom = (eyes + (y - eyes) / grown for y in (0.58, 0.80))
    half = 0.16 / grown
    return slice(round(top * size), round(bottom * size)), slice(round((0.5 - half) * size), round((0.5 + half) * size))


def best_fit(mask_map: Image, grown: float = 1.0) -> float:
    """What `lower_face` has to be told: a frontal head or a turned and bowed one, whichever the map covers more of."""
    fits = grown, grown * TURNED
    return max(fits, key=lambda fit: float((mask_map[lower_face(len(mask_map), fit)] > 127).mean()))


def mask_score(mask_map: Image, *, turned: bool = False, grown: float = 1.0) -> float:
    """Share 0..1 of mouth and chin that the map calls mask.

    Args:
        mask_map: uint8[S, S], probability of mask 0..255.
        turned: looks where mouth and chin of a turned head are, too.
        grown: how much larger than the fit to its eyes the crop was cut.
    """
    window = lower_face(len(mask_map), best_fit(mask_map, grown) if turned else grown)
    return float((mask_map[window] > 127).mean())


def worn_share(mask_map: Image, grown: float = 1.0) -> float:
    """Share 0..1 of all places where a mask is worn that the map calls mask: mouth and chin may be hidden.

    Args:
        mask_map: uint8[S, S], probability of mask 0..255.
        grown: how much larger than the fit to its eyes the crop was cut.
    """
    return float((mask_map[_where_worn(len(mask_map), round(grown, 2))] > 127).mean())


@functools.lru_cache(maxsize=4)
def border_fade(size: int) -> Weight:
    """1 inside, falling smoothly to 0 at the crop's border: a scarf ends in a fade, never in a straight edge."""
    distance = np.minimum(np.arange(size), np.arange(size)[::-1]) / (BORDER_SHARE * size)
    ramp = np.clip(distance, 0, 1).astype(np.float32)
    ramp = ramp * ramp * (3 - 2 * ramp)
    return np.minimum(ramp[:, None], ramp[None, :])


def bounds_in_picture(transform: Affine, bounds: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
    """Box around a crop rectangle in the picture that ``transform`` (picture to crop) belongs to, with a margin."""
    x0, y0, x1, y1 = bounds
    points = np.array([[x0, y0, 1], [x1, y0, 1], [x1, y1, 1], [x0, y1, 1]], np.float64) @ invert(transform).T
    margin = 2 + 0.04 * float(np.ptp(points, axis=0).max())
    low, high = points.min(0) - margin, points.max(0) + margin
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def paste(
    picture: Image, completed: Image, region: Region, transform: Affine, levels: Levels | None = None
) -> tuple[Image, Image]:
    """Blends a completed crop into a picture.

    Args:
        picture: uint8[h, w, 3] RGB, the rectangle around the face as it was.
        completed: uint8[S, S, 3] RGB.
        region: where the patch shows.
        transform: pixels of ``picture`` to crop pixels.
        levels: detail to be added (`missing_levels`), where it is known already; None measures it here.

    Returns:
        The new rectangle uint8[h, w, 3] and what was touched, uint8[h, w], above 0 where a pixel may have changed.
    """
    size = picture.shape[1::-1]
    patch = warp_back(completed, transform, size)
    weight = warp_weight(region, transform, size)
    if levels is None:
        levels = missing_levels(picture, completed, region, transform)
    middle = (region.weight.shape[0] - 1) / 2
    x, y = (round(float(v)) for v in invert(transform) @ [middle, middle, 1.0])
    detail = noise_of(levels, x, y, picture.shape)
    if detail is not None:
        patch = np.asarray(cv2.add(patch, cv2.merge([detail] * 3), dtype=cv2.CV_8U))
    return np.asarray(cv2.blendLinear(patch, picture, weight, 1 - weight)), (weight > 0).astype(np.uint8)


def warp_weight(region: Region, transform: Affine, size: tuple[int, int]) -> Weight:
    """A region's weight in the picture's own pixels, float32[h, w]; ``size`` is (width, height)."""
    coarse = np.round(region.weight * 255).astype(np.uint8)  # four times as fast as in float
    fine = np.asarray(cv2.warpAffine(coarse, invert(transform), size, flags=cv2.INTER_LINEAR), np.float32)
    weight = fine / np.float32(255)
    weight[weight < MINIMUM_WEIGHT] = 0
    return weight


def warp_back(crop: Image, transform: Affine, size: tuple[int, int]) -> Image:
    """A crop in the picture's own pixels: averaged where it shrinks, cubic and sharpened where it grows.

    Args:
        crop: uint8[S, S, 3].
        transform: picture to crop.
        size: (width, height) of the picture.
    """
    scale = scale_of(transform)
    back = invert(transform)
    if scale >= 2:
        side = max(8, int(crop.shape[0] / int(scale)))
        ratio = crop.shape[0] / side
        crop = np.asarray(cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA))
        back = compose(back, np.array([[ratio, 0, ratio / 2 - 0.5], [0, ratio, ratio / 2 - 0.5]]))
    elif scale < 0.9:
        # Sharpened before it grows: cheaper, and the same band is lifted that enlarging dulls.
        amount = min(1.0, (1 / scale - 1) * 0.7)
        crop = np.asarray(cv2.addWeighted(crop, 1 + amount, cv2.GaussianBlur(crop, (0, 0), 1.0), -amount, 0))
    return np.asarray(cv2.warpAffine(crop, back, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE))


def missing_levels(picture: Image, completed: Image, region: Region, transform: Affine) -> Levels:
    """How much fine detail the patch lacks against the skin around it, band by band.

    For each band of detail (octaves, from one pixel up to what the crop could hold) the smoothest places on a ring
    around the hole give the wanted level: eyes, hair, cloth and the jaw line are passed over.

    Args:
        picture, completed, region, transform: as for `paste`.

    Returns:
        float64[bands], the finest first: deviation of the noise that brings the patch to the same level; no bands
        where the patch or its surroundings are too small to tell.
    """
    scale = scale_of(transform)
    trusted = min(1.0, (COARSE - scale) / (COARSE - FINE))
    if trusted <= 0:
        return np.zeros(0)
    size = picture.shape[1::-1]
    patch, weight = warp_back(completed, transform, size), warp_weight(region, transform, size)
    solid = (weight > 0.9).astype(np.uint8)
    reach = max(3, round(10 / scale))
    outside = (weight == 0).astype(np.uint8)
    ring = cv2.dilate(1 - outside, cv2.getStructuringElement(cv2.MORPH_RECT, (2 * reach + 1, 2 * reach + 1))) & outside
    ring[round(picture.shape[0] * 0.6) :] = 0  # below it lie collar and background rather than skin
    if cv2.countNonZero(solid) < 64 or cv2.countNonZero(ring) < 64:
        return np.zeros(0)
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    filled = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY).astype(np.float32)
    levels: list[float] = []
    for number, (around, inside) in enumerate(zip(_bands(luma, scale), _bands(filled, scale), strict=True)):
        wanted, present = _level(around, ring, number), _level(inside, solid, number)
        lacking = trusted * min(MOST_GRAIN, math.sqrt(max(0.0, wanted**2 - present**2)))
        # Grain does not grow from octave to octave as the edges of a small face do.
        levels.append(min(lacking, levels[-1] * STEEPEST) if levels else lacking)
    return np.array(levels)


def noise_of(levels: Levels, x: int, y: int, shape: tuple[int, ...]) -> Weight | None:
    """Noise of the given levels over a picture, its tile's corner at (x, y); None where there is none to add."""
    total: Weight | None = None
    for number, level in enumerate(levels):
        if level >= MINIMUM_LEVEL:
            noise = _laid(number, x, y, shape)
            total = noise * np.float32(level) if total is None else cv2.scaleAdd(noise, level, total)
    return total


def _bands(luma: Weight, scale: float) -> Iterator[Weight]:
    """Bands of detail, the finest first: octaves up to a crop pixel, three at least as codecs coarsen grain."""
    finer = luma
    for number in range(max(3, 2 + round(float(np.log2(1 / max(scale, 1e-3)))))):
        coarser = np.asarray(cv2.GaussianBlur(luma, (0, 0), 0.5 * 2**number))
        yield finer - coarser
        finer = coarser


def _level(band: Weight, where: Image, number: int) -> float:
    """Robust standard deviation of a band of detail (octave ``number``) in a region.

    Deviations are taken of small neighbourhoods inside the region, of which the smoothest fifth tells: eyes, hair and
    cloth beside the hole may fill most of the ring, and none of them is grain.
    """
    side = (6 << number) + 1
    inside = where.astype(np.float32)
    squares = cv2.boxFilter(band * band * inside, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
    count = cv2.boxFilter(inside, -1, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
    local = (squares / np.maximum(count, 1))[where > 0][::3]
    return SMOOTHEST * math.sqrt(max(0.0, float(np.percentile(local, 20))))  # sums may end a hair below zero


@functools.lru_cache(maxsize=8)
def _tile(number: int) -> Weight:
    """A band of noise at unit deviation, always the same; float32[512, 512], seamless.

    All bands come from one noise: bands overlap, and only so do they add up to the grain that they were measured on.
    """
    around = np.pad(np.random.default_rng(0).normal(size=(_TILE, _TILE)).astype(np.float32), 64, mode="wrap")
    *_, band = itertools.islice(_bands(around, 0.5**number), number + 1)
    band = band[64:-64, 64:-64]
    return np.asarray(band / band.std(), np.float32)


def _laid(number: int, x: int, y: int, shape: tuple[int, ...]) -> Weight:
    """A band's tile repeated over a picture, its corner at (x, y)."""
    tile, (height, width) = _tile(number), shape[:2]
    out = np.empty((height, width), np.float32)
    for top in range(-(-y % _TILE), height, _TILE):
        for left in range(-(-x % _TILE), width, _TILE):
            rows, columns = slice(max(top, 0), min(top + _TILE, height)), slice(max(left, 0), min(left + _TILE, width))
            out[rows, columns] = tile[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    return out
