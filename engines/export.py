"""From a torch module to one ONNX file with its metadata inside, and into the index of bundled models.

Needs torch and onnx (extra ``train``). The commands are the trainer's: `unmask-train export`, `trainer.aligner.export`.
Weights are stored in FP16 and cast when the file is loaded: half the size, computed in FP32 all the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from engines.spec import METADATA_KEY, ModelSpec
from unmask_rt.models import ALIGNER, UNMASK

LICENCE = "research and evaluation only (LICENSE-WEIGHTS)"
HALF = ".half"
"""Ending of the name of a weight that is stored in FP16, and cast to one without it."""


def to_onnx(
    model: torch.nn.Module,
    *shapes: tuple[int, ...],
    inputs: Sequence[str] = ("crop",),
    outputs: Sequence[str] = ("face", "map"),
) -> onnx.ModelProto:
    """Traces a model of uint8 inputs of these shapes (without the batch, which stays free); opset 18."""
    buffer = io.BytesIO()
    names = [*inputs, *outputs]
    model.eval()  # else the exporter would leave every part of it in training mode
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model,
            tuple(torch.zeros(1, *shape, dtype=torch.uint8) for shape in shapes),
            buffer,  # type: ignore[arg-type]
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "n"} for name in names},
            opset_version=18,
            dynamo=False,
        )
    return onnx.load_from_string(buffer.getvalue())


def store_half(model: onnx.ModelProto, minimum: int = 256) -> None:
    """Stores each large FP32 weight as FP16 with a cast behind it; ONNX Runtime folds the cast at load."""
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT or np.prod(weight.dims) < minimum:
            continue
        values = numpy_helper.to_array(weight).astype(np.float16)
        name = weight.name
        weight.CopyFrom(numpy_helper.from_array(values, f"{name}{HALF}"))
        casts.append(
            helper.make_node("Cast", [f"{name}{HALF}"], [name], name=f"{name}.cast", to=onnx.TensorProto.FLOAT)
        )
    for node in reversed(casts):
        model.graph.node.insert(0, node)


def stored_weights(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """The weights of a graph as FP32 by their names, whichever way they are stored: the way back of `store_half`.

    What is the same twice, the exporter stores once; it is given under both names.
    """
    stored = {w.name.removesuffix(HALF): numpy_helper.to_array(w).astype(np.float32) for w in graph.initializer}
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    return stored


def write(graph: onnx.ModelProto, out: Path, spec: ModelSpec, *, half: bool = True) -> None:
    """Writes a model with its metadata; ``half`` stores the weights in FP16."""
    if half:
        store_half(graph)
    write_with(graph, out, METADATA_KEY, spec.to_json())


def write_with(graph: onnx.ModelProto, out: Path, key: str, value: str) -> None:
    """Writes a checked model with one entry of metadata, the same bytes each time."""
    entry = graph.metadata_props.add()
    entry.key, entry.value = key, value
    graph.producer_name = "unmask-rt"
    onnx.checker.check_model(graph, full_check=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(graph.SerializeToString(deterministic=True))


def register(path: Path, spec: ModelSpec) -> None:
    """Makes a model the default one in the index of bundled models beside it; an int8 form of another is forgotten."""
    index = _index(path)
    others = {name: record for name, record in index.items() if record.get("purpose", UNMASK) != UNMASK}
    _write_index(path, {spec.name: _record(path, spec.licence, UNMASK)} | others)


def register_aligner(path: Path, licence: str) -> None:
    """Enters an aligner in the index of bundled models beside it, in the place of one that is there."""
    index = {name: record for name, record in _index(path).items() if record.get("purpose") != ALIGNER}
    _write_index(path, index | {path.stem: _record(path, licence, ALIGNER)})


def _record(path: Path, licence: str, purpose: str) -> dict[str, str]:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"file": path.name, "sha256": digest, "licence": licence, "purpose": purpose}


def _index(path: Path) -> dict[str, dict[str, str]]:
    index = path.with_name("models.json")
    return json.loads(index.read_text("utf-8")) if index.is_file() else {}


def _write_index(path: Path, index: dict[str, dict[str, str]]) -> None:
    path.with_name("models.json").write_text(json.dumps(index, indent=1) + "\n")
