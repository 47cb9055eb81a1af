"""Pictures whose heads are turned further than they were photographed: few of them look far aside.

`heads` says where each pixel comes from. What a picture of a far turned head needs besides is made here: a background
that is no streaks, and a mask that stands off the face.
"""

from __future__ import annotations

import cv2
import numpy as np

from trainer.augment import SIZE, Planes, stand_off
from trainer.heads import Head, Turned, yaw_of
from unmask_rt.align import Points

MARGIN = 80
"""Pixels that a crop is widened by on each side before its head is turned: hair and neck move with it."""
PROFILES = 0.5
"""Share of the turned heads that are turned into profiles."""
STANDS_OFF = 40.0
"""Degrees from which the mask stands off the face, and from which what is behind the head is drawn out of focus."""
SPANNED = 0.3
"""Share of a mask's width that it stands off lips or chin at most."""
CAMOUFLAGED = 0.25
"""Share of the profiles to train on whose mask is before a background of its own colour: white before a white wall."""


def wide_head(shape: np.ndarray) -> Head:
    """The head of a prepared set's ``shape.npy`` as `turn` takes it: for crops widened by `MARGIN`."""
    return Head(shape, SIZE + 2 * MARGIN, 1 + 2 * MARGIN / SIZE, SIZE)


def turn(planes: Planes, mesh: Points, head: Head, rng: np.random.Generator) -> Planes:
    """Turns the head further aside, and down or up, and aligns it anew; what was never photographed is not valid.

    Args:
        planes: as for the jitters, uint8[head.out, head.out(, 3)].
        mesh: float[478, 2], pixels of the crop.
        head: `wide_head`.
        rng: 6 to 34 degrees further the way it looks, 60 at most, or (`PROFILES`) into a profile, some of them before
            the mask's own colour (`CAMOUFLAGED`); down by 8 on average.
    """
    if rng.random() < PROFILES:
        return into_profile(planes, mesh, head, rng, CAMOUFLAGED)[0]
    return turn_further(planes, mesh, head, rng)[0]


def turn_further(planes: Planes, mesh: Points, head: Head, rng: np.random.Generator) -> tuple[Planes, Turned]:
    """As `turn`, by 6 to 34 degrees, 60 at most; with what was done."""
    yaw = yaw_of(np.asarray(mesh, np.float32), head.shape)
    further = float(np.clip(rng.uniform(6, 34), 0, max(60 - abs(yaw), 4)))
    return _turned(planes, mesh, head, _way(yaw, rng) * further, rng, 0.0)


def into_profile(
    planes: Planes, mesh: Points, head: Head, rng: np.random.Generator, camouflaged: float = 0.0
) -> tuple[Planes, Turned]:
    """As `turn`, until the head looks 50 to 78 degrees aside; with what was done."""
    yaw = yaw_of(np.asarray(mesh, np.float32), head.shape)
    further = _way(yaw, rng) * max(float(rng.uniform(50, 78)) - abs(yaw), 4)
    return _turned(planes, mesh, head, further, rng, camouflaged)


def _way(yaw: float, rng: np.random.Generator) -> float:
    return float(np.sign(yaw) if abs(yaw) > 4 else rng.choice([-1.0, 1.0]))


def _turned(
    planes: Planes, mesh: Points, head: Head, further: float, rng: np.random.Generator, camouflaged: float
) -> tuple[Planes, Turned]:
    """Turns a head by ``further`` degrees to the picture's right, and by some down or up."""
    pitch = float(np.clip(rng.normal(8, 11), -20, 32))
    margin = (head.size - head.out) / 2
    turned = head.turned(np.asarray(mesh, np.float32) + np.float32(margin), further, pitch)
    masked, truth, alpha, valid = planes
    where = turned.map_x - np.float32(margin), turned.map_y - np.float32(margin)
    masked, truth, alpha = (
        np.asarray(cv2.remap(p, *where, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))
        for p in (masked, truth, alpha)
    )
    valid = np.asarray(cv2.remap(valid, *where, cv2.INTER_NEAREST))
    if abs(turned.yaw) > STANDS_OFF:
        truth = _background_blurred(truth, turned.head, float(rng.uniform(3, 12)))
        valid = np.where(turned.head, valid, 255).astype(np.uint8)
        beside = cv2.dilate((~turned.head).astype(np.uint8), np.ones((7, 7), np.uint8)) > 0
        masked = np.where((beside & (alpha < 1))[..., None], truth, masked)
        if rng.random() < 0.85:
            masked, alpha = tent(masked, alpha, turned.yaw, rng)
        if camouflaged and rng.random() < camouflaged:
            masked, truth = camouflage(masked, truth, alpha, ~turned.head, rng)
    return (masked, truth, alpha, valid), turned


