"""An exported graph with nothing left to compute but the network, for one batch size or any. Needs the package onnx.

Builders want weights as they are used, and some want fixed shapes: what depends on constants and known shapes only is
computed here, once, and what nobody reads is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from unmask_rt.errors import ModelError

Array = NDArray[Any]
_KEPT = ("QuantizeLinear", "DequantizeLinear")
"""Never folded: a builder wants to see them around weights too."""
_REARRANGING = ("DepthToSpace", "Flatten", "Gather", "Identity", "Reshape", "Slice", "SpaceToDepth", "Squeeze",
                "Transpose", "Unsqueeze")  # fmt: skip
"""Operators that move the values of their first input and compute nothing."""


def read(model: bytes) -> onnx.ModelProto:
    """Parses an ONNX file.

    Raises:
        ModelError: it is none.
    """
    try:
        return onnx.load_from_string(model)
    except Exception as error:  # protobuf's own class for damaged bytes
        raise ModelError("the unmask model cannot be read: it is no ONNX file", "Give another --model.") from error


def folded(model: onnx.ModelProto, batch: int | None = None) -> onnx.ModelProto:
    """The same model with constants and known shapes computed and dead nodes left out; ``batch`` fixes its crops."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if batch is not None:
        for value in (*made.graph.input, *made.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = batch
    opset = opset_of(made)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    while _fold(made, constants, opset):
        del made.graph.value_info[:]
    _drop_dead(made, constants)
    return made


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators."""
    return next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each value whose shape is known."""
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    known = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            known[value.name] = tuple(dim.dim_value for dim in dims)
    return known


def consumers(graph: onnx.GraphProto) -> Counter[str]:
    """How many nodes (and graph outputs) read each value."""
    found = Counter(edge for node in graph.node for edge in node.input if edge)
    found.update(value.name for value in graph.output)
    return found


def readers(graph: onnx.GraphProto) -> dict[str, list[onnx.NodeProto]]:
    """The nodes that read each value."""
    found: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for edge in dict.fromkeys(node.input):
            found.setdefault(edge, []).append(node)
    return found


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes of a node as Python values, strings decoded."""
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def bytes_at_the_doors(graph: onnx.GraphProto) -> None:
    """Moves casts from and to uint8 past whatever only rearranges, to the graph's inputs and outputs, in place.

    TensorRT takes uint8 at its doors only, and there as a cast; a graph for processors rearranges bytes first and casts
    then, as bytes are what moves fastest.
    """
    del graph.value_info[:]
    for value in graph.input:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            _cast_first(graph, value.name)
    for value in graph.output:
        if value.type.tensor_type.elem_type == TensorProto.UINT8:
            _cast_last(graph, value.name)


def _cast_first(graph: onnx.GraphProto, door: str) -> None:
    moved, casts = {door}, []
    for node in graph.node:  # in the order in which they are computed
        if node.op_type in _REARRANGING and node.input[0] in moved:
            moved.update(node.output)
        elif moved.intersection(node.input):
            if node.op_type != "Cast":
                return
            casts.append(node)
    kinds = {attributes(node)["to"] for node in casts}
    if len(kinds) != 1 or moved.intersection(value.name for value in graph.output):
        return
    inside = f"{door}/cast"
    for node in graph.node:
        node.input[:] = [inside if edge == door else edge for edge in node.input]
    sources = {node.output[0]: node.input[0] for node in casts}
    _drop(graph, casts)
    for node in graph.node:
        node.input[:] = [sources.get(edge, edge) for edge in node.input]
    graph.node.insert(0, helper.make_node("Cast", [door], [inside], name=inside, to=kinds.pop()))


def _cast_last(graph: onnx.GraphProto, door: str) -> None:
    makers = {edge: node for node in graph.node for edge in node.output}
    read_by, chain = consumers(graph), []
    node = makers.get(door)
    while node is not None and node.op_type in _REARRANGING and read_by[node.output[0]] == 1:
        chain.append(node)
        node = makers.get(node.input[0])
    if node is None or node.op_type != "Cast" or not chain or read_by[node.output[0]] != 1:
        return
    chain[-1].input[0] = node.input[0]
    inside = f"{door}/cast"
    chain[0].output[0] = inside
    _drop(graph, [node])
    graph.node.append(helper.make_node("Cast", [inside], [door], name=inside, to=TensorProto.UINT8))


def _drop(graph: onnx.GraphProto, unwanted: list[onnx.NodeProto]) -> None:
    names = {node.output[0] for node in unwanted}
    left = [node for node in graph.node if node.output[0] not in names]
    del graph.node[:]
    graph.node.extend(left)


def _fold(model: onnx.ModelProto, constants: dict[str, Array], opset: int) -> bool:
    """Computes each node that hangs on constants or on known shapes only; whether there was one."""
    known = shapes(model)
    left = []
    for node in model.graph.node:
        found = _value(node, constants, known, opset)
        if found is None:
            left.append(node)
            continue
        for name, value in found:
            constants[name] = value
            model.graph.initializer.append(numpy_helper.from_array(value, name))
    changed = len(left) < len(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(left)
    return changed


def _value(
    node: onnx.NodeProto, constants: dict[str, Array], known: dict[str, tuple[int, ...]], opset: int
) -> Iterator[tuple[str, Array]] | None:
    if node.op_type in _KEPT:
        return None
    if node.op_type == "Shape" and node.input[0] in known:
        options = attributes(node)
        sides = known[node.input[0]][options.get("start", 0) : options.get("end")]
        return iter([(node.output[0], np.array(sides, np.int64))])
    if not all(edge in constants for edge in node.input if edge):
        return None
    body = helper.make_graph(
        [node],
        "one",
        [_typed(edge, constants[edge]) for edge in dict.fromkeys(node.input) if edge],
        [helper.make_empty_tensor_value_info(edge) for edge in node.output],
    )
    single = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)])
    given = {edge: constants[edge] for edge in node.input if edge}
    values = ReferenceEvaluator(single).run(None, given)
    return zip(node.output, (np.asarray(value) for value in values), strict=True)


def _typed(name: str, value: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _drop_dead(model: onnx.ModelProto, constants: dict[str, Array]) -> None:
    """Leaves out nodes and constants that nothing reads."""
    graph = model.graph
    needed = {value.name for value in graph.output}
    alive = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            alive.append(node)
    del graph.node[:], graph.initializer[:], graph.value_info[:]
    graph.node.extend(reversed(alive))
    graph.initializer.extend(numpy_helper.from_array(constants[name], name) for name in sorted(needed & set(constants)))
