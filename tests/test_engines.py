"""Engines: what a model says about itself, what is refused, and the bundled model's answers."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import asdict, replace
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines import BACKENDS, open_engine
from engines.base import Engine
from engines.spec import FORMAT, METADATA_KEY, ModelSpec
from unmask_rt import align, blend, models, sample
from unmask_rt.errors import EngineError, ExtraError, ModelError, UsageError

SPEC = ModelSpec("tiny", 32, ((0.3, 0.35), (0.7, 0.35)), (), "research only", "not at all")


def tiny_model(metadata: dict[str, str] | None = None) -> bytes:
    """An ONNX model with our inputs and outputs: the crop as it is, and its first channel as the map."""
    crop = helper.make_tensor_value_info("crop", TensorProto.UINT8, ["n", 32, 32, 3])
    face = helper.make_tensor_value_info("face", TensorProto.UINT8, ["n", 32, 32, 3])
    mask = helper.make_tensor_value_info("map", TensorProto.UINT8, ["n", 32, 32])
    first = helper.make_tensor("first", TensorProto.INT64, [], [0])
    nodes = [
        helper.make_node("Identity", ["crop"], ["face"]),
        helper.make_node("Gather", ["crop", "first"], ["map"], axis=3),
    ]
    graph = helper.make_graph(nodes, "tiny", [crop], [face, mask], [first])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for key, value in (metadata if metadata is not None else {METADATA_KEY: SPEC.to_json()}).items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, value
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


# ---- what a model says about itself


def test_a_spec_survives_the_way_there_and_back() -> None:
    assert ModelSpec.from_json(SPEC.to_json()) == SPEC
    wider = replace(SPEC, extra_channels=("previous", "valid"), licence="é")
    assert ModelSpec.from_json(wider.to_json()) == wider
    assert SPEC.to_json() == ModelSpec.from_json(SPEC.to_json()).to_json()


@pytest.mark.parametrize("number", [0, FORMAT + 1, "1"])
def test_a_spec_of_another_format_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match="format"):
        ModelSpec.from_json(json.dumps(asdict(SPEC) | {"format": number}))


@pytest.mark.parametrize("gone", ["name", "crop_size", "template", "extra_channels", "licence", "trained", "format"])
def test_a_spec_that_lacks_something_is_refused(gone: str) -> None:
    fields = asdict(SPEC)
    del fields[gone]
    with pytest.raises(ValueError, match=gone):
        ModelSpec.from_json(json.dumps(fields))


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"format": 1, "template": 5}', "null"])
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        ModelSpec.from_json(text)


# ---- opening


def test_an_unknown_engine_is_a_usage_error_that_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="abacus") as caught:
        open_engine("abacus", tiny_model())
    assert all(name in str(caught.value) for name in ("auto", *BACKENDS))


@pytest.mark.parametrize("name", ["auto", "onnxruntime"])
def test_a_model_opens_and_runs(name: str) -> None:
    data = tiny_model()
    engine = open_engine(name, data, threads=2)
    assert engine.spec == SPEC and engine.sha256 == hashlib.sha256(data).hexdigest()
    crop = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    face, mask = engine(crop)
    assert (face == crop).all() and (mask == crop[..., 0]).all()
    mirrored, _ = engine(crop[:, :, ::-1])  # not contiguous
    assert (mirrored == crop[:, :, ::-1]).all()
    engine.close()


@pytest.mark.parametrize(
    "data",
    [b"", b"no model at all", tiny_model()[:200], bytes(64) + tiny_model()],
    ids=["empty", "text", "cut", "shifted"],
)
def test_damaged_bytes_are_a_model_error(data: bytes) -> None:
    with pytest.raises(ModelError, match="cannot be read") as caught:
        open_engine("auto", data)
    assert caught.value.hint and caught.value.exit_code == 3


def test_a_foreign_model_is_refused() -> None:
    with pytest.raises(ModelError, match="no metadata of ours") as caught:
        open_engine("auto", tiny_model({"author": "somebody"}))
    assert caught.value.hint


@pytest.mark.parametrize("stored", ["", "{}", json.dumps(asdict(SPEC) | {"format": FORMAT + 1})])
def test_a_model_of_another_version_is_refused(stored: str) -> None:
    with pytest.raises(ModelError) as caught:
        open_engine("auto", tiny_model({METADATA_KEY: stored}))
    assert caught.value.hint


def test_a_model_that_wants_more_channels_than_there_are_is_refused() -> None:
    wanting = replace(SPEC, extra_channels=("previous",)).to_json()
    with pytest.raises(ModelError, match="previous"):
        open_engine("auto", tiny_model({METADATA_KEY: wanting}))


def test_a_crop_of_the_wrong_shape_is_an_engine_error() -> None:
    engine = open_engine("auto", tiny_model())
    with pytest.raises(EngineError):
        engine(np.zeros((1, 16, 16, 3), np.uint8))
    with pytest.raises(EngineError):
        engine(np.zeros((1, 32, 32, 3), np.float32))  # type: ignore[arg-type]
    engine.close()


def test_a_closed_engine_can_be_closed_again_and_does_not_run() -> None:
    engine = open_engine("auto", tiny_model())
    engine.close()
    engine.close()
    with pytest.raises(EngineError):
        engine(np.zeros((1, 32, 32, 3), np.uint8))


def test_a_backend_that_is_not_installed_is_an_extra_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ExtraError, match="onnxruntime"):
        open_engine("onnxruntime", tiny_model())


# ---- the bundled model


@pytest.fixture(scope="module")
def bundled() -> Engine:
    return open_engine("auto", models.load_unmask_model()[0])


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    """The sample face without and with a mask, uint8[2, 256, 256, 3]."""
    transform = align.crop_transform(sample.astronaut_mesh()[list(align.MESH_ANCHORS)], 256)
    return np.stack([align.warp(picture, transform, 256) for picture in sample.masked_astronaut()])


def test_the_bundled_model_answers_in_the_agreed_shapes(bundled: Engine, crops: np.ndarray) -> None:
    assert bundled.spec.crop_size == 256
    assert np.allclose(bundled.spec.template, align.TEMPLATE, atol=1e-5)
    face, mask = bundled(crops[:1])
    assert face.shape == (1, 256, 256, 3) and mask.shape == (1, 256, 256)
    assert face.dtype == mask.dtype == np.uint8


def test_the_bundled_model_gives_each_face_of_a_batch_its_own_answer(bundled: Engine, crops: np.ndarray) -> None:
    faces, masks = bundled(crops)
    for i in range(2):
        face, mask = bundled(crops[i : i + 1])
        assert np.abs(face[0].astype(int) - faces[i]).max() <= 1
        assert np.abs(mask[0].astype(int) - masks[i]).max() <= 1
    again_faces, again_masks = bundled(crops)
    assert (again_faces == faces).all() and (again_masks == masks).all()


def test_the_bundled_model_sees_the_mask_and_replaces_it_only(bundled: Engine, crops: np.ndarray) -> None:
    faces, masks = bundled(crops)
    assert blend.mask_score(masks[1]) > 0.75 and blend.mask_score(masks[0]) < 0.25
    far = masks[1] < 3
    far = cv2.erode(far.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0
    assert far.mean() > 0.2 and np.abs(faces[1].astype(int) - crops[1])[far].max() <= 1
    worn = masks[1] > 200
    assert np.abs(faces[1].astype(int) - crops[1])[worn].mean() > 20


def test_the_bundled_model_says_what_it_is(bundled: Engine) -> None:
    record = next(iter(models.bundled_models().values()))
    told = bundled.describe()
    assert told["model_sha256"] == record["sha256"] == bundled.sha256
    assert told["engine"] in ("onnxruntime", "openvino") and told["crop_size"] == 256 and told["version"]
    assert bundled.spec.licence and bundled.spec.trained
