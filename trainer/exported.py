"""An exported default model as something to begin a training with: the weights of its networks, out of the ONNX file.

The file holds what `networks.deployed.Deployed` computes with, each weight under its parameter's name, but for the two
biases of a token mixer: the exporter has added them to what they are added with, so that they are constants of sums.
Weights stored in FP16 come back as such. Discriminators are not in it.
"""

from __future__ import annotations

import onnx
import torch
from torch import Tensor

from engines.export import stored_weights
from trainer.checkpoint import State
from trainer.networks.deployed import unfolded
from unmask_rt.errors import ModelError, UsageError


def read_weights(model: bytes) -> dict[str, State]:
    """The weights of the networks "map" and "generator" of an exported default model.

    Raises:
        ModelError: it is no ONNX file, or a damaged one.
        UsageError: it is one of another network.
    """
    try:
        graph = onnx.load_from_string(model).graph
        stored = {name: torch.from_numpy(weight) for name, weight in stored_weights(graph).items()}
    except Exception as error:  # protobuf and onnx have errors of their own
        hint = "Give the folder of a run, or an .onnx file exported from one."
        raise ModelError("the model is damaged or no ONNX file with its weights inside", hint) from error
    try:
        found, edit = unfolded(stored | _mixers(graph, stored))
    except (LookupError, StopIteration, RuntimeError, ValueError) as error:
        raise UsageError(
            "only an exported default network (the preset realtime, at 256 px, in fp32) can be trained on",
            "Begin with the folder of the run that this model was exported from.",
        ) from error
    return {"map": found, "generator": edit}


def _mixers(graph: onnx.GraphProto, stored: State) -> dict[str, Tensor]:
    """The biases of all token mixers by their names, the second one as the bias of each place."""
    users = {name: node for node in graph.node for name in node.input}
    found: dict[str, Tensor] = {}
    for node in graph.node:
        name, dot, layer = node.input[0].removesuffix(".weight").rpartition(".") if node.input else ("", "", "")
        if node.op_type != "MatMul" or not dot or layer not in ("widen", "narrow"):
            continue
        added = next(stored[edge] for edge in users[node.output[0]].input if edge in stored)
        if layer == "widen":
            found[f"{name}.widen.bias"] = added.flatten()
        else:
            found |= {f"{name}.place": added, f"{name}.narrow.bias": added.new_zeros(len(added))}
    return found
