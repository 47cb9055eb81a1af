"""What takes long the first time only, done in a thread while models load: .2 s less until the first frame."""

from __future__ import annotations

import threading
from contextlib import suppress

import cv2
import numpy as np


def warm_up() -> None:
    """Starts; nobody has to wait for it, and what fails here fails again where it is used."""
    threading.Thread(target=_warm_up, name="warm-up", daemon=True).start()


def _warm_up() -> None:
    from unmask_rt.faces.mesh import mediapipe

    cv2.cvtColor(np.zeros((1, 1, 3), np.uint8), cv2.COLOR_RGB2LAB)  # OpenCV makes its tables
    np.random.default_rng()  # numpy loads it when asked for
    with suppress(ImportError, OSError):
        mediapipe()
