"""The seam between the tool and whatever runs the network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.spec import ModelSpec

Batch = NDArray[np.uint8]


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
            crop: uint8[N, S, S, 3], RGB.
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