def tent(masked: np.ndarray, alpha: np.ndarray, way: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A mask as a profile wears it: it spans nose and chin, and stands off the lips, where drawn ones cling to them.

    Args:
        masked: uint8[S, S, 3], an aligned crop.
        alpha: uint8[S, S], the coverage of the mask in it.
        way: as a yaw, above 0 where the nose points to the picture's right, below 0 to its left.
        rng: of how far it stands off.
    """
    cloth = cv2.morphologyEx((alpha > 127).astype(np.uint8), cv2.MORPH_OPEN, np.ones((9, 9), np.uint8))  # no straps
    points = cv2.findNonZero(cloth)
    if points is None or len(points) < 500:
        return masked, alpha
    hull = cv2.fillConvexPoly(np.zeros_like(alpha), cv2.convexHull(points), 255, cv2.LINE_AA)
    forward = slice(None, None, -1 if way > 0 else 1)
    hull[np.maximum.accumulate(cloth[:, forward], axis=1)[:, forward] > 0] = 0  # in front of the cloth only
    hull[np.count_nonzero(hull, axis=1) > SPANNED * np.count_nonzero(cloth.any(axis=0))] = 0  # not to the ear
    weight = cloth.astype(np.float32)
    colour = cv2.GaussianBlur(masked * weight[..., None], (0, 0), 8)
    colour /= np.maximum(cv2.GaussianBlur(weight, (0, 0), 8), 1e-3)[..., None]
    cover = np.maximum(hull.astype(np.float32) - alpha, 0)[..., None] / 255
    spanned = np.clip(masked + (colour - masked) * cover + 0.5, 0, 255).astype(np.uint8)
    return stand_off(spanned, np.maximum(alpha, hull), rng, way)


def camouflage(
    masked: np.ndarray, truth: np.ndarray, alpha: np.ndarray, background: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What is behind the head in nearly the mask's colour.

    Args:
        masked, truth: uint8[S, S, 3], an aligned crop with the mask and without.
        alpha: uint8[S, S], the coverage of the mask.
        background: bool[S, S], what is behind the head.
        rng: of how nearly.
    """
    if not (alpha > 127).any():
        return masked, truth
    colour = np.median(masked[alpha > 127], axis=0) + rng.normal(0, 8, 3)
    shift = (colour - truth) * rng.uniform(0.75, 1.0)
    shift *= cv2.GaussianBlur(background.astype(np.float32), (0, 0), 0.7)[..., None]
    seen = shift * (1 - alpha.astype(np.float32) / 255)[..., None]
    masked, truth = (np.clip(p + s + 0.5, 0, 255).astype(np.uint8) for p, s in ((masked, seen), (truth, shift)))
    return masked, truth


def _background_blurred(picture: np.ndarray, head: np.ndarray, sigma: float) -> np.ndarray:
    """What is beside the head out of focus: where it was never photographed it is streaks."""
    weight = (~head).astype(np.float32)
    blurred = cv2.GaussianBlur(picture * weight[..., None], (0, 0), sigma)
    blurred /= np.maximum(cv2.GaussianBlur(weight, (0, 0), sigma), 1e-3)[..., None]
    edge = cv2.GaussianBlur(weight, (0, 0), 0.7)[..., None]
    return np.clip(picture + (blurred - picture) * edge + 0.5, 0, 255).astype(np.uint8)
