"""Figures of one picture: against scikit-image, torchmetrics and cases with a known answer."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchmetrics.functional.classification import binary_jaccard_index, binary_precision, binary_recall
from torchmetrics.functional.image import peak_signal_noise_ratio as torch_psnr

from trainer.evaluation.features import FeatureDistance
from trainer.evaluation.metrics import (
    GATE,
    Target,
    edges,
    luma,
    map_figures,
    psnr,
    says_mask,
    seam_energy,
    ssim,
    ssim_map,
)
from trainer.losses import Perceptual
from unmask_rt import gate
from unmask_rt.blend import lower_face
from unmask_rt.errors import ExtraError

Image = NDArray[np.uint8]
torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


@pytest.fixture(scope="module")
def pair(astronaut: Image) -> tuple[Image, Image]:
    """A face and the same with noise: output, truth."""
    truth = np.ascontiguousarray(astronaut[:256, 100:356])
    noise = np.random.default_rng(0).normal(0, 12, truth.shape)
    return np.clip(truth + noise, 0, 255).astype(np.uint8), truth


def square(size: int = 256, low: int = 100, high: int = 180) -> NDArray[np.float32]:
    """The coverage of a square mask."""
    alpha = np.zeros((size, size), np.float32)
    alpha[low:high, low:high] = 1
    return alpha


def grey(level: int, size: int = 64) -> Image:
    return np.full((size, size, 3), level, np.uint8)


# ---- PSNR and SSIM


def test_psnr_and_ssim_are_those_of_the_libraries(pair: tuple[Image, Image]) -> None:
    output, truth = pair
    assert psnr(output, truth) == pytest.approx(peak_signal_noise_ratio(truth, output), abs=1e-9)
    a, b = (torch.from_numpy(p.astype(np.float64)) for p in pair)
    assert psnr(output, truth) == pytest.approx(float(torch_psnr(a, b, data_range=255.0)), abs=1e-6)
    value, whole = structural_similarity(luma(output), luma(truth), data_range=255, full=True)
    assert ssim(output, truth) == pytest.approx(value, abs=1e-9)
    assert np.allclose(ssim_map(output, truth), whole[3:-3, 3:-3], atol=1e-9)
    assert ssim(truth, truth) == pytest.approx(1)


def test_psnr_of_a_region_counts_nothing_else() -> None:
    truth, output = grey(0, 8), grey(0, 8)
    output[:4] = 51
    hole = np.zeros((8, 8), bool)
    hole[:4] = True
    assert psnr(output, truth, hole) == pytest.approx(20 * np.log10(5))
    assert psnr(output, truth) == pytest.approx(20 * np.log10(5) + 10 * np.log10(2))
    assert psnr(output, truth, ~hole) > 90


# ---- the figures of a target


def test_the_hole_is_where_the_mask_covers_more_than_half() -> None:
    alpha = square(64, 20, 40)
    alpha[20] = np.where(alpha[20] > 0, 0.5, 0)
    alpha[21] = np.where(alpha[21] > 0, 0.51, 0)
    target = Target(grey(90), grey(10), alpha)
    assert not target.hole[20].any() and target.hole[21, 20:40].all() and target.hole.sum() == 19 * 20


def test_figures_of_a_patch_that_is_off_by_a_known_amount() -> None:
    truth, alpha = grey(100), square(64, 20, 40)
    masked = np.where(alpha[..., None] > 0, np.uint8(200), truth)
    output = np.where(alpha[..., None] > 0, np.uint8(110), truth)
    found = Target(truth, masked, alpha).figures(output)
    assert found["hole_psnr"] == pytest.approx(20 * np.log10(25.5))
    assert found["whole_psnr"] == pytest.approx(20 * np.log10(25.5) + 10 * np.log10(64 * 64 / 400))
    assert found["hole_l1"] == pytest.approx(10) and found["l1"] == pytest.approx(10 * 400 / 64**2)
    assert found["treated"] == 1 and found["mask_left"] == 0 and found["far_change"] == 0
    # the step of 10 is crossed by 20 pixels on each side; both of the ring's halves are 2 px wide
    ring = 24**2 - 16**2
    assert found["seam"] == pytest.approx(10 * 4 * 20 / ring)


def test_a_seam_is_found_in_the_ring_only() -> None:
    truth, output = grey(50), grey(50)
    output[5:9, 5:9] = 90
    ring = np.zeros((64, 64), bool)
    ring[30:34, 30:34] = True
    assert seam_energy(output, truth, ring) == 0
    ring[4:10, 4:10] = True
    assert seam_energy(output, truth, ring) > 0
    assert np.isnan(seam_energy(output, truth, np.zeros((64, 64), bool)))


def test_sharpness_is_below_one_for_a_blurred_patch(pair: tuple[Image, Image]) -> None:
    _, truth = pair
    target = Target(truth, truth, square())
    blurred = np.asarray(cv2.GaussianBlur(truth, (0, 0), 3))
    assert target.figures(truth)["sharpness"] == 1 and target.figures(blurred)["sharpness"] < 0.7
    elsewhere = truth.copy()
    elsewhere[:90] = 0
    assert target.figures(elsewhere)["sharpness"] == 1
    inner = np.zeros((256, 256), bool)
    inner[102:178, 102:178] = True
    wanted = edges(blurred)[inner].mean() / edges(truth)[inner].mean()
    assert target.figures(blurred)["sharpness"] == pytest.approx(float(wanted))


def test_what_is_left_of_the_mask_and_whether_it_was_treated(pair: tuple[Image, Image]) -> None:
    _, truth = pair
    alpha = square()
    masked = truth.copy()
    masked[alpha > 0] = truth[alpha > 0] ^ 128  # far from the truth everywhere
    target = Target(truth, masked, alpha)
    untouched = target.figures(masked)
    assert untouched["treated"] == 0 and untouched["mask_left"] == 1
    perfect = target.figures(truth)
    assert perfect["treated"] == 1 and perfect["mask_left"] == 0 and perfect["sharpness"] == 1
    half = masked.copy()
    half[100:140] = truth[100:140]
    assert target.figures(half)["mask_left"] == pytest.approx(0.5)


def test_mask_left_is_undefined_where_nothing_should_change(pair: tuple[Image, Image]) -> None:
    _, truth = pair
    assert np.isnan(Target(truth, truth, square()).figures(truth)["mask_left"])


def test_far_change_counts_from_four_pixels_on() -> None:
    alpha = square(64, 20, 40)
    target = Target(grey(100), grey(100), alpha)
    near, far = grey(100), grey(100)
    near[20:40, 43] = 200  # 4 px beside the last pixel of the mask
    far[20:40, 44] = 200
    assert target.figures(near)["far_change"] == 0
    assert target.figures(far)["far_change"] == pytest.approx(100 * 20 / target.far.sum())


def test_the_hole_alone_is_the_truth_with_the_output_in_its_hole() -> None:
    target = Target(grey(100), grey(0), square(64, 20, 40))
    only = target.only_hole(grey(7))
    assert (only[20:40, 20:40] == 7).all() and (only[:20] == 100).all()


def test_a_mask_that_covers_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="covers nothing"):
        Target(grey(1), grey(1), np.zeros((64, 64), np.float32))


# ---- maps


def test_map_figures_are_those_of_torchmetrics() -> None:
    rng = np.random.default_rng(1)
    found, hole = rng.integers(0, 256, (32, 32), np.uint8), rng.random((32, 32)) > 0.7
    got = map_figures(found, hole)
    a, b = torch.from_numpy((found > 127).astype(int)), torch.from_numpy(hole.astype(int))
    assert got["map_iou"] == pytest.approx(float(binary_jaccard_index(a, b)))
    assert got["map_precision"] == pytest.approx(float(binary_precision(a, b)))
    assert got["map_recall"] == pytest.approx(float(binary_recall(a, b)))
    assert map_figures(np.zeros((32, 32), np.uint8), hole) == {"map_iou": 0, "map_precision": 0, "map_recall": 0}


def test_a_map_says_mask_where_the_runtime_would_treat_the_picture() -> None:
    assert GATE == gate.ON
    found = np.zeros((100, 100), np.uint8)
    assert not says_mask(found)
    rows, columns = lower_face(100)
    found[rows.start : rows.start + round(0.5 * (rows.stop - rows.start)), columns] = 255
    assert not says_mask(found)
    found[rows, columns] = 255
    assert says_mask(found)


# ---- features


def test_the_feature_distance_is_that_of_the_loss(pair: tuple[Image, Image]) -> None:
    output, truth = (p[::2, ::2] for p in pair)
    judge = FeatureDistance("efficientnet-lite0")
    wanted = judge.features(np.stack([truth, truth]))
    feature, apart = judge.distances(np.stack([output, truth]), wanted)
    loss = Perceptual("efficientnet-lite0")
    a, b = (torch.from_numpy(p.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1 for p in (output, truth))
    assert feature[0] == pytest.approx(float(loss(a, b)), rel=1e-4) and feature[0] > 0.01
    last = [torch.nn.functional.normalize(loss.features(p)[-1].mean((2, 3))) for p in (a, b)]
    assert apart[0] == pytest.approx(float((last[0] - last[1]).norm()), rel=1e-3) and 0 < apart[0] < 2
    assert feature[1] == pytest.approx(0, abs=1e-6) and apart[1] == pytest.approx(0, abs=1e-6)


def test_a_backbone_whose_package_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(ExtraError, match=r"(?s)vgg16.*--features") as caught:
        FeatureDistance("vgg16")
    assert caught.value.exit_code == 3
