"""Pairs of pictures with and without a mask: the three folders, seeds, going on, and what is refused."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tests.conftest import FaceModels
from tests.trainer_media import TinySet
from trainer import synthesize as module
from trainer.masks import FAMILIES, choose_families, draw_mask
from trainer.synthesize import FOLDERS, add_arguments, claim, main, order_of, synthesize
from unmask_rt.errors import MissingError, SinkError, UnmaskError, UsageError

EVERY = choose_families("classic,everyday,landmark,geometric")
HARD = choose_families("landmark,geometric")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other processes take a second to start; `test_the_command` starts one."""
    monkeypatch.setattr(module, "run_jobs", lambda function, jobs, **_: map(function, jobs))


def pictures(out: Path, folder: str) -> dict[str, np.ndarray]:
    flag = cv2.IMREAD_UNCHANGED
    return {p.name: np.asarray(cv2.imread(str(p), flag)) for p in sorted((out / folder).iterdir())}


def contents(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


def test_three_folders_of_pictures_that_belong_together(tiny_set: TinySet, tmp_path: Path) -> None:
    out, count = tmp_path / "pairs", 14
    assert synthesize(tiny_set.data, out, count=count, families=HARD) == count
    originals, masked, maps = (pictures(out, folder) for folder in FOLDERS)
    assert list(originals) == list(masked) == list(maps) == [f"{i:06d}.png" for i in range(count)]
    rows = list(csv.DictReader((out / "pairs.csv").open()))
    records = json.loads((tiny_set.data / "meta.json").read_text())
    crops = np.load(tiny_set.data / "crops.npy")
    by_name = {(r["source"], r["name"]): crop for r, crop in zip(records, crops, strict=True)}
    assert len({(r["source"], r["name"]) for r in rows[: len(crops)]}) == len(crops), "a face came twice too early"
    for row in rows:
        name = f"{row['number']}.png"
        original = originals[name]
        assert original.shape == masked[name].shape == (256, 256, 3) and maps[name].shape == (256, 256)
        assert (original[..., ::-1] == by_name[row["source"], row["name"]]).all()
        changed = np.abs(original.astype(int) - masked[name]).max(2)
        assert row["family"] in HARD and not changed[maps[name] == 0].any()
        assert (changed[maps[name] > 127] > 4).mean() > 0.7


def test_the_seed_decides_alone(tiny_set: TinySet, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        synthesize(tiny_set.data, tmp_path / name, count=6, families=EVERY, seed=seed)
    first, again, other = (contents(tmp_path / name) for name in "abc")
    assert first == again and set(first) == set(other)
    assert all(first[f"masked/{i:06d}.png"] != other[f"masked/{i:06d}.png"] for i in range(6))


def test_an_interrupted_call_goes_on_and_a_greater_count_adds(
    tiny_set: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synthesize(tiny_set.data, tmp_path / "whole", count=12, families=EVERY)
    wanted, out = contents(tmp_path / "whole"), tmp_path / "pairs"
    drawn = draw_mask
    calls = []

    def interrupted(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return drawn(*arguments)

    monkeypatch.setattr(module, "draw_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthesize(tiny_set.data, out, count=8, families=EVERY)
    (out / "maps" / "000001.png").unlink()  # of an interrupted triple, too, nothing is taken for done
    assert synthesize(tiny_set.data, out, count=8, families=EVERY) == 5
    assert synthesize(tiny_set.data, out, count=8, families=EVERY) == 0
    assert len((out / "pairs.csv").read_text().splitlines()) == 9
    assert synthesize(tiny_set.data, out, count=12, families=EVERY) == 4
    assert contents(out) == wanted
    assert synthesize(tiny_set.data, out, count=3, families=EVERY) == 0 and contents(out) == wanted


def test_a_folder_of_pictures_is_prepared_first(tiny_set: TinySet, tmp_path: Path, face_models: FaceModels) -> None:
    out, tar = tmp_path / "pairs", tiny_set.inputs[1]
    assert synthesize(tar, out, count=3, families=HARD, workers=1, face_model=face_models.face) == 3
    assert sorted(p.name for p in out.iterdir()) == sorted((*FOLDERS, "pairs.csv", "synthesis.json"))
    assert Counter(row["source"] for row in csv.DictReader((out / "pairs.csv").open())) == {"more": 3}
    assert synthesize(tar, out, count=3, families=HARD, face_model=b"no model, as none is needed") == 0
    with pytest.raises(UsageError, match="other faces"):
        synthesize(tiny_set.inputs[0], out, count=3, families=HARD, face_model=b"no model")


def test_a_set_without_a_good_face_is_an_error(tmp_path: Path, face_models: FaceModels) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "text.png").write_text("no picture")
    with pytest.raises(UnmaskError, match="good enough"):
        synthesize(tmp_path / "faces", tmp_path / "o", count=1, families=HARD, workers=1, face_model=face_models.face)
    with pytest.raises(UnmaskError, match="good enough"):  # and not that the folder holds pairs of another seed
        synthesize(
            tmp_path / "faces", tmp_path / "o", count=1, families=HARD, seed=2, workers=1, face_model=face_models.face
        )


def test_a_folder_with_other_content_is_refused(tiny_set: TinySet, tmp_path: Path) -> None:
    out = tmp_path / "pairs"
    synthesize(tiny_set.data, out, count=2, families=HARD)
    before = contents(out)
    fewer = tmp_path / "fewer"
    shutil.copytree(tiny_set.data, fewer, ignore=shutil.ignore_patterns("bank"))
    records = json.loads((fewer / "meta.json").read_text())
    (fewer / "meta.json").write_text(json.dumps(records[1:]))
    for data, families, seed in ((tiny_set.data, EVERY, 1), (tiny_set.data, HARD, 2), (fewer, HARD, 1)):
        with pytest.raises(UsageError, match="another folder"):
            synthesize(data, out, count=4, families=families, seed=seed)
    assert contents(out) == before
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(UsageError, match="something else"):
        synthesize(tiny_set.data, tmp_path / "letters", count=1, families=HARD)
    with pytest.raises(UsageError, match="is a file"):
        claim(tmp_path / "letters" / "a.txt", {})
    with pytest.raises(UsageError, match="outside"):
        synthesize(tiny_set.data, tiny_set.data / "pairs", count=1, families=HARD)
    with pytest.raises(MissingError, match="nothing"):
        synthesize(tmp_path / "nothing", tmp_path / "new", count=1, families=HARD)


def test_a_full_disk_is_said(tiny_set: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SinkError, match="No space left"):
        synthesize(tiny_set.data, tmp_path / "pairs", count=1, families=HARD)


def test_each_face_comes_once_before_one_comes_twice() -> None:
    order = order_of(25, 10, seed=5)
    assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10)) and order[:10] != order[10:20]
    assert order_of(12, 10, seed=5) == order[:12] and order_of(25, 10, seed=6) != order and order_of(0, 10, 5) == []


@pytest.fixture
def real_processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from trainer.parallel import run_jobs

    monkeypatch.setattr(module, "run_jobs", run_jobs)
    yield


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return main(parser.parse_args([str(word) for word in words]))


def test_the_command(
    tiny_set: TinySet, tmp_path: Path, real_processes: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pairs"
    assert run(tiny_set.data, "-o", out, "--count", 20, "--families", "everyday", "--workers", 1, "--seed", 2) == 0
    assert "20 pairs, 20 of them drawn now" in capsys.readouterr().out
    rows = list(csv.DictReader((out / "pairs.csv").open()))
    assert len(pictures(out, "maps")) == 20 and {r["family"] for r in rows} <= set(FAMILIES) - set(HARD)
    with pytest.raises(UsageError, match="at least one"):
        run(tiny_set.data, "-o", out, "--count", 0)
