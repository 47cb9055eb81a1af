"""Geometry of the aligned crop: the fit, the warp, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from unmask_rt import align, sample

ANCHORS = np.array([[40, 60], [70, 55], [110, 50], [140, 46], [90, 52], [92, 68]], np.float32)


def known(angle_deg: float, scale: float, x: float, y: float) -> align.Affine:
    """Rotation by an angle, scale, then shift."""
    cos, sin = scale * np.cos(np.radians(angle_deg)), scale * np.sin(np.radians(angle_deg))
    return np.array([[cos, -sin, x], [sin, cos, y]])


def residual(transform: align.Affine, source: align.Points, target: align.Points, weights: align.Points) -> float:
    return float((weights * ((align.apply(transform, source) - target) ** 2).sum(1)).sum())


@pytest.mark.parametrize("angle_deg", [0, 17, 90, 135, 180, -60])
@pytest.mark.parametrize("scale", [0.02, 1.0, 7.5])
def test_a_known_similarity_is_recovered(angle_deg: float, scale: float) -> None:
    truth = known(angle_deg, scale, 31.5, -12.25)
    target = np.asarray(ANCHORS @ truth[:, :2].T + truth[:, 2], np.float64)
    assert np.allclose(align.similarity(ANCHORS, target), truth, atol=1e-4 * scale + 1e-5)
    assert align.scale_of(truth) == pytest.approx(scale)


def test_noise_moves_the_fit_little_and_two_points_are_enough() -> None:
    truth = known(25, 1.7, 8, 9)
    noise = np.random.default_rng(3).normal(0, 0.5, ANCHORS.shape)
    fitted = align.similarity(ANCHORS, align.apply(truth, ANCHORS) + noise)
    assert np.abs(align.apply(fitted, ANCHORS) - align.apply(truth, ANCHORS)).max() < 1.2
    assert np.allclose(align.similarity(ANCHORS[:2], align.apply(truth, ANCHORS[:2])), truth, atol=1e-3)


@pytest.mark.parametrize("seed", range(5))
def test_the_closed_form_is_the_weighted_least_squares_solution(seed: int) -> None:
    rng = np.random.default_rng(seed)
    source, target = rng.uniform(0, 200, (6, 2)), rng.uniform(0, 200, (6, 2))
    weights = rng.uniform(0.1, 1, 6).astype(np.float32)
    rows, wanted = [], []
    for (x, y), (u, v), w in zip(source, target, np.sqrt(weights), strict=True):
        rows += [[w * x, -w * y, w, 0], [w * y, w * x, 0, w]]
        wanted += [w * u, w * v]
    a, b, tx, ty = np.linalg.lstsq(np.array(rows), np.array(wanted), rcond=None)[0]
    assert np.allclose(align.similarity(source, target, weights), [[a, -b, tx], [b, a, ty]], atol=1e-4)


def test_no_small_step_away_from_the_fit_is_better() -> None:
    rng = np.random.default_rng(8)
    target = align.apply(known(12, 0.8, 5, 5), ANCHORS) + rng.normal(0, 4, ANCHORS.shape).astype(np.float32)
    weights = np.array([1, 1, 1, 1, 0.3, 0.0], np.float32)
    best = align.similarity(ANCHORS, target, weights)
    least = residual(best, ANCHORS, target, weights)
    centre = align.apply(best, ANCHORS).mean(0)
    to_centre = known(0, 1, *-centre)
    steps = ((1, 1, 0, 0), (-1, 1, 0, 0), (0, 1.02, 0, 0), (0, 0.98, 0, 0), (0, 1, 1, 0), (0, 1, 0, -1))
    for angle, scale, x, y in steps:
        about = align.compose(known(angle, scale, centre[0] + x, centre[1] + y), to_centre)
        assert residual(align.compose(about, best), ANCHORS, target, weights) > least


def test_a_point_without_weight_does_not_count() -> None:
    target = align.apply(known(5, 2, 1, 1), ANCHORS)
    target[5] += 100
    fitted = align.similarity(ANCHORS, target, np.array([1, 1, 1, 1, 1, 0], np.float32))
    assert np.allclose(fitted, known(5, 2, 1, 1), atol=1e-3)


def test_no_reflection_even_where_it_would_fit_better() -> None:
    mirrored = ANCHORS * [-1, 1]
    fitted = align.similarity(ANCHORS, mirrored.astype(np.float32))
    assert np.linalg.det(fitted[:, :2]) > 0


def test_points_that_coincide_are_refused() -> None:
    with pytest.raises(ValueError, match="coincide"):
        align.similarity(np.full((6, 2), 33.0, np.float32), ANCHORS)


@pytest.mark.parametrize("size", [128, 256])
def test_anchors_survive_the_way_there_and_back(size: int) -> None:
    transform = known(-21, 0.4, 60, 17)
    anchors = align.anchors_from_transform(transform, size)
    assert np.allclose(align.crop_transform(anchors, size), transform, atol=1e-4)
    assert np.allclose(align.apply(transform, anchors), align.TEMPLATE * size - 0.5, atol=1e-3)


def test_a_models_own_template_counts() -> None:
    wider = (align.TEMPLATE - 0.5) * 0.5 + 0.5
    default = align.scale_of(align.crop_transform(ANCHORS, 256))
    assert align.scale_of(align.crop_transform(ANCHORS, 256, wider.astype(np.float32))) == pytest.approx(default / 2)


def test_the_coarse_crop_is_near_the_fine_one(astronaut: NDArray[np.uint8]) -> None:
    mesh = sample.astronaut_mesh()
    fine = align.crop_transform(mesh[list(align.MESH_ANCHORS)], 256)
    eyes_nose = np.array([mesh[[33, 133]].mean(0), mesh[[362, 263]].mean(0), mesh[1]], np.float32)
    coarse = align.coarse_crop_transform(eyes_nose, 256)
    assert np.abs(align.corners(coarse, 256) - align.corners(fine, 256)).max() < 0.12 * 256 / align.scale_of(fine)


def test_invert_compose_and_apply_agree() -> None:
    first, second = known(30, 1.5, 4, 5), known(-80, 0.2, 100, 3)
    assert np.allclose(align.compose(align.invert(first), first), np.eye(2, 3), atol=1e-9)
    assert np.allclose(
        align.apply(align.compose(second, first), ANCHORS), align.apply(second, align.apply(first, ANCHORS)), atol=1e-3
    )


def test_corners_are_the_outer_edges_clockwise() -> None:
    straight = np.array([[0.5, 0, -10.0], [0, 0.5, -20.0]])  # half a crop pixel for one picture pixel
    left, top = (-0.5 + 10) * 2, (-0.5 + 20) * 2
    wanted = [[left, top], [left + 512, top], [left + 512, top + 512], [left, top + 512]]
    assert np.allclose(align.corners(straight, 256), wanted)


def test_the_warp_puts_anchors_on_the_template(astronaut: NDArray[np.uint8]) -> None:
    marked = np.zeros((512, 512), np.uint8)
    mesh = sample.astronaut_mesh()[list(align.MESH_ANCHORS)]
    transform = align.crop_transform(mesh, 256)
    for x, y in np.round(mesh).astype(int):
        marked[y - 1 : y + 2, x - 1 : x + 2] = 255
    crop = align.warp(marked, transform, 256)
    assert crop.shape == (256, 256) and crop.dtype == np.uint8
    for x, y in np.round(align.apply(transform, mesh)).astype(int):
        assert crop[y, x] > 150
    assert align.warp(astronaut, transform, 128).shape == (128, 128, 3)


@pytest.mark.parametrize("times", [2, 3, 4, 6])
def test_a_picture_larger_than_the_crop_does_not_alias(times: int) -> None:
    side = 200 * times
    stripes = np.zeros((side, side), np.uint8)
    stripes[:, ::2] = 255  # finer than any crop pixel
    transform = np.array([[1 / times, 0.0, 20.3], [0.0, 1 / times, 20.3]])
    crop = align.warp(stripes, transform, 256)[40:200, 40:200]
    assert crop.std() < 0.14 * stripes.std() and abs(float(crop.mean()) - 127.5) < 3


@pytest.mark.parametrize("times", [1, 2, 2.5, 3, 5.2])
def test_shrinking_shifts_nothing(times: float) -> None:
    side = round(256 * times)
    y, x = np.mgrid[:side, :side].astype(np.float32)
    ramp = np.stack([x, y, 0 * x], 2) * np.float32(250 / side)
    transform = np.array([[1 / times, 0.0, 0.5 / times - 0.5], [0.0, 1 / times, 0.5 / times - 0.5]])
    crop = align.warp(np.round(ramp).astype(np.uint8), transform, 256).astype(np.float64)
    place = ((np.arange(256) + 0.5) * times - 0.5) * 250 / side
    assert np.abs(crop[10:-10, 10:-10, 0] - place[None, 10:-10]).max() < 1.1
    assert np.abs(crop[10:-10, 10:-10, 1] - place[10:-10, None]).max() < 1.1


def test_outside_the_picture_its_border_is_repeated() -> None:
    picture = np.full((40, 40, 3), 90, np.uint8)
    picture[:, -1] = 200
    crop = align.warp(picture, np.array([[1.0, 0, 0], [0, 1.0, 0]]), 64)
    assert (crop[:40, :39] == 90).all() and (crop[:, 40:] == 200).all()
