"""TensorRT: what it does with a device (behind a fake one), and what TensorRT-RTX really builds without."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engines import backend, cuda, envelope, fp16, machine, open_engine, plan_build, variants
from engines.base import Engine, Settings
from engines.tensorrt import RTX_TARGETS, TENSORRT, TENSORRT_RTX, TensorRtBackend
from tests.engine_models import SIDE, small_crops, small_model
from tests.fake_tensorrt import ATTRIBUTES, CALLS, LOST, OUT_OF_MEMORY, DataType, FakeDriver, FakeLibrary
from unmask_rt import models
from unmask_rt.errors import EngineError, ExtraError, ModelError, UsageError

MODEL = small_model()
HALF = fp16.make(MODEL)
FP16 = Settings("fp16")
AMPERE = machine.Gpu("NVIDIA GeForce RTX 3060", (8, 6), "580.10")


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    made = FakeDriver()
    monkeypatch.setattr(cuda, "load_driver", lambda: made)
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ([AMPERE], ""))
    return made


@pytest.fixture
def library(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    """The fake in place of TensorRT-RTX; builds happen in this process, where the fake is."""
    made = FakeLibrary(driver)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", made)
    versions = importlib.metadata.version
    monkeypatch.setattr(
        importlib.metadata, "version", lambda name: made.__version__ if name == "tensorrt_rtx" else versions(name)
    )

    def build(module: str, model: bytes, settings: Settings, targets: Any, facts: Any, timing: Path | None) -> bytes:
        return plan_build.plan_of(made, model, settings, facts, None)[0]

    monkeypatch.setattr(plan_build, "build", build)
    return made


def opened(settings: Settings = FP16, built: bytes = b"") -> Engine:
    return TENSORRT_RTX.load(HALF, built, settings)


@pytest.fixture
def engine(library: FakeLibrary) -> Iterator[Engine]:
    made = opened(Settings("fp16", batch=2))
    yield made
    made.close()


def reference(crops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return open_engine("onnxruntime", HALF, precision="fp32")(crops)


# ---- running


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_any_number_of_crops_goes_through_a_plan_of_two(engine: Engine, count: int) -> None:
    crops = small_crops(count)
    face, mask = engine(crops)
    wanted = reference(crops)
    assert (face == wanted[0]).all() and (mask == wanted[1]).all() and mask.std() > 5


def test_crops_that_are_not_contiguous_are_taken_as_they_look(engine: Engine) -> None:
    crops = small_crops(2)[:, :, ::-1]
    assert (engine(crops)[0] == reference(np.ascontiguousarray(crops))[0]).all()


def test_answers_are_the_callers_own(engine: Engine) -> None:
    first, mask = engine(small_crops(1, seed=1))
    copies = first.copy(), mask.copy()
    engine(small_crops(1, seed=2))
    assert (first == copies[0]).all() and (mask == copies[1]).all()


def test_no_crop_at_all_is_no_answer_at_all(engine: Engine) -> None:
    face, mask = engine(small_crops(0))
    assert face.shape == (0, SIDE, SIDE, 3) and mask.shape == (0, SIDE, SIDE)


def test_the_order_and_the_names_of_the_tensors_are_the_plans(library: FakeLibrary) -> None:
    library.turned = True
    engine, crops = opened(), small_crops(1)
    assert (engine(crops)[0] == reference(crops)[0]).all()
    engine.close()


def test_after_one_warm_call_a_call_is_one_launch(library: FakeLibrary, driver: FakeDriver) -> None:
    engine = opened()
    assert driver.called.count("cuStreamBeginCapture_v2") == 1 and engine.describe()["provider"] == "CUDA graph"
    driver.called.clear()
    engine(small_crops(1))
    assert driver.called == ["cuCtxSetCurrent", "cuMemcpyHtoDAsync_v2", "cuGraphLaunch", "cuStreamSynchronize"]
    engine.close()


def test_a_library_that_cannot_be_recorded_runs_all_the_same(library: FakeLibrary, driver: FakeDriver) -> None:
    library.uncapturable = True
    engine, crops = opened(), small_crops(1)
    assert (engine(crops)[0] == reference(crops)[0]).all()
    assert engine.describe()["provider"] == "CUDA" and "cuGraphLaunch" not in driver.called
    engine.close()


def test_buffers_are_made_once_and_all_given_back(library: FakeLibrary, driver: FakeDriver) -> None:
    engine = opened(Settings("fp16", batch=2))
    held = len(driver.kept)
    assert held == 6  # three on the device, three pinned
    for _ in range(3):
        engine(small_crops(2))
    assert len(driver.kept) == held and library.alive == 1
    engine.close()
    engine.close()
    assert not driver.kept and library.alive == 0
    assert driver.called.count("cuStreamDestroy_v2") == driver.called.count("cuDevicePrimaryCtxRelease_v2") == 1
    assert driver.called.count("cuGraphExecDestroy") == 1


def test_another_thread_makes_the_device_its_own_first(engine: Engine, driver: FakeDriver) -> None:
    driver.called.clear()
    thread = threading.Thread(target=engine, args=(small_crops(1),))
    thread.start()
    thread.join()
    assert driver.called[0] == "cuCtxSetCurrent"


class OnGpu:
    """Crops in the memory of the (fake) device, as torch shows its own."""

    def __init__(self, crops: np.ndarray, **changed: Any) -> None:
        self.crops = crops
        self.__cuda_array_interface__ = {
            "shape": crops.shape, "typestr": "|u1", "data": (crops.ctypes.data, False), "version": 3,
            "strides": None, "stream": 1, **changed,
        }  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 5])
def test_crops_that_are_on_the_gpu_stay_there(engine: Engine, driver: FakeDriver, count: int) -> None:
    crops = small_crops(count)
    driver.called.clear()
    face, mask = engine(OnGpu(crops))  # type: ignore[arg-type]
    wanted = reference(crops)
    assert (face == wanted[0]).all() and (mask == wanted[1]).all()
    assert "cuMemcpyHtoDAsync_v2" not in driver.called
    assert driver.called[1] == "cuStreamSynchronize", "whoever makes the crops may not have finished"


@pytest.mark.parametrize(
    "changed", [{"strides": (1, 2, 3, 4)}, {"typestr": "<f4"}, {"shape": (1, 16, 16, 3)}], ids=["gaps", "type", "side"]
)
def test_other_things_on_the_gpu_are_refused(engine: Engine, changed: dict[str, Any]) -> None:
    with pytest.raises(EngineError):
        engine(OnGpu(small_crops(1), **changed))  # type: ignore[arg-type]


@pytest.mark.parametrize("crops", [small_crops(1)[:, :16], small_crops(1).astype(np.float32)], ids=["side", "type"])
def test_crops_of_another_shape_or_type_are_refused(engine: Engine, crops: Any) -> None:
    with pytest.raises(EngineError, match="uint8"):
        engine(crops)


def test_it_says_what_it_is(engine: Engine) -> None:
    told = engine.describe()
    assert told["engine"] == "tensorrt-rtx" and told["precision"] == "fp16" and told["batch"] == 2
    assert told["model_sha256"] == open_engine("onnxruntime", MODEL).sha256, "who the fp32 model is"


# ---- what goes wrong


@pytest.mark.parametrize("chosen", [TENSORRT, TENSORRT_RTX], ids=lambda b: b.name)
def test_a_missing_library_is_said_with_what_to_do(chosen: TensorRtBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> str:
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    for module in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ([AMPERE], ""))
    state = chosen.usable()
    assert not state.ok and f"unmask-rt[{chosen.name}]" in state.why
    for work in (
        lambda: chosen.load(HALF, b"x", Settings("fp16")),
        lambda: chosen.build(HALF, Settings("fp16"), print),
    ):
        with pytest.raises(ExtraError) as caught:
            work()
        assert f"unmask-rt[{chosen.name}]" in caught.value.hint


def test_without_a_device_no_runtime_is_made(
    library: FakeLibrary, driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = TENSORRT_RTX.build(HALF, Settings("fp16", target_gpu=("SM86",)), print)
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ([], "no driver"))
    assert not TENSORRT_RTX.usable().ok and "no driver" in TENSORRT_RTX.usable().why
    with pytest.raises(ExtraError, match="needs an NVIDIA GPU"):
        opened(built=built)
    # The driver is there but its devices are gone between one look and the next.
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ([AMPERE], ""))
    driver.devices = 0
    with pytest.raises(ExtraError, match="no device"):
        opened(built=built)
    assert library.alive == 0


def test_where_there_is_no_device_the_tool_goes_on_with_the_processor(
    library: FakeLibrary, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ([], "no driver"))
    engine, crops = open_engine("tensorrt-rtx", MODEL), small_crops(1)
    assert engine.name == "onnxruntime" and (engine(crops)[0] == open_engine("onnxruntime", MODEL)(crops)[0]).all()
    assert "tensorrt-rtx has no device here" in caplog.text and "no driver" in caplog.text
    assert library.alive == 0


@pytest.mark.parametrize("broken", ["deserialize", "context", "address", "run"])
def test_what_the_library_refuses_is_an_error_with_its_reason(
    library: FakeLibrary, driver: FakeDriver, broken: str
) -> None:
    built = TENSORRT_RTX.build(HALF, Settings("fp16"), print)
    library.broken = broken
    with pytest.raises(EngineError) as caught:
        opened(built=built)
    assert caught.value.hint and not driver.kept and library.alive == 0
    told = {"deserialize": "not compatible", "context": "out of memory", "run": "launch failure"}.get(broken, "")
    assert told in caught.value.message and "warning" not in caught.value.message


def test_a_plan_of_another_version_is_refused_by_name(library: FakeLibrary) -> None:
    built = TENSORRT_RTX.build(HALF, Settings("fp16"), print)
    library.__version__ = "1.8.0.1"
    with pytest.raises(EngineError, match=r"1\.7\.1\.116.*1\.8\.0\.1") as caught:
        opened(built=built)
    assert "build" in caught.value.hint and library.alive == 0


def test_a_plan_for_another_gpu_is_refused_by_name(library: FakeLibrary) -> None:
    with pytest.raises(EngineError, match=r"SM89.*SM86"):
        opened(built=TENSORRT_RTX.build(HALF, Settings("fp16", target_gpu=("SM89",)), print))
    opened(built=TENSORRT_RTX.build(HALF, Settings("fp16", target_gpu=("SM86", "SM89")), print)).close()


def test_a_plan_of_another_model_batch_or_precision_is_refused(library: FakeLibrary) -> None:
    built = TENSORRT_RTX.build(HALF, Settings("fp16"), print)
    with pytest.raises(EngineError, match="source"):
        TENSORRT_RTX.load(fp16.make(small_model(seed=5)), built, Settings("fp16"))
    with pytest.raises(EngineError, match="batch"):
        opened(Settings("fp16", batch=2), built)
    with pytest.raises(EngineError, match="precision"):
        opened(Settings("int8"), built)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:40], lambda b: b[:-1] + bytes([b[-1] ^ 1]),
                                    lambda b: b"plan"], ids=["cut", "short", "altered", "foreign"])  # fmt: skip
def test_a_damaged_plan_never_reaches_the_library(library: FakeLibrary, damage: Any) -> None:
    built = damage(TENSORRT_RTX.build(HALF, Settings("fp16"), print))
    with pytest.raises(EngineError):
        opened(built=built)
    with pytest.raises(EngineError):
        TENSORRT_RTX.inspect(built)
    assert library.alive == 0


def test_a_plan_with_tensors_of_another_type_is_refused(library: FakeLibrary, driver: FakeDriver) -> None:
    library.kind = DataType.HALF
    with pytest.raises(EngineError, match="in0"):
        opened()
    assert not driver.kept


@pytest.mark.parametrize("call", ["cuMemAlloc_v2", "cuMemHostAlloc"])
def test_no_memory_on_the_device_is_said(library: FakeLibrary, driver: FakeDriver, call: str) -> None:
    driver.fails[call] = OUT_OF_MEMORY
    with pytest.raises(cuda.DeviceError, match="no memory left") as caught:
        opened()
    assert caught.value.code == OUT_OF_MEMORY and not driver.kept and library.alive == 0


@pytest.mark.parametrize("call", ["cuGraphLaunch", "cuStreamSynchronize", "cuMemcpyHtoDAsync_v2", "cuCtxSetCurrent"])
def test_a_device_that_is_lost_is_said_and_can_be_closed(library: FakeLibrary, driver: FakeDriver, call: str) -> None:
    engine = opened()
    driver.fails |= {call: LOST, "cuMemFree_v2": LOST, "cuGraphExecDestroy": LOST}
    with pytest.raises(cuda.DeviceError, match="CUDA_ERROR_LAUNCH_FAILED") as caught:
        engine(small_crops(1))
    assert "nvidia-smi" in caught.value.hint
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine(small_crops(1))


def test_a_device_that_is_lost_while_recording_is_not_taken_for_a_shy_library(
    library: FakeLibrary, driver: FakeDriver
) -> None:
    driver.fails["cuStreamEndCapture"] = LOST
    with pytest.raises(cuda.DeviceError):
        opened()
    assert not driver.kept


def test_a_driver_that_does_not_start_is_said(library: FakeLibrary, driver: FakeDriver) -> None:
    driver.fails["cuInit"] = 803
    with pytest.raises(ExtraError, match="803"):
        opened()


def test_no_driver_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("ctypes.CDLL", missing)
    with pytest.raises(ExtraError, match="no NVIDIA driver"):
        cuda.load_driver()


# ---- building


def test_a_build_names_the_network_and_takes_the_targets_in_order(library: FakeLibrary) -> None:
    built = TENSORRT_RTX.build(HALF, Settings("fp16", batch=3, target_gpu=("SM89", "SM86")), print)
    config = library.configs[0]
    assert config.num_compute_capabilities == 2
    assert [config.capabilities[i].name for i in (0, 1)] == ["SM89", "SM86"]
    told = TENSORRT_RTX.inspect(built)
    assert told["targets"] == "SM89 SM86" and told["batch"] == 3 and told["layers_by_kind"] == {"CONVOLUTION": 1}
    assert told["tensors"]["map"] == f"UINT8[3, {SIDE}, {SIDE}]" and told["model"] == "small"


@pytest.mark.parametrize(("broken", "told"), [("parse", "UNSUPPORTED_NODE"), ("build", "out of memory")])
def test_a_refused_build_says_why(library: FakeLibrary, broken: str, told: str) -> None:
    library.broken = broken
    with pytest.raises(EngineError, match=told) as caught:
        TENSORRT_RTX.build(HALF, Settings("fp16"), print)
    assert "--engine" in caught.value.hint


def test_targets_that_a_library_lacks_are_a_usage_error(library: FakeLibrary) -> None:
    with pytest.raises(UsageError, match="SM90"):
        TENSORRT_RTX.build(HALF, Settings("fp16", target_gpu=("SM86", "SM90")), print)
    with pytest.raises(UsageError) as caught:
        TENSORRT.build(HALF, Settings("fp16", target_gpu=("SM86",)), print)
    assert "GPU that is here" in caught.value.hint


def test_a_gpu_that_is_no_target_is_named(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "nvidia_gpus", lambda: ([machine.Gpu("NVIDIA H100", (9, 0), "580.10")], ""))
    state = TENSORRT_RTX.usable()
    assert not state.ok and "H100" in state.why and "SM90" in state.why


def test_a_key_tells_gpu_driver_and_version_apart(library: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    here = TENSORRT_RTX.key(Settings("fp16"))
    assert here == {"version": "1.7.1.116", "targets": "SM86", "gpu": AMPERE.name, "driver": "580.10"}
    assert "gpu" not in TENSORRT_RTX.key(Settings("fp16", target_gpu=("SM86",))), "the same on every machine"


def test_the_timing_cache_goes_on_from_what_was_kept(library: FakeLibrary) -> None:
    _, kept = plan_build.plan_of(library, HALF, Settings("fp16"), {}, b"old")
    assert kept == b"old."
    assert plan_build.plan_of(library, HALF, Settings("fp16"), {}, None)[1] is None


def test_a_builder_that_dies_is_an_error_not_the_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EngineError, match="died") as caught:
        plan_build.build("dying", HALF, Settings("fp16"), ("SM86",), {}, None)
    assert "memory" in caught.value.hint
    with pytest.raises(ExtraError, match="not_there"):
        plan_build.build("not_there", HALF, Settings("fp16"), ("SM86",), {}, None)


def test_a_child_builds_what_the_parent_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stand_in.py").write_text(
        "import sys\nfrom tests.fake_tensorrt import FakeDriver, FakeLibrary\n"
        "sys.modules[__name__] = FakeLibrary(FakeDriver())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    timing = tmp_path / "deeper" / "timing.bin"
    built = plan_build.build("stand_in", HALF, Settings("fp16"), ("SM86",), {"version": "1"}, timing)
    expected, _ = plan_build.plan_of(FakeLibrary(FakeDriver()), HALF, Settings("fp16"), {"version": "1"}, None)
    assert built == expected and timing.read_bytes() == b"."
    plan_build.build("stand_in", HALF, Settings("fp16"), ("SM86",), {"version": "1"}, timing)
    assert timing.read_bytes() == b".."


def test_engines_are_found_by_their_names() -> None:
    assert backend("tensorrt") is TENSORRT and backend("tensorrt-rtx") is TENSORRT_RTX
    for chosen in (TENSORRT, TENSORRT_RTX):
        assert chosen.variant("fp16") == "fp16" and chosen.variant("int8") == "int8-symmetric"


# ---- the real library


@pytest.fixture(scope="module")
def real() -> Any:
    if not TENSORRT_RTX.usable().version:
        pytest.skip("tensorrt_rtx is not installed: pip install 'unmask-rt[tensorrt-rtx]'")
    return importlib.import_module("tensorrt_rtx")


@pytest.mark.parametrize("call", CALLS)
def test_the_fake_has_the_real_signatures(real: Any, call: str) -> None:
    owner, method = call.split(".")
    text = getattr(getattr(real, owner), method).__doc__
    names = [parameters(found) for found in re.findall(rf"{method}\(self: [^)]*\)", text)]
    assert any(tuple(found[: len(CALLS[call])]) == CALLS[call] for found in names), text


def parameters(signature: str) -> list[str]:
    """Names of the arguments in a binding's own description, without self."""
    return re.findall(r"(\w+): ", signature.partition("(")[2])[1:]


