"""torch and Torch-TensorRT: the ONNX file as an exported program, on a processor and behind a stand-in for CUDA."""

from __future__ import annotations

import ast
import contextlib
import importlib.metadata
import importlib.util
import io
import json
import sys
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engines import backend, cuda, envelope, fp16, machine, open_engine, to_torch
from engines import torch as engine_torch
from engines.base import Engine, Settings
from engines.torch import BACKEND
from engines.torch_tensorrt import BACKEND as COMPILED
from tests.engine_models import SIDE, small_crops, small_model
from tests.fake_tensorrt import FakeDriver, FakeLibrary
from unmask_rt.errors import EngineError, ExtraError, ModelError

torch.set_num_threads(1)
MODEL = small_model()
HALF = fp16.make(MODEL)
CARD = machine.Gpu("NVIDIA RTX A2000", (8, 6), "580.10")


def reference(crops: np.ndarray, model: bytes = MODEL) -> tuple[np.ndarray, np.ndarray]:
    return open_engine("onnxruntime", model)(crops)


def away(found: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]) -> int:
    return max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(found, wanted, strict=True))


# ---- on a processor


@pytest.fixture(scope="module")
def built() -> bytes:
    return BACKEND.build(MODEL, Settings(batch=2), print)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_it_computes_what_the_reference_does(built: bytes, count: int) -> None:
    engine, crops = BACKEND.load(MODEL, built, Settings(batch=2)), small_crops(count)
    assert away(engine(crops), reference(crops)) <= 1
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine(crops)


def test_what_is_built_loads_without_onnx_and_without_the_trainer(
    built: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in ("onnx", "trainer")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("onnx", "trainer"):
        monkeypatch.setitem(sys.modules, name, None)
    assert BACKEND.load(MODEL, built, Settings(batch=2))(small_crops(1))[0].shape == (1, SIDE, SIDE, 3)


def test_it_says_what_it_is_and_what_was_built(built: bytes) -> None:
    told = BACKEND.load(MODEL, built, Settings(batch=2)).describe()
    assert told["provider"] == "CPU" and told["precision"] == "fp32" and told["version"] == torch.__version__
    facts = BACKEND.inspect(built)
    assert facts["batch"] == 2 and facts["layers"] > 20 and facts["version"] == engine_torch.version()


def test_convolutions_are_kept_in_channels_last_order(built: bytes) -> None:
    program = torch.export.load(io.BytesIO(envelope.unpack(built, {})))
    wide = [t for t in program.state_dict.values() if t.ndim == 4 and min(t.shape) > 1]
    assert wide and all(t.is_contiguous(memory_format=torch.channels_last) for t in wide)


def test_a_half_precision_program_computes_in_it() -> None:
    crops = small_crops(1)
    program = to_torch.program(HALF, 1)
    kinds = {t.dtype for t in program.state_dict.values() if t.is_floating_point() and t.ndim > 1}
    assert kinds == {torch.float16}
    face, mask = program.module()(torch.from_numpy(crops))
    assert away((face.numpy(), mask.numpy()), reference(crops)) <= 2


@pytest.mark.parametrize("settings", [Settings(batch=1), Settings("fp16", batch=2)], ids=["batch", "precision"])
def test_a_program_for_something_else_is_refused(built: bytes, settings: Settings) -> None:
    with pytest.raises(EngineError):
        BACKEND.load(MODEL, built, settings)


def test_a_program_of_another_model_or_version_is_refused(built: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match="source"):
        BACKEND.load(small_model(seed=4), built, Settings(batch=2))
    monkeypatch.setattr(engine_torch, "version", lambda: "2.99.0+cpu")
    with pytest.raises(EngineError, match=r"2\.99\.0"):
        BACKEND.load(MODEL, built, Settings(batch=2))


def test_bytes_that_are_no_program_are_refused() -> None:
    facts = {"backend": "torch", "precision": "fp32", "batch": 1, "version": engine_torch.version(),
             "source": open_engine("onnxruntime", MODEL).sha256}  # fmt: skip
    with pytest.raises(EngineError, match="cannot read"):
        BACKEND.load(MODEL, envelope.pack(facts, b"PK nothing"), Settings())
    with pytest.raises(ModelError):
        BACKEND.build(b"no model", Settings(), print)


def test_an_operator_that_torch_lacks_is_named() -> None:
    import onnx

    model = onnx.load_from_string(MODEL)
    next(n for n in model.graph.node if n.op_type == "Sigmoid").op_type = "HardSwish"
    with pytest.raises(EngineError, match="HardSwish") as caught:
        BACKEND.build(model.SerializeToString(), Settings(), print)
    assert "--engine" in caught.value.hint


@pytest.mark.parametrize("crops", [small_crops(1)[:, :16], small_crops(1).astype(np.float32)], ids=["side", "type"])
def test_crops_of_another_kind_are_refused(built: bytes, crops: Any) -> None:
    with pytest.raises(EngineError, match="crops"):
        BACKEND.load(MODEL, built, Settings(batch=2))(crops)


def test_on_a_processor_it_is_no_automatic_choice() -> None:
    state = BACKEND.usable()
    if state.device == "cpu":
        assert state.ok and not state.automatic and BACKEND.precisions == ("fp32",)
    by_name: list[Any] = [backend("torch"), backend("torch-tensorrt")]
    assert by_name == [BACKEND, COMPILED]


def test_a_missing_torch_is_said(monkeypatch: pytest.MonkeyPatch, built: bytes) -> None:
    monkeypatch.setattr(engine_torch, "version", lambda: "")
    assert "unmask-rt[torch]" in BACKEND.usable().why
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ExtraError, match="torch"):
        BACKEND.load(MODEL, built, Settings(batch=2))


