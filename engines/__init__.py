"""From a trained generator to something fast: one file a backend, all behind `engines.base.Backend`.

`open_engine` is the only way in. Backends are imported when they are asked for, so a missing one is a clear message.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, cast

from unmask_rt.errors import UsageError

if TYPE_CHECKING:
    from engines.base import Backend, Engine

BACKENDS: dict[str, str] = {
    "onnxruntime": "engines.onnxruntime:BACKEND",
    "onnxruntime-cuda": "engines.onnxruntime:CUDA",
    "onnxruntime-tensorrt": "engines.onnxruntime:TENSORRT",
    "onnxruntime-directml": "engines.onnxruntime:DIRECTML",
    "onnxruntime-coreml": "engines.onnxruntime:COREML",
    "openvino": "engines.openvino:BACKEND",
    "tensorrt": "engines.tensorrt:TENSORRT",
    "tensorrt-rtx": "engines.tensorrt:TENSORRT_RTX",
    "torch-tensorrt": "engines.torch_tensorrt:BACKEND",
    "torch": "engines.torch:BACKEND",
}
"""Name on the command line -> where its backend lives; the first runs everywhere."""
_log = logging.getLogger(__name__)


def backend(name: str) -> Backend:
    """The backend of this name; its file is imported, its library is not.

    Raises:
        UsageError: no backend has this name.
    """
    if name not in BACKENDS:
        raise UsageError(f"there is no engine {name!r}", f"Choose one of: auto, {', '.join(BACKENDS)}.")
    module, _, attribute = BACKENDS[name].partition(":")
    return cast("Backend", getattr(import_module(module), attribute))


def open_engine(name: str, model: bytes, *, threads: int = 1, precision: str = "auto") -> Engine:
    """Loads a model into a backend. An engine other than the reference has passed the parity gate.

    Where a backend is installed and its device is not there, ONNX Runtime on the processor runs and the log says so.

    Args:
        name: a key of `BACKENDS`, or "auto" for the fastest that is installed and usable (measured once).
        model: bytes of an exported ONNX model.
        threads: threads inside one call.
        precision: one of `engines.base.PRECISIONS`, or "auto" for the fastest that the backend has here.

    Raises:
        UsageError: no backend or precision has this name.
        ExtraError: the backend is not installed, or cannot be used with this device.
        EngineError: the engine cannot be built, or is too far from the reference.
        ModelError: the model is damaged or foreign, or lacks the form that the precision needs.
    """
    from engines import select
    from engines.base import PRECISIONS, Settings
    from engines.fallback import FallbackEngine
    from engines.obtain import obtain, reference

    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"there is no precision {precision!r}", f"Choose one of: auto, {', '.join(PRECISIONS)}.")
    settings = Settings(threads=threads)
    state = backend(name).usable() if name != "auto" else None
    if state is not None and state.version and not state.ok and not state.device:
        _log.warning("the engine %s has no device here and the processor goes on instead: %s", name, state.why)
        return reference(model, threads)
    if name != "auto" and precision != "auto":
        engine = obtain(name, model, replace(settings, precision=precision))
    else:
        choice, engine = select.choose(BACKENDS if name == "auto" else [name], model, settings, precision)
        _log.info("engine: %s", choice.line())
        for label, reason in choice.rejected.items():
            _log.info("engine %s takes no part: %s", label, reason)
        name = choice.name
    if backend(name).usable().device == "cpu":
        return engine
    return FallbackEngine(engine, lambda: reference(model, threads))
