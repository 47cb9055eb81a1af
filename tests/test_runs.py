"""Runs as restorers, and their export: the tool's engine computes what torch does."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from engines import open_engine
from tests.training_media import tiny_preset, write_set
from trainer import checkpoint, cli, losses
from trainer.checkpoint import Checkpoint
from trainer.loop import Settings, train
from trainer.processes import Place
from trainer.runs import CHANGED, at_side, open_restorer
from trainer.schedule import Budget
from unmask_rt import align
from unmask_rt.errors import MissingError, ModelError, UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
DEFAULT = Path("default")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a step or two: pix2pix and dual-patch of 64 px, realtime with all its stages, and its map alone."""
    folder = tmp_path_factory.mktemp("runs")
    data = write_set(folder / "data")
    backbone = losses.BACKBONES["efficientnet-lite0"]
    losses.BACKBONES["efficientnet-lite0"] = lambda: ([torch.nn.Conv2d(3, 4, 3, 2)], (0,))
    for name, preset, stages, steps in (
        ("pix2pix", "pix2pix", (), 2), ("dual-patch", "dual-patch", (), 2), ("realtime", "realtime", (), 4),
        ("map", "realtime", ("map",), 1), ("inner", "realtime", ("inner",), 1),
    ):  # fmt: skip
        settings, place = Settings(stages=stages, workers=0, tensorboard=False), Place(0, 1, torch.device("cpu"))
        train(tiny_preset(preset, 64), data, folder / name, Budget("steps", steps), settings, place)
    losses.BACKBONES["efficientnet-lite0"] = backbone
    return folder


def crops(side: int, count: int = 2) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)


# ---- restorers


def test_a_run_restores_crops_and_shows_where(runs: Path) -> None:
    restore = open_restorer(runs / "pix2pix")
    assert (restore.name, restore.size, restore.has_map) == ("pix2pix", 64, False)
    faces, maps = restore(crops(64, 11))  # more than go through at once
    assert faces.shape == (11, 64, 64, 3) and maps.shape == (11, 64, 64) and faces.dtype == maps.dtype == np.uint8
    moved = np.abs(faces.astype(int) - crops(64, 11)).mean(3)
    assert ((maps == 255) == (moved > CHANGED)).all() and set(np.unique(maps)) == {0, 255}
    one = restore(crops(64, 11)[4:5])[0][0]
    assert np.abs(one.astype(int) - faces[4]).max() <= 1  # nothing depends on its neighbours
    assert len(restore(crops(64, 0))[0]) == 0


def test_a_map_can_be_found_given_or_borrowed(runs: Path) -> None:
    own = open_restorer(runs / "realtime")
    assert own.has_map and own.size == 256
    given = np.zeros((1, 256, 256), np.uint8)
    given[:, 150:220, 60:200] = 255
    filled, same = own(crops(256, 1), given)
    assert (same == given).all() and (filled[0, :120] == crops(256, 1)[0, :120]).all()
    assert (filled[0, 160:210, 70:190] != crops(256, 1)[0, 160:210, 70:190]).any()
    borrowed = open_restorer(runs / "inner", map_from=runs / "map")
    assert borrowed.has_map and borrowed.size == 128 and borrowed(crops(128))[1].shape == (2, 128, 128)
    found = open_restorer(runs / "map")(at_side(torch.tensor(crops(128)), 256).numpy())[1]
    assert (borrowed(crops(128))[1] == at_side(torch.tensor(found)[..., None], 128)[..., 0].numpy()).all()


