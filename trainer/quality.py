"""From one picture to one aligned crop: what is good enough to learn from, and what is there already."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask_rt.align import MESH_ANCHORS, Image, Points, apply, crop_transform, scale_of, warp
from unmask_rt.faces.mesh import FaceMesh

SIZE = 256
CHIN = 152
MIN_SCALE = 0.45
"""Source pixels for one crop pixel below which a face is too small to learn texture from."""
MIN_SIDE = 32
"""Pixels of a picture's shorter side below which no face is looked for."""
MIN_INSIDE = 0.3
"""Share of the crop that the picture has to cover; tight portraits are kept, the loss leaves out what they lack."""
MIN_SHARPNESS = 3.0
"""Mean absolute Laplacian of the face's luma (0..255) below which a picture is out of focus."""
MIN_COLOUR = 4.0
"""Mean difference of the largest and the smallest channel (0..255) below which a picture is grey."""
SAME_BITS = 20
"""Bits of 256 by which the difference hashes of one picture may differ. Of 19,000 aligned faces some 200 pairs lie
below it; pairs of different people begin at about 15 and are told apart by `SAME_CORRELATION`."""
SAME_CORRELATION = 0.97
"""Correlation of the grey thumbnails above which two pictures with like hashes are one picture."""


def decode(data: bytes) -> Image | None:
    """An encoded picture as uint8[H, W, 3] RGB, upright as its EXIF says; None where it is broken or cut short."""
    import PIL.Image
    import PIL.ImageOps

    try:
        with PIL.Image.open(io.BytesIO(data)) as picture:
            return np.asarray(PIL.ImageOps.exif_transpose(picture).convert("RGB"), np.uint8)
    except Exception:  # Pillow's readers raise whatever a damaged header makes of them (struct.error, TypeError, ...)
        return None


def yaw_of(mesh: Points) -> float:
    """Turn of the head, -1..1, from the nose tip's place between the cheeks; 0 looks straight ahead."""
    left, right, nose = mesh[234, 0], mesh[454, 0], mesh[1, 0]
    return float(np.clip(2 * (nose - left) / max(right - left, 1e-3) - 1, -1, 1))


def prepare_picture(mesh: FaceMesh, data: bytes) -> tuple[str, dict[str, Any]]:
    """One encoded picture to a crop; returns ("kept", arrays and figures) or (reason it was dropped, {})."""
    rgb = decode(data)
    if rgb is None:
        return "corrupt", {}
    if min(rgb.shape[:2]) < MIN_SIDE:
        return "too small", {}
    found = mesh(rgb)
    if not found:
        return "no face", {}
    face = max(found, key=lambda f: float(np.ptp(f.points[:, 0])))
    try:
        transform = crop_transform(face.points[list(MESH_ANCHORS)], SIZE)
    except ValueError:  # a mesh without extent
        return "no face", {}
    if scale_of(transform) > 1 / MIN_SCALE:
        return "too small", {}
    crop = warp(rgb, transform, SIZE)
    points = apply(transform, face.points)
    height, width = rgb.shape[:2]
    edges = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    corners = apply(transform, edges.astype(np.float32))
    chin_x, chin_y = face.points[CHIN]
    if not (0 <= chin_x < width and chin_y < height - 1) or points[CHIN, 1] > SIZE - 4:
        return "chin cut off", {}
    inside = cv2.fillConvexPoly(np.zeros((SIZE, SIZE), np.uint8), np.round(corners).astype(np.int32), 1)
    if inside.mean() < MIN_INSIDE:
        return "crop mostly outside the picture", {}
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    sharpness = float(np.abs(cv2.Laplacian(grey[64:224, 56:200], cv2.CV_32F)).mean())
    if sharpness < MIN_SHARPNESS:
        return "blurred", {}
    if float(np.ptp(crop.astype(np.int16), axis=2).mean()) < MIN_COLOUR:
        return "grey", {}
    smile = (face.blendshapes["mouthSmileLeft"] + face.blendshapes["mouthSmileRight"]) / 2
    figures = {
        "yaw": round(yaw_of(points), 3),
        "smile": round(smile, 3),
        "open": round(face.blendshapes["jawOpen"], 3),
        "sharpness": round(sharpness, 2),
    }
    return "kept", {"crop": crop, "mesh": points.astype(np.float16), "corners": corners, "figures": figures}


def difference_hash(crop: Image) -> NDArray[np.uint64]:
    """256-bit dHash of a crop (N. Krawetz, "Kind of like that", 2013), uint64[4].

    Each bit says whether a cell of a 17x16 grey reduction is darker than its right neighbour: the same picture at
    another size, quality or exposure differs in a few bits.
    """
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (17, 16), interpolation=cv2.INTER_AREA)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).view(np.uint64)


def thumbnail(crop: Image) -> NDArray[np.float16]:
    """The grey 16x16 reduction of a crop, float16[256] of mean 0 and length 1: products are correlations."""
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
    flat = grey.astype(np.float32).ravel()
    flat -= flat.mean()
    return (flat / max(float(np.linalg.norm(flat)), 1e-6)).astype(np.float16)


class Duplicates:
    """Crops seen so far, asked whether a further one is among them.

    Two crops are the same picture if their difference hashes differ in at most `SAME_BITS` of 256 bits and their
    thumbnails correlate by `SAME_CORRELATION` or more. Every crop is compared with all that were kept before it.

    Args:
        capacity: how many crops will be kept at most.
    """

    def __init__(self, capacity: int) -> None:
        self._hashes = np.zeros((capacity, 4), np.uint64)
        self._thumbnails = np.zeros((capacity, 256), np.float16)
        self._count = 0

    def find(self, crop: Image) -> int | None:
        """Number (from 0) of the kept crop that this one repeats; None keeps it as the next one."""
        code, small = difference_hash(crop), thumbnail(crop)
        bits = np.bitwise_count(self._hashes[: self._count] ^ code).sum(1)
        for number in np.nonzero(bits <= SAME_BITS)[0].tolist():
            if float(self._thumbnails[number].astype(np.float32) @ small.astype(np.float32)) >= SAME_CORRELATION:
                return int(number)
        self._hashes[self._count], self._thumbnails[self._count] = code, small
        self._count += 1
        return None
