"""A small model of this tool's kind that the tests make themselves: it computes enough to go wrong."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines.spec import METADATA_KEY, ModelSpec

SIDE = 32
SPEC = ModelSpec("small", SIDE, ((0.3, 0.35), (0.7, 0.35)), (), "research only", "random weights")


def small_model(seed: int = 0) -> bytes:
    """uint8 crops -> face and map; bytes are rearranged before they become numbers, weights are stored in FP16."""
    drawn = np.random.default_rng(seed)
    made: list[onnx.NodeProto] = []
    constants = {
        "rows": np.array([0, SIDE, SIDE, 3], np.int64),
        "scale": np.float32(127.5), "one": np.float32(1), "half": np.float32(0.5), "full": np.float32(255),
        "low": np.float32(0), "epsilon": np.float32(1e-6), "twice": np.array([1, 1, 2, 2], np.float32),
        "none": np.array([0], np.int64), "count": np.array([1, 1, 3 * SIDE * SIDE], np.int64),
        "norm.weight": np.ones(SIDE * SIDE // 4, np.float32), "norm.bias": np.zeros(SIDE * SIDE // 4, np.float32),
    }  # fmt: skip
    for name, outside, inside in (("a", 16, 3), ("b", 16, 16), ("c", 4, 16)):
        weight = drawn.normal(0, np.sqrt(1 / (9 * inside)), (outside, inside, 3, 3))
        constants[f"{name}.half"] = weight.astype(np.float16)
        constants[f"{name}.bias"] = drawn.normal(0, 0.1, outside).astype(np.float32)
        made.append(helper.make_node("Cast", [f"{name}.half"], [f"{name}.weight"], to=TensorProto.FLOAT))

    def node(kind: str, inputs: str, output: str, **details: object) -> None:
        made.append(helper.make_node(kind, inputs.split(), [output], name=output, **details))

    node("Reshape", "crop rows", "bytes")
    node("Transpose", "bytes", "planes", perm=[0, 3, 1, 2])
    node("Cast", "planes", "levels", to=TensorProto.FLOAT)
    node("Div", "levels scale", "halves")
    node("Sub", "halves one", "x")
    node("Conv", "x a.weight a.bias", "a0", pads=[1] * 4, strides=[2, 2])
    node("Relu", "a0", "a1")
    node("Conv", "a1 b.weight b.bias", "b0", pads=[1] * 4)
    node("LeakyRelu", "b0", "b1", alpha=0.2)
    node("Shape", "b1", "sides")
    node("Slice", "sides zero two", "first")
    node("Concat", "first minus", "flat", axis=0)
    constants |= {name: np.array([value], np.int64) for name, value in (("zero", 0), ("two", 2), ("minus", -1))}
    node("Reshape", "b1 flat", "tokens")
    node("LayerNormalization", "tokens norm.weight norm.bias", "normed", axis=-1, epsilon=1e-5)
    node("Reshape", "normed sides", "back")
    node("Add", "a1 back", "sum")
    made.append(helper.make_node("Resize", ["sum", "", "twice"], ["big"], name="big", mode="nearest"))
    node("Conv", "big c.weight c.bias", "c0", pads=[1] * 4)
    made.append(helper.make_node("Split", ["c0", "parts"], ["drawn", "logit"], name="parted", axis=1))
    constants["parts"] = np.array([3, 1], np.int64)
    node("Sigmoid", "logit", "map0")
    node("Sub", "drawn x", "change")
    node("Mul", "change map0", "part")
    node("Add", "x part", "y")
    node("Add", "y one", "y1")
    node("Mul", "y1 scale", "y2")
    node("Add", "y2 half", "y3")
    node("Clip", "y3 low full", "y4")
    node("Cast", "y4", "y5", to=TensorProto.UINT8)
    node("Transpose", "y5", "face", perm=[0, 2, 3, 1])
    node("Mul", "map0 full", "map1")
    node("Cast", "map1", "map2", to=TensorProto.UINT8)
    node("Squeeze", "map2 axis", "map")
    constants["axis"] = np.array([1], np.int64)
    used = {edge for n in made for edge in n.input}
    shapes = {"crop": ["n", SIDE, SIDE, 3], "face": ["n", SIDE, SIDE, 3], "map": ["n", SIDE, SIDE]}
    doors = {name: helper.make_tensor_value_info(name, TensorProto.UINT8, shape) for name, shape in shapes.items()}
    graph = helper.make_graph(
        made, "small", [doors["crop"]], [doors["face"], doors["map"]],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {METADATA_KEY: SPEC.to_json()})
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def small_crops(count: int, seed: int = 1) -> np.ndarray:
    """Random crops, uint8[count, SIDE, SIDE, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
