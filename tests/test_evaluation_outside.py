"""Photographs and clips: figures with a known answer, and both commands' options on the sample picture."""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines import open_engine
from tests.conftest import FaceModels
from tests.evaluation_media import write_inputs, write_set
from trainer.evaluation import evaluate, frames, record
from trainer.evaluation.clips import affine_fit, carried, lay, measure_clip, pasted, through
from trainer.evaluation.frames import measure_frames, pictures
from trainer.evaluation.photos import TURNED, count_faces, is_turned, measure_photos, read_labels, verdict_at
from trainer.evaluation.pictures import choose
from trainer.evaluation.video import flicker_and_popping, motion, still_masked
from unmask_rt import sample
from unmask_rt.align import MESH_ANCHORS
from unmask_rt.errors import ExtraError, UsageError
from unmask_rt.faces.aligner import Aligner
from unmask_rt.faces.pose import pose_of
from unmask_rt.frames import Packet
from unmask_rt.models import load_aligner_model, load_unmask_model
from unmask_rt.sources.arrays import frame_of

HOLE = np.zeros((64, 64), bool)
HOLE[20:44, 20:44] = True


def noisy(level: float, count: int = 6, seed: int = 0) -> list[np.ndarray]:
    """A grey picture with new noise in each frame."""
    rng = np.random.default_rng(seed)
    return [np.clip(128 + rng.normal(0, level, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(count)]


# ---- figures of video


def test_flicker_is_one_for_the_truth_and_more_for_what_is_restless() -> None:
    rng = np.random.default_rng(1)
    scene = np.kron(rng.integers(40, 200, (16, 16, 3)), np.ones((4, 4, 1))).astype(np.int16)
    calm, restless = ([np.clip(scene + n.astype(int) - 128, 0, 255).astype(np.uint8) for n in noisy(k)] for k in (2, 6))
    holes, moved = [HOLE] * len(calm), [motion(a, b) for a, b in pairwise(calm)]
    assert flicker_and_popping(calm, calm, holes, moved) == (1, 1)
    assert flicker_and_popping(restless, calm, holes, moved)[0] == pytest.approx(3, rel=0.2)
    outside = [np.where(HOLE[..., None], c, r) for c, r in zip(calm, restless, strict=True)]
    assert flicker_and_popping(outside, calm, holes, moved)[0] == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match="two pictures"):
        flicker_and_popping(calm[:1], calm[:1], holes[:1], moved)


def test_what_changes_once_pops_and_what_always_does_only_flickers() -> None:
    grey = [np.full((64, 64, 3), 128, np.uint8)] * 12
    calm, restless = noisy(2, 12), noisy(6, 12, seed=3)
    holes, moved = [HOLE] * len(calm), [motion(a, b) for a, b in pairwise(calm)]
    popping = [*calm[:7], *(np.clip(p.astype(int) + 20, 0, 255).astype(np.uint8) for p in calm[7:])]
    assert flicker_and_popping(restless, calm, holes, moved)[1] == pytest.approx(1, abs=0.2)
    assert flicker_and_popping(popping, calm, holes, moved)[1] > 4
    assert flicker_and_popping(grey, calm, holes, moved)[1] == pytest.approx(1, abs=0.2), "a still picture does not pop"


def test_motion_says_where_pixels_go() -> None:
    rng = np.random.default_rng(0)
    scene = np.kron(rng.integers(0, 255, (40, 40, 1)), np.ones((4, 4, 3))).astype(np.uint8)
    where = motion(scene[:, :128], scene[:, 2:130])[40:100, 40:100]
    assert np.median(where[..., 0] - np.arange(40, 100)) == pytest.approx(-2, abs=0.2)
    assert np.median(where[..., 1] - np.arange(40, 100)[:, None]) == pytest.approx(0, abs=0.2)


def test_still_masked_is_a_share_of_the_hole() -> None:
    masked = np.full((64, 64, 3), 100, np.uint8)
    output = masked.copy()
    output[20:32, 20:44] = 106
    output[32:38, 20:44] = 105
    assert still_masked(output, masked, HOLE) == 0.5
    assert still_masked(masked, masked, HOLE) == 1


# ---- clips


def test_a_mask_moves_with_the_mesh() -> None:
    rng = np.random.default_rng(0)
    mesh = rng.uniform(0, 60, (478, 2)).astype(np.float32)
    transform = affine_fit(mesh, (mesh * 1.1 + [3, -2]).astype(np.float32))
    assert np.allclose(transform, [[1.1, 0, 3], [0, 1.1, -2]], atol=1e-4)
    layer, cover = np.full((64, 64, 3), 200, np.uint8), HOLE.astype(np.float32)
    shift = np.array([[1.0, 0, 5], [0, 1.0, 0]])
    picture, alpha = lay(np.zeros((64, 64, 3), np.uint8), layer, cover, shift)
    assert np.array_equal(alpha > 0.5, np.roll(HOLE, 5, 1))
    assert (picture[alpha > 0.99] == 200).all() and not picture[alpha == 0].any()


def test_a_mask_stands_while_the_face_does_and_stays_where_the_mesh_has_it() -> None:
    rows, columns = np.mgrid[:64, :64].astype(np.float32)
    still = np.stack([columns, rows], 2)
    steps = [still + np.float32([2, 0]) * (i % 2) for i in range(40)]  # the face moves in every second frame
    ahead = np.cumsum([0, *(float((s - still)[0, 0, 0]) for s in steps)])
    rng = np.random.default_rng(0)
    jittery = [np.array([[1.0, 0, x + rng.normal(0, 0.5)], [0, 1.0, rng.normal(0, 0.5)]]) for x in ahead]
    wide = np.pad(HOLE.astype(np.float32), ((0, 0), (0, 64)))
    motions = [np.pad(s, ((0, 0), (0, 64), (0, 0)), mode="edge") for s in steps]
    for s, m in zip(steps, motions, strict=True):
        m[..., 0] = np.arange(128) + (s - still)[0, 0, 0]
    placed = np.array([t[:, 2] for t in carried(wide, jittery, motions)])
    found = np.diff(placed[:, 0])
    assert np.abs(found[::2]).max() < 0.1 and np.abs(found[1::2] - 2).max() < 0.1, "as the skin moves"
    assert np.abs(placed - np.stack([ahead, 0 * ahead], 1)).max() < 0.4, "where the mesh is, on the whole"
    lost = carried(wide, [np.array([[1.0, 0, 500], [0, 1.0, 0]])] * 41, motions)
    assert np.allclose(lost, [[1, 0, 500], [0, 1, 0]]), "out of the picture only the mesh counts"


def test_a_face_that_is_pasted_on_the_mask_moves_with_it_and_covers_nothing_else() -> None:
    rng = np.random.default_rng(0)
    outputs = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(3)]
    truths = [np.zeros((64, 64, 3), np.uint8)] * 3
    holes = [np.roll(HOLE, k, 1) for k in range(3)]
    transforms = [np.array([[1.0, 0, k], [0, 1.0, 0]]) for k in range(3)]
    found = pasted(outputs, truths, holes, transforms, 1)
    for k, picture in enumerate(found):
        assert np.array_equal(picture[holes[k]], np.roll(outputs[1], k - 1, 1)[holes[k]])
        assert not picture[~holes[k]].any()


