"""An exported ONNX graph as an exported program of torch: one file is the model for every engine.

The operators are those that this tool's export and torch's own exporter write for this tool's networks; another one is
refused by its name. Needs torch and the package onnx; what comes out needs torch alone.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from engines import graphs
from engines.metadata import identify
from unmask_rt.errors import EngineError

Options = Mapping[str, Any]
_TYPES = {
    TensorProto.FLOAT: torch.float32, TensorProto.FLOAT16: torch.float16, TensorProto.UINT8: torch.uint8,
    TensorProto.INT64: torch.int64, TensorProto.INT32: torch.int32, TensorProto.BOOL: torch.bool,
}  # fmt: skip


def program(model: bytes, batch: int) -> torch.export.ExportedProgram:
    """The exported program of a model for so many crops, its convolutions in channels-last order.

    Raises:
        EngineError: an operator is not known here.
        ModelError: damaged or foreign.
    """
    spec, _ = identify(model)
    module = Graph(graphs.folded(graphs.read(model), batch))
    crop = torch.zeros(batch, spec.crop_size, spec.crop_size, 3, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(module, (crop,), strict=False)


def to_bytes(made: torch.export.ExportedProgram) -> bytes:
    """An exported program as the bytes of a .pt2 file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it takes weights in channels-last order for parts of something larger
        torch.export.save(made, buffer)
    return buffer.getvalue()


class Graph(nn.Module):
    """Runs a folded ONNX graph of fixed shapes node by node: crop -> face and map."""

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self.nodes = [(node.op_type, list(node.input), list(node.output), graphs.attributes(node))
                      for node in model.graph.node]  # fmt: skip
        if unknown := {kind for kind, *_ in self.nodes} - set(_OPERATORS):
            raise EngineError(
                f"torch cannot run this model: it uses {', '.join(sorted(unknown))}", "Choose another --engine."
            )
        self.numbers: dict[str, list[Any]] = {}  # shapes, axes, places: whole numbers that torch wants as such
        self.weights: dict[str, str] = {}
        for index, stored in enumerate(model.graph.initializer):
            value = numpy_helper.to_array(stored)
            if value.dtype.kind in "iub" and value.ndim <= 1:
                self.numbers[stored.name] = np.atleast_1d(value).tolist()
            kept = torch.from_numpy(value.copy())
            if kept.ndim == 4:
                kept = kept.contiguous(memory_format=torch.channels_last)
            self.weights[stored.name] = f"weight_{index}"
            self.register_buffer(f"weight_{index}", kept)
            if value.dtype == np.float32 and value.size <= 4:
                self.numbers.setdefault(stored.name, np.atleast_1d(value).tolist())  # scales of Resize
        self.inside = model.graph.input[0].name
        self.outside = [value.name for value in model.graph.output]

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor]:  # uint8 (N, S, S, 3)
        values = {name: getattr(self, buffer) for name, buffer in self.weights.items()} | {self.inside: crop}
        for kind, inputs, outputs, options in self.nodes:
            given = [values.get(name) for name in inputs]
            numbers = [self.numbers.get(name) for name in inputs]
            made = _OPERATORS[kind](given, numbers, options)
            values.update(zip(outputs, made if isinstance(made, tuple) else (made,), strict=False))
        face, mask = (values[name] for name in self.outside)
        return face.contiguous(), mask.contiguous()


Given = Sequence[Any]
"""What a node reads: tensors, None where an optional one is left out."""
Numbers = Sequence[Any]
"""The same as lists of numbers, where they are constants; None otherwise."""


def _conv(x: Given, n: Numbers, o: Options) -> Tensor:
    pads = o.get("pads", [0, 0, 0, 0])
    source = x[0] if pads[:2] == pads[2:] else F.pad(x[0], (pads[1], pads[3], pads[0], pads[2]))
    around = pads[:2] if pads[:2] == pads[2:] else [0, 0]
    bias = x[2] if len(x) > 2 else None
    return F.conv2d(source, x[1], bias, o.get("strides", 1), around, o.get("dilations", 1), o.get("group", 1))


def _conv_transpose(x: Given, n: Numbers, o: Options) -> Tensor:
    bias = x[2] if len(x) > 2 else None
    extra, pads = o.get("output_padding", 0), o.get("pads", [0, 0])[:2]
    return F.conv_transpose2d(x[0], x[1], bias, o.get("strides", 1), pads, extra, o.get("group", 1))


def _average_pool(x: Given, n: Numbers, o: Options) -> Tensor:
    counted, pads = bool(o.get("count_include_pad", 0)), o.get("pads", [0, 0])[:2]
    return F.avg_pool2d(x[0], o["kernel_shape"], o.get("strides", 1), pads, bool(o.get("ceil_mode", 0)), counted)


def _max_pool(x: Given, n: Numbers, o: Options) -> Tensor:
    pads = o.get("pads", [0, 0])[:2]
    return F.max_pool2d(x[0], o["kernel_shape"], o.get("strides", 1), pads, 1, bool(o.get("ceil_mode", 0)))


def _resize(x: Given, n: Numbers, o: Options) -> Tensor:
    mode, where = o.get("mode", "nearest"), o.get("coordinate_transformation_mode", "half_pixel")
    sizes = n[3][2:] if len(n) > 3 and n[3] is not None else None
    scales = None if sizes is not None else n[2][2:]
    if mode == "nearest" and (where == "asymmetric" or scales == [2.0, 2.0]):
        return F.interpolate(x[0], sizes, scales, "nearest")
    if mode == "linear" and where in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return F.interpolate(x[0], sizes, scales, "bilinear", align_corners=where == "align_corners")
    raise EngineError(f"torch cannot run this model: Resize {mode} {where}", "Choose another --engine.")