def test_the_fake_takes_what_it_says_it_takes() -> None:
    library = FakeLibrary(FakeDriver())
    names = {name for call in CALLS for name in [call.split(".")[1]] if name != "__init__"}
    classes = [value for value in vars(sys.modules["tests.fake_tensorrt"]).values() if inspect.isclass(value)]
    for call, wanted in CALLS.items():
        owner, method = call.split(".")
        if method == "__init__" or owner in ("ILayer", "ITimingCache", "ParserError"):
            continue
        own = {"INetworkDefinition": "_Network", "OnnxParser": "_Parser", "IBuilderConfig": "_Config"}
        names_of = own.get(owner, "_" + owner.removeprefix("I").removeprefix("Cuda").removeprefix("Execution"))
        where = library.ILogger if owner == "ILogger" else next(c for c in classes if c.__name__ == names_of)
        assert tuple(inspect.signature(getattr(where, method)).parameters)[1:] == wanted, call
    assert "execute_async_v3" in names


@pytest.mark.parametrize("owner", ATTRIBUTES)
def test_the_fake_has_the_real_attributes(real: Any, owner: str) -> None:
    for name in ATTRIBUTES[owner]:
        assert hasattr(getattr(real, owner), name), f"{owner}.{name}"


def test_targets_and_types_are_the_real_ones(real: Any) -> None:
    named = set(real.ComputeCapability.__members__) - {"NONE", "CURRENT"}
    assert set(RTX_TARGETS) == named
    assert hasattr(real.DataType, "UINT8") and hasattr(real.TensorIOMode, "INPUT")
    assert hasattr(real.ProfilingVerbosity, "DETAILED") and hasattr(real.ILogger.Severity, "INTERNAL_ERROR")


