"""Contact sheets: one face a row, its pictures side by side, labelled."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

HEADER = 22
GAP = 3
QUALITY = 92


def grey(plane: Image) -> Image:
    """A map uint8[S, S] as a picture uint8[S, S, 3]."""
    return np.repeat(plane[..., None], 3, axis=2)


def sheet(rows: Sequence[tuple[str, Sequence[Image]]], columns: Sequence[str], *, side: int, abreast: int = 2) -> Image:
    """Draws a sheet.

    Args:
        rows: label and pictures (uint8[S, S, 3] of any S) of each face.
        columns: what the pictures of a row are.
        side: that pictures are brought to, pixels.
        abreast: so many faces stand side by side.

    Returns:
        uint8[H, W, 3] RGB; places that stay empty are black.

    Raises:
        ValueError: there is no face, or a row has not one picture for each column.
    """
    if not rows:
        raise ValueError("a sheet needs one face at least")
    cell = side + GAP
    wide = len(columns) * cell + GAP
    lines = -(-len(rows) // abreast)
    page = np.zeros((HEADER + lines * cell, abreast * wide, 3), np.uint8)
    for block in range(min(abreast, len(rows))):
        for i, title in enumerate(columns):
            _write(page, title, block * wide + i * cell + 3, HEADER - 7, side)
    for number, (label, pictures) in enumerate(rows):
        if len(pictures) != len(columns):
            raise ValueError(f"{len(pictures)} pictures in a row of {len(columns)} columns")
        y, x = HEADER + number // abreast * cell, number % abreast * wide
        for i, picture in enumerate(pictures):
            shown = picture
            if picture.shape[0] != side:
                way = cv2.INTER_AREA if picture.shape[0] > side else cv2.INTER_CUBIC
                shown = np.asarray(cv2.resize(picture, (side, side), interpolation=way))
            page[y : y + side, x + i * cell : x + i * cell + side] = shown
        _write(page, label, x + 3, y + side - 5, side)
    return page


def save(path: Path, page: Image) -> None:
    """Writes a sheet, in the format that its suffix names.

    Raises:
        OSError: it cannot be written.
    """
    flags = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if path.suffix.lower() in (".jpg", ".jpeg") else []
    done, code = cv2.imencode(path.suffix, cv2.cvtColor(page, cv2.COLOR_RGB2BGR), flags)
    if not done:
        raise OSError(f"{path}: the sheet cannot be encoded")
    path.write_bytes(code.tobytes())


def _write(page: Image, text: str, x: int, y: int, side: int) -> None:
    scale = 0.42 if side >= 128 else 0.34
    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
    page[max(0, y - height - 3) : y + 4, x - 2 : x + width + 2] //= 4
    cv2.putText(page, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, scale, (255, 255, 255), 1, cv2.LINE_AA)
