"""Engines are built once, never trusted blindly, compared before use, and given up for the CPU when they fail."""

from __future__ import annotations

import json
import logging
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import engines
from engines import cache, parity, select, variants
from engines.base import Settings
from engines.obtain import obtain
from tests import fake_backend
from tests.fake_backend import FakeBackend
from tests.test_engines import tiny_model
from unmask_rt import models
from unmask_rt.errors import EngineError, ExtraError, ModelError, UsageError

MODEL = tiny_model()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeBackend:
    """The only other backend beside ONNX Runtime, and an empty cache."""
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path))
    made = FakeBackend()
    monkeypatch.setattr(fake_backend, "BACKEND", made)
    for name in list(engines.BACKENDS)[1:]:
        monkeypatch.delitem(engines.BACKENDS, name)
    monkeypatch.setitem(engines.BACKENDS, "fake", "tests.fake_backend:BACKEND")
    return made


def kept(suffix: str) -> Path:
    (file,) = cache.folder().glob(f"fake-*{suffix}")
    return file


def test_an_engine_is_built_once_and_its_sidecar_says_all_that_it_depends_on(fake: FakeBackend) -> None:
    for _ in range(2):
        obtain("fake", MODEL, Settings()).close()
    assert fake.builds_done == 1
    record = json.loads(kept(".json").read_text())
    assert record["parts"]["version"] == "1.0" and record["parts"]["input"] == "uint8[1, 32, 32, 3]"
    assert len(record["parts"]["model"]) == 64 and record["parity"]["hole_max"] == 0
    assert not list(cache.folder().glob(".*")), "a partial file was left"


@pytest.mark.parametrize("settings", [Settings(batch=2), Settings(threads=2), Settings(target_gpu=("SM86",))])
def test_other_settings_are_another_engine(fake: FakeBackend, settings: Settings) -> None:
    obtain("fake", MODEL, Settings()).close()
    obtain("fake", MODEL, settings).close()
    assert fake.builds_done == 2


def test_threads_are_the_processor_s_business(fake: FakeBackend) -> None:
    """What was built for a GPU is found again by a tool that asks with other threads."""
    one, four = Settings(threads=1, target_gpu=("SM86",)), Settings(threads=4, target_gpu=("SM86",))
    assert cache.key_of(fake, MODEL, MODEL, one).name == cache.key_of(fake, MODEL, MODEL, four).name
    assert (
        cache.key_of(fake, MODEL, MODEL, Settings()).name != cache.key_of(fake, MODEL, MODEL, Settings(threads=4)).name
    )


def test_another_version_is_another_engine(fake: FakeBackend) -> None:
    obtain("fake", MODEL, Settings()).close()
    fake.version = "1.1"
    obtain("fake", MODEL, Settings()).close()
    assert fake.builds_done == 2


@pytest.mark.parametrize("damage", ["cut", "altered", "sidecar", "gone"])
def test_a_damaged_engine_is_built_again_and_the_log_says_why(
    fake: FakeBackend, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    obtain("fake", MODEL, Settings()).close()
    if damage == "cut":
        kept(".engine").write_bytes(fake_backend.BUILT[:3])
    elif damage == "altered":
        kept(".engine").write_bytes(b"X" * len(fake_backend.BUILT))
    elif damage == "gone":
        kept(".engine").unlink()
    else:
        kept(".json").write_text("{")
    obtain("fake", MODEL, Settings()).close()
    assert fake.builds_done == 2 and kept(".engine").read_bytes() == fake_backend.BUILT
    if damage != "gone":
        assert "built again" in caplog.text


def test_an_engine_that_its_library_refuses_is_built_again(fake: FakeBackend, caplog: pytest.LogCaptureFixture) -> None:
    obtain("fake", MODEL, Settings()).close()
    fake.refuses = fake_backend.BUILT
    obtain("fake", MODEL, Settings()).close()
    assert fake.builds_done == 2 and "built for another driver" in caplog.text


def test_an_engine_that_is_too_far_off_is_refused_with_figures_and_not_compared_twice(fake: FakeBackend) -> None:
    fake.off = 9
    with pytest.raises(EngineError, match=r"differs by 9 of 255 \(allowed 1\)"):
        obtain("fake", MODEL, Settings())
    fake.dies = 1  # a second comparison would fail otherwise
    with pytest.raises(EngineError, match="differs by 9 of 255"):
        obtain("fake", MODEL, Settings())
    with pytest.raises(EngineError):
        engines.open_engine("fake", MODEL, precision="fp32")


def test_a_folder_that_cannot_be_written_costs_time_only(
    fake: FakeBackend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path / "file"))
    for _ in range(2):
        obtain("fake", MODEL, Settings()).close()
    assert fake.builds_done == 2 and "UNMASK_RT_CACHE" in caplog.text


