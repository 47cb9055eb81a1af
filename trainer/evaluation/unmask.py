"""Pictures in; maps and results out, as two folders.

    OUT/maps/...     where the model says mask, 0..255 in the picture's own pixels, PNG
    OUT/results/...  the picture with the mask taken off, marked as synthetic in its metadata

Faces are found, judged and blended exactly as the tool does it. A picture in which nobody wears a mask is copied, and
its map is black. Needs mediapipe and av.
"""

from __future__ import annotations

import argparse
from contextlib import closing
from pathlib import Path

from trainer.evaluation.engine import open_engine_of
from unmask_rt import native_logs
from unmask_rt.errors import ExtraError, UsageError


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
    with closing(open_engine_of(arguments.model, arguments)) as engine:
        return unmask_folder(
            engine,
            arguments.pictures,
            arguments.out,
            max_faces=arguments.max_faces,
            face_model=arguments.face_model,
            finder_model=arguments.finder_model,
            overwrite=arguments.overwrite,
        )
