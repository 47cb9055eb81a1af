"""What the viewer sees: patches, misses and views, on planes of every kind."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from tests.fakes import ANCHORS, FakeEngine, face_at, turned, worn_map
from unmask_rt import align, planes, show
from unmask_rt.errors import UsageError
from unmask_rt.frames import Face, Frame, Packet
from unmask_rt.inpaint import InpaintStage
from unmask_rt.overlay import LOST, OFF, ON, SOURCES
from unmask_rt.show import VIEWS, BlendStage, OnMiss, blur, put
from unmask_rt.sources.arrays import frame_of

Image = NDArray[np.uint8]
GREEN = (30, 220, 40)
FEATHER = 0.015


def patched(frame: Frame, faces: Sequence[Face] = (), mask_map: Image | None = None) -> Packet:
    """The frame after the inpaint stage with an engine that paints everything green."""
    engine = FakeEngine(worn_map() if mask_map is None else mask_map, GREEN)
    (packet,) = InpaintStage(engine, "still")(Packet(frame, faces=tuple(faces) or (face_at(),)))
    return packet


def stage(view: str = "result", on_miss: OnMiss = "hold", mode: str = "still") -> BlendStage:
    return BlendStage(mode, feather=FEATHER, on_miss=on_miss, view=view)  # type: ignore[arg-type]


def samples(frame: Frame) -> list[np.ndarray]:
    return [p.copy() for p in planes.rows(frame.video)]


def same(one: Frame, other: Frame) -> bool:
    return all((a == b).all() for a, b in zip(samples(one), samples(other), strict=True))


def cover_in_display(frame: Frame, feathered: bool) -> NDArray[np.bool_]:
    """Where the patch has to be, or (feathered) may be at most, in the display."""
    change, px = (cv2.dilate, 15) if feathered else (cv2.erode, 5)
    cover = change(worn_map(), np.ones((px, px), np.uint8))
    to_crop = align.crop_transform(ANCHORS, len(cover))
    return np.asarray(cv2.warpAffine(cover, align.invert(to_crop), frame.display_size)) > 0


# ---- patches


@pytest.mark.parametrize("pixel_format", ["rgb24", "yuv420p", "yuv422p", "yuv420p10le", "yuv444p12le", "gbrp", "nv12"])
def test_the_patch_is_over_the_mask_and_nothing_else_changes(astronaut: Image, pixel_format: str) -> None:
    frame = frame_of(astronaut, pixel_format=pixel_format)
    frame = replace(frame, video=planes.direct(frame.video))
    before = samples(frame)
    (packet,) = stage()(patched(frame))
    done = packet.frame
    assert all((a == b).all() for a, b in zip(before, samples(frame), strict=True)), "the decoded frame was written to"
    assert done.video.format.name == frame.video.format.name and done.pts == frame.pts
    assert packet.patches[0].strength == 1.0
    inside, near = cover_in_display(frame, False), cover_in_display(frame, True)
    shown, old = planes.upright(done), planes.upright(frame)
    assert np.abs(shown[inside].astype(int) - GREEN).mean() < 12
    for plane, (a, b) in enumerate(zip(before, samples(done), strict=True)):
        step_y, step_x = 512 // a.shape[0], 512 // a.shape[1]
        allowed = near.reshape(a.shape[0], step_y, a.shape[1], step_x).any(axis=(1, 3))
        changed = (a != b).any(axis=2) if a.ndim == 3 else a != b
        assert not (changed & ~allowed).any(), f"plane {plane} changed away from the mask"
    assert np.abs(shown.astype(int) - old)[inside].mean() > 40


@pytest.mark.parametrize("degrees", [90, 180, 270])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_the_patch_sits_right_on_planes_that_lie_on_their_side(
    astronaut: Image, degrees: int, pixel_format: str
) -> None:
    picture = np.ascontiguousarray(astronaut[:400])
    frame = turned(picture, degrees, pixel_format)
    (packet,) = stage()(patched(frame))
    shown, old = planes.upright(packet.frame), planes.upright(frame)
    inside, near = cover_in_display(frame, False), cover_in_display(frame, True)
    assert np.abs(shown[inside].astype(int) - GREEN).mean() < 12
    assert np.abs(shown.astype(int) - old)[~near].max() <= 24, "only chroma of cut blocks may differ"
    assert (np.abs(shown.astype(int) - old)[~near].max(1) > 0).mean() < 0.002
    assert packet.frame.display_size == frame.display_size
    assert (packet.frame.to_display == frame.to_display).all()


def test_strength_zero_leaves_the_very_same_frame(astronaut: Image) -> None:
    frame = frame_of(astronaut, pixel_format="yuv420p")
    nothing = np.zeros((128, 128), np.uint8)
    (packet,) = stage()(patched(frame, mask_map=nothing))
    assert packet.patches[0].strength == 0.0
    assert packet.frame is frame and same(packet.frame, frame_of(astronaut, pixel_format="yuv420p"))


def test_a_patch_without_a_map_leaves_the_very_same_frame(astronaut: Image) -> None:
    frame = frame_of(astronaut)
    packet = patched(frame, mask_map=np.zeros((128, 128), np.uint8))
    assert put(frame, replace(packet.patches[0], strength=1.0), FEATHER) is frame


def test_half_the_strength_changes_half_as_much(astronaut: Image) -> None:
    smooth = np.asarray(cv2.GaussianBlur(astronaut, (0, 0), 3))
    frame = frame_of(smooth)
    patch = patched(frame).patches[0]
    inside = cover_in_display(frame, False)
    full, half = (
        planes.upright(put(frame, replace(patch, strength=s), FEATHER)).astype(int)[inside] - smooth[inside]
        for s in (1.0, 0.5)
    )
    assert np.abs(half - full / 2).mean() < 3


@pytest.mark.parametrize("shift", [(-200, -60), (255, 30), (0, 330), (-230, 0)])
def test_a_face_that_leaves_the_picture_is_patched_as_far_as_it_is_there(
    astronaut: Image, shift: tuple[int, int]
) -> None:
    frame = frame_of(astronaut, pixel_format="yuv420p")
    moved = replace(face_at(ANCHORS + np.float32(shift)), masked=1.0)
    (packet,) = stage()(patched(frame, [moved]))
    changed = (planes.upright(packet.frame) != planes.upright(frame)).any(2)
    to_crop = align.crop_transform(moved.anchors, 128)
    cover = cv2.warpAffine(worn_map(), align.invert(to_crop), frame.display_size) > 0
    assert cover.sum() > 100 and changed[cover].mean() > 0.9
    assert not changed[~(cv2.dilate(cover.astype(np.uint8), np.ones((25, 25), np.uint8)) > 0)].any()


def test_two_faces_are_both_patched(astronaut: Image) -> None:
    frame = frame_of(astronaut)
    second = face_at(ANCHORS + np.float32([120, 200]), 2)
    (packet,) = stage()(patched(frame, [face_at(), second]))
    changed = (planes.upright(packet.frame) != planes.upright(frame)).any(2)
    inside = cover_in_display(frame, False)
    assert changed[inside].mean() > 0.95 and changed[np.roll(inside, (200, 120), (0, 1))].mean() > 0.95


# ---- misses


def shot(astronaut: Image, on_miss: OnMiss, rate: int = 30) -> tuple[list[Frame], list[Frame]]:
    """Two live frames with a masked face, then two in which it is lost: decoded frames and shown frames."""
    blender = stage(on_miss=on_miss, mode="live")
    decoded, shown = [], []
    for index in range(4):
        video = frame_of(astronaut, index, Fraction(rate), "yuv420p")
        packet = patched(video) if index < 2 else Packet(video)
        decoded.append(video)
        (done,) = blender(packet)
        shown.append(done.frame)
    return decoded, shown


def test_a_lost_face_is_passed(astronaut: Image) -> None:
    decoded, shown = shot(astronaut, "pass")
    assert not same(shown[1], decoded[1]) and shown[2] is decoded[2] and shown[3] is decoded[3]


def test_a_lost_face_holds_its_last_patch(astronaut: Image) -> None:
    decoded, shown = shot(astronaut, "hold")
    assert same(shown[2], shown[1]) and same(shown[3], shown[1]) and not same(shown[2], decoded[2])


def test_a_lost_face_is_blurred(astronaut: Image) -> None:
    decoded, shown = shot(astronaut, "blur")
    x0, y0, x1, y1 = (round(v) for v in face_at().box)
    old, new = planes.upright(decoded[2]).astype(int), planes.upright(shown[2]).astype(int)
    assert np.abs(new - old)[y0:y1, x0:x1].mean() > 10
    fine = [
        np.abs(cv2.Laplacian(p[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].astype(np.float32), cv2.CV_32F)) for p in (old, new)
    ]
    assert fine[1].mean() < 0.35 * fine[0].mean()
    outside = np.ones(old.shape[:2], bool)
    outside[y0 - 4 : y1 + 4, x0 - 4 : x1 + 4] = False
    assert (old[outside] == new[outside]).all()


def test_a_blur_finds_its_place_on_planes_that_lie_on_their_side(astronaut: Image) -> None:
    frame = turned(np.ascontiguousarray(astronaut[:400]), 90, "yuv420p10le")
    box = face_at().box
    changed = (planes.upright(blur(frame, box)) != planes.upright(frame)).any(2)
    rows, columns = np.nonzero(changed)
    found = columns.min(), rows.min(), columns.max(), rows.max()
    assert np.abs(np.array(found) - box).max() <= 4
    assert blur(frame, (5000, 5000, 5100, 5100)) is frame


def test_a_held_patch_is_let_go_when_its_face_is_gone_for_good(astronaut: Image) -> None:
    blender = stage(mode="live")
    packet = patched(frame_of(astronaut, 0))
    crop = weakref.ref(packet.patches[0].completed)
    blender(packet)
    del packet
    for index in range(1, 40):
        blender(Packet(frame_of(astronaut, index)))
    gc.collect()
    assert crop() is None


# ---- views


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le", "rgb24"])
@pytest.mark.parametrize("degrees", [0, 90])
def test_every_view_has_the_right_size_and_time(astronaut: Image, view: str, pixel_format: str, degrees: int) -> None:
    picture = np.ascontiguousarray(astronaut[:400])
    frame = turned(picture, degrees, pixel_format) if degrees else frame_of(picture, pixel_format=pixel_format)
    for packet in (patched(frame), Packet(frame)):
        (done,) = stage(view)(packet)
        wide, high = done.frame.display_size
        assert (wide, high) == ((1024, 400) if view == "side-by-side" else (512, 400))
        assert planes.upright(done.frame).shape == (high, wide, 3)
        assert (done.frame.pts, done.frame.time_base, done.frame.index) == (frame.pts, frame.time_base, frame.index)
        assert done.frame.video.pts == frame.pts and done.frame.video.time_base == frame.time_base


@pytest.mark.parametrize("view", ["side-by-side", "difference", "mask"])
def test_views_keep_what_the_values_mean(astronaut: Image, view: str) -> None:
    """HLG stays HLG: untagged, a player would show false colours."""
    frame = frame_of(astronaut, pixel_format="yuv420p")
    frame.video.color_primaries, frame.video.color_trc = 9, 18
    (done,) = stage(view)(patched(frame))
    assert (done.frame.video.color_primaries, done.frame.video.color_trc) == (9, 18)


def test_side_by_side_shows_input_and_result(astronaut: Image) -> None:
    frame = frame_of(astronaut)
    (done,) = stage("side-by-side")(patched(frame))
    (result,) = stage()(patched(frame))
    both = planes.upright(done.frame)
    assert (both[:, :512] == astronaut).all() and (both[:, 512:] == planes.upright(result.frame)).all()


def test_the_difference_is_black_where_nothing_changed(astronaut: Image) -> None:
    frame = frame_of(astronaut)
    (done,) = stage("difference")(patched(frame))
    picture = planes.upright(done.frame)
    assert (picture[~cover_in_display(frame, True)] == 0).all()
    assert picture[cover_in_display(frame, False)].max(1).mean() > 150


def test_the_mask_view_colours_the_map_and_marks_the_face(astronaut: Image) -> None:
    frame = frame_of(astronaut)
    inside = cover_in_display(frame, False)
    pictures = {}
    for name, mask_map in (("masked", worn_map()), ("bare", worn_map() // 4)):  # the second is too faint for the gate
        (done,) = stage("mask")(patched(frame, mask_map=mask_map))
        pictures[name] = planes.upright(done.frame).astype(int)
    plain = astronaut[inside].astype(int)
    for name, colour in (("masked", ON), ("bare", OFF)):
        before, after = (np.abs(p - colour).sum(1).mean() for p in (plain, pictures[name][inside]))
        assert after < 0.95 * before, "the map has the colour of the gate's decision"
    faint, strong = (np.abs(pictures[name][inside] - plain).mean() for name in ("bare", "masked"))
    assert faint < strong
    x0, _, x1, y1 = (round(v) for v in face_at().box)
    for picture in pictures.values():
        line = picture[y1, x0 + 3 : x1 - 3]
        assert (np.abs(line - SOURCES["mesh"]).max(1) < 12).mean() > 0.9, "the face's box says who found it"
        for x, y in ANCHORS:
            dot = picture[round(float(y)), round(float(x))]
            assert np.abs(dot - SOURCES["mesh"]).max() < 60


def test_the_mask_view_marks_a_lost_face(astronaut: Image) -> None:
    frame, box = frame_of(astronaut), (300.0, 300.0, 400.0, 420.0)
    blender = stage("mask", mode="live")
    first = patched(frame_of(astronaut, 0), [replace(face_at(), box=box)])
    blender(first)
    (done,) = blender(Packet(frame_of(astronaut, 1)))
    assert done.missed == (box,)
    line = planes.upright(done.frame)[420, 310:390].astype(int)
    assert (np.abs(line - LOST).max(1) < 12).mean() > 0.9
    assert (planes.upright(frame) == astronaut).all()


def test_an_unknown_view_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="sideways") as caught:
        stage("sideways")
    assert all(name in str(caught.value) for name in VIEWS)


# ---- order


def test_file_mode_gives_every_frame_once_and_in_order(astronaut: Image) -> None:
    small = np.ascontiguousarray(astronaut[:256, 100:356])
    blender, shown = stage(mode="file"), []
    for index in range(24):
        packet = patched(frame_of(small, index), [face_at(ANCHORS - np.float32([100, 0]))])
        shown += list(blender(packet))
    assert len(shown) < 24, "file mode looks ahead"
    shown += list(blender.flush())
    assert [p.frame.index for p in shown] == list(range(24))
    assert all((planes.upright(p.frame) != small).any() for p in shown)
    blender.close()


def test_grain_is_measured_now_and_then_and_smoothed(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = iter([np.array([4.0, 2.0]), np.array([0.0, 4.0]), np.array([1.0])])
    monkeypatch.setattr(show.blend, "missing_levels", lambda *_: next(measured))
    nothing: Any = None
    grain = show.Grain()
    seen = [grain.levels(nothing, nothing, nothing, nothing).tolist() for _ in range(2 * show.Grain.EVERY + 1)]
    assert seen[: show.Grain.EVERY] == [[4.0, 2.0]] * show.Grain.EVERY
    assert seen[show.Grain.EVERY] == [2.0, 3.0]
    assert seen[-1] == [1.0]  # another size of face has other bands
