"""The training loop: stops and goes on anywhere, in several processes, and says what it does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn

from tests.training_media import raw_preset, tiny_file, tiny_preset, write_set
from trainer import checkpoint, cli, losses, resident
from trainer import preset as presets
from trainer.checkpoint import Checkpoint
from trainer.loop import Settings, train
from trainer.preset import Preset
from trainer.processes import Place, joined, pick_device
from trainer.runs import LoadedRun, RunRestorer
from trainer.schedule import Budget
from trainer.systems.base import average_gradients
from trainer.systems.pix2pix import Pix2Pix
from trainer.tfjs import Published
from trainer.work import StageWork, seed_all
from unmask_rt.errors import ExtraError, MissingError, ModelError, SinkError, UnmaskError, UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
ALONE = Place(0, 1, torch.device("cpu"))
QUIET: dict[str, Any] = {"workers": 0, "tensorboard": False, "save_minutes": 0.0, "log_steps": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "data")


pytestmark = pytest.mark.usefixtures("quick_features")


def go(
    preset: Preset, data: Path, run: Path, steps: float, *, resume: bool = False, start: Path | None = None, **kw: Any
) -> bool:
    settings = Settings(**(QUIET | kw))
    return train(preset, data, run, Budget("steps", steps), settings, ALONE, resume=resume, start=start)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def differing(one: Any, other: Any, where: str = "") -> list[str]:
    """Places at which two checkpoints are not bit for bit the same."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict):
        assert set(one) == set(other), where
        return [place for key in one for place in differing(one[key], other[key], f"{where}/{key}")]
    if isinstance(one, list | tuple):
        return [p for i, (a, b) in enumerate(zip(one, other, strict=True)) for p in differing(a, b, f"{where}/{i}")]
    return [] if one == other else [where]


def content(run: Path) -> dict[str, Any]:
    stored = checkpoint.load(run)
    meta = {k: v for k, v in stored.meta.items() if k != "seconds"}
    return {"meta": meta, "n": stored.networks, "a": stored.average, "o": stored.optimizers, "c": stored.carried}


# ---- resuming


@pytest.mark.parametrize(("name", "workers"), [("pix2pix", 1), ("dual-patch", 0)])
def test_2n_steps_are_n_and_a_resumption_and_n_bit_for_bit(data: Path, tmp_path: Path, name: str, workers: int) -> None:
    preset = tiny_preset(name, ema=0.9, clip=5.0)  # dropout, a moving average and clipping all take part
    assert go(preset, data, tmp_path / "whole", 6, workers=workers)
    assert not go(preset, data, tmp_path / "parts", 6, pause_steps=3, workers=workers)
    half = checkpoint.load(tmp_path / "parts")
    assert half.meta["step"] == 3 and not half.meta["done"]
    torch.rand(5)  # whatever else was drawn in between
    assert go(preset, data, tmp_path / "parts", 6, resume=True)
    whole, parts = content(tmp_path / "whole"), content(tmp_path / "parts")
    assert whole["meta"]["step"] == 6 and whole["meta"]["done"] and differing(whole, parts) == []
    assert differing(whole["n"], half.networks) != []
    assert steps_of(tmp_path / "parts") == steps_of(tmp_path / "whole")


def steps_of(run: Path) -> list[dict[str, Any]]:
    """The log's lines of steps, without what the clock says."""
    clock = ("images_per_s", "waiting")
    return [{k: v for k, v in x.items() if k not in clock} for x in lines(run) if "validation_l1" not in x]


def test_a_preset_of_several_stages_stops_and_goes_on_in_each_of_them(data: Path, tmp_path: Path) -> None:
    preset, steps = tiny_preset("realtime"), 10  # 5 + 2 + 3
    assert go(preset, data, tmp_path / "whole", steps, log_steps=100)
    calls = 1
    while not go(preset, data, tmp_path / "parts", steps, resume=True, pause_steps=4, log_steps=100):
        calls += 1
    assert calls == 3
    whole = content(tmp_path / "whole")
    assert differing(whole, content(tmp_path / "parts")) == []
    assert whole["meta"]["stage"] == "outer" and whole["meta"]["seen"] == 20 and "map" in whole["c"]
    assert [line["stage"] for line in steps_of(tmp_path / "whole")] == ["map", "inner", "outer"]


