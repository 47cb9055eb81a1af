"""The int8 form of a model: static quantisation by calibration on aligned crops. Needs the package onnx.

Not everything becomes int8: what works on grids of more than `MOST_SIDE` pixels or on few channels moves memory rather
than multiplies, and is as fast or faster in floating point; fixed averages and what puts the picture together again are
no sums of learnt weights, and keep the picture's own precision. What lies between two convolutions (activations,
residual sums, enlarging, laying side by side) is int8 too, or the way there and back would cost more than it saves. If
the whole is still too far off, the convolutions that cost most are left out. `engines.qdq` writes what is chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from engines import graphs
from engines.base import Batch, Progress
from engines.metadata import identify
from engines.qdq import Range, Shapes, quantised, repeating
from engines.variants import SOURCE_KEY
from unmask_rt.errors import ModelError, UsageError
from unmask_rt.ort import ort

MOST_SIDE = 64
LEAST_IN, LEAST_OUT = 12, 12
ROOMS = (1.0, 1.1, 1.2, 1.3)
"""Ranges are the mean extremes of the calibration crops, made wider by one of these: between finer steps and less cut
off. Of what finds the mask it is the one with which the map comes closest to fp32, of the rest that for the face."""
FINDING_SIDE, FINDING_SUM_SIDE = 16, 64
"""What finds the mask is int8 on grids from the first on, sums of which one part is exact from the second on."""
WANTED_DB = 37.0
"""PSNR against fp32 in the hole, over some of the calibration crops; below it sensitive convolutions are left out."""
MOST_LEFT_OUT = 6
LEAST_CROPS = 8
_CHECKED = 12


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
    means, shapes = calibrate(graph, crops)
    chosen = choose(graph, shapes)
    if not chosen:
        raise ModelError("nothing in this model is worth int8", "Run it in fp32.")
    check = Check(graph, crops[:: max(1, len(crops) // _CHECKED)])
    ranges = widened(means, chosen, check, progress)
    left_out = sensitive(ranges, chosen, check, progress)
    made = quantised(graph, ranges, chosen - left_out)
    repeating(made, shapes)
    entries = {entry.key: entry.value for entry in made.metadata_props} | {SOURCE_KEY: sha256}
    helper.set_model_props(made, entries)
    onnx.checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def calibrate(model: onnx.ModelProto, crops: Batch) -> tuple[dict[str, Range], dict[str, tuple[int, ...]]]:
    """Least and greatest number of each floating-point edge, averaged over the crops; the edge's shape."""
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

    Of sums those of which all parts are int8 by themselves, and that a learnt convolution reads later, be it through
    others: the rest puts the picture together. What finds the mask is treated with caution, as an error there moves the
    hole's edge: small grids stay exact, and so do the 1 x 1 convolutions, which cost little and decide over what is
    enlarged; only on the largest grid are sums int8 of which one part is not.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv" and node.input[1] in weights]
    learnt = {node.output[0] for node in convolutions if len(node.input) > 2}  # an average has no bias
    read, finding = behind(model.graph, learnt), behind(model.graph, ["map"])

    def side(node: onnx.NodeProto) -> int:
        shape = shapes.get(node.output[0], ())
        return max(shape[2:]) if len(shape) == 4 else 0

    def fits(node: onnx.NodeProto) -> bool:
        return (FINDING_SIDE if node.name in finding else 1) <= side(node) <= MOST_SIDE

    def multiplies(node: onnx.NodeProto) -> bool:
        outside, inside, *kernel = weights[node.input[1]]
        cautious = node.name in finding and kernel == [1, 1]
        return node.output[0] in learnt and inside >= LEAST_IN and outside >= LEAST_OUT and not cautious

    chosen = {node.name for node in convolutions if fits(node) and multiplies(node)}
    grown = {edge for node in model.graph.node if node.name in chosen for edge in node.output}
    taken = {node.input[0] for node in convolutions if node.name in chosen}
    readers = {edge: {node.name for node in nodes} for edge, nodes in graphs.readers(model.graph).items()}
    for node in filter(fits, model.graph.node):
        if node.op_type == "Add":
            parts = [edge in grown or edge in taken for edge in node.input if edge not in weights]
            easy = node.name in finding and side(node) >= FINDING_SUM_SIDE
            good = node.name in read and len(parts) == 2 and (any if easy else all)(parts)
        elif node.op_type == "Concat":
            read_by = readers.get(node.output[0], set())
            good = bool(read_by) and read_by <= chosen and not weights.keys() & set(node.input)
        else:
            good = node.op_type in ("LeakyRelu", "Relu", "Resize") and node.input[0] in grown
        if good:
            chosen.add(node.name)
            grown.update(node.output)
    # What all readers take as int8 is turned before it is enlarged: these are fewer numbers.
    enlarging = [n for n in filter(fits, model.graph.node) if n.op_type == "Resize" and n.output[0] in readers]
    return chosen | {node.name for node in enlarging if readers[node.output[0]] <= chosen}


def behind(graph: onnx.GraphProto, edges: Iterable[str]) -> set[str]:
    """Names of the nodes that edges depend on."""
    needed, names = set(edges), set()
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            names.add(node.name)
    return names


class Check:
    """How far int8 forms are from fp32 on some crops."""

    def __init__(self, model: onnx.ModelProto, crops: Batch) -> None:
        self.model, self.crops = model, crops
        self.face, self.map = (picture.astype(np.float32) for picture in runner(model)(crops))
        self.hole = self.map > 127
        if not self.hole.any():
            self.hole = np.ones_like(self.hole)  # a model that finds no mask on any crop: compare all of it

    def __call__(self, ranges: Mapping[str, Range], nodes: set[str]) -> tuple[float, float]:
        """Mean squared error of a form, by its ranges and its int8 nodes: of the face in the hole, and of the map."""
        face, found = runner(quantised(self.model, ranges, nodes))(self.crops)
        return float(np.mean((face - self.face)[self.hole] ** 2)), float(np.mean((found - self.map) ** 2))


def widened(means: Mapping[str, Range], chosen: set[str], check: Check, progress: Progress) -> dict[str, Range]:
    """The ranges, made wider (`ROOMS`)."""
    finding = behind(check.model.graph, ["map"])
    inside = {edge for node in check.model.graph.node if node.name in finding for edge in node.output}

    def wide(for_map: float, for_face: float) -> dict[str, Range]:
        rooms = {name: for_map if name in inside else for_face for name in means}
        return {name: (low * rooms[name], high * rooms[name]) for name, (low, high) in means.items()}

    for_map = min(ROOMS, key=lambda room: check(wide(room, 1.0), chosen)[1])
    for_face = min(ROOMS, key=lambda room: check(wide(for_map, room), chosen)[0])
    progress(f"ranges {for_map:g} (map) and {for_face:g} times the mean extremes")
    return wide(for_map, for_face)


def sensitive(ranges: Mapping[str, Range], chosen: set[str], check: Check, progress: Progress) -> set[str]:
    """The fewest convolutions (one by one, the costliest first) without which the rest is close enough to fp32."""
    kinds = {node.name: node.op_type for node in check.model.graph.node}
    convolutions = sorted(name for name in chosen if kinds[name] == "Conv")
    left_out: set[str] = set()
    allowed = 255.0**2 / 10 ** (WANTED_DB / 10)
    error, _ = check(ranges, chosen)
    progress(f"int8 differs from fp32 by {decibels(error):.1f} dB in the hole")
    while error > allowed and len(left_out) < MOST_LEFT_OUT:
        errors = {n: check(ranges, chosen - left_out - {n})[0] for n in convolutions if n not in left_out}
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
