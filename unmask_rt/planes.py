"""Colour on decoded planes: RGB where it is needed, and back without touching anything else.

Frames keep the pixel format, depth, matrix and range that they were decoded with. A rectangle is read as RGB, and what
was changed in it goes back as a difference: ``sample + (YUV(after) - YUV(before))``. So a sample that nobody changed
keeps its value exactly, levels below black and above white survive, and ten bits stay ten bits.

Chroma is taken to lie in the middle of its block; the half pixel that some standards shift it by cancels out, because
the same rule is used on the way back.
"""

from __future__ import annotations

import functools
import threading
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal

import av
import cv2
import numpy as np
from av.codec.codec import find_best_pix_fmt_of_list
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from unmask_rt.align import Image, Points
from unmask_rt.frames import Frame, Mask

Rect = tuple[int, int, int, int]
"""x0, y0, x1, y1 in coded pixels; x1 and y1 are just outside."""

Plane = NDArray[Any]

LIMITED, FULL = 1, 2
"""AVColorRange."""
BT709, BT601 = 1, 5
"""AVColorSpace and swscale's own number are the same for these."""

_WEIGHTS = {  # AVColorSpace -> luma weights of red and blue
    1: (0.2126, 0.0722),  # BT.709
    4: (0.30, 0.11),  # FCC
    5: (0.299, 0.114),  # BT.470BG (601, 625 lines)
    6: (0.299, 0.114),  # SMPTE 170M (601, 525 lines)
    7: (0.212, 0.087),  # SMPTE 240M
    9: (0.2627, 0.0593),  # BT.2020 non-constant luminance
    10: (0.2627, 0.0593),  # BT.2020 constant luminance: near enough for a difference
}
_PACKED = {"rgb24": (0, 1, 2), "bgr24": (2, 1, 0), "rgba": (0, 1, 2), "bgra": (2, 1, 0)}
_LOSSLESS = {  # formats that are laid out in another way but hold the same samples
    "nv12": "yuv420p", "nv21": "yuv420p", "nv16": "yuv422p", "nv24": "yuv444p", "nv42": "yuv444p",
    "nv20le": "yuv422p10le", "p010le": "yuv420p10le", "p012le": "yuv420p12le", "p016le": "yuv420p16le",
    "p210le": "yuv422p10le", "p216le": "yuv422p16le", "p410le": "yuv444p10le", "p416le": "yuv444p16le",
    "yuyv422": "yuv422p", "uyvy422": "yuv422p", "yvyu422": "yuv422p", "uyyvyy411": "yuv411p",
    "y210le": "yuv422p10le", "y212le": "yuv422p12le", "vuya": "yuva444p", "vuyx": "yuv444p",
    "pal8": "bgra", "argb": "rgba", "abgr": "rgba", "0rgb": "rgb24", "rgb0": "rgb24", "0bgr": "bgr24", "bgr0": "bgr24",
    "rgb48le": "gbrp16le", "bgr48le": "gbrp16le", "rgb48be": "gbrp16le", "bgr48be": "gbrp16le",
    "rgba64le": "gbrap16le", "bgra64le": "gbrap16le", "rgba64be": "gbrap16le", "bgra64be": "gbrap16le",
    "monow": "gray", "monob": "gray", "x2rgb10le": "gbrp10le", "x2bgr10le": "gbrp10le",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Layout:
    """How a pixel format stores its samples.

    Attributes:
        kind: "yuv", "gray" and "gbr" have a plane a component, "packed" has one plane of 8-bit RGB in some order.
        bits: 8..16 a sample.
        x_step, y_step: luma samples for one chroma sample.
        order: for "packed": channel of red, green and blue.
    """

    kind: Literal["yuv", "gray", "gbr", "packed"]
    bits: int
    x_step: int = 1
    y_step: int = 1
    order: tuple[int, int, int] = (0, 1, 2)


@functools.lru_cache(maxsize=256)
def layout_of(name: str) -> Layout | None:
    """The layout of a pixel format, None for one that has to be converted first (see `direct`)."""
    if name in _PACKED:
        return Layout("packed", 8, order=_PACKED[name])
    fmt = av.VideoFormat(name, 64, 64)
    parts = fmt.components
    bits = {p.bits for p in parts}
    if fmt.is_big_endian or fmt.has_palette or fmt.is_bayer or "msb" in name:
        return None
    if len(bits) != 1 or not 8 <= max(bits) <= 16:
        return None
    if name.startswith("gray") and len(parts) == 1:
        return Layout("gray", parts[0].bits)
    if len(parts) < 3 or len({p.plane for p in parts}) != len(parts):
        return None
    if name.startswith(("gbrp", "gbrap")):
        return Layout("gbr", parts[0].bits)
    if name.startswith("yuv"):
        return Layout("yuv", parts[0].bits, 64 // parts[1].width, 64 // parts[1].height)
    return None


@functools.lru_cache(maxsize=256)
def nearest_direct(name: str) -> str:
    """The format that frames of format ``name`` are kept in: itself, or the nearest that loses nothing."""
    if layout_of(name) is not None:
        return name
    if name in _LOSSLESS:
        return _LOSSLESS[name]
    if name.endswith("be") and layout_of(name[:-2] + "le") is not None:
        return name[:-2] + "le"
    planar = av.video.frame.supported_np_pix_fmts | {"yuv422p", "yuv411p", "yuv422p12le"}
    best, _ = find_best_pix_fmt_of_list(sorted(f for f in planar if layout_of(f)), name, True)
    return best.name if best is not None else "rgb24"


def is_full_range(video: av.VideoFrame) -> bool:
    """True if black is 0 and white the highest value; gray and RGB formats always are, as FFmpeg has it."""
    name = video.format.name
    return name.startswith(("yuvj", "gray")) or bool(video.format.is_rgb) or video.color_range == FULL


def matrix_of(video: av.VideoFrame) -> int:
    """The frame's AVColorSpace; untagged: BT.709 from 720 lines up, else BT.601."""
    if video.colorspace in _WEIGHTS:
        return int(video.colorspace)
    return BT709 if video.height >= 720 else BT601


def convert(
    video: av.VideoFrame, fmt: str, width: int | None = None, height: int | None = None, interpolation: str = "BICUBIC"
) -> av.VideoFrame:
    """The frame in another format and size by swscale, with the frame's own matrix and range where both are YUV.

    RGB becomes YUV by BT.709 from 720 lines up, else BT.601, limited range, and is tagged so.
    """
    matrix, full = matrix_of(video), is_full_range(video)
    to_rgb = av.VideoFormat(fmt, 2, 2).is_rgb
    wants_full = to_rgb or fmt.startswith(("yuvj", "gray")) or (full and not video.format.is_rgb)
    return _reformatter().reformat(
        video,
        width or video.width,
        height or video.height,
        fmt,
        src_colorspace=matrix,
        dst_colorspace=matrix,
        interpolation=interpolation,
        src_color_range=FULL if full else LIMITED,
        dst_color_range=FULL if wants_full else LIMITED,
        threads=1,
    )


def direct(video: av.VideoFrame) -> av.VideoFrame:
    """The frame in a format that `read_rgb` and `write_rgb` know; the same object if it is in one already."""
    fmt = nearest_direct(video.format.name)
    if fmt == video.format.name:
        return video
    tags = video.colorspace, video.color_range
    converted = convert(video, fmt)
    if not video.format.is_rgb and not av.VideoFormat(fmt, 2, 2).is_rgb:
        converted.colorspace, converted.color_range = tags
    return converted


def align_rect(video: av.VideoFrame, rect: tuple[float, float, float, float]) -> Rect:
    """The smallest rectangle of whole chroma blocks around ``rect``, cut at the edges; zeros if none is left."""
    layout = _layout(video)
    x0, y0 = max(0, int(np.floor(rect[0]))), max(0, int(np.floor(rect[1])))
    x1, y1 = min(video.width, int(np.ceil(rect[2]))), min(video.height, int(np.ceil(rect[3])))
    if x1 <= x0 or y1 <= y0:
        return 0, 0, 0, 0
    x0, y0 = x0 - x0 % layout.x_step, y0 - y0 % layout.y_step
    x1 = min(video.width, -(-x1 // layout.x_step) * layout.x_step)
    y1 = min(video.height, -(-y1 // layout.y_step) * layout.y_step)
    return x0, y0, x1, y1


def rect_around(video: av.VideoFrame, points: Points) -> Rect:
    """`align_rect` of the pixels that points, float[K, 2] coded pixels, span."""
    low, high = points.min(axis=0), points.max(axis=0)
    return align_rect(video, (float(low[0]), float(low[1]), float(high[0]) + 1, float(high[1]) + 1))


def preview(frame: Frame, max_side: int) -> tuple[Image, float]:
    """A small upright picture of the frame.

    Args:
        frame: any frame.
        max_side: the longer side of the picture in pixels; a smaller frame is not enlarged.

    Returns:
        uint8[h, w, 3] RGB in display orientation with square pixels, and its scale: picture pixels for one display
        pixel, so that ``display = (picture + 0.5) / scale - 0.5``.
    """
    wide, high = frame.display_size
    scale = min(1.0, max_side / max(wide, high))
    size = max(1, round(wide * scale)), max(1, round(high * scale))
    linear = frame.to_display[:, :2]
    swapped = abs(linear[0, 1]) > abs(linear[0, 0])
    width, height = size[::-1] if swapped else size
    video = frame.video
    smaller = width < video.width or height < video.height
    picture = rows(convert(video, "rgb24", width, height, "AREA" if smaller else "BILINEAR"))[0]
    if swapped:
        picture = picture.transpose(1, 0, 2)
    x, y = (linear[0, 1], linear[1, 0]) if swapped else (linear[0, 0], linear[1, 1])
    picture = picture[:: -1 if y < 0 else 1, :: -1 if x < 0 else 1]
    return np.ascontiguousarray(picture), scale


def upright(frame: Frame) -> Image:
    """The whole frame as a picture: uint8[h, w, 3] RGB of its ``display_size``, upright."""
    return preview(frame, max(frame.display_size))[0]


def read_rgb(video: av.VideoFrame, rect: Rect) -> Image:
    """A rectangle of the frame as RGB, with the frame's own matrix and range.

    Args:
        video: a frame in a format that `layout_of` knows.
        rect: whole chroma blocks inside the frame, as `align_rect` makes them.

    Returns:
        uint8[y1 - y0, x1 - x0, 3] RGB.

    Raises:
        ValueError: the rectangle is not aligned, empty or not inside, or the format is not known.
    """
    layout = _layout(video)
    _check(video, rect)
    x0, y0, x1, y1 = rect
    planes = rows(video)
    if layout.kind == "packed":
        return np.ascontiguousarray(planes[0][y0:y1, x0:x1][..., list(layout.order)])
    if layout.kind == "gbr":
        merged = cv2.merge([planes[i][y0:y1, x0:x1] for i in (2, 0, 1)])
        return _to_8bit(merged, 255.0 / (2**layout.bits - 1))
    luma = planes[0][y0:y1, x0:x1]
    if layout.kind == "gray":
        return np.asarray(cv2.merge([_to_8bit(luma, 255.0 / (2**layout.bits - 1))] * 3))
    chroma = [_upsample(c, layout, x1 - x0, y1 - y0) for c in _chroma(planes, rect, layout)]
    forward, _ = _matrices(matrix_of(video), is_full_range(video), layout.bits)
    merged = cv2.merge([luma, *chroma])
    return _to_8bit(cv2.transform(merged if layout.bits == 8 else merged.astype(np.float32), forward))


def write_rgb(frame: Frame, rect: Rect, before: Image, after: Image, touched: Mask) -> Frame:
    """A copy of the frame in which a rectangle has changed from ``before`` to ``after``.

    Only samples under ``touched`` change (of chroma: blocks with a touched pixel), and only by the difference of the
    two pictures. Everything else is identical, bit by bit.

    Args:
        frame: stays as it is.
        rect: as for `read_rgb`.
        before: uint8[h, w, 3] RGB, what `read_rgb` gave.
        after: uint8[h, w, 3] RGB.
        touched: uint8[h, w], above 0 where the picture may change.

    Raises:
        ValueError: as `read_rgb`, or shapes that do not fit.
    """
    layout = _layout(frame.video)
    _check(frame.video, rect)
    x0, y0, x1, y1 = rect
    if not before.shape == after.shape == (y1 - y0, x1 - x0, 3) or touched.shape != before.shape[:2]:
        raise ValueError(f"pictures {before.shape}, {after.shape} and mask {touched.shape} do not fit {rect}")
    video = clone(frame.video)
    x, y, width, height = cv2.boundingRect(touched)
    if not width:
        return replace(frame, video=video)
    inner = align_rect(video, (x0 + x, y0 + y, x0 + x + width, y0 + y + height))
    part = np.s_[inner[1] - y0 : inner[3] - y0, inner[0] - x0 : inner[2] - x0]
    change: Plane = cv2.copyTo(cv2.subtract(after[part], before[part], dtype=cv2.CV_32F), touched[part])
    _add_change(video, layout, inner, change)
    return replace(frame, video=video)


def _add_change(video: av.VideoFrame, layout: Layout, rect: Rect, change: Plane) -> None:
    """Adds a difference of RGB, float32[h, w, 3], to the frame's own planes."""
    x0, y0, x1, y1 = rect
    planes = rows(video)
    if layout.kind == "packed":
        order = np.argsort(layout.order)
        samples = planes[0][y0:y1, x0:x1, :3]
        samples[...] = cv2.add(np.ascontiguousarray(samples), np.ascontiguousarray(change[..., order]), dtype=cv2.CV_8U)
    elif layout.kind == "gbr":
        red, green, blue = cv2.split(change * ((2**layout.bits - 1) / 255.0))
        for plane, channel in zip(planes, (green, blue, red), strict=False):
            _add(plane[y0:y1, x0:x1], channel, layout.bits)
    else:
        _, back = _matrices(matrix_of(video), is_full_range(video), layout.bits)
        _add(planes[0][y0:y1, x0:x1], cv2.transform(change, back[:1]), layout.bits)
        if layout.kind == "yuv":
            small = cv2.split(cv2.transform(_downsample(change, layout), back[1:]))
            for plane, channel in zip(_chroma(planes, rect, layout), small, strict=True):
                _add(plane, channel, layout.bits)


def clone(video: av.VideoFrame) -> av.VideoFrame:
    """A copy with planes of its own and all tags and side data, free to be written to."""
    copy = reference(video)
    copy.make_writable()
    return copy


def reference(video: av.VideoFrame) -> av.VideoFrame:
    """A second frame over the same planes: its time, type and tags can be set without touching the first one's."""
    graphs: dict[tuple[int, int, str], av.filter.Graph] = _local.__dict__.setdefault("graphs", {})
    key = video.width, video.height, video.format.name
    graph = graphs.get(key)
    if graph is None:
        # FFmpeg's own way to a second reference with all properties; PyAV has no call for it.
        graph = av.filter.Graph()
        source = graph.add_buffer(width=key[0], height=key[1], format=video.format, time_base=Fraction(1, 1000))
        source.link_to(graph.add("buffersink"))
        graph.configure()
        if len(graphs) >= 16:
            graphs.clear()
        graphs[key] = graph
    pts, time_base = video.pts, video.time_base
    graph.push(video)
    copy = graph.pull()
    assert isinstance(copy, av.VideoFrame)
    copy.pts = pts
    copy.colorspace, copy.color_range = video.colorspace, video.color_range  # the graph tags RGB by itself
    if time_base is not None:
        copy.time_base = time_base  # PyAV moves it to the graph's clock
    return copy


def rows(video: av.VideoFrame) -> list[Plane]:
    """The planes as arrays over the frame's own memory: [h, w] a component, or [h, w, channels] if packed."""
    layout = _layout(video)
    kind: Any = np.uint8 if layout.bits == 8 else np.uint16
    arrays = []
    for plane in video.planes:
        lines = np.frombuffer(plane, np.uint8).reshape(plane.height, -1)  # type: ignore[call-overload]
        if plane.line_size < 0:
            lines = lines[::-1]
        lines = lines.view(kind)
        if layout.kind == "packed":
            depth = 4 if video.format.name in ("rgba", "bgra") else 3
            arrays.append(lines[:, : plane.width * depth].reshape(plane.height, plane.width, depth))
        else:
            arrays.append(lines[:, : plane.width])
    return arrays


_local = threading.local()


def _reformatter() -> VideoReformatter:
    """A converter of this thread's own, so that swscale's tables are made once and not shared."""
    made: VideoReformatter | None = _local.__dict__.get("reformatter")
    if made is None:
        made = _local.__dict__["reformatter"] = VideoReformatter()
    return made


def _layout(video: av.VideoFrame) -> Layout:
    layout = layout_of(video.format.name)
    if layout is None:
        raise ValueError(f"frames of format {video.format.name} have to be converted with planes.direct first")
    return layout


def _check(video: av.VideoFrame, rect: Rect) -> None:
    if align_rect(video, rect) != tuple(rect) or rect[2] <= rect[0] or rect[3] <= rect[1]:
        raise ValueError(f"rectangle {rect} is empty or not whole chroma blocks of {video.format.name}")


@functools.lru_cache(maxsize=64)
def _matrices(matrix: int, full: bool, bits: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """YUV codes to RGB 0..255, float64[3, 4], and differences of RGB to differences of YUV codes, float64[3, 3]."""
    red, blue = _WEIGHTS[matrix]
    green = 1.0 - red - blue
    luma = np.array([red, green, blue])
    to_blue = (np.array([0.0, 0.0, 1.0]) - luma) / (2 * (1 - blue))
    to_red = (np.array([1.0, 0.0, 0.0]) - luma) / (2 * (1 - red))
    to_yuv = np.stack([luma, to_blue, to_red])
    unit = 2.0 ** (bits - 8)
    steps = np.array([2**bits - 1.0] * 3) if full else np.array([219 * unit, 224 * unit, 224 * unit])
    back = to_yuv * steps[:, None] / 255.0
    linear = np.linalg.inv(back)
    zero = np.array([0.0 if full else 16 * unit, 2.0 ** (bits - 1), 2.0 ** (bits - 1)])
    return np.hstack([linear, -(linear @ zero)[:, None]]), back


def _chroma(planes: list[Plane], rect: Rect, layout: Layout) -> tuple[Plane, Plane]:
    x0, y0 = rect[0] // layout.x_step, rect[1] // layout.y_step
    x1, y1 = -(-rect[2] // layout.x_step), -(-rect[3] // layout.y_step)
    return planes[1][y0:y1, x0:x1], planes[2][y0:y1, x0:x1]


def _upsample(chroma: Plane, layout: Layout, width: int, height: int) -> Plane:
    if layout.x_step == layout.y_step == 1:
        return chroma
    size = chroma.shape[1] * layout.x_step, chroma.shape[0] * layout.y_step
    return cv2.resize(chroma, size, interpolation=cv2.INTER_LINEAR)[:height, :width]


def _downsample(change: Plane, layout: Layout) -> Plane:
    """The mean of each chroma block; a block that the picture's edge cuts is the mean of what is left of it."""
    if layout.x_step == layout.y_step == 1:
        return change
    high, wide = change.shape[:2]
    down, right = -high % layout.y_step, -wide % layout.x_step
    if down or right:
        change = cv2.copyMakeBorder(change, 0, down, 0, right, cv2.BORDER_REPLICATE)
    size = change.shape[1] // layout.x_step, change.shape[0] // layout.y_step
    return np.asarray(cv2.resize(change, size, interpolation=cv2.INTER_AREA))


def _add(samples: Plane, change: Plane, bits: int) -> None:
    """Adds a float difference to integer samples in place, rounded and held within the code range."""
    if bits == 8:
        samples[...] = cv2.add(samples, change, dtype=cv2.CV_8U)
    else:
        samples[...] = np.minimum(cv2.add(samples, change, dtype=cv2.CV_16U), 2**bits - 1)


def _to_8bit(picture: Plane, scale: float = 1.0) -> Image:
    """Scaled, rounded and held within 0..255."""
    if picture.dtype == np.uint8:
        return np.ascontiguousarray(picture)
    # OpenCV's own conversion takes the absolute value first, so negative values have to go before.
    return np.asarray(cv2.convertScaleAbs(np.maximum(picture, 0), alpha=scale), np.uint8)