def hold(folder: str, started: object) -> None:
    import os

    os.environ["UNMASK_RT_CACHE"] = folder
    with cache.lock("one"):
        started.set()  # type: ignore[attr-defined]
        time.sleep(1.0)


def test_two_processes_do_not_build_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path))
    context = multiprocessing.get_context("spawn")
    started = context.Event()
    other = context.Process(target=hold, args=(str(tmp_path), started))
    other.start()
    assert started.wait(60)
    with cache.lock("one"):
        assert "another process" in caplog.text
    other.join()


def test_the_engines_that_were_not_used_for_longest_go_first(fake: FakeBackend) -> None:
    import os

    for batch in (1, 2, 3):
        obtain("fake", MODEL, Settings(batch=batch)).close()
    files = {json.loads(p.read_text())["parts"]["input"][6]: p for p in cache.folder().glob("fake-*.json")}
    for age, number in enumerate("213"):
        os.utime(files[number], (1000 - age, 1000 - age))
    size = cache.entries()[0].size_bytes
    assert cache.prune(most_bytes=2 * size + 8) == [files["3"].stem]
    assert {e.record["parts"]["input"][6] for e in cache.entries()} == {"1", "2"}
    count, freed = cache.clean()
    assert count >= 4 and freed >= 2 * size and not cache.entries()


