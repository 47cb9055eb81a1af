"""How quantisation is written: what a Relu becomes, what shares a range, and that repeating is enlarging."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import qdq, symmetric

SIDE = 8
SHAPE = (1, 4, SIDE, SIDE)


def node(kind: str, given: str, made: str, **details: object) -> onnx.NodeProto:
    return helper.make_node(kind, given.split(), [made], name=made, **details)


def conv(given: str, made: str) -> onnx.NodeProto:
    return node("Conv", f"{given} {made}.weight {made}.bias", made, pads=[1] * 4)


def model(nodes: list[onnx.NodeProto], *outputs: str) -> onnx.ModelProto:
    """A graph of an input, turned into x first, to outputs; convolutions give four channels."""
    drawn, nodes = np.random.default_rng(0), [node("Neg", "input", "x"), *nodes]
    constants = {"twice": np.array([1, 1, 2, 2], np.float32), "uneven": np.array([1, 1, 1.5, 1.5], np.float32)}
    wide = {n.output[0] for n in nodes if n.op_type == "Concat"}
    for n in nodes:
        if n.op_type == "Conv":
            inside = 8 if n.input[0] in wide else 4
            constants[n.input[1]] = drawn.normal(0, 0.2, (4, inside, 3, 3)).astype(np.float32)
            constants[n.input[2]] = drawn.normal(0, 0.2, 4).astype(np.float32)
    read = {edge for n in nodes for edge in n.input}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(
        nodes, "graph", [helper.make_tensor_value_info("input", TensorProto.FLOAT, SHAPE)], ends,
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in read],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(made: onnx.ModelProto, *names: str) -> list[np.ndarray]:
    """Edges of a graph on the same numbers each time; without names its outputs."""
    watched = onnx.ModelProto()
    watched.CopyFrom(made)
    there = {value.name for value in watched.graph.output}
    watched.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in there
    )
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    given = np.random.default_rng(1).normal(0, 1, SHAPE).astype(np.float32)
    found: list[np.ndarray] = session.run(list(names) or None, {"input": given})
    return found


def ranges(plain: onnx.ModelProto) -> dict[str, qdq.Range]:
    names = list(dict.fromkeys(edge for n in plain.graph.node for edge in n.output))
    return {name: (float(v.min()), float(v.max())) for name, v in zip(names, run(plain, *names), strict=True)}


def kinds(made: onnx.ModelProto) -> Counter[str]:
    return Counter(n.op_type for n in made.graph.node)


def zero_of(made: onnx.ModelProto, edge: str) -> int:
    (stored,) = [t for t in made.graph.initializer if t.name == f"{edge}/zero"]
    return int(numpy_helper.to_array(stored))


def off(found: list[np.ndarray], wanted: list[np.ndarray]) -> float:
    """The greatest error of any output, of its own spread."""
    return max(float(np.sqrt(np.mean((a - b) ** 2)) / b.std()) for a, b in zip(found, wanted, strict=True))


# ---- what a Relu becomes

TWO = [conv("x", "a"), node("Relu", "a", "b"), conv("b", "c"), node("Add", "b c", "d"), node("Relu", "d", "e")]
TWO += [conv("e", "y")]


def test_a_relu_between_int8_numbers_is_the_range_of_what_it_gave() -> None:
    plain = model(TWO, "y")
    made = qdq.quantised(plain, ranges(plain), {"a", "b", "c", "d", "e"})
    assert kinds(made)["Relu"] == 0 and zero_of(made, "b") == zero_of(made, "e") == 0
    assert {n.op_type for n in made.graph.node if {"b", "e"} & set(n.input)} == {"QuantizeLinear"}
    (between,) = run(plain, "d")
    assert (between < 0).mean() > 0.2, "nothing was cut off"
    assert off(run(made), run(plain)) < 0.03


def test_a_relu_that_int8_alone_reads_is_gone_behind_floating_point_too() -> None:
    plain = model([node("Sin", "x", "a"), node("Relu", "a", "b"), conv("b", "c"), node("Sin", "c", "y")], "y")
    made = qdq.quantised(plain, ranges(plain), {"c"})
    assert kinds(made)["Relu"] == 0 and zero_of(made, "b") == 0
    assert off(run(made), run(plain)) < 0.03


@pytest.mark.parametrize(
    ("nodes", "chosen"),
    [
        ([conv("x", "a"), node("Relu", "a", "b"), node("Add", "a b", "y")], {"a"}),
        ([node("Sin", "x", "a"), node("Relu", "a", "b"), conv("b", "c"), node("Add", "b c", "y")], {"c"}),
        ([node("Sin", "x", "a"), node("Relu", "a", "y")], {"y"}),
        ([node("Relu", "input", "b"), conv("b", "c"), node("Sin", "c", "y")], {"c"}),
    ],
    ids=["others read what it reads", "others read what it gives", "an output", "an input"],
)
def test_a_relu_that_somebody_needs_stays(nodes: list[onnx.NodeProto], chosen: set[str]) -> None:
    plain = model(nodes, "y")
    made = qdq.quantised(plain, ranges(plain), chosen)
    assert kinds(made)["Relu"] == 1
    assert off(run(made), run(plain)) < 0.03


@pytest.mark.parametrize("other", ["Relu", "Identity"])
def test_a_relu_stays_where_its_range_is_shared_with_less_than_zero(other: str) -> None:
    nodes = [conv("x", "a"), node("Relu", "a", "b"), conv("x", "c"), node(other, "c", "d")]
    nodes += [node("Concat", "b d", "e", axis=1), conv("e", "f"), node("Sin", "f", "y")]
    plain = model(nodes, "y")
    made = qdq.quantised(plain, ranges(plain), {"a", "c", "e", "f"})
    assert kinds(made)["Relu"] == (0 if other == "Relu" else 1) and (zero_of(made, "b") == 0) == (other == "Relu")
    assert off(run(made), run(plain)) < 0.03


def test_around_zero_a_relu_is_a_node_again() -> None:
    nodes = [*TWO, node("Sin", "y", "z")]
    plain = model(nodes, "z")
    made = qdq.quantised(plain, ranges(plain), {"a", "b", "c", "d", "e", "y"})
    turned = onnx.ModelProto()
    turned.CopyFrom(made)
    symmetric.to_symmetric(turned)
    assert kinds(made)["Relu"] == 0 and kinds(turned)["Relu"] == 2
    assert off(run(turned), run(plain)) < 0.06
    for n in turned.graph.node:
        if n.op_type == "Relu":
            n.op_type = "Identity"
    assert off(run(turned), run(plain)) > 0.2, "it was not needed"


# ---- ranges


@pytest.mark.parametrize("others", [False, True])
def test_parts_laid_side_by_side_have_one_range_whoever_else_reads_them(others: bool) -> None:
    nodes = [conv("x", "a"), node("Relu", "a", "b"), conv("b", "c"), node("Relu", "c", "d")]
    nodes += [node("Concat", "b d", "e", axis=1), conv("e", "f"), node("Sin", "f", "y")]
    plain = model(nodes + ([node("Sin", "b", "z")] if others else []), *("yz" if others else "y"))
    made = qdq.quantised(plain, ranges(plain), {"a", "b", "c", "d", "e", "f"})
    stored = {t.name: float(numpy_helper.to_array(t)) for t in made.graph.initializer if t.name.endswith("/scale")
              and not t.dims}  # fmt: skip
    assert stored["b/scale"] == stored["d/scale"] == stored["e/scale"] and kinds(made)["Relu"] == 0
    assert off(run(made), run(plain)) < 0.03


@pytest.mark.parametrize("alone", [True, False])
def test_what_a_sigmoid_alone_reads_is_as_fine_as_it_can_tell(alone: bool) -> None:
    nodes = [conv("x", "a"), node("Sigmoid", "a", "y"), *([] if alone else [node("Sin", "a", "z")])]
    plain = model(nodes, *("y" if alone else "yz"))
    wide = ranges(plain) | {"a": (-60.0, 40.0)}
    made = qdq.quantised(plain, wide, {"a"})
    (scale,) = [numpy_helper.to_array(t) for t in made.graph.initializer if t.name == "a/scale"]
    assert scale == pytest.approx(2 * qdq.SIGMOID_REACH / 255 if alone else 100 / 255)
    assert 255 / (1 + np.exp(qdq.SIGMOID_REACH)) < 0.5, "a byte could tell the difference"


# ---- enlarging


def enlarged(scales: str, **details: object) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """A graph with int8 enlarging in the middle, with Resize and as `repeating` leaves it."""
    nodes = [conv("x", "a"), helper.make_node("Resize", ["a", "", scales], ["b"], name="b", **details)]
    plain = model([*nodes, conv("b", "c"), node("Sin", "c", "y")], "y")
    before = qdq.quantised(plain, ranges(plain), {"a", "b", "c"})
    after = onnx.ModelProto()
    after.CopyFrom(before)
    qdq.repeating(after, {"a": SHAPE})
    return before, after


ASYMMETRIC = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def test_repeating_is_enlarging() -> None:
    before, after = enlarged("twice", **ASYMMETRIC)
    assert kinds(before)["Resize"] == 1 and kinds(after)["Resize"] == 0 and kinds(after)["Expand"] == 1
    assert run(after, "b", "y")[0].shape == (1, 4, 2 * SIDE, 2 * SIDE)
    for found, wanted in zip(run(after, "b", "y"), run(before, "b", "y"), strict=True):
        assert (found == wanted).all() and found.std() > 0.1


@pytest.mark.parametrize(
    ("scales", "details"),
    [
        ("uneven", ASYMMETRIC),
        ("twice", ASYMMETRIC | {"mode": "linear"}),
        ("twice", ASYMMETRIC | {"nearest_mode": "ceil"}),
        ("twice", ASYMMETRIC | {"coordinate_transformation_mode": "align_corners"}),
    ],
    ids=["not whole", "linear", "ceil", "corners"],
)
def test_other_enlarging_stays(scales: str, details: dict[str, object]) -> None:
    _, after = enlarged(scales, **details)
    assert kinds(after)["Resize"] == 1 and kinds(after)["Expand"] == 0


def test_enlarging_in_floating_point_stays() -> None:
    nodes = [node("Sin", "x", "a"), helper.make_node("Resize", ["a", "", "twice"], ["y"], name="y", **ASYMMETRIC)]
    made = model(nodes, "y")
    qdq.repeating(made, {"a": SHAPE})
    assert kinds(made) == {"Neg": 1, "Sin": 1, "Resize": 1}


@pytest.mark.parametrize("reader", ["Relu", "Sigmoid"])
def test_what_a_sum_adds_for_a_relu_reaches_no_further_down_than_the_other_part_up(reader: str) -> None:
    nodes = [conv("x", "a"), conv("x", "b"), node("Add", "a b", "sum"), node(reader, "sum", "y"), conv("y", "z")]
    plain = model([*nodes, node("Neg", "z", "out")], "out")
    found = ranges(plain) | {"a": (-90.0, 4.0), "b": (-1.0, 3.0)}
    made = qdq.quantised(plain, found, {"a", "b", "sum", "y", "z"} - ({"y"} if reader == "Sigmoid" else set()))
    (scale,) = [numpy_helper.to_array(t) for t in made.graph.initializer if t.name == "a/scale"]
    low = -zero_of(made, "a") * float(scale)
    assert low == pytest.approx(-3.0 if reader == "Relu" else -90.0, abs=0.4)
