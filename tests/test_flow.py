"""Optical flow carries a face over a known motion, and says so when it cannot."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from unmask_rt import sample
from unmask_rt.align import MESH_ANCHORS, Affine, Image, apply
from unmask_rt.faces.flow import follow
from unmask_rt.faces.pose import Pose, anchors_of, pose_of, side_of


@pytest.fixture
def grey(masked_astronaut: Image) -> Image:
    return np.asarray(cv2.cvtColor(masked_astronaut, cv2.COLOR_RGB2GRAY))


@pytest.fixture
def pose() -> Pose:
    return pose_of(sample.astronaut_mesh()[list(MESH_ANCHORS)])


def motion(dx: float, dy: float, degrees: float, zoom: float) -> Affine:
    about = sample.astronaut_mesh().mean(axis=0)
    out = cv2.getRotationMatrix2D((float(about[0]), float(about[1])), degrees, zoom)
    out[:, 2] += (dx, dy)
    return out


@pytest.mark.parametrize(
    "step", [(0, 0, 0, 1.0), (3.3, -2.6, 0, 1.0), (18, 9, 0, 1.0), (-4, 6, 5, 1.0), (2, 2, -3, 1.06), (0, 0, 0, 0.94)]
)
def test_follows_a_known_motion(grey: Image, pose: Pose, step: tuple[float, float, float, float]) -> None:
    true = motion(*step)
    after = cv2.warpAffine(grey, true, grey.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    after = np.clip(after * 0.93 + np.random.default_rng(0).normal(4, 2, after.shape), 0, 255).astype(np.uint8)
    found = follow(grey, after, pose)
    assert found is not None
    error = np.abs(anchors_of(found) - apply(true, anchors_of(pose))).max()
    assert error < 0.006 * side_of(pose)  # 1.5 pixels of a 256 px crop


def test_follows_over_many_small_steps_without_running_away(grey: Image, pose: Pose) -> None:
    where, before = pose, grey
    for k in range(1, 31):
        true = motion(20 * np.sin(k / 5), 0.8 * k, 4 * np.sin(k / 7), 1 + 0.003 * k)
        after = np.asarray(cv2.warpAffine(grey, true, grey.shape[::-1], borderMode=cv2.BORDER_REPLICATE))
        found = follow(before, after, where)
        assert found is not None
        where, before = found, after
    error = np.abs(anchors_of(where) - apply(true, anchors_of(pose))).max()
    assert error < 0.02 * side_of(pose)


def test_gives_up_on_another_picture(grey: Image, pose: Pose) -> None:
    assert follow(grey, np.ascontiguousarray(grey[::-1]), pose) is None
    assert follow(grey, np.full_like(grey, 90), pose) is None
    assert follow(np.full_like(grey, 90), grey, pose) is None


def test_gives_up_when_a_hand_covers_the_eyes(grey: Image, pose: Pose) -> None:
    covered = grey.copy()
    x, y = (int(v) for v in pose[:2])
    half = int(0.3 * side_of(pose))
    covered[y - half : y + half, x - half : x + half] = 150
    assert follow(grey, covered, pose) is None


def test_gives_up_when_the_face_has_left_the_picture(grey: Image, pose: Pose) -> None:
    true = motion(-pose[0] - 5, 0, 0, 1.0)
    steps = [motion(-30 * k, 0, 0, 1.0) for k in range(1, int(pose[0] // 30) + 3)]
    where, before = pose, grey
    for step in steps:
        after = np.asarray(cv2.warpAffine(grey, step, grey.shape[::-1]))
        found = follow(before, after, where)
        if found is None:
            assert step[0, 2] < 0.5 * true[0, 2]
            return
        where, before = found, after
    pytest.fail("a face outside of the picture was followed")
