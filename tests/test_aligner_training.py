"""Training the aligner: samples with points that are right, heads turned further, runs that resume, the export."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import FaceModels
from tests.trainer_media import TinySet
from trainer import heads
from trainer.aligner import augment, data, evaluate, export, exported, network, real, samples, train, turn
from trainer.aligner.data import POINTS
from unmask_rt import models, sample
from unmask_rt.align import MESH_ANCHORS, PROFILE, TEMPLATE, apply, invert
from unmask_rt.errors import MissingError, ModelError, UsageError
from unmask_rt.faces.aligner import ASIDE, Aligned, Aligner
from unmask_rt.faces.look import WINDOW
from unmask_rt.faces.pose import distance, pose_of, side_of
from unmask_rt.faces.window import window_of


@pytest.fixture(scope="module")
def loose(tiny_set: TinySet, face_models: FaceModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("loose")
    made = data.cut_all(tiny_set.data, tiny_set.inputs, models.load_face_model(), out, workers=1)
    assert made == len(json.loads((tiny_set.data / "meta.json").read_text()))
    data.shrink_masks(tiny_set.data, out)
    return out


@pytest.fixture(scope="module")
def turned(tiny_set: TinySet, loose: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("turned")
    turn.turn_all(tiny_set.data, loose, out, 6)
    return out


def test_loose_crops_show_the_prepared_ones_with_room_around(tiny_set: TinySet, loose: Path) -> None:
    crops, mesh = (np.load(tiny_set.data / f"{n}.npy") for n in ("crops", "mesh"))
    pictures, points, to_loose = (np.load(loose / f"{n}.npy") for n in ("loose", "points", "to_loose"))
    assert pictures.shape[1:] == (data.SIZE, data.SIZE, 3) and (np.load(loose / "done.npy") == 1).all()
    for row in range(len(crops)):
        back = cv2.warpAffine(pictures[row], invert(to_loose[row]), (256, 256))
        assert np.abs(back[60:200, 60:200].astype(int) - crops[row][60:200, 60:200]).mean() < 6
        anchors = np.asarray(mesh[row][[*MESH_ANCHORS, 4]], np.float32)
        assert np.abs(apply(to_loose[row], anchors) - points[row]).max() < 0.01


def test_yaw_is_positive_to_the_pictures_right_and_mirrors(loose: Path) -> None:
    shape = np.load(loose / "shape.npy")
    for degrees in (-50.0, -15.0, 0.0, 25.0, 60.0):
        a = np.radians(degrees)
        x, y, z = shape.T
        seen = 90 * np.stack([np.cos(a) * x - np.sin(a) * z, y], 1).astype(np.float32)
        assert abs(heads.yaw_of(seen, shape) - degrees) < 0.5
    nose, rim = shape[4], shape[[234, 454]].mean(axis=0)
    assert nose[2] < rim[2]  # towards the camera, so that a positive turn moves it right
    assert abs(heads.yaw_of(sample.astronaut_mesh(), shape)) < 8


def test_samples_are_reproducible_and_their_points_lie_on_the_face(tiny_set: TinySet, loose: Path) -> None:
    made = samples.Samples(tiny_set.data, loose, "train", 7, empty=0.0)
    for number in range(40):
        crop, points, weight, face = made[number]
        assert crop.shape == (network.CROP, network.CROP, 3) and crop.dtype == np.uint8
        assert points.shape == (7, 2) and weight.shape == (7,) and face.shape == (4,)
        assert face[0] == 1 and points[0, 0] < points[3, 0] and points[1, 0] < points[2, 0]  # left stays left
        middle = points[:6].mean(axis=0)
        assert np.abs(middle - (63.5, 63.5 + augment.ABOVE * augment.SIDE)).max() < 0.31 * augment.SIDE
        assert (crop == made[number][0]).all()


def test_an_unspoilt_view_is_what_the_runtime_cuts(tiny_set: TinySet, loose: Path) -> None:
    """No jitter: anchors lie where the window of their own pose has them; mirrored: at the mirrored places."""
    points = np.load(loose / "points.npy")
    for mirror in (False, True):
        matrix = augment.view((0.0, 0.0, 0.0, 0.0), data.SIZE, data.ZOOM, 1.0, mirror)
        for row in points:
            there = apply(matrix, row)
            if mirror:
                there = there[list(data.MIRRORED)]
            target = (network.CROP - 1) / 2 + (np.array([0, augment.ABOVE]) * augment.SIDE)
            assert np.abs(there[:6].mean(axis=0) - target).max() < 0.6
            assert abs(np.log(np.exp(pose_of(there[:6])[2]) / augment.SIDE)) < 0.03


def test_empty_samples_have_no_points_and_are_no_faces(tiny_set: TinySet, loose: Path) -> None:
    made = samples.Samples(tiny_set.data, loose, "train", 8, empty=1.0)
    for number in range(60):  # each kind of nothing
        crop, _, weight, face = made[number]
        assert crop.shape == (128, 128, 3) and not weight.any() and not face.any()


def test_extra_sets_come_with_their_share(tiny_set: TinySet, loose: Path, turned: Path) -> None:
    made = samples.Samples(tiny_set.data, loose, "train", 9, empty=0.0, extra=[(turned, 0.5)])
    yaws = np.abs([made[number][3][1] for number in range(200)])
    own = np.abs(np.load(loose / "yaw.npy")).max()
    assert 0.3 < (yaws > own + 1).mean() < 0.7


def test_every_occluder_changes_the_picture_and_leaves_the_rest() -> None:
    eyes = np.array([[47, 51], [57, 51], [70, 51], [80, 51]], np.float32)
    for draw in (augment._glasses, augment._hand, augment._cap, augment._hair, augment._microphone, augment._anything):
        changed = 0
        for seed in range(8):
            rng = np.random.default_rng(seed)
            layer, alpha = np.full((128, 128, 3), 90, np.uint8), np.zeros((128, 128), np.uint8)
            draw(layer, alpha, eyes, np.array([64, 85], np.float32), rng)
            changed += int(alpha.any())
            assert alpha.mean() < 200
        assert changed >= 6


@pytest.mark.parametrize("way", [1.0, -1.0])
@pytest.mark.parametrize(("yaw", "pitch"), [(67, 0), (72, 10), (78, 20)])
def test_the_tool_cuts_a_profile_as_training_does(loose: Path, yaw: float, pitch: float, way: float) -> None:
    turned = _turned(loose, way * yaw, pitch)
    assert abs(turned.yaw) > ASIDE[1]
    pose = Aligned(turned.points[:6], turned.points[6], np.ones(7, np.float32), 1.0, turned.yaw, 0.0).pose
    assert 0.03 < np.log(side_of(pose) / 256) < 0.23 and abs(pose[3]) < np.radians(6) and not pose[4:].any()
    middle = (TEMPLATE.mean(axis=0) - 0.5) * 256 + 127.5
    assert np.abs(pose[:2] - middle).max() < 0.035 * 256


def test_between_a_turned_head_and_a_profile_nothing_jumps(loose: Path) -> None:
    points = _turned(loose, 62.0, 8.0).points
    yaws = np.arange(ASIDE[0] - 2, ASIDE[1] + 2, 0.25)
    poses = [Aligned(points[:6], points[6], np.ones(7, np.float32), 1.0, yaw, 0.0).pose for yaw in yaws]
    assert max(distance(a, b) for a, b in itertools.pairwise(poses)) < 0.03
    assert distance(poses[0], poses[-1]) > 0.06


def _turned(loose: Path, yaw: float, pitch: float) -> heads.Turned:
    """The mean head, turned: where training would cut it."""
    shape = np.load(loose / "shape.npy")
    ahead = (shape[:, :2] * 256 + 127.5).astype(np.float32)
    return heads.Head(shape, 256, 1.0).turned(ahead, yaw, pitch)


def test_turned_heads_are_turned_and_their_points_move_along(turned: Path) -> None:
    yaw, points, masked = (np.load(turned / f"{n}.npy") for n in ("yaw", "points", "masked"))
    pictures = np.load(turned / "loose.npy")
    assert len(pictures) == 12 and (masked[:6, 0] == 0).all() and (masked[6:, 0] == 1).all()
    assert (np.abs(yaw) > 8).all() and (yaw[:6] == yaw[6:]).all() and (points[:6] == points[6:]).all()
    for row in range(6):
        eyes, nose = points[row, :4].mean(axis=0), points[row, 6]
        assert np.sign(nose[0] - eyes[0]) == np.sign(yaw[row])
        assert np.abs(pictures[row].astype(int) - pictures[row + 6]).max() > 5


def test_a_head_turned_by_nothing_stays_as_it_is(tiny_set: TinySet, loose: Path) -> None:
    head = heads.Head(np.load(loose / "shape.npy"), data.SIZE, data.ZOOM)
    to_loose, mesh = np.load(loose / "to_loose.npy")[0], np.load(tiny_set.data / "mesh.npy")[0].astype(np.float32)
    turned = head.turned(apply(to_loose, mesh), 0.0, 0.0)
    columns, rows = np.meshgrid(np.arange(data.SIZE), np.arange(data.SIZE))
    assert np.abs(turned.map_x - columns).mean() < 0.6 and np.abs(turned.map_y - rows).mean() < 0.6
    assert np.abs(turned.points - np.load(loose / "points.npy")[0]).max() < 0.6
    assert abs(turned.yaw - np.load(loose / "yaw.npy")[0]) < 0.5 and np.abs(turned.moved - np.eye(2, 3)).max() < 0.5
    assert turned.head[data.SIZE // 2, data.SIZE // 2] and 0.1 < turned.head.mean() < 0.9


def test_the_loss_falls_with_the_error_and_ignores_unknown_points() -> None:
    points = torch.full((2, 7, 2), 61.5)
    weight, face = torch.ones(2, 7), torch.tensor([[1.0, 0.0, 1.0, 1.0]] * 2)
    grid = network.AlignNet().grid

    def raw(x: float, sure: float = 4.0) -> network.Raw:
        heat = -0.05 * ((grid - torch.tensor([x, 61.5])) ** 2).sum(1).reshape(1, 1, 32, 32).expand(2, 7, 32, 32)
        where = heat.flatten(2).softmax(2) @ grid
        return network.Raw(heat, where, torch.zeros(2, 7), torch.tensor([[sure, 0.0, 4.0]] * 2))

    near, far = (train.losses(raw(x), points, weight, face) for x in (61.5, 85.5))
    assert near["near"] < 1e-3 < far["near"] and near["cross"] < far["cross"] and near["likely"] < far["likely"]
    assert near["sure"] < 0.05 < far["sure"]  # being sure of wrong anchors costs
    unknown = train.losses(raw(85.5), points, 0 * weight, face)
    assert unknown["near"] == unknown["cross"] == unknown["likely"] == 0
    none = train.losses(raw(61.5), points, 0 * weight, 0 * face)
    assert none["sure"] > 1 and none["yaw"] == none["masked"] == 0


def test_a_run_that_is_resumed_equals_one_that_was_not(tiny_set: TinySet, loose: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    settings = train.Settings(samples=16, batch=4, warm=8)
    whole = train.train(settings, tiny_set.data, loose, tmp_path / "whole", workers=0)
    train.train(settings, tiny_set.data, loose, tmp_path / "parts", workers=0, stop_at=8)
    with pytest.raises(UsageError, match="holds a run"):
        train.train(settings, tiny_set.data, loose, tmp_path / "parts", workers=0)
    parts = train.train(settings, tiny_set.data, loose, tmp_path / "parts", workers=0, resume=True)
    for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert train.rate_at(settings, 16) < 1e-6 < train.rate_at(settings, 0) < train.rate_at(settings, 4)
    with pytest.raises(MissingError, match="no checkpoint"):
        train.load_net(tmp_path / "nobody")


def test_the_exported_file_says_what_the_network_says(tmp_path: Path) -> None:
    torch.manual_seed(3)
    net = network.AlignNet().eval()
    export.export(net, tmp_path / "a.onnx", "not at all")
    export.export(net, tmp_path / "b.onnx", "not at all")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert (tmp_path / "a.onnx").stat().st_size < 1_200_000
    aligner = Aligner((tmp_path / "a.onnx").read_bytes())
    crop = np.random.default_rng(0).integers(0, 256, (3, 128, 128, 3), np.uint8)
    said = aligner._session.run(None, {"crop": crop})
    with torch.no_grad():
        told = network.Exported(net)(torch.from_numpy(crop))
    for a, b in zip(said, told, strict=True):
        assert a.shape == tuple(b.shape) and np.abs(a - b.numpy()).max() < 0.3  # weights in FP16


def test_views_that_say_the_same_make_a_label(loose: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that says anything makes none; the bundled one, which has learnt it, does."""
    torch.manual_seed(4)
    picture = sample.masked_astronaut()[1]
    true = sample.astronaut_mesh()
    pose, net = pose_of(true[list(MESH_ANCHORS)]), network.AlignNet().eval()
    assert real.agreed(net, picture, pose, np.random.default_rng(0)) is None
    session = Aligner(models.load_aligner_model())._session

    def learnt(net: network.AlignNet) -> Callable[[torch.Tensor], list[torch.Tensor]]:
        return lambda crops: [torch.from_numpy(v) for v in session.run(None, {"crop": np.ascontiguousarray(crops)})]

    monkeypatch.setattr(real, "Exported", learnt)
    label = real.agreed(net, picture, pose, np.random.default_rng(0))
    assert label is not None and label.masked > 0.6 and abs(label.yaw) < 15 and label.weight[:6].all()
    eyes = np.linalg.norm(true[list(POINTS)][3] - true[list(POINTS)][0])
    assert np.linalg.norm(label.points[:6] - true[list(POINTS)][:6], axis=1).max() < 0.12 * eyes
    far = real.agreed(net, picture, pose + np.array([3 * eyes, 0, 0, *[0] * (len(pose) - 3)]), np.random.default_rng(0))
    assert far is None, "another place than the finder's is not believed"


