"""Means, medians, shares and their intervals; when a win may be claimed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.evaluation.figures import FIGURES, Estimate, better, estimate, summarise, wilson


def test_the_interval_of_a_mean_is_the_normal_one() -> None:
    found = estimate([10.0, 20.0, 30.0], "mean")
    assert found is not None and found.value == 20 and found.count == 3
    half = 1.959964 * 10 / math.sqrt(3)
    assert found.low == pytest.approx(20 - half) and found.high == pytest.approx(20 + half)


def test_one_picture_has_no_interval_but_a_share_always_has() -> None:
    for how in ("mean", "median"):
        assert estimate([4.0], how) == Estimate(4.0, None, None, 1)
    one = estimate([1.0], "share")
    assert one is not None and one.high == 1 and one.low == pytest.approx(0.2065, abs=1e-4)


def test_wilsons_interval() -> None:
    assert wilson(0.8, 10) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert wilson(1.0, 40) == pytest.approx((40 / (40 + 1.959964**2), 1.0))
    assert wilson(0.0, 40)[0] == 0


def test_the_median_is_bootstrapped_the_same_way_each_time() -> None:
    values = np.random.default_rng(0).normal(5, 1, 200)
    found = estimate(values, "median")
    assert found is not None and found == estimate(values, "median")
    assert found.value == np.median(values) and found.low is not None and found.high is not None
    assert found.low < found.value < found.high
    # of a normal sample the median's standard error is 1.2533 times the mean's
    assert found.high - found.low == pytest.approx(2 * 1.96 * 1.2533 / math.sqrt(200), rel=0.25)


def test_what_is_not_defined_is_left_out() -> None:
    found = estimate([1.0, math.nan, 3.0], "mean")
    assert found is not None and found.value == 2 and found.count == 2
    assert estimate([math.nan], "mean") is None


def test_a_summary_takes_each_figure_in_its_own_way() -> None:
    rows = [{"hole_psnr": p, "sharpness": s, "mask_left": math.nan} for p, s in ((10.0, 1.0), (20.0, 1.0), (30.0, 7.0))]
    done = summarise(rows)
    assert list(done) == ["hole_psnr", "sharpness"]
    assert done["hole_psnr"].value == 20 and done["sharpness"].value == 1
    with pytest.raises(KeyError, match="beauty"):
        summarise([{"beauty": 1.0}])


def test_a_win_needs_intervals_that_do_not_overlap() -> None:
    a, b, c = Estimate(20, 19, 21, 9), Estimate(22, 20.5, 23.5, 9), Estimate(25, 24, 26, 9)
    psnr, l1 = FIGURES["hole_psnr"], FIGURES["l1"]
    assert not better(b, a, psnr) and better(c, a, psnr) and not better(a, c, psnr)
    assert better(a, c, l1) and not better(c, a, l1)
    assert not better(Estimate(99, None, None, 1), a, psnr)


def test_of_sharpness_one_is_best() -> None:
    soft, harsh, life = Estimate(0.7, 0.68, 0.72, 9), Estimate(1.5, 1.4, 1.6, 9), Estimate(0.98, 0.95, 1.01, 9)
    figure = FIGURES["sharpness"]
    assert better(life, soft, figure) and better(life, harsh, figure) and better(soft, harsh, figure)
    above, below = Estimate(1.10, 1.05, 1.15, 9), Estimate(0.899, 0.85, 0.95, 9)
    assert not better(above, below, figure) and not better(below, above, figure), "equally far from 1, either way"
    assert life.distance_from(1) == Estimate(pytest.approx(0.02), 0.0, pytest.approx(0.05), 9)
