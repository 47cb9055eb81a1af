"""The bundled sample picture and the clip made from it: what the demo shows and the benchmark measures.

The picture shows the astronaut Eileen Collins (NASA, public domain, as scikit-image distributes it). The clip moves
this real face as a hand-held camera would: pan, zoom and a little roll, drifting light, fine noise. The mask is drawn
once on the still picture and moves with it, so the clip without a mask (``masked=False``) is its exact truth.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from importlib import resources
from pathlib import Path

import av
import cv2
import numpy as np
import PIL.Image
from av.audio.frame import AudioFrame
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray

from unmask_rt.align import Image, Points

FACE_PX = (190.0, 250.0)
"""Least and greatest width of the face in the clip, in pixels of a frame 720 lines high."""
SOUND_HZ = 48_000
FACE_X = 0.40
"""Where the face is on average, as a share of the frame's width."""
_UPSCALE = 2.5
_NOISE = 2.0
"""Standard deviation of the clip's sensor noise, in 8-bit steps."""


def astronaut() -> Image:
    """The sample picture, uint8[512, 512, 3] RGB."""
    with PIL.Image.open(_assets() / "astronaut.jpg") as picture:
        return np.asarray(picture.convert("RGB"), np.uint8)


def astronaut_mesh() -> Points:
    """The face mesh of `astronaut`, float32[478, 2] pixels, as MediaPipe's FaceLandmarker finds it."""
    return np.asarray(np.load(_assets() / "astronaut-mesh.npy"), np.float32)


def masked_astronaut(*, scale: float = 1.0, family: str = "surgical", seed: int = 0) -> tuple[Image, Image]:
    """The sample picture enlarged by ``scale`` (Lanczos), without and with a mask drawn on its face.

    Args:
        scale: factor on the 512 px of `astronaut`, > 0.
        family: kind of mask, a key of `trainer.masks.FAMILIES`.
        seed: which mask of that family.

    Returns:
        Two pictures uint8[H, W, 3] RGB of one size: the truth, and the same with the mask.
    """
    from trainer.masks import draw_mask

    plain = astronaut()
    if scale != 1.0:
        side = round(512 * scale)
        plain = np.asarray(cv2.resize(plain, (side, side), interpolation=cv2.INTER_LANCZOS4))
    mesh = (astronaut_mesh() + 0.5) * np.float32(scale) - 0.5
    masked, _ = draw_mask(plain, mesh, np.random.default_rng(seed), family)
    return plain, masked


