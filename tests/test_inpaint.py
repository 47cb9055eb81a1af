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
from unmask_rt.frames import Frame, Mode, Packet, Patch
from unmask_rt.gate import Gate
from unmask_rt.inpaint import LARGER, LEAVES, TIGHT, InpaintStage, leaving
from unmask_rt.sources.arrays import frame_of


def test_the_crop_is_the_warp_of_the_whole_picture(astronaut: NDArray[np.uint8]) -> None:
    engine = FakeEngine(worn_map(128))
    (packet,) = InpaintStage(engine, "still")(Packet(frame_of(astronaut), faces=(face_at(ANCHORS),)))
    (patch,) = packet.patches
    transform = align.crop_transform(ANCHORS, 128)
    assert np.allclose(patch.transform, transform)
    assert np.abs(patch.crop.astype(int) - align.warp(astronaut, transform, 128)).mean() < 1.5
    assert engine.crops[0].shape == (1, 128, 128, 3) and (engine.crops[0][0] == patch.crop).all()
    assert (patch.completed == engine.colour).all() and (patch.map == engine.mask_map).all()
    assert patch.score == 1.0 and patch.strength == 0.0 and patch.face is packet.faces[0]


@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_planes_on_their_side_give_the_same_upright_crop(astronaut: NDArray[np.uint8], degrees: int) -> None:
    stage = InpaintStage(FakeEngine(worn_map(128)), "still")
    picture = np.ascontiguousarray(astronaut[:400])
    (straight,) = stage(Packet(frame_of(picture), faces=(face_at(ANCHORS),)))[0].patches
    (patch,) = stage(Packet(turned(picture, degrees), faces=(face_at(ANCHORS),)))[0].patches
    assert np.abs(patch.crop.astype(int) - straight.crop).mean() < 1.5


def test_pixels_that_are_not_square(astronaut: NDArray[np.uint8]) -> None:
    coded = np.ascontiguousarray(astronaut[:, ::2])  # shown twice as wide
    matrix, size = orient.to_display(256, 512, Fraction(2))
    frame = replace(frame_of(coded), to_display=matrix, display_size=size)
    (patch,) = InpaintStage(FakeEngine(worn_map(128)), "still")(Packet(frame, faces=(face_at(ANCHORS),)))[0].patches
    wanted = align.warp(astronaut, align.crop_transform(ANCHORS, 128), 128)
    assert np.abs(patch.crop.astype(int) - wanted).mean() < 6


@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "yuv444p", "gbrp10le"])
def test_other_formats_give_the_same_crop(astronaut: NDArray[np.uint8], pixel_format: str) -> None:
    frame = frame_of(astronaut, pixel_format=pixel_format)
    (patch,) = InpaintStage(FakeEngine(worn_map(128)), "still")(Packet(frame, faces=(face_at(ANCHORS),)))[0].patches
    wanted = align.warp(astronaut, align.crop_transform(ANCHORS, 128), 128)
    assert np.abs(patch.crop.astype(int) - wanted).mean() < 4


def test_size_and_template_are_the_models_own(astronaut: NDArray[np.uint8]) -> None:
    template = (align.TEMPLATE - 0.5) * np.float32(0.7) + 0.5
    engine = FakeEngine(worn_map(96), template=template)
    (patch,) = InpaintStage(engine, "still")(Packet(frame_of(astronaut), faces=(face_at(ANCHORS),)))[0].patches
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
    (patch,) = InpaintStage(FakeEngine(mask_map), "still")(Packet(frame_of(astronaut), faces=(face,)))[0].patches
    assert (patch.score > 0.3) == bool(wanted)


def test_one_call_a_face_in_order(astronaut: NDArray[np.uint8]) -> None:
    engine = FakeEngine(worn_map(64))
    faces = (face_at(ANCHORS, 4), face_at(ANCHORS + np.float32([60, 90]), 2))
    (packet,) = InpaintStage(engine, "still")(Packet(frame_of(astronaut), faces=faces))
    assert [p.face.track for p in packet.patches] == [4, 2] and len(engine.crops) == 2
    assert (packet.patches[0].crop != packet.patches[1].crop).any()


def test_a_face_outside_the_picture_has_no_patch_and_one_half_outside_has(astronaut: NDArray[np.uint8]) -> None:
    stage = InpaintStage(FakeEngine(worn_map(64)), "still")
    away, half = face_at(ANCHORS + np.float32([900, 0])), face_at(ANCHORS - np.float32([230, 0]), 2)
    (packet,) = stage(Packet(frame_of(astronaut), faces=(away, half)))
    assert [p.face.track for p in packet.patches] == [2]
    assert packet.faces == (away, half)


