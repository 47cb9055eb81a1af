"""An engine whose device may go away: then the CPU goes on, and the log says so."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from engines.base import Batch, Engine
from unmask_rt.errors import EngineError

log = logging.getLogger(__name__)


class FallbackEngine:
    """Runs an engine; when it fails, another one from then on.

    Args:
        engine: the one that is wanted.
        spare: opens the other.
    """

    def __init__(self, engine: Engine, spare: Callable[[], Engine]) -> None:
        self._engine, self._spare = engine, spare
        self.name, self.spec, self.sha256 = engine.name, engine.spec, engine.sha256
        self._closed = False
        self.failure = ""
        """Why the other one runs, "" while the first does."""

    def describe(self) -> Mapping[str, Any]:
        told = dict(self._engine.describe())
        return told | {"fell_back": self.failure} if self.failure else told

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        try:
            return self._engine(crop, extra)
        except EngineError as error:
            if self.failure or self._closed:
                raise
            spare = self._spare()
            try:
                answer = spare(crop, extra)
            except EngineError:  # it was the crop, not the device
                spare.close()
                raise error from None
            self.failure = f"{self.name}: {error.message}"
            log.warning("the engine %s failed and the processor goes on instead: %s", self.name, error.message)
            lost, self._engine = self._engine, spare
            self.name = spare.name
            try:
                lost.close()
            except Exception as second:  # a device that is gone may not let go in order
                log.info("closing %s: %s", lost.name, second)
            return answer

    def close(self) -> None:
        self._closed = True
        self._engine.close()
