"""Looks at single pictures: what mesh and CenterFace say, checked for sense, and the search of a still picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from unmask_rt.align import (
    COARSE_TEMPLATE,
    MESH_ANCHORS,
    PROFILE_HIGH,
    TURN_ALLOWED,
    Image,
    anchors_from_transform,
    apply,
    coarse_crop_transform,
    invert,
    scale_of,
)
from unmask_rt.faces.aligner import Aligner
from unmask_rt.faces.centerface import CenterFace, FoundFace, suppress
from unmask_rt.faces.mesh import FaceMesh, MeshFace
from unmask_rt.faces.pose import Find, Pose, anchors_of, distance, pose_of, side_of
from unmask_rt.faces.tracker import CONVINCING
from unmask_rt.faces.window import cut, window_of

WINDOW = 192
"""Side of the upright picture that the mesh looks at when it is shown where the face is."""
ZOOMS = (2.0, 1.0, 1.4)
"""Sides of that window in crop sides, most successful first: the mesh's detector is picky about how much it sees."""
CHECK_WINDOW, CHECK_ZOOMS, CHECK_SCORE = 160, (1.5, 2.0), 0.4
"""A face that only CenterFace sees is looked at again, upright and at one size: hands and necks do not pass."""
STILL_SIDES = (320, 640, 960)
TILE, OVERLAP = 640, 96
"""Side of the tiles of pictures larger than `STILL_SIDES`; neighbours share as much as the largest face looked for."""
TILED_SIDE = 1440
"""Longest side of the picture that is cut into tiles: the finder needs no more than 16 pixels of a face."""
CERTAIN, SURE = 0.9, 0.7
"""How sure the aligner has to be of what the finder saw: to be believed at once, and where the mesh sees nothing."""
TELLING = 0.5
"""How sure of a face the aligner has to be for its word on masks to count."""
ALONE_SIDE = 48.0
"""Pixels of the crop's side below which the finder alone is not believed."""
PROFILE, NO_EYES = 0.28, 0.12
"""Share of the box's width below which the eyes of a profile lie apart, and below which they tell nothing even where
the finder is not sure."""
EYES = (33, 263)
"""Outer eye corners in the mesh."""
MOST_TURNED = 1.8
"""How much larger (beyond `align.TURN_ALLOWED`) a crop by mesh or finder grows for a turned head, whose eyes they put
too near to each other."""
SAME = 0.35
"""`tracker.distance` up to which two looks mean one face."""
SHRUNK = 0.2
"""How much smaller (natural logarithm) a mesh is that does not see the face that is expected, but fits into a profile
what is about its eye."""


