"""OpenVINO: what it computes, keeps and refuses, and that nothing of it looks for a network."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import backend, open_engine, openvino
from engines.base import Settings
from engines.openvino import BACKEND
from tests.engine_models import SIDE, small_crops, small_model
from unmask_rt.errors import EngineError, ExtraError, ModelError

MODEL = small_model()
installed = pytest.mark.skipif(not openvino.version(), reason="openvino is not installed: unmask-rt[openvino]")


def away(found: tuple[np.ndarray, np.ndarray], crops: np.ndarray) -> int:
    wanted = open_engine("onnxruntime", MODEL)(crops)
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(found, wanted, strict=True))


@pytest.fixture(scope="module")
def built() -> bytes:
    return BACKEND.build(MODEL, Settings(batch=2), print)


@installed
@pytest.mark.parametrize("count", [1, 2, 5])
def test_it_computes_what_the_reference_does(built: bytes, count: int) -> None:
    engine, crops = BACKEND.load(MODEL, built, Settings(batch=2)), small_crops(count)
    assert away(engine(crops), crops) <= 1
    assert away(engine(crops[:, :, ::-1]), np.ascontiguousarray(crops[:, :, ::-1])) <= 1
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine(crops)


@installed
def test_answers_are_the_callers_own(built: bytes) -> None:
    engine = BACKEND.load(MODEL, built, Settings(batch=2))
    first, mask = engine(small_crops(2, seed=1))
    kept = first.copy(), mask.copy()
    engine(small_crops(2, seed=2))
    assert (first == kept[0]).all() and (mask == kept[1]).all()


@installed
@pytest.mark.skipif(not openvino.has_bf16(), reason="this processor has no BF16")
def test_in_bf16_it_is_close() -> None:
    engine, crops = BACKEND.load(MODEL, b"", Settings("bf16")), small_crops(2)
    assert 0 < away(engine(crops), crops) < 24 and engine.describe()["precision"] == "bf16"
    assert "bf16" in BACKEND.inspect(BACKEND.build(MODEL, Settings("bf16"), print))["layers_by_precision"]


@installed
def test_a_processor_without_bf16_is_not_made_to_pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "has_bf16", lambda: False)
    with pytest.raises(EngineError, match="BF16"):
        BACKEND.build(MODEL, Settings("bf16"), print)


@installed
def test_what_was_compiled_says_what_it_is(built: bytes) -> None:
    told = BACKEND.inspect(built)
    assert told["layers"] > 10 and set(told["layers_by_precision"]) >= {"f32", "u8"} and told["batch"] == 2
    engine = BACKEND.load(MODEL, built, Settings(batch=2))
    said = engine.describe()
    assert said["version"] == openvino.version() and said["threads"] == 1 and said["crop_size"] == SIDE
    assert said["model_sha256"] == open_engine("onnxruntime", MODEL).sha256


@installed
@pytest.mark.parametrize(
    ("settings", "told"),
    [(Settings(batch=1), "batch"), (Settings(batch=2, threads=2), "options"), (Settings("int8", batch=2), "precision")],
)
def test_what_was_compiled_for_something_else_is_refused(built: bytes, settings: Settings, told: str) -> None:
    with pytest.raises(EngineError, match=told):
        BACKEND.load(MODEL, built, settings)


@installed
def test_what_was_compiled_elsewhere_is_refused(built: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.machine.instruction_set", lambda: "x86_64 sse4_2")
    with pytest.raises(EngineError, match="processor"):
        BACKEND.load(MODEL, built, Settings(batch=2))
    monkeypatch.undo()
    monkeypatch.setattr(openvino, "version", lambda: "2099.1")
    with pytest.raises(EngineError, match="version"):
        BACKEND.load(MODEL, built, Settings(batch=2))


@installed
@pytest.mark.parametrize("crops", [small_crops(1)[:, :16], small_crops(1).astype(np.float32)], ids=["side", "type"])
def test_crops_of_another_kind_are_refused(built: bytes, crops: Any) -> None:
    with pytest.raises(EngineError, match="crops"):
        BACKEND.load(MODEL, built, Settings(batch=2))(crops)


@installed
def test_damaged_models_are_refused() -> None:
    with pytest.raises(ModelError):
        BACKEND.build(b"no model", Settings(), print)


def test_a_missing_library_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    state = BACKEND.usable()
    assert not state.ok and "unmask-rt[openvino]" in state.why
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ExtraError) as caught:
        BACKEND.build(MODEL, Settings(), print)
    assert "unmask-rt[openvino]" in caught.value.hint


def test_it_is_found_by_its_name_and_takes_the_int8_form() -> None:
    found: Any = backend("openvino")
    assert found is BACKEND
    assert [BACKEND.variant(p) for p in BACKEND.precisions] == ["fp32", "fp32", "int8"]


@installed
@pytest.mark.parametrize(
    ("kernel", "pads", "parts"), [(7, (3, 3, 3, 3), 2), (5, (2, 0, 1, 4), 2), (3, (1, 1, 1, 1), 1)]
)
def test_large_maxima_are_taken_along_rows_and_columns(kernel: int, pads: tuple[int, ...], parts: int) -> None:
    opset, library = openvino.library().opset8, openvino.library()
    data = opset.parameter([1, 2, 16, 16], np.float32)
    pool = opset.max_pool(data, [1, 1], [1, 1], list(pads[:2]), list(pads[2:]), [kernel, kernel])
    graph = library.Model([pool.output(0)], [data])
    values = np.random.default_rng(0).normal(size=(1, 2, 16, 16)).astype(np.float32) - 9
    wanted = library.Core().compile_model(graph, "CPU")(values)[0].copy()
    openvino._separate_pools(library, graph)
    assert sum(node.get_type_name() == "MaxPool" for node in graph.get_ops()) == parts
    assert (library.Core().compile_model(graph, "CPU")(values)[0] == wanted).all()


TRACE = """
import sys
seen = []
sys.addaudithook(lambda event, arguments: seen.append(event) if event.split(".")[0] in WATCHED else None)
WATCHED = ("socket", "urllib", "http", "subprocess")
from engines.base import Settings
from engines.openvino import BACKEND
from tests.engine_models import small_crops, small_model
model = small_model()
BACKEND.usable()
BACKEND.load(model, b"", Settings())(small_crops(1))
assert "openvino" in sys.modules
assert not [name for name in sys.modules if "telemetry" in name], "telemetry was imported"
assert not [name for name in sys.modules if name.startswith("openvino.tools")], "the converter was imported"
assert "torch" not in sys.modules
print(sorted(set(seen)))
"""


@installed
def test_it_looks_for_no_network_and_imports_no_telemetry(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(root), *sys.path])}
    done = subprocess.run([sys.executable, "-c", TRACE], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert not list(tmp_path.iterdir()), "it left something in the home folder"


@installed
def test_the_converter_can_be_imported_afterwards() -> None:
    openvino.library()
    assert "openvino.tools.ovc" not in sys.modules or sys.modules["openvino.tools.ovc"] is not None
