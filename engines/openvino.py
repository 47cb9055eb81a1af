"""OpenVINO on the CPU: FP32, BF16 where the processor has it, and the int8 form.

OpenVINO's package imports a model converter that reports its use to an analytics host. Nothing here needs the
converter, so it is kept from being imported; the library itself uses no network.
"""

from __future__ import annotations

import io
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

import numpy as np

from engines import envelope, machine
from engines.base import Batch, Engine, Progress, Settings, Usable, in_batches
from engines.metadata import identify
from unmask_rt.errors import EngineError, ExtraError

_INSTALL = "Install it with: pip install 'unmask-rt[openvino]'"
_CONVERTER = "openvino.tools.ovc"
_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
_LARGE_POOL = 5
_import_lock = threading.Lock()


def library() -> Any:
    """The module openvino, imported without its converter and the telemetry in it.

    Raises:
        ExtraError: not installed, or it cannot be loaded.
    """
    with _import_lock:
        loaded: ModuleType | None = sys.modules.get("openvino")
        if loaded is not None:
            return loaded
        sys.modules[_CONVERTER] = None  # type: ignore[assignment] # how Python marks what must not be imported
        try:
            loaded = import_module("openvino")
        except ImportError as error:
            raise ExtraError(f"the engine 'openvino' cannot be used here: {error}", _INSTALL) from error
        finally:
            del sys.modules[_CONVERTER]
        return loaded


class OpenVinoEngine:
    """Runs a compiled model of one batch size.

    Args:
        compiled: as OpenVINO's core gives it.
        model: bytes of the model that it was compiled from: who it is.
        settings: what it was compiled with.
    """

    name = "openvino"

    def __init__(self, compiled: Any, model: bytes, settings: Settings) -> None:
        self.spec, self.sha256 = identify(model)
        self._settings = settings
        self._request: Any = compiled.create_infer_request()
        self._version = version()
        side = self.spec.crop_size
        self._shape = settings.batch, side, side, 3

    def describe(self) -> Mapping[str, Any]:
        return {
            "engine": self.name,
            "version": self._version,
            "provider": "CPU",
            "precision": self._settings.precision,
            "batch": self._settings.batch,
            "threads": self._settings.threads,
            "model": self.spec.name,
            "crop_size": self.spec.crop_size,
            "model_sha256": self.sha256,
        }

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        hint = "Run `unmask-rt doctor`; try another --engine."
        if self._request is None:
            raise EngineError("OpenVINO failed: the engine is closed", hint)
        if crop.dtype != np.uint8 or crop.shape[1:] != self._shape[1:]:
            raise EngineError(f"OpenVINO failed: crops are {crop.dtype}{list(crop.shape)}, not {self._shape}", hint)
        try:
            return in_batches(self._run, np.ascontiguousarray(crop), self._settings.batch)
        except RuntimeError as error:
            raise EngineError(f"OpenVINO failed: {_line(error)}", hint) from error

    def _run(self, crop: Batch) -> tuple[Batch, Batch]:
        found = self._request.infer({0: crop}, share_inputs=True)
        return found[0], found[1]

    def close(self) -> None:
        self._request = None


class OpenVinoBackend:
    """Compiles for this processor; what it compiled can be kept."""

    name = "openvino"
    precisions: tuple[str, ...] = ("fp32", "bf16", "int8")
    builds = True

    def usable(self) -> Usable:
        if not version():
            return Usable(False, f"not installed. {_INSTALL}")
        return Usable(True, "" if has_bf16() else "this processor has no BF16", version(), "cpu")

    def variant(self, precision: str) -> str:
        return "int8" if precision == "int8" else "fp32"

    def key(self, settings: Settings) -> Mapping[str, str]:
        options = ", ".join(f"{name}={value}" for name, value in sorted(_options(settings).items()))
        return {"version": version(), "processor": machine.instruction_set(), "options": options}

    def build(self, model: bytes, settings: Settings, progress: Progress) -> bytes:
        openvino = library()
        spec, _ = identify(model)
        if settings.precision == "bf16" and not has_bf16():
            raise EngineError("this processor does not compute in BF16", "Choose --precision fp32 or int8.")
        progress(f"compiling for this processor ({settings.precision})")
        try:
            core = openvino.Core()
            graph = core.read_model(model=model, weights=b"")
            graph.reshape({0: [settings.batch, spec.crop_size, spec.crop_size, 3]})
            _separate_pools(openvino, graph)
            compiled = core.compile_model(graph, "CPU", _options(settings))
            exported: io.BytesIO = compiled.export_model()
            layers = _layers(compiled)
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO cannot compile this model: {_line(error)}", "Choose another --engine or --precision."
            ) from error
        return envelope.pack({**self._facts(settings), **layers}, exported.getvalue())

    def load(self, model: bytes, built: bytes, settings: Settings) -> Engine:
        openvino = library()
        built = built or self.build(model, settings, lambda text: None)
        body = envelope.unpack(built, self._facts(settings))
        try:
            compiled = openvino.Core().import_model(body, "CPU", _options(settings))
        except RuntimeError as error:
            raise EngineError(
                f"OpenVINO cannot load what was compiled: {_line(error)}",
                "Build it again with `unmask-engine build --backend openvino`.",
            ) from error
        return OpenVinoEngine(compiled, model, settings)

    def inspect(self, built: bytes) -> Mapping[str, Any]:
        return envelope.facts(built)

    def _facts(self, settings: Settings) -> dict[str, Any]:
        """What has to be the same where a compiled model is loaded."""
        return {"backend": self.name, "precision": settings.precision, "batch": settings.batch, **self.key(settings)}


BACKEND = OpenVinoBackend()


def version() -> str:
    """Full build version of the installed package, "" where there is none."""
    return machine.package_version("openvino")


def has_bf16() -> bool:
    """Whether the processor multiplies BF16 numbers by itself."""
    features = machine.processor()[1]
    return any(feature in features for feature in _BF16)


def _options(settings: Settings) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(settings.threads),
        "INFERENCE_PRECISION_HINT": "bf16" if settings.precision == "bf16" else "f32",
        # Pinned threads would sit on the cores that decoding and encoding need.
        "ENABLE_CPU_PINNING": "NO",
    }


def _separate_pools(openvino: Any, graph: Any) -> None:
    """Takes each large square maximum as one along the rows and one along the columns: the same number, much sooner."""
    for node in graph.get_ordered_ops():
        if node.get_type_name() != "MaxPool":
            continue
        told = node.get_attributes()
        (rows, columns), pads = told["kernel"], (*told["pads_begin"], *told["pads_end"])
        if rows != columns or rows < _LARGE_POOL or {*told["strides"], *told["dilations"]} != {1}:
            continue
        made = node.input_value(0)
        for kernel, begin, end in (((1, columns), (0, pads[1]), (0, pads[3])), ((rows, 1), (pads[0], 0), (pads[2], 0))):
            made = openvino.opset8.max_pool(made, [1, 1], [1, 1], list(begin), list(end), list(kernel)).output(0)
        node.output(0).replace(made)


def _layers(compiled: Any) -> dict[str, Any]:
    """How many layers a compiled model has, and how many compute in which precision."""
    told = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    used = Counter(info["runtimePrecision"].astype(str) for info in told if "runtimePrecision" in info)
    return {"layers": len(told), "layers_by_precision": dict(sorted(used.items()))}


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
