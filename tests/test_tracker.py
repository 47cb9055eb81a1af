"""Poses, matching, track ids, smoothing, cuts."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unmask_rt.align import TEMPLATE, apply, crop_transform, similarity
from unmask_rt.faces.appearance import SIZE, unlikeness
from unmask_rt.faces.motion import CutDetector, Motion, OneEuro
from unmask_rt.faces.pose import (
    Find,
    Pose,
    anchors_of,
    box_of,
    difference,
    distance,
    mixed,
    moved,
    pose_of,
    side_of,
)
from unmask_rt.faces.tracker import LOOKS_S, MEMORY_S, Tracker


def pose_at(x: float, y: float, side: float = 100.0, roll: float = 0.0) -> Pose:
    return np.array([x, y, math.log(side), roll, *np.zeros(12)])


def find_at(x: float, y: float, side: float = 100.0, confidence: float = 1.0) -> Find:
    return Find(pose_at(x, y, side), "mesh" if confidence == 1.0 else "finder", confidence)


def test_pose_and_anchors_are_two_ways_to_say_the_same() -> None:
    rng = np.random.default_rng(2)
    anchors = apply(np.array([[80.0, 35.0, 300.0], [-35.0, 80.0, 200.0]]), TEMPLATE) + rng.normal(0, 2, (6, 2))
    anchors = anchors.astype(np.float32)
    np.testing.assert_allclose(anchors_of(pose_of(anchors)), anchors, atol=1e-3)
    assert side_of(pose_of(anchors)) == pytest.approx(1 / np.hypot(*crop_transform(anchors, 1)[:, 0]), rel=1e-5)


def test_a_pose_moves_as_its_anchors_do() -> None:
    pose = pose_at(50, 60, 90, 0.3)
    motion = similarity(np.array([[0, 0], [10, 0]], np.float32), np.array([[5, -3], [14, 4]], np.float32))
    np.testing.assert_allclose(anchors_of(moved(pose, motion)), apply(motion, anchors_of(pose)), atol=1e-3)


def test_poses_mix_the_short_way_round() -> None:
    half = mixed(pose_at(0, 0, 100, math.pi - 0.1), pose_at(10, 0, 100, -math.pi + 0.3), 0.5)
    assert half[0] == pytest.approx(5) and abs(math.remainder(half[3] - math.pi - 0.1, math.tau)) < 1e-9
    assert abs(difference(pose_at(0, 0, 100, 3.1), pose_at(0, 0, 100, -3.1))[3]) < 0.1


def test_the_box_covers_the_face_from_forehead_to_chin() -> None:
    pose = pose_at(200, 200, 100)
    x0, y0, x1, y1 = box_of(pose)
    anchors = anchors_of(pose)
    assert x0 < anchors[:, 0].min() < anchors[:, 0].max() < x1
    assert y1 - anchors[0, 1] > 1.5 * (anchors[0, 1] - y0) > 0  # more of a face is below the eyes than above


def run(tracker: Tracker, time_s: float, finds: list[Find]) -> dict[int, Find]:
    """One picture's worth of tracking: match, place, begin."""
    tracker.expire(time_s)
    matched, strangers = tracker.match(finds, {i: t.last.pose for i, t in tracker.tracks.items()})
    seen = dict(matched)
    for i, find in matched.items():
        tracker.place(tracker.tracks[i], find, time_s)
    for find in strangers:
        track = tracker.begin(find, time_s, sure=True, visible={i: f.pose for i, f in seen.items()})
        if track is not None:
            seen[track.id] = find
    return seen


def test_two_people_who_pass_each_other_keep_their_ids() -> None:
    tracker = Tracker(max_faces=4)
    for k in range(60):
        left, right = find_at(100 + 6 * k, 100), find_at(454 - 6 * k, 190, 80)
        seen = run(tracker, k / 30, [right, left] if k % 2 else [left, right])
        assert set(seen) == {1, 2} and seen[1] is left and seen[2] is right


def test_who_comes_back_soon_is_known_and_later_is_new() -> None:
    tracker = Tracker(max_faces=2)
    assert set(run(tracker, 0.0, [find_at(100, 100)])) == {1}
    assert run(tracker, 0.1, []) == {}
    assert set(run(tracker, 0.1 + MEMORY_S / 2, [find_at(115, 100)])) == {1}
    assert set(run(tracker, 0.2 + 2 * MEMORY_S, [find_at(115, 100)])) == {2}


def test_a_face_elsewhere_or_of_another_size_is_somebody_else() -> None:
    tracker = Tracker(max_faces=4)
    run(tracker, 0.0, [find_at(100, 100)])
    assert set(run(tracker, 0.03, [find_at(190, 100)])) == {2}
    assert distance(pose_at(0, 0, 100), pose_at(0, 0, 300)) > 0.45


