"""What is drawn beside a mask: clothes, shadows, and masks that stand off the face."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from trainer.augment import SIZE, as_jpeg, colour_in, dress, loose, shade, stand_off, trim

SKIN, CLOTH = (200, 150, 120), (90, 160, 210)


@pytest.fixture
def worn() -> tuple[np.ndarray, np.ndarray]:
    """A face of one colour with a rectangular mask of another: picture and alpha."""
    picture = np.full((SIZE, SIZE, 3), SKIN, np.uint8)
    alpha = np.zeros((SIZE, SIZE), np.uint8)
    alpha[120:200, 70:190] = 255
    picture[alpha == 255] = CLOTH
    return picture, alpha


@pytest.mark.parametrize("seed", range(8))
def test_clothes_stay_behind_the_mask_and_below_the_eyes(worn: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    picture, alpha = worn
    dressed = dress(picture, alpha, np.random.default_rng(seed))
    assert (dressed[alpha == 255] == picture[alpha == 255]).all()
    assert (dressed[240:] != picture[240:]).any()
    assert (dressed[:60, 100:156] == picture[:60, 100:156]).all()


def test_clothes_often_have_the_colour_of_the_mask(worn: tuple[np.ndarray, np.ndarray]) -> None:
    picture, alpha = worn
    near = 0
    for seed in range(40):
        colour = dress(picture, alpha, np.random.default_rng(seed))[252, 120:136].mean(0)
        tint, mask = colour / max(colour.sum(), 1), np.array(CLOTH) / sum(CLOTH)
        near += bool(np.abs(tint - mask).max() < 0.05)
    assert near >= 15


def test_a_bare_face_is_dressed_too() -> None:
    picture, alpha = np.full((SIZE, SIZE, 3), SKIN, np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    assert (dress(picture, alpha, np.random.default_rng(3)) != picture).any()


@pytest.mark.parametrize("seed", range(8))
def test_a_mask_that_stands_off_only_grows_and_brings_its_own_colour(
    worn: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    picture, alpha = worn
    masked, cover = stand_off(picture, alpha, np.random.default_rng(seed))
    assert (cover >= alpha).all() and int((cover > 127).sum()) > int((alpha > 127).sum())
    assert (masked[cover == 0] == picture[cover == 0]).all()
    inside = cv2.erode(cover, np.ones((5, 5))) == 255
    assert np.abs(masked[inside].astype(int) - CLOTH).max() <= 2
    columns = np.nonzero((cover > 127).any(0))[0]
    assert (columns[0] == 70) != (columns[-1] == 189)  # one side only


def test_a_shadow_darkens_the_neck_alone(worn: tuple[np.ndarray, np.ndarray]) -> None:
    picture, alpha = worn
    shaded = shade(picture, alpha, np.random.default_rng(1))
    assert (shaded[alpha == 255] == picture[alpha == 255]).all()
    assert (shaded[:200] == picture[:200]).all()
    below = shaded[205, 130].astype(int), shaded[250, 130].astype(int)
    assert (below[0] < np.array(SKIN)).all() and (below[0] < below[1]).all()


def test_a_strip_lies_along_one_edge_of_the_mask(worn: tuple[np.ndarray, np.ndarray]) -> None:
    picture, alpha = worn
    rows = np.nonzero(alpha.max(1))[0]
    middle = (rows[0] + rows[-1]) / 2
    above = 0
    for seed in range(40):
        changed = (trim(picture, alpha, np.random.default_rng(seed)) != picture).any(2)
        assert changed.any() and not changed[alpha == 0].any()
        found = np.nonzero(changed[:, 100:156].any(1))[0]
        assert len(found) < 40 and (found.max() < middle or found.min() > middle), "one of its edges, not the mask"
        above += found.max() < middle
    assert 20 < above < 40, "mostly the upper one"


def test_patches_of_other_colours_stay_on_the_mask_and_take_what_is_around_it(
    worn: tuple[np.ndarray, np.ndarray],
) -> None:
    picture, alpha = worn
    shares, skin = [], 0
    for seed in range(40):
        printed = colour_in(picture, alpha, np.random.default_rng(seed))
        changed = (np.abs(printed.astype(int) - picture) > 3).any(2)
        assert not changed[alpha == 0].any()
        shares.append(changed[alpha == 255].mean())
        close = np.abs(printed[changed].astype(int) - SKIN).max(1, initial=0) < 40
        skin += np.count_nonzero(close) > 200
    assert min(shares) < 0.15 and 0.3 < np.mean(shares) < 0.7 and max(shares) > 0.8
    assert 10 < skin < 40, "often a field as the skin beside it, not always"


def test_without_a_mask_nothing_stands_off_and_nothing_is_shaded() -> None:
    picture, alpha = np.full((SIZE, SIZE, 3), SKIN, np.uint8), np.zeros((SIZE, SIZE), np.uint8)
    rng = np.random.default_rng(0)
    masked, cover = stand_off(picture, alpha, rng)
    assert (masked == picture).all() and not cover.any()
    assert (shade(picture, alpha, rng) == picture).all() and (trim(picture, alpha, rng) == picture).all()
    assert (colour_in(picture, alpha, rng) == picture).all()


def test_loose_crops_move_further(worn: tuple[np.ndarray, np.ndarray]) -> None:
    picture, alpha = worn
    valid = np.full_like(alpha, 255)
    places = []
    for seed in range(60):
        moved = loose((picture, picture, alpha, valid), np.random.default_rng(seed), SIZE)[2]
        places.append(np.argwhere(moved > 127).mean(0)[0])
    assert np.std(places) > 5.5


def test_jpeg_keeps_of_each_colour_what_it_would_of_a_photograph() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2, 0] = 250  # finer than the colour of a JPEG file: what is left of red is its brightness
    file = io.BytesIO()
    Image.fromarray(stripes).save(file, "jpeg", quality=60, subsampling=2)
    wanted = np.asarray(Image.open(file)).astype(int)
    kept = as_jpeg(stripes, 60)
    assert kept.flags.c_contiguous and np.abs(kept - wanted).mean() < 4
    assert np.abs(as_jpeg(stripes[..., ::-1].copy(), 60)[..., ::-1] - wanted).mean() > 12
