"""A folder of pictures through the tool's own stages, with the maps kept. Needs mediapipe and av."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from engines.base import Engine
from unmask_rt import align, models
from unmask_rt.errors import SinkError
from unmask_rt.faces.find import FindStage
from unmask_rt.frames import Packet
from unmask_rt.inpaint import InpaintStage
from unmask_rt.job import TOOL
from unmask_rt.provenance import Provenance
from unmask_rt.show import BlendStage
from unmask_rt.sinks.files import check_output, partial_of
from unmask_rt.sinks.pictures import PictureSink, make_folder, plan_names
from unmask_rt.sources.pictures import PictureInfo, PictureSource
from unmask_rt.unmasker import UnmaskerOptions

Image = NDArray[np.uint8]


class NamedSource(PictureSource):
    """A source of pictures that remembers which one was asked for last."""

    latest: Path

    def picture(self, index: int) -> PictureInfo:
        info = super().picture(index)
        self.latest = info.relative
        return info


def unmask_folder(
    engine: Engine,
    pictures: Path,
    out: Path,
    *,
    max_faces: int,
    face_model: Path | None,
    finder_model: Path | None,
    overwrite: bool,
) -> int:
    """Writes ``out/maps`` and ``out/results``; returns 0, or 1 where some pictures could not be read.

    Raises:
        UnmaskError: it did not work.
    """
    source = NamedSource(pictures)
    names = plan_names(source.relative_paths)
    targets = {relative: out / "maps" / name for relative, name in names.items()}
    for target in targets.values():
        make_folder(target.parent)
        check_output(target, inputs=(), overwrite=overwrite)
    make_folder(out / "results")
    sink = PictureSink(out / "results", source, Provenance(engine.sha256, TOOL), overwrite=overwrite)
    find = FindStage(
        models.load_face_model(face_model),
        models.load_finder_model(finder_model),
        models.load_aligner_model(),
        max_faces=max_faces,
        mode="still",
    )
    options = UnmaskerOptions()
    blend = BlendStage("still", feather=options.feather, on_miss=options.on_miss, view="result")
    inpaint, treated = InpaintStage(engine, "still"), 0
    console = Console(stderr=True)
    with closing(find), closing(blend):
        for frame in track(source, "unmask", len(source.paths), console=console, disable=not console.is_terminal):
            (packet,) = find(Packet(frame))
            (packet,) = inpaint(packet)
            (finished,) = blend(packet)
            sink.write(finished.frame)
            found = map_in_picture(finished)
            _write(targets[source.latest], found)
            treated += bool(found.any())
    report = sink.finish()
    for note in (*source.notes, *report.notes):
        console.print(f"note: {note}", markup=False, soft_wrap=True)
    for failure in source.failures:
        console.print(f"error: {failure}", style="red", markup=False, soft_wrap=True)
    print(f"{out}: {report.frames} pictures, {treated} with a mask; the results are in results, the maps in maps")
    return 1 if source.failures else 0


def map_in_picture(packet: Packet) -> Image:
    """The maps of all faces that were unmasked, uint8[H, W] of the picture; the highest value counts."""
    video = packet.frame.video
    found = np.zeros((video.height, video.width), np.uint8)
    for patch in packet.patches:
        if patch.strength > 0:
            laid = cv2.warpAffine(patch.map, align.invert(patch.transform), (video.width, video.height))
            np.maximum(found, laid, out=found)
    return found


def _write(path: Path, plane: Image) -> None:
    _, code = cv2.imencode(".png", plane)
    partial = partial_of(path)
    try:
        partial.write_bytes(code.tobytes())
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise SinkError(f"{path} cannot be written: {error}", "Is the disk full?") from error
