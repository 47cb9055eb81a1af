"""Training samples: numbered, reproducible, aligned with their truth, and drawn as often as they should be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.trainer_media import TinySet
from trainer.augment import tone_curve
from trainer.bank import create
from trainer.data import Batch, Faces, batches, sampling_weights

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
SOURCES = {"faces": 1.0, "more": 2.0}


def faces(data: Path, split: str = "train", seed: int = 1, **options: Any) -> Faces:
    return Faces(data, split, seed, SOURCES, **options)


def record(
    source: str = "a", split: str = "train", smile: float = 0.0, opened: float = 0.0, yaw: float = 0.0
) -> dict[str, Any]:
    return {"source": source, "split": split, "smile": smile, "open": opened, "yaw": yaw}


# ---- one sample


@pytest.mark.parametrize("size", [128, 256])
@pytest.mark.parametrize("augment", [True, False])
def test_shapes_and_types(tiny_set: TinySet, size: int, augment: bool) -> None:
    masked, truth, alpha, valid = faces(tiny_set.data, size=size, augment=augment)[3]
    assert masked.shape == truth.shape == (3, size, size) and alpha.shape == valid.shape == (1, size, size)
    assert {p.dtype for p in (masked, truth, alpha, valid)} == {np.dtype(np.uint8)}
    assert 0.03 < (alpha > 127).mean() < 0.6 and (valid > 0).mean() > 0.3


def test_the_same_number_is_the_same_sample(tiny_set: TinySet) -> None:
    one, other = faces(tiny_set.data), faces(tiny_set.data)
    for number in (0, 7, 123_456):
        other[number + 1]  # what was asked for before does not matter
        assert all((a == b).all() for a, b in zip(one[number], other[number], strict=True))
    assert (one[0][1] != one[1][1]).any()
    assert (one[0][1] != faces(tiny_set.data, seed=2)[0][1]).any()


def test_without_augmentation_the_rows_of_the_split_come_in_order(tiny_set: TinySet) -> None:
    records = json.loads((tiny_set.data / "meta.json").read_text())
    crops, masked = np.load(tiny_set.data / "crops.npy"), np.load(tiny_set.data / "bank" / "masked.npy")
    for split in ("validation", "train"):
        dataset = faces(tiny_set.data, split, augment=False)
        rows = [i for i, r in enumerate(records) if r["split"] == split]
        assert len(dataset) == len(rows)
        for number in (0, 1, len(rows)):
            sample = dataset[number]
            row = rows[number % len(rows)]
            assert (sample[1].transpose(1, 2, 0) == crops[row]).all()
            assert (sample[0].transpose(1, 2, 0) == masked[0, row]).all()


def test_half_size_is_the_whole_size_made_smaller(tiny_set: TinySet) -> None:
    whole, half = (faces(tiny_set.data, augment=False, size=size)[0] for size in (256, 128))
    for large, small in zip(whole[:3], half[:3], strict=True):
        wanted = cv2.resize(large.transpose(1, 2, 0), (128, 128), interpolation=cv2.INTER_AREA).reshape(128, 128, -1)
        assert np.abs(wanted.astype(int) - small.transpose(1, 2, 0)).max() <= 1


@pytest.mark.parametrize("size", [128, 256])
def test_augmentation_keeps_masked_truth_and_alpha_on_each_other(tiny_set: TinySet, size: int) -> None:
    """Away from the mask both pictures show the same but for noise and compression; under it they differ."""
    dataset = faces(tiny_set.data, size=size)
    outside, inside = [], []
    for number in range(24):
        masked, truth, alpha, _ = dataset[number]
        change = np.abs(masked.astype(int) - truth).mean(0)
        near = cv2.dilate(alpha[0], np.ones((size // 12, size // 12), np.uint8)) > 0
        outside.append(change[~near].mean())
        inside.append(change[alpha[0] > 250].mean())
    assert np.median(outside) < 2 and max(outside) < 9
    assert np.median(inside) > 25


def test_augmentation_moves_turns_mirrors_and_lights(tiny_set: TinySet) -> None:
    dataset = faces(tiny_set.data)
    means = [dataset[i][1].mean((1, 2)) for i in range(24)]
    assert np.ptp(means, axis=0).min() > 25
    places = []
    for i in range(24):
        ys, xs = np.nonzero(dataset[i][2][0] > 127)
        places.append((xs.mean(), ys.mean()))
    assert np.std(places, axis=0).min() > 2 and np.std(places, axis=0).max() < 25


def test_outside_the_picture_is_not_valid(tiny_set: TinySet, tmp_path: Path) -> None:
    data = copy_of(tiny_set.data, tmp_path)
    corners = np.load(data / "corners.npy")
    corners[:] = [[-0.5, -0.5], [127.5, -0.5], [127.5, 255.5], [-0.5, 255.5]]  # the right half repeats the border
    np.save(data / "corners.npy", corners)
    *_, valid = faces(data, augment=False)[0]
    assert (valid[0, :, :126] == 255).all() and not valid[0, :, 130:].any()
    shares = [float((faces(data)[i][3] > 0).mean()) for i in range(6)]
    assert min(shares) > 0.3 and max(shares) < 0.7


@pytest.mark.parametrize("augment", [True, False])
def test_bare_faces_have_no_alpha_and_are_their_own_truth(tiny_set: TinySet, augment: bool) -> None:
    dataset = faces(tiny_set.data, bare=1.0, augment=augment)
    for number in range(4):
        masked, truth, alpha, _ = dataset[number]
        assert not alpha.any() and np.abs(masked.astype(int) - truth).mean() < (9 if augment else 1e-9)
    some = [faces(tiny_set.data, bare=0.5)[i][2].any() for i in range(40)]
    assert 8 < sum(some) < 32


def test_tone_curves_never_fall_and_differ() -> None:
    curves = [tone_curve(np.random.default_rng(i)) for i in range(20)]
    assert all(c.shape == (256, 1, 3) and c.dtype == np.uint8 for c in curves)
    assert all((np.diff(c.astype(int), axis=0) >= 0).all() for c in curves)
    assert np.std([c[128].mean() for c in curves]) > 3


# ---- which faces come


def test_weights_follow_split_source_expression_and_turn() -> None:
    records = [
        record(), record(smile=0.5), record(yaw=-0.4), record("b"), record(split="test"), record("unknown"),
        record(opened=0.3, yaw=0.3),
    ]  # fmt: skip
    weights = sampling_weights(records, "train", {"a": 1.0, "b": 0.25}, {})
    assert weights.sum() == pytest.approx(1)
    assert np.allclose(weights / weights[0], [1, 1.6, 1.6, 0.25, 0, 1, 2.56])


def test_a_split_without_faces_is_an_error() -> None:
    with pytest.raises(ValueError, match="validation"):
        sampling_weights([record()], "validation", {}, {})
    with pytest.raises(ValueError, match="train"):
        sampling_weights([record()], "train", {"a": 0.0}, {})


def test_people_are_drawn_as_often_as_asked_for() -> None:
    records = [
        record() | about for about in ({"age": 30}, {"age": 60, "sex": "f"}, {"age": 71, "group": "b"}, {"group": "b"})
    ]
    weights = sampling_weights(records, "train", {"a": 1.0}, {"60 and more": 2.0, "b": 1.5})
    assert np.allclose(weights / weights[0], [1, 2, 3, 1.5])


def test_sources_are_drawn_as_often_as_asked_for(tiny_set: TinySet) -> None:
    records = json.loads((tiny_set.data / "meta.json").read_text())
    crops = np.load(tiny_set.data / "crops.npy")
    tar = [i for i, r in enumerate(records) if r["source"] == "more" and r["split"] == "train"]
    assert tar, "the tiny set needs a training face in its tar"
    only = Faces(tiny_set.data, "train", 1, {"faces": 0.0, "more": 1.0}, augment=True)
    drawn = np.searchsorted(only.cumulated, np.random.default_rng(0).random(50) * only.cumulated[-1])
    assert set(drawn) <= set(tar)
    mean = np.mean([crops[i].mean((0, 1)) for i in tar], axis=0)
    assert np.abs(np.mean([only[i][1].mean((1, 2)) for i in range(24)], axis=0) - mean).max() < 30


# ---- a bank that is not finished


def copy_of(data: Path, target: Path) -> Path:
    for name in ("crops.npy", "mesh.npy", "corners.npy", "meta.json"):
        shutil.copy(data / name, target)
    shutil.copytree(data / "bank", target / "bank")
    return target


def test_only_masks_that_are_drawn_are_used(tiny_set: TinySet, tmp_path: Path) -> None:
    data = copy_of(tiny_set.data, tmp_path)
    done = np.load(data / "bank" / "done.npy")
    rows = faces(data).rows
    done[:] = 0
    done[1, rows[2]] = 1
    np.save(data / "bank" / "done.npy", done)
    wanted = np.load(data / "bank" / "masked.npy")[1, rows[2]]
    for number in range(3):
        masked = faces(data, augment=False)[number][0].transpose(1, 2, 0)
        assert (masked == wanted).all()
    assert faces(data)[5][2].any()


def test_an_empty_bank_is_an_error_and_no_endless_search(tiny_set: TinySet, tmp_path: Path) -> None:
    data = copy_of(tiny_set.data, tmp_path)
    shutil.rmtree(data / "bank")
    create(data, tiny_set.summary["kept"], 2)
    with pytest.raises(ValueError, match="bank"):
        faces(data)[0]


# ---- pseudo labels


def test_pseudo_labels_take_their_share(tiny_set: TinySet, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (3, 256, 256, 3), np.uint8)
    alpha, weight = np.zeros((3, 256, 256), np.uint8), np.full((3, 256, 256), 255, np.uint8)
    alpha[:, 150:, 60:200], weight[:, :100] = 255, 0
    for name, array in (("crops", crops), ("alpha", alpha), ("weight", weight)):
        np.save(tmp_path / f"{name}.npy", array)
    masked, truth, found, certain = faces(tiny_set.data, real=tmp_path, real_share=1.0)[4]
    assert masked.shape == truth.shape == (3, 256, 256) and found.shape == certain.shape == (1, 256, 256)
    assert 0.15 < (found > 127).mean() < 0.35 and 0.4 < (certain > 0).mean() < 0.75
    without = faces(tiny_set.data, real=tmp_path, real_share=0.0)
    assert all((a == b).all() for a, b in zip(without[4], faces(tiny_set.data)[4], strict=True))
    mixed = faces(tiny_set.data, real=tmp_path, real_share=0.5)
    assert 3 < sum(bool((mixed[i][3][0, 40:60, 100:150] == 0).all()) for i in range(24)) < 21


# ---- batches


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_go_on_from_any_number(tiny_set: TinySet, workers: int) -> None:
    dataset = faces(tiny_set.data, size=128)
    stream = batches(dataset, 2, 6, workers)
    for start in (6, 8):
        batch = next(stream)
        for i in range(2):
            sample = dataset[start + i]
            parts = (batch.masked, batch.truth, batch.alpha, batch.valid)
            assert all((part[i].numpy() == a).all() for part, a in zip(parts, sample, strict=True))


def test_a_batch_becomes_floats_in_their_ranges() -> None:
    low, high = torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    masked, truth, alpha, valid = Batch(low, high, low[:, :1], high[:, :1]).floats()
    assert (masked == -1).all() and (truth == 1).all() and (alpha == 0).all() and (valid == 1).all()
    assert all(t.dtype == torch.float32 for t in (masked, truth, alpha, valid))
