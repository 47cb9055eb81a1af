"""Heads turned ahead: what `turning.turn` makes of masked faces, drawn once and kept."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training_media import write_set
from trainer import turned as module
from trainer import turning
from trainer.augment import valid_of
from trainer.bank import open_bank
from trainer.turned import PLANES, draw_turned
from trainer.turning import turn, wide_head

WORN = [(0, 1), (1, 4), (1, 4), (0, 0), (1, 2)]
"""Variant and row of masks in the tiny set's bank; one of them twice."""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A tiny set whose faces lie partly outside their pictures."""
    data = write_set(tmp_path / "data")
    corners = np.load(data / "corners.npy")
    corners[:, 1:3, 0] = 180 + 5 * np.arange(len(corners))[:, None]
    np.save(data / "corners.npy", corners)
    return data


@pytest.fixture
def jobs(monkeypatch: pytest.MonkeyPatch) -> list[module.Job]:
    """The jobs that were done, here in this process, two heads each."""
    done: list[module.Job] = []

    def in_process(function: Any, jobs: Any, **_: Any) -> Iterator[int]:
        for job in jobs:
            done.append(job)
            yield function(job)

    monkeypatch.setattr(module, "run_jobs", in_process)
    monkeypatch.setattr(module, "FACES_A_JOB", 2)
    return done


def wanted(data: Path, worn: list[tuple[int, int]], seed: int = 1) -> dict[str, np.ndarray]:
    """What each of these masks is when its head has been turned."""
    crops, mesh, corners = (np.load(data / f"{n}.npy") for n in ("crops", "mesh", "corners"))
    bank, head = open_bank(data), wide_head(np.load(data / "shape.npy"))
    made = []
    for place, (variant, row) in enumerate(worn):
        planes = bank["masked"][variant, row], crops[row], bank["alpha"][variant, row], valid_of(corners[row])
        made.append(turn(planes, mesh[row], head, np.random.default_rng([seed, place])))
    return {name: np.stack(column) for name, column in zip(PLANES, zip(*made, strict=True), strict=True)}


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return set(one) == set(other) == set(PLANES) and all(np.array_equal(one[n], other[n]) for n in PLANES)


def test_heads_are_what_turning_makes_of_the_masks_asked_for(
    data: Path, jobs: list[module.Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turning, "PROFILES", 0.0)  # beside a profile the background is drawn anew, and valid
    found = draw_turned(data, WORN)
    assert same(found, wanted(data, WORN)) and len(jobs) == 3
    assert all(found[name].shape == (5, *shape) and found[name].dtype == np.uint8 for name, shape in PLANES.items())
    assert (found["truth"][1] != found["truth"][2]).any(), "a face that comes twice is turned in two ways"
    crops = np.load(data / "crops.npy")
    assert all((found["truth"][i] != crops[row]).mean() > 0.2 for i, (_, row) in enumerate(WORN))
    outside = [int((valid == 0).sum()) for valid in found["valid"]]
    assert min(outside) > 1000, "what was never photographed is not valid"
    assert same(draw_turned(data, WORN[:2], seed=2), wanted(data, WORN[:2], 2))


def test_processes_draw_them(data: Path) -> None:
    assert same(draw_turned(data, WORN[:3], workers=1), wanted(data, WORN[:3]))


def test_they_are_drawn_once(data: Path, jobs: list[module.Job]) -> None:
    first = {name: array.copy() for name, array in draw_turned(data, WORN).items()}
    folder = module.folder_of(data)
    before, count = {p.name: p.stat().st_mtime_ns for p in folder.iterdir()}, len(jobs)
    assert set(before) == {"rows.npy", *(f"{name}.npy" for name in PLANES)}
    assert same(draw_turned(data, WORN), first) and len(jobs) == count
    assert {p.name: p.stat().st_mtime_ns for p in folder.iterdir()} == before
    with pytest.raises(ValueError, match="read-only"):
        draw_turned(data, WORN)["alpha"][0] = 0


@pytest.mark.parametrize("other", [WORN[:4], [*WORN, (0, 2)], [(0, 1), (1, 4), (1, 4), (0, 0), (0, 2)],
                                   [(1, 1), (1, 4), (1, 4), (0, 0), (1, 2)]])  # fmt: skip
def test_others_are_drawn_instead(data: Path, jobs: list[module.Job], other: list[tuple[int, int]]) -> None:
    draw_turned(data, WORN)
    assert same(draw_turned(data, other), wanted(data, other))


@pytest.mark.parametrize("there", [True, False])
def test_a_drawing_that_was_interrupted_begins_anew(data: Path, jobs: list[module.Job], there: bool) -> None:
    if there:
        draw_turned(data, WORN[::-1])

    def interrupted(function: Any, jobs: Any, **_: Any) -> Iterator[int]:
        yield function(jobs[0])
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "run_jobs", interrupted)
        draw_turned(data, WORN)
    assert not (module.folder_of(data) / "rows.npy").exists()
    assert same(draw_turned(data, WORN), wanted(data, WORN))


def test_whoever_deletes_the_bank_deletes_them_too(data: Path, jobs: list[module.Job], tmp_path: Path) -> None:
    draw_turned(data, WORN)
    masked = np.load(data / "bank" / "masked.npy")
    shutil.move(data / "bank", tmp_path / "old")
    shutil.copytree(tmp_path / "old", data / "bank", ignore=shutil.ignore_patterns("turned"))
    np.save(data / "bank" / "masked.npy", 255 - masked)  # drawn again with other settings
    found = draw_turned(data, WORN)
    assert same(found, wanted(data, WORN)) and (found["masked"] != np.load(tmp_path / "old/turned/masked.npy")).any()


def test_where_no_head_is_turned_nothing_is_drawn(data: Path, jobs: list[module.Job]) -> None:
    found = draw_turned(data, [])
    assert {name: array.shape for name, array in found.items()} == {n: (0, *shape) for n, shape in PLANES.items()}
    assert not jobs and not module.folder_of(data).exists()
