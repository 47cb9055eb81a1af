"""CenterFace, the face finder that sees masked and turned faces where the mesh does not.

Network of Xu et al., "CenterFace: Joint Face Detection and Alignment Using Face as Point" (2019): heatmap of face
centres, size, offset and five landmarks at stride 4.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from unmask_rt.align import Image, Points
from unmask_rt.errors import ModelError
from unmask_rt.ort import ort

STRIDE = 4
MULTIPLE = 32
"""The network halves its input five times: sides must be multiples of this."""


@dataclass(frozen=True, slots=True)
class FoundFace:
    """One face that CenterFace found.

    Attributes:
        box: (x0, y0, x1, y1), pixels of the picture that was looked at; may reach over its border.
        points: float32[5, 2], pixels: the picture's left eye, its right eye, nose tip, left and right mouth corner.
        score: 0..1.
    """

    box: tuple[float, float, float, float]
    points: Points
    score: float

    @property
    def eyes_nose(self) -> Points:
        """float32[3, 2], what `align.coarse_crop_transform` takes."""
        return self.points[:3]

    @property
    def side(self) -> float:
        """The longer side of the box in pixels."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


class CenterFace:
    """CenterFace behind one call, on one thread.

    Args:
        model: the bytes of ``centerface.onnx`` (already checked against their SHA-256).
        threshold: faces below this score are not returned, 0..1.

    Raises:
        ModelError: the bytes are no such model.
    """

    def __init__(self, model: bytes, *, threshold: float = 0.35) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(free_shape(model), options, providers=["CPUExecutionProvider"])
        except (ValueError, RuntimeError) as error:  # onnxruntime's own errors are RuntimeErrors
            raise ModelError(f"The face finder's model cannot be loaded: {error}", FETCH_HINT) from error
        if len(self._session.get_outputs()) != 4:
            raise ModelError("The face finder's model is not CenterFace.", FETCH_HINT)
        self._input = self._session.get_inputs()[0].name
        self._threshold = threshold

    def __call__(self, rgb: Image, longest_side: int) -> list[FoundFace]:
        """Finds faces, best first.

        Args:
            rgb: uint8[H, W, 3].
            longest_side: pixels that the picture's longer side is shrunk to (never enlarged) before looking.
        """
        height, width = rgb.shape[:2]
        scale = min(1.0, longest_side / max(height, width))
        in_height, in_width = (max(1, round(side * scale)) for side in (height, width))
        small = cv2.resize(rgb, (in_width, in_height), interpolation=cv2.INTER_AREA) if scale < 1 else rgb
        canvas = np.zeros((_padded(in_height), _padded(in_width), 3), np.float32)
        canvas[:in_height, :in_width] = small
        maps = self._session.run(None, {self._input: np.ascontiguousarray(canvas.transpose(2, 0, 1)[None])})
        return self._decode(*(np.asarray(m)[0] for m in maps), x_ratio=width / in_width, y_ratio=height / in_height)

    def at_scales(self, rgb: Image, longest_sides: Sequence[int]) -> list[FoundFace]:
        """Finds faces at several sizes and joins what was found, best first; sizes above the picture's count once."""
        longest = max(rgb.shape[:2])
        found = [face for side in sorted({min(side, longest) for side in longest_sides}) for face in self(rgb, side)]
        return suppress(found)

    def _decode(
        self,
        heat: np.ndarray,  # (1, h, w)
        size: np.ndarray,  # (2, h, w) log of height and width in strides
        offset: np.ndarray,  # (2, h, w) y, x in strides
        landmarks: np.ndarray,  # (10, h, w) y, x in box sides
        *,
        x_ratio: float,
        y_ratio: float,
    ) -> list[FoundFace]:
        rows, columns = np.nonzero(heat[0] > self._threshold)
        ratio = np.array([x_ratio, y_ratio])
        found = []
        for row, column in zip(rows, columns, strict=True):
            sides = np.exp(size[::-1, row, column].astype(np.float64)) * STRIDE
            centre = (np.array([column, row]) + offset[::-1, row, column] + 0.5) * STRIDE
            corner = centre - sides / 2
            points = landmarks[:, row, column].reshape(5, 2)[:, ::-1] * sides + corner
            low, high = corner * ratio - 0.5, (corner + sides) * ratio - 0.5
            box = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))
            found.append(FoundFace(box, (points * ratio - 0.5).astype(np.float32), float(heat[0, row, column])))
        return suppress(found)


