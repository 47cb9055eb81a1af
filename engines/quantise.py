"""The int8 form of a model: static quantisation by calibration on aligned crops. Needs the package onnx.

Activations U8 with a zero point, weights S8 per output channel, biases S32, written as QDQ, which ONNX Runtime and
OpenVINO turn into integer kernels. Not everything becomes int8: what works on grids of more than `MOST_SIDE` pixels or
on few channels moves memory rather than multiplies, and is as fast or faster in floating point; fixed averages and what
puts the picture together again are no sums of learnt weights, and keep the picture's own precision. What lies between
two convolutions (activations, residual sums, enlarging, laying side by side) is int8 too, or the way there and back
would cost more than it saves. If the whole is still too far off, the convolutions that cost most are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from engines import graphs
from engines.base import Batch, Progress
from engines.metadata import identify
from engines.variants import SOURCE_KEY
from unmask_rt.errors import ModelError, UsageError

MOST_SIDE = 64
LEAST_IN, LEAST_OUT = 12, 12
WANTED_DB = 38.0
"""PSNR against fp32 in the hole, over all calibration crops; below it sensitive convolutions are left out."""
MOST_LEFT_OUT = 6
LEAST_CROPS = 8
_CHECKED = 12
_TINY = 1e-8

Range = tuple[float, float]
Shapes = Mapping[str, tuple[int, ...]]


def make(model: bytes, crops: Batch, progress: Progress) -> bytes:
    """The int8 form of an exported model.

    Args:
        model: bytes of the fp32 model.
        crops: uint8[N, S, S, 3], aligned crops as the tool will meet them: masked faces, N at least `LEAST_CROPS`.
        progress: told what is being done.

    Raises:
        UsageError: too few crops, or of another side.
        ModelError: the model is damaged, foreign, quantised already, or has nothing to quantise.
    """
    spec, sha256 = identify(model)
    if len(crops) < LEAST_CROPS or crops.shape[1:] != (spec.crop_size, spec.crop_size, 3):
        raise UsageError(
            f"calibration needs at least {LEAST_CROPS} crops of {spec.crop_size} px, this is {list(crops.shape)}",
            "Write them with `unmask-train calibration DATA -o FILE.npz`.",
        )
    graph = graphs.folded(graphs.read(model))
    if any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        raise ModelError("this model is quantised already", "Give the fp32 model that it was made from.")
    progress(f"calibrating on {len(crops)} crops")
    ranges, shapes = calibrate(graph, crops)
    chosen = choose(graph, shapes)
    if not chosen:
        raise ModelError("nothing in this model is worth int8", "Run it in fp32.")
    left_out = sensitive(graph, ranges, chosen, crops[:: max(1, len(crops) // _CHECKED)], progress)
    made = quantised(graph, ranges, chosen - left_out)
    entries = {entry.key: entry.value for entry in made.metadata_props} | {SOURCE_KEY: sha256}
    helper.set_model_props(made, entries)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def calibrate(model: onnx.ModelProto, crops: Batch) -> tuple[dict[str, Range], dict[str, tuple[int, ...]]]:
    """Least and greatest number of each floating-point edge, averaged over the crops, and the edge's shape."""
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    kinds = {v.name: v.type.tensor_type.elem_type for v in onnx.shape_inference.infer_shapes(model).graph.value_info}
    names = [edge for node in model.graph.node for edge in node.output if kinds.get(edge) == TensorProto.FLOAT]
    watched.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    run = runner(watched, names)
    shapes: dict[str, tuple[int, ...]] = {}
    seen: dict[str, list[Range]] = {name: [] for name in names}
    for crop in crops:
        for name, value in zip(names, run(crop[None]), strict=True):
            shapes[name] = value.shape
            if value.size:
                seen[name].append((float(value.min()), float(value.max())))
    means = {name: np.mean(found, 0) for name, found in seen.items() if found}
    return {name: (float(low), float(high)) for name, (low, high) in means.items()}, shapes


