"""Following: whom the mesh may move."""

from __future__ import annotations

import math
from contextlib import closing
from typing import Any

import numpy as np
import pytest

import unmask_rt.faces.video as module
from unmask_rt import sample
from unmask_rt.align import MESH_ANCHORS, Image
from unmask_rt.faces.look import grey_of
from unmask_rt.faces.pose import Find, difference, distance, pose_of
from unmask_rt.faces.sight import Sight
from unmask_rt.faces.video import DOUBT, MESH_FRAMES, VideoLooker


@pytest.mark.parametrize(("sure", "moved"), [(0.95, False), (DOUBT - 0.05, True)])
def test_the_mesh_puts_a_face_right_only_where_the_aligner_is_in_doubt(
    sure: float, moved: bool, masked_astronaut: Image, face_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = pose_of(sample.astronaut_mesh()[list(MESH_ANCHORS)])
    off = truth.copy()
    off[2] += 0.19
    monkeypatch.setattr(module, "align_find", lambda *_: Find(truth, "aligner", sure))
    follows = int(sure < DOUBT)  # who follows a face in doubt asks the mesh too, first
    asked = 0

    def look(*_: Any) -> Find | None:
        nonlocal asked
        asked += 1
        return Find(off, "mesh", 1.0) if confirming and asked > follows else None

    grey, confirming = grey_of(masked_astronaut), False
    with closing(VideoLooker(face_models.face, face_models.finder, face_models.aligner, 1, live=False)) as looker:
        monkeypatch.setattr(module, "mesh_inside", look)
        for k in range(MESH_FRAMES + 4):
            asked, confirming = 0, k > 2 and looker._unchecked_frames >= MESH_FRAMES - 1
            sights, _ = looker(masked_astronaut, grey, k / 30, 20.0)
            if confirming:
                break
    assert asked == 1 + follows, "the mesh looked, and saw the face elsewhere"
    assert confirming and len(sights) == 1
    (sight,) = sights.values()
    assert (distance(sight.find.pose, off) < 1e-6) == moved
    assert np.isclose(distance(sight.find.pose, truth), 0.095 if moved else 0.0)


@pytest.mark.parametrize(("sure", "degrees", "follows"), [(0.8, 25, False), (0.8, 6, True), (0.9, 25, True)])
def test_a_face_does_not_tilt_at_once_unless_the_aligner_is_sure(
    sure: float,
    degrees: float,
    follows: bool,
    masked_astronaut: Image,
    face_models: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upright = pose_of(sample.astronaut_mesh()[list(MESH_ANCHORS)])
    tilted = upright.copy()
    tilted[3] += math.radians(degrees)
    grey, now = grey_of(masked_astronaut), Find(upright, "aligner", 0.95)
    monkeypatch.setattr(module, "align_find", lambda *_: now)
    monkeypatch.setattr(module, "mesh_inside", lambda *_: None)
    with closing(VideoLooker(face_models.face, face_models.finder, face_models.aligner, 1, live=False)) as looker:
        for k in range(6):
            looker(masked_astronaut, grey, k / 30, 20.0)
        now = Find(tilted, "aligner", sure)
        ((_, sight),) = looker(masked_astronaut, grey, 6 / 30, 20.0)[0].items()
    assert (sight.find.found_by == "aligner") == follows, "else flow and the finder have a say"
    turned = abs(difference(sight.find.pose, upright)[3])
    assert turned == pytest.approx(math.radians(degrees) if follows else 0, abs=math.radians(4))


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize(("sure", "follows"), [(0.8, False), (0.9, True)])
def test_a_weak_look_of_the_finder_needs_an_aligner_that_is_sure(
    sure: float, follows: bool, looks: bool, masked_astronaut: Image, face_models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neck above a gown looks like a masked face, a little, to both."""
    pose = pose_of(sample.astronaut_mesh()[list(MESH_ANCHORS)])
    weak = Find(pose, "finder", 0.45)
    monkeypatch.setattr(module, "align_find", lambda *_: Find(pose, "aligner", sure))
    monkeypatch.setattr(module, "mesh_inside", lambda *_: None)
    with closing(VideoLooker(face_models.face, face_models.finder, face_models.aligner, 1, live=False)) as looker:
        track = looker.tracker.begin(weak, 0.0, sure=False, visible={})
        assert track is not None
        looker._visible = {track.id: Sight(weak)}
        monkeypatch.setattr(module, "finder_find", lambda face: weak)
        monkeypatch.setattr(module, "is_face", lambda *_: False)
        looker._idle_frames = 99 if looks else -99  # whether the finder looks again, and sees as little
        for k in range(1, 4):
            looker(masked_astronaut, grey_of(masked_astronaut), k / 30, 20.0)
        assert (track.id in looker.tracker.confirmed) == follows
