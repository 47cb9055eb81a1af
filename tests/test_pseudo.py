"""Pseudo labels: views are turned back before they are compared, and only sensible, certain maps become labels."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import Batch
from engines.spec import ModelSpec
from tests.conftest import FaceModels
from trainer.pseudo import SIZE, agreed_map, is_sensible, label, unpack
from unmask_rt import sample

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
MODEL = Path(__file__).parent.parent / "unmask_rt" / "assets" / "unmask-256.onnx"


class MapEngine:
    """Leaves the crop alone; its map is what a function makes of it."""

    name, sha256, spec = "map", "", ModelSpec("map", SIZE, (), (), "none", "not at all")

    def __init__(self, map_of: Callable[[Image], Image]) -> None:
        self.map_of = map_of
        self.views: list[Image] = []

    def describe(self) -> dict[str, str]:
        return {}

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        self.views.append(crop[0])
        return crop, self.map_of(crop[0])[None]

    def close(self) -> None:
        pass


def red(crop: Image) -> Image:
    return np.ascontiguousarray(crop[:, :, 0])


@pytest.fixture
def lopsided() -> Image:
    """A crop with one red rectangle that is neither in the middle nor as wide as it is high."""
    crop = np.zeros((SIZE, SIZE, 3), np.uint8)
    crop[120:200, 40:160, 0] = 255
    return crop


def test_the_views_differ_and_their_maps_are_turned_back_onto_the_crop(lopsided: Image) -> None:
    engine = MapEngine(red)
    mean, sure = agreed_map(engine, lopsided)
    assert len(engine.views) == 8
    assert all((a != b).any() for i, a in enumerate(engine.views) for b in engine.views[:i])
    assert mean.dtype == np.float32 and mean.shape == sure.shape == (SIZE, SIZE) and sure.dtype == bool
    truth = lopsided[:, :, 0] > 0
    inside = cv2.erode(truth.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    outside = cv2.dilate(truth.astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    assert mean[inside].min() > 0.95 and mean[outside].max() < 0.05
    assert sure[inside].all() and sure[outside].all()


def test_views_that_contradict_each_other_are_not_sure(lopsided: Image) -> None:
    """A map that stays on one side however the crop is turned is no property of the crop."""
    half = np.zeros((SIZE, SIZE), np.uint8)
    half[:, : SIZE // 2] = 255
    mean, sure = agreed_map(MapEngine(lambda crop: half), lopsided)
    assert not sure.any() and np.abs(mean - 0.5).max() < 0.51
    assert np.abs(mean[100:150, 20:100] - 0.5).max() < 0.05


def test_a_lukewarm_map_is_not_sure_even_where_all_views_agree(lopsided: Image) -> None:
    for value, certain in ((0, True), (40, False), (128, False), (205, False), (230, True)):
        level = np.full((SIZE, SIZE), value, np.uint8)
        _, sure = agreed_map(MapEngine(lambda crop, level=level: level), lopsided)
        assert sure.all() == certain and sure.any() == certain


def rectangle(*boxes: tuple[int, int, int, int]) -> Floats:
    """A map of ones in boxes (top, bottom, left, right)."""
    mean = np.zeros((SIZE, SIZE), np.float32)
    for top, bottom, left, right in boxes:
        mean[top:bottom, left:right] = 1
    return mean


ALL_SURE = np.ones((SIZE, SIZE), bool)
WORN = (120, 215, 60, 196)


def test_a_mask_over_mouth_and_chin_is_sensible_as_long_as_most_of_it_is_sure() -> None:
    sure = ALL_SURE.copy()
    assert is_sensible(rectangle(WORN), sure)
    sure[:28] = False  # a little less than 12 % of the rows
    assert is_sensible(rectangle(WORN), sure)
    sure[:40] = False
    assert not is_sensible(rectangle(WORN), sure)


@pytest.mark.parametrize(
    ("mean", "why"),
    [
        (rectangle(), "no mask at all"),
        (rectangle((150, 200, 90, 166)), "smaller than any mask: the mouth alone"),
        (rectangle((100, 256, 0, 256)), "all of the lower picture"),
        (rectangle((100, 160, 60, 196)), "the nose but not mouth and chin"),
        (rectangle(WORN, (72, 120, 60, 196)), "the eyes too"),
        (rectangle(WORN, (0, 40, 0, 60)), "a second piece in the corner"),
        (rectangle(WORN) * np.float32(0.49), "nowhere more likely than not"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_what_is_no_sensible_mask(mean: Floats, why: str) -> None:
    assert not is_sensible(mean, ALL_SURE), why


def test_a_speck_beside_the_mask_does_no_harm() -> None:
    assert is_sensible(rectangle(WORN, (10, 20, 10, 20)), ALL_SURE)


def write(path: Path, picture: Image) -> None:
    cv2.imwrite(str(path), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))


def test_an_archive_is_unpacked_without_what_leads_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"picture")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "x", "faces/x")
        tar.add(tmp_path / "x", "../outside")
        link = tarfile.TarInfo("faces/link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    unpack(tmp_path / "a.tar", tmp_path / "out")
    assert (tmp_path / "out" / "faces" / "x").read_bytes() == b"picture"
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["faces", "x"] and not (tmp_path / "outside").exists()


def test_masked_faces_are_labelled_bare_ones_are_not_and_rejected_ones_stay_out(
    face_models: FaceModels, astronaut: Image, masked_astronaut: Image, tmp_path: Path
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    write(folder / "a.png", astronaut)
    write(folder / "b.png", masked_astronaut)
    write(folder / "c.png", sample.masked_astronaut(family="cloth", seed=1)[1])
    with tarfile.open(tmp_path / "faces.tar", "w") as tar:
        tar.add(folder, "faces")
    assert label(folder, MODEL, out) == 2

    crops, alpha, weight = (np.load(out / f"{n}.npy") for n in ("crops", "alpha", "weight"))
    assert crops.shape == (2, SIZE, SIZE, 3) and alpha.shape == weight.shape == (2, SIZE, SIZE)
    assert crops.dtype == alpha.dtype == weight.dtype == np.uint8 and set(np.unique(weight)) == {0, 255}
    for worn, certain in zip(alpha, weight, strict=True):
        assert worn[150:200, 90:166].mean() > 230 and worn[:80].mean() < 10
        assert (certain[worn > 240] == 255).mean() > 0.9 and not certain[(worn > 60) & (worn < 200)].any()
    assert cv2.imread(str(out / "sheet0.jpg")).shape == (96, 18 * 96, 3)

    (out / "reject.txt").write_text("1\n")  # the faces are numbered as they are found: 0 is the bare one
    assert label(tmp_path / "faces.tar", MODEL, out) == 1
    assert (np.load(out / "crops.npy")[0] == crops[1]).all()

    (out / "reject.txt").write_text("1\n2\n")
    with pytest.raises(ValueError, match="of 3 faces found, none"):
        label(folder, MODEL, out)
