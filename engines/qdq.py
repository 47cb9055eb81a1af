"""How quantisation is written into a graph: QDQ, which ONNX Runtime and OpenVINO turn into integer kernels.

Activations U8 with a zero point, weights S8 per output channel, biases S32. `engines.quantise` says which nodes.
Needs the package onnx.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines import graphs
from unmask_rt.errors import ModelError

Range = tuple[float, float]
Shapes = Mapping[str, tuple[int, ...]]

SIGMOID_REACH = 7.0
"""Beyond it a sigmoid is 0 or 1 to the last of 255 levels."""
_TINY = 1e-8


def quantised(model: onnx.ModelProto, ranges: Mapping[str, Range], chosen: Iterable[str]) -> onnx.ModelProto:
    """The same graph with QDQ around the chosen nodes: all that they read, and all that they give."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, names = made.graph, set(chosen)
    ranges = _joined(graph, names, _summed(graph, names, _reached(graph, ranges)))
    _absorb_relus(graph, names, ranges)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inside = {edge for node in graph.node if node.name in names for edge in node.output}
    wanted = inside | {
        edge
        for node in graph.node
        if node.name in names
        for edge in (node.input if node.op_type in ("Add", "Concat") else node.input[:1])
        if edge and edge not in weights
    }
    scales: dict[str, float] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.name in names:
            if node.op_type == "Conv":
                nodes += _quantise_weights(graph, node, weights, scales[node.input[0]])
            for place, edge in enumerate(node.input):
                if edge in wanted:
                    node.input[place] = f"{edge}/dq"
        else:  # what floating point gives, floating point reads without a detour
            node.input[:] = [f"{edge}/dq" if edge in inside else edge for edge in node.input]
        nodes.append(node)
        for edge in node.output:
            if edge in wanted:
                scales[edge], pair = _pair(graph, edge, ranges[edge])
                nodes += pair
    for value in graph.output:
        if value.name in inside:
            raise ModelError(f"the output {value.name} cannot be int8", "Report this.")
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    read = {edge for node in nodes for edge in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    return made


def _pair(graph: onnx.GraphProto, edge: str, found: Range) -> tuple[float, list[onnx.NodeProto]]:
    """Scale, and QuantizeLinear and DequantizeLinear of an edge."""
    low, high = min(found[0], 0.0), max(found[1], 0.0)
    scale = np.float32(max((high - low) / 255, _TINY))
    zero = np.uint8(np.clip(round(-low / float(scale)), 0, 255))
    names = [f"{edge}/scale", f"{edge}/zero"]
    _store(graph, names[0], scale)
    _store(graph, names[1], zero)
    return float(scale), [
        helper.make_node("QuantizeLinear", [edge, *names], [f"{edge}/q"], name=f"{edge}/q"),
        helper.make_node("DequantizeLinear", [f"{edge}/q", *names], [f"{edge}/dq"], name=f"{edge}/dq"),
    ]


def _absorb_relus(graph: onnx.GraphProto, names: set[str], ranges: Mapping[str, Range]) -> None:
    """Takes out each Relu between numbers that become int8: where their range begins at zero, it cuts off the same.

    Others stay, in floating point: integers have nothing to win there.
    """
    makers = {edge: node for node in graph.node for edge in node.output}
    read_by = graphs.consumers(graph)
    exact = {edge for node in graph.node if node.name not in names for edge in node.input}
    exact.update(value.name for value in graph.output)
    for node in [node for node in graph.node if node.op_type == "Relu"]:
        names.discard(node.name)
        given, made = node.input[0], node.output[0]
        if given not in makers or read_by[given] > 1 or ranges[made][0] < 0:
            continue
        if makers[given].name in names or made not in exact:
            outputs = makers[given].output
            outputs[list(outputs).index(given)] = made
            makers[made] = makers[given]
            graph.node.remove(node)


def _reached(graph: onnx.GraphProto, ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges, of what a sigmoid alone reads no more than what it can tell apart."""
    found, read_by = dict(ranges), graphs.consumers(graph)
    for node in graph.node:
        if node.op_type == "Sigmoid" and node.input[0] in found and read_by[node.input[0]] == 1:
            low, high = found[node.input[0]]
            found[node.input[0]] = max(low, -SIGMOID_REACH), min(high, SIGMOID_REACH)
    return found


def _summed(graph: onnx.GraphProto, names: set[str], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges, of what a chosen sum adds up for a Relu: what outweighs all that the other part can be is cut off."""
    found, readers = dict(ranges), graphs.readers(graph)
    for node in graph.node:
        if node.op_type != "Add" or node.name not in names or not all(edge in found for edge in node.input):
            continue
        if {reader.op_type for reader in readers.get(node.output[0], ())} != {"Relu"}:
            continue
        for edge, other in (node.input, reversed(node.input)):
            if len(readers[edge]) == 1:
                low, high = found[edge]
                found[edge] = max(low, -max(found[other][1], 0.0)), high
    return found


def _joined(graph: onnx.GraphProto, names: set[str], ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges, one for all parts of a chosen concatenation: then nothing has to be scaled anew."""
    found = dict(ranges)
    for node in graph.node:
        if node.op_type == "Concat" and node.name in names:
            edges = [*node.input, *node.output]
            lows, highs = zip(*(found[edge] for edge in edges), strict=True)
            found.update(dict.fromkeys(edges, (min(lows), max(highs))))
    return found


def _quantise_weights(
    graph: onnx.GraphProto, node: onnx.NodeProto, weights: Mapping[str, TensorProto], given: float
) -> list[onnx.NodeProto]:
    """Turns weight and bias of a convolution into integers, in place; returns the nodes that turn them back."""
    weight = numpy_helper.to_array(weights[node.input[1]]).astype(np.float32)
    most = np.abs(weight).reshape(len(weight), -1).max(1)
    scale = np.where(most > 0, np.maximum(most / 127, _TINY), 1 / 127).astype(np.float32)  # a row of zeros has no scale
    levels = np.clip(np.rint(weight / scale[:, None, None, None]), -127, 127).astype(np.int8)
    nodes = [_stored(graph, f"{node.name}/weight", levels, scale)]
    node.input[1] = nodes[0].output[0]
    if len(node.input) > 2 and node.input[2]:
        bias = numpy_helper.to_array(weights[node.input[2]]).astype(np.float64)
        scale = (scale * np.float32(given)).astype(np.float32)
        whole = np.clip(np.rint(bias / scale), -(2.0**31 - 1), 2.0**31 - 1).astype(np.int32)
        nodes.append(_stored(graph, f"{node.name}/bias", whole, scale))
        node.input[2] = nodes[1].output[0]
    return nodes


def _stored(
    graph: onnx.GraphProto, name: str, levels: NDArray[np.int8] | NDArray[np.int32], scale: NDArray[np.float32]
) -> onnx.NodeProto:
    _store(graph, f"{name}/q", levels)
    _store(graph, f"{name}/scale", scale)
    _store(graph, f"{name}/zero", np.zeros(len(levels), levels.dtype))
    inputs = [f"{name}/q", f"{name}/scale", f"{name}/zero"]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}/dq"], name=f"{name}/dq", axis=0)


def _store(graph: onnx.GraphProto, name: str, value: NDArray[np.generic] | np.generic) -> None:
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))


def repeating(model: onnx.ModelProto, shapes: Shapes) -> None:
    """Writes enlarging between int8 numbers as repeating, in place: engines repeat runs of bytes, but enlarge pixel by
    pixel.

    Channels come last in it, as they lie in integer kernels; there nothing is left to do for what only turns axes.
    """
    graph = model.graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    made_by = {edge: node for node in graph.node for edge in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        times = _times(node, constants)
        source = made_by.get(node.input[0]) if times else None
        if source is None or source.op_type != "DequantizeLinear":
            nodes.append(node)
        else:
            nodes += _repeated(graph, node, times, shapes[node.input[0].removesuffix("/dq")])
    del graph.node[:]
    graph.node.extend(nodes)


def _times(node: onnx.NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> list[int]:
    """How often a Resize repeats each pixel along (rows, columns); empty for anything else."""
    told = graphs.attributes(node)
    form = [told.get(name) for name in ("mode", "coordinate_transformation_mode", "nearest_mode")]
    scales = constants.get(node.input[2]) if node.op_type == "Resize" and len(node.input) == 3 else None
    if scales is None or form != ["nearest", "asymmetric", "floor"]:
        return []
    whole = [int(scale) for scale in scales.tolist()]
    return whole[2:] if whole == scales.tolist() and whole[:2] == [1, 1] else []


def _repeated(
    graph: onnx.GraphProto, node: onnx.NodeProto, times: list[int], shape: tuple[int, ...]
) -> list[onnx.NodeProto]:
    """(n, c, h, w) as (n, h, 1, w, 1, c), repeated to (n, h, rows, w, columns, c)."""
    (channels, height, width), (rows, columns) = shape[1:], times
    made = node.output[0]
    sizes = {
        "apart": [-1, height, 1, width, 1, channels],
        "times": [1, 1, rows, 1, columns, 1],
        "together": [-1, height * rows, width * columns, channels],
    }
    for name, size in sizes.items():
        _store(graph, f"{made}/{name}", np.array(size, np.int64))
    nodes = [
        helper.make_node("Transpose", [node.input[0]], [f"{made}/last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", [f"{made}/last", f"{made}/apart"], [f"{made}/pixels"]),
        helper.make_node("Expand", [f"{made}/pixels", f"{made}/times"], [f"{made}/blocks"]),
        helper.make_node("Reshape", [f"{made}/blocks", f"{made}/together"], [f"{made}/turned"]),
        helper.make_node("Transpose", [f"{made}/turned"], [made], perm=[0, 3, 1, 2]),
    ]
    for step in nodes:
        step.name = step.output[0]
    return nodes