def test_an_exported_aligner_can_be_trained_on(tiny_set: TinySet, loose: Path, tmp_path: Path) -> None:
    model = models.load_aligner_model()
    net = exported.read_net(model)
    made = samples.Samples(tiny_set.data, loose, "train", 3, empty=0.0)
    crops = samples.stacked(made, range(16))[0]
    session = Aligner(model)._session
    wanted = session.run(None, {"crop": crops.numpy()})

    def off() -> float:
        with torch.no_grad():
            found = network.Exported(net)(crops)
        return max(float(np.abs(a - b.numpy()).max()) for a, b in zip(wanted, found, strict=True))

    assert off() < 0.01
    exported.measure(net, [crops])
    assert off() < 0.01, "what it computes stays"
    plain = exported.read_net(model)
    with torch.no_grad():
        right = [net.eval()(network.as_input(crops)).points, net.train()(network.as_input(crops)).points]
        wrong = plain.train()(network.as_input(crops)).points
    assert (right[1] - right[0]).abs().mean() < 0.1 < 1 < (wrong - right[0]).abs().mean(), "normalised by the batch"
    with pytest.raises(ModelError, match="no exported aligner"):
        exported.read_net(models.load_unmask_model(None)[0])
    file = tmp_path / "aligner.onnx"
    file.write_bytes(model)
    train.train(train.Settings(32), tiny_set.data, loose, tmp_path / "run", start=file, workers=0)
    assert (tmp_path / "run" / "checkpoint.pt").is_file()


