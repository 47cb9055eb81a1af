"""Where frames go: `open_sink` finds the right kind for a source and an output."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from unmask_rt import __version__
from unmask_rt.errors import UsageError
from unmask_rt.frames import Frame
from unmask_rt.provenance import Provenance, label_frame
from unmask_rt.sinks.base import EncodeOptions, Sink, SinkReport
from unmask_rt.sources.base import Source

Label = Literal["auto", "on", "off"]

__all__ = ["EncodeOptions", "Label", "Provenance", "Sink", "SinkReport", "open_sink"]


def open_sink(
    out: str | Path | None,
    source: Source,
    *,
    encode: EncodeOptions | None = None,
    provenance: Provenance | None = None,
    overwrite: bool = False,
    label: Label = "auto",
) -> Sink:
    """Opens the output.

    Args:
        out: a video file, a picture file, a folder for pictures, or None for a window.
        source: what the frames come from.
        encode: how a video is encoded; None for the defaults.
        provenance: goes into the metadata; None if no model took part.
        overwrite: replace files that are there.
        label: draw the visible mark; "auto" draws it where the output keeps no metadata.

    Raises:
        UsageError: output and source do not go together, or the output is there already.
        SinkError: nothing can be written there.
        ExtraError: no window can be shown, or a hardware encoder does not work here.
    """
    encode = encode or EncodeOptions()
    provenance = provenance or Provenance("", f"unmask-rt {__version__}")
    if out is None:
        from unmask_rt.sinks.preview import PreviewSink

        return PreviewSink(f"unmask-rt: {source.info.name}", label=label != "off")
    from unmask_rt.sinks.pictures import PictureSink
    from unmask_rt.sinks.video import CONTAINERS, TAGGED, VideoSink
    from unmask_rt.sources.pictures import PictureSource

    sink: Sink
    if isinstance(source, PictureSource):
        sink, tagged = PictureSink(out, source, provenance, overwrite=overwrite), True
    else:
        if Path(out).is_dir():
            raise UsageError(f"{out} is a folder", "A video goes into a file: give a name that ends in .mp4 or .mkv.")
        sink = VideoSink(out, source.info, encode, provenance, overwrite=overwrite)
        tagged = CONTAINERS[Path(out).suffix.lower()] in TAGGED
    return Labelled(sink) if label == "on" or (label == "auto" and not tagged) else sink


class Labelled:
    """A sink that draws the visible mark on each frame before another takes it."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    @property
    def stopped(self) -> bool:
        """As the other sink has it."""
        return self._sink.stopped

    @stopped.setter
    def stopped(self, value: bool) -> None:
        self._sink.stopped = value

    def write(self, frame: Frame) -> None:
        """Marks the frame and hands it on."""
        self._sink.write(label_frame(frame))

    def finish(self) -> SinkReport:
        """Finishes the other sink."""
        return self._sink.finish()

    def abort(self) -> SinkReport:
        """Aborts the other sink."""
        return self._sink.abort()
