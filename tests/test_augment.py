"""What is drawn beside a mask: clothes, shadows, and masks that stand off the face."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.training_media import crop_mesh, head_shape
from trainer import augment
from trainer.augment import MARGIN, SIZE, colour_in, dress, loose, shade, stand_off, tent, trim, turn, wide_head
from trainer.heads import yaw_of
from unmask_rt.align import MESH_ANCHORS, TEMPLATE

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


@pytest.mark.parametrize("seed", range(4))
def test_a_turned_head_is_aligned_anew_and_takes_its_mask_along(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(augment, "PROFILES", 0.0)
    mesh, head = crop_mesh(), wide_head(head_shape())
    eyes = np.zeros((SIZE, SIZE), np.uint8)
    for x, y in mesh[list(MESH_ANCHORS[:4])]:
        cv2.circle(eyes, (round(float(x)), round(float(y))), 4, 255, -1)
    picture = np.repeat(eyes[..., None], 3, 2)
    everywhere = np.full((SIZE, SIZE), 255, np.uint8)
    masked, truth, alpha, valid = turn(
        (picture, picture.copy(), eyes, everywhere), mesh, head, np.random.default_rng(seed)
    )
    assert (masked == truth).all() and (masked[..., 0] == alpha).all()
    count, _, _, middles = cv2.connectedComponentsWithStats((alpha > 127).astype(np.uint8))
    assert count in (4, 5)  # the corners of one eye may come together
    expected = ((TEMPLATE[:4] - 0.5) * SIZE + (SIZE - 1) / 2).mean(0)
    assert np.abs(middles[1:].mean(0) - expected).max() < 16  # the crop has grown, its middle has not moved
    assert 0.3 < (valid > 0).mean() < 1 and valid[SIZE // 2, SIZE // 2] == 255


@pytest.mark.parametrize("seed", range(4))
def test_a_profile_has_its_box_where_the_tool_cuts_it_and_a_calm_background(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augment, "PROFILES", 1.0)
    mesh, head = crop_mesh(), wide_head(head_shape())
    rng = np.random.default_rng(seed)
    alpha = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillConvexPoly(alpha, cv2.convexHull(mesh.round().astype(np.int32)), 255)  # the whole face is covered
    noise = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    face = np.where(alpha[..., None] > 0, np.uint8(200), noise)
    masked, truth, cover, valid = turn((face, face.copy(), alpha, np.full_like(alpha, 255)), mesh, head, rng)
    rows = np.nonzero((cover > 127).any(1))[0]
    assert 0.65 < (rows[-1] - rows[0]) / SIZE < 1.0, "as high as a profile's box in the crop"
    eyes = (TEMPLATE[:4, 1] * SIZE).mean()
    assert rows[0] < eyes < rows[0] + 0.5 * (rows[-1] - rows[0])
    beside = (cover < 1) & (cv2.erode((valid > 0).astype(np.uint8), np.ones((9, 9))) > 0)
    rough = np.abs(np.diff(truth.astype(int), axis=1)).max(2)
    nothing_drawn = beside[:, 1:] & beside[:, :-1]
    assert np.percentile(rough[nothing_drawn], 30) < 12 < np.abs(np.diff(noise.astype(int), axis=1)).mean()
    assert (masked[cover < 1] == truth[cover < 1]).all()


@pytest.mark.parametrize("way", [1.0, -1.0])
def test_a_profiles_mask_spans_nose_and_chin(way: float) -> None:
    alpha = np.zeros((SIZE, SIZE), np.uint8)
    outline = np.array([[60, 110], [190, 90], [150, 140], [150, 160], [190, 210], [80, 190]], np.int32)
    cv2.fillPoly(alpha, [outline], 255)
    cv2.line(alpha, (60, 110), (10, 70), 255, 3)  # a strap to the ear
    if way < 0:
        alpha = np.ascontiguousarray(alpha[:, ::-1])
    skin = np.full((SIZE, SIZE, 3), SKIN, np.uint8)
    picture = np.where(alpha[..., None] > 0, np.uint8(30), skin)
    masked, cover = tent(picture, alpha, way, np.random.default_rng(0))
    column = 170 if way > 0 else SIZE - 1 - 170
    assert alpha[150, column] == 0 and cover[150, column] == 255, "the lips are spanned"
    assert np.abs(masked[150, column].astype(int) - 30).max() < 12, "in the colour of the cloth"
    front = np.nonzero(cover[150] > 127)[0][[0, -1]]
    assert (front[1] > 190) if way > 0 else (front[0] < SIZE - 191), "it stands off"
    assert (cover >= alpha).all()
    above = np.s_[:80, :]
    assert (cover[above] > 127).sum() < 1.5 * (alpha[above] > 127).sum() + 40, "nothing between strap and nose"
    assert (masked[cover == 0] == picture[cover == 0]).all()
    empty = np.zeros_like(alpha)
    assert not tent(skin, empty, way, np.random.default_rng(0))[1].any()


@pytest.mark.parametrize(("yaw", "pitch"), [(25.0, 0.0), (-30.0, 10.0)])
def test_a_head_is_turned_by_what_was_asked_for(yaw: float, pitch: float) -> None:
    shape = head_shape()
    head = wide_head(shape)
    before = yaw_of(crop_mesh(), shape)
    turned = head.turned(crop_mesh() + MARGIN, yaw, pitch)
    assert turned.yaw - before == pytest.approx(yaw, abs=4)
    for (x, y), (u, v) in zip(turned.points, (crop_mesh() + MARGIN)[[*MESH_ANCHORS, 4]], strict=True):
        at = round(float(y)), round(float(x))
        assert np.hypot(turned.map_x[at] - u, turned.map_y[at] - v) < 3  # each point is drawn from where it was
