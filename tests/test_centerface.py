"""The face finder, and the few bytes of its model that are rewritten."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest

from unmask_rt import sample
from unmask_rt.align import MESH_ANCHORS, Image
from unmask_rt.errors import ModelError
from unmask_rt.faces.centerface import CenterFace, FoundFace, free_shape, iou, suppress


@pytest.fixture(scope="module")
def finder(face_models: Any) -> CenterFace:
    return CenterFace(face_models.finder)


def eyes_of_sample() -> np.ndarray:
    """Middle of both eyes of the astronaut by the mesh, the picture's left one first."""
    corners = sample.astronaut_mesh()[list(MESH_ANCHORS)]
    return np.array([corners[:2].mean(axis=0), corners[2:4].mean(axis=0)])


@pytest.mark.parametrize("side", [256, 320, 480])
def test_finds_the_astronaut_with_eyes_and_nose_in_place(finder: CenterFace, astronaut: Image, side: int) -> None:
    found = finder(astronaut, side)
    assert len(found) == 1 and found[0].score > 0.6
    eyes = eyes_of_sample()
    apart = float(np.linalg.norm(eyes[1] - eyes[0]))
    assert np.abs(found[0].points[:2] - eyes).max() < 0.2 * apart
    mesh = sample.astronaut_mesh()
    box = (*mesh.min(axis=0), *mesh.max(axis=0))
    assert iou(found[0].box, box) > 0.5
    assert found[0].points[0, 1] < found[0].points[2, 1] < found[0].points[3, 1]  # eye, nose, mouth from top to bottom


def test_finds_a_masked_face_and_places_it_in_a_larger_picture(finder: CenterFace, masked_astronaut: Image) -> None:
    wide = np.zeros((900, 1600, 3), np.uint8)
    wide[200:712, 700:1212] = masked_astronaut
    found = finder(wide, 640)
    assert found and found[0].score > 0.5
    assert np.abs(found[0].points[:2] - eyes_of_sample() - (700, 200)).max() < 25


def test_finds_a_face_that_is_cut_off_by_the_border(finder: CenterFace, astronaut: Image) -> None:
    mesh = sample.astronaut_mesh()
    cut = int(mesh[:, 0].min() + 0.25 * np.ptp(mesh[:, 0]))
    found = finder(np.ascontiguousarray(astronaut[:, cut:]), 320)
    assert len(found) == 1 and abs(found[0].box[0]) < 8
    assert np.abs(found[0].points[1] + (cut, 0) - eyes_of_sample()[1]).max() < 12


def test_sees_nobody_in_noise_and_in_black(finder: CenterFace) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (240, 320, 3), np.uint8)
    assert finder(noise, 320) == [] and finder(np.zeros((33, 47, 3), np.uint8), 320) == []


def test_several_scales_give_one_face_once(finder: CenterFace, astronaut: Image) -> None:
    small = np.asarray(cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA))
    assert len(finder.at_scales(small, (128, 320, 640))) == 1


def test_overlapping_faces_are_suppressed_best_first() -> None:
    points = np.zeros((5, 2), np.float32)
    weak, strong = FoundFace((0, 0, 10, 10), points, 0.4), FoundFace((1, 1, 11, 11), points, 0.9)
    other = FoundFace((20, 20, 30, 30), points, 0.5)
    assert suppress([weak, strong, other]) == [strong, other]


def test_iou_of_boxes() -> None:
    assert iou((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert iou((0, 0, 1, 1), (2, 2, 3, 3)) == 0.0


def test_the_freed_model_takes_any_size_and_folds_its_weights(face_models: Any) -> None:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    freed = ort.InferenceSession(free_shape(face_models.finder), options, providers=["CPUExecutionProvider"])
    fixed = ort.InferenceSession(face_models.finder, options, providers=["CPUExecutionProvider"])
    assert [i.name for i in freed.get_inputs()] == [fixed.get_inputs()[0].name]
    for height, width in ((32, 32), (64, 96)):
        heat = freed.run(None, {freed.get_inputs()[0].name: np.zeros((1, 3, height, width), np.float32)})[0]
        assert heat.shape == (1, 1, height // 4, width // 4)
    batch = np.random.default_rng(0).uniform(0, 255, (10, 3, 32, 32)).astype(np.float32)
    for ours, theirs in zip(freed.run(None, {"input.1": batch}), fixed.run(None, {"input.1": batch}), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("junk", [b"", b"\xff" * 40, b"not a model at all", b"\x3a\x7f\x00"])
def test_bytes_that_are_no_model_are_refused(junk: bytes) -> None:
    with pytest.raises(ModelError):
        CenterFace(junk)


def test_a_truncated_model_is_refused(face_models: Any) -> None:
    with pytest.raises(ModelError):
        CenterFace(face_models.finder[:100_000])