class Holding:
    """A stage that is always one packet late."""

    name = "holding"

    def __init__(self) -> None:
        self.waiting: list[Packet] = []

    def __call__(self, packet: Packet) -> Sequence[Packet]:
        self.waiting.append(packet)
        return [self.waiting.pop(0)] if len(self.waiting) > 1 else []

    def flush(self) -> Sequence[Packet]:
        kept, self.waiting = self.waiting, []
        return kept

    def close(self) -> None:
        pass


def test_held_back_frames_come_out_in_order() -> None:
    frames = [frame_of(np.zeros((8, 8, 3), np.uint8), i) for i in range(5)]
    done = list(through([Holding(), Holding()], iter(frames)))
    assert [f.index for f in done] == [0, 1, 2, 3, 4]


@pytest.mark.usefixtures("face_models")
def test_a_clip_of_a_bare_face_is_measured(tmp_path: Path) -> None:
    path = sample.builtin_clip(tmp_path / "bare.mp4", seconds=0.5, size=(480, 272), rate=12, masked=False, sound=False)
    engine = open_engine("auto", load_unmask_model()[0])
    found = measure_clip(engine, path, seed=1, face_model=None, finder_model=None)
    engine.close()
    assert found["name"] == "bare" and 4 <= found["frames"] <= 6
    assert found["hole_psnr"] > 15 and found["still_masked"] < 0.2 and 0.3 < found["flicker"] < 5
    assert 0.2 < found["popping"] < 5 and 0.1 < found["pasted"] < 5
    empty = sample.builtin_clip(tmp_path / "x.mp4", seconds=0.05, size=(480, 272), rate=12, masked=False, sound=False)
    with pytest.raises(UsageError, match="no face for two frames"):
        measure_clip(engine, empty, seed=1, face_model=None, finder_model=None)


