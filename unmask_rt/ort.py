"""ONNX Runtime without its telemetry: the only place where it is imported.

From 1.29 on it sends telemetry unless this variable is set before it is loaded, and keeps an id of the device in the
home folder; on Windows it also writes events of the system's own kind.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime as ort  # not before the variable

ort.disable_telemetry_events()

__all__ = ["ort"]
