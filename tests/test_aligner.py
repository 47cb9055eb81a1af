"""The aligner at work: where it puts eyes and bridge, what it says of nothing, and what it refuses to load."""

from __future__ import annotations

import json
import math

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import unmask_rt.faces.aligner as module
from unmask_rt import models, sample
from unmask_rt.align import MESH_ANCHORS, Image, Points, apply
from unmask_rt.errors import ModelError
from unmask_rt.faces.aligner import Aligned, Aligner, quick_cut
from unmask_rt.faces.pose import Pose, difference, distance, pose_of, side_of
from unmask_rt.faces.window import cut, window_of


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return Aligner(models.load_aligner_model())


def truth(scale: float = 1.0) -> Points:
    mesh = sample.astronaut_mesh()[[*MESH_ANCHORS, 4]]
    return ((mesh + 0.5) * scale - 0.5).astype(np.float32)


def off(anchors: Points, rng: np.random.Generator) -> Pose:
    """The pose of six anchors as a finder's eyes would have it."""
    pose = pose_of(anchors)
    pose[:2] += rng.normal(0, 0.03, 2) * side_of(pose)
    pose[2:4] += rng.normal(0, 0.08, 2)
    return pose


def errors(aligned: Aligned, points: Points) -> NDArray[np.float64]:
    """Distances of the seven points, in distances of the outer eye corners."""
    found = np.vstack([aligned.anchors, aligned.nose])
    return np.linalg.norm(found - points, axis=1) / float(np.linalg.norm(points[3] - points[0]))


@pytest.mark.parametrize("family", [None, "surgical", "cloth", "kn95"])
@pytest.mark.parametrize("scale", [0.4, 1.0, 3.0])
def test_it_finds_eyes_and_bridge_masked_or_not_near_and_far(
    aligner: Aligner, family: str | None, scale: float
) -> None:
    plain, masked = sample.masked_astronaut(family=family or "surgical")
    picture = plain if family is None else masked
    picture = np.asarray(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA))
    points, rng = truth(scale), np.random.default_rng(1)
    for _ in range(3):
        aligned = aligner(picture, off(points[:6], rng))
        assert aligned is not None and aligned.sure > 0.5
        assert aligned.anchors.shape == (6, 2) and aligned.nose.shape == (2,) and aligned.confidence.shape == (7,)
        assert errors(aligned, points)[:4].mean() < 0.05 and errors(aligned, points)[:6].mean() < 0.06
        assert (aligned.masked > 0.5) == (family is not None)
        assert abs(aligned.yaw) < 15
        assert ((aligned.confidence > 0) & (aligned.confidence <= 1)).all()


def test_a_turned_picture_and_a_mirrored_one_give_turned_and_mirrored_points(aligner: Aligner) -> None:
    _, picture = sample.masked_astronaut()
    points = truth()
    turn = cv2.getRotationMatrix2D((222.0, 120.0), 50, 1.0)
    turned = np.asarray(cv2.warpAffine(picture, turn, (512, 512)))
    there = apply(turn, points)
    aligned = aligner(turned, pose_of(there[:6]))
    assert aligned is not None and errors(aligned, there)[:6].mean() < 0.06
    straight, mirror = aligner(picture, pose_of(points[:6])), points.copy()
    mirror[:, 0] = 511 - mirror[:, 0]
    mirror = mirror[[3, 2, 1, 0, 4, 5, 6]]
    other = aligner(np.ascontiguousarray(picture[:, ::-1]), pose_of(mirror[:6]))
    assert straight is not None and other is not None
    assert errors(other, mirror)[:6].mean() < 0.06
    assert abs(straight.yaw + other.yaw) < 8


def test_it_looks_again_where_the_face_lies_far_from_where_it_was_expected(aligner: Aligner) -> None:
    _, picture = sample.masked_astronaut()
    points = truth()
    told = pose_of(points[:6])
    told[0] += 0.2 * side_of(told)
    told[2] += 0.2
    aligned = aligner(picture, told)
    assert aligned is not None and distance(aligned.pose, pose_of(points[:6])) < 0.04
    assert distance(aligned.pose, told) > 0.1


def test_in_video_noise_does_not_move_the_window() -> None:
    """Steady, a still face is looked at through one window; one that moves is followed by new ones."""
    steady, plain = (Aligner(models.load_aligner_model(), steady=s) for s in (1, 0))
    _, picture = sample.masked_astronaut()
    points, rng = truth(), np.random.default_rng(5)
    pose = pose_of(points[:6])
    first = steady(picture, pose)
    assert first is not None
    for _ in range(5):
        near = pose.copy()
        near[:2] += rng.uniform(-0.02, 0.02, 2) * side_of(pose)
        near[2:4] += rng.uniform(-0.04, 0.04, 2)
        again, other = steady(picture, near), plain(picture, near)
        assert again is not None and (again.anchors == first.anchors).all()
        assert other is not None and (other.anchors != first.anchors).any()
    for step in range(1, 30):
        shift = np.array([[1, 0, 4 * step], [0, 1, 2 * step]], np.float64)
        moved = np.asarray(cv2.warpAffine(picture, shift, (512, 512)))
        told, there = pose.copy(), points + np.array([4 * step, 2 * step], np.float32)
        told[:2] += 4 * (step - 1), 2 * (step - 1)
        aligned = steady(moved, told)
        assert aligned is not None and errors(aligned, there)[:6].mean() < 0.06