# ---- photographs


def test_faces_are_counted_by_label_size_and_what_was_found() -> None:
    moved = np.zeros((300, 300), np.int16)
    moved[80:100, 0:100] = 9  # two fifths of the lower half of the first box
    faces = [
        {"label": "with_mask", "box": [0, 0, 100, 100]},
        {"label": "with_mask", "box": [150, 0, 190, 40]},
        {"label": "with_mask", "box": [200, 0, 220, 20]},  # too small to count
        {"label": "with_incorrect_mask", "box": [0, 150, 100, 250]},
        {"label": "without_mask", "box": [150, 150, 250, 250]},
    ]
    verdicts = [
        ((10.0, 10.0, 90.0, 90.0), True),
        ((160.0, 160.0, 240.0, 240.0), True),
        ((0.0, 150.0, 99.0, 249.0), True),
    ]
    counted: dict[str, list[float]] = defaultdict(list)
    count_faces(counted, faces, moved, verdicts, [True, True, False, False, False])
    assert counted == {
        "treated_large": [1],
        "treated_turned": [1],
        "treated_small": [0],
        "gate_masked": [1],
        "gate_bare": [0],
    }


def test_heads_are_turned_by_what_the_aligner_sees() -> None:
    mesh, (bare, masked) = sample.astronaut_mesh(), sample.masked_astronaut()
    box = (*(float(v) for v in mesh.min(0)), *(float(v) for v in mesh.max(0)))
    aligner = Aligner(load_aligner_model())
    assert not is_turned(aligner, bare, box) and not is_turned(aligner, masked, box)
    assert is_turned(aligner, np.full_like(bare, 90), box)
    aligned = aligner(bare, pose_of(mesh[list(MESH_ANCHORS)]))
    assert aligned is not None and abs(aligned.yaw) < TURNED
    for yaw, sure, wanted in ((TURNED - 1, 0.9, False), (-TURNED, 0.9, True), (0.0, 0.4, True)):
        seen = replace(aligned, yaw=yaw, sure=sure)
        assert is_turned(lambda rgb, pose, seen=seen: seen, bare, box) == wanted  # type: ignore[arg-type]


def test_a_found_face_belongs_to_the_box_around_its_middle() -> None:
    near, far, outside = (
        ((40.0, 40.0, 60.0, 60.0), False),
        ((0.0, 0.0, 60.0, 60.0), True),
        ((90.0, 0.0, 130.0, 50.0), True),
    )
    assert verdict_at((0, 0, 100, 100), [far, near, outside]) is False
    assert verdict_at((0, 0, 100, 100), [outside]) is None


@pytest.mark.parametrize("text", [None, "no JSON", "[1]", '[{"file": "a.jpg", "faces": [{"label": "with_mask"}]}]'])
def test_what_is_no_set_of_photographs_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "masked.json").write_text(text)
    with pytest.raises(UsageError, match="no list of labelled faces"):
        read_labels(tmp_path / "masked.json")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample picture, masked and bare."""
    folder = tmp_path_factory.mktemp("photos")
    mesh = sample.astronaut_mesh()
    box = [int(v) for v in (*mesh.min(0), *mesh.max(0))]
    bare, masked = sample.masked_astronaut()
    for kind, picture, label in (("masked", masked, "with_mask"), ("unmasked", bare, "without_mask")):
        (folder / kind).mkdir()
        Image.fromarray(picture).save(folder / kind / "a.png")
        (folder / f"{kind}.json").write_text(json.dumps([{"file": "a.png", "faces": [{"label": label, "box": box}]}]))
    return folder


def test_the_gate_is_measured_on_photographs(photos: Path, face_models: FaceModels) -> None:
    engine = open_engine("auto", load_unmask_model()[0])
    found = measure_photos(engine, photos, face_model=None, finder_model=None)
    engine.close()
    assert {k: (e.value, e.count) for k, e in found.items()} == {
        "treated_large": (1, 1), "treated_frontal": (1, 1), "unchanged": (1, 1),
        "gate_masked": (1, 1), "gate_bare": (1, 1), "gate": (1, 2),
    }  # fmt: skip


# ---- whole pictures


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """A prepared set, and the folders of whole pictures that it could have been made from."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "data").mkdir()
    return write_set(folder / "data"), write_inputs(folder)


