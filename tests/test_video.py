"""Following: whom the mesh may move."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import numpy as np
import pytest

import unmask_rt.faces.video as module
from unmask_rt import sample
from unmask_rt.align import MESH_ANCHORS, Image
from unmask_rt.faces.look import grey_of
from unmask_rt.faces.pose import Find, distance, pose_of
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