def test_ids_are_never_used_twice_even_after_a_cut() -> None:
    tracker = Tracker(max_faces=4)
    run(tracker, 0.0, [find_at(100, 100), find_at(300, 100)])
    tracker.reset()
    assert set(run(tracker, 0.03, [find_at(100, 100)])) == {3}


def test_the_same_face_found_twice_is_one_track() -> None:
    tracker = Tracker(max_faces=4)
    assert len(run(tracker, 0.0, [find_at(100, 100), find_at(104, 98, 110)])) == 1


def test_only_a_clearly_larger_face_takes_a_place_in_a_crowd() -> None:
    tracker = Tracker(max_faces=2)
    run(tracker, 0.0, [find_at(100, 100), find_at(400, 100, 80)])
    visible = {i: t.last.pose for i, t in tracker.tracks.items()}
    assert tracker.begin(find_at(700, 100, 90), 0.1, sure=True, visible=visible) is None
    assert tracker.begin(find_at(700, 100, 120), 0.1, sure=True, visible=visible) is not None
    assert set(tracker.tracks) == {1, 3}


def test_in_a_crowd_there_is_room_only_for_who_would_get_it() -> None:
    tracker = Tracker(max_faces=2)
    run(tracker, 0.0, [find_at(100, 100)])
    assert tracker.has_room(10.0, {i: t.last.pose for i, t in tracker.tracks.items()})
    run(tracker, 0.1, [find_at(100, 100), find_at(400, 100, 80)])
    visible = {i: t.last.pose for i, t in tracker.tracks.items()}
    assert not tracker.has_room(90.0, visible) and tracker.has_room(120.0, visible) and len(tracker.tracks) == 2


def test_a_weak_find_counts_once_it_is_seen_again() -> None:
    tracker = Tracker(max_faces=2)
    track = tracker.begin(find_at(100, 100, confidence=0.7), 0.0, sure=False, visible={})
    assert track is not None and track.id not in tracker.confirmed
    tracker.place(track, Find(pose_at(101, 100), "flow", 0.7), 0.03)
    tracker.place(track, find_at(102, 100, confidence=0.4), 0.06)
    assert track.id not in tracker.confirmed
    tracker.place(track, find_at(102, 100, confidence=0.7), 0.1)
    assert track.id in tracker.confirmed


def shake(side: float, rate: float, seconds: float = 6.0) -> tuple[np.ndarray, np.ndarray]:
    """Centres of a resting face with the mesh's noise, before and after the filter, in crop sides."""
    rng = np.random.default_rng(5)
    smooth = OneEuro()
    raw, out = [], []
    for k in range(int(seconds * rate)):
        anchors = anchors_of(pose_at(300, 300, side)) + rng.normal(0, 0.0015 * side, (6, 2))
        pose = pose_of(anchors.astype(np.float32))
        raw.append(pose[:2] / side)
        out.append(smooth(pose, k / rate)[:2] / side)
    return np.array(raw), np.array(out)


@pytest.mark.parametrize("side", [40.0, 800.0])
@pytest.mark.parametrize("rate", [15.0, 60.0])
def test_a_resting_face_stays_still_at_any_size_and_rate(side: float, rate: float) -> None:
    raw, out = shake(side, rate)
    assert np.abs(np.diff(out, axis=0)).mean() < 0.5 * np.abs(np.diff(raw, axis=0)).mean()


def test_a_still_input_is_not_moved_at_all() -> None:
    smooth, pose = OneEuro(), pose_at(10, 20, 50, 0.4)
    for k in range(20):
        np.testing.assert_allclose(smooth(pose, k / 30), pose, atol=1e-9)


@pytest.mark.parametrize("speed", [0.05, 0.3, 1.5])
def test_a_moving_face_lags_by_no_more_than_a_pixel_of_the_crop(speed: float) -> None:
    smooth, side = OneEuro(), 120.0
    for k in range(60):
        true = pose_at(100 + speed * side * k / 30, 100, side)
        lag = (true[0] - smooth(true, k / 30)[0]) / side * 256
        assert -0.1 < lag < 4.0
    assert lag < 1.0


def test_the_lag_in_time_does_not_depend_on_the_frame_rate_or_a_gap() -> None:
    def lag_at_end(times: list[float]) -> float:
        smooth = OneEuro()
        for t in times:
            true = pose_at(100 + 30 * t, 100)
            lag = float(true[0] - smooth(true, t)[0])
        return lag

    even = lag_at_end([k / 30 for k in range(91)])
    fast = lag_at_end([k / 120 for k in range(361)])
    gap = lag_at_end([k / 30 for k in range(91) if not 40 <= k < 60])
    assert even == pytest.approx(fast, abs=0.3) and even == pytest.approx(gap, abs=0.1)


def test_roll_is_smoothed_across_half_a_turn() -> None:
    smooth = OneEuro()
    for k in range(60):
        roll = math.remainder(math.pi - 0.3 + 0.01 * k, math.tau)
        out = smooth(pose_at(0, 0, 100, roll), k / 30)
        assert abs(math.remainder(out[3] - roll, math.tau)) < 0.1


