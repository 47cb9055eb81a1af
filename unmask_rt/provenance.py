"""Saying that a picture is synthetic: in the file's metadata, and as a small mark where there is no metadata.

The value is IPTC's Digital Source Type for a composite with elements made by a trained model; the property and the
place of the XMP packet in each kind of file follow the XMP specification, part 3 (ISO 16684-1 and Adobe's storage
document).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np

from unmask_rt import align, planes
from unmask_rt.align import Image
from unmask_rt.frames import Frame

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
LABEL = "AI-edited"
NAMESPACE = "https://unmask-rt.github.io/ns/1.0/"

_XMP_UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PNG_XMP = b"XML:com.adobe.xmp"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who made the picture.

    Attributes:
        model_sha256: hash of the model file, 64 hexadecimal digits; "" if no model took part.
        tool: name and version.
    """

    model_sha256: str
    tool: str

    @property
    def comment(self) -> str:
        """One line for containers that keep a comment."""
        model = f"; model sha256:{self.model_sha256}" if self.model_sha256 else ""
        return f"Edited by {self.tool}{model}; DigitalSourceType {DIGITAL_SOURCE_TYPE}"

    @property
    def xmp(self) -> bytes:
        """An XMP packet."""
        return (
            '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
            ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
            f' xmlns:unmask="{escape(NAMESPACE)}"'
            f' Iptc4xmpExt:DigitalSourceType="{escape(DIGITAL_SOURCE_TYPE)}"'
            f' xmp:CreatorTool="{escape(self.tool)}"'
            f' unmask:ModelSHA256="{escape(self.model_sha256)}"/>'
            '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
        ).encode()

    def tags(self, existing: str = "") -> dict[str, str]:
        """Container metadata: the comment after one that was there already, and fields of their own (Matroska)."""
        tags = {
            "comment": f"{existing}; {self.comment}" if existing and self.comment not in existing else self.comment,
            "DIGITAL_SOURCE_TYPE": DIGITAL_SOURCE_TYPE,
        }
        return tags | ({"MODEL_SHA256": self.model_sha256} if self.model_sha256 else {})


def append_to_mp4(path: Path, xmp: bytes) -> None:
    """Puts an XMP packet behind a finished MP4 or MOV, as the ``uuid`` box that XMP has there."""
    with path.open("ab") as file:
        file.write(struct.pack(">I4s16s", 24 + len(xmp), b"uuid", _XMP_UUID) + xmp)


def splice_jpeg(data: bytes, xmp: bytes) -> bytes:
    """The same JPEG, every compressed byte kept, with this XMP packet in place of the one it had.

    Raises:
        ValueError: it is no JPEG.
    """
    if data[:2] != b"\xff\xd8":
        raise ValueError("not a JPEG")
    segments, at = [], 2
    while data[at : at + 1] == b"\xff" and data[at + 1] in (0xFE, *range(0xE0, 0xF0)):
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if not data[at + 4 : end].startswith(_JPEG_XMP):
            segments.append(data[at:end])
        at = end
    mine = b"\xff\xe1" + struct.pack(">H", 2 + len(_JPEG_XMP) + len(xmp)) + _JPEG_XMP + xmp
    # JFIF wants its APP0 first, EXIF its APP1 next; XMP comes behind both.
    lead = sum(1 for s in segments[:2] if s[1] == 0xE0 or s[4:10] == b"Exif\0\0")
    return b"".join([data[:2], *segments[:lead], mine, *segments[lead:], data[at:]])


def splice_png(data: bytes, xmp: bytes) -> bytes:
    """The same PNG, every other chunk kept, with this XMP packet in place of the one it had.

    Raises:
        ValueError: it is no PNG.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise ValueError("not a PNG")
    body = b"iTXt" + _PNG_XMP + b"\0\0\0\0\0" + xmp
    mine = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    header_end = 8 + 12 + int.from_bytes(data[8:12], "big")
    chunks, at = [data[:header_end], mine], header_end
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if not (data[at + 4 : at + 8] == b"iTXt" and data[at + 8 :].startswith(_PNG_XMP)):
            chunks.append(data[at:end])
        at = end
    return b"".join(chunks)


def draw_label(rgb: Image) -> Image:
    """A copy of an upright picture uint8[h, w, 3] with a small mark in its lower left corner."""
    stamp = _stamp(rgb.shape[0])
    marked = rgb.copy()
    height, width = min(stamp.shape[0], rgb.shape[0]), min(stamp.shape[1], rgb.shape[1])
    marked[rgb.shape[0] - height :, :width] = stamp[:height, :width]
    return marked


def label_frame(frame: Frame) -> Frame:
    """The frame with a small mark, readable in the lower left corner of the display; the rest stays as it is."""
    wide, high = frame.display_size
    stamp = _stamp(high)
    height, width = min(stamp.shape[0], high), min(stamp.shape[1], wide)
    to_coded = align.invert(frame.to_display)
    corners = align.apply(to_coded, np.array([[0, high - height], [width - 1, high - 1]], np.float32))
    rect = planes.rect_around(frame.video, corners)
    to_rect = np.array([[1.0, 0.0, rect[0]], [0.0, 1.0, rect[1]]])
    to_stamp = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, -(high - height)]])
    transform = align.compose(to_stamp, align.compose(frame.to_display, to_rect))
    size, how = (rect[2] - rect[0], rect[3] - rect[1]), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    drawn = np.asarray(cv2.warpAffine(stamp, transform, size, flags=how))
    whole = np.full(stamp.shape[:2], 255, np.uint8)
    covered = np.asarray(cv2.warpAffine(whole, transform, size, flags=how), np.uint8)
    before = planes.read_rgb(frame.video, rect)
    weight = covered[..., None].astype(np.float32) / 255
    after = np.rint(drawn + before * (1 - weight)).astype(np.uint8)
    return planes.write_rgb(frame, rect, before, after, covered)


def _stamp(picture_height: int) -> Image:
    """The mark as it looks on a picture of that height: white on dark, at least 10 pixels high."""
    scale = max(0.35, picture_height / 1600)
    thick = max(1, round(scale * 1.6))
    (width, height), _ = cv2.getTextSize(LABEL, cv2.FONT_HERSHEY_SIMPLEX, scale, thick)
    pad = max(3, round(height * 0.5))
    stamp = np.full((height + 2 * pad, width + 2 * pad, 3), 32, np.uint8)
    white = (235, 235, 235)
    cv2.putText(stamp, LABEL, (pad, pad + height), cv2.FONT_HERSHEY_SIMPLEX, scale, white, thick, cv2.LINE_AA)
    return stamp
