"""The forms in which one model exists, and where each is found: beside the bundled model, in the cache, or made.

    fp32            as exported: the reference
    fp16            computed in FP16, for TensorRT (`engines.fp16`)
    int8            QDQ, activations U8 and weights S8: what ONNX Runtime and OpenVINO run fast (`engines.quantise`)
    int8-symmetric  QDQ, everything S8 around zero and no int32 bias: what TensorRT accepts (`engines.symmetric`)

Each made form carries the SHA-256 of the model that it was made from, so that no form of another model is ever taken.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from unmask_rt import models
from unmask_rt.errors import ExtraError, ModelError

SOURCE_KEY = "unmask_rt_source"
"""Metadata of a made form: SHA-256 of the fp32 model that it was made from."""
VARIANTS = ("fp32", "fp16", "int8", "int8-symmetric")
_MAKERS = {"fp16": ("engines.fp16", "fp32"), "int8-symmetric": ("engines.symmetric", "int8")}
"""Forms that need no calibration: the module whose ``make`` makes them, and the form that they are made from."""


def place(sha256: str, kind: str) -> Path:
    """Where a form that was made here lies."""
    from engines.cache import folder

    return folder() / "forms" / f"{sha256[:16]}-{kind}.onnx"


def find(model: bytes, kind: str) -> bytes | None:
    """A form of a model that is there already, None where there is none; a form of another model is passed over.

    What was made here goes before what is bundled. A made form has no others: what runs it is to be compared with it,
    not with itself under another name.
    """
    if kind == "fp32":
        return model
    if is_made(model):
        return None
    sha256 = source_of(model)
    file = place(sha256, kind)
    if file.is_file():
        with suppress(OSError):
            data: bytes | None = file.read_bytes()
            if data is not None and _is_form_of(data, sha256):
                return data
    for record in models.bundled_models().values():
        if record["sha256"] == sha256 and kind in record:
            data = models.asset(record[kind])
            if data is not None and _sha256(data) == record[f"{kind}_sha256"] and _is_form_of(data, sha256):
                return data
    return None


def obtain(model: bytes, kind: str) -> bytes:
    """A form of a model, made and kept where that needs no more than the model.

    Raises:
        ModelError: there is none, and making one needs calibration; or the model is damaged.
        ExtraError: making it needs the package onnx.
    """
    found = find(model, kind)
    if found is not None:
        return found
    if is_made(model):
        raise ModelError(
            f"this model is a made form itself and has no {kind} form", "Give the fp32 model with --model."
        )
    if kind not in _MAKERS:
        raise ModelError(
            f"there is no {kind} form of this model",
            "Make it: unmask-engine build --precision int8 --calibration FILE.npz, or choose another precision.",
        )
    module, base = _MAKERS[kind]
    given = obtain(model, base)
    try:
        made: bytes = import_module(module).make(given)
    except ImportError as error:
        raise ExtraError(
            f"the {kind} form of the model cannot be made: {error}", "pip install 'onnx>=1.20,<2', then try again."
        ) from error
    keep(source_of(model), kind, made)
    return made


def keep(sha256: str, kind: str, data: bytes) -> Path | None:
    """Keeps a made form in the cache, and none that was made of the one before it; returns its place, None where the
    cache cannot be written."""
    from engines.cache import write

    file = place(sha256, kind)
    if not write(file, data):
        return None
    for other, (_, base) in _MAKERS.items():
        if base == kind:
            place(sha256, other).unlink(missing_ok=True)
    return file


def is_made(model: bytes) -> bool:
    """Whether this is a form that was made of another model.

    Raises:
        ModelError: damaged.
    """
    from engines.metadata import metadata

    return SOURCE_KEY in metadata(model)


def source_of(model: bytes) -> str:
    """SHA-256 of the fp32 model that this is or was made from.

    Raises:
        ModelError: damaged or foreign.
    """
    from engines.metadata import identify

    return identify(model)[1]


def _is_form_of(data: bytes, sha256: str) -> bool:
    try:
        return source_of(data) == sha256
    except ModelError:
        return False


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
