"""Heads turned further than they were photographed, and profiles with masks that stand off."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.training_media import crop_mesh, head_shape
from trainer import turning
from trainer.augment import SIZE
from trainer.heads import yaw_of
from trainer.turning import MARGIN, into_profile, tent, turn, wide_head
from unmask_rt.align import MESH_ANCHORS, PROFILE, TEMPLATE

SKIN = (200, 150, 120)


@pytest.mark.parametrize("seed", range(4))
def test_a_turned_head_is_aligned_anew_and_takes_its_mask_along(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turning, "PROFILES", 0.0)
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
def test_a_profile_has_its_box_where_the_tool_cuts_it_and_a_calm_background(seed: int) -> None:
    mesh, head = crop_mesh(), wide_head(head_shape())
    rng = np.random.default_rng(seed)
    alpha = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillConvexPoly(alpha, cv2.convexHull(mesh.round().astype(np.int32)), 255)  # the whole face is covered
    noise = rng.integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
    face = np.where(alpha[..., None] > 0, np.uint8(200), noise)
    planes = face, face.copy(), alpha, np.full_like(alpha, 255)
    (masked, truth, cover, valid), turned = into_profile(planes, mesh, head, rng)
    yaw = abs(yaw_of(turned.mesh, head_shape()))
    assert yaw > 40
    rows = np.nonzero((cover > 127).any(1))[0]
    least = 0.65 if yaw > PROFILE else 0.5
    assert least < (rows[-1] - rows[0]) / SIZE < 1.0, "as high as a profile's box in the crop"
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


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_some_profiles_are_trained_on_before_the_colour_of_their_masks(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turning, "PROFILES", 1.0)
    monkeypatch.setattr(turning, "CAMOUFLAGED", share)
    mesh, head = crop_mesh(), wide_head(head_shape())
    face = np.zeros((SIZE, SIZE), np.uint8)
    cv2.fillConvexPoly(face, cv2.convexHull(mesh.round().astype(np.int32)), 255)
    truth = np.where(face[..., None] > 0, np.uint8(SKIN), np.uint8(20))
    alpha = face.copy()
    alpha[: SIZE // 2] = 0
    masked = np.where(alpha[..., None] > 0, np.uint8(240), truth)
    planes = masked, truth, alpha, np.full_like(alpha, 255)
    masked, truth, alpha, _ = turn(planes, mesh, head, np.random.default_rng(3))
    corner = np.s_[:30, :30] if alpha[:, :128].sum() < alpha[:, 128:].sum() else np.s_[:30, -30:]
    assert alpha[corner].max() == 0 and (masked[corner] == truth[corner]).all(), "behind the head"
    assert (truth[corner].mean() > 150) == bool(share)
    worn = masked[alpha > 250]
    assert np.abs(worn.astype(int).mean() - 240) < 12, "the mask keeps its own"
