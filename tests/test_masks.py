"""Masks worn as they should be: where they are, what they leave alone, and that the same seed draws the same mask."""

from __future__ import annotations

import subprocess
import sys

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from trainer.masks import FAMILY_WEIGHTS, Head, draw_mask
from unmask_rt import sample

Image = NDArray[np.uint8]
FAMILIES = list(FAMILY_WEIGHTS)
MESH = sample.astronaut_mesh()
UPPER_LIP, LOWER_LIP, FOREHEAD, RIGHT_EYE, LEFT_EYE = 13, 14, 10, 159, 386


def draw(picture: Image, mesh: np.ndarray, seed: int, family: str | None = None) -> tuple[Image, np.ndarray]:
    return draw_mask(picture, mesh, np.random.default_rng(seed), family)


def at(values: np.ndarray, mesh: np.ndarray, index: int) -> float:
    x, y = np.round(mesh[index]).astype(int)
    return float(values[y, x])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_family_covers_the_mouth_and_leaves_eyes_and_the_rest_alone(
    astronaut: Image, family: str, seed: int
) -> None:
    masked, alpha = draw(astronaut, MESH, seed, family)
    assert masked.shape == astronaut.shape and masked.dtype == np.uint8
    assert alpha.shape == astronaut.shape[:2] and alpha.dtype == np.float32
    assert alpha.min() >= 0 and alpha.max() <= 1
    assert min(at(alpha, MESH, i) for i in (UPPER_LIP, LOWER_LIP)) > 0.85
    assert max(at(alpha, MESH, i) for i in (FOREHEAD, RIGHT_EYE, LEFT_EYE)) == 0
    changed = np.abs(masked.astype(int) - astronaut).max(2)
    assert (changed[alpha > 0.5] > 4).mean() > 0.8, "the mask is hardly visible"
    height = Head(MESH).height
    reach = 2 * round(0.15 * height) + 1
    near = cv2.dilate((alpha > 0).astype(np.uint8), np.ones((reach, reach), np.uint8)) > 0
    assert not changed[~near].any(), "pixels far from mask and shadow changed"
    beside = near & (alpha == 0)
    darker = masked.astype(int)[beside].sum(1) <= astronaut.astype(int)[beside].sum(1) + 3
    assert darker.all(), "beside the mask there is shadow only"


def test_the_families_differ(astronaut: Image) -> None:
    pictures = [draw(astronaut, MESH, 4, family)[0] for family in FAMILIES]
    for i, one in enumerate(pictures):
        for other in pictures[i + 1 :]:
            assert np.abs(one.astype(int) - other).max() > 40


@pytest.mark.parametrize("family", [None, *FAMILIES])
def test_the_same_seed_draws_the_same_mask_and_another_one_another(astronaut: Image, family: str | None) -> None:
    first, again, other = (draw(astronaut, MESH, seed, family) for seed in (7, 7, 8))
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all()
    assert (first[0] != other[0]).any() and (first[1] != other[1]).any()


