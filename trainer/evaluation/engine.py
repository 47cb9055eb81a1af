"""A run as the tool's own pipeline wants it, for whatever is measured on whole pictures and clips."""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import open_engine
from engines.base import Batch, Engine
from engines.spec import ModelSpec
from trainer.evaluation.options import open_model
from unmask_rt import models
from unmask_rt.align import TEMPLATE
from unmask_rt.errors import UsageError
from unmask_rt.frames import Mode
from unmask_rt.unmasker import UnmaskerOptions, stages_of

if TYPE_CHECKING:
    from trainer.runs import Restorer
    from unmask_rt.pipeline import Stage

CHECKPOINT = "checkpoint.pt"
"""What of a run is hashed, to say in the results which weights made them."""


class RestorerEngine:
    """A restorer as the runtime's stages want it: an `engines.base.Engine`."""

    name = "restorer"

    def __init__(self, restorer: Restorer, sha256: str) -> None:
        template = tuple((float(x), float(y)) for x, y in TEMPLATE)
        self.spec = ModelSpec(restorer.name, restorer.size, template, (), "as of the run", "a run of the trainer")
        self.sha256 = sha256
        self._restorer = restorer

    def describe(self) -> Mapping[str, Any]:
        return {"engine": self.name, "model": self.spec.name, "model_sha256": self.sha256}

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        return self._restorer(crop)

    def close(self) -> None:
        pass


def open_engine_of(path: Path | None, arguments: argparse.Namespace) -> Engine:
    """The engine of an exported or the bundled model (None or its name), or a run in an engine's clothes.

    Args:
        path: which.
        arguments: ``map`` and ``device`` are used.

    Raises:
        UnmaskError: it is neither, or broken.
    """
    if path is not None and str(path) == "default":
        path = None
    if path is None or not path.is_dir():
        if arguments.map is not None:
            raise UsageError("--map does not go with an exported model: it has its own", "Leave it out.")
        model, _ = models.load_unmask_model(path)
        return open_engine("onnxruntime", model, threads=max(1, (os.cpu_count() or 1) // 2), precision="fp32")
    restorer = open_model(path, arguments)
    return RestorerEngine(restorer, hashlib.sha256((path / CHECKPOINT).read_bytes()).hexdigest())


@contextmanager
def tool_stages(
    engine: Engine, mode: Mode, *, face_model: Path | None, finder_model: Path | None
) -> Iterator[list[Stage]]:
    """The tool's stages with its own defaults, for one source; closed at the end.

    Raises:
        ModelError: a face model is missing or broken.
    """
    found = models.load_face_model(face_model), models.load_finder_model(finder_model), models.load_aligner_model()
    stages = stages_of(engine, found, mode, UnmaskerOptions())
    with ExitStack() as stack:
        for stage in stages:
            stack.enter_context(closing(stage))
        yield stages
