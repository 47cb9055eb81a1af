"""What travels through the pipeline: frames, faces, patches, and the packet that carries them.

Three coordinate systems, all with the centre of the top left pixel at (0, 0):

* coded    pixels of the decoded planes, as the file stores them;
* display  upright and with square pixels, as a viewer shows them: faces and tracks live here;
* crop     the aligned square that the network sees.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray

from unmask_rt.align import Affine, Image, Points

Mode = Literal["file", "live", "still"]
"""How frames come: from a file that may be read ahead, live with no time to lose, or as single pictures."""

FoundBy = Literal["mesh", "aligner", "finder", "flow", "held"]
"""Who placed a face in a frame: the face mesh, the aligner, the face finder's eyes and nose, optical flow, or a filled
gap."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture of the source, its planes as decoded.

    Attributes:
        video: the decoded planes in their own pixel format, with colour matrix and range; never written to in place.
        index: 0-based position in the source, without gaps.
        pts: presentation time in ticks of ``time_base``.
        time_base: seconds a tick.
        captured_ns: `time.monotonic_ns` when the frame left the decoder or the camera.
        to_display: coded to display pixels (rotation, mirror, sample aspect ratio).
        display_size: (width, height) in display pixels.
    """

    video: av.VideoFrame
    index: int
    pts: int
    time_base: Fraction
    captured_ns: int
    to_display: Affine
    display_size: tuple[int, int]

    @property
    def time_s(self) -> float:
        """Presentation time in seconds."""
        return float(self.pts * self.time_base)


@dataclass(frozen=True, slots=True)
class Face:
    """One tracked face in one frame.

    Attributes:
        track: id of the person's track, stable from frame to frame, starting at 1.
        anchors: float32[6, 2] display pixels, eye corners and nose bridge in the order of `align.MESH_ANCHORS`.
        box: (x0, y0, x1, y1) display pixels, the whole face from forehead to chin.
        found_by: who placed it in this frame.
        confidence: 0..1.
        masked: 0..1, whether a mask is worn by the aligner's own look, or None where it has none.
    """

    track: int
    anchors: Points
    box: tuple[float, float, float, float]
    found_by: FoundBy
    confidence: float
    masked: float | None = None


@dataclass(frozen=True, slots=True)
class Patch:
    """What the engine made of one face.

    Attributes:
        face: the face that it belongs to.
        transform: coded pixels to crop pixels.
        crop: uint8[S, S, 3] RGB, the aligned input.
        completed: uint8[S, S, 3] RGB, the crop with the mask replaced.
        map: uint8[S, S], probability 0..255 that a pixel is mask.
        score: 0..1, share of the lower face that the map covers: what the gate decides on.
        strength: 0..1, how much of the patch is shown; the gate sets it (0: untouched, 1: unmasked).
        grown: how much larger than the fit to the face's eyes the crop is.
    """

    face: Face
    transform: Affine
    crop: Image
    completed: Image
    map: Image
    score: float
    strength: float = 0.0
    grown: float = 1.0


@dataclass(frozen=True, slots=True)
class StageTime:
    """When one stage had a packet: `time.monotonic_ns` at arrival in its queue, start and end of work."""

    stage: str
    queued_ns: int
    started_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Packet:
    """The one thing that travels between stages; each stage returns a copy with its own part filled in.

    Attributes:
        frame: the picture; the blend stage replaces it by the finished one.
        faces: set by the find stage.
        cut: True where a new shot begins with this frame, or began with one that was dropped since the frame before;
            set by the find stage.
        patches: set by the inpaint stage, ``strength`` by the gate.
        missed: display boxes of masked faces that were being unmasked and are lost in this frame (see ``--on-miss``).
        times: one entry for each stage passed.
    """

    frame: Frame
    faces: tuple[Face, ...] = ()
    patches: tuple[Patch, ...] = ()
    missed: tuple[tuple[float, float, float, float], ...] = ()
    times: tuple[StageTime, ...] = field(default=())
    cut: bool = False


Mask = NDArray[np.uint8]