@pytest.mark.parametrize(
    ("family", "colour", "pixels"),
    [
        ("surgical", (95.645, 139.152, 208.255), 4508.2),
        ("kn95", (188.264, 174.690, 172.242), 4496.4),
        ("cup", (157.840, 143.614, 150.849), 4546.7),
        ("cloth", (20.345, 41.394, 32.237), 4469.8),
        ("sport", (21.883, 23.115, 45.721), 4349.3),
        ("gaiter", (42.681, 43.452, 50.627), 16876.6),
    ],
)
def test_a_seed_draws_what_it_has_always_drawn(family: str, colour: tuple[float, ...], pixels: float) -> None:
    """Banks of masks, the demo and published figures hang on it."""
    y, x = np.mgrid[:512, :512]
    picture = np.stack([60 + x // 4, 90 + y // 8, 200 - (x + y) // 8], 2).astype(np.uint8)
    masked, alpha = draw(picture, MESH, 11, family)
    assert masked[alpha > 0.5].mean(0) == pytest.approx(colour, abs=0.05)
    assert float(alpha.sum()) == pytest.approx(pixels, abs=2)


def test_the_picture_given_is_not_written_to(astronaut: Image) -> None:
    before = astronaut.copy()
    draw(astronaut, MESH, 1)
    assert (astronaut == before).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", [128, 256, 1024])
def test_masks_scale_with_the_picture(astronaut: Image, family: str, side: int) -> None:
    picture = np.asarray(cv2.resize(astronaut, (side, side), interpolation=cv2.INTER_AREA))
    mesh = (MESH + 0.5) * np.float32(side / 512) - 0.5
    masked, alpha = draw(picture, mesh, 5, family)
    assert (masked != picture).any()
    _, reference = draw(astronaut, MESH, 5, family)
    small = cv2.resize(alpha, (64, 64), interpolation=cv2.INTER_AREA)
    wanted = cv2.resize(reference, (64, 64), interpolation=cv2.INTER_AREA)
    body = np.minimum(small, wanted).sum() / np.maximum(small, wanted).sum()
    assert body > 0.8


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("corner", [(170, 60), (230, 110), (200, 130), (0, 0)])
def test_a_face_at_the_border_is_masked_as_far_as_it_is_there(
    astronaut: Image, family: str, corner: tuple[int, int]
) -> None:
    """A window of the picture whose left and upper edges cut the face, or none of it, gets its part of a mask."""
    x, y = corner
    picture = np.ascontiguousarray(astronaut[y : y + 110, x : x + 110])
    masked, alpha = draw(picture, MESH - np.array([x, y], np.float32), 2, family)
    assert masked.shape == picture.shape and alpha.shape == (110, 110)
    if corner == (0, 0):
        assert alpha.max() == 0 and (masked == picture).all()
    else:
        assert (alpha > 0.5).mean() > 0.02 and (masked[alpha > 0.9] != picture[alpha > 0.9]).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mirrored_mesh_gives_the_mirrored_mask(astronaut: Image, family: str) -> None:
    mirrored = np.ascontiguousarray(astronaut[:, ::-1])
    mesh = MESH * np.array([-1, 1], np.float32) + np.array([511, 0], np.float32)
    _, alpha = draw(astronaut, MESH, 3, family)
    _, found = draw(mirrored, mesh, 3, family)
    assert np.abs(found[:, ::-1] - alpha).mean() < 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_face_that_lies_on_its_side_wears_it_too(astronaut: Image, family: str, quarter_turns: int) -> None:
    turned, mesh = np.ascontiguousarray(np.rot90(astronaut, quarter_turns)), MESH
    for _ in range(quarter_turns):  # one quarter turn against the clock
        mesh = np.stack([mesh[:, 1], 511 - mesh[:, 0]], 1)
    _, alpha = draw(turned, mesh, 6, family)
    assert min(at(alpha, mesh, i) for i in (UPPER_LIP, LOWER_LIP)) > 0.85
    assert max(at(alpha, mesh, i) for i in (FOREHEAD, RIGHT_EYE, LEFT_EYE)) == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_shadow_fades_out_and_does_not_stop_at_a_line(family: str) -> None:
    grey = np.full((512, 512, 3), 200, np.uint8)
    for seed in (55, 74, 92, 116, 146):  # those whose shadows reach far
        masked, alpha = draw(grey, MESH, seed, family)
        shadow = (200 - masked.min(2).astype(int)) * (alpha == 0)
        rows, columns = np.where(masked.min(2) != 200)
        edges = shadow[rows.min()], shadow[rows.max()], shadow[:, columns.min()], shadow[:, columns.max()]
        assert max(int(edge.max()) for edge in edges) <= 6


def test_further_columns_of_a_mesh_do_not_count(astronaut: Image) -> None:
    deep = np.hstack([MESH, np.random.default_rng(0).normal(size=(478, 1)).astype(np.float32)])
    assert (draw(astronaut, deep, 1, "cup")[0] == draw(astronaut, MESH, 1, "cup")[0]).all()


def test_an_unknown_family_is_an_error(astronaut: Image) -> None:
    with pytest.raises(KeyError, match="visor"):
        draw(astronaut, MESH, 1, "visor")


def test_drawing_loads_no_torch() -> None:
    code = "import sys, trainer.masks; assert not {'torch', 'mediapipe', 'onnxruntime'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