def suppress(found: Sequence[FoundFace], overlap: float = 0.3) -> list[FoundFace]:
    """Non-maximum suppression: of faces whose boxes overlap by more than ``overlap`` (IoU) the best stays."""
    kept: list[FoundFace] = []
    for face in sorted(found, key=lambda f: -f.score):
        if all(iou(face.box, other.box) <= overlap for other in kept):
            kept.append(face)
    return kept


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1), 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def _padded(side: int) -> int:
    return -(-side // MULTIPLE) * MULTIPLE


FETCH_HINT = "Fetch it again with: unmask-rt models fetch"

# The published file fixes its input to 10 x 3 x 32 x 32 and lists each weight as an input too, which keeps onnxruntime
# from folding batch norms into convolutions. Both are a few bytes in the protobuf around the weights, so they are
# rewritten here instead of asking every user to install the onnx package. Field numbers: onnx.proto, stable since 2017.
_MODEL_GRAPH = 7
_GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT = 5, 11, 12
_TENSOR_NAME, _VALUE_NAME, _VALUE_TYPE = 8, 1, 2
_FLOAT_TENSOR = b"\x0a\x02\x08\x01"
"""TypeProto {tensor_type {elem_type: FLOAT}}: a float tensor of any shape."""


def free_shape(model: bytes) -> bytes:
    """The same ONNX model with free input and output shapes and with its weights as constants.

    Args:
        model: a serialised ModelProto with one float input beside its weights, and float outputs.

    Raises:
        ValueError: the bytes are no ONNX model.
    """
    graphs = [value for number, value, _ in _fields(model) if number == _MODEL_GRAPH]
    if len(graphs) != 1:
        raise ValueError("no ONNX graph inside")
    parts = list(_fields(graphs[0]))
    weights = {_member(value, _TENSOR_NAME) for number, value, _ in parts if number == _GRAPH_INITIALIZER}
    pieces = []
    for number, value, raw in parts:
        if number == _GRAPH_INPUT and _member(value, _VALUE_NAME) in weights:
            continue
        if number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
            name = _member(value, _VALUE_NAME)
            raw = _field(number, _field(_VALUE_NAME, name) + _field(_VALUE_TYPE, _FLOAT_TENSOR))
        pieces.append(raw)
    graph = b"".join(pieces)
    return b"".join(_field(number, graph) if number == _MODEL_GRAPH else raw for number, _, raw in _fields(model))


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Walks a protobuf message: number, payload (of length-delimited fields, else empty), and the field as written."""
    at = 0
    while at < len(message):
        start = at
        key, at = _varint(message, at)
        payload = b""
        match key & 7:
            case 0:
                _, at = _varint(message, at)
            case 1:
                at += 8
            case 2:
                length, at = _varint(message, at)
                payload = message[at : at + length]
                at += length
            case 5:
                at += 4
            case kind:
                raise ValueError(f"unknown protobuf wire type {kind}")
        if at > len(message):
            raise ValueError("protobuf field runs over the end")
        yield key >> 3, payload, message[start:at]


def _member(message: bytes, number: int) -> bytes:
    """The first length-delimited field ``number`` of a message, empty if there is none."""
    return next((payload for n, payload, _ in _fields(message) if n == number), b"")


def _field(number: int, payload: bytes) -> bytes:
    return _encode(number << 3 | 2) + _encode(len(payload)) + payload


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("broken protobuf varint")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _encode(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
