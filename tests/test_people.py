"""Five people, two of them masked, one turning away and back, one leaving, two crossing: nobody is lost or mixed up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from engines.base import Batch
from tests import people
from tests.fakes import FakeEngine
from unmask_rt.align import Image
from unmask_rt.faces.find import FindStage
from unmask_rt.frames import Packet
from unmask_rt.inpaint import InpaintStage
from unmask_rt.show import BlendStage
from unmask_rt.sources.arrays import frame_of

NEAR = 0.35
"""Share of the eyes' distance (outer corners) within which a face is somebody's."""


class BlueEngine(FakeEngine):
    """Knows the masks of the clip by their colour."""

    def __init__(self) -> None:
        super().__init__(np.zeros((96, 96), np.uint8))

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        wide = crop.astype(np.int16)
        blue = (wide[..., 2] > wide[..., 0] + 50) & (wide[..., 2] > wide[..., 1] + 25)
        return np.full_like(crop, 120), (blue * np.uint8(255)).astype(np.uint8)


@pytest.fixture(scope="module")
def shown(face_models: Any) -> list[tuple[Packet, Mapping[int, people.Truth]]]:
    """What the stages make of the clip in file mode, with the truth."""
    stages = [
        FindStage(face_models.face, face_models.finder, face_models.aligner, max_faces=8, mode="file"),
        InpaintStage(BlueEngine(), "still"),
        BlendStage("file", feather=0.015, on_miss="pass", view="result"),
    ]
    truths: list[Mapping[int, people.Truth]] = []
    out: list[Packet] = []

    def onward(packet: Packet, number: int) -> None:
        if number == len(stages):
            out.append(packet)
            return
        for ready in stages[number](packet):
            onward(ready, number + 1)

    for k, (picture, truth) in enumerate(people.frames()):
        truths.append(truth)
        onward(Packet(frame_of(picture, k, Fraction(people.RATE))), 0)
    for number, stage in enumerate(stages):
        for ready in stage.flush():
            onward(ready, number + 1)
    for stage in stages:
        stage.close()
    return list(zip(out, truths, strict=True))


def whose(anchors: Image, truth: Mapping[int, people.Truth]) -> int | None:
    """The person whose face lies where a face was found."""
    apart = {i: float(np.linalg.norm(anchors.mean(0) - t.anchors.mean(0))) for i, t in truth.items()}
    best = min(apart, key=lambda i: apart[i])
    return best if apart[best] < NEAR * np.ptp(truth[best].anchors[:, 0]) else None


def test_no_frame_is_lost(shown: list[tuple[Packet, Mapping[int, people.Truth]]]) -> None:
    assert [p.frame.index for p, _ in shown] == list(range(people.FRAMES))


def test_everybody_in_view_is_found_in_every_frame_and_in_place(
    shown: list[tuple[Packet, Mapping[int, people.Truth]]],
) -> None:
    missed, errors = [], []
    for k, (packet, truth) in enumerate(shown):
        found = {whose(face.anchors, truth): face for face in packet.faces}
        for i, true in truth.items():
            if true.seen and i not in found:
                missed.append((k, i))
            elif true.seen:
                apart = np.linalg.norm(found[i].anchors - true.anchors, axis=1).mean()
                errors.append(apart / np.ptp(true.anchors[:, 0]))
    assert not missed
    assert np.median(errors) < 0.05 and np.quantile(errors, 0.95) < 0.12


def test_nobody_takes_anothers_name(shown: list[tuple[Packet, Mapping[int, people.Truth]]]) -> None:
    names: dict[int, set[int]] = defaultdict(set)
    owners: dict[int, set[int]] = defaultdict(set)
    for packet, truth in shown:
        for face in packet.faces:
            person = whose(face.anchors, truth)
            if person is not None and truth[person].seen:
                names[person].add(face.track)
                owners[face.track].add(person)
    assert all(len(persons) == 1 for persons in owners.values()), dict(owners)
    assert all(len(tracks) == 1 for tracks in names.values()), dict(names)
    assert set(names) == set(range(5))


def test_masks_come_off_and_bare_faces_stay(shown: list[tuple[Packet, Mapping[int, people.Truth]]]) -> None:
    masked = {i for i, person in enumerate(people.people()) if person.masked}
    for k, (packet, truth) in enumerate(shown):
        treated = {whose(p.face.anchors, truth) for p in packet.patches if p.strength > 0}
        in_view = {i for i, true in truth.items() if true.seen}
        assert treated & in_view == masked, (k, treated)
