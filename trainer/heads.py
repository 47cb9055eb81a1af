"""The mean head in three dimensions: how far a face is turned, and faces turned further than they were photographed.

Few of the prepared faces look more than 25 degrees aside, or down. The mean head is fitted to a face's mesh, rotated,
and the picture drawn on it anew, triangle by triangle from back to front (after X. Zhu et al., "Face Alignment Across
Large Poses: A 3D Solution", CVPR 2016).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask_rt.align import (
    MESH_ANCHORS,
    MOST_TURNED,
    PROFILE,
    PROFILE_HIGH,
    TEMPLATE,
    TURN_ALLOWED,
    Affine,
    Points,
    apply,
    invert,
    similarity,
)
from unmask_rt.errors import ModelError

CROP = 256
"""Side of the prepared crops."""
ANCHORS_NOSE = (*MESH_ANCHORS, 4)
"""The anchors and the nose tip in the mesh."""
_SHAPE_FACES = 160
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The mesh's rim, from the forehead over the subject's left side."""
HAIR, BEHIND = 1.4, 0.3
"""The head around the mesh: the rim this much larger, and this far behind it in canonical sides."""
RIM = 12
"""Points on each side of the crop that stay where they are."""


def grown(yaw_deg: NDArray[np.float32] | float) -> NDArray[np.float64]:
    """How much larger than the fit to its eyes a turned head's crop is: 1 up to 27 degrees, `MOST_TURNED` at most."""
    turned = np.radians(np.minimum(np.abs(yaw_deg), 80))
    return np.clip(1 / (TURN_ALLOWED * np.cos(turned)), 1.0, MOST_TURNED)


def head_shape(crops: NDArray[np.uint8], turn: NDArray[np.float64], face_model: bytes) -> NDArray[np.float64]:
    """Mean mesh of the faces that look straight ahead, float64[478, 3] in canonical sides, centred.

    Args:
        crops: uint8[N, 256, 256, 3].
        turn: `trainer.quality.yaw_of` each.
        face_model: bytes of the FaceLandmarker, whose depth the shape takes.

    Raises:
        ModelError: it sees none of these faces.
    """
    from unmask_rt.faces.mesh import FaceMesh

    shapes = []
    with FaceMesh(face_model, max_faces=1, video=False) as mesh:
        for row in np.argsort(np.abs(turn), kind="stable")[:_SHAPE_FACES]:
            for face in mesh(np.asarray(crops[row])):
                shapes.append(np.hstack([face.points, face.depth[:, None]]) / CROP)
    if not shapes:
        raise ModelError("the face mesh sees none of the prepared faces", "Prepare more faces.")
    mean = np.mean(shapes, axis=0)
    mean[:, 2] -= mean[:, 2].mean()
    mirrored = _straightened(mean)
    return mirrored - mirrored.mean(axis=0)