class StillLooker:
    """Finds the faces of single pictures.

    The mesh looks at the whole; CenterFace looks at several sizes, and at tiles of a large picture for its small faces;
    what only CenterFace has seen is aligned by the aligner, else by the mesh in close-up, else stays as it is.

    Args:
        face_model: bytes of ``face_landmarker.task``.
        finder_model: bytes of ``centerface.onnx``.
        aligner_model: bytes of ``aligner.onnx``.
        max_faces: at most so many, the largest ones.
    """

    def __init__(self, face_model: bytes, finder_model: bytes, aligner_model: bytes, max_faces: int) -> None:
        self._mesh = FaceMesh(face_model, max_faces=max_faces, video=False)
        self._close_up = FaceMesh(face_model, max_faces=1, video=False)
        self._finder = CenterFace(finder_model)
        self._aligner = Aligner(aligner_model)
        self._max_faces = max_faces

    def __call__(self, rgb: Image, min_side: float) -> list[Find]:
        """The largest faces of uint8[H, W, 3], largest first; ``min_side`` is the smallest crop side taken, pixels."""
        finds = [f for f in map(mesh_find, self._mesh(rgb)) if f is not None]
        for face in suppress([*self._finder.at_scales(rgb, STILL_SIDES), *in_tiles(self._finder, rgb)]):
            coarse = finder_find(face)
            if coarse is None or any(distance(coarse.pose, f.pose) < SAME for f in finds):
                continue
            find = self._refined(rgb, coarse)
            if find is not None and not any(distance(find.pose, f.pose) < SAME for f in finds):
                finds.append(find)
        large = sorted((f for f in finds if side_of(f.pose) >= min_side), key=lambda f: -side_of(f.pose))
        return [self._told(rgb, find) for find in large[: self._max_faces]]

    def close(self) -> None:
        """Frees the native graphs; calling it twice is harmless."""
        self._mesh.close()
        self._close_up.close()
        self._aligner.close()

    def _told(self, rgb: Image, find: Find) -> Find:
        """A find with the aligner's word on whether a mask is worn, where it sees the face well enough to tell."""
        if find.masked is not None:
            return find
        aligned = self._aligner(rgb, find.pose)
        return find if aligned is None or aligned.sure < TELLING else replace(find, masked=aligned.masked)

    def _refined(self, rgb: Image, coarse: Find) -> Find | None:
        """A face of the finder, placed by whoever sees it best; None where nobody else does and it is in doubt."""
        first = align_find(self._aligner, rgb, coarse.pose)
        again = None if first is None else align_find(self._aligner, rgb, first.pose)
        if again is not None and again.confidence >= CERTAIN:
            return again
        close = mesh_inside(self._close_up, rgb, coarse.pose, ZOOMS)
        if close is not None:
            return close
        if again is not None and again.confidence >= SURE:
            return again
        if side_of(coarse.pose) < ALONE_SIDE:
            return None
        return coarse if coarse.confidence >= CONVINCING or is_face(self._finder, rgb, coarse) else None


def in_tiles(finder: CenterFace, rgb: Image) -> list[FoundFace]:
    """The small faces of a large picture, uint8[H, W, 3], in its pixels: what is seen in overlapping tiles of it."""
    if max(rgb.shape[:2]) <= STILL_SIDES[-1]:
        return []
    scale = min(1.0, TILED_SIDE / max(rgb.shape[:2]))
    rgb = np.asarray(cv2.resize(rgb, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)) if scale < 1 else rgb
    height, width = rgb.shape[:2]
    found = []
    for y in _starts(height):
        for x in _starts(width):
            for face in finder(np.ascontiguousarray(rgb[y : y + TILE, x : x + TILE]), TILE):
                if face.side <= OVERLAP:  # the others are found in the whole picture, and here perhaps cut in two
                    x0, y0, x1, y1 = (
                        (edge + at + 0.5) / scale - 0.5 for edge, at in zip(face.box, (x, y, x, y), strict=True)
                    )
                    points = (face.points + np.array([x + 0.5, y + 0.5], np.float32)) / np.float32(scale) - 0.5
                    found.append(FoundFace((x0, y0, x1, y1), points.astype(np.float32), face.score))
    return found


def _starts(length: int) -> list[int]:
    """Where tiles begin along a side: as few as overlap enough, evenly spread."""
    count = max(1, math.ceil((length - OVERLAP) / (TILE - OVERLAP)))
    return [round(k * max(0, length - TILE) / max(1, count - 1)) for k in range(count)]


def mesh_find(face: MeshFace) -> Find | None:
    """A mesh as a find, or None if its eyes and bridge have an impossible shape."""
    try:
        pose = pose_of(face.points[list(MESH_ANCHORS)])
    except ValueError:
        return None
    rough = float(np.sqrt((pose[4:].reshape(6, 2) ** 2).sum(axis=1).mean()))
    if rough >= 0.08:
        return None
    apart = face.points[EYES[1]] - face.points[EYES[0]]
    deep = float(face.depth[EYES[1]] - face.depth[EYES[0]])
    flat = max(float(np.hypot(*apart)), 1e-3)
    pose[2] += math.log(min(max(1.0, math.hypot(flat, deep) / flat / TURN_ALLOWED), MOST_TURNED))
    return Find(pose, "mesh", 1.0)


