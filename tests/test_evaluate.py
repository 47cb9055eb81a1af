"""The figures of a model, against scikit-image and against cases with a known answer."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tests.trainer_media import COUNTS, TinySet
from trainer.evaluate import evaluate, figures_of, luma, psnr, sharpness, ssim, summarise

Image = NDArray[np.uint8]
MODEL = Path(__file__).parent.parent / "unmask_rt" / "assets" / "unmask-256.onnx"


@pytest.fixture(scope="module")
def pair(astronaut: Image) -> tuple[Image, Image]:
    """A face and the same with noise."""
    truth = np.ascontiguousarray(astronaut[:256, 100:356])
    noise = np.random.default_rng(0).normal(0, 12, truth.shape)
    return np.clip(truth + noise, 0, 255).astype(np.uint8), truth


def test_psnr_and_ssim_are_scikit_images(pair: tuple[Image, Image]) -> None:
    output, truth = pair
    assert psnr(output, truth) == pytest.approx(peak_signal_noise_ratio(truth, output), abs=1e-6)
    assert ssim(output, truth) == pytest.approx(
        structural_similarity(luma(output), luma(truth), data_range=255), abs=1e-4
    )
    assert ssim(truth, truth) == pytest.approx(1)


def test_psnr_of_a_region_counts_nothing_else() -> None:
    truth, output = np.zeros((8, 8, 3), np.uint8), np.zeros((8, 8, 3), np.uint8)
    output[:4] = 51
    hole = np.zeros((8, 8), bool)
    hole[:4] = True
    assert psnr(output, truth, hole) == pytest.approx(20 * np.log10(5))
    assert psnr(output, truth) == pytest.approx(20 * np.log10(5) + 10 * np.log10(2))
    assert psnr(output, truth, ~hole) > 90


def test_sharpness_is_below_one_for_a_blurred_patch(pair: tuple[Image, Image]) -> None:
    _, truth = pair
    hole = np.zeros(truth.shape[:2], bool)
    hole[100:200, 80:180] = True
    blurred = np.asarray(cv2.GaussianBlur(truth, (0, 0), 3))
    assert sharpness(truth, truth, hole) == 1 and sharpness(blurred, truth, hole) < 0.7
    elsewhere = truth.copy()
    elsewhere[:90] = 0
    assert sharpness(elsewhere, truth, hole) == 1


def test_what_is_left_of_the_mask_and_whether_it_was_treated(pair: tuple[Image, Image]) -> None:
    _, truth = pair
    masked, hole = truth.copy(), np.zeros(truth.shape[:2], bool)
    hole[100:200, 80:180] = True
    masked[hole] = truth[hole] ^ 128  # far from the truth everywhere
    untouched = figures_of(masked, truth, masked, hole)
    assert untouched["treated"] == 0 and untouched["mask_left"] == 1
    perfect = figures_of(truth, truth, masked, hole)
    assert perfect["treated"] == 1 and perfect["mask_left"] == 0 and perfect["sharpness"] == 1
    half = masked.copy()
    half[100:150] = truth[100:150]
    assert figures_of(half, truth, masked, hole)["mask_left"] == pytest.approx(0.5)


def test_the_summary_takes_means_but_of_sharpness_the_median() -> None:
    rows = [{"hole_psnr": p, "sharpness": s} for p, s in ((10.0, 1.0), (20.0, 1.0), (30.0, 7.0))]
    done = summarise(rows)
    assert done["hole_psnr"] == 20 and done["sharpness"] == 1 and done["count"] == 3
    assert done["hole_psnr_interval"] == pytest.approx(1.96 * np.std([10, 20, 30]) / np.sqrt(3), abs=1e-3)


def test_a_model_is_measured_on_a_split_beside_its_baselines(tiny_set: TinySet, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.jpg"
    figures, again = (evaluate(MODEL, tiny_set.data, split="train", count=4, seed=5, sheet=sheet) for _ in range(2))
    assert {"model", "masked input", "telea"} <= set(figures) and figures == again
    assert figures["masked input"]["treated"] == 0 and figures["telea"]["treated"] == 1
    assert figures["model"]["count"] == 4
    assert sum(v["count"] for k, v in figures.items() if k.startswith("family")) == 4
    assert figures["telea"]["hole_psnr"] > figures["masked input"]["hole_psnr"]
    assert cv2.imread(str(sheet)).shape == (256, 4 * 768, 3)


def test_a_sheet_of_less_than_a_row_is_filled_with_black(tiny_set: TinySet, tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    evaluate(MODEL, tiny_set.data, split="test", count=4, seed=5, sheet=sheet)
    picture = cv2.imread(str(sheet))
    count = COUNTS["test"]
    assert count < 4 and picture.shape == (256, 4 * 768, 3)
    assert picture[:, : count * 768].any() and not picture[:, count * 768 :].any()


def test_a_split_without_faces_is_an_error(tiny_set: TinySet) -> None:
    with pytest.raises(ValueError, match="belongs to the split 'holdout'"):
        evaluate(MODEL, tiny_set.data, split="holdout", count=4, seed=5, sheet=None)
