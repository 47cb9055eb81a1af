"""The registry of families, and those worn in other ways, placed by landmarks, or of a plain shape."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.masks import FAMILIES, FAMILY_WEIGHTS, GROUPS, Head, choose_families, draw_mask
from unmask_rt import sample

Image = NDArray[np.uint8]
MESH = sample.astronaut_mesh()
NOSE_TIP, MOUTH, CHIN_FRONT, RIGHT_EYE, LEFT_EYE = 1, 13, 199, 159, 386
OTHERS = [name for name in FAMILIES if name not in FAMILY_WEIGHTS]
HARD = [*GROUPS["landmark"], *GROUPS["geometric"]]
"""Families without a shadow."""


def draw(picture: Image, seed: int, family: str, mesh: np.ndarray = MESH) -> tuple[Image, np.ndarray]:
    return draw_mask(picture, mesh, np.random.default_rng(seed), family)


def at(values: np.ndarray, index: int) -> float:
    x, y = np.round(MESH[index]).astype(int)
    return float(values[y, x])


def covered(picture: Image, family: str, index: int, count: int = 20) -> float:
    """Share of seeds whose mask covers a point of the mesh."""
    return float(np.mean([at(draw(picture, seed, family)[1], index) > 0.5 for seed in range(count)]))


# ---- drawing


@pytest.mark.parametrize("family", OTHERS)
def test_the_coverage_says_what_has_changed(astronaut: Image, family: str) -> None:
    for seed in range(3):
        masked, alpha = draw(astronaut, seed, family)
        assert masked.shape == astronaut.shape and masked.dtype == np.uint8
        assert alpha.shape == astronaut.shape[:2] and alpha.dtype == np.float32
        assert alpha.min() >= 0 and alpha.max() <= 1 and (alpha > 0.5).mean() > 0.003
        difference = masked.astype(int) - astronaut
        changed = np.abs(difference).max(2)
        assert (changed[alpha > 0.5] > 4).mean() > 0.7, "the mask is hardly visible"
        beside = alpha == 0
        if family in HARD:
            assert not changed[beside].any(), "something outside the mask changed"
        else:
            assert difference[beside].max() <= 1, "beside the mask there is shadow only"
            reach = 2 * round(0.3 * Head(MESH).height) + 1
            near = cv2.dilate((alpha > 0).astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
            assert not changed[~near].any()
        assert max(at(alpha, i) for i in (RIGHT_EYE, LEFT_EYE)) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_the_picture_is_the_skin_and_the_mask_in_the_coverage_s_proportion(family: str) -> None:
    """One mask before black and before white: what shines through is what the coverage leaves, but for its shadow."""
    grey = np.full((512, 512, 3), 120, np.uint8)
    black, white = grey.copy(), grey.copy()
    window = np.zeros((512, 512), bool)
    x, y = np.round(MESH[MOUTH]).astype(int)
    window[y - 3 : y + 4, x - 3 : x + 4] = True  # the light is taken elsewhere: the mask stays the same
    black[window], white[window] = 0, 255
    for seed in range(4):
        (on_black, alpha), (on_white, again) = (draw(p, seed, family) for p in (black, white))
        assert (alpha == again).all() and (on_black[~window] == on_white[~window]).all()
        through = (on_white.astype(float) - on_black)[window].mean(1) / 255
        left = 1 - alpha[window]
        assert (through <= left + 0.02).all() and (through >= left * 0.5 - 0.02).all()


@pytest.mark.parametrize("family", OTHERS)
def test_the_same_seed_draws_the_same_mask_and_another_one_another(astronaut: Image, family: str) -> None:
    first, again, other = (draw(astronaut, seed, family) for seed in (7, 7, 8))
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[0] != other[0]).any() and (first[1] != other[1]).any()


@pytest.mark.parametrize("family", OTHERS)
def test_a_picture_of_another_size_wears_the_same_mask(astronaut: Image, family: str) -> None:
    half = np.asarray(cv2.resize(astronaut, (256, 256), interpolation=cv2.INTER_AREA))
    _, alpha = draw(half, 5, family, (MESH + 0.5) / 2 - 0.5)
    _, reference = draw(astronaut, 5, family)
    wanted = cv2.resize(reference, (256, 256), interpolation=cv2.INTER_AREA)
    assert np.minimum(alpha, wanted).sum() / np.maximum(alpha, wanted).sum() > 0.85


@pytest.mark.parametrize("family", OTHERS)
def test_a_face_at_the_border_is_masked_as_far_as_it_is_there(astronaut: Image, family: str) -> None:
    picture = np.ascontiguousarray(astronaut[130:240, 200:310])
    masked, alpha = draw(picture, 2, family, MESH - np.array([200, 130], np.float32))
    assert masked.shape == picture.shape and alpha.shape == (110, 110) and (alpha > 0.5).any()
    picture = np.ascontiguousarray(astronaut[:60, :60])
    masked, alpha = draw(picture, 2, family, MESH + np.array([300, 300], np.float32))
    assert alpha.max() == 0 and (masked == picture).all()


# ---- how each is made and worn


def test_under_the_nose_covers_the_mouth_and_not_the_nose(astronaut: Image) -> None:
    assert covered(astronaut, "under-nose", NOSE_TIP) == 0 and covered(astronaut, "under-nose", MOUTH) == 1


def test_on_the_chin_leaves_nose_and_mouth_free(astronaut: Image) -> None:
    assert covered(astronaut, "chin", NOSE_TIP) == 0 and covered(astronaut, "chin", MOUTH) == 0
    assert covered(astronaut, "chin", CHIN_FRONT) > 0.5 and covered(astronaut, "chin", 152) > 0.9


def test_patchwork_has_few_colours_far_apart_with_straight_edges_between() -> None:
    grey = np.full((512, 512, 3), 150, np.uint8)
    for seed in range(6):
        masked, alpha = draw(grey, seed, "patchwork")
        inside = cv2.erode((alpha > 0.95).astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
        luma = cv2.cvtColor(masked, cv2.COLOR_RGB2GRAY).astype(float)
        assert np.ptp(np.percentile(luma[inside], (5, 95))) > 60, "dark beside light"
        edges = np.hypot(cv2.Sobel(luma, cv2.CV_64F, 1, 0), cv2.Sobel(luma, cv2.CV_64F, 0, 1))[inside]
        assert np.median(edges) < 0.15 * np.percentile(edges, 99), "flat pieces, sharp edges"


def test_a_stretch_mask_leaves_skin_between_its_arms(astronaut: Image) -> None:
    x, y = np.round(MESH[93]).astype(int)
    gaps = []
    for seed in range(20):
        _, alpha = draw(astronaut, seed, "stretch")
        assert at(alpha, MOUTH) > 0.9
        column = (alpha[y - 40 : y + 40, x] > 0.5).astype(int)
        gaps.append(np.count_nonzero(np.diff(column) == 1) == 2)
    assert np.mean(gaps) > 0.7


def test_a_usual_mask_slips_under_the_nose_now_and_then(astronaut: Image) -> None:
    share = covered(astronaut, "surgical", 4, count=120)
    assert 0.8 < share < 0.99


def test_held_in_front_covers_the_mouth_and_throws_a_wide_shadow() -> None:
    grey = np.full((512, 512, 3), 200, np.uint8)
    assert covered(grey, "held", MOUTH) > 0.9

    def shadow_px(family: str) -> float:
        drawn = [draw(grey, seed, family) for seed in range(20)]
        return float(np.mean([((masked.max(2) < 195) & (alpha == 0)).sum() for masked, alpha in drawn]))

    assert shadow_px("held") > 2 * shadow_px("surgical") > 0


def test_thin_cloth_lets_the_face_through_most_at_its_edge(astronaut: Image) -> None:
    for seed in range(6):
        _, alpha = draw(astronaut, seed, "sheer")
        body = (alpha > 0.3).astype(np.uint8)
        depth = cv2.distanceTransform(body, cv2.DIST_L2, 3)
        middle, edge = alpha[depth > 16], alpha[(depth > 2) & (depth < 4)]
        assert 0.5 < np.median(middle) < 0.97 and np.median(edge) < np.median(middle)


def test_landmark_masks_reach_from_the_nose_to_the_chin_without_a_gap(astronaut: Image) -> None:
    for family in GROUPS["landmark"]:
        for seed in range(4):
            _, alpha = draw(astronaut, seed, family)
            assert min(at(alpha, i) for i in (NOSE_TIP, MOUTH, CHIN_FRONT, 17)) > 0.99
            ys, xs = np.nonzero(alpha > 0.9)
            inner = slice(int(np.quantile(ys, 0.1)), int(np.quantile(ys, 0.7)))
            rows = alpha[inner, xs.min() : xs.max()]
            gaps = [np.diff(np.nonzero(row > 0.98)[0]).max() for row in rows]
            assert max(gaps) == 1, "skin shows between the halves"


@pytest.mark.parametrize("family", ["rectangle", "oval"])
def test_shapes_have_one_colour_and_their_form(astronaut: Image, family: str) -> None:
    for seed in range(6):
        masked, alpha = draw(astronaut, seed, family)
        assert len(np.unique(masked[alpha == 1], axis=0)) == 1
        (contour,), _ = cv2.findContours((alpha > 0.5).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        _, (width, height), _ = cv2.minAreaRect(contour)
        filled = cv2.contourArea(contour) / (width * height)
        assert filled == pytest.approx(1.0 if family == "rectangle" else np.pi / 4, abs=0.07)
    assert covered(astronaut, family, MOUTH) > 0.7


# ---- the registry


def test_every_family_is_in_one_group_and_the_classic_ones_keep_their_numbers() -> None:
    members = [name for group in GROUPS.values() for name in group]
    assert sorted(members) == sorted(FAMILIES) and len(set(members)) == len(members)
    assert list(FAMILIES)[:6] == ["surgical", "kn95", "cup", "cloth", "sport", "gaiter"], "stored banks name others"
    assert all(sum(group.values()) == pytest.approx(1) for group in GROUPS.values())


def test_families_are_chosen_by_name_group_and_weight() -> None:
    assert choose_families("classic") == pytest.approx(FAMILY_WEIGHTS)
    assert choose_families("oval, cup") == {"cup": 0.5, "oval": 0.5}
    assert choose_families(["cup:3", "oval"]) == {"cup": 0.75, "oval": 0.25}
    mixed = choose_families("classic:4,everyday")
    assert mixed["surgical"] == pytest.approx(0.8 * 0.34) and mixed["chin"] == pytest.approx(0.2 * 0.15)
    assert list(mixed) == [name for name in FAMILIES if name in mixed] and sum(mixed.values()) == pytest.approx(1)
    assert choose_families("cup,cup,oval") == pytest.approx({"cup": 2 / 3, "oval": 1 / 3})


def test_families_can_be_held_out() -> None:
    left = choose_families("classic", without="cup,gaiter")
    assert set(left) == set(FAMILY_WEIGHTS) - {"cup", "gaiter"} and sum(left.values()) == pytest.approx(1)
    assert left["surgical"] / left["cloth"] == pytest.approx(FAMILY_WEIGHTS["surgical"] / FAMILY_WEIGHTS["cloth"])
    assert set(choose_families("classic,everyday", without=["everyday"])) == set(FAMILY_WEIGHTS)


@pytest.mark.parametrize("names", ["visor", "cup:none", "cup:0", "cup:-1", "cup:inf", "cup:nan", ""])
def test_a_wrong_choice_says_what_there_is(names: str) -> None:
    with pytest.raises(ValueError, match=r"surgical|above 0|left"):
        choose_families(names)
    with pytest.raises(ValueError, match="left"):
        choose_families("cup", without="classic")