def test_samples_made_where_the_networks_are_come_again_too(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "TURNED_HEADS", 3)
    preset = tiny_preset("realtime")
    how: dict[str, Any] = {"stages": ("inner",), "resident": True}
    assert go(preset, data, tmp_path / "whole", 4, **how)
    assert not go(preset, data, tmp_path / "parts", 4, pause_steps=2, **how)
    assert go(preset, data, tmp_path / "parts", 4, resume=True, **how)
    assert differing(content(tmp_path / "whole"), content(tmp_path / "parts")) == []
    assert steps_of(tmp_path / "parts") == steps_of(tmp_path / "whole")


def test_lines_of_lost_steps_are_dropped_from_the_log(data: Path, tmp_path: Path) -> None:
    preset = tiny_preset("pix2pix")
    go(preset, data, tmp_path / "r", 4, pause_steps=2)
    with (tmp_path / "r" / "log.jsonl").open("a") as log:
        log.write(json.dumps({"stage": "pix2pix", "step": 3, "seen": 3, "loss": -1}) + "\n" + '{"stage": "pi')
    go(preset, data, tmp_path / "r", 4, resume=True)
    assert all(line.get("loss", 0) >= 0 for line in lines(tmp_path / "r"))
    assert [line["step"] for line in lines(tmp_path / "r") if "loss" in line] == [1, 2, 3, 4]


