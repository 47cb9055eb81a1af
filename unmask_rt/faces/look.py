"""Looks at single pictures: what mesh and CenterFace say, checked for sense, and the search of a still picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np

from unmask_rt.align import (
    COARSE_TEMPLATE,
    MESH_ANCHORS,
    Image,
    anchors_from_transform,
    apply,
    coarse_crop_transform,
    invert,
    scale_of,
)
from unmask_rt.faces.centerface import CenterFace, FoundFace
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
EYES = (33, 263)
"""Outer eye corners in the mesh."""
TURN_ALLOWED, MOST_TURNED = 1.12, 1.8
"""A turned head's eyes come together, and a crop fitted to them would cut off the rest of the face. Foreshortening up
to the first ratio (27 degrees) is left in, as in the crops that networks are trained on; beyond it, up to the second,
the crop grows."""
SAME = 0.35
"""`tracker.distance` up to which two looks mean one face."""


class StillLooker:
    """Finds the faces of single pictures: the mesh on the whole, CenterFace at several sizes, the mesh in its boxes."""

    def __init__(self, face_model: bytes, finder_model: bytes, max_faces: int) -> None:
        self._mesh = FaceMesh(face_model, max_faces=max_faces, video=False)
        self._close_up = FaceMesh(face_model, max_faces=1, video=False)
        self._finder = CenterFace(finder_model)
        self._max_faces = max_faces

    def __call__(self, rgb: Image, min_side: float) -> list[Find]:
        """The largest faces of uint8[H, W, 3], largest first; ``min_side`` is the smallest crop side taken, pixels."""
        finds = [f for f in map(mesh_find, self._mesh(rgb)) if f is not None]
        for face in self._finder.at_scales(rgb, STILL_SIDES):
            coarse = finder_find(face)
            if coarse is None or any(distance(coarse.pose, f.pose) < SAME for f in finds):
                continue
            close = mesh_inside(self._close_up, rgb, coarse.pose, ZOOMS)
            if close is not None or coarse.confidence >= CONVINCING or is_face(self._finder, rgb, coarse):
                finds.append(close or coarse)
        large = [f for f in finds if side_of(f.pose) >= min_side]
        return sorted(large, key=lambda f: -side_of(f.pose))[: self._max_faces]

    def close(self) -> None:
        """Frees the native graphs; calling it twice is harmless."""
        self._mesh.close()
        self._close_up.close()


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
    if not 0.12 * width < apart < 0.9 * width or not 0.4 * height < width < 1.6 * height:
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


def mesh_inside(mesh: FaceMesh, rgb: Image, expected: Pose, zooms: Sequence[float]) -> Find | None:
    """Looks with the mesh into upright windows around a face.

    Args:
        mesh: in picture mode, for one face.
        rgb: uint8[H, W, 3].
        expected: where the face should be, pixels of ``rgb``.
        zooms: sides of the windows to try, in crop sides.

    Returns:
        The first mesh that agrees with ``expected``, in pixels of ``rgb``, or None.
    """
    for zoom in zooms:
        to_window = window_of(expected, WINDOW, zoom)
        for face in mesh(cut(rgb, to_window, WINDOW)):
            points = apply(invert(to_window), face.points)
            find = mesh_find(MeshFace(points, face.depth / np.float32(scale_of(to_window)), face.blendshapes))
            if find is not None and distance(find.pose, expected) < SAME:
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
