"""Single pictures: small faces of large ones are found in tiles, and whoever sees a face best places it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from unmask_rt import sample
from unmask_rt.align import MESH_ANCHORS, PROFILE_HIGH, Image
from unmask_rt.faces.centerface import CenterFace, FoundFace, iou
from unmask_rt.faces.look import (
    OVERLAP,
    STILL_SIDES,
    TILE,
    ZOOMS,
    StillLooker,
    finder_find,
    in_tiles,
    mesh_inside,
)
from unmask_rt.faces.mesh import FaceMesh
from unmask_rt.faces.pose import anchors_of, box_of, pose_of, side_of


@pytest.fixture(scope="module")
def hall(masked_astronaut: Image) -> tuple[Image, list[np.ndarray]]:
    """A large picture with four small masked people, one on the seam of two tiles; and their anchors."""
    small = cv2.resize(masked_astronaut, (150, 150), interpolation=cv2.INTER_AREA)
    picture = np.full((1080, 1900, 3), (120, 128, 125), np.uint8)
    anchors = []
    for x, y in ((20, 30), (TILE - OVERLAP // 2 - 75, 470), (1300, 200), (1700, 880)):
        picture[y : y + 150, x : x + 150] = small
        truth = (sample.astronaut_mesh()[list(MESH_ANCHORS)] + 0.5) * 150 / 512 - 0.5
        anchors.append(truth + np.array([x, y]))
    return picture, anchors


def test_tiles_find_the_small_faces_of_a_large_picture(hall: tuple[Image, list[np.ndarray]], face_models: Any) -> None:
    picture, anchors = hall
    found = in_tiles(CenterFace(face_models.finder), picture)
    for truth in anchors:
        eyes = np.array([truth[:2].mean(axis=0), truth[2:4].mean(axis=0)])
        assert any(np.abs(face.points[:2] - eyes).max() < 3 for face in found)
    assert in_tiles(CenterFace(face_models.finder), picture[: STILL_SIDES[-1], : STILL_SIDES[-1]]) == []


def test_each_small_face_is_one_find_in_place(hall: tuple[Image, list[np.ndarray]], face_models: Any) -> None:
    picture, anchors = hall
    looker = StillLooker(face_models.face, face_models.finder, face_models.aligner, 20)
    finds = looker(picture, 20.0)
    assert len(finds) == len(anchors)
    for truth in anchors:
        apart = min(float(np.linalg.norm(anchors_of(f.pose) - truth, axis=1).mean()) for f in finds)
        assert apart < 0.12 * np.ptp(truth[:, 0])
    assert looker(picture, 60.0) == []
    looker.close()
    looker.close()


@pytest.mark.parametrize("nose_x", [20.0, 60.0, 100.0])
def test_a_profile_is_placed_by_its_box(nose_x: float) -> None:
    points = np.array([[60, 50], [66, 50], [nose_x, 80], [55, 100], [60, 100]], np.float32)
    find = finder_find(FoundFace((20.0, 10.0, 110.0, 130.0), points, 0.8))
    assert find is not None and find.found_by == "finder" and find.confidence == 0.8
    x0, y0, x1, y1 = box_of(find.pose)
    assert iou((x0, y0, x1, y1), (20.0, 10.0, 110.0, 130.0)) > 0.6
    assert finder_find(FoundFace((20.0, 10.0, 110.0, 130.0), points, 0.5)) is None  # in doubt it is nobody
    points[2, 1] = 40  # a nose above the eyes
    assert finder_find(FoundFace((20.0, 10.0, 110.0, 130.0), points, 0.8)) is None


def test_a_head_turned_far_is_as_large_as_its_box_where_the_finder_is_sure() -> None:
    points = np.array([[60, 50], [78, 50], [84, 72], [60, 100], [70, 100]], np.float32)  # eyes .2 of the box apart
    box = (20.0, 10.0, 110.0, 130.0)
    sure, in_doubt = finder_find(FoundFace(box, points, 0.8)), finder_find(FoundFace(box, points, 0.5))
    assert sure is not None and in_doubt is not None
    assert side_of(sure.pose) == pytest.approx(120 / PROFILE_HIGH) and side_of(in_doubt.pose) < 0.9 * side_of(sure.pose)
    x0, _, x1, _ = box_of(sure.pose)
    assert x0 < 25 and x1 > 105  # all of it, not only what is about the eyes


@pytest.mark.parametrize(("larger", "seen"), [(1.0, True), (1.15, True), (1.3, False), (0.77, True)])
def test_a_mesh_that_is_much_smaller_is_not_the_face_that_is_expected(
    astronaut: Image, face_models: Any, larger: float, seen: bool
) -> None:
    expected = pose_of(sample.astronaut_mesh()[list(MESH_ANCHORS)])
    expected[2] += np.log(larger)
    with FaceMesh(face_models.face, max_faces=1, video=False) as mesh:
        assert (mesh_inside(mesh, astronaut, expected, ZOOMS) is not None) == seen


def test_of_many_faces_the_largest_are_kept(face_models: Any, masked_astronaut: Image) -> None:
    picture = np.full((300, 620, 3), (120, 128, 125), np.uint8)
    for x, side in ((0, 130), (140, 170), (315, 300)):
        picture[:side, x : x + side] = cv2.resize(masked_astronaut, (side, side), interpolation=cv2.INTER_AREA)
    looker = StillLooker(face_models.face, face_models.finder, face_models.aligner, 2)
    finds = looker(picture, 20.0)
    looker.close()
    assert [round(f.pose[0]) > 140 for f in finds] == [True, True] and finds[0].pose[0] > 315