def test_a_label_is_drawn_half_way_to_the_mesh_of_the_same_face() -> None:
    true = sample.astronaut_mesh()
    near = true[list(POINTS)] + np.float32(2)
    label = real.Labelled(near, np.ones(len(near), np.float32), 3.0, 1.0)
    picture = np.zeros((512, 512, 3), np.uint8)

    def mesh_at(shift: float) -> Any:
        return lambda crop: [SimpleNamespace(points=apply(window, true + np.float32(shift)))]

    window = window_of(pose_of(near[:6]), WINDOW, 2.0)
    drawn = real.with_mesh(mesh_at(0), picture, label)
    assert np.allclose(drawn.points, true[list(POINTS)] + 1, atol=0.05) and drawn.yaw == 3.0
    assert real.with_mesh(lambda crop: [], picture, label) is label
    assert real.with_mesh(mesh_at(80), picture, label) is label, "the mesh of another face"


def test_the_cases_of_evaluation_are_true(tiny_set: TinySet, loose: Path) -> None:
    found = evaluate.cases(tiny_set.data, loose, 1)
    assert [c.masked for c in found] == [False, True] * 3 and {c.group for c in found[2:]} <= {"drawn", "profile"}
    assert all((c.group == "profile") == (abs(c.yaw) > PROFILE) for c in found) and found[2].yaw != found[0].yaw
    for case in found:
        assert evaluate.errors(case.points[:6], case).max() == 0
        assert case.rgb.shape == (2 * data.SIZE, 2 * data.SIZE, 3)
        told = evaluate.expected(case, np.random.default_rng(0))
        assert np.hypot(*(told[:2] - pose_of(case.points[:6])[:2])) < 0.15 * np.exp(told[2])
    apart = evaluate.APART * np.linalg.norm(found[0].points[6] - found[0].points[:4].mean(axis=0))
    moved = replace(found[0], group="profile", points=found[0].points + np.float32([apart / 10, 0]))
    assert np.allclose(evaluate.errors(found[0].points, moved), 10, atol=0.01)
