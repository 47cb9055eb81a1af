"""The FP16 form of a model: the same graph with every floating-point number in half precision. Needs the package onnx.

TensorRT 11 takes types as the graph has them (strongly typed), so half precision is a matter of the graph. Values stay
small enough for it: pictures lie in -1..1 or in levels up to 255, and 8 bits of them fit into the 11 that FP16 keeps.
What sums over many numbers (LayerNormalization) goes on doing so in FP32, as its operator says.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from engines import graphs
from engines.metadata import identify
from engines.variants import SOURCE_KEY

_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)


def make(model: bytes) -> bytes:
    """The FP16 form of an exported model, with any batch.

    Raises:
        ModelError: damaged or foreign.
    """
    _, sha256 = identify(model)
    made = graphs.folded(graphs.read(model))
    to_half(made)
    return finished(made, sha256)


def finished(made: onnx.ModelProto, sha256: str) -> bytes:
    """Bytes of a made form: fit for TensorRT's doors, checked, with the hash of what it was made from."""
    graphs.bytes_at_the_doors(made.graph)
    entries = {entry.key: entry.value for entry in made.metadata_props} | {SOURCE_KEY: sha256}
    onnx.helper.set_model_props(made, entries)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def to_half(model: onnx.ModelProto) -> None:
    """Turns every FP32 number of a folded graph into FP16, in place; scales of Resize are FP32 by its definition."""
    graph = model.graph
    del graph.value_info[:]
    kept = {edge for node in graph.node if node.op_type == "Resize" for edge in node.input[1:3]}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in kept:
            tensor.CopyFrom(half_tensor(tensor))
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
            elif node.op_type == "ConstantOfShape" and attribute.t.data_type == TensorProto.FLOAT:
                attribute.t.CopyFrom(half_tensor(attribute.t))


def half_tensor(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """The same numbers in FP16; a single one never becomes zero or infinite, as an epsilon must not."""
    values = numpy_helper.to_array(tensor)
    halved = np.clip(values, -_LARGEST, _LARGEST).astype(np.float16)
    if halved.size == 1 and values.any() and not halved.any():
        halved = np.full_like(halved, np.copysign(_SMALLEST, values.ravel()[0]))
    return numpy_helper.from_array(halved, tensor.name)