def _slice(x: Given, n: Numbers, o: Options) -> Tensor:
    starts, ends = n[1], n[2]
    axes = n[3] if len(n) > 3 and n[3] is not None else range(len(starts))
    steps = n[4] if len(n) > 4 and n[4] is not None else [1] * len(starts)
    places: list[slice] = [slice(None)] * x[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        places[axis] = slice(start, end, step)
    cut: Tensor = x[0][tuple(places)]
    return cut


def _gather(x: Given, n: Numbers, o: Options) -> Tensor:
    axis = o.get("axis", 0)
    if x[1].ndim == 0:
        return cast(Tensor, x[0].select(axis, n[1][0]))
    return torch.index_select(x[0], axis, x[1])


def _pad(x: Given, n: Numbers, o: Options) -> Tensor:
    begins, ends = n[1][: x[0].ndim], n[1][x[0].ndim :]
    pairs = [side for begin, end in zip(begins[::-1], ends[::-1], strict=True) for side in (begin, end)]
    while len(pairs) > 2 and pairs[-2:] == [0, 0]:
        del pairs[-2:]
    mode = str(o.get("mode", "constant"))
    if mode != "constant":
        return F.pad(x[0], pairs, "replicate" if mode == "edge" else mode)
    return F.pad(x[0], pairs, value=n[2][0] if len(n) > 2 and n[2] is not None else 0.0)


def _split(x: Given, n: Numbers, o: Options) -> tuple[Tensor, ...]:
    axis = o.get("axis", 0)
    parts = n[1] if len(n) > 1 else [x[0].shape[axis] // o["num_outputs"]] * o["num_outputs"]
    return torch.split(x[0], parts, axis)


def _depth_to_space(x: Given, n: Numbers, o: Options) -> Tensor:
    if o.get("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x[0], o["blocksize"])
    block, (batch, channels, height, width) = o["blocksize"], x[0].shape
    apart = x[0].reshape(batch, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return cast(Tensor, apart.reshape(batch, channels // block**2, height * block, width * block))


def _clip(x: Given, n: Numbers, o: Options) -> Tensor:
    low = x[1] if len(x) > 1 else None
    high = x[2] if len(x) > 2 else None
    return torch.clamp(x[0], low, high)


def _reduced(work: Callable[..., Tensor]) -> Callable[[Given, Numbers, Options], Tensor]:
    def run(x: Given, n: Numbers, o: Options) -> Tensor:
        axes = n[1] if len(n) > 1 and n[1] is not None else o.get("axes", list(range(x[0].ndim)))
        return work(x[0], axes, keepdim=bool(o.get("keepdims", 1)))

    return run


def _unsqueeze(x: Given, n: Numbers, o: Options) -> Tensor:
    made: Tensor = x[0]
    for axis in sorted(n[1]):
        made = made.unsqueeze(axis)
    return made


def _reshape(x: Given, n: Numbers, o: Options) -> Tensor:
    sides = [x[0].shape[i] if side == 0 and not o.get("allowzero", 0) else side for i, side in enumerate(n[1])]
    return cast(Tensor, x[0].reshape(sides))


_OPERATORS: dict[str, Callable[[Given, Numbers, Options], Any]] = {
    "Add": lambda x, n, o: x[0] + x[1],
    "AveragePool": _average_pool,
    "Cast": lambda x, n, o: x[0].to(_TYPES[o["to"]]),
    "Clip": _clip,
    "Concat": lambda x, n, o: torch.cat(list(x), o["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Div": lambda x, n, o: x[0] / x[1],
    "Exp": lambda x, n, o: torch.exp(x[0]),
    "Flatten": lambda x, n, o: x[0].flatten(o.get("axis", 1)),
    "Gather": _gather,
    "GlobalAveragePool": lambda x, n, o: x[0].mean((2, 3), keepdim=True),
    "Identity": lambda x, n, o: x[0],
    "InstanceNormalization": lambda x, n, o: F.instance_norm(x[0], None, None, x[1], x[2], eps=o.get("epsilon", 1e-5)),
    "LayerNormalization": lambda x, n, o: F.layer_norm(
        x[0], x[1].shape, x[1], x[2] if len(x) > 2 else None, o.get("epsilon", 1e-5)
    ),
    "LeakyRelu": lambda x, n, o: F.leaky_relu(x[0], o.get("alpha", 0.01)),
    "MatMul": lambda x, n, o: x[0] @ x[1],
    "Max": lambda x, n, o: torch.maximum(x[0], x[1]),
    "MaxPool": _max_pool,
    "Min": lambda x, n, o: torch.minimum(x[0], x[1]),
    "Mul": lambda x, n, o: x[0] * x[1],
    "Neg": lambda x, n, o: -x[0],
    "Pad": _pad,
    "Pow": lambda x, n, o: torch.pow(x[0], x[1]),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceSum": _reduced(torch.sum),
    "Relu": lambda x, n, o: F.relu(x[0]),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": lambda x, n, o: torch.sigmoid(x[0]),
    "Slice": _slice,
    "Softmax": lambda x, n, o: torch.softmax(x[0], o.get("axis", -1)),
    "Split": _split,
    "Sqrt": lambda x, n, o: torch.sqrt(x[0]),
    "Squeeze": lambda x, n, o: x[0].squeeze(tuple(n[1])) if len(n) > 1 else x[0].squeeze(),
    "Sub": lambda x, n, o: x[0] - x[1],
    "Tanh": lambda x, n, o: torch.tanh(x[0]),
    "Transpose": lambda x, n, o: x[0].permute(o["perm"]),
    "Unsqueeze": _unsqueeze,
}
"""Each operator -> what torch calls it."""