def finder_find(face: FoundFace) -> Find | None:
    """A face of CenterFace as a find, or None if eyes, nose and box do not go together."""
    left, right, nose = face.eyes_nose.astype(np.float64)
    x0, y0, x1, y1 = face.box
    width, height = x1 - x0, y1 - y0
    eyes = right - left
    apart = float(np.hypot(*eyes))
    if apart < PROFILE * width and face.score >= CONVINCING:
        return _profile_find(face)
    if not NO_EYES * width < apart < 0.9 * width or not 0.4 * height < width < 1.6 * height:
        return None
    if abs(math.atan2(eyes[1], eyes[0])) > math.radians(100):
        return None
    middle = (left + right) / 2
    drop = float(eyes[0] * (nose - middle)[1] - eyes[1] * (nose - middle)[0]) / apart
    if drop < 0.05 * height:  # the nose has to be below the eyes
        return None
    if not (x0 < middle[0] < x1 and y0 < middle[1] < y1):
        return None
    pose = pose_of(anchors_from_transform(coarse_crop_transform(face.eyes_nose, 256), 256))
    upright = drop / float(COARSE_TEMPLATE[2, 1] - COARSE_TEMPLATE[0, 1])  # side of the crop by eyes to nose
    pose[2] = max(pose[2], min(math.log(upright / TURN_ALLOWED), pose[2] + math.log(MOST_TURNED)))
    return Find(pose, "finder", face.score)


def _profile_find(face: FoundFace) -> Find | None:
    """A head in profile, both eyes in one place: upright, as large as its box, between the eyes and its middle."""
    x0, y0, x1, y1 = face.box
    eyes, nose = face.points[:2].mean(axis=0), face.points[2]
    height = y1 - y0
    if not (x0 < eyes[0] < x1 and 0.15 * height < eyes[1] - y0 < 0.6 * height) or nose[1] - eyes[1] < 0.05 * height:
        return None
    pose = np.zeros(16)
    pose[:3] = 0.5 * (float(eyes[0]) + (x0 + x1) / 2), float(eyes[1]), math.log(height / PROFILE_HIGH)
    return Find(pose, "finder", face.score)


def align_find(aligner: Aligner, rgb: Image, expected: Pose) -> Find | None:
    """The face that the aligner sees where one is expected, as a find with its certainty, or None.

    Args:
        aligner: looks around the place.
        rgb: uint8[H, W, 3].
        expected: where the face should be, pixels of ``rgb``.
    """
    aligned = aligner(rgb, expected)
    if aligned is None or distance(aligned.pose, expected) >= SAME:
        return None
    return Find(aligned.pose, "aligner", aligned.sure, aligned.masked)


def mesh_inside(mesh: FaceMesh, rgb: Image, expected: Pose, zooms: Sequence[float]) -> Find | None:
    """Looks with the mesh into upright windows around a face.

    Args:
        mesh: in picture mode, for one face.
        rgb: uint8[H, W, 3].
        expected: where the face should be, pixels of ``rgb``.
        zooms: sides of the windows to try, in crop sides.

    Returns:
        The first mesh that agrees with ``expected`` and is not much smaller, in pixels of ``rgb``, or None.
    """
    for zoom in zooms:
        to_window = window_of(expected, WINDOW, zoom)
        for face in mesh(cut(rgb, to_window, WINDOW)):
            points = apply(invert(to_window), face.points)
            find = mesh_find(MeshFace(points, face.depth / np.float32(scale_of(to_window)), face.blendshapes))
            if find is not None and distance(find.pose, expected) < SAME and find.pose[2] > expected[2] - SHRUNK:
                return find
    return None


def is_face(finder: CenterFace, rgb: Image, find: Find) -> bool:
    """Whether CenterFace still sees a face when it is shown the place upright, at a size it knows well."""
    for zoom in CHECK_ZOOMS:
        to_window = window_of(find.pose, CHECK_WINDOW, zoom)
        for face in finder(cut(rgb, to_window, CHECK_WINDOW), CHECK_WINDOW):
            again = finder_find(face)
            if again is not None and again.confidence >= CHECK_SCORE:
                pose = pose_of(apply(invert(to_window), anchors_of(again.pose)))
                if distance(pose, find.pose) < SAME:
                    return True
    return False


def grey_of(rgb: Image) -> Image:
    """Luma of uint8[H, W, 3] as uint8[H, W]."""
    return np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