def test_auto_takes_the_fastest_and_remembers_it(fake: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.precisions = ("fp32",)
    asked = []

    def timed(found: list[object], **_: object) -> list[select.Timing]:
        asked.append(len(found))
        return [select.Timing(3.0, 3.0), select.Timing(1.0, 1.0)]

    monkeypatch.setattr(select, "time_engines", timed)
    assert engines.open_engine("auto", MODEL).name == "fake"
    assert engines.open_engine("auto", MODEL).name == "fake"
    assert asked == [2], "the choice was not remembered"
    choice, _ = select.remembered(MODEL, Settings())
    assert choice is not None and choice.times_ms == {"fake fp32": 1000.0, "onnxruntime fp32": 3000.0}
    fake.version = "2"
    engines.open_engine("auto", MODEL)
    assert asked == [2, 2], "another version has to be measured again"


def test_auto_passes_over_what_fails_and_says_why(fake: FakeBackend, caplog: pytest.LogCaptureFixture) -> None:
    fake.precisions, fake.off = ("fp32",), 40
    with caplog.at_level(logging.INFO):
        assert engines.open_engine("auto", MODEL).name == "onnxruntime"
    assert "fake fp32 takes no part" in caplog.text and "differs by 40" in caplog.text
    fake.why = "no device"
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert engines.open_engine("auto", MODEL).name == "onnxruntime"
    assert "fake takes no part: no device" in caplog.text


def test_a_made_form_is_never_compared_with_itself(fake: FakeBackend) -> None:
    """Given as the model it has no forms of its own; and what was made here goes before what is bundled."""
    model = models.load_unmask_model()[0]
    int8 = variants.find(model, "int8")
    assert int8 is not None and variants.is_made(int8) and not variants.is_made(model)
    assert variants.find(int8, "int8") is None and variants.find(int8, "fp32") == int8
    for kind in ("int8", "fp16", "int8-symmetric"):
        with pytest.raises(ModelError, match="made form itself"):
            variants.obtain(int8, kind)
    again = int8 + b"\x72\x03\x0a\x01x"  # one more entry of its metadata
    symmetric = variants.place(variants.source_of(model), "int8-symmetric")
    assert cache.write(symmetric, b"of the form before")
    assert variants.keep(variants.source_of(model), "int8", again) is not None and not symmetric.exists()
    assert variants.find(model, "int8") == again


def test_auto_goes_on_where_an_engine_dies_and_asks_it_again_a_day_later(
    fake: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(engine: Any, crops: Any) -> Any:
        raise EngineError("the GPU has no memory left", "Close other programs.")

    obtain("fake", MODEL, Settings()).close()  # compared before
    with monkeypatch.context() as patched:
        patched.setattr(fake_backend.CopyEngine, "__call__", dead)
        choice, engine = select.choose(engines.BACKENDS, MODEL, Settings())
    engine.close()
    assert choice.name == "onnxruntime" and choice.rejected["fake fp32"] == "the GPU has no memory left"
    kept, _ = select.remembered(MODEL, Settings())
    assert kept is not None and kept.name == "onnxruntime"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + select.AGAIN_S + 1)
    assert select.remembered(MODEL, Settings())[0] is None


def test_auto_builds_nothing_for_a_gpu_by_itself(fake: FakeBackend) -> None:
    fake.precisions, fake.device = ("fp32",), "a GPU"
    engine = engines.open_engine("auto", MODEL)
    assert engine.name == "onnxruntime" and not fake.builds_done
    _, rejected = select.candidates(engines.BACKENDS, MODEL, Settings())
    assert "unmask-engine build --backend fake --precision fp32" in rejected["fake fp32"]


def test_a_device_that_is_lost_falls_back_to_the_processor(fake: FakeBackend, caplog: pytest.LogCaptureFixture) -> None:
    fake.device, fake.dies = "a GPU", 3
    engine = engines.open_engine("fake", MODEL, precision="fp32")
    crop = np.full((1, 32, 32, 3), 7, np.uint8)
    assert [engine(crop)[0].max() for _ in range(3)] == [7, 7, 7]
    assert engine.name == "onnxruntime" and "device is lost" in engine.describe()["fell_back"]
    assert caplog.text.count("goes on instead") == 1
    with pytest.raises(EngineError):
        engine(crop[:, :8])
    engine.close()
    with pytest.raises(EngineError):
        engine(crop)


def test_what_cannot_be_opened_says_what_to_do(fake: FakeBackend) -> None:
    with pytest.raises(UsageError, match="fp7"):
        engines.open_engine("fake", MODEL, precision="fp7")
    with pytest.raises(ExtraError, match="does not run bf16"):
        engines.open_engine("fake", MODEL, precision="bf16")
    with pytest.raises(ModelError, match="no int8 form") as caught:
        engines.open_engine("onnxruntime", MODEL, precision="int8")
    assert "unmask-engine build" in caught.value.hint
    fake.why = "no driver"
    with pytest.raises(ExtraError, match="no driver"):
        engines.open_engine("fake", MODEL)


# ---- the gate's own figures


def test_the_figures_are_those_of_their_place() -> None:
    maps = np.zeros((1, 32, 32), np.uint8)
    maps[:, 8:24, 8:24] = 255
    faces = np.full((1, 32, 32, 3), 100, np.uint8)
    moved = faces.copy()
    moved[:, 14:18, 14:18] += 20
    told = parity.figures((moved, maps), (faces, maps))
    assert told.hole_max == 20 and told.outside_max == 0 == told.map_max == told.seam_mean
    assert told.hole_mean == pytest.approx(20 * 16 / 256) and told.outside_psnr == parity.BEST_DB
    assert told.hole_psnr == pytest.approx(10 * np.log10(255**2 / (400 * 16 / 256)), abs=1e-4)
    assert told.failures("fp32") and told.failures("fp16") and told.failures("int8")
    assert parity.Parity.from_dict(told.to_dict()).failures("int8")
    away = faces.copy()
    away[:, 8:24, 8:24] += 4
    told = parity.figures((away, maps), (faces, maps))
    assert not told.failures("int8") and told.failures("fp16") == [
        "hole 36.1 dB (at least 45)",
        f"edge of the hole differs by {told.seam_mean:.1f} levels (allowed 1)",
    ]


def test_the_fixed_crops_are_what_they_were_drawn_as() -> None:
    from engines import crops

    loaded, drawn = crops.load(), crops.draw()
    assert loaded.shape == drawn.shape == (12, 256, 256, 3)
    assert np.abs(loaded.astype(int) - drawn).mean() < 4, "draw them again: python -m engines.crops"
    assert crops.load(64, 3).shape == (3, 64, 64, 3)
