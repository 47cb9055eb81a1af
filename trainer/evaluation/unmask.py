"""Pictures in; maps and results out, as two folders.

    OUT/maps/...     where the model says mask, 0..255 in the picture's own pixels, PNG
    OUT/results/...  the picture with the mask taken off, marked as synthetic in its metadata

Faces are found, judged and blended exactly as the tool does it. A picture in which nobody wears a mask is copied, and
its map is black. Needs mediapipe and av.
"""

from __future__ import annotations

import argparse
import hashlib
import os
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines import open_engine
from engines.base import Batch, Engine
from engines.spec import ModelSpec
from trainer.evaluation.options import open_model
from unmask_rt import models, native_logs
from unmask_rt.align import TEMPLATE
from unmask_rt.errors import ExtraError, UsageError

if TYPE_CHECKING:
    from trainer.runs import Restorer

CHECKPOINT = "checkpoint.pt"
"""What of a run is hashed, to say in the results which weights made them."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unmask-train unmask``."""
    parser.add_argument("pictures", type=Path, metavar="DIR", help="a folder of pictures, or one picture")
    parser.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="gets the folders maps and results"
    )
    parser.add_argument("--model", type=Path, metavar="RUN|MODEL", help="default: the bundled model")
    parser.add_argument("--map", type=Path, metavar="RUN|MODEL", help="whose map a system without one uses")
    parser.add_argument("--max-faces", type=int, default=20, help="a picture (default: %(default)s)")
    parser.add_argument("--face-model", type=Path, help="a local copy of face_landmarker.task")
    parser.add_argument("--finder-model", type=Path, help="a local copy of centerface.onnx")
    parser.add_argument("--device", default="cpu", help="where the network runs (default: %(default)s)")
    parser.add_argument("-y", "--overwrite", action="store_true", help="replace files that are there")


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


def main(arguments: argparse.Namespace) -> int:
    """``unmask-train unmask``; returns 0, or 1 where some pictures could not be read.

    Raises:
        UnmaskError: it did not work.
    """
    if arguments.max_faces < 1:
        raise UsageError(f"--max-faces {arguments.max_faces} leaves nobody", "Give 1 or more.")
    try:
        from trainer.evaluation.unmask_folder import unmask_folder
    except ImportError as error:
        raise ExtraError(
            f"pictures cannot be unmasked here: {error}", "Install unmask-rt with its dependencies (mediapipe, av)."
        ) from error
    native_logs.quiet()
    with closing(open_any(arguments)) as engine:
        return unmask_folder(
            engine,
            arguments.pictures,
            arguments.out,
            max_faces=arguments.max_faces,
            face_model=arguments.face_model,
            finder_model=arguments.finder_model,
            overwrite=arguments.overwrite,
        )


def open_any(arguments: argparse.Namespace) -> Engine:
    """The engine of an exported or the bundled model, or a run in an engine's clothes.

    Raises:
        UnmaskError: it is neither, or broken.
    """
    path: Path | None = arguments.model
    if path is None or not path.is_dir():
        if arguments.map is not None:
            raise UsageError("--map does not go with an exported model: it has its own", "Leave it out.")
        model, _ = models.load_unmask_model(path)
        return open_engine("auto", model, threads=max(1, (os.cpu_count() or 1) // 2))
    restorer = open_model(path, arguments)
    return RestorerEngine(restorer, hashlib.sha256((path / CHECKPOINT).read_bytes()).hexdigest())
