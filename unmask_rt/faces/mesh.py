"""The MediaPipe face mesh: 478 points on each bare (and every second masked) face."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask_rt.align import Image, Points


@dataclass(frozen=True, slots=True)
class MeshFace:
    """One face that the mesh found.

    Attributes:
        points: float32[478, 2], pixels of the picture that was looked at.
        depth: float32[478], same unit as x, smaller is nearer to the camera.
        blendshapes: name -> 0..1, empty unless asked for.
    """

    points: Points
    depth: NDArray[np.float32]
    blendshapes: dict[str, float]


class FaceMesh:
    """MediaPipe FaceLandmarker behind one call.

    Args:
        model: the bytes of ``face_landmarker.task`` (already checked against their SHA-256).
        max_faces: at most this many faces a picture.
        video: True follows faces from frame to frame (timestamps must rise); False looks at each picture afresh.
        blendshapes: True adds 52 expression weights a face (about 1 ms each).
    """

    def __init__(self, model: bytes, *, max_faces: int, video: bool, blendshapes: bool = False) -> None:
        self._mp = mediapipe()
        from mediapipe.tasks.python import BaseOptions, vision

        self._video = video
        mode = vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE
        self._landmarker = vision.FaceLandmarker.create_from_options(
            vision.FaceLandmarkerOptions(
                base_options=BaseOptions(model_asset_buffer=model),
                running_mode=mode,
                num_faces=max_faces,
                output_face_blendshapes=blendshapes,
            )
        )
        self._last_ms = -1

    def __call__(self, rgb: Image, time_ms: int = 0) -> list[MeshFace]:
        """Finds faces in an RGB picture, uint8[H, W, 3]; ``time_ms`` counts in video mode only."""
        picture = self._mp.Image(image_format=self._mp.ImageFormat.SRGB, data=np.ascontiguousarray(rgb))
        if self._video:
            self._last_ms = max(time_ms, self._last_ms + 1)
            found = self._landmarker.detect_for_video(picture, self._last_ms)
        else:
            found = self._landmarker.detect(picture)
        height, width = rgb.shape[:2]
        faces = []
        for i, landmarks in enumerate(found.face_landmarks):
            xyz = np.array([(p.x, p.y, p.z) for p in landmarks], np.float32)
            xyz *= np.array([width, height, width], np.float32)
            xyz[:, :2] -= 0.5
            shapes = {c.category_name: c.score for c in found.face_blendshapes[i]} if found.face_blendshapes else {}
            faces.append(MeshFace(np.ascontiguousarray(xyz[:, :2]), xyz[:, 2].copy(), shapes))
        return faces

    def close(self) -> None:
        """Frees the native graph; calling it twice is harmless."""
        if self._landmarker is not None:
            self._landmarker.close()
            self._landmarker = None

    def __enter__(self) -> FaceMesh:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def mediapipe() -> Any:
    """The package, imported without what it would record sound with: looking for that library starts a compiler."""
    hidden = "sounddevice" not in sys.modules
    if hidden:
        sys.modules["sounddevice"] = None  # type: ignore[assignment] # an import of it fails, which MediaPipe expects
    try:
        import mediapipe as package
        import mediapipe.tasks.python
    finally:
        if hidden:
            sys.modules.pop("sounddevice", None)
    return package
