"""A backend that builds at once: its engine copies the crop, as the tiny test model does, and can be made to fail."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engines.base import Batch, Engine, Progress, Settings, Usable
from engines.metadata import identify
from unmask_rt.errors import EngineError

BUILT = b"built engine"


class CopyEngine:
    """Gives the crop back, ``off`` levels too bright; fails from the ``dies``-th call on."""

    name = "fake"

    def __init__(self, model: bytes, off: int, dies: int) -> None:
        self.spec, self.sha256 = identify(model)
        self.off, self.dies, self.calls, self.closed = off, dies, 0, False

    def describe(self) -> Mapping[str, Any]:
        return {"engine": self.name, "model_sha256": self.sha256}

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        self.calls += 1
        if self.calls >= self.dies:
            raise EngineError("the device is lost")
        return np.clip(crop.astype(np.int16) + self.off, 0, 255).astype(np.uint8), crop[..., 0].copy()

    def close(self) -> None:
        self.closed = True


class FakeBackend:
    name = "fake"
    precisions: tuple[str, ...] = ("fp32", "int8")
    builds = True

    def __init__(self) -> None:
        self.version, self.device, self.why = "1.0", "cpu", ""
        self.builds_done, self.off, self.dies = 0, 0, 10**9
        self.refuses: bytes = b""
        """An engine that the library will not load."""

    def usable(self) -> Usable:
        return Usable(not self.why, self.why, self.version, self.device)

    def variant(self, precision: str) -> str:
        return "fp32"

    def key(self, settings: Settings) -> Mapping[str, str]:
        return {"version": self.version}

    def build(self, model: bytes, settings: Settings, progress: Progress) -> bytes:
        self.builds_done += 1
        progress("building")
        return BUILT

    def load(self, model: bytes, built: bytes, settings: Settings) -> Engine:
        if built == self.refuses:
            self.refuses = b"-"
            raise EngineError("built for another driver")
        assert built == BUILT
        return CopyEngine(model, self.off, self.dies)

    def inspect(self, built: bytes) -> Mapping[str, Any]:
        return {"bytes": len(built)}


BACKEND = FakeBackend()
