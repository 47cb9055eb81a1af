"""The int8 form that TensorRT accepts, made from the one that ONNX Runtime runs. Needs the package onnx.

The ranges are those that calibration found. What differs is how they are written down: numbers lie around zero (S8,
zero point 0), so a Relu that a range had replaced is a node again; biases are no longer quantised, and what is not int8
is FP16, as is what lies between two convolutions.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from engines import graphs
from engines.fp16 import finished, to_half
from engines.metadata import identify
from unmask_rt.errors import ModelError

_OPSET = 19
"""From this version on quantisation may stand between FP16 numbers."""
_TOP = 127
_LEAST_SCALE = float(np.finfo(np.float16).tiny)
_HINT = "Make the int8 form again with `unmask-engine build`."


def make(int8_model: bytes) -> bytes:
    """The symmetric form of a model's int8 form, with any batch.

    Raises:
        ModelError: damaged, foreign, or not quantised in a way that can be turned.
    """
    _, sha256 = identify(int8_model)
    made = graphs.folded(graphs.read(int8_model))
    to_symmetric(made)
    to_half(made)
    for entry in made.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = max(entry.version, _OPSET)
    return finished(made, sha256)


def to_symmetric(model: onnx.ModelProto) -> None:
    """Rewrites every quantisation of a folded QDQ graph around zero, in place; biases become FP32 constants.

    Raises:
        ModelError: there is no quantisation, or a weight's zero point is not 0.
    """
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    _restore_relus(graph, constants)
    _dissolve(graph)
    factors = _balance(graph, constants)
    made: dict[str, NDArray[np.generic]] = {}
    left = []
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            left.append(node)
            continue
        scale = constants[node.input[1]].astype(np.float32)
        zero = constants[node.input[2]] if len(node.input) > 2 else np.zeros_like(scale, np.uint8)
        stored = constants.get(node.input[0])
        if stored is not None and stored.dtype == np.int32:
            made[node.output[0]] = (stored * scale).astype(np.float32)  # its scale has its own shape or is one number
            continue
        left.append(node)
        if stored is not None:
            if zero.any():
                raise ModelError(f"the weight {node.input[0]} is not quantised around zero", _HINT)
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
            stored, scale = _weights(stored, scale * np.float32(factors.get(node.output[0], 1)), axis)
            names = _named(node, "weight")
            made[names[0]] = stored
            node.input[0] = names[0]
        else:
            factor = factors.get(node.output[0], 1)
            scale = _scale(_reach(scale, zero)) * np.float32(factor)
            names = _named(node, "activation" if factor == 1 else "balanced")
        made[names[1]], made[names[2]] = scale, np.zeros_like(scale, np.int8)
        del node.input[1:]
        node.input.extend(names[1:])
    if not made:
        raise ModelError("the model has no int8 form: nothing in it is quantised", _HINT)
    del graph.node[:]
    graph.node.extend(left)
    read = {edge for node in left for edge in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read and tensor.name not in made]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    graph.initializer.extend(numpy_helper.from_array(np.asarray(made[name]), name) for name in sorted(made))


def _restore_relus(graph: onnx.GraphProto, constants: Mapping[str, NDArray[np.generic]]) -> None:
    """Puts a Relu before each quantisation whose range begins at zero: around zero it would no longer cut off there."""
    relus = {edge for node in graph.node if node.op_type == "Relu" for edge in node.output}
    nodes = []
    for node in graph.node:
        zero = constants.get(node.input[2]) if node.op_type == "QuantizeLinear" and len(node.input) > 2 else None
        if zero is not None and zero.dtype == np.uint8 and not zero.any() and node.input[0] not in relus:
            relu = f"{node.output[0]}/relu"
            nodes.append(onnx.helper.make_node("Relu", [node.input[0]], [relu], name=relu))
            node.input[0] = relu
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _dissolve(graph: onnx.GraphProto) -> None:
    """Takes out each pair of quantisations that no convolution reads: TensorRT fuses what lies between in FP16."""
    made_by = {edge: node for node in graph.node for edge in node.output}
    wanted = {edge for node in graph.node if node.op_type == "Conv" for edge in node.input}
    direct: dict[str, str] = {}  # what such a pair gives -> what it was given
    gone: set[str] = set()
    for node in graph.node:
        pair = made_by.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if pair is not None and pair.op_type == "QuantizeLinear" and node.output[0] not in wanted:
            direct[node.output[0]] = pair.input[0]
            gone |= {node.output[0], pair.output[0]}
    left = [node for node in graph.node if node.output[0] not in gone]
    for node in left:
        node.input[:] = [direct.get(edge, edge) for edge in node.input]
    del graph.node[:]
    graph.node.extend(left)


def _balance(graph: onnx.GraphProto, constants: Mapping[str, NDArray[np.generic]]) -> dict[str, float]:
    """Powers of two by which scales are multiplied so that FP16 can hold them.

    A convolution that reads levels of 255 has weights so small that FP16 loses their scales. What it reads is taken
    down by as much as its weights are taken up: the product is the same.

    Returns:
        Output edge of a DequantizeLinear -> factor on its scale; edges that are not there keep theirs.
    """
    made_by = {edge: node for node in graph.node for edge in node.output}
    read = Counter(edge for node in graph.node for edge in node.input)
    factors: dict[str, float] = {}
    for node in graph.node:
        given, weight = (made_by.get(edge) for edge in node.input[:2]) if node.op_type == "Conv" else (None, None)
        if given is None or weight is None or {given.op_type, weight.op_type} != {"DequantizeLinear"}:
            continue
        lacking = _LEAST_SCALE / float(constants[weight.input[1]].min())
        spare = float(constants[given.input[1]].min()) / _LEAST_SCALE
        factor = 2.0 ** min(math.ceil(math.log2(lacking)), math.floor(math.log2(spare)))
        if factor > 1 and read[given.output[0]] == read[weight.output[0]] == 1:
            factors[given.output[0]], factors[weight.output[0]] = 1 / factor, factor
    return factors


def _named(node: onnx.NodeProto, kind: str) -> tuple[str, str, str]:
    """Names of a node's new numbers, scale and zero point; both ends of one quantisation share the old scale's name."""
    base = node.input[0] if kind == "weight" else f"{node.input[1]}/{node.input[2] if len(node.input) > 2 else ''}"
    base += "/balanced" if kind == "balanced" else ""
    return f"{base}/s8", f"{base}/s8_scale", f"{base}/s8_zero"


def _reach(scale: NDArray[np.float32], zero: NDArray[np.generic]) -> NDArray[np.float32]:
    """The largest absolute number that a quantisation can express, divided by what S8 has for it."""
    least, most = (-128, 127) if zero.dtype == np.int8 else (0, 255)
    middle = zero.astype(np.float32)
    return np.asarray(scale * np.maximum(most - middle, middle - least) / _TOP, np.float32)


def _scale(wanted: NDArray[np.float32]) -> NDArray[np.float32]:
    """The next scale from ``wanted`` on that FP16 can hold, so that rounding never narrows the range."""
    near = np.maximum(wanted, _LEAST_SCALE).astype(np.float16)
    near = np.where(near.astype(np.float32) < wanted, np.nextafter(near, np.float16(np.inf)), near)
    return near.astype(np.float32)


def _weights(
    stored: NDArray[np.generic], scale: NDArray[np.float32], axis: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Weights and scales that fit FP16, the weights rounded again where their scale had to change."""
    fitted = _scale(scale)
    shape = [1] * stored.ndim
    if scale.size > 1:
        shape[axis] = -1
    ratio = (scale / fitted).reshape(shape) if scale.size > 1 else scale / fitted
    values = np.clip(np.rint(stored.astype(np.float32) * ratio), -_TOP, _TOP)
    return values.astype(np.int8), fitted