def test_no_faces_no_calls_and_the_engine_stays_open(astronaut: NDArray[np.uint8]) -> None:
    engine = FakeEngine(worn_map(64))
    stage = InpaintStage(engine, "still")
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
    stage = InpaintStage(FakeEngine(worn_map(64)), "still")
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
    packet = InpaintStage(FakeEngine(mask_map), "still")(Packet(frame_of(astronaut), faces=(face,)))[0]
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


def strapped(astronaut: NDArray[np.uint8], end: float) -> NDArray[np.uint8]:
    """A mask that fits the crop, with a strap to the left that ends at this share of the crop's side."""
    ends = align.apply(align.invert(align.crop_transform(ANCHORS, 100)), np.float32([[30, 60], [100 * end, 55]]))
    out = wearing(astronaut, 0.85)
    cv2.line(out, *(tuple(int(v) for v in np.round(point)) for point in ends), (20, 30, 220), 7)
    return out


def patch_of(stage: InpaintStage, frame: Frame, track: int = 1, *, cut: bool = False) -> Patch:
    (packet,) = stage(Packet(frame, faces=(face_at(ANCHORS, track),), cut=cut))
    (patch,) = packet.patches
    return patch


def side_of(patch: Patch) -> float:
    """How much larger than the fit the crop is, measured."""
    return align.scale_of(align.crop_transform(ANCHORS, 128)) / align.scale_of(patch.transform)


def video(pictures: list[NDArray[np.uint8]], rate: int = 30) -> list[Frame]:
    return [replace(frame_of(p), pts=i, time_base=Fraction(1, rate)) for i, p in enumerate(pictures)]


