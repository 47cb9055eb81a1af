"""The int8 form stays close to fp32, keeps the map as it is, and belongs to one model only."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

import engines
from engines import (
    bundle,
    crops,
    export,
    fp16,
    graphs,
    machine,
    open_engine,
    openvino,
    parity,
    quantise,
    symmetric,
    to_torch,
    variants,
)
from engines.base import Settings
from engines.cli import main
from engines.metadata import identify, metadata
from engines.obtain import obtain, reference
from engines.variants import SOURCE_KEY
from tests.test_export import SPEC
from trainer import calibration
from trainer.networks.deployed import Deployed
from trainer.networks.realtime import EditNet, MapNet, Unmask
from unmask_rt import models
from unmask_rt.errors import MissingError, ModelError, UsageError

torch.set_num_threads(1)


def networks() -> Unmask:
    """Small networks of random weights, wide enough that a part of them is worth int8, and their picture within 0..255.

    Trained ones do that as well; what is cut off in the end would make int8 coarser for nothing.
    """
    torch.manual_seed(5)
    model = Unmask(MapNet((16, 16, 16, 16)), EditNet((16, 16, 16, 16, 16))).eval().requires_grad_(False)
    model.edit_net.inner.head.weight.mul_(0.3)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(0, 0.02)
        parameter.copy_(parameter.half().float())
    return model


@pytest.fixture(scope="module")
def fp32(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("quantise") / "tiny.onnx"
    export.write(export.to_onnx(Deployed(networks()), (256, 256, 3)), path, SPEC)
    return path.read_bytes()


@pytest.fixture(scope="module")
def int8(fp32: bytes) -> bytes:
    return quantise.make(fp32, crops.load(), lambda text: None)


def test_the_deployed_form_computes_what_the_networks_do(fp32: bytes) -> None:
    plain, given = networks(), torch.from_numpy(crops.load(count=3))
    wanted = plain(given)
    assert wanted[1].float().std() > 5 and (wanted[0].int() - given).abs().float().mean() > 1, "nothing to compare"
    for found, right in zip(Deployed(plain)(given), wanted, strict=True):
        assert (found.int() - right.int()).abs().max() <= 1
    with_engine = reference(fp32)(given.numpy())
    for found, right in zip(with_engine, wanted, strict=True):
        assert np.abs(found.astype(int) - right.numpy()).max() <= 1


def test_int8_is_close_and_so_is_its_map(fp32: bytes, int8: bytes) -> None:
    given = crops.load()
    told = parity.figures(reference(int8)(given), reference(fp32)(given))
    assert told.hole_psnr > 36 and told.outside_psnr > 42 and told.map_psnr > 36
    assert told.hole_max > 0, "nothing was quantised"


def test_other_forms_compute_the_same(fp32: bytes, int8: bytes) -> None:
    given = crops.load(count=4)
    wanted = reference(fp32)(given)
    half = parity.figures(reference(fp16.make(fp32))(given), wanted)
    assert min(half.hole_psnr, half.map_psnr) > 50
    around_zero = parity.figures(reference(symmetric.make(int8))(given), wanted)
    assert 36 < around_zero.hole_psnr < 60 and around_zero.map_psnr > 34
    face, mask = to_torch.program(fp32, 4).module()(torch.from_numpy(given))
    torchs = parity.figures((face.numpy(), mask.numpy()), wanted)
    assert max(torchs.hole_max, torchs.outside_max, torchs.map_max) <= 1


@pytest.mark.skipif(not openvino.version(), reason="openvino is not installed: unmask-rt[openvino]")
def test_openvino_computes_the_same_in_int8(fp32: bytes, int8: bytes) -> None:
    given = crops.load()
    told = parity.figures(openvino.BACKEND.load(int8, b"", Settings("int8"))(given), reference(fp32)(given))
    assert told.hole_psnr > 36 and told.map_psnr > 36 and told.hole_max > 0


def test_int8_is_written_as_it_says(int8: bytes) -> None:
    graph = onnx.load_from_string(int8).graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {edge: node for node in graph.node for edge in node.output}
    whole = [n for n in graph.node if n.op_type == "Conv" and makers.get(n.input[1], n).op_type == "DequantizeLinear"]
    assert whole
    for node in whole:
        weight = makers[node.input[1]]
        assert constants[weight.input[0]].data_type == onnx.TensorProto.INT8
        assert constants[weight.input[1]].dims[0] == constants[weight.input[0]].dims[0], "not per channel"
        assert constants[makers[node.input[2]].input[0]].data_type == onnx.TensorProto.INT32
        given = makers[makers[node.input[0]].input[0]]
        assert given.op_type == "QuantizeLinear" and constants[given.input[2]].data_type == onnx.TensorProto.UINT8
    joined = [n for n in graph.node if n.op_type == "Concat" and makers[n.input[0]].op_type == "DequantizeLinear"]
    for node in joined:  # one scale for all parts and the whole: bytes are copied, not computed
        (reader,) = [n for n in graph.node if node.output[0] in n.input]
        steps = {tuple(float(numpy_helper.to_array(constants[e])) for e in n.input[1:3])
                 for n in (reader, *(makers[edge] for edge in node.input))}  # fmt: skip
        assert len(steps) == 1, node.name
    assert len(joined) == 3, "what both stems and the last convolution read"
    averages = [node for node in graph.node if node.op_type == "Conv" and len(node.input) == 2]
    assert averages and not any(node in whole for node in averages)


def test_what_lies_between_convolutions_is_int8_and_a_relu_there_is_nothing(fp32: bytes, int8: bytes) -> None:
    before, after = (onnx.load_from_string(model).graph for model in (fp32, int8))
    makers = {edge: node for node in after.node for edge in node.output}
    finding = quantise.behind(after, ["map"])
    sums = [n for n in after.node if n.op_type == "Add" and n.name not in finding
            and all(e in makers and makers[e].op_type == "DequantizeLinear" for e in n.input)]  # fmt: skip
    blocks = {"convolution": 17, "skip": 4, "features of both networks": 1}  # not the token mixers
    assert len(sums) == sum(blocks.values())
    for node in sums:
        assert {n.op_type for n in after.node if node.output[0] in n.input} == {"QuantizeLinear"}, node.name
    assert [n.name in finding for n in after.node if n.op_type == "Expand"].count(False) == 4, "enlarging"
    relus = [[n.name for n in graph.node if n.op_type == "Relu"] for graph in (before, after)]
    assert len(relus[0]) > 40 and relus[1] and finding.issuperset(relus[1]), "but for the map's exact grids"


def test_what_finds_the_mask_is_int8_where_that_is_safe(fp32: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    model = graphs.folded(graphs.read(fp32))
    _, shapes = quantise.calibrate(model, crops.load(count=1))
    finding = quantise.behind(model.graph, ["map"])

    def sides(kind: str) -> list[int]:
        found = quantise.choose(model, shapes) & finding
        nodes = [node for node in model.graph.node if node.name in found and node.op_type == kind]
        return sorted(shapes[node.output[0]][2] for node in nodes)

    assert sides("Conv") == [16, 16, 16, 32, 32, 32, 64, 64, 64, 64], "no grid of 8, no kernel of 1 x 1"
    assert sides("Add") == [16, 16, 32, 32, 64, 64, 64] and sides("Resize") == [64]
    monkeypatch.setattr(quantise, "FINDING_SIDE", 8)
    assert sides("Conv")[:3] == [8, 8, 8]
    monkeypatch.setattr(quantise, "FINDING_SUM_SIDE", 32)
    assert sides("Add")[-6:] == [32, 32, 32, 64, 64, 64] and sides("Resize") == [32, 64]
    monkeypatch.setattr(quantise, "FINDING_SUM_SIDE", 99)
    assert sides("Add")[-4:] == [32, 32, 64, 64] and sides("Resize") == [], "all parts are int8 by themselves"


def test_only_what_convolutions_alone_read_is_laid_side_by_side_in_bytes() -> None:
    nodes = [helper.make_node("Conv", [given, f"{name}.weight", f"{name}.bias"], [name], name=name, pads=[1] * 4)
             for name, given in (("a", "x"), ("b", "x"), ("c", "whole"), ("d", "fixed"))]  # fmt: skip
    for name, parts in (("whole", "a b"), ("fixed", "a constant"), ("outside", "a b"), ("unread", "a b")):
        nodes.append(helper.make_node("Concat", parts.split(), [name], name=name, axis=1))
    nodes.append(helper.make_node("Sigmoid", ["outside"], ["y"], name="y"))
    nodes.append(helper.make_node("Resize", ["x", "", "constant"], ["big"], name="big"))
    inside = {"a": 16, "b": 16, "c": 32, "d": 32}
    weights = {f"{n}.weight": np.zeros((16, k, 3, 3), np.float32) for n, k in inside.items()}
    weights |= {f"{n}.bias": np.zeros(16, np.float32) for n in inside} | {
        "constant": np.ones((1, 16, 8, 8), np.float32)
    }
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    ends = [
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in ("x", "c", "d", "y", "unread", "big")
    ]
    model = helper.make_model(helper.make_graph(nodes, "four", ends[:1], ends[1:], tensors))
    chosen = quantise.choose(model, {node.output[0]: (1, 32, 8, 8) for node in nodes})
    assert chosen == {"a", "b", "c", "d", "whole"}


def test_the_same_crops_give_the_same_bytes(fp32: bytes, int8: bytes) -> None:
    assert quantise.make(fp32, crops.load(), lambda text: None) == int8


def test_what_cannot_be_quantised_says_why(fp32: bytes, int8: bytes) -> None:
    with pytest.raises(UsageError, match="at least 8 crops"):
        quantise.make(fp32, crops.load(count=3), print)
    with pytest.raises(UsageError, match="256 px"):
        quantise.make(fp32, crops.load(64), print)
    with pytest.raises(ModelError, match="already"):
        quantise.make(int8, crops.load(), print)


def test_sensitive_convolutions_are_left_out(fp32: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = graphs.folded(graphs.read(fp32))
    ranges, shapes = quantise.calibrate(graph, crops.load(count=4))
    chosen = quantise.choose(graph, shapes)
    convolutions = sorted(n.name for n in graph.graph.node if n.op_type == "Conv" and n.name in chosen)
    finding = quantise.behind(graph.graph, ["map"])
    bad = next(n for n in graph.graph.node if n.name in set(convolutions[:4]) - finding)
    (relu,) = [n for n in graph.graph.node if bad.output[0] in n.input]
    spoilt = ranges | {relu.output[0]: (0.0, 1e-3)}  # everything that this one gives is cut off
    only = set(convolutions[:4])
    said: list[str] = []
    monkeypatch.setattr(quantise, "WANTED_DB", 45.0)
    out = quantise.sensitive(spoilt, only, quantise.Check(graph, crops.load(count=2)), said.append)
    assert bad.name in out and len(out) < len(only) and any(bad.name in line for line in said)


def test_ranges_are_widened_as_map_and_face_want_it(fp32: bytes) -> None:
    graph = graphs.folded(graphs.read(fp32))
    means, shapes = quantise.calibrate(graph, crops.load(count=4))
    finding = quantise.behind(graph.graph, ["map"])
    inside = {edge for node in graph.graph.node if node.name in finding for edge in node.output}

    class Wanting(quantise.Check):
        """A form is the better the nearer its rooms are to 1.1 (map) and 1.2."""

        def __call__(self, ranges: Mapping[str, quantise.Range], nodes: set[str]) -> tuple[float, float]:
            rooms = {
                name in inside: high / means[name][1] for name, (_, high) in ranges.items() if means[name][1] > 0.1
            }
            return abs(rooms[False] - 1.2), abs(rooms[True] - 1.1)

    said: list[str] = []
    check = Wanting(graph, crops.load(count=1))
    found = quantise.widened(means, quantise.choose(graph, shapes), check, said.append)
    for name, (low, high) in means.items():
        room = 1.1 if name in inside else 1.2
        assert found[name] == pytest.approx((low * room, high * room))
    assert "1.1 (map) and 1.2" in said[0]


# ---- where forms are found


def test_a_form_is_kept_found_and_never_taken_for_another_model(
    fp32: bytes, int8: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path))
    sha256 = hashlib.sha256(fp32).hexdigest()
    assert identify(int8)[1] == sha256 == metadata(int8)[SOURCE_KEY] and variants.find(fp32, "int8") is None
    place = bundle.keep(int8)
    assert variants.find(fp32, "int8") == int8
    engine = obtain("onnxruntime", fp32, Settings("int8"))
    assert engine.sha256 == sha256 and engine.describe()["precision"] == "int8"
    engine.close()
    place.write_bytes(models.load_unmask_model()[0])
    assert variants.find(fp32, "int8") is None, "a form of another model was taken"
    place.write_bytes(int8[:100])
    assert variants.find(fp32, "int8") is None


def test_the_bundled_int8_form_belongs_to_the_bundled_model_and_passes_the_gate() -> None:
    model, sha256 = models.load_unmask_model()
    form = variants.find(model, "int8")
    assert form is not None and identify(form)[1] == sha256
    told = parity.compare(reference(form), reference(model))
    assert not told.failures("int8"), told.line()


def test_int8_is_not_measured_where_the_processor_is_slow_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from engines import select

    model, _ = models.load_unmask_model()
    monkeypatch.setattr(machine, "processor", lambda: ("old", frozenset({"avx2"})))
    found, rejected = select.candidates(["onnxruntime"], model, Settings())
    assert [c.settings.precision for c in found] == ["fp32"] and "avx512_vnni" in rejected["onnxruntime int8"]
    monkeypatch.setattr(machine, "processor", lambda: ("new", frozenset({"avx512_vnni"})))
    found, _ = select.candidates(["onnxruntime"], model, Settings())
    assert [c.settings.precision for c in found] == ["fp32", "int8"]


def test_a_form_goes_beside_its_own_model_only(int8: bytes, fp32: bytes, tmp_path: Path) -> None:
    (tmp_path / "tiny.onnx").write_bytes(fp32)
    export.register(tmp_path / "tiny.onnx", SPEC)
    place = bundle.add(int8, tmp_path)
    record = json.loads((tmp_path / "models.json").read_text())["tiny"]
    assert record["int8"] == place.name == "tiny-int8.onnx" and place.read_bytes() == int8
    assert record["int8_sha256"] == hashlib.sha256(int8).hexdigest()
    (tmp_path / "tiny.onnx").write_bytes(models.load_unmask_model()[0])
    export.register(tmp_path / "tiny.onnx", SPEC)
    with pytest.raises(ModelError, match="another model"):
        bundle.add(int8, tmp_path)


# ---- the command


def test_the_command_builds_verifies_lists_inspects_benches_and_cleans(
    fp32: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path / "cache"))
    for name in list(engines.BACKENDS)[1:]:
        monkeypatch.delitem(engines.BACKENDS, name)
    model = tmp_path / "tiny.onnx"
    model.write_bytes(fp32)
    np.savez(tmp_path / "crops.npz", crops=crops.load())
    given = ["--model", str(model)]
    assert main(["build", "--precision", "int8", "--calibration", str(tmp_path / "crops.npz"), *given]) == 0
    assert "int8.onnx" in capsys.readouterr().out
    assert main(["build", "--backend", "onnxruntime", "--precision", "int8", *given]) == 0
    assert "compared with the reference and ready" in capsys.readouterr().out
    assert main(["verify", *given]) == 0
    shown = capsys.readouterr().out
    assert "fp32: the reference" in shown and "int8: good" in shown and "dB" in shown
    assert main(["list"]) == 0
    name = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("onnxruntime-int8-")).split()[
        0
    ]
    assert main(["inspect", name]) == 0 and "hole_psnr" in capsys.readouterr().out
    assert main(["bench", *given]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if " ms " in line]
    assert len(rows) == 2 and rows[0].count("x1.00") == 2
    assert main(["clean"]) == 0 and main(["list"]) == 0
    assert "onnxruntime-int8" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["build"], 2, "Say --backend and --precision"),
        (["build", "--bundle"], 2, "--calibration"),
        (["build", "--calibration", "none.npz"], 3, "unmask-train calibration"),
        (["build", "--backend", "onnxruntime-coreml", "--precision", "int8"], 2, "does not run int8"),
        (["verify", "--backend", "onnxruntime-directml"], 3, "DmlExecutionProvider"),
        (["verify", "--backend", "onnxruntime", "--precision", "fp16"], 2, "does not run fp16"),
        (["bench", "--backend", "onnxruntime", "--precision", "fp16"], 2, "does not run fp16"),
        (["build", "--backend", "onnxruntime", "--precision", "fp32", "-o", "x.bin"], 2, "builds nothing"),
        (["inspect", "nothing-of-this-name"], 2, "unmask-engine list"),
        (["build", "--backend", "onnxruntime", "--precision", "int8", "--target-gpu", "SM86"], 2, "this machine only"),
    ],
)
def test_the_command_says_what_is_wrong(
    argv: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == code
    assert text in " ".join(capsys.readouterr().err.split())


def test_verify_fails_where_an_engine_is_too_far_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tests import fake_backend
    from tests.test_engines import tiny_model

    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path))
    made = fake_backend.FakeBackend()
    made.off = 30
    monkeypatch.setattr(fake_backend, "BACKEND", made)
    monkeypatch.setitem(engines.BACKENDS, "fake", "tests.fake_backend:BACKEND")
    (tmp_path / "tiny.onnx").write_bytes(tiny_model())
    argv = ["verify", "--backend", "fake", "--model", str(tmp_path / "tiny.onnx")]
    assert main(argv) == 1 and "FAILS" in capsys.readouterr().out
    made.off = 0
    assert main(argv) == 0


# ---- calibration crops


def test_calibration_takes_every_family_alike(tmp_path: Path) -> None:
    bank = tmp_path / "bank"
    bank.mkdir()
    family = np.array([[0] * 30 + [1] * 3 + [2] * 3], np.uint8)
    done = np.ones_like(family)
    done[0, 0] = 0
    np.save(
        bank / "masked.npy", np.broadcast_to(np.arange(36, dtype=np.uint8)[None, :, None, None, None], (1, 36, 8, 8, 3))
    )
    for name, value in {"alpha": family, "family": family, "done": done}.items():
        np.save(bank / f"{name}.npy", value)
    drawn = calibration.draw(tmp_path, 9, 0)
    rows = set(drawn[:, 0, 0, 0].tolist())
    assert len(rows) == 9 and 0 not in rows and {30, 31, 32, 33, 34, 35} <= rows
    assert (calibration.draw(tmp_path, 9, 0) == drawn).all()
    with pytest.raises(MissingError, match="35 masked faces"):
        calibration.draw(tmp_path, 36, 0)
    with pytest.raises(MissingError, match="no bank"):
        calibration.draw(tmp_path / "none", 1, 0)


def test_opening_by_name_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fp32: bytes, int8: bytes
) -> None:
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path))
    bundle.keep(int8)
    engine = open_engine("onnxruntime", fp32, precision="int8")
    many = crops.load()
    assert np.array_equal(engine(many)[0][4:5], engine(many[4:5])[0])
    engine.close()
