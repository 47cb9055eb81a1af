"""Patches back in the picture: where they show, how they are scaled, and grain like the skin around them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from unmask_rt import align, blend

Image = NDArray[np.uint8]
S = 256
FEATHER = 0.015


def ellipse(centre: tuple[int, int] = (128, 165), axes: tuple[int, int] = (60, 55)) -> Image:
    """A map of one sure mask."""
    mask_map = np.zeros((S, S), np.uint8)
    cv2.ellipse(mask_map, centre, axes, 0, 0, 360, 255, -1)
    return mask_map


def enlarged(times: float) -> align.Affine:
    """Picture to crop, where the picture shows the crop ``times`` as large and nothing else."""
    return np.array([[1 / times, 0.0, 0.5 / times - 0.5], [0.0, 1 / times, 0.5 / times - 0.5]])


def smooth_skin(side: int) -> NDArray[np.float32]:
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    return np.stack([170 + 30 * x, 130 + 30 * y, 110 + 20 * x * y], 2)


# ---- where a patch shows


def test_the_patch_shows_in_full_all_over_the_map_and_fades_outside() -> None:
    mask_map = ellipse()
    region = blend.region_of(mask_map, FEATHER)
    assert region.weight.shape == (S, S) and region.weight.dtype == np.float32
    assert (region.weight[mask_map > 0] == 1).all()
    distance = cv2.distanceTransform((mask_map == 0).astype(np.uint8), cv2.DIST_L2, 5)
    assert (region.weight[distance > 16] == 0).all()
    ring = (distance > 4) & (distance < 7)
    assert 0.05 < region.weight[ring].mean() < 0.95
    assert region.bounds is not None
    x0, y0, x1, y1 = region.bounds
    inside = np.zeros((S, S), bool)
    inside[y0:y1, x0:x1] = True
    assert (region.weight[~inside] == 0).all()
    for edge in (region.weight[y0], region.weight[y1 - 1], region.weight[:, x0], region.weight[:, x1 - 1]):
        assert edge.max() > 0, "the bounds are too wide"


def test_a_wider_feather_is_softer() -> None:
    steep, gentle = (blend.region_of(ellipse(), feather).weight for feather in (0.01, 0.06))
    assert np.abs(np.diff(gentle, axis=1)).max() < 0.6 * np.abs(np.diff(steep, axis=1)).max()
    assert (gentle > 0).sum() > (steep > 0).sum()


def test_hesitant_mask_pixels_count_and_faint_ones_do_not() -> None:
    sure = (ellipse() > 0).astype(np.uint8)
    assert (blend.region_of(sure * np.uint8(blend.MAP_THRESHOLD), FEATHER).weight[sure > 0] == 1).all()
    faint = blend.region_of(sure * np.uint8(blend.MAP_THRESHOLD - 1), FEATHER)
    assert faint.bounds is None and not faint.weight.any()


def test_islands_away_from_mouth_and_chin_are_left_alone() -> None:
    worn, island = ellipse(), ellipse((60, 40), (14, 10))
    both = blend.region_of(worn | island, FEATHER)
    assert (both.weight == blend.region_of(worn, FEATHER).weight).all()
    alone = blend.region_of(island, FEATHER)
    assert alone.bounds is None and not alone.weight.any()


@pytest.mark.parametrize("finger", [slice(96, 112), slice(140, 156)])
def test_a_mask_that_a_finger_cuts_in_two_goes_on_both_sides(finger: slice) -> None:
    mask_map = ellipse()
    whole = blend.region_of(mask_map, FEATHER).weight
    mask_map[:, finger] = 0
    region = blend.region_of(mask_map, FEATHER)
    middle = (finger.start + finger.stop) // 2
    assert (region.weight[mask_map > 0] == whole[mask_map > 0]).all() and region.weight[:, middle].max() < 0.05


def test_a_mask_is_taken_off_above_what_hides_mouth_and_chin_and_specks_stay() -> None:
    mask_map = ellipse()
    mask_map[blend.lower_face(S)[0].start - 4 :] = 0
    assert mask_map.any()
    seen = mask_map.copy()
    mask_map[210:213, 100:103] = 255
    region = blend.region_of(mask_map, FEATHER)
    assert (region.weight[seen > 0] > 0.99).all() and region.weight[205:].max() == 0


def test_a_coat_that_may_be_mask_is_left_alone_but_for_what_is_near_and_a_strap_is_not() -> None:
    worn = ellipse((128, 150), (60, 45))
    coat, strap = np.zeros_like(worn), np.zeros_like(worn)
    coat[185:, 40:216] = 140
    cv2.line(strap, (75, 135), (30, 40), 140, 5)
    weight = blend.region_of(worn | coat | strap, FEATHER).weight
    assert weight[worn > 0].min() == 1
    assert (weight[strap > 0] == 1).all(), "to its end, which is far away"
    below = worn.nonzero()[0].max()
    assert weight[below + 8, 128] == 1, "what the network is not sure of, beside what it is sure of"
    assert not weight[below + round(blend.NEAR * S) + 12 :].any()
    sure = blend.region_of(worn | np.where(coat > 0, 255, 0).astype(np.uint8), FEATHER).weight
    assert (sure[-24, 60:200] == 1).all(), "a scarf that it is sure of goes with the mask"


def test_a_map_of_nothing_and_one_of_everything() -> None:
    assert blend.region_of(np.zeros((S, S), np.uint8), FEATHER).bounds is None
    full = blend.region_of(np.full((S, S), 255, np.uint8), FEATHER)
    assert full.weight[32:-32, 32:-32].min() == 1


@pytest.mark.parametrize("where", ["bottom", "sides", "all"])
def test_a_mask_that_reaches_the_border_fades_out_before_it(where: str) -> None:
    mask_map = ellipse()
    if where in ("bottom", "all"):
        mask_map[150:, 60:200] = 255
    if where in ("sides", "all"):
        mask_map[150:220] = 255
    weight = blend.region_of(mask_map, FEATHER).weight
    assert max(weight[0].max(), weight[-1].max(), weight[:, 0].max(), weight[:, -1].max()) == 0
    fade = weight[150:, 128] if where == "bottom" else weight[185, 128:]
    steps = -np.diff(fade)
    assert fade[0] == 1 and (steps >= 0).all() and steps.max() < 0.12, "a step is seen as a line"
    assert (steps > 0).sum() >= 10


def test_the_score_is_the_share_of_mouth_and_chin() -> None:
    mask_map = np.zeros((S, S), np.uint8)
    assert blend.mask_score(mask_map) == 0
    mask_map[blend.lower_face(S)] = 255
    assert blend.mask_score(mask_map) == 1 and 0.02 < (mask_map > 0).mean() < 0.2
    rows, columns = blend.lower_face(S)
    mask_map[rows, columns.start : (columns.start + columns.stop) // 2] = 0
    assert blend.mask_score(mask_map) == pytest.approx(0.5, abs=0.02)
    assert blend.mask_score(np.full((S, S), 127, np.uint8)) == 0


def test_the_mask_of_a_turned_head_is_looked_for_nearer_to_the_eyes() -> None:
    mask_map = np.zeros((S, S), np.uint8)
    mask_map[blend.lower_face(S, blend.TURNED)] = 255
    rows, columns = blend.lower_face(S)
    mask_map[rows.stop + 8 : rows.stop + 20, columns] = 255  # clothes of its colour
    assert blend.mask_score(mask_map) < 0.4 and blend.mask_score(mask_map, turned=True) == 1
    region = blend.region_of(mask_map, 0.01)
    assert region.weight[blend.lower_face(S, blend.TURNED)].min() > 0.99 and region.weight[rows.stop + 14].max() == 0


@pytest.mark.parametrize("times", [0.4, 1.0, 2.6])
def test_the_bounds_in_the_picture_hold_the_whole_region(times: float) -> None:
    cos, sin = np.cos(0.6) / times, np.sin(0.6) / times
    transform = np.array([[cos, -sin, 40.0], [sin, cos, -90.0]])
    region = blend.region_of(ellipse(), FEATHER)
    assert region.bounds is not None
    x0, y0, x1, y1 = blend.bounds_in_picture(transform, region.bounds)
    ys, xs = np.nonzero(region.weight)
    points = align.apply(align.invert(transform), np.stack([xs, ys], 1).astype(np.float32))
    assert (points.min(0) > [x0, y0]).all() and (points.max(0) < [x1, y1]).all()
    assert (x1 - x0) * (y1 - y0) < 4 * np.prod(np.ptp(points, axis=0)) + 200


# ---- scaling


@pytest.mark.parametrize("times", [0.33, 0.5, 1, 2, 3])
def test_what_goes_back_lies_where_it_came_from(times: float) -> None:
    """Crop from picture and back: a smooth picture comes out as it was, in place, at every size of face."""
    side = round(S * times)
    y, x = np.mgrid[:side, :side].astype(np.float32) / side
    waves = 128 + 50 * np.sin(7 * x + 1) * np.cos(5 * y)
    picture = np.stack([waves, 255 * x, 255 * y], 2).round().astype(np.uint8)
    crop = align.warp(picture, enlarged(times), S)
    back = blend.warp_back(crop, enlarged(times), (side, side))
    edge = max(2, round(0.03 * side))
    error = (back.astype(int) - picture)[edge:-edge, edge:-edge]
    assert back.dtype == np.uint8 and back.shape == picture.shape
    assert np.abs(error).max() <= 3 and np.abs(error).mean() < 0.8
    for axis in (0, 1):
        slope = np.gradient(waves, axis=axis)[edge:-edge, edge:-edge]
        shift_px = float((error[..., 0] * slope).sum() / (slope**2).sum())
        assert abs(shift_px) < 0.08


@pytest.mark.parametrize("times", [0.33, 0.5])
def test_a_small_face_gets_an_average_not_a_moire(times: float) -> None:
    crop = np.zeros((S, S, 3), np.uint8)
    crop[:, ::2] = 255
    side = round(S * times)
    back = blend.warp_back(crop, enlarged(times), (side, side))[5:-5, 5:-5]
    assert back.std() < 25 and abs(float(back.mean()) - 127.5) < 3


@pytest.mark.parametrize("times", [2, 3])
def test_a_large_face_gets_a_sharper_patch_than_mere_enlarging(times: int, astronaut: Image) -> None:
    crop = np.ascontiguousarray(astronaut[40:296, 100:356])
    size = (S * times, S * times)
    back = blend.warp_back(crop, enlarged(times), size)
    plain = cv2.warpAffine(crop, align.invert(enlarged(times)), size, flags=cv2.INTER_CUBIC)

    def edges(picture: Image) -> float:
        return float(np.abs(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_32F)).mean())

    assert 1.2 * edges(plain) < edges(back) < 3 * edges(plain)


# ---- grain


def grain_of(kind: str, side: int) -> NDArray[np.float32]:
    """Noise of deviation 6: of single pixels as a sensor makes it, or a little coarser as a codec leaves it."""
    noise = np.random.default_rng(1).normal(0, 1, (side, side)).astype(np.float32)
    if kind == "codec":
        noise = np.asarray(cv2.GaussianBlur(noise, (0, 0), 1.0))
    return (noise * np.float32(6 / noise.std()))[..., None]


def fine_level(picture: Image, where: NDArray[np.bool_]) -> float:
    """Deviation of what is finer than a Gaussian of two pixels."""
    luma = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    return float((luma - cv2.GaussianBlur(luma, (0, 0), 2.0))[where].std())


def hole_and_ring(transform: align.Affine, side: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    weight = cv2.warpAffine(blend.region_of(ellipse(), FEATHER).weight, align.invert(transform), (side, side))
    hole = cv2.erode((weight > 0.99).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    near = cv2.dilate((weight > 0).astype(np.uint8), np.ones((41, 41), np.uint8)) > 0
    return hole, near & (weight == 0)


@pytest.mark.parametrize("kind", ["sensor", "codec"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_flat_patch_gets_the_grain_of_its_surroundings(times: int, kind: str) -> None:
    side, transform = S * times, enlarged(times)
    picture = np.clip(smooth_skin(side) + grain_of(kind, side), 0, 255).astype(np.uint8)
    patch = smooth_skin(S).astype(np.uint8)
    hole, ring = hole_and_ring(transform, side)
    result, _ = blend.paste(picture, patch, blend.region_of(ellipse(), FEATHER), transform)
    soft = fine_level(blend.warp_back(patch, transform, (side, side)), hole) / fine_level(picture, ring)
    level = fine_level(result, hole) / fine_level(picture, ring)
    assert soft < 0.2, "the patch is meant to be flat before"
    assert 0.6 < level < 1.5


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_clean_picture_gets_no_grain(times: int) -> None:
    side, transform = S * times, enlarged(times)
    picture, patch = smooth_skin(side).astype(np.uint8), smooth_skin(S).astype(np.uint8)
    region = blend.region_of(ellipse(), FEATHER)
    levels = blend.missing_levels(picture, patch, region, transform)
    assert levels.size and blend.noise_of(levels, 0, 0, picture.shape) is None
    result, _ = blend.paste(picture, patch, region, transform)
    assert np.abs(result.astype(int) - picture).max() <= 3


def test_a_patch_that_has_its_grain_gets_no_more() -> None:
    picture = np.clip(smooth_skin(S) + grain_of("sensor", S), 0, 255).astype(np.uint8)
    hole, ring = hole_and_ring(enlarged(1), S)
    result, _ = blend.paste(picture, picture, blend.region_of(ellipse(), FEATHER), enlarged(1))
    assert fine_level(result, hole) < 1.25 * fine_level(picture, ring)


def test_eyes_and_hair_beside_the_hole_do_not_count_as_grain() -> None:
    picture = smooth_skin(S).astype(np.uint8)
    for x in range(70, 190, 24):
        cv2.line(picture, (x, 85), (x + 12, 105), (20, 20, 20), 2)
    result, _ = blend.paste(picture, smooth_skin(S).astype(np.uint8), blend.region_of(ellipse(), FEATHER), enlarged(1))
    hole, _ = hole_and_ring(enlarged(1), S)
    assert np.abs(result.astype(int) - smooth_skin(S))[hole].max() < 3


def test_hair_all_along_one_side_does_not_count_as_grain() -> None:
    rng = np.random.default_rng(3)
    picture = smooth_skin(S) + rng.normal(0, 2, (S, S, 1))
    levels = []
    for hairy in (False, True):
        if hairy:  # strands over 55 of 100 columns of the ring
            picture[:, : round(0.55 * S)] += 40 * np.sin(np.arange(round(0.55 * S)) * 1.1)[None, :, None]
        shown = np.clip(picture, 0, 255).astype(np.uint8)
        region = blend.region_of(ellipse(), FEATHER)
        levels.append(blend.missing_levels(shown, smooth_skin(S).astype(np.uint8), region, enlarged(1)))
    assert (levels[0][:2] > 0.8).all() and (levels[1] < 1.6 * levels[0] + 0.3).all()


def test_grain_fades_with_the_size_of_the_face() -> None:
    patch, region = smooth_skin(S).astype(np.uint8), blend.region_of(ellipse(), FEATHER)
    found = []
    for scale in (1.0, 1.3, 1.5, 1.7, 3.0):  # crop pixels a pixel of the picture: the face becomes smaller
        side = round(S / scale)
        picture = np.clip(smooth_skin(side) + grain_of("sensor", side), 0, 255).astype(np.uint8)
        found.append(blend.missing_levels(picture, patch, region, enlarged(1 / scale)).sum())
    assert found[0] > found[1] > found[2] > 0 and found[3:] == [0, 0]


def test_a_flat_picture_with_hard_edges_has_no_grain() -> None:
    rng = np.random.default_rng(5)
    region = blend.region_of(ellipse(), FEATHER)
    for _ in range(6):
        picture = np.full((S, S, 3), rng.integers(256), np.uint8)
        for x in rng.integers(0, S, 5):
            picture[:, x : x + 3] = rng.integers(256)
        levels = blend.missing_levels(picture, picture, region, enlarged(1))
        assert levels.size and (levels < 0.1).all()


def test_nothing_is_measured_where_there_is_too_little_to_measure() -> None:
    picture = np.clip(smooth_skin(S) + grain_of("sensor", S), 0, 255).astype(np.uint8)
    dot = np.zeros((S, S), np.float32)
    dot[100:104, 100:104] = 1
    for weight in (dot, np.ones((S, S), np.float32)):
        assert blend.missing_levels(picture, picture, blend.Region(weight, (0, 0, S, S)), enlarged(1)).size == 0


def test_the_grain_moves_with_the_face() -> None:
    levels = np.array([3.0, 2.0])
    here, there = (blend.noise_of(levels, x, 20, (S, S, 3)) for x in (30, 41))
    assert here is not None and there is not None and here.std() > 1
    np.testing.assert_array_equal(here[:, :-11], there[:, 11:])


# ---- pasting


@pytest.mark.parametrize("times", [0.5, 1, 2.3])
def test_only_touched_pixels_change_and_the_patch_is_there(times: float) -> None:
    side, transform = round(S * times), enlarged(times)
    picture = np.clip(smooth_skin(side) + grain_of("sensor", side), 0, 255).astype(np.uint8)
    before = picture.copy()
    green = np.zeros((S, S, 3), np.uint8)
    green[..., 1] = 200
    result, touched = blend.paste(picture, green, blend.region_of(ellipse(), FEATHER), transform)
    assert result.dtype == touched.dtype == np.uint8 and touched.shape == picture.shape[:2]
    assert (picture == before).all()
    assert (result[touched == 0] == picture[touched == 0]).all()
    share = (ellipse() > 0).mean()
    assert share < (touched > 0).mean() < 1.6 * share
    hole, _ = hole_and_ring(transform, side)
    assert np.abs(result[hole].mean(0) - [0, 200, 0]).max() < 6


def test_pasting_twice_gives_the_same_picture() -> None:
    picture = np.clip(smooth_skin(512) + grain_of("codec", 512), 0, 255).astype(np.uint8)
    patch, region = smooth_skin(S).astype(np.uint8), blend.region_of(ellipse(), FEATHER)
    first, again = (blend.paste(picture, patch, region, enlarged(2))[0] for _ in range(2))
    assert (first == again).all()


def test_the_grain_stands_still_when_the_rectangle_around_the_face_moves() -> None:
    """The tile is laid at the hole, not at the corner of the rectangle that happens to be cut out."""
    picture = np.clip(smooth_skin(S) + grain_of("sensor", S), 0, 255).astype(np.uint8)
    patch, region = smooth_skin(S).astype(np.uint8), blend.region_of(ellipse(), FEATHER)
    full, _ = blend.paste(picture, patch, region, enlarged(1))
    cut = np.ascontiguousarray(picture[:, 14:])
    shifted = align.compose(enlarged(1), np.array([[1.0, 0, 14], [0, 1, 0]]))
    part, _ = blend.paste(cut, patch, region, shifted)
    hole, _ = hole_and_ring(enlarged(1), S)
    assert np.abs(part.astype(int) - full[:, 14:])[hole[:, 14:]].max() <= 1


@pytest.mark.parametrize(("x", "y"), [(0, 0), (30, -20), (500, 700)])
def test_noise_repeats_its_tile_without_keeping_pictures(x: int, y: int) -> None:
    tile, shape = blend._tile(1), (600, 1100)
    wanted = np.tile(np.roll(tile, (y % 512, x % 512), (0, 1)), (2, 3))[: shape[0], : shape[1]]
    laid = blend._laid(1, x, y, shape)
    assert laid.shape == shape and laid.flags.c_contiguous and (laid == wanted).all()
