"""From a trained generator to something fast: one file a backend, all behind `engines.base.Engine`.

`open_engine` is the only way in. Backends are imported when they are asked for, so a missing one is a clear message.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from unmask_rt.errors import ExtraError, UsageError

if TYPE_CHECKING:
    from engines.base import Engine

BACKENDS: dict[str, str] = {"onnxruntime": "engines.onnxruntime:OnnxRuntimeEngine"}
"""Name on the command line -> where its class lives; the first is what ``auto`` takes."""


def open_engine(name: str, model: bytes, *, threads: int = 1) -> Engine:
    """Loads a model into a backend.

    Args:
        name: a key of `BACKENDS`, or "auto".
        model: bytes of an exported ONNX model.
        threads: threads inside one call.

    Raises:
        UsageError: no backend has this name.
        ExtraError: the backend is not installed or not usable here.
        ModelError: the model is damaged or foreign.
    """
    if name == "auto":
        name = next(iter(BACKENDS))
    if name not in BACKENDS:
        raise UsageError(f"there is no engine {name!r}", f"Choose one of: auto, {', '.join(BACKENDS)}.")
    module, _, attribute = BACKENDS[name].partition(":")
    try:
        factory: Callable[..., Engine] = getattr(import_module(module), attribute)
        return factory(model, threads=threads)
    except ImportError as error:
        hint = "Install it (`unmask-rt doctor` says what is missing), or choose another --engine."
        raise ExtraError(f"the engine {name!r} cannot be used here: {error}", hint) from error
