"""Small videos for tests."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]


def moving_gradient(count: int, size: tuple[int, int] = (96, 64)) -> list[Picture]:
    """``count`` different smooth pictures, uint8[height, width, 3]."""
    width, height = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    pictures = []
    for i in range(count):
        channels = [x * 1.7 + i * 9, y * 2.3 + i * 5, (x + y) + i * 13]
        pictures.append((np.abs(np.stack(channels, 2) % 510 - 255)).astype(np.uint8))
    return pictures


def write_video(
    path: Path,
    pictures: Iterable[Picture],
    *,
    rate: int = 25,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    ticks: list[int] | None = None,
    tone_hz: float | None = None,
    last_ticks: int | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Encodes RGB pictures.

    Args:
        path: its extension chooses the container.
        pictures: uint8[H, W, 3], all of one size.
        rate: frames a second, also the time base of ``ticks``.
        codec, pix_fmt, options: as FFmpeg names them.
        ticks: presentation time of each picture in 1 / rate seconds (variable frame rate); None counts up.
        tone_hz: adds an AAC track with this tone, as long as the pictures last at ``rate``.
        last_ticks: how long the last picture stays, in 1 / rate seconds; for encoders without B-frames.
        metadata: the file's.
    """
    pictures = list(pictures)
    height, width = pictures[0].shape[:2]
    with av.open(str(path), "w") as container:
        container.metadata.update(metadata or {})
        video = container.add_stream(codec, rate=rate, options=options or {})
        video.width, video.height, video.pix_fmt = width, height, pix_fmt
        video.codec_context.time_base = Fraction(1, rate)
        audio = container.add_stream("aac", rate=48_000, layout="mono") if tone_hz else None
        packets: list[av.Packet[av.VideoStream]] = []
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pix_fmt)
            frame.pts, frame.time_base = ticks[index] if ticks else index, Fraction(1, rate)
            packets += video.encode(frame)
        packets += video.encode(None)
        if last_ticks:
            packets[-1].duration = round(last_ticks / rate / packets[-1].time_base)
        container.mux(packets)
        if audio is not None and tone_hz:
            t = np.arange(48_000 * len(pictures) // rate, dtype=np.float32) / 48_000
            sound = av.AudioFrame.from_ndarray((0.1 * np.sin(2 * np.pi * tone_hz * t))[None], "fltp", "mono")
            sound.sample_rate, sound.pts = 48_000, 0
            container.mux(audio.encode(sound))
            container.mux(audio.encode(None))
    return path


def read_video(path: Path) -> list[Picture]:
    """Every picture of a video as RGB, uint8[H, W, 3]."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
