"""The inpaint stage: crops as the network wants them, out of frames of every kind."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from engines.base import Batch
from tests.fakes import ANCHORS, FakeEngine, face_at, turned, worn_map
from unmask_rt import align, blend, orient
from unmask_rt.frames import Packet
from unmask_rt.gate import Gate
from unmask_rt.inpaint import LEAVES, InpaintStage, leaving
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


@pytest.mark.parametrize(
    ("masked", "wide", "treated"),
    [(None, 128, False), (0.2, 128, False), (0.8, 128, False), (0.95, 128, True), (0.95, 20, False)],
)
def test_a_mask_whose_lower_half_is_hidden_counts_where_the_aligner_is_sure(
    astronaut: NDArray[np.uint8], masked: float | None, wide: int, treated: bool
) -> None:
    mask_map = worn_map(128)
    mask_map[66:] = 0  # somebody's head is in front of mouth and chin
    mask_map[52:66, 64 - wide // 4 : 64 + wide // 4] = 255
    face = replace(face_at(ANCHORS), masked=masked)
    packet = InpaintStage(FakeEngine(mask_map))(Packet(frame_of(astronaut), faces=(face,)))[0]
    (decided,) = Gate("still").push(packet)
    assert bool(decided.patches[0].strength) == treated


class Hanging(FakeEngine):
    """Sees a blue mask in the crop, as a network would."""

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        face, _ = super().__call__(crop)
        blue = (crop[..., 2].astype(int) - crop[..., 0] > 60).astype(np.uint8) * 255
        return face, blue


def wearing(astronaut: NDArray[np.uint8], low: float) -> NDArray[np.uint8]:
    """The sample picture with a blue mask from the nose down to ``low`` crop sides of her face's crop."""
    to_picture = align.invert(align.crop_transform(ANCHORS, 100))
    corners = align.apply(to_picture, np.float32([[30, 55], [70, 55], [70, 100 * low], [30, 100 * low]]))
    out = astronaut.copy()
    cv2.fillConvexPoly(out, np.round(corners).astype(np.int32), (20, 30, 220))
    return out


def test_a_mask_that_leaves_the_crop_is_cut_out_whole(astronaut: NDArray[np.uint8]) -> None:
    frame = frame_of(wearing(astronaut, 1.1))
    engine = Hanging(worn_map(128))
    (patch,) = InpaintStage(engine, "still")(Packet(frame, faces=(face_at(ANCHORS),)))[0].patches
    assert len(engine.crops) > 1 and leaving(frame, patch.transform, patch.map) <= LEAVES
    assert align.scale_of(patch.transform) < align.scale_of(align.crop_transform(ANCHORS, 128)) / 1.1
    assert patch.score == 1.0, "the gate's score is that of the crop it was made for"
    # What is drawn covers the whole mask.
    region = blend.region_of(patch.map, 0.015)
    blue = np.argwhere(wearing(astronaut, 1.1)[..., 2].astype(int) - astronaut[..., 2] > 100)[:, ::-1]
    weight = cv2.warpAffine(region.weight, align.invert(patch.transform), astronaut.shape[1::-1])
    assert (weight[blue[:, 1], blue[:, 0]] > 0.5).mean() > 0.97


def test_a_mask_that_fits_costs_one_call(astronaut: NDArray[np.uint8]) -> None:
    engine = Hanging(worn_map(128))
    frame = frame_of(wearing(astronaut, 0.85))
    (patch,) = InpaintStage(engine, "still")(Packet(frame, faces=(face_at(ANCHORS),)))[0].patches
    assert len(engine.crops) == 1 and patch.score == 1.0


def test_what_never_ends_is_not_cut_larger_for_nothing(astronaut: NDArray[np.uint8]) -> None:
    mask_map = worn_map(128)
    mask_map[100:, 20:100] = 255  # the network says so, however large the crop is
    engine = FakeEngine(mask_map)
    (patch,) = InpaintStage(engine, "still")(Packet(frame_of(astronaut), faces=(face_at(ANCHORS),)))[0].patches
    assert len(engine.crops) == 2 and np.allclose(patch.transform, align.crop_transform(ANCHORS, 128))


def test_the_repeated_border_of_a_picture_is_no_mask_that_leaves(astronaut: NDArray[np.uint8]) -> None:
    low = round(float(align.apply(align.invert(align.crop_transform(ANCHORS, 100)), np.float32([[50, 95]]))[0, 1]))
    picture = np.ascontiguousarray(wearing(astronaut, 1.1)[: low - low % 2])
    engine = Hanging(worn_map(128))
    InpaintStage(engine, "still")(Packet(frame_of(picture), faces=(face_at(ANCHORS),)))
    assert len(engine.crops) == 1


def test_in_video_the_crop_grows_and_shrinks_without_a_jump(astronaut: NDArray[np.uint8]) -> None:
    hanging, short = wearing(astronaut, 1.1), wearing(astronaut, 0.82)
    engine, face = Hanging(worn_map(128)), face_at(ANCHORS)
    stage, sizes = InpaintStage(engine, "file"), []
    for i in range(150):
        frame = replace(frame_of(hanging if i < 60 else short), pts=i, time_base=Fraction(1, 30))
        (patch,) = stage(Packet(frame, faces=(face,)))[0].patches
        sizes.append(1 / align.scale_of(patch.transform))
        if 40 < i < 60:
            assert leaving(frame, patch.transform, patch.map) <= LEAVES
        assert patch.score == 1.0
    ratios = np.array(sizes[1:]) / np.array(sizes[:-1])
    assert len(engine.crops) == 150 and ratios.max() < 1.03 and ratios.min() > 0.97
    assert sizes[59] > 1.1 * sizes[0] and sizes[-1] == pytest.approx(sizes[0])


def test_the_next_shot_and_the_next_person_begin_with_the_crop_that_fits(astronaut: NDArray[np.uint8]) -> None:
    stage, fits = InpaintStage(Hanging(worn_map(128)), "live"), align.crop_transform(ANCHORS, 128)
    for i in range(30):
        frame = replace(frame_of(wearing(astronaut, 1.1)), pts=i, time_base=Fraction(1, 30))
        stage(Packet(frame, faces=(face_at(ANCHORS),)))
    last = replace(frame, pts=30)
    (other,) = stage(Packet(last, faces=(face_at(ANCHORS, 2),)))[0].patches
    assert np.allclose(other.transform, fits)
    for i in range(31, 60):
        stage(Packet(replace(frame, pts=i), faces=(face_at(ANCHORS),)))
    (cut,) = stage(Packet(replace(frame, pts=60), faces=(face_at(ANCHORS),), cut=True))[0].patches
    assert np.allclose(cut.transform, fits)