# ---- on a GPU, with a stand-in


def test_a_program_is_placed_with_all_that_it_says_about_devices(built: bytes) -> None:
    program = torch.export.load(io.BytesIO(envelope.unpack(built, {})))

    def told() -> set[str]:
        return {str(node.kwargs["device"]) for node in program.graph.nodes if "device" in node.kwargs}

    assert told() == {"cpu"}, "what its operations assert about devices"
    module = engine_torch.placed(program, "meta")  # a device that is on every machine
    assert told() == {"meta"}, "a GPU refuses tensors on it that the program expects elsewhere"
    face, mask = module(torch.from_numpy(small_crops(2)).to("meta"))
    assert face.device.type == mask.device.type == "meta" and face.shape == (2, SIDE, SIDE, 3)


class Stream:
    """Does at once what is put into it; says when it was waited for."""

    waited = 0

    def synchronize(self) -> None:
        Stream.waited += 1

    def wait_stream(self, other: Any) -> None:
        Stream.waited += 100


class Graph:
    """Replays a call into the tensors that it answered with while it was recorded."""

    def __init__(self) -> None:
        self.replays = 0
        self.work: Any = None

    def replay(self) -> None:
        self.replays += 1
        for old, new in zip(self.work.answer, self.work.run(), strict=True):
            old.copy_(new)


class Program:
    """A program that remembers its recorded call."""

    def __init__(self, module: Any) -> None:
        self.module, self.calls, self.fails = module, 0, ""
        self.crop: Any = None
        self.answer: Any = None

    def to(self, device: str) -> Program:
        assert device == "cuda"
        return self

    def run(self) -> Any:
        return self.module(self.crop)

    def __call__(self, crop: Any) -> Any:
        if self.fails:
            raise RuntimeError(self.fails)
        self.calls, self.crop = self.calls + 1, crop
        self.answer = self.module(crop)
        return self.answer


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """torch with a device that is this processor."""
    graphs: list[Graph] = []
    current: list[Program] = []

    @contextlib.contextmanager
    def recording(graph: Graph, stream: Stream) -> Iterator[None]:
        yield
        graph.work = current[0]
        graphs.append(graph)

    def at_home(make: Any) -> Any:
        def made(*sides: Any, device: Any = None, pin_memory: bool = False, **more: Any) -> Any:
            return make(*sides, device=None if device == "cuda" else device, **more)

        return made

    def as_tensor(data: Any, device: str) -> torch.Tensor:
        return torch.from_numpy(data.crops)

    stand_ins = {"Stream": Stream, "CUDAGraph": Graph, "graph": recording, "current_stream": Stream}
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch, "as_tensor", as_tensor)
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ([CARD], ""))
    for name in ("zeros", "empty"):
        monkeypatch.setattr(torch, name, at_home(getattr(torch, name)))
    Stream.waited = 0
    yield types.SimpleNamespace(graphs=graphs, current=current)


@cache
def exported(batch: int) -> Any:
    return to_torch.program(MODEL, batch).module()


