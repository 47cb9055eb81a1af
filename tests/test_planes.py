"""Colour on decoded planes, and orientation."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np
import pytest

from tests.media import moving_gradient
from unmask_rt import align, orient, planes
from unmask_rt.frames import Frame
from unmask_rt.provenance import label_frame
from unmask_rt.sources.arrays import frame_of

DIRECT = [
    "yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv411p", "yuv410p", "yuv440p", "yuva420p", "yuv420p10le",
    "yuv422p12le", "yuv444p16le", "gray", "gray10le", "gbrp", "gbrp10le", "rgb24", "bgr24", "rgba", "bgra",
]  # fmt: skip
SUBSAMPLED = [name for name in DIRECT if (x := planes.layout_of(name)) is not None and x.x_step * x.y_step > 1]


def frame_in(fmt: str, size: tuple[int, int] = (96, 64), matrix: int = 1, full: bool = False) -> Frame:
    """A smooth picture converted by swscale, tagged with that matrix and range."""
    frame = frame_of(moving_gradient(4, size)[3])
    bounds = planes.FULL if full else planes.LIMITED
    video = frame.video.reformat(
        format=fmt, dst_colorspace=matrix, src_color_range=planes.FULL, dst_color_range=bounds, interpolation="BICUBIC"
    )
    if not video.format.is_rgb:
        video.colorspace, video.color_range = matrix, bounds
    video.pts, video.time_base = 7, Fraction(1, 25)
    return replace(frame, video=video)


def planes_of(video: av.VideoFrame) -> list[np.ndarray]:
    return [p.copy() for p in planes.rows(video)]


@pytest.mark.parametrize("fmt", DIRECT)
@pytest.mark.parametrize("size", [(96, 64), (95, 63)])
def test_only_touched_samples_change(fmt: str, size: tuple[int, int]) -> None:
    frame = frame_in(fmt, size)
    original = planes_of(frame.video)
    rect = planes.align_rect(frame.video, (21, 13, size[0], size[1]))
    before = planes.read_rgb(frame.video, rect)
    touched = np.zeros(before.shape[:2], np.uint8)
    touched[9:31, 10:45] = 1
    touched[-3:, -3:] = 200
    after = np.where(before > 127, before - 90, before + 90).astype(np.uint8)
    done = planes.write_rgb(frame, rect, before, after, touched)
    layout = planes.layout_of(fmt)
    assert layout is not None
    whole = np.zeros(frame.video.height * frame.video.width, np.uint8).reshape(frame.video.height, -1)
    whole[rect[1] : rect[3], rect[0] : rect[2]] = touched
    assert [(p == q).all() for p, q in zip(planes_of(frame.video), original, strict=True)] == [True] * len(original)
    changed = 0
    for index, (old, new) in enumerate(zip(original, planes_of(done.video), strict=True)):
        allowed = whole > 0
        if layout.kind == "yuv" and index in (1, 2):
            padded = np.pad(allowed, ((0, -size[1] % layout.y_step), (0, -size[0] % layout.x_step)))
            blocks: Any = padded.reshape(old.shape[0], layout.y_step, old.shape[1], layout.x_step)
            allowed = blocks.any(axis=(1, 3))
        if old.ndim == 3:
            if old.shape[2] == 4:
                assert (old[..., 3] == new[..., 3]).all()
            allowed = allowed[..., None]
        if layout.kind in ("yuv", "gbr") and index == 3:
            allowed = np.zeros_like(allowed)
        assert not ((old != new) & ~allowed).any(), f"plane {index} changed outside the touched mask"
        changed += int((old != new).sum())
    assert changed > 200
    assert (done.video.pts, done.video.time_base) == (7, Fraction(1, 25))
    assert (done.video.colorspace, done.video.color_range) == (frame.video.colorspace, frame.video.color_range)


@pytest.mark.parametrize("fmt", ["yuv444p", "yuv444p12le", "gbrp", "gbrp10le", "rgb24", "bgr24", "rgba"])
def test_what_is_written_can_be_read_again(fmt: str) -> None:
    frame = frame_in(fmt)
    rect = planes.align_rect(frame.video, (8, 8, 72, 56))
    before = planes.read_rgb(frame.video, rect)
    after: Any = cv2.GaussianBlur(before[:, ::-1], (0, 0), 3)
    after = np.clip(after, 30, 220).astype(np.uint8)
    done = planes.write_rgb(frame, rect, before, after, np.full(before.shape[:2], 255, np.uint8))
    assert np.abs(planes.read_rgb(done.video, rect).astype(int) - after).max() <= 2


@pytest.mark.parametrize("fmt", SUBSAMPLED)
def test_a_smooth_change_survives_subsampled_chroma(fmt: str) -> None:
    frame = frame_in(fmt)
    rect = planes.align_rect(frame.video, (8, 8, 72, 56))
    before = planes.read_rgb(frame.video, rect)
    after = (before.astype(int) * 0.8 + (30, 10, 20)).astype(np.uint8)
    done = planes.write_rgb(frame, rect, before, after, np.full(before.shape[:2], 255, np.uint8))
    error = np.abs(planes.read_rgb(done.video, rect).astype(int) - after)
    assert error.mean() < 1.5


def test_ten_bits_are_not_rounded_to_eight() -> None:
    frame = frame_in("yuv420p10le")
    luma = planes.rows(frame.video)[0]
    luma[...] = np.arange(luma.size, dtype=np.uint16).reshape(luma.shape) % 600 + 200
    rect = (0, 0, 96, 64)
    before = planes.read_rgb(frame.video, rect)
    after = np.clip(before.astype(int) + 10, 0, 255).astype(np.uint8)
    done = planes.write_rgb(frame, rect, before, after, np.full(before.shape[:2], 1, np.uint8))
    step = planes.rows(done.video)[0].astype(int) - luma
    safe = (before > 12).all(2) & (before < 243).all(2)
    assert safe.any() and set(np.unique(step[safe])) <= {34, 35}  # 10 * 876 / 255 = 34.4


def test_levels_outside_the_nominal_range_survive() -> None:
    frame = frame_in("yuv420p")
    luma, blue, red = planes.rows(frame.video)
    luma[...], blue[...], red[...] = 254, 128, 128
    before = planes.read_rgb(frame.video, (0, 0, 8, 8))
    assert (before == 255).all()
    after = before - 20
    done = planes.write_rgb(frame, (0, 0, 8, 8), before, after, np.full((8, 8), 1, np.uint8))
    assert (planes.rows(done.video)[0][:8, :8] == 254 - round(20 * 219 / 255)).all()


@pytest.mark.parametrize("fmt", ["yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuvj420p"])
@pytest.mark.parametrize("matrix", [1, 4, 5, 7, 9])
@pytest.mark.parametrize("full", [False, True])
def test_reading_agrees_with_swscale(fmt: str, matrix: int, full: bool) -> None:
    if fmt == "yuvj420p" and not full:
        pytest.skip("this format is full range by its name")
    frame = frame_in(fmt, matrix=matrix, full=full)
    colours = np.zeros((64, 96, 3), np.uint8)
    for i, colour in enumerate(
        [(200, 120, 100), (20, 200, 60), (250, 250, 250), (5, 5, 5), (90, 60, 220), (220, 170, 140)]
    ):
        colours[:, i * 16 : i * 16 + 16] = colour
    source = av.VideoFrame.from_ndarray(colours, "rgb24")
    bounds = planes.FULL if full else planes.LIMITED
    video = source.reformat(format=fmt, dst_colorspace=matrix, src_color_range=planes.FULL, dst_color_range=bounds)
    video.colorspace, video.color_range = matrix, bounds
    read = planes.read_rgb(video, (0, 0, 96, 64)).astype(int)
    small, _ = planes.preview(replace(frame, video=video), 96)
    centres = np.s_[32, 8::16]
    assert np.abs(read[centres] - colours[centres]).max() <= 3
    assert np.abs(read[centres] - small[centres]).max() <= 3


def test_untagged_frames_are_709_from_720_lines_up() -> None:
    for height, matrix in ((576, planes.BT601), (720, planes.BT709)):
        video = av.VideoFrame(64, height, "yuv420p")
        video.colorspace = 2
        assert planes.matrix_of(video) == matrix


@pytest.mark.parametrize(
    ("fmt", "kept"),
    [("nv12", "yuv420p"), ("p010le", "yuv420p10le"), ("yuyv422", "yuv422p"), ("uyvy422", "yuv422p"), ("argb", "rgba")],
)
def test_other_layouts_are_converted_without_loss(fmt: str, kept: str) -> None:
    frame = frame_in(kept, full=kept == "rgba")
    packed = frame.video.reformat(format=fmt)
    packed.colorspace, packed.color_range = frame.video.colorspace, frame.video.color_range
    video = planes.direct(packed)
    assert video.format.name == kept
    assert all((p == q).all() for p, q in zip(planes_of(video), planes_of(frame.video), strict=True))
    assert (video.colorspace, video.color_range) == (packed.colorspace, packed.color_range)


def test_every_format_has_a_direct_one() -> None:
    for name in av.video.frame.supported_np_pix_fmts | {"monob", "yuv420p10be", "xyz12le", "ya8", "vuya", "y210le"}:
        assert planes.layout_of(planes.nearest_direct(name)) is not None, name


def test_rectangles_are_aligned_outward_and_cut_at_the_edge() -> None:
    video = av.VideoFrame(95, 63, "yuv420p")
    assert planes.align_rect(video, (3, 5, 11, 9)) == (2, 4, 12, 10)
    assert planes.align_rect(video, (-9, -9.5, 500, 94.2)) == (0, 0, 95, 63)
    empty = planes.align_rect(video, (200, 10, 300, 20))
    assert empty[0] >= empty[2]
    for wrong in ((1, 0, 9, 8), (0, 0, 9, 8), empty):
        with pytest.raises(ValueError, match="whole chroma blocks"):
            planes.read_rgb(video, wrong)


def test_pictures_that_do_not_fit_are_refused() -> None:
    frame = frame_in("yuv420p")
    picture = planes.read_rgb(frame.video, (0, 0, 8, 8))
    with pytest.raises(ValueError, match="do not fit"):
        planes.write_rgb(frame, (0, 0, 8, 8), picture, picture[:4], np.zeros((8, 8), np.uint8))
    with pytest.raises(ValueError, match="converted"):
        planes.read_rgb(av.VideoFrame(8, 8, "nv12"), (0, 0, 8, 8))


def matrix_for(degrees: int, mirror: bool) -> tuple[int, ...]:
    """FFmpeg's display matrix: turned clockwise, then mirrored left to right."""
    c, s = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    m = -1 if mirror else 1
    one = 1 << 16
    return (c * one * m, s * one, 0, -s * one * m, c * one, 0, 0, 0, 1 << 30)


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("aspect", [Fraction(1), Fraction(64, 45), Fraction(8, 9)])
def test_orientation_and_aspect(degrees: int, mirror: bool, aspect: Fraction) -> None:
    picture = moving_gradient(1, (90, 64))[0]
    frame = frame_of(picture)
    transform, size = orient.to_display(90, 64, aspect, matrix_for(degrees, mirror))
    small, scale = planes.preview(replace(frame, to_display=transform, display_size=size), 1000)
    wide = cv2.resize(
        picture,
        (round(90 * max(1.0, float(aspect))), round(64 / min(1.0, float(aspect)))),
        interpolation=cv2.INTER_LINEAR,
    )
    expected = np.rot90(wide, -degrees // 90)
    expected = expected[:, ::-1] if mirror else expected
    assert scale == 1.0 and small.shape == expected.shape and size == (small.shape[1], small.shape[0])
    assert np.abs(small.astype(int) - expected).mean() < 6
    again_aspect, matrix = orient.from_display(transform, 90, 64)
    assert again_aspect == aspect and matrix[:5] == matrix_for(degrees, mirror)[:5]
    # The corner pixel's centre lands where the picture says.
    corner = align.apply(transform, np.array([[0, 0]], np.float32))[0]
    inside = np.clip(np.rint(corner), 0, np.array(size) - 1).astype(int)
    assert np.abs(small[inside[1], inside[0]].astype(int) - picture[0, 0]).max() < 30


def test_preview_is_small_and_never_enlarged() -> None:
    frame = frame_in("yuv420p", (96, 64))
    small, scale = planes.preview(frame, 48)
    assert small.shape == (32, 48, 3) and scale == 0.5
    assert planes.preview(frame, 4000)[0].shape == (64, 96, 3)
    assert (planes.upright(frame) == planes.preview(frame, 96)[0]).all()


def test_clone_keeps_side_data_and_shares_no_memory() -> None:
    frame = frame_in("yuv420p")
    copy = planes.clone(frame.video)
    planes.rows(copy)[0][...] = 0
    assert planes.rows(frame.video)[0].any()
    assert (copy.pts, copy.time_base, copy.colorspace) == (7, Fraction(1, 25), 1)


@pytest.mark.parametrize("degrees", [0, 90, 270])
def test_the_label_is_upright_in_the_lower_left_corner(degrees: int) -> None:
    frame = frame_of(np.full((200, 320, 3), 128, np.uint8), pixel_format="yuv420p")
    transform, size = orient.to_display(320, 200, Fraction(1), matrix_for(degrees, False))
    labelled = label_frame(replace(frame, to_display=transform, display_size=size))
    upright = replace(frame, to_display=orient.to_display(320, 200)[0], display_size=(320, 200))
    shown, _ = planes.preview(labelled, 1000)
    reference, _ = planes.preview(label_frame(upright), 1000)
    changed = np.argwhere(np.abs(shown.astype(int) - 128).max(2) > 20)
    assert changed[:, 1].max() < 120 and changed[:, 0].min() > shown.shape[0] - 40
    if degrees == 0:
        assert (shown == reference).all()
    assert (shown > 200).any() and (shown < 60).any()
