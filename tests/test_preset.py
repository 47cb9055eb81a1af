"""Presets: read, overridden, checked, written; and how a run's length is shared out."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.training_media import raw_preset, tiny_preset
from trainer import preset
from trainer.schedule import Budget, lengths, warm_cosine
from trainer.systems import SYSTEMS
from trainer.systems.base import System
from unmask_rt.errors import MissingError, UsageError

NAMES = ["dual-patch", "map-edit", "mask2face", "pix2pix", "realtime", "siamese"]


def test_the_default_and_all_its_ancestors_are_there() -> None:
    assert preset.known() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_is_whole_and_sees_the_same_faces_as_the_others(name: str) -> None:
    one, first = preset.load(name), preset.load(NAMES[0])
    assert one.seed == first.seed and one.sources == first.sources
    for stage in one.stages:
        assert issubclass(SYSTEMS[stage.system], System) and stage.options["learning_rate"] > 0
    assert one.raw["title"] and one.raw["source"]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_beside_a_run_reads_back_as_it_was(name: str) -> None:
    raw = preset.load(name, ["seed=9", "data.without=['cloth']"]).raw
    assert tomllib.loads(preset.to_toml(raw)) == raw


def test_pix2pix_and_dual_patch_stand_as_published() -> None:
    one, other = preset.load("pix2pix"), preset.load("dual-patch")
    (stage,) = one.stages
    assert (stage.size, stage.batch, stage.options["width"], stage.data["jitter"]) == (256, 1, 64, "pix2pix")
    assert stage.options["loss"] == {"adversarial": 1.0, "l1": 100.0} and stage.options["betas"] == [0.5, 0.999]
    assert stage.options["learning_rate"] == 2e-4 and stage.ema == 0
    (stage,) = other.stages
    assert (stage.size, stage.batch, stage.options["width"]) == (256, 16, 64)
    assert stage.options["loss"] == {"l1": 100.0, "ssim": 100.0, "perceptual": 1.0, "whole": 1.0, "region": 1.0}
    assert stage.options["learning_rate"] == 1e-4 and stage.options["betas"] == [0.5, 0.999]
    assert other.epochs == 100 and other.checkpoint_epochs == 1 and other.auto_resume


def test_overrides_reach_every_place() -> None:
    texts = [
        "size=128", "stage.pix2pix.width=32", "stage.pix2pix.loss.l1=10", "data.bare=0.25", "sources.mine=2",
        "people.60 and more=3", "stage.pix2pix.clip=1.5", "title=my own", "stage.pix2pix.data.turned=0.5",
    ]  # fmt: skip
    got = preset.load("pix2pix", texts)
    (stage,) = got.stages
    assert (got.size, stage.size, stage.options["width"], stage.options["loss"]["l1"]) == (128, 128, 32, 10)
    assert (
        stage.data["turned"] == 0.5
        and stage.data["bare"] == 0.25
        and got.sources["mine"] == 2.0
        and got.people == {"60 and more": 3.0}
        and stage.options["clip"] == 1.5
    )
    assert got.title == "my own" and preset.load("pix2pix").size == 256


@pytest.mark.parametrize(
    "text",
    [
        "size",
        "stage.other.width=3",
        "stage.pix2pix.widht=3",
        "nothing=1",
        "data.bear=1",
        "stage.pix2pix.data.bear=1",
        "stage.pix2pix.loss.l2=1",
        "title.a=1",
    ],
)
def test_an_override_of_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--set"):
        preset.load("pix2pix", [text])


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"sizes": 3}, "sizes"), ({"size": 100}, "size 100"), ({"size": 512}, "size 512"), ({"stage": []}, "stage"),
        ({"data": {"jitter": "wild"}}, "wild"), ({"data": {"bear": 1}}, "bear"),
        ({"stage": [{"name": "a", "system": "b", "batch": 1}]}, "'b'"), ({"stage": [{"name": "a"}]}, "batch, system"),
        ({"stage": [{"name": "a", "system": "pix2pix", "batch": 0}]}, "batch 0"),
        ({"stage": [{"name": "a", "system": "pix2pix", "batch": 1, "share": 0}]}, "share"),
        ({"stage": [{"name": "a", "system": "pix2pix", "batch": 1, "schedule": "never"}]}, "never"),
        ({"stage": [{"name": "a", "system": "pix2pix", "batch": 1}] * 2}, "same name"), ({"seed": -1}, "seed -1"),
        ({"seed": "x"}, "seed 'x'"),
    ],
)  # fmt: skip
def test_a_preset_that_makes_no_sense_is_refused(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UsageError, match=word):
        preset.check("mine", raw_preset("pix2pix") | change)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    raw = raw_preset("pix2pix")
    del raw["sources"]
    with pytest.raises(UsageError, match="sources"):
        preset.check("mine", raw)
    raw = raw_preset("pix2pix")
    del raw["stage"][0]["learning_rate"]
    with pytest.raises(UsageError, match="learning_rate"):
        preset.check("mine", raw).stages[0].options["learning_rate"]
    with pytest.raises(UsageError, match=r"stage\.pix2pix\.loss\.l2"):
        preset.check("mine", raw).stages[0].options["loss"]["l2"]
    with pytest.raises(MissingError, match="realtime"):
        preset.load("unreal")
    (tmp_path / "bad.toml").write_text("size = = 3\n")
    with pytest.raises(UsageError, match=r"bad\.toml"):
        preset.load(str(tmp_path / "bad.toml"))
    with pytest.raises(UsageError, match="pix2pix, "):
        SYSTEMS["dream"]
    with pytest.raises(UsageError, match="inner"):
        preset.load("realtime").stage("centre")


# ---- how long


def test_stages_share_pictures_and_minutes() -> None:
    stages = tiny_preset("realtime").stages  # batches of 2
    steps = [length.steps for length in lengths(Budget("pictures", 1000), stages, faces=50, processes=1)]
    assert steps == [250, 100, 150]
    assert [length.steps for length in lengths(Budget("epochs", 20), stages, 50, 2)] == [125, 50, 75]
    assert [length.steps for length in lengths(Budget("steps", 100), stages, 50, 1)] == [50, 20, 30]
    seconds = [length.seconds for length in lengths(Budget("minutes", 10), stages, 50, 1)]
    assert np.allclose(seconds, [204, 180, 216]) and [s.time_share for s in stages] != [s.share for s in stages]
    by_clock, by_step = (
        lengths(Budget("minutes", 1), stages[:1], 50, 1)[0],
        lengths(Budget("steps", 8), stages[:1], 50, 1)[0],
    )
    assert by_clock.progress(10**6, 15.0) == 0.25 and by_step.progress(2, 1e9) == 0.25 and by_step.progress(99, 0) == 1


@pytest.mark.parametrize(("unit", "amount"), [("years", 1), ("steps", 0), ("minutes", -1), ("epochs", float("inf"))])
def test_a_length_that_makes_no_sense_is_refused(unit: str, amount: float) -> None:
    with pytest.raises(UsageError):
        Budget(unit, amount)


def test_the_learning_rate_warms_up_stays_and_falls() -> None:
    assert warm_cosine(0.0, 0) < 0.01 and warm_cosine(0.0, 100) == pytest.approx(0.5, abs=0.01)
    assert warm_cosine(0.3, 1000) == warm_cosine(0.5, 1000) == 1.0
    falling = [warm_cosine(p, 1000) for p in np.linspace(0.5, 1.0, 12)]
    assert falling == sorted(falling, reverse=True) and falling[-1] == pytest.approx(0.05)
