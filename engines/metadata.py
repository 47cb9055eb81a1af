"""Who a model is: an ONNX file's metadata, read without the package onnx."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import lru_cache

from engines.spec import METADATA_KEY, ModelSpec
from engines.variants import SOURCE_KEY
from unmask_rt.errors import ModelError

_METADATA_FIELD = 14
"""Number of ``metadata_props`` in ONNX's ModelProto; its entries have a key (1) and a value (2)."""


@lru_cache(maxsize=2)
def identify(model: bytes) -> tuple[ModelSpec, str]:
    """What a model says about itself, and the SHA-256 of the fp32 model that it is or was made from.

    Raises:
        ModelError: the bytes are no model of this tool, or of a version that it does not know.
    """
    told = metadata(model)
    if METADATA_KEY not in told:
        raise ModelError(
            "this ONNX file is not an unmask-rt model: it carries no metadata of ours",
            "Give a model exported by unmask-rt with --model.",
        )
    try:
        spec = ModelSpec.from_json(told[METADATA_KEY])
    except ValueError as error:
        raise ModelError(
            f"the unmask model does not fit this version: {error}", "Update unmask-rt or export the model again."
        ) from error
    if spec.extra_channels:
        raise ModelError(
            f"the model wants channels that nothing here makes: {', '.join(spec.extra_channels)}", "Update unmask-rt."
        )
    return spec, told.get(SOURCE_KEY) or hashlib.sha256(model).hexdigest()


def metadata(model: bytes) -> dict[str, str]:
    """The metadata entries of an ONNX file.

    Raises:
        ModelError: damaged.
    """
    try:
        if not model:
            raise ValueError("it is empty")
        entries = [dict(_fields(entry)) for number, entry in _fields(model) if number == _METADATA_FIELD]
        return {entry[1].decode(): entry.get(2, b"").decode() for entry in entries}
    except (ValueError, KeyError) as error:
        raise ModelError(
            "the unmask model cannot be read: it is no ONNX file, or a damaged one",
            "Give a model exported by unmask-rt with --model, or reinstall to restore the bundled one.",
        ) from error


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of each field of a protobuf message that is text or a message; numbers are passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        kind, length = tag & 7, 0
        if not tag >> 3:
            raise ValueError("no field has the number 0")
        if kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(data, at)
        else:
            raise ValueError(f"wire type {kind}")
        if at + length > len(data):
            raise ValueError("cut off")
        if kind == 2:
            yield tag >> 3, bytes(data[at : at + length])
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and the place behind it."""
    value = shift = 0
    while at < len(data) and shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number is cut off")
