"""Looks tell people apart and survive light, size and a mask; nobody is followed twice or keeps another's name."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests import people
from unmask_rt.align import Image
from unmask_rt.faces.appearance import SIZE, Looks, describe, remembered, unlikeness
from unmask_rt.faces.identity import LEARN_FRAMES, SWAP_LOOKS, Identities
from unmask_rt.faces.pose import Find, Pose, pose_of
from unmask_rt.faces.tracker import ALIKE, STRANGE, Track


@pytest.fixture(scope="module")
def group() -> tuple[Image, dict[int, Pose]]:
    """A picture of the five, and where their faces are, by ids from 1 on."""
    picture, truth = next(people.frames())
    return picture, {i + 1: pose_of(t.anchors) for i, t in truth.items()}


@pytest.fixture(scope="module")
def looks(group: tuple[Image, dict[int, Pose]]) -> dict[int, Looks]:
    picture, poses = group
    return {i: describe(picture, pose) for i, pose in poses.items()}


def test_people_in_one_picture_look_different(looks: dict[int, Looks]) -> None:
    apart = [unlikeness(looks[a], looks[b]) for a in looks for b in looks if a < b]
    assert all(look.shape == (SIZE,) and look.dtype == np.float32 for look in looks.values())
    assert min(apart) > 0.12 and np.median(apart) > ALIKE, apart
    assert all(unlikeness(look, look) < 1e-3 for look in looks.values())


@pytest.mark.parametrize("change", ["dimmer", "smaller", "blurred", "shifted", "masked"])
def test_the_same_person_looks_the_same(
    group: tuple[Image, dict[int, Pose]], looks: dict[int, Looks], change: str
) -> None:
    picture, poses = group
    for i, pose in poses.items():
        other, there = picture, pose.copy()
        match change:
            case "dimmer":
                other = np.clip(picture * 0.8, 0, 255).astype(np.uint8)
            case "smaller":
                other = np.asarray(cv2.resize(picture, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))
                there[:2] = (pose[:2] + 0.5) / 2 - 0.5
                there[2] -= np.log(2)
            case "blurred":
                other = np.asarray(cv2.GaussianBlur(picture, (0, 0), 1.5))
            case "shifted":
                there[:2] += 0.02 * np.exp(pose[2])
            case "masked":
                other = picture.copy()
                x, y, side = round(pose[0]), round(pose[1]), np.exp(pose[2])
                other[y + int(0.14 * side) : y + int(0.5 * side), x - int(0.3 * side) : x + int(0.3 * side)] = 30
        again = describe(other, there)
        own = unlikeness(again, looks[i])
        assert own < ALIKE, (i, own)
        assert own < min(unlikeness(again, look) for j, look in looks.items() if j != i) + 0.02, i


def test_a_memory_follows_slowly(looks: dict[int, Looks]) -> None:
    first, second = looks[1], looks[2]
    assert remembered(None, first) is first
    step = remembered(first, second)
    assert 0 < unlikeness(step, first) < unlikeness(step, second)
    assert ALIKE < STRANGE


def tracks_of(poses: dict[int, Pose], looks: dict[int, Looks]) -> dict[int, Track]:
    return {i: Track(i, Find(pose, "aligner", 0.9), 0.0, 0.0, 0.0, looks=looks[i]) for i, pose in poses.items()}


def test_of_two_tracks_on_one_face_the_stranger_has_to_go(
    group: tuple[Image, dict[int, Pose]], looks: dict[int, Looks]
) -> None:
    picture, poses = group
    for owner, stranger in ((1, 5), (5, 1), (4, 3)):
        tracks = tracks_of({i: poses[i] for i in (owner, stranger)}, looks)
        assert Identities().settle(picture, tracks, {owner: poses[owner], stranger: poses[owner]}, 0.1) == [stranger]


def test_without_memories_the_one_that_came_further_has_to_go(group: tuple[Image, dict[int, Pose]]) -> None:
    picture, poses = group
    tracks = {i: Track(i, Find(poses[i], "aligner", 0.9), 0.0, 0.0, 0.0) for i in (1, 2)}
    assert Identities().settle(picture, tracks, {1: poses[1], 2: poses[1]}, 0.1) == [2]


def test_exchanged_names_are_given_back_once_and_only_near_each_other(
    group: tuple[Image, dict[int, Pose]], looks: dict[int, Looks]
) -> None:
    picture, poses = group
    near = np.ascontiguousarray(picture.copy())
    beside = {4: poses[4].copy(), 5: poses[5].copy()}
    # The fifth person's half of the picture moves next to the fourth.
    shift = int(poses[5][0] - poses[4][0] - 0.9 * np.exp(poses[4][2]))
    middle = int((poses[4][0] + poses[5][0]) / 2)
    near[270:, middle - shift : 960 - shift] = picture[270:, middle:]
    beside[5][0] -= shift
    crossed = {4: beside[5], 5: beside[4]}
    people_there = Identities()
    tracks = tracks_of(crossed, looks)
    told = []
    for k in range(SWAP_LOOKS + 1):
        assert people_there.settle(near, tracks, crossed, 0.1 * k) == []
        told.append(people_there.swapped())
    assert told == [[]] * (SWAP_LOOKS - 1) + [[(4, 5)], []]
    right = Identities()
    for k in range(SWAP_LOOKS + 2):
        right.settle(near, tracks_of(beside, looks), beside, 0.1 * k)
        assert right.swapped() == []


def test_a_memory_is_made_at_once_and_rests_in_a_crowd(
    group: tuple[Image, dict[int, Pose]], looks: dict[int, Looks]
) -> None:
    picture, poses = group
    track = Track(1, Find(poses[1], "aligner", 0.9), 0.0, 0.0, 0.0)
    alone = Identities()
    alone.settle(picture, {1: track}, {1: poses[1]}, 0.0)
    assert track.looks is not None and unlikeness(track.looks, looks[1]) < 1e-3
    crowd = tracks_of({1: poses[1], 2: poses[1]}, {1: looks[1], 2: looks[2]})
    close = poses[1].copy()
    close[0] += 0.6 * np.exp(close[2])
    for k in range(2 * LEARN_FRAMES):
        alone.settle(picture, crowd, {1: poses[1], 2: close}, 0.1 * k)
    assert crowd[2].looks is looks[2]