def _straightened(shape: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turned about the vertical axis until both outer eye corners are equally deep."""
    across = shape[MESH_ANCHORS[3]] - shape[MESH_ANCHORS[0]]
    angle = np.arctan2(across[2], across[0])
    c, s = np.cos(angle), np.sin(angle)
    return shape @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]).T


def yaw_of(mesh: Points, shape: NDArray[np.float64]) -> float:
    """Degrees that a head is turned, positive where the nose points to the picture's right.

    The affine camera that takes the mean head to the mesh (least squares over all points) is brought to the nearest
    scaled rotation: its turn about the vertical axis is the yaw.

    Args:
        mesh: float[478, 2] pixels.
        shape: `head_shape`.
    """
    camera = np.linalg.lstsq(shape, mesh - mesh.mean(axis=0), rcond=None)[0].T  # (2, 3)
    u, _, vt = np.linalg.svd(camera, full_matrices=False)
    across, down = u @ vt  # the picture's axes, seen from the head
    forward = np.cross(across, down)  # away from the camera
    # The nose points along -z of the head; its x in the picture over its depth.
    return float(np.degrees(np.arctan2(-across[2], forward[2])))


@dataclass(frozen=True, slots=True)
class Turned:
    """A picture of a head that has been turned further, as it is to be drawn.

    Attributes:
        map_x, map_y: float32[out, out] for `cv2.remap`, from the picture as it was.
        head: bool[out, out], where the head is; what is beside it has only moved along.
        mesh: float32[478, 2], pixels of the new picture.
        yaw: degrees that the head is turned now.
        moved: how the background has moved, from the old picture to the new one.
    """

    map_x: NDArray[np.float32]
    map_y: NDArray[np.float32]
    head: NDArray[np.bool_]
    mesh: Points
    yaw: float
    moved: Affine

    @property
    def points(self) -> Points:
        """`ANCHORS_NOSE` in the new picture, float32[7, 2]."""
        return self.mesh[list(ANCHORS_NOSE)]


class Head:
    """The mean head with its surroundings, and the triangles between its points.

    Args:
        shape: `head_shape`.
        size: side of the pictures in pixels, the face in their middle.
        zoom: the same in canonical sides.
        out: side of the pictures that are made, the middle of such ones; None for ``size``.
    """

    def __init__(self, shape: NDArray[np.float64], size: int, zoom: float, out: int | None = None) -> None:
        self.size, self.zoom, self.out = size, zoom, out or size
        rim = shape[list(OVAL)]
        around = (rim - rim.mean(axis=0)) * HAIR + rim.mean(axis=0)
        around[:, 2] = rim[:, 2] + BEHIND
        self.shape = shape
        self.points = np.vstack([shape, around])  # (478 + 36, 3)
        step = np.linspace(-0.5, size - 0.5, RIM)
        ends = np.full(RIM, -0.5), np.full(RIM, size - 0.5)
        self.still = np.vstack([np.stack(pair, 1) for pair in
                                ((step, ends[0]), (step, ends[1]), (ends[0], step), (ends[1], step))])  # fmt: skip
        flat = self.points[:, :2] * size / zoom + (size / 2, size / 2 + 0.04 * size)
        self.triangles = triangles_of(np.vstack([flat, self.still]))
        self.of_head = np.asarray((self.triangles < len(self.points)).all(axis=1), np.bool_)

    def turned(self, mesh: Points, yaw_deg: float, pitch_deg: float) -> Turned:
        """How to draw the head of a picture turned further, aligned as the tool would align it.

        Args:
            mesh: float[478, 2], pixels of the picture.
            yaw_deg: how much further to the picture's right.
            pitch_deg: how much further down.
        """
        camera = np.linalg.lstsq(self.shape, mesh - mesh.mean(axis=0), rcond=None)[0].T
        u, size, vt = np.linalg.svd(camera, full_matrices=False)
        rotation = np.vstack([u @ vt, np.cross(*(u @ vt))])
        scale = float(size.mean())
        a, b = np.radians(yaw_deg), np.radians(pitch_deg)
        aside = np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]])
        down = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
        before = scale * self.points @ rotation.T
        centre = np.array([0, 0, scale * BEHIND])
        after = (before - centre) @ (down @ aside).T + centre
        place = np.vstack([mesh, before[len(mesh) :, :2] + mesh.mean(axis=0)])
        moved = place + (after - before)[:, :2]
        yaw = yaw_of(moved[: len(mesh)].astype(np.float32), self.shape)
        to_new = self._placed(moved[: len(mesh)].astype(np.float32), yaw)
        deep = np.concatenate([after[:, 2], np.full(len(self.still), 9 * scale)])
        source = np.vstack([place, self.still])
        goal = apply(to_new, np.vstack([moved, self.still]).astype(np.float32)).astype(np.float64)
        map_x, map_y, head = self._painted(source, goal, deep, invert(to_new))
        return Turned(map_x, map_y, head, goal[: len(mesh)].astype(np.float32), yaw, to_new)

    def _placed(self, mesh: Points, yaw: float) -> Affine:
        """Where the tool would cut the crop: by the anchors, a profile by its box (`unmask_rt.faces.look`)."""
        side, middle = self.size / self.zoom, (self.out - 1) / 2
        if abs(yaw) <= PROFILE:
            target = (TEMPLATE - 0.5) * side / grown(yaw) + middle
            return similarity(mesh[list(MESH_ANCHORS)], target.astype(np.float32))
        low, high, eyes = mesh.min(axis=0), mesh.max(axis=0), mesh[list(MESH_ANCHORS[:4])].mean(axis=0)
        scale = side * PROFILE_HIGH / float(high[1] - low[1])
        at = np.array([(eyes[0] + (low[0] + high[0]) / 2) / 2, eyes[1]])
        goal = (TEMPLATE.mean(axis=0) - 0.5) * side + middle
        return np.hstack([np.eye(2) * scale, (goal - at * scale)[:, None]])

    def _painted(
        self, source: np.ndarray, goal: np.ndarray, deep: np.ndarray, back: Affine
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_]]:
        """Where each pixel of the new crop comes from, and whether it is of the head.

        What no triangle covers lies where the crop's move puts it.
        """
        corners = goal[self.triangles]  # (T, 3, 2)
        (x1, y1), (x2, y2) = (corners[:, 1] - corners[:, 0]).T, (corners[:, 2] - corners[:, 0]).T
        facing = x1 * y2 - x2 * y1
        owner = np.full((self.out, self.out), -1, np.int32)
        for t in np.argsort(-deep[self.triangles].mean(axis=1)):
            if facing[t] > 0.02:
                cv2.fillConvexPoly(owner, np.round(corners[t]).astype(np.int32), int(t))
        ones = np.ones((*corners.shape[:2], 1))
        singular = np.abs(facing) < 0.02
        safe = np.where(singular[:, None, None], np.eye(3), np.concatenate([corners, ones], 2))
        affine = np.linalg.solve(safe, source[self.triangles])  # (T, 3, 2): (x, y, 1) -> source
        rows, columns = np.mgrid[: self.out, : self.out]
        places = np.stack([columns, rows, np.ones_like(rows)], 2).astype(np.float64)
        found = np.einsum("hwk,hwkc->hwc", places, affine[owner])
        plain = places @ back.T
        both = np.where(owner[..., None] >= 0, found, plain).astype(np.float32)
        head = (owner >= 0) & self.of_head[owner]
        return np.ascontiguousarray(both[..., 0]), np.ascontiguousarray(both[..., 1]), head


def triangles_of(points: NDArray[np.float64]) -> NDArray[np.int64]:
    """Delaunay triangulation of float[N, 2], int[T, 3], all turning the same way (clockwise on the screen)."""
    low, high = points.min(axis=0) - 2, points.max(axis=0) + 2
    plane = cv2.Subdiv2D((int(low[0]), int(low[1]), int(high[0] - low[0]) + 2, int(high[1] - low[1]) + 2))
    number: dict[tuple[float, float], int] = {}
    for i, (x, y) in enumerate(points.astype(np.float32)):
        if (float(x), float(y)) not in number:
            plane.insert((float(x), float(y)))
            number[float(x), float(y)] = i
    found = []
    for t in plane.getTriangleList():
        corners = [(float(t[k]), float(t[k + 1])) for k in (0, 2, 4)]
        if all(c in number for c in corners):
            i, j, k = (number[c] for c in corners)
            (x1, y1), (x2, y2) = points[j] - points[i], points[k] - points[i]
            found.append((i, j, k) if x1 * y2 - x2 * y1 > 0 else (i, k, j))
    return np.array(found)
