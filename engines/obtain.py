"""From a name, a model and settings to an engine that may be used: built or found, loaded, compared."""

from __future__ import annotations

import logging

from engines import backend, cache, parity, variants
from engines.base import Backend, Engine, Progress, Settings
from unmask_rt.errors import EngineError, ExtraError, ParityError

REFERENCE = "onnxruntime"
log = logging.getLogger(__name__)


def obtain(name: str, model: bytes, settings: Settings, progress: Progress | None = None) -> Engine:
    """An engine that is ready and has passed the parity gate.

    Args:
        name: of a backend.
        model: bytes of the fp32 model.
        settings: how it is built and run.
        progress: told about what takes time; None for the log.

    Raises:
        UsageError: no backend has this name.
        ExtraError: the backend is not installed or not usable here.
        EngineError: it cannot be built, or does not compute what the reference does (with the figures).
        ModelError: the model is damaged or foreign, or has no form of this precision.
    """
    chosen = _usable(name, settings)
    if is_reference(name, settings):
        return _load(chosen, model, b"", settings)
    variant = variants.obtain(model, chosen.variant(settings.precision))
    key = cache.key_of(chosen, model, variant, settings)
    with cache.lock(key.name):
        return _built(chosen, model, variant, settings, key, progress or log.info)


def open_unchecked(name: str, model: bytes, settings: Settings, progress: Progress) -> Engine:
    """An engine before the parity gate: only for comparing.

    Raises:
        as `obtain`, but for the gate.
    """
    chosen = _usable(name, settings)
    variant = variants.obtain(model, chosen.variant(settings.precision))
    found = cache.read(cache.key_of(chosen, model, variant, settings))
    if found is not None:
        try:
            return _load(chosen, variant, found[1], settings)
        except EngineError as error:
            log.warning("the engine %s is built again: %s", name, error.message)
    return _load(chosen, variant, chosen.build(variant, settings, progress), settings)


def _usable(name: str, settings: Settings) -> Backend:
    chosen = backend(name)
    state = chosen.usable()
    if not state.ok:
        hint = "`unmask-rt doctor` says what is missing; or choose another --engine."
        raise ExtraError(f"the engine {name!r} cannot be used here: {state.why}", hint)
    if settings.precision not in chosen.precisions:
        hint = f"It can: {', '.join(chosen.precisions)}."
        raise ExtraError(f"the engine {name!r} does not run {settings.precision} here", hint)
    return chosen


def is_reference(name: str, settings: Settings) -> bool:
    """Whether this is what all others are compared with."""
    return name == REFERENCE and settings.precision == "fp32"


def reference(model: bytes, threads: int = 1) -> Engine:
    """ONNX Runtime fp32 on the processor."""
    return _load(backend(REFERENCE), model, b"", Settings(threads=threads))


def _built(
    chosen: Backend, model: bytes, variant: bytes, settings: Settings, key: cache.Key, progress: Progress
) -> Engine:
    found = cache.read(key)
    engine = None
    record, built = found if found is not None else ({}, b"")
    if found is not None:
        try:
            engine = _load(chosen, variant, built, settings)
        except EngineError as error:
            log.warning("the engine %s is built again: %s", key.name, error.message)
    if engine is None:
        record, built = {}, chosen.build(variant, settings, progress)
        engine = _load(chosen, variant, built, settings)
    try:
        _gate(engine, chosen, model, settings, key, record, built, progress)
    except BaseException:
        engine.close()
        raise
    return engine


def _gate(
    engine: Engine,
    chosen: Backend,
    model: bytes,
    settings: Settings,
    key: cache.Key,
    record: dict[str, object],
    built: bytes,
    progress: Progress,
) -> None:
    """Compares the engine with the reference, unless that was done before, and refuses it if it is too far off."""
    try:
        told = parity.Parity.from_dict(record["parity"])  # type: ignore[arg-type] # checked by from_dict
    except (KeyError, TypeError, ValueError, AttributeError):
        progress(f"comparing {chosen.name} {settings.precision} with the reference")
        other = reference(model)
        try:
            told = parity.compare(engine, other)
        finally:
            other.close()
        cache.store(key, built, {"parity": told.to_dict(), "describe": dict(engine.describe())})
    failed = told.failures(settings.precision)
    if failed:
        raise ParityError(
            f"the engine {chosen.name!r} in {settings.precision} does not compute what the model says: "
            f"{'; '.join(failed)} ({told.line()})",
            "Choose another --engine or precision; `unmask-engine verify` repeats the comparison.",
        )


def _load(chosen: Backend, model: bytes, built: bytes, settings: Settings) -> Engine:
    try:
        return chosen.load(model, built, settings)
    except ImportError as error:
        hint = "Install it (`unmask-rt doctor` says what is missing), or choose another --engine."
        raise ExtraError(f"the engine {chosen.name!r} cannot be used here: {error}", hint) from error
