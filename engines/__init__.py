"""From a trained generator to something fast: one file a backend, all behind `engines.base.Backend`.

`open_engine` is the only way in. Backends are imported when they are asked for, so a missing one is a clear message.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from unmask_rt.errors import ExtraError, UsageError

if TYPE_CHECKING:
    from engines.base import Backend, Engine

BACKENDS: dict[str, str] = {
    "onnxruntime": "engines.onnxruntime:BACKEND",
    "openvino": "engines.openvino:BACKEND",
    "tensorrt": "engines.tensorrt:TENSORRT",
    "tensorrt-rtx": "engines.tensorrt:TENSORRT_RTX",
}
"""Name on the command line -> where its backend lives; the first runs everywhere."""


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
    """Loads a model into a backend.

    Args:
        name: a key of `BACKENDS`, or "auto".
        model: bytes of an exported ONNX model.
        threads: threads inside one call.
        precision: one of `engines.base.PRECISIONS`, or "auto".

    Raises:
        UsageError: no backend has this name.
        ExtraError: the backend is not installed or not usable here.
        ModelError: the model is damaged or foreign.
    """
    from engines.base import Settings

    if name == "auto":
        name = next(iter(BACKENDS))
    chosen = backend(name)
    try:
        return chosen.load(model, b"", Settings(threads=threads))
    except ImportError as error:
        hint = "Install it (`unmask-rt doctor` says what is missing), or choose another --engine."
        raise ExtraError(f"the engine {name!r} cannot be used here: {error}", hint) from error