def test_cuts_are_told_from_flashes_and_pans(astronaut: np.ndarray) -> None:
    grey = astronaut.mean(axis=2).astype(np.uint8)
    other = np.ascontiguousarray(255 - grey.T)
    assert [CutDetector()(grey)] == [False]
    cuts = CutDetector()
    flash = np.clip(grey.astype(int) + 60, 0, 255).astype(np.uint8)
    pan = [np.ascontiguousarray(np.roll(grey, 8 * k, axis=1)) for k in range(1, 6)]
    assert [cuts(p) for p in [grey, flash, grey, *pan, other, other, grey]] == [False] * 8 + [True, False, True]


def test_a_motion_is_learned_and_fades() -> None:
    motion, step = Motion(), 1 / 30
    for k in range(1, 31):
        motion.learn(pose_at(100 + 6 * k, 100), pose_at(94 + 6 * k, 100), step)
    here = pose_at(300, 100)
    assert motion.ahead(here, step)[0] - 300 == pytest.approx(6, abs=0.5)
    assert motion.ahead(here, 0.0)[0] == 300
    assert 50 < motion.ahead(here, 1.0)[0] - 300 < 180 * Motion.FADE_S + 1
    np.testing.assert_allclose(motion.ahead(here, 100.0)[[1, 2, 3]], here[[1, 2, 3]], atol=1e-6)


def test_a_motion_counts_in_face_sides_and_turns_the_short_way() -> None:
    motion = Motion()
    for k in range(20):
        roll = math.pi - 0.05 + 0.01 * k
        motion.learn(pose_at(0, 0, 100, math.remainder(roll + 0.01, math.tau)), pose_at(0, 0, 100, roll), 0.1)
    assert motion.velocity[3] == pytest.approx(0.1, rel=0.05)
    motion.velocity[:] = (1.0, 0, 0, 0)
    near, far = motion.ahead(pose_at(0, 0, 200), 0.1)[0], motion.ahead(pose_at(0, 0, 20), 0.1)[0]
    assert near == pytest.approx(10 * far)


def looks_like(seed: int) -> np.ndarray:
    made = np.random.default_rng(seed).uniform(0.5, 1, SIZE).astype(np.float32)
    made[48:] /= np.linalg.norm(made[48:])
    made[:48] *= seed
    return made


def test_who_comes_back_elsewhere_is_known_by_looks_alone() -> None:
    tracker = Tracker(max_faces=4)
    run(tracker, 0.0, [find_at(100, 100), find_at(400, 100)])
    tracker.tracks[1].looks, tracker.tracks[2].looks = looks_like(1), looks_like(3)
    tracker.expire(MEMORY_S * 3)
    assert set(tracker.tracks) == {1, 2}
    back = find_at(700, 300)
    assert tracker.recall(back, looks_like(3), MEMORY_S * 3, {}) is tracker.tracks[2]
    assert tracker.recall(back, looks_like(6), MEMORY_S * 3, {}) is None
    assert tracker.recall(back, None, MEMORY_S * 3, {}) is None
    assert tracker.recall(back, looks_like(3), MEMORY_S * 3, {2: pose_at(400, 100)}) is None
    tracker.expire(LOOKS_S + 1)
    assert not tracker.tracks


def test_in_the_right_place_somebody_who_looks_different_is_somebody_else() -> None:
    tracker = Tracker(max_faces=4)
    run(tracker, 0.0, [find_at(100, 100)])
    tracker.tracks[1].looks = looks_like(1)
    assert tracker.recall(find_at(110, 100), looks_like(3), 0.3, {}) is None
    assert tracker.recall(find_at(110, 100), None, 0.3, {}) is tracker.tracks[1]


def test_who_walks_behind_somebody_is_expected_on_the_other_side() -> None:
    tracker = Tracker(max_faces=4)
    for k in range(15):
        run(tracker, k / 30, [find_at(100 + 8 * k, 100)])
    gone_s = 14 / 30
    assert set(tracker.tracks) == {1}
    there = find_at(100 + 8 * (14 + 9), 100)
    assert tracker.recall(there, None, gone_s + 0.3, {}) is tracker.tracks[1]
    assert tracker.recall(find_at(20, 100), None, gone_s + 0.3, {}) is None


def test_exchanged_tracks_keep_their_ids_and_looks() -> None:
    tracker = Tracker(max_faces=4)
    run(tracker, 0.0, [find_at(100, 100), find_at(400, 100)])
    tracker.tracks[1].looks, tracker.tracks[2].looks = looks_like(1), looks_like(3)
    tracker.exchange(1, 2)
    first, second = tracker.tracks[1], tracker.tracks[2]
    assert (first.id, first.last.pose[0], second.id, second.last.pose[0]) == (1, 400, 2, 100)
    assert first.looks is not None and unlikeness(first.looks, looks_like(1)) < 1e-3
