"""The inpaint stage: crops as the network wants them, out of frames of every kind."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes import ANCHORS, FakeEngine, face_at, turned, worn_map
from unmask_rt import align, blend, orient
from unmask_rt.frames import Packet
from unmask_rt.inpaint import InpaintStage
from unmask_rt.sources.arrays import frame_of


def test_the_crop_is_the_warp_of_the_whole_picture(astronaut: NDArray[np.uint8]) -> None:
    engine = FakeEngine(worn_map(128))
    (packet,) = InpaintStage(engine)(Packet(frame_of(astronaut), faces=(face_at(ANCHORS),)))
    (patch,) = packet.patches
    transform = align.crop_transform(ANCHORS, 128)
    assert np.allclose(patch.transform, transform)
    assert np.abs(patch.crop.astype(int) - align.warp(astronaut, transform, 128)).mean() < 1.5
    assert engine.crops[0].shape == (1, 128, 128, 3) and (engine.crops[0][0] == patch.crop).all()
    assert (patch.completed == engine.colour).all() and (patch.map == engine.mask_map).all()
    assert patch.score == 1.0 and patch.strength == 0.0 and patch.face is packet.faces[0]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_planes_on_their_side_give_the_same_upright_crop(astronaut: NDArray[np.uint8], degrees: int) -> None:
    stage = InpaintStage(FakeEngine(worn_map(128)))
    picture = np.ascontiguousarray(astronaut[:400])
    (straight,) = stage(Packet(frame_of(picture), faces=(face_at(ANCHORS),)))[0].patches
    (patch,) = stage(Packet(turned(picture, degrees), faces=(face_at(ANCHORS),)))[0].patches
    assert np.abs(patch.crop.astype(int) - straight.crop).mean() < 1.5


def test_pixels_that_are_not_square(astronaut: NDArray[np.uint8]) -> None:
    coded = np.ascontiguousarray(astronaut[:, ::2])  # shown twice as wide
    matrix, size = orient.to_display(256, 512, Fraction(2))
    frame = replace(frame_of(coded), to_display=matrix, display_size=size)
    (patch,) = InpaintStage(FakeEngine(worn_map(128)))(Packet(frame, faces=(face_at(ANCHORS),)))[0].patches
    wanted = align.warp(astronaut, align.crop_transform(ANCHORS, 128), 128)
    assert np.abs(patch.crop.astype(int) - wanted).mean() < 6


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "yuv444p", "gbrp10le"])
def test_other_formats_give_the_same_crop(astronaut: NDArray[np.uint8], pixel_format: str) -> None:
    frame = frame_of(astronaut, pixel_format=pixel_format)
    (patch,) = InpaintStage(FakeEngine(worn_map(128)))(Packet(frame, faces=(face_at(ANCHORS),)))[0].patches
    wanted = align.warp(astronaut, align.crop_transform(ANCHORS, 128), 128)
    assert np.abs(patch.crop.astype(int) - wanted).mean() < 4


def test_size_and_template_are_the_models_own(astronaut: NDArray[np.uint8]) -> None:
    template = (align.TEMPLATE - 0.5) * np.float32(0.7) + 0.5
    engine = FakeEngine(worn_map(96), template=template)
    (patch,) = InpaintStage(engine)(Packet(frame_of(astronaut), faces=(face_at(ANCHORS),)))[0].patches
    assert patch.crop.shape == (96, 96, 3)
    assert np.abs(align.apply(patch.transform, ANCHORS) - (template * 96 - 0.5)).max() < 6


@pytest.mark.parametrize(("masked", "wanted"), [(None, 0.0), (0.2, 0.0), (0.9, 1.0)])
def test_a_turned_heads_mask_counts_where_the_aligner_sees_one(
    astronaut: NDArray[np.uint8], masked: float | None, wanted: float
) -> None:
    mask_map = np.zeros((128, 128), np.uint8)
    mask_map[blend.lower_face(128, blend.TURNED)] = 255
    mask_map[blend.lower_face(128)] = 0
    mask_map[: blend.lower_face(128)[0].start] = 255
    face = replace(face_at(ANCHORS), masked=masked)
    (patch,) = InpaintStage(FakeEngine(mask_map))(Packet(frame_of(astronaut), faces=(face,)))[0].patches
    assert (patch.score > 0.3) == bool(wanted)


def test_one_call_a_face_in_order(astronaut: NDArray[np.uint8]) -> None:
    engine = FakeEngine(worn_map(64))
    faces = (face_at(ANCHORS, 4), face_at(ANCHORS + np.float32([60, 90]), 2))
    (packet,) = InpaintStage(engine)(Packet(frame_of(astronaut), faces=faces))
    assert [p.face.track for p in packet.patches] == [4, 2] and len(engine.crops) == 2
    assert (packet.patches[0].crop != packet.patches[1].crop).any()


def test_a_face_outside_the_picture_has_no_patch_and_one_half_outside_has(astronaut: NDArray[np.uint8]) -> None:
    stage = InpaintStage(FakeEngine(worn_map(64)))
    away, half = face_at(ANCHORS + np.float32([900, 0])), face_at(ANCHORS - np.float32([230, 0]), 2)
    (packet,) = stage(Packet(frame_of(astronaut), faces=(away, half)))
    assert [p.face.track for p in packet.patches] == [2]
    assert packet.faces == (away, half)


def test_no_faces_no_calls_and_the_engine_stays_open(astronaut: NDArray[np.uint8]) -> None:
    engine = FakeEngine(worn_map(64))
    stage = InpaintStage(engine)
    frame = frame_of(astronaut)
    (packet,) = stage(Packet(frame))
    assert packet.frame is frame and packet.patches == () and not engine.crops
    assert list(stage.flush()) == []
    stage.close()
    assert not engine.closed


@pytest.mark.parametrize(("masked", "wanted"), [(None, 0.425), (0.1, 0.425), (0.75, 0.425), (0.95, 1.0)])
def test_a_mouth_outside_the_picture_is_not_taken_for_masked(
    astronaut: NDArray[np.uint8], masked: float | None, wanted: float
) -> None:
    stage = InpaintStage(FakeEngine(worn_map(64)))
    mouth = round(float(ANCHORS[:, 1].mean() + 0.45 * np.ptp(ANCHORS[:, 0])))
    for bottom, score in ((mouth, wanted), (mouth + 120, 1.0)):
        picture = np.ascontiguousarray(astronaut[: bottom - bottom % 2])
        face = replace(face_at(ANCHORS), masked=masked)
        (patch,) = stage(Packet(frame_of(picture), faces=(face,)))[0].patches
        assert patch.score == pytest.approx(score), f"{bottom} rows"