def choose(model: onnx.ModelProto, shapes: Shapes) -> set[str]:
    """Names of the nodes that are faster in int8: convolutions, and what lies between them without leaving int8.

    Of sums those that a learnt convolution reads later, be it through others: the rest puts the picture together. What
    finds the mask is treated with caution, as an error there moves the hole's edge: sums of which one part is exact
    stay exact, and so do the 1 x 1 convolutions, which cost little and decide over what is enlarged.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]
    learnt = {node.output[0] for node in convolutions if len(node.input) > 2}  # an average has no bias
    read, finding = behind(model.graph, learnt), behind(model.graph, ["map"])

    def small(node: onnx.NodeProto) -> bool:
        shape = shapes.get(node.output[0], ())
        return len(shape) == 4 and max(shape[2:]) <= MOST_SIDE

    def multiplies(node: onnx.NodeProto) -> bool:
        outside, inside, *kernel = weights[node.input[1]]
        cautious = node.name in finding and kernel == [1, 1]
        return node.output[0] in learnt and inside >= LEAST_IN and outside >= LEAST_OUT and not cautious

    chosen = {node.name for node in convolutions if small(node) and multiplies(node)}
    grown = {edge for node in model.graph.node if node.name in chosen for edge in node.output}
    readers: dict[str, set[str]] = {}
    for node in model.graph.node:
        for edge in node.input:
            readers.setdefault(edge, set()).add(node.name)
    for node in filter(small, model.graph.node):
        if node.op_type == "Add":
            parts = [edge in grown for edge in node.input if edge not in weights]
            good = node.name in read and len(parts) == 2 and (all if node.name in finding else any)(parts)
        elif node.op_type == "Concat":
            read_by = readers.get(node.output[0], set())
            good = bool(read_by) and read_by <= chosen and not weights.keys() & set(node.input)
        else:
            good = node.op_type in ("LeakyRelu", "Resize") and node.input[0] in grown
        if good:
            chosen.add(node.name)
            grown.update(node.output)
    return chosen


def behind(graph: onnx.GraphProto, edges: Iterable[str]) -> set[str]:
    """Names of the nodes that edges depend on."""
    needed, names = set(edges), set()
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            names.add(node.name)
    return names


def sensitive(
    model: onnx.ModelProto, ranges: Mapping[str, Range], chosen: set[str], crops: Batch, progress: Progress
) -> set[str]:
    """The fewest convolutions (one by one, the costliest first) without which the rest is close enough to fp32."""
    reference = runner(model)(crops)
    hole = reference[1] > 127
    if not hole.any():
        hole = np.ones_like(hole)  # a model that finds no mask on any crop: compare all of it

    def error_of(nodes: set[str]) -> float:
        face = runner(quantised(model, ranges, nodes))(crops)[0]
        return float(np.mean((face.astype(np.float32) - reference[0])[hole] ** 2))

    kinds = {node.name: node.op_type for node in model.graph.node}
    convolutions = sorted(name for name in chosen if kinds[name] == "Conv")
    left_out: set[str] = set()
    allowed = 255.0**2 / 10 ** (WANTED_DB / 10)
    error = error_of(chosen)
    progress(f"int8 differs from fp32 by {decibels(error):.1f} dB in the hole")
    while error > allowed and len(left_out) < MOST_LEFT_OUT:
        errors = {name: error_of(chosen - left_out - {name}) for name in convolutions if name not in left_out}
        if not errors:
            break
        worst = min(errors, key=lambda name: errors[name])
        left_out.add(worst)
        error = errors[worst]
        progress(f"left out {worst}: {decibels(error):.1f} dB")
    return left_out


def decibels(error: float) -> float:
    """PSNR of a mean squared error of 8-bit levels; 99 where there is none."""
    return 99.0 if error <= 0 else min(99.0, float(10 * np.log10(255.0**2 / error)))


def quantised(model: onnx.ModelProto, ranges: Mapping[str, Range], chosen: Iterable[str]) -> onnx.ModelProto:
    """The same graph with QDQ around the chosen nodes: all that they read, and all that they give."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    graph, names = made.graph, set(chosen)
    weights = {tensor.name: tensor for tensor in graph.initializer}
    inside = {edge for node in graph.node if node.name in names for edge in node.output}
    wanted = inside | {
        edge
        for node in graph.node
        if node.name in names
        for edge in (node.input if node.op_type in ("Add", "Concat") else node.input[:1])
        if edge and edge not in weights
    }
    ranges = _joined(graph, names, ranges)
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


def runner(model: onnx.ModelProto, names: list[str] | None = None) -> Callable[[Batch], list[NDArray[Any]]]:
    """Runs a model on crops; ``names`` are the outputs wanted (None: face and map)."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(crops: Batch) -> list[NDArray[Any]]:
        found: list[NDArray[Any]] = session.run(names or ["face", "map"], {"crop": crops})
        return found

    return run
