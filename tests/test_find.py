"""The find stage: ids and anchors in display pixels, look-ahead that mends a track's past, no lag live."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from contextlib import closing
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest

from unmask_rt import sample
from unmask_rt.align import MESH_ANCHORS, Affine, Image, apply
from unmask_rt.faces import find as module
from unmask_rt.faces.find import LOOK_AHEAD_FRAMES, FindStage
from unmask_rt.faces.look import mesh_find
from unmask_rt.faces.mesh import MeshFace
from unmask_rt.faces.pose import Find, Pose, anchors_of, difference, moved, pose_of, side_of
from unmask_rt.faces.sight import Sight
from unmask_rt.faces.tracker import Tracker
from unmask_rt.frames import Frame, Mode, Packet

STRAIGHT = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
RATE = 30


def packet(picture: Image, index: int, *, rate: int = RATE) -> Packet:
    height, width = picture.shape[:2]
    video = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24").reformat(format="yuv444p")
    return Packet(Frame(video, index, index, Fraction(1, rate), 0, STRAIGHT, (width, height)))


def motion(k: float) -> Affine:
    """Where the camera has gone in frame ``k``: a drift with a little roll."""
    out = cv2.getRotationMatrix2D((230.0, 130.0), 0.5 * k, 1 + 0.004 * k)
    out[:, 2] += (3.0 * k, 1.5 * k)
    return out


def clip(picture: Image, count: int) -> list[Image]:
    size = picture.shape[1], picture.shape[0]
    return [np.asarray(cv2.warpAffine(picture, motion(k), size, borderMode=cv2.BORDER_REPLICATE)) for k in range(count)]


def true_pose(k: int) -> Pose:
    return moved(pose_of(sample.astronaut_mesh()[list(MESH_ANCHORS)]), motion(k))


class ScriptedLooker:
    """Stands in for the video looker: says in each picture what it is told to."""

    script: Sequence[dict[int, Sight]] = ()
    cuts: frozenset[int] = frozenset()

    def __init__(self, *_: object, **__: object) -> None:
        self.tracker = Tracker(4)
        self.tracker.confirmed = {1, 2}
        self._k = -1

    def __call__(self, *_: object) -> tuple[dict[int, Sight], bool]:
        self._k += 1
        return self.script[self._k], self._k in self.cuts

    def align(self, *_: object) -> Find | None:
        return None

    def close(self) -> None:
        pass


def run(stage: FindStage, pictures: Sequence[Image]) -> list[Packet]:
    out: list[Packet] = []
    with closing(stage):
        for k, picture in enumerate(pictures):
            out += stage(packet(picture, k))
        out += stage.flush()
    stage.close()
    assert [p.frame.index for p in out] == list(range(len(pictures)))
    return out


def scripted(
    monkeypatch: pytest.MonkeyPatch,
    pictures: Sequence[Image],
    script: Sequence[dict[int, Sight]],
    *,
    mode: Mode = "file",
    cuts: Sequence[int] = (),
) -> list[Packet]:
    monkeypatch.setattr(module, "VideoLooker", ScriptedLooker)
    monkeypatch.setattr(ScriptedLooker, "script", script)
    monkeypatch.setattr(ScriptedLooker, "cuts", frozenset(cuts))
    return run(FindStage(b"", b"", b"", max_faces=4, mode=mode), pictures)


def seen(k: int) -> dict[int, Sight]:
    return {1: Sight(Find(true_pose(k), "mesh", 1.0))}


def error(found: Packet, k: int) -> float:
    """Distance of the anchors from the truth in pixels of a 256 px crop."""
    truth = true_pose(k)
    return float(np.abs(found.faces[0].anchors - anchors_of(truth)).max() / side_of(truth) * 256)


def test_a_track_is_followed_back_to_its_first_frame(monkeypatch: pytest.MonkeyPatch, masked_astronaut: Image) -> None:
    pictures = clip(masked_astronaut, 16)
    out = scripted(monkeypatch, pictures, [seen(k) if k >= 8 else {} for k in range(16)])
    assert [[f.found_by for f in p.faces] for p in out] == [["flow"]] * 8 + [["mesh"]] * 8
    assert max(error(p, k) for k, p in enumerate(out)) < 6


def test_following_back_the_aligner_has_the_last_word(monkeypatch: pytest.MonkeyPatch, masked_astronaut: Image) -> None:
    still = true_pose(0)
    wrong = moved(still, motion(2))

    def align(_: object, rgb: Image, expected: Pose) -> Find:
        assert rgb.shape == masked_astronaut.shape
        return Find(still, "aligner", 0.8)

    monkeypatch.setattr(ScriptedLooker, "align", align)
    script = [{1: Sight(Find(wrong, "mesh", 1.0))} if k >= 5 else {} for k in range(9)]
    out = scripted(monkeypatch, [masked_astronaut] * 9, script)
    assert [[f.found_by for f in p.faces] for p in out] == [["aligner"]] * 5 + [["mesh"]] * 4
    assert error(out[0], 0) < 0.5 and [p.faces[0].confidence for p in out] == [0.8] * 5 + [1.0] * 4


def test_following_back_stops_at_a_cut_and_where_there_is_no_face(
    monkeypatch: pytest.MonkeyPatch, masked_astronaut: Image
) -> None:
    pictures = clip(masked_astronaut, 14)
    script = [seen(k) if k >= 10 else {} for k in range(14)]
    out = scripted(monkeypatch, pictures, script, cuts=[6])
    assert [len(p.faces) for p in out] == [0] * 6 + [1] * 8
    assert [p.cut for p in out] == [k == 6 for k in range(14)]
    empty = [np.full_like(p, 80) if k < 4 else p for k, p in enumerate(pictures)]
    assert [len(p.faces) for p in scripted(monkeypatch, empty, script)] == [0] * 4 + [1] * 10


def test_a_gap_that_flow_cannot_cross_is_filled_from_both_sides(
    monkeypatch: pytest.MonkeyPatch, masked_astronaut: Image
) -> None:
    pictures = clip(masked_astronaut, 20)
    for k in range(7, 12):
        pictures[k] = np.full_like(pictures[k], 90)  # something passes in front
    out = scripted(monkeypatch, pictures, [{} if 7 <= k < 12 else seen(k) for k in range(20)])
    assert [[f.found_by for f in p.faces] for p in out] == [["mesh"]] * 7 + [["held"]] * 5 + [["mesh"]] * 8
    assert max(error(p, k) for k, p in enumerate(out)) < 6


def test_who_is_back_elsewhere_was_nowhere_in_between(monkeypatch: pytest.MonkeyPatch, masked_astronaut: Image) -> None:
    wide = np.full((512, 1100, 3), 90, np.uint8)

    def shown(left: int) -> Image:
        picture = wide.copy()
        picture[:, left : left + 512] = masked_astronaut
        return picture

    def at(left: int) -> dict[int, Sight]:
        return {1: Sight(Find(moved(true_pose(0), np.array([[1.0, 0, left], [0, 1.0, 0]])), "mesh", 1.0))}

    pictures = [shown(0)] * 6 + [wide] * 5 + [shown(580)] * 6
    out = scripted(monkeypatch, pictures, [at(0)] * 6 + [{}] * 5 + [at(580)] * 6)
    assert [len(p.faces) for p in out] == [1] * 6 + [0] * 5 + [1] * 6


def test_no_gap_is_filled_where_somebody_else_is(monkeypatch: pytest.MonkeyPatch, masked_astronaut: Image) -> None:
    pictures = [masked_astronaut] * 6 + [np.full_like(masked_astronaut, 90)] * 5 + [masked_astronaut] * 6
    other = {2: seen(0)[1]}
    out = scripted(monkeypatch, pictures, [seen(0)] * 6 + [other] * 5 + [seen(0)] * 6)
    assert [[f.track for f in p.faces if f.found_by != "flow"] for p in out[6:11]] == [[2]] * 5


def test_a_gap_across_a_cut_stays_empty(monkeypatch: pytest.MonkeyPatch, masked_astronaut: Image) -> None:
    pictures = [np.full_like(masked_astronaut, 90) if 5 <= k < 9 else masked_astronaut for k in range(14)]
    out = scripted(monkeypatch, pictures, [{} if 5 <= k < 9 else seen(0) for k in range(14)], cuts=[7])
    assert [len(p.faces) for p in out] == [1] * 5 + [0] * 4 + [1] * 5


def test_the_drift_of_flow_is_spread_over_the_frames_it_carried(
    monkeypatch: pytest.MonkeyPatch, masked_astronaut: Image
) -> None:
    pictures = [masked_astronaut] * 12
    truth = true_pose(0)
    script = []
    for k in range(12):
        drifted = truth.copy()
        drifted[0] += 4.0 * (k - 3) if 4 <= k < 10 else 0.0
        by: Any = "flow" if 4 <= k < 10 else "mesh"
        pull = None
        if k == 10:
            carried = truth.copy()
            carried[0] += 28.0
            pull = difference(truth, carried)
        script.append({1: Sight(Find(drifted, by, 1.0), pull)})
    out = scripted(monkeypatch, pictures, script)
    assert max(error(p, 0) for p in out) < 0.5
    live = scripted(monkeypatch, pictures, script, mode="live")
    assert max(error(p, 0) for p in live) > 10


def test_live_hands_each_frame_on_at_once_and_a_file_waits_half_a_second(
    monkeypatch: pytest.MonkeyPatch, masked_astronaut: Image
) -> None:
    monkeypatch.setattr(module, "VideoLooker", ScriptedLooker)
    monkeypatch.setattr(ScriptedLooker, "script", [{}] * 80)
    small = np.ascontiguousarray(masked_astronaut[::8, ::8])
    live = FindStage(b"", b"", b"", max_faces=1, mode="live")
    assert all(len(live(packet(small, k))) == 1 for k in range(5)) and live.flush() == []
    for rate, held in ((RATE, RATE // 2), (240, LOOK_AHEAD_FRAMES)):
        stage = FindStage(b"", b"", b"", max_faces=1, mode="file")
        ready = [len(stage(packet(small, k, rate=rate))) for k in range(60)]
        assert ready.index(1) == held and len(stage.flush()) == held


def test_an_unconfirmed_track_is_shown_from_its_start_once_it_is_confirmed(
    monkeypatch: pytest.MonkeyPatch, masked_astronaut: Image
) -> None:
    monkeypatch.setattr(module, "VideoLooker", ScriptedLooker)
    monkeypatch.setattr(ScriptedLooker, "script", [{7: seen(0)[1]}] * 10)
    for confirmed_at in (5, None):
        stage = FindStage(b"", b"", b"", max_faces=1, mode="file")
        out = []
        for k in range(10):
            if k == confirmed_at:
                stage._looker.tracker.confirmed.add(7)  # type: ignore[union-attr]
            out += stage(packet(masked_astronaut, k))
        out += stage.flush()
        assert [len(p.faces) for p in out] == [0 if confirmed_at is None else 1] * 10


@pytest.mark.parametrize("mode", ["file", "live"])
def test_finds_and_follows_a_masked_face_in_a_clip(mode: Mode, face_models: Any, masked_astronaut: Image) -> None:
    stage = FindStage(face_models.face, face_models.finder, face_models.aligner, max_faces=2, mode=mode)
    out = run(stage, clip(masked_astronaut, 12))
    assert [[f.track for f in p.faces] for p in out] == [[1]] * 12
    assert max(error(p, k) for k, p in enumerate(out)) < 12
    x0, y0, x1, y1 = out[5].faces[0].box
    mesh = apply(motion(5), sample.astronaut_mesh())
    assert abs(x0 - mesh[:, 0].min()) < 15 and abs(y1 - mesh[:, 1].max()) < 15 and x1 > x0 and y1 > y0


def test_two_faces_keep_their_ids_and_a_cut_gives_new_ones(face_models: Any, masked_astronaut: Image) -> None:
    face = masked_astronaut[:300, 90:390]
    pair = np.hstack([face, face[:, ::-1]])
    pictures = [np.roll(pair, 2 * k, axis=0) for k in range(8)]
    pictures += [np.hstack([np.full((300, 300, 3), 20, np.uint8), face])] * 5
    out = run(FindStage(face_models.face, face_models.finder, face_models.aligner, max_faces=4, mode="file"), pictures)
    assert [p.cut for p in out] == [k == 8 for k in range(13)]
    before = {tuple(f.track for f in p.faces) for p in out[:8]}
    after = {tuple(f.track for f in p.faces) for p in out[8:]}
    assert len(before) == 1 and len(after) == 1
    assert len(*before) == 2 and len(*after) == 1 and not set(*before) & set(*after)


def test_live_the_finder_finds_a_newcomer_aside_of_the_frames(face_models: Any, masked_astronaut: Image) -> None:
    face = masked_astronaut[:300, 90:390]
    alone = np.full((360, 640, 3), 90, np.uint8)
    alone[30:330, 20:320] = face
    pair = alone.copy()
    pair[100:250, 450:600] = cv2.resize(face[:, ::-1], (150, 150), interpolation=cv2.INTER_AREA)
    stage = FindStage(face_models.face, face_models.finder, face_models.aligner, max_faces=4, mode="live")
    with closing(stage):
        [first] = stage(packet(alone, 0))
        assert [f.track for f in first.faces] == [1], "who is alone and near is found at once"
        end, k = time.monotonic() + 30, 0
        found = first
        while len(found.faces) < 2 and time.monotonic() < end:
            k += 1
            [found] = stage(packet(pair, k))
            assert found.frame.index == k and any(f.track == 1 for f in found.faces)
            time.sleep(0.005)
    assert [f.track for f in found.faces] == [1, 2]
    assert not any(thread.name == "unmask-rt finder" for thread in threading.enumerate())


def test_a_file_gives_the_same_faces_every_time(face_models: Any, masked_astronaut: Image) -> None:
    pictures = clip(masked_astronaut, 8)
    runs = []
    for _ in range(2):
        stage = FindStage(face_models.face, face_models.finder, face_models.aligner, max_faces=4, mode="file")
        runs.append(
            [(f.track, f.found_by, f.confidence, f.anchors.tolist()) for p in run(stage, pictures) for f in p.faces]
        )
    assert runs[0] == runs[1] and len(runs[0]) == 8


def test_only_as_many_faces_as_wanted_the_largest_first(face_models: Any, masked_astronaut: Image) -> None:
    face = masked_astronaut[:300, 90:390]
    small = cv2.resize(face, (150, 150), interpolation=cv2.INTER_AREA)
    pair = np.zeros((300, 450, 3), np.uint8)
    pair[:150, :150], pair[:, 150:] = small, face
    still = FindStage(face_models.face, face_models.finder, face_models.aligner, max_faces=1, mode="still")
    [found] = still(packet(pair, 0))
    assert len(found.faces) == 1 and found.faces[0].box[0] > 150
    both = FindStage(face_models.face, face_models.finder, face_models.aligner, max_faces=5, mode="still")
    assert len(both(packet(pair, 0))[0].faces) == 2
    still.close()
    both.close()
    one = FindStage(face_models.face, face_models.finder, face_models.aligner, max_faces=1, mode="file")
    out = run(one, [pair] * 6)
    assert all(len(p.faces) == 1 and p.faces[0].box[0] > 150 for p in out)


@pytest.mark.parametrize("mode", ["file", "live", "still"])
def test_sees_nobody_where_nobody_is(mode: Mode, face_models: Any) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (180, 320, 3), np.uint8)
    out = run(FindStage(face_models.face, face_models.finder, face_models.aligner, max_faces=3, mode=mode), [noise] * 7)
    assert all(p.faces == () for p in out)


def test_a_still_is_searched_at_any_size_and_turn(face_models: Any, masked_astronaut: Image) -> None:
    stage = FindStage(face_models.face, face_models.finder, face_models.aligner, max_faces=3, mode="still")
    big = np.asarray(cv2.resize(masked_astronaut, None, fx=4.5, fy=4.5, interpolation=cv2.INTER_CUBIC))
    [found] = stage(packet(big, 0))
    anchors = (anchors_of(true_pose(0)) + 0.5) * 4.5 - 0.5
    assert len(found.faces) == 1
    assert np.abs(found.faces[0].anchors - anchors).max() < 0.06 * 4.5 * side_of(true_pose(0))
    tiny = np.asarray(cv2.resize(masked_astronaut, (64, 64), interpolation=cv2.INTER_AREA))
    assert stage(packet(tiny, 1))[0].faces == ()  # a face of 18 pixels is left alone
    stage.close()


def test_the_crop_of_a_turned_head_does_not_shrink_with_its_eyes() -> None:
    """A head that turns about its own axis: the crop keeps its size within the share that is left in."""
    flat = sample.astronaut_mesh()
    sides = []
    for degrees in (0, 20, 40, 55):
        turn = math.radians(degrees)
        points = flat.copy()
        points[:, 0] = (flat[:, 0] - flat[168, 0]) * math.cos(turn) + flat[168, 0]
        depth = (flat[:, 0] - flat[168, 0]) * math.sin(turn)
        find = mesh_find(MeshFace(points, depth.astype(np.float32), {}))
        assert find is not None
        sides.append(side_of(find.pose) / (sides[0] if sides else 1))
    assert all(0.8 < side < 1.05 for side in sides[1:]), sides
