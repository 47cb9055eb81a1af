"""Things in front of a face, which are no mask."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from trainer import front
from trainer.augment import Planes
from trainer.front import EYES, EYES_SEEN, LEAST_SEEN, put_in_front


def worn() -> Planes:
    """A grey face with a blue mask over its lower half."""
    truth = np.full((256, 256, 3), 150, np.uint8)
    alpha = np.zeros((256, 256), np.uint8)
    cv2.ellipse(alpha, (128, 170), (70, 55), 0, 0, 360, 255, -1)
    masked = np.where(alpha[..., None] > 127, np.uint8([40, 60, 200]), truth)
    return masked, truth, alpha, np.full((256, 256), 255, np.uint8)


def another() -> np.ndarray:
    return np.full((256, 256, 3), (230, 200, 20), np.uint8)


def each() -> list[tuple[Planes, Planes]]:
    before = worn()
    return [(before, put_in_front(before, another(), np.random.default_rng(seed))) for seed in range(60)]


def test_what_is_in_front_is_no_mask_and_belongs_to_the_truth() -> None:
    for before, (masked, truth, alpha, valid) in each():
        changed = np.abs(truth.astype(int) - before[1]).max(2) > 0
        assert changed.mean() > 0.005, "nothing was drawn"
        apart = np.abs(masked.astype(int) - truth).max(2)
        assert (alpha[apart > 1] > 0).all(), "what differs from the truth is mask"
        gone = (before[2] > 250) & (alpha < 5)
        assert (apart[gone] < 4).all(), "what hides the mask is the truth there"
        assert (alpha <= before[2]).all() and (valid == 255).all()
        assert masked.dtype == truth.dtype == alpha.dtype == np.uint8


def test_enough_of_mask_and_eyes_stays_in_view() -> None:
    shares = []
    for before, (_, truth, alpha, _) in each():
        shares.append(alpha.sum() / before[2].sum())
        blank = np.abs(truth.astype(int) - before[1]).max(2)[EYES, 64:192] > 60
        assert blank.mean() <= 1 - EYES_SEEN + 0.1
    assert min(shares) >= LEAST_SEEN - 0.08  # a soft edge takes a little more
    assert np.mean([share < 0.9 for share in shares]) > 0.4, "most things hide some of it"


def test_bare_faces_get_things_too_and_stay_bare() -> None:
    masked, truth, alpha, valid = worn()
    planes = truth, truth, np.zeros_like(alpha), valid
    for seed in range(12):
        masked, shown, alpha, _ = put_in_front(planes, another(), np.random.default_rng(seed))
        assert (masked == shown).all() and not alpha.any()
        assert (shown != truth).any()


def test_the_same_seed_draws_the_same() -> None:
    first, second = (put_in_front(worn(), another(), np.random.default_rng(8)) for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_where_nothing_fits_all_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = np.full((256, 256, 3), 9, np.float32), np.ones((256, 256), np.float32)
    monkeypatch.setattr(front, "_THINGS", (lambda picture, rng: everything,) * 4)
    before = worn()
    assert put_in_front(before, another(), np.random.default_rng(1)) is before


def test_every_kind_of_thing_is_drawn_within_bounds() -> None:
    for draw in front._THINGS:
        for seed in range(10):
            picture, cover = draw(another(), np.random.default_rng(seed))
            assert picture.shape == (256, 256, 3) and cover.shape == (256, 256)
            assert picture.dtype == cover.dtype == np.float32
            assert cover.min() >= 0 and cover.max() <= 1 and np.isfinite(picture).all()
