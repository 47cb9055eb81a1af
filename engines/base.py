"""The seams between the tool and whatever runs the network: an engine that runs, and the backend that makes it.

A backend is one object in one file, named in `engines.BACKENDS`. It builds a serialised engine from a model (where its
library has such a thing), loads it, and says what a built engine depends on. Which forms of a model there are is known
to `engines.variants`, where built engines lie to `engines.cache`, whether they compute the right thing to
`engines.parity`, and which of them is fastest here to `engines.select`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.spec import ModelSpec

Batch = NDArray[np.uint8]
Progress = Callable[[str], None]
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
MOST_BATCH = 4


class Engine(Protocol):
    """A loaded model, ready to run. State belongs to the track, never to the engine."""

    name: str
    spec: ModelSpec
    sha256: str

    def describe(self) -> Mapping[str, Any]:
        """Backend, version, precision, threads, crop size, model hash: for reports and ``doctor``."""
        ...

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        """Completes aligned crops.

        Args:
            crop: uint8[N, S, S, 3], RGB; any N (see `in_batches` for engines of a fixed one).
            extra: uint8[N, S, S, K] further channels that the model's metadata names, or None where K is 0.

        Returns:
            The completed crops uint8[N, S, S, 3] and the mask maps uint8[N, S, S] (0..255).

        Raises:
            EngineError: the backend failed.
        """
        ...

    def close(self) -> None:
        """Frees the backend's resources; calling it twice is harmless."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How an engine is built and run.

    Attributes:
        precision: one of `PRECISIONS`.
        batch: crops in one call of fixed shapes, 1 to `MOST_BATCH`.
        threads: threads inside one call, on a processor.
        target_gpu: compute capabilities to build for ("SM86"), empty for the GPU that is here.
    """

    precision: str = "fp32"
    batch: int = 1
    threads: int = 1
    target_gpu: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Usable:
    """Whether a backend can run here.

    Attributes:
        ok: it can.
        why: why not, and what to do about it; where it can, what is worth knowing; may be empty.
        version: full build version of its library, "" where that is not installed.
        device: what it would run on ("cpu", a GPU's name), "" where there is none.
        automatic: whether ``--engine auto`` may try it; False where trying costs too much (torch on a processor).
    """

    ok: bool
    why: str = ""
    version: str = ""
    device: str = ""
    automatic: bool = True


class Backend(Protocol):
    """A way to run models."""

    name: str
    precisions: tuple[str, ...]
    """What it can run, the reference's precision or the fastest first; `Usable` says whether it can here."""
    builds: bool
    """Whether `build` makes something worth keeping (a plan, a compiled blob)."""

    def usable(self) -> Usable:
        """Never raises, imports nothing heavy that it can avoid, uses no network."""
        ...

    def variant(self, precision: str) -> str:
        """Which form of the model (a key of `engines.variants.VARIANTS`) `build` and `load` want for a precision."""
        ...

    def key(self, settings: Settings) -> Mapping[str, str]:
        """What a cached engine depends on beside model and settings: full build version, GPU name, compute capability
        and driver or the processor's instruction set, builder settings."""
        ...

    def build(self, model: bytes, settings: Settings, progress: Progress) -> bytes:
        """The serialised engine, b"" where nothing is built.

        Raises:
            EngineError: the library refused the model; says what to do.
            ExtraError: the library is not there.
        """
        ...

    def load(self, model: bytes, built: bytes, settings: Settings) -> Engine:
        """An engine that is ready to run.

        Raises:
            EngineError: `built` does not fit this library, device or model (the cache then builds it again).
            ExtraError: the library, driver or device is not there.
            ModelError: the model is damaged or foreign.
        """
        ...

    def inspect(self, built: bytes) -> Mapping[str, Any]:
        """What a serialised engine tells about itself: layers, precisions, size, targets; {} where nothing is built."""
        ...


def in_batches(run: Callable[[Batch], tuple[Batch, Batch]], crop: Batch, batch: int) -> tuple[Batch, Batch]:
    """Runs any number of crops through a call of a fixed number; the last call is filled up with its last crop."""
    count = len(crop)
    if count == batch:
        return run(crop)
    faces, maps = [], []
    for start in range(0, max(count, 1), batch):
        part = crop[start : start + batch]
        if len(part) < batch and len(part):
            part = np.concatenate([part, np.repeat(part[-1:], batch - len(part), 0)])
        face, found = run(part)
        faces.append(face)
        maps.append(found)
    return np.concatenate(faces)[:count], np.concatenate(maps)[:count]