def recorded(gpu: types.SimpleNamespace, settings: Settings, fails: str = "") -> Any:
    program = Program(exported(settings.batch))
    program.fails = fails
    gpu.current.append(program)
    spec = open_engine("onnxruntime", MODEL).spec
    return engine_torch.TorchEngine("torch", program, spec, "0" * 64, settings, "cuda")


@pytest.mark.parametrize("count", [1, 2, 5])
def test_on_a_gpu_calls_are_replays_of_one_recording(gpu: types.SimpleNamespace, count: int) -> None:
    engine = recorded(gpu, Settings("fp16", batch=2))
    calls = gpu.current[0].calls
    crops = small_crops(count)
    assert away(engine(crops), reference(crops)) <= 1
    (graph,) = gpu.graphs
    assert graph.replays == (count + 1) // 2 and gpu.current[0].calls == calls
    assert engine.describe()["provider"] == "CUDA graph"
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine(crops)


def test_answers_from_a_gpu_are_the_callers_own(gpu: types.SimpleNamespace) -> None:
    engine = recorded(gpu, Settings(batch=1))
    first, _ = engine(small_crops(1, seed=1))
    kept = first.copy()
    engine(small_crops(1, seed=2))
    assert (first == kept).all()


def test_a_crop_that_is_on_the_gpu_waits_for_its_maker_only(gpu: types.SimpleNamespace) -> None:
    engine, crops = recorded(gpu, Settings(batch=1)), small_crops(2)
    there = types.SimpleNamespace(crops=crops, __cuda_array_interface__={})
    before = Stream.waited
    assert away(engine(there), reference(crops)) <= 1
    assert Stream.waited - before == 100 + 2


@pytest.mark.parametrize(("fails", "told"), [("CUDA out of memory. Tried to allocate 2 GiB", "no memory left"),
                                             ("CUDA error: unspecified launch failure", "launch failure")])  # fmt: skip
def test_a_gpu_that_fails_while_loading_is_said(gpu: types.SimpleNamespace, fails: str, told: str) -> None:
    with pytest.raises(EngineError, match=told) as caught:
        recorded(gpu, Settings(), fails)
    assert "--engine" in caught.value.hint


def test_a_gpu_that_is_lost_while_running_is_said(gpu: types.SimpleNamespace) -> None:
    engine = recorded(gpu, Settings())

    def lost() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure\nmore")

    gpu.graphs[0].replay = lost
    with pytest.raises(EngineError, match="launch failure"):
        engine(small_crops(1))


def test_with_cuda_half_precision_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ([CARD], ""))
    monkeypatch.setattr(engine_torch, "version", lambda: "2.13.0+cu130")
    assert BACKEND.precisions == ("fp16", "fp32") and BACKEND.variant("fp16") == "fp16"
    state = BACKEND.usable()
    assert state.ok and state.automatic and state.device == CARD.name
    assert BACKEND.key(Settings("fp16"))["capability"] == "8.6" and "driver" in BACKEND.key(Settings("fp16"))
    monkeypatch.setattr(engine_torch, "version", lambda: "2.13.0+cpu")
    assert list(BACKEND.precisions) == ["fp32"], "a build for processors sees no GPU"


@pytest.mark.gpu
def test_on_a_real_gpu_it_computes_what_the_reference_does() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that torch can use")
    for model, settings in ((MODEL, Settings("fp32", batch=2)), (HALF, Settings("fp16", batch=2))):
        engine, crops = BACKEND.load(model, b"", settings), small_crops(5)
        assert away(engine(crops), reference(crops)) <= 2
        there = torch.from_numpy(crops).cuda()
        assert away(engine(there), reference(crops)) <= 2  # type: ignore[arg-type]
        engine.close()


# ---- Torch-TensorRT


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch, gpu: types.SimpleNamespace) -> types.SimpleNamespace:
    """A torch_tensorrt that makes plans of the fake TensorRT, or modules of what it was given."""
    driver = FakeDriver()
    made = types.SimpleNamespace(refuses="", fails="", driver=driver, calls=[], library=FakeLibrary(driver))

    def whole(program: Any, *, inputs: list[Any], require_full_compilation: bool, timing_cache_path: str) -> bytes:
        made.calls.append("engine")
        assert require_full_compilation and inputs[0].dtype == torch.uint8
        if made.refuses:
            raise ValueError(made.refuses)
        told = {"version": made.library.__version__, "shape": list(inputs[0].shape)}
        return json.dumps(told).encode() + b"\n" + HALF

    def parts(program: Any, *, inputs: list[Any], timing_cache_path: str) -> Any:
        made.calls.append("module")
        if made.fails:
            raise RuntimeError(made.fails)
        return program

    def save(module: Any, path: str, *, output_format: str, arg_inputs: list[Any]) -> None:
        Path(path).write_bytes(to_torch.to_bytes(module))

    def load(path: str) -> Any:
        module = Program(torch.export.load(path).module())
        gpu.current.append(module)
        return types.SimpleNamespace(module=lambda: module)

    dynamo = types.SimpleNamespace(convert_exported_program_to_serialized_trt_engine=whole, compile=parts)
    fake = types.SimpleNamespace(dynamo=dynamo, save=save, load=load)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", fake)
    monkeypatch.setitem(sys.modules, "tensorrt", made.library)
    monkeypatch.setattr(cuda, "load_driver", lambda: driver)
    return made


