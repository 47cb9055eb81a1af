"""Pictures through Pillow: one file, or a folder that mirrors the source's."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from unmask_rt import planes
from unmask_rt.errors import SinkError, UsageError
from unmask_rt.frames import Frame
from unmask_rt.provenance import Provenance, splice_jpeg, splice_png
from unmask_rt.sinks.base import SinkReport
from unmask_rt.sinks.files import check_output, partial_of
from unmask_rt.sources.pictures import PictureInfo, PictureSource

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
QUALITY = 95
_SPLICE = {"JPEG": splice_jpeg, "PNG": splice_png}


class PictureSink:
    """Writes each picture of a source to its own file.

    Colour profile, EXIF (without the orientation, which the pixels have already) and alpha are kept. A picture that
    nobody changed keeps its pixels: its file is copied where the format stays the same, else saved without loss if
    the format can.

    Args:
        out: a file for a source of one picture, else a folder.
        source: gives the names and what belongs to each picture beside its pixels.
        provenance: goes into each file's XMP.
        overwrite: replace files that are there.

    Raises:
        UsageError: a file would replace an input or one that is there, or the format is not known.
        SinkError: nothing can be written there.
    """

    stopped = False

    def __init__(
        self, out: str | Path, source: PictureSource, provenance: Provenance, *, overwrite: bool = False
    ) -> None:
        self._out, self._source, self._provenance = Path(out), source, provenance
        to_file = self._out.suffix.lower() in FORMATS and not self._out.is_dir()
        if to_file and len(source.paths) > 1:
            raise UsageError(f"{len(source.paths)} pictures do not fit into {out}", "Give a folder.")
        if not to_file and self._out.suffix and not self._out.is_dir():
            raise UsageError(f"{out} is no picture file", f"Give a folder or a name that ends in {', '.join(FORMATS)}.")
        names = {source.relative_paths[0]: Path(self._out.name)} if to_file else plan_names(source.relative_paths)
        folder = self._out.parent if to_file else self._out
        self._targets = {relative: folder / name for relative, name in names.items()}
        if not to_file:
            make_folder(folder)
        by_name: dict[str, list[Path]] = {}
        for path in source.paths:
            by_name.setdefault(path.name.casefold(), []).append(path)
        for target in self._targets.values():
            if not to_file:
                make_folder(target.parent)
            same_name = by_name.get(target.name.casefold(), [])
            check_output(target, inputs=same_name, overwrite=overwrite)
        self._notes: list[str] = []
        self._frames = 0
        self._report: SinkReport | None = None

    def write(self, frame: Frame) -> None:
        """Writes one picture; see `Sink`."""
        picture = self._source.picture(frame.index)
        target = self._targets[picture.relative]
        partial = partial_of(target)
        try:
            data = self._encode(frame, picture, FORMATS[target.suffix.lower()])
            partial.write_bytes(data)
            os.replace(partial, target)
        except (OSError, ValueError) as error:
            partial.unlink(missing_ok=True)
            raise SinkError(f"{target} cannot be written: {error}", "Is the disk full?") from error
        self._frames += 1

    def finish(self) -> SinkReport:
        """Says what was written."""
        return self._end(complete=True)

    def abort(self) -> SinkReport:
        """Says what was written; finished pictures stay."""
        return self._end(complete=False)

    def _end(self, *, complete: bool) -> SinkReport:
        if self._report is None:
            single = len(self._targets) == 1
            path = next(iter(self._targets.values())) if single else self._out
            kinds = sorted({FORMATS[t.suffix.lower()] for t in self._targets.values()})
            self._report = SinkReport(
                path if self._frames else None, self._frames, complete, tuple(self._notes), "/".join(kinds)
            )
        return self._report

    def _encode(self, frame: Frame, picture: PictureInfo, kind: str) -> bytes:
        untouched = frame.video is picture.original
        if untouched and kind in _SPLICE:
            data = picture.path.read_bytes()
            try:
                return _SPLICE[kind](data, self._provenance.xmp)
            except ValueError:
                pass  # another format than the output's
        self._notes.extend(picture.notes)
        image = Image.fromarray(_pixels(frame))
        if kind == "JPEG" and image.mode == "RGBA":
            self._notes.append(f"{picture.relative}: JPEG has no transparency; it became white.")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image).convert("RGB")
        extra: dict[str, object] = {}
        if picture.icc_profile:
            extra["icc_profile"] = picture.icc_profile
        if picture.exif:
            extra["exif"] = picture.exif
        if kind == "PNG":
            text = PngImagePlugin.PngInfo()
            text.add_itxt("XML:com.adobe.xmp", self._provenance.xmp.decode())
            extra["pnginfo"] = text
        else:
            extra["xmp"] = self._provenance.xmp
            extra["quality"] = QUALITY
        if kind == "JPEG":
            extra["subsampling"] = 0
        if kind == "WEBP" and untouched:
            extra |= {"lossless": True, "exact": True}
        buffer = io.BytesIO()
        image.save(buffer, kind, **extra)
        return buffer.getvalue()


def plan_names(relative: Sequence[Path]) -> dict[Path, Path]:
    """The output's name for each picture: its own with .png; where two would meet, the suffix stays in.

    Names that differ only in case count as the same: on many disks they are.
    """
    names = {p: p.with_suffix(".png") for p in relative}
    for _ in range(len(names)):
        seen = Counter(str(n).casefold() for n in names.values())
        meeting = [p for p, n in names.items() if seen[str(n).casefold()] > 1]
        if not meeting:
            break
        for p in meeting:
            kept = p.with_name(f"{p.name}.png")
            names[p] = kept if names[p] != kept else p.with_name(f"{names[p].stem}_.png")
    return names


def _pixels(frame: Frame) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    video = frame.video
    if video.format.name in ("gray", "rgb24", "rgba"):
        return np.ascontiguousarray(planes.rows(video)[0])
    return np.ascontiguousarray(planes.rows(planes.convert(video, "rgb24"))[0])


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it.

    Raises:
        SinkError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SinkError(f"The folder {folder} cannot be made: {error.strerror}", "May you write there?") from error
