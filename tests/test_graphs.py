"""Made forms of a model: folded, FP16 and symmetric int8 graphs, and what a file says about itself."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from engines import envelope, fp16, graphs, metadata, symmetric
from engines.variants import SOURCE_KEY
from tests.engine_models import SIDE, SPEC, small_crops, small_model
from unmask_rt.errors import EngineError, ModelError

MODEL = small_model()


def run(model: bytes, crops: np.ndarray) -> list[np.ndarray]:
    return list(onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, {"crop": crops}))


def psnr(found: np.ndarray, wanted: np.ndarray) -> float:
    error = np.mean((found.astype(float) - wanted) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


# ---- folding


@pytest.mark.parametrize("batch", [None, 1, 3])
def test_a_folded_graph_computes_the_same(batch: int | None) -> None:
    crops = small_crops(batch or 2)
    folded = graphs.folded(graphs.read(MODEL), batch)
    onnx.checker.check_model(folded, full_check=True)
    for found, wanted in zip(run(folded.SerializeToString(), crops), run(MODEL, crops), strict=True):
        assert np.abs(found.astype(int) - wanted).max() <= 1


def test_fixed_shapes_leave_nothing_to_compute_but_the_network() -> None:
    before, free, fixed = (graphs.read(MODEL), graphs.folded(graphs.read(MODEL)), graphs.folded(graphs.read(MODEL), 2))
    assert kinds(before)["Shape"] == 1 and kinds(before)["Cast"] == 6
    assert kinds(free)["Cast"] == 3 and kinds(free)["Shape"] == 1, "weights are cast, sides are not known yet"
    assert not {"Shape", "Slice", "Concat"} & set(kinds(fixed)) and kinds(fixed)["Cast"] == 3
    assert graphs.shapes(fixed)["face"] == (2, SIDE, SIDE, 3)
    names = {tensor.name for tensor in fixed.graph.initializer}
    assert names == {edge for node in fixed.graph.node for edge in node.input} & names, "no weight that nothing reads"


def test_casts_of_bytes_move_to_the_doors() -> None:
    model = graphs.folded(graphs.read(MODEL))
    graphs.bytes_at_the_doors(model.graph)
    onnx.checker.check_model(model, full_check=True)
    makers = {edge: node for node in model.graph.node for edge in node.output}
    assert [node.op_type for node in model.graph.node if "crop" in node.input] == ["Cast"]
    assert makers["face"].op_type == makers["map"].op_type == "Cast"
    crops = small_crops(2)
    for found, wanted in zip(run(model.SerializeToString(), crops), run(MODEL, crops), strict=True):
        assert (found == wanted).all()


def test_bytes_that_are_computed_with_stay_where_they_are() -> None:
    crop = helper.make_tensor_value_info("crop", TensorProto.UINT8, ["n", 4])
    out = helper.make_tensor_value_info("out", TensorProto.UINT8, ["n", 4])
    nodes = [helper.make_node("Identity", ["crop"], ["same"]), helper.make_node("Max", ["same", "same"], ["out"])]
    graph = helper.make_graph(nodes, "bytes", [crop], [out])
    graphs.bytes_at_the_doors(graph)
    assert [node.op_type for node in graph.node] == ["Identity", "Max"]


# ---- FP16


def test_the_half_form_is_half_throughout_and_close() -> None:
    made = fp16.make(MODEL)
    model = onnx.load_from_string(made)
    wide = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT]
    assert [t.name for t in wide] == ["twice"], "only the scales of Resize have to be FP32"
    crops = small_crops(4)
    for found, wanted in zip(run(made, crops), run(MODEL, crops), strict=True):
        assert psnr(found, wanted) > 50 and np.abs(found.astype(int) - wanted).max() <= 2


def test_the_half_form_knows_what_it_was_made_from_and_is_the_same_each_time() -> None:
    made = fp16.make(MODEL)
    assert metadata.identify(made) == metadata.identify(MODEL) and fp16.make(MODEL) == made
    assert metadata.metadata(made)[SOURCE_KEY] == metadata.identify(MODEL)[1]


def test_numbers_beyond_half_stay_finite_and_an_epsilon_never_becomes_zero() -> None:
    def half(*values: float) -> np.ndarray:
        return numpy_helper.to_array(fp16.half_tensor(numpy_helper.from_array(np.array(values, np.float32), "x")))

    assert np.isfinite(half(1e6, -1e6)).all() and half(1e6)[0] > 60000
    assert half(1e-12)[0] > 0 > half(-1e-12)[0] and half(0.0)[0] == 0
    assert (half(1e-12, 1.0) == np.array([0, 1], np.float16)).all(), "a weight among others may vanish"


# ---- symmetric int8


class Crops(CalibrationDataReader):  # type: ignore[misc] # has no types
    def __init__(self) -> None:
        self.left = [{"crop": small_crops(1, seed)} for seed in range(4)]

    def get_next(self) -> dict[str, np.ndarray] | None:
        return self.left.pop() if self.left else None


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The small model as ONNX Runtime's own tool quantises it: activations U8, weights S8 per channel, biases S32."""
    folder = tmp_path_factory.mktemp("int8")
    onnx.save(graphs.folded(graphs.read(MODEL)), folder / "in.onnx")
    quantize_static(
        folder / "in.onnx", folder / "out.onnx", Crops(), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
    )  # fmt: skip
    model = onnx.load(folder / "out.onnx")
    helper.set_model_props(model, {"unmask_rt": SPEC.to_json(), SOURCE_KEY: metadata.identify(MODEL)[1]})
    return bytes(model.SerializeToString())