def test_a_run_keeps_the_preset_that_it_was_begun_with(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["run", "--data", str(data), "--run", str(tmp_path / "r"), "--no-tensorboard", "--workers", "0"]
    file, other = (str(tiny_file(tmp_path / f"{name}.toml", "pix2pix")) for name in ("tiny", "other"))

    def rate() -> float:
        return float(checkpoint.load(tmp_path / "r").preset["stage"][0]["learning_rate"])

    rates = "stage.pix2pix.learning_rate={}"
    assert (
        cli.main([*command, "--preset", file, "--steps", "4", "--pause-steps", "1", "--set", rates.format(3e-5)]) == 0
    )
    assert cli.main([*command, "--preset", file, "--resume", "--pause-steps", "1"]) == 0 and rate() == 3e-5
    assert cli.main([*command, "--preset", other, "--resume"]) == 2
    assert "begun with the preset tiny" in capsys.readouterr().err
    assert cli.main([*command, "--resume", "--pause-steps", "1", "--set", rates.format(5e-5)]) == 0 and rate() == 5e-5
    with_betas = [*command, "--resume", "--pause-steps", "1", "--set", "stage.pix2pix.betas=[0.6, 0.9]"]
    assert cli.main(with_betas) == 0
    (group,) = checkpoint.load(tmp_path / "r").optimizers["generator"]["param_groups"]
    assert tuple(group["betas"]) == (0.6, 0.9)
    assert cli.main([*command, "--resume", "--real", str(tmp_path / "nowhere")]) == 3
    assert "holds no pseudo labels" in capsys.readouterr().err


def test_a_run_goes_on_in_the_precision_that_it_was_begun_in(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used, step = [], Pix2Pix.step
    monkeypatch.setattr(Pix2Pix, "step", lambda self, *given: used.append(self.amp) or step(self, *given))
    command = ["run", "--data", str(data), "--run", str(tmp_path / "r"), "--no-tensorboard", "--workers", "0"]
    file = str(tiny_file(tmp_path / "tiny.toml", "pix2pix"))
    assert cli.main([*command, "--preset", file, "--amp", "on", "--steps", "4", "--pause-steps", "1"]) == 0
    assert cli.main([*command, "--resume", "--pause-steps", "1"]) == 0
    assert cli.main([*command, "--resume", "--amp", "off", "--pause-steps", "1"]) == 0
    assert used == [True, True, False]


def test_ctrl_c_leaves_a_checkpoint_and_the_command_says_130(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, before = Pix2Pix.step, signal.getsignal(signal.SIGINT)

    def pressed(self: Pix2Pix, *given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return step(self, *given)

    monkeypatch.setattr(Pix2Pix, "step", pressed)
    command = ["run", "--data", str(data), "--run", str(tmp_path / "r"), "--no-tensorboard", "--workers", "0"]
    file = str(tiny_file(tmp_path / "tiny.toml", "pix2pix"))
    assert cli.main([*command, "--preset", file, "--steps", "3"]) == 130
    assert signal.getsignal(signal.SIGINT) is before
    assert checkpoint.load(tmp_path / "r").meta["step"] == 1 and "--resume" in capsys.readouterr().out
    monkeypatch.setattr(Pix2Pix, "step", step)
    assert cli.main([*command, "--resume"]) == 0  # its preset and its length are its own
    assert checkpoint.load(tmp_path / "r").meta["step"] == 3
    assert cli.main([*command, "--preset", file, "--steps", "3"]) == 2 and "--resume" in capsys.readouterr().err
    assert cli.main([*command[:4], str(tmp_path / "new"), "--resume"]) == 2
    monkeypatch.setattr(Pix2Pix, "step", pressed)  # one that would have paused later is interrupted all the same
    paused = [*command[:4], str(tmp_path / "p"), *command[5:], "--preset", file, "--steps", "9", "--pause-steps", "5"]
    capsys.readouterr()
    assert cli.main(paused) == 130 and f"--data {data}" in capsys.readouterr().out


def test_a_run_of_one_stage_goes_on_with_that_stage(data: Path, tmp_path: Path) -> None:
    file = str(tiny_file(tmp_path / "tiny.toml", "realtime"))
    command = ["run", "--data", str(data), "--run", str(tmp_path / "r"), "--no-tensorboard", "--workers", "0"]
    first = ["--preset", file, "--stage", "map", "--steps", "2", "--pause-steps", "1"]
    assert cli.main([*command, *first]) == 0
    assert cli.main([*command, "--resume"]) == 0
    stored = checkpoint.load(tmp_path / "r")
    assert stored.meta["stage"] == "map" and stored.meta["step"] == 2 and set(stored.networks) == {"map"}


def test_dual_patch_goes_on_by_itself(data: Path, tmp_path: Path) -> None:
    file = str(tiny_file(tmp_path / "tiny.toml", "dual-patch"))
    command = ["run", "--data", str(data), "--run", str(tmp_path / "r"), "--no-tensorboard", "--workers", "0"]
    command += ["--preset", file, "--steps", "2", "--pause-steps", "1"]
    assert cli.main(command) == 0 and checkpoint.load(tmp_path / "r").meta["step"] == 1
    assert cli.main(command) == 0 and checkpoint.load(tmp_path / "r").meta["step"] == 2


# ---- what a run leaves behind


def test_a_run_leaves_its_log_its_sheet_and_its_preset(data: Path, tmp_path: Path) -> None:
    run, preset = tmp_path / "r", tiny_preset("dual-patch")
    go(preset, data, run, 4, log_steps=2, save_steps=3, tensorboard=True)
    steps, notes = ([line for line in lines(run) if ("loss" in line) == own] for own in (True, False))
    assert [line["step"] for line in steps] == [2, 4] and [line["step"] for line in notes] == [3, 4]
    assert all(
        line["images_per_s"] > 0 and 0 <= line["waiting"] <= 1 and line["seen"] == 2 * line["step"] for line in steps
    )
    assert all(line["validation_l1_hole"] > 0 for line in notes)
    assert steps[-1]["progress"] == 1 and steps[-1]["rate_generator"] == 1e-4
    sheet = cv2.imread(str(run / "sheet.jpg"))  # masked | map | face | truth, of two faces
    assert sheet is not None and sheet.shape == (2 * 32, 4 * 32, 3) and sheet.std() > 10
    assert list((run / "tensorboard").iterdir()) and not list(run.glob("*.partial"))
    assert (run / "preset.toml").read_text() and checkpoint.load(run).preset == preset.raw


def test_an_epoch_may_be_the_interval_of_checkpoints(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[int] = []
    monkeypatch.setattr(StageWork, "save", lambda self: saved.append(self.step))
    go(tiny_preset("dual-patch"), data, tmp_path / "r", 10, log_steps=100)  # 6 faces in batches of 2: 3 steps an epoch
    assert saved == [3, 6, 9, 10]


def test_the_average_follows_the_network(data: Path, tmp_path: Path) -> None:
    go(tiny_preset("pix2pix", ema=0.0), data, tmp_path / "none", 2)
    stored = checkpoint.load(tmp_path / "none")
    assert differing(stored.networks["generator"], stored.average["generator"]) == []
    go(tiny_preset("pix2pix", ema=0.9), data, tmp_path / "some", 2)
    stored = checkpoint.load(tmp_path / "some")
    assert differing(stored.networks["generator"], stored.average["generator"]) != [] and len(stored.average) == 1


def test_a_run_can_begin_with_the_weights_of_another_and_sees_what_comes_next(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go(tiny_preset("pix2pix", ema=0.9), data, tmp_path / "a", 3)
    first = checkpoint.load(tmp_path / "a")
    begun: dict[str, Any] = {}

    def look(self: Pix2Pix, *given: Any) -> Any:
        begun.update({k: v.clone() for k, v in self.networks["generator"].state_dict().items()})
        return {"loss": 0.0}

    monkeypatch.setattr(Pix2Pix, "step", look)
    go(tiny_preset("pix2pix"), data, tmp_path / "b", 1, start=tmp_path / "a")
    assert differing(begun, dict(first.average["generator"])) == []
    assert checkpoint.load(tmp_path / "b").meta["seen"] == 4
    with pytest.raises(UsageError, match="do not fit"):
        go(tiny_preset("pix2pix", width=8), data, tmp_path / "c", 1, start=tmp_path / "a")


def test_a_run_begins_with_an_exported_model_and_its_critics_learn_first(data: Path, tmp_path: Path) -> None:
    chosen = tiny_preset("realtime")
    go(chosen, data, tmp_path / "map", 1, stages=("map",))
    go(chosen, data, tmp_path / "a", 1, stages=("outer",), start=tmp_path / "map")
    model = tmp_path / "a.onnx"
    assert cli.main(["export", str(tmp_path / "a"), "-o", str(model)]) == 0
    settings = {"critics_first": 2.0, "gan_from": 0.0}
    go(tiny_preset("realtime", **settings), data, tmp_path / "b", 2, stages=("outer",), start=model)
    begun, now = checkpoint.load(tmp_path / "a"), checkpoint.load(tmp_path / "b")
    assert now.meta["seen"] == 4 and set(now.carried) == {"map", "generator"}
    crops = np.stack([np.load(data / "crops.npy")[0]])
    same = [RunRestorer(LoadedRun(tmp_path / name), ALONE.device)(crops) for name in ("a", "b")]
    for found, wanted in zip(*same, strict=True):
        assert np.abs(found.astype(int) - wanted).max() <= 2, "only the discriminators have learnt"
    assert differing(begun.networks["discriminator"], now.networks["discriminator"])
    assert "critic" in lines(tmp_path / "b")[0] and "l1_hole" not in lines(tmp_path / "b")[0]
    go(tiny_preset("realtime", gan_from=0.0), data, tmp_path / "c", 1, stages=("outer",), start=model)
    assert differing(now.networks["generator"], checkpoint.load(tmp_path / "c").networks["generator"])
    with pytest.raises(MissingError, match="no run or model"):
        go(chosen, data, tmp_path / "d", 1, start=tmp_path / "nothing")


def test_one_stage_alone(data: Path, tmp_path: Path) -> None:
    go(tiny_preset("realtime"), data, tmp_path / "map", 2, stages=("map",))
    stored = checkpoint.load(tmp_path / "map")
    assert stored.meta["stage"] == "map" and stored.meta["step"] == 2 and set(stored.networks) == {"map"}
    go(tiny_preset("realtime"), data, tmp_path / "inner", 1, stages=("inner",), start=tmp_path / "map")
    assert "map" in checkpoint.load(tmp_path / "inner").carried
    with pytest.raises(UsageError, match="inner"):
        go(tiny_preset("realtime"), data, tmp_path / "x", 2, stages=("centre",))
    with pytest.raises(UsageError, match="stands at"):
        go(tiny_preset("realtime"), data, tmp_path / "map", 2, stages=("inner",), resume=True)


def test_minutes_follow_the_clock(data: Path, tmp_path: Path) -> None:
    settings = Settings(**QUIET)
    train(tiny_preset("pix2pix"), data, tmp_path / "r", Budget("minutes", 0.5 / 60), settings, ALONE)
    stored = checkpoint.load(tmp_path / "r")
    assert stored.meta["done"] and stored.meta["step"] >= 1 and 0.5 <= stored.meta["seconds"] < 30


# ---- what goes wrong


def test_what_cannot_be_fetched_is_said_before_anything_is_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = raw_preset("realtime")
    for stage in raw["stage"][1:]:
        stage["loss"]["face"] = 1.0

    def offline(self: Published, folder: Path | None = None) -> tuple[bytes, bytes]:
        raise ModelError("The face network could not be fetched: offline", self.instead)

    monkeypatch.setattr(Published, "load", offline)
    wanting = presets.check("realtime", raw)
    with pytest.raises(ModelError, match="offline"):
        go(wanting, data, tmp_path / "r", 10)
    assert not (tmp_path / "r" / "checkpoint.pt").exists()
    assert go(wanting, data, tmp_path / "map", 1, stages=("map",)), "the map module needs no such network"


def test_what_a_later_stage_lacks_is_said_before_anything_is_trained(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = raw_preset("realtime")
    wrong = presets.check("realtime", presets.overridden(raw, ["stage.outer.size=192"]))
    with pytest.raises(UsageError, match="no size 192"):
        go(wrong, data, tmp_path / "r", 10)
    with pytest.raises(UsageError, match="map module has no size 128"):
        go(presets.check("realtime", presets.overridden(raw, ["size=128"])), data, tmp_path / "r", 10)
    monkeypatch.setitem(losses.PACKAGES, "efficientnet-lite0", ("no_such_package",))
    for name in ("realtime", "dual-patch"):
        with pytest.raises(ModuleNotFoundError, match="no_such_package"):
            go(tiny_preset(name), data, tmp_path / "r", 10)
    assert not (tmp_path / "r" / "checkpoint.pt").exists()


def test_a_mixed_run_is_something_to_start_from_only(data: Path, tmp_path: Path) -> None:
    chosen = tiny_preset("pix2pix")
    go(chosen, data, tmp_path / "a", 1)
    go(chosen, data, tmp_path / "b", 1, start=tmp_path / "a")
    assert cli.main(["mix", str(tmp_path / "a"), str(tmp_path / "b"), "--share", "0.5", "-o", str(tmp_path / "m")]) == 0
    with pytest.raises(UsageError, match="weights alone") as caught:
        go(chosen, data, tmp_path / "m", 2, resume=True)
    assert "--start" in caught.value.hint


@pytest.mark.parametrize("where", ["figure", "weight"])
def test_a_training_that_diverges_stops_and_keeps_the_last_good_checkpoint(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    step = Pix2Pix.step

    def broken(self: Pix2Pix, *given: Any) -> Any:
        figures = step(self, *given)
        if where == "weight":
            with torch.no_grad():
                next(self.networks["generator"].parameters()).fill_(float("nan"))
            return figures
        return figures | {"loss": torch.tensor(float("nan"))}

    go(tiny_preset("pix2pix"), data, tmp_path / "r", 4, pause_steps=2)
    monkeypatch.setattr(Pix2Pix, "step", broken)
    with pytest.raises(UnmaskError, match="diverged"):
        go(tiny_preset("pix2pix"), data, tmp_path / "r", 4, resume=True, log_steps=1 if where == "figure" else 100)
    assert checkpoint.load(tmp_path / "r").meta["step"] == 2


def test_a_folder_that_holds_a_run_is_not_overwritten(data: Path, tmp_path: Path) -> None:
    go(tiny_preset("pix2pix"), data, tmp_path / "r", 1)
    with pytest.raises(UsageError, match="holds a run already"):
        go(tiny_preset("pix2pix"), data, tmp_path / "r", 1)
    with pytest.raises(UsageError, match="do not fit"):
        go(tiny_preset("pix2pix", width=8), data, tmp_path / "r", 1, resume=True)
    with pytest.raises(MissingError, match="prepare"):
        go(tiny_preset("pix2pix"), tmp_path / "nowhere", tmp_path / "x", 1)


def test_checkpoints_that_are_none_are_refused(tmp_path: Path) -> None:
    file = tmp_path / checkpoint.NAME
    with pytest.raises(MissingError, match="holds no run"):
        checkpoint.load(tmp_path)
    meta = dict.fromkeys(checkpoint.META, 0)
    checkpoint.save(tmp_path, Checkpoint({}, meta))
    assert checkpoint.load(tmp_path).meta == meta
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"no checkpoint at all"):
        file.write_bytes(damage)
        with pytest.raises(ModelError, match="damaged"):
            checkpoint.load(tmp_path)
    head = {"format": checkpoint.FORMAT, "version": checkpoint.VERSION}
    for stored, word in (
        ({"state_dict": {}}, "no checkpoint of"), ([1], "no checkpoint of"),
        ({"network": {}, "average": {}, "optimizer": {}, "meta": meta}, "no checkpoint of unmask-train"),
        (head | {"version": 99}, "version 99"), (head, "carried"),
        (head | {key: {} for key in Checkpoint.__dataclass_fields__}, "stage"),
    ):  # fmt: skip
        torch.save(stored, file)
        with pytest.raises(ModelError, match=word):
            checkpoint.load(tmp_path)
    torch.save({"format": os.system}, file)  # code is not run, not even named
    with pytest.raises(ModelError, match="damaged"):
        checkpoint.load(tmp_path)


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meta = dict.fromkeys(checkpoint.META, 0)
    checkpoint.save(tmp_path, Checkpoint({}, meta))

    def full(stored: Any, file: Any) -> None:
        file.write(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(SinkError, match="space"):
        checkpoint.save(tmp_path, Checkpoint({}, meta | {"step": 9}))
    assert checkpoint.load(tmp_path).meta == meta and [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]


def test_a_device_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ExtraError, match="GPU"):
        pick_device("cuda")
    with pytest.raises(UsageError, match="abacus"):
        pick_device("abacus")


def test_seeds_reach_every_generator() -> None:
    seed_all(1, 2, 3)
    one = torch.rand(2), np.random.rand(2)
    seed_all(1, 2, 3)
    assert torch.equal(one[0], torch.rand(2)) and (one[1] == np.random.rand(2)).all()
    seed_all(1, 2, 4)
    assert not torch.equal(one[0], torch.rand(2))


# ---- several processes


def in_process(rank: int, port: int, folder: str) -> None:
    """What each of two processes does: averages gradients, then trains."""
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": "2"}
    torch.set_num_threads(1)
    original = StageWork.save

    def save(self: StageWork) -> None:
        original(self)
        torch.save(self.system.networks["generator"].state_dict(), f"{folder}/weights{rank}.pt")

    StageWork.save = save  # type: ignore[method-assign]
    with joined("cpu") as place:
        parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2, 2))]
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, 1.0 + 2 * rank)
        average_gradients(parameters)
        assert all(p.grad is not None and (p.grad == 2).all() for p in parameters)
        run = Path(folder) / "r"
        settings = Settings(**QUIET)
        assert train(tiny_preset("pix2pix"), Path(folder) / "data", run, Budget("pictures", 6), settings, place)


@pytest.mark.slow
def test_two_processes_share_the_pictures_and_keep_the_same_weights(tmp_path: Path) -> None:
    import socket

    write_set(tmp_path / "data")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    spawn(in_process, (port, str(tmp_path)), nprocs=2)
    one, other = (torch.load(tmp_path / f"weights{i}.pt", weights_only=True) for i in range(2))
    stored = checkpoint.load(tmp_path / "r")
    assert differing(one, other) == [] and differing(one, stored.networks["generator"]) == []
    assert stored.meta["step"] == 3 and stored.meta["seen"] == 6
    assert [line["seen"] for line in lines(tmp_path / "r") if "loss" in line] == [2, 4, 6]


def test_training_needs_torch_numpy_and_opencv_only(data: Path, tmp_path: Path) -> None:
    file = tiny_file(tmp_path / "tiny.toml", "pix2pix")
    others = ("mediapipe", "av", "onnxruntime", "onnx", "rich", "PIL", "skimage", "torchmetrics", "tensorboard")
    code = (
        f"import sys\nfor name in {others}: sys.modules[name] = None\n"
        "import torch, trainer.cli\ntorch.set_num_threads(1)\n"
        f"sys.exit(trainer.cli.main(['run', '--preset', r'{file}', '--data', r'{data}', '--run', r'{tmp_path / 'r'}', "
        "'--steps', '1', '--workers', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "TensorBoard is not installed" in done.stdout and checkpoint.load(tmp_path / "r").meta["done"]