@pytest.mark.usefixtures("face_models")
def test_whole_pictures_go_through_the_tool(inputs: tuple[Path, list[Path]]) -> None:
    data, folders = inputs
    draw = choose(data, "test", 2, 5)
    engine = open_engine("auto", load_unmask_model()[0])
    found = measure_frames(engine, draw, folders, face_model=None, finder_model=None)
    engine.close()
    assert found["hole_psnr"].count == 2 and found["treated"].value == found["untouched"].value == 1
    assert 0.005 < found["cover"].value < 0.1, "of the whole picture, in which the face is small"
    assert 15 < found["hole_psnr"].value < found["whole_psnr"].value - 9
    assert found["far_change"].value < 0.05 and found["mask_left"].value < 0.1
    assert not {"map_iou", "gate"} & found.keys(), "nobody sees a map here"
    assert "roomy_ssim" not in found, "there is more room than that"


@pytest.mark.usefixtures("face_models")
def test_pictures_with_some_room_around_the_face_are_told_apart(
    inputs: tuple[Path, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "ROOMY", (0.005, 0.1))
    engine = open_engine("auto", load_unmask_model()[0])
    found = measure_frames(engine, choose(inputs[0], "test", 1, 5), inputs[1], face_model=None, finder_model=None)
    engine.close()
    assert found["roomy_ssim"] == found["ssim"] and found["roomy_psnr"] == found["whole_psnr"]


def test_pictures_come_in_the_order_of_the_draw(inputs: tuple[Path, list[Path]]) -> None:
    draw = choose(inputs[0], "test", 6, 5)
    brightness = [picture.mean() for _, picture in pictures(draw, inputs[1])]
    assert [row for row, _ in pictures(draw, inputs[1])] == list(draw.rows)
    assert np.argsort(brightness).tolist() == np.argsort(draw.rows).tolist()


def test_people_whose_pictures_are_not_there_are_named(inputs: tuple[Path, list[Path]], tmp_path: Path) -> None:
    data, folders = inputs
    with pytest.raises(UsageError, match=r"\.png of the source 'b' is not there"):
        list(pictures(choose(data, "test", 6, 5), folders[:1]))
    (tmp_path / "b").mkdir()
    for path in folders[1].iterdir():
        (tmp_path / "b" / path.name).write_bytes(path.read_bytes()[:100])
    with pytest.raises(UsageError, match="'b' is not there to be read"):
        list(pictures(choose(data, "test", 6, 5), [folders[0], tmp_path / "b"]))


def call(*words: object) -> int:
    parser = argparse.ArgumentParser()
    evaluate.add_arguments(parser)
    return evaluate.main(parser.parse_args([str(w) for w in words]))


@pytest.mark.usefixtures("face_models")
def test_an_evaluation_takes_whole_pictures_photographs_and_clips_along(
    photos: Path, inputs: tuple[Path, list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = sample.builtin_clip(tmp_path / "bare.mp4", seconds=0.3, size=(480, 272), rate=12, masked=False, sound=False)
    words = ("default", "--data", inputs[0], "--count", 1, "--features", "none", "--no-identity", "--workers", 0,
             "--photos", photos)  # fmt: skip
    assert call(*words, "--clip", clip, "--frames", *inputs[1], "-o", tmp_path / "out") == 0
    stored = record.read(tmp_path / "out" / "evaluation.json")
    assert stored.photos["gate"].value == 1 and [c["name"] for c in stored.clips] == ["bare"]
    assert stored.frames["untouched"].value == 1 and stored.frames["ssim"].count == 1
    text = (tmp_path / "out" / "evaluation.md").read_text()
    assert "| bare: untouched | 1 | 1.000 [" in text
    assert "| faces that were found: the gate is right | 2 | 1.000 [" in text and "| bare | " in text
    monkeypatch.setitem(sys.modules, "trainer.evaluation.photos", None)
    with pytest.raises(ExtraError, match="mediapipe, av"):
        call(*words)
