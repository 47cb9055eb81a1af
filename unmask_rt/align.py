"""Geometry of the canonical face crop: template, similarity fit, warp there and back.

The crop is a square of ``size`` pixels. Template positions are fractions of the side: one template serves every size.
The fit uses eye corners and nose bridge only: they stay visible above a mask, while the mesh's mouth and jaw drift by
10 % of the inter-ocular distance when a mask covers them.

All points are ``(x, y)`` with the centre of the top left pixel at (0, 0), as OpenCV has it.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
"""float32[K, 2], pixels."""
Affine = NDArray[np.float64]
"""float64[2, 3], maps a column (x, y, 1) to (x', y')."""
Image = NDArray[np.uint8]

MESH_ANCHORS = (33, 133, 362, 263, 168, 6)
"""Indices into the 478 points of the MediaPipe face mesh: outer and inner corner of the subject's right eye, inner and
outer corner of the left one, and two points on the nose bridge."""

TEMPLATE: Points = np.array(
    [[0.305, 0.345], [0.425, 0.345], [0.575, 0.345], [0.695, 0.345], [0.5, 0.345], [0.5, 0.40]], np.float32
)
"""Where `MESH_ANCHORS` lie in the crop, as fractions of its side."""

COARSE_TEMPLATE: Points = np.array([[0.365, 0.345], [0.635, 0.345], [0.5, 0.535]], np.float32)
"""Where eye centres and nose tip lie in the crop, as fractions of its side: for finders that give no mesh."""

PROFILE_HIGH = 0.86
"""Height of the box around a head in profile, in crop sides: its eyes say little of its size."""

TURN_ALLOWED, MOST_TURNED = 1.12, 1.5
"""A turned head's eyes come together. Up to the first ratio of foreshortening (27 degrees) a crop that is fitted to
them stays as it is; beyond it, up to the second, it grows, in training and where the aligner places it."""

PROFILE = 62.0
"""Degrees from which a head is no longer placed by its eyes but as a profile."""

COARSE_WEIGHTS: NDArray[np.float32] = np.array([1.0, 1.0, 0.35], np.float32)
"""The nose tip under a mask is a guess: it only settles the shape of strongly turned faces."""


def similarity(source: Points, target: Points, weights: NDArray[np.float32] | None = None) -> Affine:
    """Least-squares similarity (rotation, uniform scale, shift; no reflection) that takes ``source`` to ``target``.

    Closed form of Umeyama, "Least-squares estimation of transformation parameters between two point patterns",
    IEEE PAMI 13(4), 1991, for the plane, with a weight for each point.

    Args:
        source: float[K, 2] with K >= 2, pixels.
        target: float[K, 2], pixels.
        weights: float[K] >= 0, or None for equal weights.

    Returns:
        float64[2, 3] affine.

    Raises:
        ValueError: the source points all coincide, so that no scale can be told.
    """
    w = np.ones(len(source)) if weights is None else np.asarray(weights, np.float64)
    w = w / w.sum()
    src, dst = np.asarray(source, np.float64), np.asarray(target, np.float64)
    src_mean, dst_mean = w @ src, w @ dst
    s, d = src - src_mean, dst - dst_mean
    variance = float(w @ (s * s).sum(1))
    if variance < 1e-9:
        raise ValueError("the points of a face coincide: no similarity can be fitted")
    a = float(w @ (s * d).sum(1)) / variance
    b = float(w @ (s[:, 0] * d[:, 1] - s[:, 1] * d[:, 0])) / variance
    linear = np.array([[a, -b], [b, a]])
    return np.hstack([linear, (dst_mean - linear @ src_mean)[:, None]])


def crop_transform(anchors: Points, size: int, template: Points = TEMPLATE) -> Affine:
    """Affine from picture to crop for six mesh anchors (float[6, 2], order of `MESH_ANCHORS`).

    ``template`` is the model's own where a model is at hand.
    """
    return similarity(anchors, template * size - 0.5)


def coarse_crop_transform(eyes_nose: Points, size: int) -> Affine:
    """Affine from picture to crop for eye centres (picture's left first) and nose tip (float[3, 2])."""
    return similarity(eyes_nose, COARSE_TEMPLATE * size - 0.5, COARSE_WEIGHTS)


def anchors_from_transform(transform: Affine, size: int) -> Points:
    """The six anchor points in the picture that a crop transform stands for; the inverse of `crop_transform`."""
    return apply(invert(transform), TEMPLATE * size - 0.5)


def apply(transform: Affine, points: Points) -> Points:
    """Points float[K, 2] moved by an affine, as float32[K, 2]."""
    return (np.asarray(points, np.float64) @ transform[:, :2].T + transform[:, 2]).astype(np.float32)


def invert(transform: Affine) -> Affine:
    """The affine that undoes ``transform``."""
    return np.asarray(cv2.invertAffineTransform(np.asarray(transform, np.float64)))


def compose(outer: Affine, inner: Affine) -> Affine:
    """The affine that applies ``inner`` first and ``outer`` after it."""
    linear = outer[:, :2] @ inner[:, :2]
    return np.hstack([linear, (outer[:, :2] @ inner[:, 2] + outer[:, 2])[:, None]])


def scale_of(transform: Affine) -> float:
    """Crop pixels for one picture pixel: below 1 the face is larger than the crop."""
    return float(np.sqrt(abs(np.linalg.det(transform[:, :2]))))


def corners(transform: Affine, size: int) -> Points:
    """The crop's four corners in the picture, float32[4, 2], clockwise from the crop's top left."""
    edge = size - 0.5
    return apply(invert(transform), np.array([[-0.5, -0.5], [edge, -0.5], [edge, edge], [-0.5, edge]], np.float32))


def warp(picture: Image, transform: Affine, size: int) -> Image:
    """Cuts the aligned crop out of a picture.

    A face larger than the crop is shrunk by area averaging first, so that no detail aliases.

    Args:
        picture: uint8[H, W, C] or uint8[H, W].
        transform: picture to crop.
        size: side of the crop in pixels.

    Returns:
        uint8[size, size, C]; what lies outside the picture repeats its border.
    """
    factor = int(1.0 / max(scale_of(transform), 1e-6))
    if factor >= 2:
        height, width = picture.shape[0] // factor, picture.shape[1] // factor
        if height >= 8 and width >= 8:
            x_ratio, y_ratio = picture.shape[1] / width, picture.shape[0] / height
            picture = np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
            grow = np.array([[x_ratio, 0.0, x_ratio / 2 - 0.5], [0.0, y_ratio, y_ratio / 2 - 0.5]])
            transform = compose(transform, grow)
    return np.asarray(
        cv2.warpAffine(picture, transform, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )
