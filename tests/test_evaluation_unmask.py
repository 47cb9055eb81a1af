"""A folder of pictures in, maps and results out."""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import FaceModels
from tests.evaluation_media import Idle
from trainer.evaluation import unmask
from unmask_rt import sample
from unmask_rt.blend import lower_face
from unmask_rt.errors import ExtraError, UsageError


class Covering(Idle):
    """Says that mouth and chin are mask, and paints them."""

    def __call__(self, crops: np.ndarray, alpha: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        super().__call__(crops, alpha)
        maps = np.zeros(crops.shape[:3], np.uint8)
        maps[:, *lower_face(self.size)] = 255
        faces = crops.copy()
        faces[maps > 0] = (40, 160, 40)
        return faces, maps


def call(*words: object) -> int:
    parser = argparse.ArgumentParser()
    unmask.add_arguments(parser)
    return unmask.main(parser.parse_args([str(w) for w in words]))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked face, a bare one below it in a folder, and something broken."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "more").mkdir()
    Image.fromarray(sample.masked_astronaut()[1]).save(folder / "masked.png")
    Image.fromarray(sample.astronaut()).save(folder / "more" / "bare.png")
    (folder / "broken.png").write_text("no picture")
    return folder


def read(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture)


def test_the_bundled_model_writes_maps_and_results(
    pictures: Path, tmp_path: Path, face_models: FaceModels, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(pictures, "-o", tmp_path) == 1, "one picture could not be read"
    said = capsys.readouterr()
    assert "2 pictures, 1 with a mask" in said.out and "broken.png cannot be read" in said.err
    files = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png"))
    assert files == ["maps/masked.png", "maps/more/bare.png", "results/masked.png", "results/more/bare.png"]
    truth, masked = sample.masked_astronaut()
    found = read(tmp_path / "maps" / "masked.png") > 127
    alpha = np.abs(truth.astype(int) - masked).max(2) > 24
    assert (found & alpha).sum() / (found | alpha).sum() > 0.8
    assert not read(tmp_path / "maps" / "more" / "bare.png").any()
    assert np.array_equal(read(tmp_path / "results" / "more" / "bare.png"), sample.astronaut())
    changed = np.abs(read(tmp_path / "results" / "masked.png").astype(int) - masked).max(2) > 8
    assert changed[found].mean() > 0.9 and changed[:40].mean() < 0.01
    assert b"compositeWithTrainedAlgorithmicMedia" in (tmp_path / "results" / "masked.png").read_bytes()

    with pytest.raises(UsageError, match="is there already"):
        call(pictures, "-o", tmp_path)
    assert call(pictures / "masked.png", "-o", tmp_path, "-y") == 0


def test_a_run_is_taken_as_an_engine(
    pictures: Path, tmp_path: Path, face_models: FaceModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "checkpoint.pt").write_bytes(b"weights")
    asked: list[Any] = []

    def open_restorer(path: Path, *, map_from: Path | None, device: str) -> Idle:
        asked.append((path, map_from, device))
        return Covering(128)

    stand_in = ModuleType("trainer.runs")
    stand_in.open_restorer = open_restorer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trainer.runs", stand_in)
    out = tmp_path / "out"
    assert call(pictures / "masked.png", "-o", out, "--model", run, "--map", "other") == 0
    assert asked == [(run, Path("other"), "cpu")]
    result = (out / "results" / "masked.png").read_bytes()
    assert hashlib.sha256(b"weights").hexdigest().encode() in result
    painted = read(out / "results" / "masked.png")[read(out / "maps" / "masked.png") > 200].astype(int)
    assert np.abs(np.median(painted, 0) - (40, 160, 40)).max() < 8


def test_what_makes_no_sense_is_refused(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--max-faces 0"):
        call(pictures, "-o", tmp_path, "--max-faces", 0)
    with pytest.raises(UsageError, match="--map does not go"):
        call(pictures, "-o", tmp_path, "--map", "run")
    monkeypatch.setitem(sys.modules, "trainer.evaluation.unmask_folder", None)
    with pytest.raises(ExtraError, match="mediapipe, av"):
        call(pictures, "-o", tmp_path)
