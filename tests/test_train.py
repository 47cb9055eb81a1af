"""Training runs: every preset steps, a run leaves a checkpoint, and resuming goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.trainer_media import TinySet
from trainer import train as module
from trainer.data import Batch, Faces
from trainer.train import TRAINERS, learning_rate_at, load_preset, train

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
PRESETS = sorted(p.stem for p in (Path(module.__file__).parent / "presets").glob("*.toml"))
MOMENT = 1e-12
"""Minutes that are over before the first step."""


def small(name: str) -> dict[str, Any]:
    return load_preset(name) | {"batch": 2}


def batch_of(data: Path, preset: dict[str, Any]) -> Batch:
    faces = Faces(data, "train", preset["seed"], preset["sources"], size=preset["size"])
    return Batch(*(torch.from_numpy(np.stack(a)) for a in zip(*(faces[i] for i in range(2)), strict=True)))


def stored(run: Path) -> dict[str, Any]:
    return dict(torch.load(run / "checkpoint.pt", weights_only=True))


# ---- presets


def test_the_presets_of_the_default_model_are_there() -> None:
    networks = {load_preset(name)["network"] for name in PRESETS}
    assert networks == set(TRAINERS) and len(PRESETS) >= 2


def test_an_unknown_preset_is_an_error_that_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="realtime-dream") as caught:
        load_preset("realtime-dream")
    assert all(name in str(caught.value) for name in PRESETS)
    with pytest.raises(FileNotFoundError, match="mine"):
        load_preset(str(tmp_path / "mine.toml"))


def test_a_preset_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('network = "map"\nbatch = 3\n')
    assert load_preset(str(tmp_path / "mine.toml")) == {"network": "map", "batch": 3}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("progress", [0.0, 0.95])
def test_a_step_of_every_preset_is_finite_and_moves_the_weights(tiny_set: TinySet, name: str, progress: float) -> None:
    torch.manual_seed(0)
    preset = small(name)
    trainer = TRAINERS[preset["network"]](preset)
    before = {k: v.clone() for k, v in trainer.network.state_dict().items()}
    batch = batch_of(tiny_set.data, preset)
    figures = trainer.step(batch, progress)
    assert figures and all(np.isfinite(v) for v in figures.values()), figures
    after = trainer.network.state_dict()
    assert any(not torch.equal(before[k], after[k]) for k in before)
    assert all(torch.isfinite(v).all() for v in after.values())
    if preset["network"] == "edit":
        assert ("adversarial" in figures) == (progress >= preset["gan_from"])


def test_the_map_learns_a_batch_by_heart(tiny_set: TinySet) -> None:
    torch.manual_seed(0)
    preset = small("realtime-map")
    trainer, batch = TRAINERS["map"](preset), batch_of(tiny_set.data, preset)
    losses = [trainer.step(batch, 0.0)["loss"] for _ in range(12)]
    assert losses[-1] < 0.75 * losses[0]


# ---- runs


@pytest.mark.parametrize("name", PRESETS)
def test_a_run_leaves_its_checkpoint_and_goes_on_from_it(tiny_set: TinySet, tmp_path: Path, name: str) -> None:
    run, preset = tmp_path / "run", small(name)
    train(preset, tiny_set.data, run, minutes=0.6 / 60, resume=False, workers=0)
    first = stored(run)
    steps, seconds = first["meta"]["step"], first["meta"]["seconds"]
    assert steps >= 1 and seconds > 0.5
    assert set(TRAINERS[preset["network"]](preset).state()) | {"average", "meta"} == set(first)
    for weights in (first["network"], first["average"]):
        assert all(torch.isfinite(v).all() for v in weights.values())
    assert any(not torch.equal(first["network"][k], first["average"][k]) for k in first["network"])
    sheet = cv2.imread(str(run / "sheet.jpg"))
    side = preset["size"]
    assert sheet.shape[0] == 12 * side and sheet.shape[1] % side == 0 and sheet.std() > 10
    assert not list(run.glob("*.partial"))

    train(preset, tiny_set.data, run, minutes=(seconds + 0.4) / 60, resume=True, workers=0)
    second = stored(run)
    assert second["meta"]["step"] > steps and second["meta"]["seconds"] > seconds + 0.3

    train(preset, tiny_set.data, run, minutes=MOMENT, resume=True, workers=0)  # its time is over: nothing changes
    third = stored(run)
    assert third["meta"]["step"] == second["meta"]["step"]
    assert all(torch.equal(third["network"][k], v) for k, v in second["network"].items())


def test_a_resumed_run_sees_the_samples_that_come_next(
    tiny_set: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []
    original = module.batches

    def watched(dataset: Faces, batch: int, start: int, workers: int) -> Any:
        starts.append((batch, start))
        return original(dataset, batch, start, workers)

    monkeypatch.setattr(module, "batches", watched)
    run, preset = tmp_path / "run", small("realtime-map")
    train(preset, tiny_set.data, run, minutes=0.3 / 60, resume=True, workers=0)  # nothing there yet: from scratch
    steps = stored(run)["meta"]["step"]
    train(preset, tiny_set.data, run, minutes=MOMENT, resume=True, workers=0)
    train(preset, tiny_set.data, run, minutes=MOMENT, resume=False, workers=0)
    assert starts == [(2, 0), (2, 2 * steps), (2, 0)]
    assert stored(run)["meta"]["step"] == 0


def test_a_run_can_start_from_the_weights_of_another(tiny_set: TinySet, tmp_path: Path) -> None:
    preset = small("realtime-map")
    train(preset, tiny_set.data, tmp_path / "first", minutes=0.3 / 60, resume=False, workers=0)
    preset = preset | {"seed": 77}
    train(preset, tiny_set.data, tmp_path / "next", minutes=MOMENT, resume=False, start=tmp_path / "first", workers=0)
    first, following = stored(tmp_path / "first"), stored(tmp_path / "next")
    assert following["meta"]["step"] == 0
    for name, weights in following["network"].items():
        assert torch.equal(weights, first["average"][name])


def test_the_log_has_a_line_every_hundred_steps(
    tiny_set: TinySet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Quick(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

    class Trainer:
        def __init__(self, preset: dict[str, Any]) -> None:
            self.network = Quick()

        def state(self) -> dict[str, Any]:
            return {"network": self.network}

        def step(self, batch: Batch, progress: float) -> dict[str, float]:
            return {"loss": progress}

        def sheet(self, network: torch.nn.Module, batch: Batch) -> np.ndarray:
            return np.zeros((8, 8, 3), np.uint8)

    batch = batch_of(tiny_set.data, small("realtime-map"))
    monkeypatch.setitem(TRAINERS, "map", Trainer)  # type: ignore[arg-type]
    monkeypatch.setattr(module, "batches", lambda *_: iter(lambda: batch, None))
    train(small("realtime-map"), tiny_set.data, tmp_path, minutes=1.0 / 60, resume=False, workers=0)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [100 * (i + 1) for i in range(len(lines))] and len(lines) >= 1
    assert all(0 <= line["loss"] <= 1 and line["images_per_s"] > 0 for line in lines)
    assert [line["progress"] for line in lines] == sorted(line["progress"] for line in lines)


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    assert learning_rate_at(0.0, 0) < 0.01 and learning_rate_at(0.0, 100) == pytest.approx(0.5, abs=0.01)
    assert learning_rate_at(0.3, 1000) == learning_rate_at(0.5, 1000) == 1.0
    falling = [learning_rate_at(p, 1000) for p in np.linspace(0.5, 1.0, 12)]
    assert falling == sorted(falling, reverse=True) and falling[-1] == pytest.approx(0.05)
    assert learning_rate_at(1.4, 1000) == pytest.approx(0.05)
