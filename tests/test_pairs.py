"""Samples: what one seed promises, picture pairs, and the jitter of pix2pix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.training_media import FAMILY, tiny_preset, write_set
from trainer.augment import crop_and_mirror
from trainer.data import Faces, Numbers, batches
from trainer.loop import Settings, open_data, train
from trainer.pairs import Pairs, is_pairs
from trainer.processes import Place
from trainer.schedule import Budget
from unmask_rt.errors import MissingError, SourceError, UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "data")


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Five training pairs and one for testing: left halves dark, right halves bright, each of its own shade."""
    for split, count in (("train", 5), ("test", 1)):
        (tmp_path / split).mkdir()
        for i in range(count):
            picture = np.full((64, 128, 3), 20 + 10 * i, np.uint8)
            picture[:, 64:] = 160 + 10 * i
            picture[:8, :8] = picture[:8, 64:72] = 255
            cv2.imwrite(str(tmp_path / split / f"{i}.png"), picture)
    return tmp_path


def test_the_same_faces_with_the_same_masks_whatever_is_done_to_them(data: Path) -> None:
    plain = Faces(data, "train", 7, {})
    other = Faces(data, "train", 7, {}, size=64, jitter="pix2pix", bare=0.5, dressed=0.5)
    chosen = [plain.choose(i) for i in range(40)]
    assert chosen == [other.choose(i) for i in range(40)] and len(set(chosen)) > 6
    assert chosen != [Faces(data, "train", 8, {}).choose(i) for i in range(40)]


def test_families_can_be_held_out(data: Path) -> None:
    dataset = Faces(data, "train", 7, {}, without=[FAMILY[0]])
    assert {dataset.choose(i)[1] for i in range(30)} == {1}
    with pytest.raises(UsageError, match="hold fewer"):
        Faces(data, "train", 7, {}, without=FAMILY)[0]
    with pytest.raises(UsageError, match="bandana"):
        Faces(data, "train", 7, {}, without=["bandana"])


def test_what_is_no_prepared_set_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="prepare"):
        Faces(tmp_path, "train", 1, {})
    (tmp_path / "meta.json").write_text((data / "meta.json").read_text())
    with pytest.raises(MissingError, match="missing"):
        Faces(tmp_path, "train", 1, {})[0]


def test_processes_take_turns_at_the_numbers() -> None:
    first, second = iter(Numbers(4, 2, 0, 2)), iter(Numbers(4, 2, 1, 2))
    assert [next(first), next(second), next(first), next(second)] == [[4, 5], [6, 7], [8, 9], [10, 11]]


# ---- jitter


def test_the_jitter_of_pix2pix_moves_all_planes_alike() -> None:
    x = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    planes = np.dstack([x, x.T, x]), np.dstack([x, x.T, x]), x.copy(), np.full_like(x, 255)
    seen = set()
    for seed in range(20):
        masked, truth, alpha, valid = crop_and_mirror(planes, np.random.default_rng(seed), 256)
        assert masked.shape == (256, 256, 3) and (masked == truth).all() and (masked[..., 0] == alpha).all()
        assert (valid == 255).all()
        slope = (int(alpha[0, 200]) - int(alpha[0, 50])) / 150
        assert abs(abs(slope) - 256 / 286) < 0.02  # larger by 286 / 256
        seen.add((slope > 0, int(alpha[0, 0]), int(masked[0, 0, 1])))
    assert {mirrored for mirrored, _, _ in seen} == {True, False} and len(seen) > 15
    assert crop_and_mirror(planes, np.random.default_rng(0), 128)[0].shape == (128, 128, 3)


# ---- pairs


def test_halves_are_input_and_target_as_the_preset_says(pairs: Path) -> None:
    assert is_pairs(pairs) and not is_pairs(pairs / "train")
    for half, sign in (("left", 1), ("right", -1)):
        masked, truth, alpha, valid = Pairs(pairs, "validation", 1, size=32, augment=False, input_half=half)[0]
        assert masked.shape == truth.shape == (3, 32, 32) and masked.dtype == np.uint8
        assert (
            sign * (int(truth[0, 20, 20]) - int(masked[0, 20, 20])) == 140 and not alpha.any() and (valid == 255).all()
        )
    with pytest.raises(UsageError, match="half"):
        Pairs(pairs, "train", 1, input_half="top")


def test_training_pairs_come_at_random_and_are_reproducible(pairs: Path) -> None:
    one, other = Pairs(pairs, "train", 1, size=32), Pairs(pairs, "train", 1, size=32)
    shades = [int(one[i][0][0, 20, 20]) for i in range(30)]
    assert set(shades) == {20, 30, 40, 50, 60} and shades == [int(other[i][0][0, 20, 20]) for i in range(30)]
    assert len(one) == 5 and len(next(batches(one, 3, 0, 0)).masked) == 3


def test_pairs_that_are_none_are_refused(pairs: Path) -> None:
    (pairs / "train" / "0.png").write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"0\.png"):
        Pairs(pairs, "train", 1).read(pairs / "train" / "0.png")
    cv2.imwrite(str(pairs / "train" / "1.png"), np.zeros((64, 63, 3), np.uint8))
    with pytest.raises(SourceError, match="63x64"):
        Pairs(pairs, "train", 1).read(pairs / "train" / "1.png")
    for path in (pairs / "test").iterdir():
        path.unlink()
    with pytest.raises(UsageError, match="side by side"):
        Pairs(pairs, "test", 1)


def run(preset: Any, data: Path, folder: Path) -> bool:
    place = Place(0, 1, torch.device("cpu"))
    return train(preset, data, folder, Budget("steps", 2), Settings(workers=0, tensorboard=False), place)


def test_pix2pix_trains_on_pairs_and_systems_with_a_map_do_not(pairs: Path, data: Path, tmp_path: Path) -> None:
    preset = tiny_preset("pix2pix")
    assert isinstance(open_data(preset, preset.stages[0], pairs, "train"), Pairs)
    assert isinstance(open_data(preset, preset.stages[0], data, "train"), Faces)
    assert run(preset, pairs, tmp_path / "run") and (tmp_path / "run" / "sheet.jpg").exists()
    with pytest.raises(UsageError, match="needs to know the mask"):
        run(tiny_preset("dual-patch"), pairs, tmp_path / "other")