def test_a_program_that_tensorrt_takes_whole_becomes_a_plan(compiler: types.SimpleNamespace) -> None:
    settings, crops = Settings("fp16", batch=2), small_crops(3)
    built = COMPILED.build(HALF, settings, print)
    assert COMPILED.inspect(built)["form"] == "engine" and compiler.calls == ["engine"]
    engine: Engine = COMPILED.load(HALF, built, settings)
    assert engine.name == "torch-tensorrt" and away(engine(crops), reference(crops, HALF)) == 0
    engine.close()
    assert not compiler.driver.kept


def test_what_it_does_not_take_whole_becomes_a_compiled_module(compiler: types.SimpleNamespace) -> None:
    compiler.refuses = "no converter for aten.pixel_shuffle\nTraceback"
    settings, crops = Settings("fp16", batch=2), small_crops(3)
    said: list[str] = []
    built = COMPILED.build(HALF, settings, said.append)
    told = COMPILED.inspect(built)
    assert told["form"] == "module" and told["refused"] == "no converter for aten.pixel_shuffle"
    assert any("pixel_shuffle" in line for line in said) and compiler.calls == ["engine", "module"]
    engine = COMPILED.load(HALF, built, settings)
    assert away(engine(crops), reference(crops)) <= 2 and engine.describe()["engine"] == "torch-tensorrt"


def test_a_model_that_it_cannot_compile_at_all_is_said(compiler: types.SimpleNamespace) -> None:
    compiler.refuses, compiler.fails = "no", "CUDA out of memory"
    with pytest.raises(EngineError, match="out of memory") as caught:
        COMPILED.build(HALF, Settings("fp16"), print)
    assert "--engine" in caught.value.hint


def test_without_a_gpu_nothing_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ([], "no driver"))
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    for work in (
        lambda: COMPILED.build(HALF, Settings("fp16"), print),
        lambda: COMPILED.load(HALF, b"", Settings("fp16")),
    ):
        with pytest.raises(ExtraError, match="no driver"):
            work()


def test_a_library_without_its_tensorrt_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ([CARD], ""))
    monkeypatch.delitem(sys.modules, "torch_tensorrt", raising=False)
    (tmp_path / "torch_tensorrt.py").write_text("raise Exception('Could not find libnvinfer.so.11')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ExtraError, match="libnvinfer"):
        COMPILED.build(HALF, Settings("fp16"), print)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(package: str) -> str:
        if package == "tensorrt":
            raise importlib.metadata.PackageNotFoundError(package)
        return "1"

    monkeypatch.setattr(importlib.metadata, "version", version)
    state = COMPILED.usable()
    assert not state.ok and "not installed: tensorrt." in state.why and not state.version


def test_the_real_library_has_the_calls_that_are_made() -> None:
    spec = importlib.util.find_spec("torch_tensorrt")
    if spec is None or spec.origin is None:
        pytest.skip("torch_tensorrt is not installed: pip install --no-deps torch_tensorrt")
    root = Path(spec.origin).parent

    def takes(file: str, name: str) -> set[str]:
        tree = ast.parse((root / file).read_text("utf-8"))
        found = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
        return {a.arg for a in (*found.args.args, *found.args.kwonlyargs)}

    whole = takes("dynamo/_compiler.py", "convert_exported_program_to_serialized_trt_engine")
    assert {"inputs", "require_full_compilation", "timing_cache_path"} <= whole
    assert {"inputs", "timing_cache_path"} <= takes("dynamo/_compiler.py", "compile")
    assert {"file_path", "output_format", "arg_inputs"} <= takes("_compile.py", "save")
    assert {"file_path"} <= takes("_compile.py", "load")
