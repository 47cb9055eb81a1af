"""Faces that training shows as well leave test and validation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.evaluation_media import SPLITS, write_set
from trainer import cli, twins
from trainer.evaluation.pictures import choose
from trainer.twins import describe_set, find_twins

torch.set_num_threads(1)


def records(*what: str) -> list[dict[str, str]]:
    """Records of "source split" or "source split identity" each; without, everybody is somebody else."""
    keys = ("source", "split", "identity")
    return [dict(zip(keys, [*words.split(), str(i)][:3], strict=True)) for i, words in enumerate(what)]


def at(*places: float) -> np.ndarray:
    """Descriptors on a line."""
    return np.pad(np.array(places)[:, None], ((0, 0), (0, 127)))


def test_who_is_near_to_a_training_face_and_who_is_near_to_those_belong_to_training() -> None:
    about = records("a train", "a test", "a test", "a validation", "a test", "a test")
    #                         near       near to that  and to that   too far   near to the last
    assert find_twins(about, at(0.0, 0.25, 0.5, 0.75, 1.1, 1.2), 0.3) == [1, 2, 3]


def test_who_goes_takes_all_pictures_along() -> None:
    about = records("a train", "a test anna", "a test bert", "a test anna", "a validation carl")
    assert find_twins(about, at(0.0, 0.1, 2.0, 5.0, 5.2), 0.3) == [1, 3, 4]  # Carl is near to Anna's other picture


def test_people_of_other_sources_are_other_people() -> None:
    assert find_twins(records("a train", "b test", "b train"), at(0.0, 0.01, 5.0), 0.3) == []
    assert find_twins(records("a test", "a validation"), at(0.0, 0.0), 0.3) == []


def test_distances_are_euclidean_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twins, "ROWS", 3)
    rng = np.random.default_rng(1)
    these, those = rng.normal(size=(8, 128)), rng.normal(size=(5, 128))
    wanted = np.linalg.norm(these[:, None] - those, axis=2).min(1)
    assert np.allclose(twins._nearest(these, those), wanted)


class Grey(nn.Module):
    """Describes a chip by its mean level."""

    def __init__(self, *_: object) -> None:
        super().__init__()

    def describe(self, chips: np.ndarray) -> np.ndarray:
        levels: Tensor = torch.from_numpy(chips).float().mean((1, 2, 3))
        return at(*(levels / 10).tolist())


def test_the_command_moves_them_and_evaluation_goes_on_with_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_set(tmp_path)
    before = choose(data, "test", 100, 5).rows
    about = json.loads((data / "meta.json").read_text())
    crops = np.load(data / "crops.npy")
    train = next(i for i, r in enumerate(about) if r["split"] == "train")
    twin = next(i for i in before if about[i]["source"] == about[train]["source"])
    for i in range(len(crops)):  # everybody apart from everybody, but for these two
        crops[i] = 10 * i
    crops[twin] = crops[train] + 2
    np.save(data / "crops.npy", crops)
    monkeypatch.setattr(twins, "FaceDescriptor", Grey)
    monkeypatch.setattr(type(twins.PUBLISHED), "load", lambda self, folder=None: (b"", b""))
    assert cli.main(["twins", str(data)]) == 0
    said = capsys.readouterr().out
    assert f"{about[twin]['source']}: 1 of test are shown in training" in said
    assert f"{SPLITS.count('test') - 1} to test" in said
    after = json.loads((data / "meta.json").read_text())
    assert after[twin] == about[twin] | {"split": "train", "moved_from": "test"}
    assert [r for i, r in enumerate(after) if i != twin] == [r for i, r in enumerate(about) if i != twin]
    assert choose(data, "test", 100, 5).rows == tuple(i for i in before if i != twin), "in the order of before"
    assert cli.main(["twins", str(data)]) == 0  # nothing is left to move
    assert json.loads((data / "meta.json").read_text()) == after


def test_every_face_is_described_once_in_order(tmp_path: Path) -> None:
    data = write_set(tmp_path)
    crops = np.load(data / "crops.npy")
    crops[:] = np.arange(len(crops), dtype=np.uint8)[:, None, None, None]
    np.save(data / "crops.npy", crops)
    found = describe_set(data, Grey())  # type: ignore[arg-type]
    assert found.shape == (len(crops), 128) and np.allclose(found[:, 0] * 10, np.arange(len(crops)), atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "nowhere is no prepared set"), (["nowhere", "--near", "0"], "--near 0.0 is no distance")],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["twins", *arguments]) == 2
    assert message in capsys.readouterr().err