def shown_of(patch: Patch, astronaut: NDArray[np.uint8], low: float) -> float:
    """Least share of the patch that shows in a pixel of the mask, but for a rim of a few pixels."""
    region = blend.region_of(patch.map, 0.015, patch.grown)
    blue = wearing(astronaut, low)[..., 2].astype(int) - astronaut[..., 2] > 100
    inner = cv2.erode(blue.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    weight = cv2.warpAffine(region.weight, align.invert(patch.transform), astronaut.shape[1::-1])
    return float(np.percentile(weight[inner], 1))


@pytest.mark.parametrize("low", [0.99, 1.02, 1.04])
def test_a_mask_that_leaves_the_crop_is_cut_out_whole(astronaut: NDArray[np.uint8], low: float) -> None:
    engine, frame = Hanging(worn_map(128)), frame_of(wearing(astronaut, low))
    patch = patch_of(InpaintStage(engine, "still"), frame)
    assert len(engine.crops) > 1 and leaving(frame, patch, TIGHT) == 0
    assert side_of(patch) == pytest.approx(patch.grown, abs=1e-3) and patch.grown == LARGER
    assert patch.score == 1.0, "the gate's score is that of the crop it was made for"
    assert shown_of(patch, astronaut, low) > 0.9, "the hem does not shine through the fade at the crop's border"


@pytest.mark.parametrize("mode", ["still", "file", "live"])
def test_a_mask_that_fits_costs_one_call(astronaut: NDArray[np.uint8], mode: Mode) -> None:
    engine = Hanging(worn_map(128))
    patch = patch_of(InpaintStage(engine, mode), frame_of(wearing(astronaut, 0.85)))
    assert len(engine.crops) == 1 and patch.score == 1.0 and patch.grown == 1.0


@pytest.mark.parametrize("mode", ["still", "file"])
def test_a_strap_comes_off_to_its_end_unless_it_goes_around_the_head(astronaut: NDArray[np.uint8], mode: Mode) -> None:
    for end, grown in ((-0.04, LARGER), (-0.6, 1.0)):
        stage, picture = InpaintStage(Hanging(worn_map(128)), mode), strapped(astronaut, end)
        for frame in video([picture] * (1 if mode == "still" else 30)):
            patch = patch_of(stage, frame)
        assert patch.grown == grown
        assert leaving(frame, patch, TIGHT) == 0 if grown == LARGER else 0 < leaving(frame, patch, TIGHT) < LEAVES


def test_what_never_ends_is_not_cut_larger_for_nothing(astronaut: NDArray[np.uint8]) -> None:
    engine, frame = Hanging(worn_map(128)), frame_of(wearing(astronaut, 2.0))
    patch = patch_of(InpaintStage(engine, "still"), frame)
    assert len(engine.crops) == 2 and patch.grown == 1.0 and leaving(frame, patch, TIGHT) > 0
    stage = InpaintStage(Hanging(worn_map(128)), "file")
    for frame in video([wearing(astronaut, 2.0)] * 60):
        patch = patch_of(stage, frame)
    assert patch.grown <= LARGER


def test_a_larger_crop_in_which_the_mask_is_lost_is_not_taken(astronaut: NDArray[np.uint8]) -> None:
    class Near(Hanging):
        def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
            face, found = super().__call__(crop)
            return face, found if len(self.crops) == 1 else np.zeros_like(found)

    patch = patch_of(InpaintStage(Near(worn_map(128)), "still"), frame_of(wearing(astronaut, 1.04)))
    assert patch.grown == 1.0 and patch.map.any()


def test_the_repeated_border_of_a_picture_is_no_mask_that_leaves(astronaut: NDArray[np.uint8]) -> None:
    low = round(float(align.apply(align.invert(align.crop_transform(ANCHORS, 100)), np.float32([[50, 90]]))[0, 1]))
    picture = np.ascontiguousarray(wearing(astronaut, 1.04)[: low - low % 2])
    engine = Hanging(worn_map(128))
    patch_of(InpaintStage(engine, "still"), frame_of(picture))
    assert len(engine.crops) == 1


def test_somebody_else_s_mask_is_not_followed(astronaut: NDArray[np.uint8]) -> None:
    mask_map = worn_map(128)
    mask_map[70:, 112:] = 255
    engine = FakeEngine(mask_map)
    patch = patch_of(InpaintStage(engine, "still"), frame_of(astronaut))
    assert len(engine.crops) == 1
    assert blend.region_of(patch.map, 0.015, patch.grown).weight[80:, 116:].max() == 0


def test_in_video_the_crop_grows_and_shrinks_without_a_jump(astronaut: NDArray[np.uint8]) -> None:
    hanging, short = wearing(astronaut, 1.04), wearing(astronaut, 0.82)
    engine = Hanging(worn_map(128))
    stage, sizes = InpaintStage(engine, "file"), []
    for i, frame in enumerate(video([short] * 10 + [hanging] * 60 + [short] * 90)):
        patch = patch_of(stage, frame)
        sizes.append(side_of(patch))
        assert patch.score == 1.0
        if 40 < i < 70:
            assert leaving(frame, patch, TIGHT) == 0
    ratios = np.array(sizes[1:]) / np.array(sizes[:-1])
    assert len(engine.crops) == 160 and ratios.max() < 1.03 and ratios.min() > 0.97
    assert sizes[0] == pytest.approx(1) and sizes[69] > 1.1 and sizes[-1] == pytest.approx(1)
    assert np.ptp(sizes[45:70]) < 1e-6, "where it fits it stays"


@pytest.mark.parametrize("rate", [10, 30])
def test_a_mask_that_leaves_sideways_does_not_let_the_crop_breathe(astronaut: NDArray[np.uint8], rate: int) -> None:
    to_picture = align.invert(align.crop_transform(ANCHORS, 100))
    corners = align.apply(to_picture, np.float32([[-4, 50], [70, 50], [70, 82], [-4, 82]]))
    picture = astronaut.copy()
    cv2.fillConvexPoly(picture, np.round(corners).astype(np.int32), (20, 30, 220))
    stage = InpaintStage(Hanging(worn_map(128)), "live")
    sizes = np.array([side_of(patch_of(stage, frame)) for frame in video([picture] * 60, rate)])
    assert sizes[-1] > 1.05 and (np.diff(sizes) != 0).sum() < 20 and np.ptp(sizes[20:]) < 1e-6


def test_the_first_frame_of_a_face_is_cut_as_a_picture_is(astronaut: NDArray[np.uint8]) -> None:
    stage, engine = InpaintStage(Hanging(worn_map(128)), "file"), Hanging(worn_map(128))
    frames = video([wearing(astronaut, 1.04)] * 40)
    wide = patch_of(InpaintStage(engine, "still"), frames[0]).grown
    assert patch_of(stage, frames[0]).grown == wide > 1
    assert patch_of(stage, frames[1]).grown == pytest.approx(wide, rel=0.03)
    short = video([wearing(astronaut, 0.82)] * 60)
    assert patch_of(stage, short[2], track=2).grown == 1, "another person"
    assert patch_of(stage, short[3]).grown > 1, "the same one, a moment later"
    assert patch_of(stage, short[4], cut=True).grown == 1, "the next shot"
    assert patch_of(stage, frames[5], cut=True).grown == wide
    assert patch_of(stage, short[30]).grown == 1, "long out of view"
