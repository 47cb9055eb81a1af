"""The exported file computes what the networks do, and carries its own description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from engines import export, open_engine
from engines.base import Engine
from engines.spec import METADATA_KEY, ModelSpec
from trainer.exported import read_weights
from trainer.networks.deployed import Deployed
from trainer.networks.realtime import EditNet, MapNet, Unmask
from unmask_rt import align, models, sample
from unmask_rt.errors import ModelError, UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
SPEC = ModelSpec("tiny", 256, ((0.3, 0.35), (0.7, 0.35)), (), "research only", "random weights")


@pytest.fixture(scope="module")
def tiny() -> Unmask:
    """Small networks of random weights, as FP16 can hold them, whose map and filling are neither empty nor full."""
    torch.manual_seed(3)
    model = Unmask(MapNet((4, 6, 6, 8)), EditNet((8, 8, 8, 8, 8))).eval().requires_grad_(False)
    for parameter in model.parameters():
        if len(parameter.unique()) == 1:  # zeros or ones from the start on: give every branch something to do
            parameter.add_(0.02 * torch.randn_like(parameter))
        parameter.copy_(parameter.half().float())
    return model


@pytest.fixture(scope="module")
def path(tiny: Unmask, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "deeper" / "tiny.onnx"
    export.write(export.to_onnx(tiny, (256, 256, 3)), out, SPEC)
    return out


@pytest.fixture(scope="module")
def engine(path: Path) -> Iterator[Engine]:
    engine = open_engine("auto", path.read_bytes())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """A masked face and noise, uint8[2, 256, 256, 3]."""
    transform = align.crop_transform(sample.astronaut_mesh()[list(align.MESH_ANCHORS)], 256)
    face = align.warp(sample.masked_astronaut()[1], transform, 256)
    return np.stack([face, np.random.default_rng(0).integers(0, 256, face.shape, np.uint8)])


def test_the_engine_computes_what_the_networks_do(tiny: Unmask, engine: Engine, crops: np.ndarray) -> None:
    face, mask = (t.numpy() for t in tiny(torch.from_numpy(crops)))
    assert mask.std() > 5 and np.abs(face.astype(int) - crops).mean() > 2, "the test would compare nothing"
    found_face, found_mask = engine(crops)
    assert np.abs(found_face.astype(int) - face).max() <= 2
    assert np.abs(found_mask.astype(int) - mask).max() <= 2


def test_a_batch_of_two_is_twice_a_batch_of_one(engine: Engine, crops: np.ndarray) -> None:
    faces, masks = engine(crops)
    for i in range(2):
        face, mask = engine(crops[i : i + 1])
        assert np.abs(face[0].astype(int) - faces[i]).max() <= 1
        assert np.abs(mask[0].astype(int) - masks[i]).max() <= 1


def test_the_file_describes_itself_and_is_a_valid_model(path: Path, engine: Engine) -> None:
    assert engine.spec == SPEC
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert {p.key for p in model.metadata_props} == {METADATA_KEY}
    kinds = onnx.TensorProto
    (crop,), outputs = model.graph.input, {o.name: o for o in model.graph.output}
    assert crop.type.tensor_type.elem_type == kinds.UINT8 and set(outputs) == {"face", "map"}
    assert all(o.type.tensor_type.elem_type == kinds.UINT8 for o in outputs.values())


def test_large_weights_are_stored_in_half(tiny: Unmask, path: Path) -> None:
    model = onnx.load(path)
    full = [w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT]
    assert all(np.prod(w.dims) < 256 for w in full)
    assert any(w.data_type == onnx.TensorProto.FLOAT16 for w in model.graph.initializer)
    count = sum(p.numel() for p in tiny.parameters())
    assert path.stat().st_size < 2.5 * count + 150_000


def test_the_same_networks_give_the_same_bytes(tiny: Unmask, path: Path, tmp_path: Path) -> None:
    export.write(export.to_onnx(tiny, (256, 256, 3)), tmp_path / "again.onnx", SPEC)
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()


def test_a_registered_model_is_found_by_its_name(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    target = tmp_path / "tiny.onnx"
    target.write_bytes(path.read_bytes())
    export.register(target, SPEC)
    monkeypatch.setattr(models, "_asset", lambda name: tmp_path / name)
    data, digest = models.load_unmask_model("tiny")
    assert data == path.read_bytes() and digest == json.loads((tmp_path / "models.json").read_text())["tiny"]["sha256"]


def test_an_exported_default_network_gives_its_weights_back(tiny: Unmask, crops: np.ndarray, tmp_path: Path) -> None:
    out = tmp_path / "deployed.onnx"
    export.write(export.to_onnx(Deployed(tiny), (256, 256, 3)), out, SPEC, half=False)
    weights = read_weights(out.read_bytes())
    again = Unmask(MapNet((4, 6, 6, 8)), EditNet((8, 8, 8, 8, 8))).eval()
    again.map_net.load_state_dict(weights["map"])
    again.edit_net.load_state_dict(weights["generator"])
    for found, wanted in zip(again(torch.from_numpy(crops)), tiny(torch.from_numpy(crops)), strict=True):
        assert (found.int() - wanted.int()).abs().max() <= 1
    for name, value in tiny.edit_net.state_dict().items():
        if not name.endswith(("head.bias", "narrow.bias", "place")):  # of these the sums come back
            assert torch.allclose(weights["generator"][name], value, atol=1e-6), name


def test_other_models_cannot_be_trained_on(path: Path) -> None:
    with pytest.raises(UsageError, match="only an exported default network"):
        read_weights(path.read_bytes())  # of the same networks, but not in the form in which they are deployed
    with pytest.raises(ModelError, match="no ONNX file"):
        read_weights(b"something else")


def test_the_tools_own_model_can_be_trained_on(crops: np.ndarray) -> None:
    model, _ = models.load_unmask_model(None)
    weights = read_weights(model)
    again = Unmask(MapNet(), EditNet()).eval()
    again.map_net.load_state_dict(weights["map"])
    again.edit_net.load_state_dict(weights["generator"])
    engine = open_engine("onnxruntime", model, precision="fp32")
    with closing(engine), torch.inference_mode():
        for found, wanted in zip(again(torch.from_numpy(crops[:1])), engine(crops[:1]), strict=True):
            assert np.abs(found.numpy().astype(int) - wanted).max() <= 2