def test_runs_are_mixed_by_their_weights(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = checkpoint.load(runs / "pix2pix")
    moved = {k: v + 0.5 if v.is_floating_point() else v + 3 for k, v in one.average["generator"].items()}
    (tmp_path / "far").mkdir()
    checkpoint.save(tmp_path / "far", Checkpoint(one.preset, one.meta, average={"generator": moved}))
    words = ["mix", str(runs / "pix2pix"), str(tmp_path / "far"), "-o"]
    assert cli.main([*words, str(tmp_path / "between"), "--share", "0.4"]) == 0
    assert "0.4 of far in pix2pix" in capsys.readouterr().out
    between = checkpoint.load(tmp_path / "between")
    for key, value in between.average["generator"].items():
        first = one.average["generator"][key]
        assert torch.allclose(value, first + 0.2) if value.is_floating_point() else torch.equal(value, first)
    assert open_restorer(tmp_path / "between")(crops(64))[0].shape == (2, 64, 64, 3)
    for share, name in ((0.0, "first"), (1.0, "second")):
        assert cli.main([*words, str(tmp_path / name), "--share", str(share)]) == 0
    same = open_restorer(tmp_path / "first")(crops(64))[0]
    assert (same == open_restorer(runs / "pix2pix")(crops(64))[0]).all()


def test_weights_of_half_precision_are_mixed_with_others(runs: Path, tmp_path: Path) -> None:
    one = checkpoint.load(runs / "pix2pix")
    halves = {k: v.half() if v.is_floating_point() else v for k, v in one.average["generator"].items()}
    (tmp_path / "small").mkdir()
    checkpoint.save(tmp_path / "small", Checkpoint(one.preset, one.meta, average={"generator": halves}))
    pair = [str(runs / "pix2pix"), str(tmp_path / "small")]
    for name, (first, second) in {"from": pair, "to": pair[::-1]}.items():
        assert cli.main(["mix", first, second, "-o", str(tmp_path / name), "--share", "0.5"]) == 0
        for key, value in checkpoint.load(tmp_path / name).average["generator"].items():
            wanted = one.average["generator"][key]
            assert value.dtype == wanted.dtype and torch.allclose(value, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("second", "share", "out", "code", "message"),
    [
        ("map", "0.5", "new", 2, "different networks"),
        ("pix2pix", "1.5", "new", 2, "--share 1.5"),
        ("pix2pix", "nan", "new", 2, "--share nan"),
        ("pix2pix", "0.5", "pix2pix", 2, "holds a run already"),
        ("nothing", "0.5", "new", 3, "holds no run"),
    ],
)
def test_what_cannot_be_mixed_is_refused(
    runs: Path, second: str, share: str, out: str, code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (runs / "pix2pix" / checkpoint.NAME).read_bytes()
    words = ["mix", str(runs / "pix2pix"), str(runs / second), "--share", share, "-o", str(runs / out)]
    assert cli.main(words) == code
    assert message in capsys.readouterr().err
    assert not (runs / "new").exists() and (runs / "pix2pix" / checkpoint.NAME).read_bytes() == before


def test_what_needs_a_map_says_so(runs: Path) -> None:
    with pytest.raises(UsageError, match="--map"):
        open_restorer(runs / "dual-patch")(crops(64))
    with pytest.raises(UsageError, match="--map"):
        open_restorer(runs / "inner")(crops(128))
    assert open_restorer(runs / "dual-patch")(crops(64), np.zeros((2, 64, 64), np.uint8))[0].any()
    with pytest.raises(UsageError, match="finds its holes itself"):
        open_restorer(DEFAULT)(crops(256), np.zeros((2, 256, 256), np.uint8))


def test_what_is_no_run_and_no_model_is_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingError, match="no run or model"):
        open_restorer(tmp_path / "nothing")
    with pytest.raises(MissingError, match="holds no run"):
        open_restorer(tmp_path)
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError):
        open_restorer(tmp_path / "text.onnx")
    stored = checkpoint.load(runs / "pix2pix")
    checkpoint.save(tmp_path, Checkpoint(stored.preset, stored.meta))
    with pytest.raises(ModelError, match="generator"):
        open_restorer(tmp_path)


def test_pictures_change_their_side_by_means_or_between() -> None:
    picture = torch.tensor(crops(64, 1))
    half = at_side(picture, 32)
    blocks = picture[0].reshape(32, 2, 32, 2, 3).float().mean((1, 3))
    assert (half[0].float() - blocks).abs().max() <= 0.5 and half.dtype == torch.uint8
    assert at_side(half, 64).shape == picture.shape and at_side(picture, 64) is picture


# ---- export


def command(*words: Any) -> int:
    return cli.main(["export", *map(str, words)])


@pytest.mark.parametrize(
    ("name", "source"),
    [("realtime", None), ("pix2pix", "default"), ("pix2pix", "map"), ("dual-patch", "map"), ("inner", "map"),
     ("realtime", "map")],
)  # fmt: skip
def test_an_exported_run_computes_what_torch_does(
    runs: Path, tmp_path: Path, name: str, source: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "model.onnx"
    place = None if source is None else DEFAULT if source == "default" else runs / source
    assert command(runs / name, "-o", out, *([] if place is None else ["--map", place])) == 0
    assert "differs from torch by at most" in capsys.readouterr().out
    onnx.checker.check_model(onnx.load(out), full_check=True)
    reference, exported = open_restorer(runs / name, map_from=place), open_restorer(out)
    pictures = np.concatenate([crops(reference.size, 2), np.full((1, reference.size, reference.size, 3), 90, np.uint8)])
    for own, other in zip(reference(pictures), exported(pictures), strict=True):
        assert np.abs(own.astype(int) - other).max() <= 2 and own.std() > 0
    engine = open_engine("auto", out.read_bytes())
    assert engine.spec.crop_size == reference.size and engine.spec.name == name and name in engine.spec.trained
    assert np.allclose(engine.spec.template, align.TEMPLATE, atol=1e-5)


def test_a_bundled_export_is_the_default_model_beside_it(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine-256.onnx"
    assert command(runs / "pix2pix", "--map", "default", "-o", out, "--name", "mine", "--bundle") == 0
    (name, record), *others = json.loads((tmp_path / "models.json").read_text()).items()
    assert (name, record["file"], others) == ("mine", "mine-256.onnx", [])
    assert record["sha256"] == hashlib.sha256(out.read_bytes()).hexdigest()


def test_exports_that_cannot_be_are_refused(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "model.onnx"
    for words, code, text in (
        ((runs / "pix2pix",), 2, "--map default"), ((runs / "map",), 2, "only finds masks"),
        ((runs / "pix2pix", "--map", runs / "pix2pix"), 2, "no map module either"),
        ((runs / "pix2pix", "--map", tmp_path / "gone"), 3, "gone"), ((tmp_path,), 3, "holds no run"),
    ):  # fmt: skip
        assert command(*words, "-o", out) == code
        assert text in capsys.readouterr().err
    assert not out.exists()


def test_the_command_line_names_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2 and "compare" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        cli.main(["dance"])
    assert left.value.code == 2 and "dance" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        cli.main(["run", "--help"])
    assert left.value.code == 0 and "--resume" in capsys.readouterr().out