def test_where_there_is_no_face_it_is_not_sure(aligner: Aligner) -> None:
    rng = np.random.default_rng(2)
    picture = sample.astronaut()
    pose = pose_of(truth()[:6])
    grey = np.full((512, 512, 3), 120, np.uint8)
    noise = rng.integers(0, 256, (512, 512, 3), np.uint8)
    smooth = np.asarray(
        cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (512, 512), interpolation=cv2.INTER_CUBIC)
    )
    suit = pose.copy()
    suit[:2] = 250, 400
    for place, rgb in ((pose, grey), (pose, noise), (pose, smooth), (suit, picture)):
        aligned = aligner(rgb, place)
        assert aligned is None or aligned.sure < 0.5
    outside = pose.copy()
    outside[0] += 2000
    assert aligner(picture, outside) is None


def test_a_turned_head_gets_a_larger_crop(monkeypatch: pytest.MonkeyPatch) -> None:
    anchors = truth()[:6]
    plain = pose_of(anchors)

    def sized(yaw: float) -> float:
        pose = Aligned(anchors, anchors[0], np.ones(7, np.float32), 1.0, yaw, 0.0).pose
        assert np.abs(difference(pose, plain)[[0, 1, 3]]).max() < 1e-9
        return side_of(pose) / side_of(plain)

    assert sized(0) == sized(20) == sized(-20) == 1.0
    assert math.isclose(sized(45), sized(-45)) and math.isclose(sized(45), 1 / 1.12 / math.cos(math.pi / 4))
    assert math.isclose(sized(49), 1 / 1.12 / math.cos(math.radians(49)))
    monkeypatch.setattr(module, "ASIDE", (89.5, 90.0))  # as if profiles were placed by their eyes as well
    assert math.isclose(sized(89), 1.5)


@pytest.mark.parametrize("side", [30, 90, 200, 330, 700])
def test_the_quick_cut_is_the_window(side: int) -> None:
    """Also over the border; sharpness differs, place does not."""
    rng = np.random.default_rng(3)
    coarse = rng.uniform(0, 255, (14, 20, 3)).astype(np.float32)
    picture = np.asarray(cv2.resize(coarse, (900, 640), interpolation=cv2.INTER_CUBIC)).clip(0, 255).astype(np.uint8)
    for x, y in ((450, 300), (20, 600), (890, 10)):
        pose = np.array([x, y, math.log(side), 0.3, *[0] * 12])
        to_window = window_of(pose, 128, 1.5)
        quick, exact = quick_cut(picture, to_window, 128), cut(picture, to_window, 128)
        assert quick.shape == (128, 128, 3) and quick.dtype == np.uint8
        assert np.abs(quick.astype(int) - exact).mean() < 1.5


def test_tiny_pictures_do_not_break_it(aligner: Aligner) -> None:
    for size in ((16, 16), (16, 300), (17, 23)):
        picture: Image = np.zeros((*size, 3), np.uint8)
        for side in (8.0, 60.0, 5000.0):
            pose = np.array([size[1] / 2, size[0] / 2, math.log(side), 0.0, *[0] * 12])
            aligned = aligner(picture, pose)
            assert aligned is None or np.isfinite(aligned.anchors).all()


def test_the_bundled_model_says_what_it_is() -> None:
    record = models.bundled_models(models.ALIGNER)["aligner"]
    assert record["file"] == "aligner.onnx" and "LICENSE-WEIGHTS" in record["licence"]
    assert "aligner" not in models.bundled_models()
    [state] = [state for state in models.describe_models() if state.name == "aligner"]
    assert state.purpose == "face aligner" and state.state == "ready" and state.size_bytes < 2_000_000


def test_foreign_bytes_are_refused(tmp_path: object) -> None:
    data, _ = models.load_unmask_model()
    for foreign in (b"", b"nothing of the kind", data):
        with pytest.raises(ModelError, match="aligner"):
            Aligner(foreign)


def test_a_missing_or_damaged_aligner_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    index = json.dumps({"aligner": {"file": "aligner.onnx", "sha256": "0", "licence": "", "purpose": "face aligner"}})
    assets = {"models.json": index.encode(), "aligner.onnx": b"damaged"}
    monkeypatch.setattr(models, "bundled_models", lambda purpose: json.loads(assets["models.json"]))
    with pytest.raises(ModelError, match="damaged"):
        models.load_aligner_model()
    monkeypatch.setattr(models, "bundled_models", lambda purpose: {})
    with pytest.raises(ModelError, match="no aligner"):
        models.load_aligner_model()
