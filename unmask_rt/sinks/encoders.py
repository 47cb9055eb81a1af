"""Which encoders there are, which of them really open on this machine, and how quality and speed are told to each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
from av.codec.codec import UnknownCodecError, find_best_pix_fmt_of_list

from unmask_rt import planes
from unmask_rt.errors import ExtraError, UsageError
from unmask_rt.sinks.base import EncodeOptions

CANDIDATES = (
    "libx264", "libx265", "libsvtav1", "libvpx-vp9",
    "h264_nvenc", "hevc_nvenc", "av1_nvenc", "h264_qsv", "hevc_qsv", "av1_qsv", "h264_amf", "hevc_amf",
    "h264_v4l2m2m", "h264_videotoolbox", "hevc_videotoolbox", "prores_ks", "ffv1", "mjpeg", "mpeg4",
)  # fmt: skip
"""Encoders worth naming to a user, best known first."""

X26X_PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo",
)  # fmt: skip
DEFAULT_PRESET = EncodeOptions().preset
_FAST = {"libsvtav1": "10"}
"""What stands for the default preset in encoders with presets of their own."""

_LOW_LATENCY = {
    "libx264": {"tune": "zerolatency"},
    "libx265": {"tune": "zerolatency"},
    "libsvtav1": {"svtav1-params": "pred-struct=1"},
    "libvpx-vp9": {"lag-in-frames": "0", "deadline": "realtime"},
    "h264_nvenc": {"delay": "0", "zerolatency": "1"},
    "hevc_nvenc": {"delay": "0", "zerolatency": "1"},
    "av1_nvenc": {"delay": "0", "zerolatency": "1"},
}
_EVEN_ONLY = frozenset({"libx264", "libx265", "libsvtav1"})


def available_encoders() -> dict[str, str]:
    """Name of each encoder that FFmpeg was built with -> "" if it opens here, else why not.

    Hardware encoders are only known to work once one was opened, so each is, for a frame of 640x360.
    """
    found = {}
    for name in CANDIDATES:
        try:
            codec = find_encoder(name)
        except UsageError:
            continue
        found[name] = _probe(codec)
    return found


def find_encoder(name: str) -> av.Codec:
    """The encoder of that name.

    Raises:
        UsageError: FFmpeg has none, or it is not for video; the hint lists those it has.
    """
    try:
        codec = av.Codec(name, "w")
        if codec.type == "video":
            return codec
    except UnknownCodecError:
        pass
    known = [n for n in CANDIDATES if n in av.codecs_available and _is_encoder(n)]
    raise UsageError(f"There is no video encoder {name}", f"There are: {', '.join(known)}.")


def check_hardware(name: str) -> None:
    """Raises ExtraError if a hardware encoder does not open here."""
    codec = find_encoder(name)
    if codec.capabilities & int(av.codec.codec.Capabilities.hardware) or name.endswith(("_nvenc", "_qsv", "_amf")):
        reason = _probe(codec)
        if reason:
            raise ExtraError(f"The encoder {name} does not work on this machine: {reason}", "Use --codec libx264.")


def pixel_format(codec: av.Codec, source: str, width: int, height: int) -> str:
    """The format that frames of format ``source`` are encoded in: the same if the encoder takes it, else the nearest.

    An odd side cannot be halved: encoders that insist on whole chroma blocks get chroma of full size instead.
    """
    known = [f.name for f in codec.video_formats or ()]
    usable = [f for f in known if not av.VideoFormat(f, 2, 2).has_palette and f not in ("cuda", "qsv", "d3d11")]
    if codec.name == "mjpeg":
        usable = [f for f in usable if f.startswith("yuvj")]  # it knows full range only
    if not usable:
        return source
    if codec.name in _EVEN_ONLY and (width % 2 or height % 2):
        whole = [f for f in usable if (x := planes.layout_of(f)) and not (width % x.x_step or height % x.y_step)]
        usable = whole or usable
    plain = source.replace("yuvj", "yuv")
    if source in usable or plain in usable:
        return source if source in usable else plain
    if codec.lossy and "yuv420p" in usable and av.VideoFormat(source, 2, 2).is_rgb and not _deep(source):
        return "yuv420p"  # cameras give RGB; what is nearest to it (4:4:4) few players and no chips decode
    best, _ = find_best_pix_fmt_of_list(usable, source, False)
    return best.name if best is not None else usable[0]


def _deep(name: str) -> bool:
    return any(part.bits > 8 for part in av.VideoFormat(name, 2, 2).components)


def encoder_options(codec: av.Codec, options: EncodeOptions) -> tuple[dict[str, str], int | None]:
    """What `EncodeOptions` means to one encoder.

    Returns:
        Its private options, and a quantiser (1..31) for encoders that know no other quality.

    Raises:
        UsageError: the preset or the quality is none of this encoder's.
    """
    context = av.CodecContext.create(codec, "w")
    private = {option.name: option for option in context.supported_options.private}
    chosen: dict[str, str] = {}
    quantiser = None
    if options.crf is not None:
        if "crf" in private:
            if not private["crf"].min <= options.crf <= min(private["crf"].max, 63):
                raise UsageError(f"--crf {options.crf:g} is out of range for {codec.name}", "Try 18; lower is better.")
            whole = float(options.crf).is_integer()
            chosen["crf"] = str(int(options.crf)) if whole else str(options.crf)
        elif "cq" in private:
            chosen |= {"cq": f"{options.crf:g}", "rc": "vbr"}
        elif codec.lossy and not codec.lossless and codec.name != "prores_ks":  # its profile says it all
            quantiser = round(min(31, max(1, options.crf / 6)))
    if codec.name == "libvpx-vp9":
        chosen |= {"row-mt": "1", "cpu-used": "5", "deadline": "good"}
    preset = options.preset
    if preset is not None and "preset" in private:
        choices = tuple(c.name for c in private["preset"].choices)
        if codec.name in ("libx264", "libx265"):
            choices = X26X_PRESETS
        if preset == DEFAULT_PRESET and preset not in choices:
            preset = _FAST.get(codec.name)
        elif preset not in choices and (choices or not preset.lstrip("-").isdigit()):
            raise UsageError(f"{codec.name} has no preset {preset}", f"It has: {', '.join(choices) or 'numbers'}.")
        if preset is not None:
            chosen["preset"] = preset
    elif preset not in (None, DEFAULT_PRESET):
        raise UsageError(f"{codec.name} has no presets", "Leave --preset out.")
    if codec.name == "libx265":
        chosen["x265-params"] = "log-level=error"  # it writes a page to stderr otherwise
    if options.low_latency:
        chosen |= _LOW_LATENCY.get(codec.name, {})
    return chosen, quantiser


def _is_encoder(name: str) -> bool:
    try:
        av.Codec(name, "w")
    except UnknownCodecError:
        return False
    return True


@contextmanager
def ordinary_priority() -> Iterator[None]:
    """Undoes what SVT-AV1 does to root's processes: it makes the thread that opens it, and its own, real-time ones.

    There they starve the rest of the pipeline, and the machine. Threads that were real-time before stay so.
    """
    if not hasattr(os, "sched_getscheduler"):
        yield
        return
    before = _real_time_threads()
    try:
        yield
    finally:
        for thread in _real_time_threads() - before:
            with suppress(OSError):  # it may have ended
                os.sched_setscheduler(thread, os.SCHED_OTHER, os.sched_param(0))


def _real_time_threads() -> set[int]:
    """Ids of this process's real-time threads as the kernel knows them (Linux; elsewhere of the calling one, as 0)."""
    tasks = Path("/proc/self/task")
    found = set()
    for thread in [int(task.name) for task in tasks.iterdir()] if tasks.is_dir() else [0]:
        with suppress(ProcessLookupError):  # it ended after it was listed
            if os.sched_getscheduler(thread) == os.SCHED_FIFO:
                found.add(thread)
    return found


def _probe(codec: av.Codec) -> str:
    """ "" if the encoder opens, else why it does not."""
    os.environ.setdefault("SVT_LOG", "1")  # SVT-AV1 writes a page of settings to stderr otherwise
    context = codec.create("video")
    context.width, context.height = 640, 360
    context.pix_fmt = pixel_format(codec, "yuv420p", 640, 360)
    context.time_base, context.framerate = Fraction(1, 30), Fraction(30)
    if codec.name == "libx265":
        context.options = {"x265-params": "log-level=error"}
    try:
        with ordinary_priority():
            context.open()
    except (av.FFmpegError, OSError, ValueError) as error:
        return getattr(error, "strerror", None) or str(error)
    return ""
