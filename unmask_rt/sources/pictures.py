"""Pictures through Pillow: one, or a folder of them."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Set
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps

from unmask_rt import orient
from unmask_rt.errors import SourceError
from unmask_rt.frames import Frame
from unmask_rt.sources.base import SourceInfo

_NAMES = "jpg jpeg jpe jfif png webp bmp dib tif tiff ppm pgm pbm pnm tga avif jp2 j2k"
SUFFIXES = frozenset(f".{name}" for name in _NAMES.split())
_FRAME_FORMAT = {"L": "gray", "RGB": "rgb24", "RGBA": "rgba"}
_PROFILE_MODES = {"L": ("GRAY",), "RGB": ("RGB ",), "RGBA": ("RGB ",)}


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What belongs to a picture beside its pixels.

    Attributes:
        path: where it was read.
        relative: its place below the folder that was given.
        icc_profile: its colour profile, None if it has none that fits the pixels as they are now.
        exif: its EXIF block without the orientation, which the pixels have already; None if it has none.
        original: the frame as it was read: the same object in the sink means that nothing was changed.
        notes: sentences about what became different on the way into the frame; they hold for an output that is made
            from the frame, not for a copy of the file.
    """

    path: Path
    relative: Path
    icc_profile: bytes | None
    exif: bytes | None
    original: av.VideoFrame
    notes: tuple[str, ...] = ()


class PictureSource:
    """One picture, or all pictures in a folder and below it in the order of their names.

    Pictures come upright by their EXIF orientation, as gray, RGB or RGBA of 8 bits; what cannot stay as it was (16
    bits, CMYK, further frames) is converted and said in `PictureInfo.notes`. A picture that cannot be read is named in
    ``failures`` and the rest goes on.

    Args:
        path: a picture or a folder.
        leave_out: a folder below it that is not read.

    Raises:
        SourceError: there is no such thing, the folder holds no picture, or the one picture cannot be read.
    """

    def __init__(self, path: str | Path, leave_out: Path | None = None) -> None:
        self.notes: list[str] = []
        self.failures: list[str] = []
        root = Path(path)
        if not root.exists():
            raise SourceError(f"{root} does not exist", "Check the path.")
        self.paths = sorted(_files_below(root, leave_out, SUFFIXES)) if root.is_dir() else [root]
        animated = sum(1 for _ in _files_below(root, leave_out, {".gif"})) if root.is_dir() else 0
        if animated:
            self.notes.append(f"{animated} GIF files were left out: each is read as a video, if given by itself.")
        if not self.paths:
            raise SourceError(f"The folder {root} holds no pictures", f"Known: {' '.join(sorted(SUFFIXES))}")
        self._root = root if root.is_dir() else root.parent
        self._single = not root.is_dir()
        self._known: dict[int, PictureInfo] = {}
        self._stopped = False
        size = self._peek() if self._single else None
        self.info = SourceInfo(
            name=root.name or str(root),
            kind="picture",
            live=False,
            display_size=size,
            coded_size=size,
            frame_count=len(self.paths),
            duration_s=None,
            rate=None,
            path=root.absolute(),
        )

    @property
    def relative_paths(self) -> list[Path]:
        """Every picture's place below the folder, in order: known before the work starts."""
        return [p.relative_to(self._root) for p in self.paths]

    def picture(self, index: int) -> PictureInfo:
        """What belongs to the frame of that index; may be asked once, from any thread, after the frame has come."""
        return self._known.pop(index)

    def __iter__(self) -> Iterator[Frame]:
        index = 0
        for path in self.paths:
            if self._stopped:
                return
            said: list[str] = []
            try:
                video, icc_profile, exif = self._read(path, said)
            except Exception as error:  # Pillow's readers raise whatever damaged bytes make of them
                if self._single:
                    raise SourceError(f"{path} cannot be read: {error}", "It is no picture, or damaged.") from error
                self.failures.append(f"{path.relative_to(self._root)} cannot be read: {error}")
                continue
            video.pts, video.time_base = index, Fraction(1)
            self._known[index] = PictureInfo(path, path.relative_to(self._root), icc_profile, exif, video, tuple(said))
            transform, size = orient.to_display(video.width, video.height)
            yield Frame(video, index, index, Fraction(1), time.monotonic_ns(), transform, size)
            index += 1

    def close(self) -> None:
        """Ends the iteration at the next picture."""
        self._stopped = True

    def _peek(self) -> tuple[int, int]:
        path = self.paths[0]
        try:
            with Image.open(path) as picture:
                width, height = picture.size
                turned = picture.getexif().get(0x0112, 1) >= 5
        except Exception as error:
            raise SourceError(f"{path} cannot be read: {error}", "It is no picture, or damaged.") from error
        return (height, width) if turned else (width, height)

    def _read(self, path: Path, said: list[str]) -> tuple[av.VideoFrame, bytes | None, bytes | None]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                deep = opened.mode in ("RGB", "RGBA", "LA") and any("16" in str(tile[3]) for tile in opened.tile)
                opened.load()
                if deep:
                    said.append(f"{path.name}: 16 bits a sample were converted to 8.")
                if getattr(opened, "n_frames", 1) > 1:
                    said.append(f"{path.name}: only the first of {getattr(opened, 'n_frames', 1)} pictures is taken.")
                exif = opened.getexif()
                picture = ImageOps.exif_transpose(opened)
        profile = opened.info.get("icc_profile")
        # exif_transpose only returns a picture without the tag; the file's own block still has it.
        exif.pop(0x0112, None)
        converted = _to_known_mode(picture, path, said)
        if profile is not None and profile[16:20].decode("latin1") not in _PROFILE_MODES[converted.mode]:
            said.append(f"{path.name}: its colour profile does not fit the converted pixels and is dropped.")
            profile = None
        pixels = np.asarray(converted)
        video = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), _FRAME_FORMAT[converted.mode])
        return video, profile, _written(exif, path, said) if len(exif) else None


def _written(exif: Image.Exif, path: Path, said: list[str]) -> bytes | None:
    try:
        return exif.tobytes()
    except Exception:  # tags whose type is not what it should be
        said.append(f"{path.name}: its EXIF data are damaged and dropped.")
        return None


def _to_known_mode(picture: Image.Image, path: Path, said: list[str]) -> Image.Image:
    if picture.mode in _FRAME_FORMAT and not (picture.mode != "RGBA" and "transparency" in picture.info):
        return picture
    if picture.mode.startswith("I;16") or picture.mode in ("I", "F"):
        said.append(f"{path.name}: {picture.mode} was converted to 8 bits.")
        values = np.asarray(picture, np.float64)
        top = 65535.0 if picture.mode != "F" else max(1.0, float(values.max(initial=1.0)))
        return Image.fromarray(np.clip(np.rint(values * (255.0 / top)), 0, 255).astype(np.uint8), "L")
    target = "RGBA" if picture.has_transparency_data else "L" if picture.mode == "1" else "RGB"
    if picture.mode not in ("P", "1"):
        said.append(f"{path.name}: {picture.mode} was converted to {target}.")
    return picture.convert(target)


def _files_below(folder: Path, leave_out: Path | None, suffixes: Set[str]) -> Iterator[Path]:
    left = None if leave_out is None or folder.resolve() not in leave_out.resolve().parents else leave_out.resolve()
    for path in folder.rglob("*"):
        if left is not None and path.resolve().is_relative_to(left):
            continue
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.suffix.lower() in suffixes and path.is_file():
            yield path