@pytest.mark.slow
@pytest.mark.parametrize("targets", [("SM86",), ("SM89",), ("SM120",), ("SM86", "SM89", "SM120")], ids="+".join)
def test_tensorrt_rtx_builds_without_a_gpu(real: Any, targets: tuple[str, ...]) -> None:
    settings = Settings("fp16", batch=2, target_gpu=targets)
    built = TENSORRT_RTX.build(HALF, settings, print)
    assert TENSORRT_RTX.build(HALF, settings, print) == built, "the same bytes each time"
    told = TENSORRT_RTX.inspect(built)
    assert told["targets"] == " ".join(targets) and told["version"] == real.__version__
    assert told["tensors"]["crop"] == f"UINT8[2, {SIDE}, {SIDE}, 3]"
    assert told["layers_by_kind"]["CONVOLUTION"] == 3 and told["layers_by_precision"]["HALF"] > 10
    assert envelope.unpack(built, {"precision": "fp16"})[:12].find(b"vtrt") >= 0


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_tensorrt_rtx_builds_the_bundled_model(
    real: Any, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path))
    model = models.load_unmask_model()[0]
    form = variants.obtain(model, TENSORRT_RTX.variant(precision))
    settings = Settings(precision, target_gpu=("SM86", "SM89", "SM120"))
    built = TENSORRT_RTX.build(form, settings, print)
    assert TENSORRT_RTX.build(form, settings, print) == built, "the same bytes each time"
    told = TENSORRT_RTX.inspect(built)
    assert told["targets"] == "SM86 SM89 SM120" and told["source"] == variants.source_of(model)
    assert ("INT8" in told["layers_by_precision"]) == (precision == "int8") and "HALF" in told["layers_by_precision"]


def test_loading_it_without_a_gpu_is_said_and_nothing_crashes(real: Any) -> None:
    if machine.nvidia_gpus()[0]:
        pytest.skip("this machine has a GPU")
    built = TENSORRT_RTX.build(HALF, Settings("fp16", target_gpu=("SM86",)), print)
    with pytest.raises(ExtraError, match="needs an NVIDIA GPU"):
        TENSORRT_RTX.load(HALF, built, Settings("fp16"))
    with pytest.raises(ExtraError) as caught:
        TENSORRT_RTX.build(HALF, Settings("fp16"), print)
    assert "--target-gpu" in caught.value.hint
    code = "from engines.tensorrt import TENSORRT_RTX as b; print(b.usable().ok)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.strip() == "False"


def test_a_real_refusal_tells_its_reason(real: Any) -> None:
    with pytest.raises(EngineError, match="cannot read this model"):
        TENSORRT_RTX.build(MODEL, Settings("fp16", target_gpu=("SM86",)), print)  # uint8 inside, not at the doors only
    with pytest.raises(ModelError):
        TENSORRT_RTX.build(b"no model", Settings("fp16", target_gpu=("SM86",)), print)