def test_the_symmetric_form_lies_around_zero_and_has_no_quantised_bias(quantised: bytes) -> None:
    before, after = graphs.read(quantised), graphs.read(symmetric.make(quantised))
    assert any(t.data_type == TensorProto.INT32 for t in before.graph.initializer)
    stored = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    assert not any(value.dtype in (np.int32, np.uint8) for value in stored.values())
    pairs = [node for node in after.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    read = {edge for node in before.graph.node if node.op_type == "Conv" for edge in node.input[:2]}
    kept = [n for n in before.graph.node if n.op_type == "DequantizeLinear" and n.output[0] in read]
    assert kinds(after)["DequantizeLinear"] == len(kept), "what convolutions read, but no bias"
    assert 0 < kinds(after)["QuantizeLinear"] == len(kept) - kinds(after)["Conv"] < kinds(before)["QuantizeLinear"]
    for node in pairs:
        assert stored[node.input[2]].dtype == np.int8 and not stored[node.input[2]].any()
        assert stored[node.input[1]].dtype == np.float16 and (stored[node.input[1]] > 0).all()
    assert all(v.min() >= -127 for v in stored.values() if v.dtype == np.int8)


def test_the_symmetric_form_is_close_to_the_one_it_was_made_from(quantised: bytes) -> None:
    crops, made = small_crops(4), symmetric.make(quantised)
    for found, wanted, true in zip(run(made, crops), run(quantised, crops), run(MODEL, crops), strict=True):
        assert psnr(wanted, true) > 30, "the test would compare nothing"
        assert psnr(found, true) > psnr(wanted, true) - 6, "one bit less for what is never negative"
    assert metadata.identify(made) == metadata.identify(MODEL) and symmetric.make(quantised) == made


def test_weights_for_levels_of_255_survive_in_fp16() -> None:
    rng = np.random.default_rng(0)
    stored = {
        "weight": rng.integers(-127, 128, (4, 3, 3, 3)).astype(np.int8),
        "small": np.full(4, 2e-6, np.float32),
        "zeros": np.zeros(4, np.int8),
        "two": np.float32(2),
        "middle": np.uint8(128),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "two", "middle"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "two", "middle"], ["levels"]),
        helper.make_node("DequantizeLinear", ["weight", "small", "zeros"], ["w"], axis=0),
        helper.make_node("Conv", ["levels", "w"], ["y"], name="conv"),
    ]
    doors = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    constants = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "g", doors[:1], doors[1:], constants),
        opset_imports=[helper.make_opsetid("", 18)], ir_version=10,
    )  # fmt: skip
    x = rng.uniform(-255, 255, (1, 3, 8, 8)).astype(np.float32)

    def result() -> np.ndarray:
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"x": x})[0])

    wanted = result()
    symmetric.to_symmetric(model)
    assert all(
        scale >= 2**-14
        for t in model.graph.initializer
        for scale in numpy_helper.to_array(t).ravel()
        if t.data_type == TensorProto.FLOAT
    )
    assert np.abs(result() - wanted).max() < 0.02 * np.abs(wanted).max()


def test_a_range_is_never_narrowed_by_rounding_its_scale() -> None:
    wanted = np.array([0.1, 1e-9, 0.3333, 5.0], np.float32)
    found = symmetric._scale(wanted)
    assert (found >= wanted).all() and (found.astype(np.float16).astype(np.float32) == found).all()
    assert found[1] < 1e-4 and np.allclose(found[[0, 2, 3]], wanted[[0, 2, 3]], rtol=2e-3)
    # U8 with the zero at 100 reaches from -100 to 155 steps; S8 has to reach as far on both sides.
    assert symmetric._reach(np.array(1, np.float32), np.array(100, np.uint8)) == pytest.approx(155 / 127)


def test_a_model_without_quantisation_or_with_a_zero_point_in_its_weights_is_refused(quantised: bytes) -> None:
    with pytest.raises(ModelError, match="nothing in it is quantised"):
        symmetric.make(MODEL)
    model = onnx.load_from_string(quantised)
    weight = next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and "weight" in n.input[0])
    zero = next(t for t in model.graph.initializer if t.name == weight.input[2])
    zero.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(zero) + np.int8(1), zero.name))
    with pytest.raises(ModelError, match="around zero"):
        symmetric.make(model.SerializeToString())


# ---- who a model is


def test_metadata_are_read_as_onnx_reads_them() -> None:
    model = onnx.load_from_string(MODEL)
    helper.set_model_props(model, {"unmask_rt": SPEC.to_json(), "long": "é" * 9000, "empty": ""})
    wanted = {p.key: p.value for p in model.metadata_props}
    assert metadata.metadata(model.SerializeToString()) == wanted


@pytest.mark.parametrize(
    "data", [b"", b"no model at all", MODEL[:-7], bytes(64) + MODEL], ids=["empty", "text", "cut", "shifted"]
)
def test_damaged_files_are_a_model_error(data: bytes) -> None:
    with pytest.raises(ModelError) as caught:
        metadata.identify(data)
    assert caught.value.hint


# ---- how an engine is kept


def test_an_engine_comes_back_with_what_it_is() -> None:
    packed = envelope.pack({"backend": "x", "batch": 2}, b"body\nof it")
    assert envelope.unpack(packed, {"backend": "x", "batch": 2}) == b"body\nof it"
    assert envelope.facts(packed)["bytes"] == 10
    with pytest.raises(EngineError, match="batch 2, here it is 3"):
        envelope.unpack(packed, {"batch": 3})


@pytest.mark.parametrize("place", [0, 19, 40, -1])
def test_a_changed_byte_is_found(place: int) -> None:
    packed = bytearray(envelope.pack({"backend": "x"}, b"body" * 9))
    packed[place] ^= 4
    with pytest.raises(EngineError):
        envelope.unpack(bytes(packed), {"backend": "x"})