def builtin_frames(
    *,
    seconds: float = 6.0,
    size: tuple[int, int] = (1280, 720),
    rate: int = 30,
    masked: bool = True,
    family: str = "surgical",
    seed: int = 0,
) -> Iterator[Image]:
    """The clip's pictures, uint8[height, width, 3] RGB; the same arguments give the same pixels.

    Args:
        seconds: length.
        size: (width, height), each at least 64.
        rate: frames a second.
        masked: False gives the same clip with the mask off.
        family, seed: which mask, see `masked_astronaut`; the seed also chooses the movement.
    """
    still = masked_astronaut(scale=_UPSCALE, family=family, seed=seed)[1 if masked else 0]
    mesh = (astronaut_mesh() + 0.5) * np.float32(_UPSCALE) - 0.5
    face_px = float(np.hypot(*(mesh[454] - mesh[234])))
    centre = mesh[[234, 454, 10, 152]].mean(0)
    rng = np.random.default_rng(seed)
    phase = rng.uniform(0, 2 * np.pi, 8)
    width, height = size
    noise = np.repeat(np.round(rng.normal(0, _NOISE, (height + 64, width + 64, 1))).astype(np.int16), 3, axis=2)
    levels = np.arange(256, dtype=np.float64)[:, None]

    def sway(i: int, hertz: float, t: float) -> float:
        return float(
            0.75 * np.sin(2 * np.pi * hertz * t + phase[i]) + 0.25 * np.sin(4.6 * np.pi * hertz * t + 2 * phase[i])
        )

    low, high = (px * height / 720 / face_px for px in FACE_PX)
    for index in range(max(1, round(seconds * rate))):
        t = index / rate
        nearness = sway(0, 0.14, t)
        zoom = (low + high) / 2 + (high - low) / 2 * nearness
        angle = np.radians(4.0) * sway(1, 0.21, t)
        x = width * (FACE_X + 0.05 * sway(2, 0.17, t) + 0.002 * sway(3, 1.9, t))
        y = height * (0.38 + 0.035 * nearness + 0.02 * sway(4, 0.23, t) + 0.003 * sway(5, 2.3, t))
        linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        affine = np.hstack([linear, (np.array([x, y]) - linear @ centre)[:, None]])
        frame = cv2.warpAffine(still, affine, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
        gain = 1.0 + 0.09 * sway(6, 0.19, t)
        warmth = 0.02 * sway(7, 0.11, t)
        dx, dy = rng.integers(0, 64, 2)
        light = np.clip(levels * [gain + warmth, gain, gain - warmth] + 0.5, 0, 255).astype(np.uint8)
        frame = cv2.LUT(frame, light[:, None])
        yield np.asarray(cv2.add(frame, noise[dy : dy + height, dx : dx + width], dtype=cv2.CV_8U), np.uint8)


def builtin_clip(
    path: str | Path,
    *,
    seconds: float = 6.0,
    size: tuple[int, int] = (1280, 720),
    rate: int = 30,
    masked: bool = True,
    sound: bool = True,
    family: str = "surgical",
    seed: int = 0,
) -> Path:
    """Writes the clip as H.264 (BT.709, limited range) with a quiet rising and falling AAC tone.

    Args:
        path: an ``.mp4``, ``.mov`` or ``.mkv`` file; it is overwritten.
        seconds, size, rate, masked, family, seed: see `builtin_frames`; width and height must be even.
        sound: False leaves the sound track out.

    Returns:
        ``path`` as a Path.
    """
    target = Path(path)
    with av.open(str(target), "w") as container:
        video = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "veryfast"})
        video.width, video.height = size
        video.pix_fmt = "yuv420p"
        video.time_base = Fraction(1, rate)
        context = video.codec_context
        context.colorspace = Colorspace.ITU709
        context.color_range = ColorRange.MPEG
        context.color_primaries = ColorPrimaries.BT709
        context.color_trc = ColorTrc.BT709
        audio = container.add_stream("aac", rate=SOUND_HZ, layout="mono") if sound else None
        frames = builtin_frames(seconds=seconds, size=size, rate=rate, masked=masked, family=family, seed=seed)
        for index, rgb in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(rgb, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            picture.pts, picture.time_base = index, Fraction(1, rate)
            container.mux(video.encode(picture))
            if audio is not None:
                start, end = (round((index + i) * SOUND_HZ / rate) for i in (0, 1))
                tone = AudioFrame.from_ndarray(_tone(start, end)[None], format="fltp", layout="mono")
                tone.sample_rate, tone.pts, tone.time_base = SOUND_HZ, start, Fraction(1, SOUND_HZ)
                container.mux(audio.encode(tone))
        container.mux(video.encode(None))
        if audio is not None:
            container.mux(audio.encode(None))
    return target


def side_by_side(left: Image, right: Image, *, gap_px: int = 8) -> Image:
    """Two pictures of one size, uint8[H, W, 3], next to each other with a white gap: uint8[H, 2 W + gap_px, 3]."""
    gap = np.full((left.shape[0], gap_px, 3), 255, np.uint8)
    return np.hstack([left, gap, right])


def _tone(start: int, end: int) -> NDArray[np.float32]:
    """Samples start..end of a tone that glides between 220 and 440 Hz every four seconds, at -30 dB."""
    t = np.arange(start, end) / SOUND_HZ
    phase = 2 * np.pi * (330 * t - 110 * np.sin(np.pi * t / 2) / (np.pi / 2))
    return (0.032 * np.sin(phase)).astype(np.float32)


def _assets() -> Path:
    return Path(str(resources.files("unmask_rt"))) / "assets"
