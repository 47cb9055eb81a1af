"""The commands that measure: evaluate, its protocols, and compare."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
import torch

from tests.evaluation_media import Idle, Painter, write_set
from trainer import cli
from trainer.evaluation import compare, evaluate, identity, protocols, record, sheets, tables
from trainer.evaluation.figures import Estimate
from trainer.evaluation.measure import Judges, measure
from trainer.evaluation.pictures import BASELINES, choose
from trainer.evaluation.record import Record, Result, record_of
from trainer.tfjs import Published
from unmask_rt.errors import MissingError, ModelError, UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
PLAIN = ("--features", "none", "--no-identity", "--workers", "0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("data"))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files idle.onnx, painter.onnx, small.onnx and the run ``run``: stand-ins for models."""
    made = {"idle": Idle(), "painter": Painter(120), "small": Painter(120, size=64, name="small"), "run": Idle()}
    made["run"].has_map = False

    def open_restorer(path: Path, *, map_from: Path | None, device: str) -> Idle:
        return made[path.stem]

    stand_in = ModuleType("trainer.runs")
    stand_in.open_restorer = open_restorer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "trainer.runs", stand_in)
    for name in ("idle", "painter", "small"):
        (tmp_path / f"{name}.onnx").touch()
    (tmp_path / "run").mkdir()
    return tmp_path


def call(command: ModuleType, *words: object) -> int:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return int(command.main(parser.parse_args([str(w) for w in words])))


# ---- measure


def test_a_model_that_does_nothing_is_the_masked_input(data: Path) -> None:
    draw = choose(data, "test", 3, 5)
    done = measure({"idle": Idle()}, draw, size=256, judges=Judges(), workers=0)
    model, masked, *_ = done.systems
    assert [s.name for s in done.systems] == ["idle", *BASELINES] and len(done.pictures) == 3
    for mine, theirs in zip(model.rows, masked.rows, strict=True):
        assert {k: mine[k] for k in theirs} == pytest.approx(theirs, nan_ok=True)
        assert mine["map_iou"] == 0 and mine["gate_masked"] == 0 and mine["gate_bare"] == 1 and mine["gate"] == 0.5
    assert done.summary(model)["all"]["gate"].value == 0.5


def test_the_true_hole_is_told_and_no_map_is_judged_then(data: Path) -> None:
    draw, painter = choose(data, "test", 2, 5), Painter(120, size=64)
    done = measure({"p": painter}, draw, size=64, judges=Judges(), true_hole=True, workers=0)
    assert all(a is not None and a.shape == (2, 64, 64) and a.max() == 255 for a in painter.alphas)
    assert all("map_iou" not in row and "gate" not in row and row["treated"] == 1 for row in done.systems[0].rows)
    found = measure({"p": painter}, draw, size=64, judges=Judges(), workers=0)
    assert painter.alphas[-1] is None and found.digest == done.digest
    assert found.systems[0].rows[0]["map_recall"] > 0.7


def test_groups_hold_each_picture_once(data: Path) -> None:
    done = measure({"idle": Idle()}, choose(data, "test", 6, 5), size=64 * 4, judges=Judges(), workers=0)
    groups = done.groups()
    for kind in ("family", "source"):
        parts = [i for name, picks in groups.items() if name.startswith(kind) for i in picks]
        assert sorted(parts) == groups["all"] == list(range(6))
    summary = done.summary(done.systems[0])
    assert sum(v["hole_psnr"].count for n, v in summary.items() if n.startswith("source")) == 6
    ages = [name for name in groups if name.startswith("age ")]
    assert ages == ["age 20 to 59", "age 60 and more"], "by age, where the set tells it"
    assert sum(len(groups[name]) for name in ages) == len(groups["sex female"]) == 3
    assert "By age" in tables.markdown(record_of(done, {}, []), "title")


class Brightness(identity.FaceDescriptor):
    """A descriptor of 128 numbers: the chip's mean, and noise of its own."""

    def __init__(self) -> None:
        torch.nn.Module.__init__(self)

    def describe(self, chips: np.ndarray) -> np.ndarray:
        return np.repeat(chips.reshape(len(chips), -1).mean(1, keepdims=True).astype(float), 128, axis=1)


def test_identity_is_judged_by_chips_of_output_and_truth(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "MIN_FRECHET", 4)
    judges = Judges(descriptor=Brightness())
    done = measure({"idle": Idle()}, choose(data, "test", 6, 5), size=128, judges=judges, workers=0)
    model, masked = done.systems[:2]
    assert [r["identity"] for r in model.rows] == pytest.approx([r["identity"] for r in masked.rows], abs=12)
    assert all(r["identity_same"] == float(r["identity"] < 0.6) for r in model.rows)
    assert "frechet" in done.summary(model)["all"] and "frechet" not in done.summary(model)["family surgical"]
    strangers = done.strangers()
    assert strangers is not None and strangers > 0
    monkeypatch.setattr(identity, "MIN_FRECHET", 7)
    assert "frechet" not in done.summary(model)["all"]


# ---- evaluate


def test_an_evaluation_leaves_its_files(data: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = models / "out"
    assert call(evaluate, models / "small.onnx", "--data", data, "--count", 4, "-o", out, *PLAIN) == 0
    assert sorted(p.name for p in out.iterdir()) == [
        "best.jpg", "evaluation.json", "evaluation.md", "sheet.jpg", "worst.jpg",
    ]  # fmt: skip
    printed, text = capsys.readouterr().out, (out / "evaluation.md").read_text()
    assert text in printed and all(name in text for name in ("small", *BASELINES))
    assert "--no-identity" in text and "4 faces of the split `test`" in text
    stored = record.read(out / "evaluation.json")
    assert [r.name for r in stored.results] == ["small", *BASELINES]
    psnr = stored.models[0].groups["all"]["hole_psnr"]
    assert f"{psnr.value:.2f} ±" in text and psnr.count == 4
    assert np.asarray(cv2.imread(str(out / "sheet.jpg"))).shape == (22 + 2 * 67, 2 * (4 * 67 + 3), 3)
    again = models / "again"
    call(evaluate, models / "small.onnx", "--data", data, "--count", 4, "-o", again, *PLAIN)
    assert (again / "evaluation.json").read_text() == (out / "evaluation.json").read_text()
    assert (again / "worst.jpg").read_bytes() == (out / "worst.jpg").read_bytes()


def test_a_run_keeps_its_evaluation_and_says_that_it_has_no_map(data: Path, models: Path) -> None:
    assert call(evaluate, models / "run", "--data", data, "--count", 2, *PLAIN) == 0
    stored = record.read(models / "run" / "evaluation" / "evaluation.json")
    assert any("no map of its own" in note for note in stored.notes)


def test_without_a_folder_a_model_is_measured_at_its_own_size(
    data: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(models.iterdir())
    assert call(evaluate, models / "small.onnx", "--data", data, "--count", 2, *PLAIN) == 0
    assert "measured at 64 px" in capsys.readouterr().out and sorted(models.iterdir()) == before


def test_worst_and_best_are_sorted(data: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages: dict[str, list[str]] = {}
    original = sheets.sheet

    def watched(rows: list[tuple[str, list[np.ndarray]]], columns: object, **options: int) -> np.ndarray:
        pages[str(len(pages))] = [label for label, _ in rows]
        return original(rows, columns, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sheets, "sheet", watched)
    call(evaluate, models / "small.onnx", "--data", data, "-o", models / "out", *PLAIN)
    first, worst, best = ([float(label.split()[1]) for label in pages[i]] for i in "012")
    assert worst == sorted(first) and best == sorted(first, reverse=True) and len(first) == 6


def test_a_missing_descriptor_is_said_and_left_out(
    data: Path, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(self: Published, folder: Path | None) -> tuple[bytes, bytes]:
        raise ModelError("The face descriptor could not be fetched: offline", "Connect.")

    monkeypatch.setattr(Published, "load", missing)
    words = (models / "idle.onnx", "--data", data, "--count", 1, "--features", "none", "--workers", 0)
    assert call(evaluate, *words) == 0
    assert "left out: The face descriptor could not be fetched: offline" in capsys.readouterr().out
    with pytest.raises(ModelError):
        call(evaluate, *words, "--descriptor", models)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--workers", "-1"), "--workers -1"),
        (("--size", "8"), "--size 8"),
        (("--families", "beard"), "beard"),
    ],
)
def test_what_makes_no_sense_is_refused(data: Path, models: Path, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call(evaluate, models / "idle.onnx", "--data", data, *words)


def test_a_model_that_is_not_there_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"no run or model .*gone\.onnx"):
        call(evaluate, tmp_path / "gone.onnx", "--data", data)


def test_each_protocol_has_its_row(data: Path, models: Path) -> None:
    out = models / "out"
    words = ("--data", data, "--count", 2, "-o", out, "--protocol", "--true-hole", *PLAIN)
    assert call(evaluate, models / "painter.onnx", *words) == 0
    rows = json.loads((out / "evaluation.json").read_text())["protocol"]
    assert [(r["title"], r["hole"]) for r in rows] == [
        (p.title, hole) for p in protocols.PROTOCOLS for hole in ("hole found", "true hole")
    ]
    text = (out / "evaluation.md").read_text()
    for row in rows:
        assert row["count"] == 2 and row["differs"] in text and {"whole_psnr", "ssim"} <= set(row["ours"])
        assert ("map_iou" in row["ours"]) == (row["hole"] == "hole found")
    assert "35.64 / 0.9611 / 0.4351" in text and "not comparable" in text
    assert [r["size"] for r in rows] == [256, 256, 256, 256, 128, 128]


# ---- compare


def estimates(value: float, half: float) -> dict[str, Estimate]:
    return {"hole_psnr": Estimate(value, value - half, value + half, 9), "l1": Estimate(1, 0.5, 1.5, 9)}


def record_with(*values: tuple[str, float, float], digest: str = "d", size: int = 128) -> Record:
    results = [Result(name, "model", 128, {"all": estimates(value, half)}) for name, value, half in values]
    results.append(Result("masked input", "baseline", size, {"all": estimates(99, 0.1)}))
    settings = {
        "data": "x", "split": "test", "count": 9, "seed": 5, "families": {"cup": 1.0}, "size": size,
        "pictures_sha256": digest, "true_hole": False, "features": "none",
    }  # fmt: skip
    return Record(settings, results)


def test_a_winner_beats_everybody_and_baselines_do_not_count() -> None:
    clear = record_with(("a", 20, 0.3), ("b", 21, 0.3), ("c", 19, 0.3))
    assert compare.winner(clear.models, "hole_psnr") == "b" and compare.winner(clear.models, "l1") is None
    assert compare.winner(record_with(("a", 20.6, 0.3), ("b", 21, 0.3)).models, "hole_psnr") is None
    text = compare.markdown(clear)
    assert "**21.00 ± 0.30**" in text and text.count("**2") == 1
    assert "| hole PSNR, dB | -1.00 loses | +1.00 wins |" in text and "+0.00 open" in text


def test_models_of_two_sizes_are_compared_at_the_smaller(
    data: Path, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = models / "out"
    words = (models / "painter.onnx", models / "small.onnx", "--data", data, "--count", 3, "-o", out, *PLAIN)
    assert call(compare, *words) == 0
    assert sorted(p.name for p in out.iterdir()) == ["compare.json", "compare.md", "sheet.jpg"]
    text = capsys.readouterr().out
    assert "measured at 64 px" in text and "| painter | 256 px |" in text and "| small | 64 px |" in text
    assert np.asarray(cv2.imread(str(out / "sheet.jpg"))).shape == (22 + 3 * 67, 4 * 67 + 3, 3)
    stored = record.read(out / "compare.json")
    assert [m.name for m in stored.models] == ["painter", "small"]


def test_evaluations_are_joined_with_what_is_measured_now(data: Path, models: Path) -> None:
    words = ("--data", data, "--count", 2, "--size", 64, *PLAIN)
    call(evaluate, models / "run", *words)
    stored = models / "run" / "evaluation" / "evaluation.json"
    call(evaluate, models / "painter.onnx", *words, "-o", models / "p")
    out = models / "out"
    assert call(compare, stored, models / "painter.onnx", f"again={models / 'p' / 'evaluation.json'}",
                *words, "-o", out) == 0  # fmt: skip
    joined = record.read(out / "compare.json")
    run, painter, again = joined.models
    assert (run.name, painter.name, again.name) == ("run", "painter", "again") and painter.groups == again.groups
    assert [r.name for r in joined.results[3:]] == list(BASELINES)
    assert call(compare, stored, models / "p" / "evaluation.json") == 0  # nothing to measure: no data needed


@pytest.mark.parametrize("change", [{"digest": "other"}, {"size": 256}])
def test_evaluations_of_other_pictures_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    record_with(("x", 1, 1)).write(tmp_path / "a.json")
    record_with(("x", 1, 1), **change).write(tmp_path / "b.json")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="not measured alike"):
        call(compare, f"a={tmp_path / 'a.json'}", f"b={tmp_path / 'b.json'}")


def test_what_cannot_be_compared_is_refused(data: Path, models: Path) -> None:
    record_with(("x", 1, 1), ("y", 1, 1)).write(models / "two.json")
    record_with(("x", 1, 1)).write(models / "one.json")
    (models / "none.json").write_text('{"format": "something else"}')
    cases: list[tuple[tuple[object, ...], str]] = [
        ((models / "idle.onnx",), "one model alone"),
        ((models / "idle.onnx", models / "idle.onnx"), "two models are called idle"),
        ((models / "idle.onnx", models / "painter.onnx"), "nothing to measure on"),
        ((f"a={models / 'two.json'}", f"b={models / 'one.json'}"), "a holds 2 models"),
        ((f"a={models / 'none.json'}", f"b={models / 'one.json'}"), "is no evaluation"),
        ((f"a={models / 'gone.json'}", f"b={models / 'one.json'}"), "is no evaluation"),
    ]
    for words, message in cases:
        with pytest.raises(UsageError, match=message):
            call(compare, *words)


# ---- sheets


def test_a_sheet_puts_faces_side_by_side_and_leaves_the_rest_black() -> None:
    tile: Callable[[int], np.ndarray] = lambda level: np.full((40, 40, 3), level, np.uint8)  # noqa: E731
    page = sheets.sheet([("", [tile(50), tile(100)])] * 3, ("a", "b"), side=20)
    cell, top = 20 + sheets.GAP, sheets.HEADER
    assert page.shape == (top + 2 * cell, 2 * (2 * cell + sheets.GAP), 3)
    assert (page[top + 1, 5] == 50).all() and (page[top + 1, cell + 5] == 100).all()
    assert not page[top + cell :, 2 * cell + sheets.GAP :].any()
    with pytest.raises(ValueError, match="one face"):
        sheets.sheet([], ("a",), side=20)
    with pytest.raises(ValueError, match="1 pictures in a row of 2"):
        sheets.sheet([("", [tile(1)])], ("a", "b"), side=20)


@pytest.mark.parametrize("option", ["--profiles", "--in-front"])
@pytest.mark.parametrize("other", [["--protocol"], ["--frames", "faces.tar"]])
def test_what_changes_crops_is_not_claimed_of_whole_pictures(
    option: str, other: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["evaluate", "default", "--data", "nowhere", option, *other]) == 2
    assert "a call of their own" in capsys.readouterr().err
