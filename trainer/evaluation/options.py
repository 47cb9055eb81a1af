"""Options that `evaluate` and `compare` share, and what they open."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.evaluation.measure import Judges
from trainer.evaluation.pictures import EVERY, Draw, choose
from unmask_rt.errors import ModelError, UsageError

if TYPE_CHECKING:
    from trainer.evaluation.features import FeatureDistance
    from trainer.evaluation.identity import FaceDescriptor
    from trainer.runs import Restorer

BACKBONES = ("efficientnet-lite0", "vgg16", "none")


def add_common(parser: argparse.ArgumentParser, *, data_required: bool = True) -> None:
    """What says which pictures, which masks and which judges."""
    parser.add_argument("--data", type=Path, required=data_required, help="a prepared set")
    parser.add_argument("--split", choices=("test", "validation", "train", EVERY), default="test")
    parser.add_argument(
        "--sources", default="", metavar="NAMES", help="faces of these sources only (with --split all: held out whole)"
    )
    parser.add_argument("--count", type=int, default=400, help="at most so many faces (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=5, help="of faces and masks (default: %(default)s)")
    parser.add_argument(
        "--families", default="classic", metavar="NAMES", help="families or groups of masks (default: %(default)s)"
    )
    parser.add_argument("--without", default="", metavar="NAMES", help="families or groups to leave out again")
    parser.add_argument(
        "--profiles", action="store_true", help="on heads that are turned 50 to 78 degrees aside by drawing"
    )
    parser.add_argument(
        "--in-front", action="store_true", help="with another head, hair, a hand or a thing drawn in front of each face"
    )
    parser.add_argument("--size", type=int, help="side measured at, pixels (default: the smallest of the models')")
    parser.add_argument("--map", type=Path, metavar="RUN|MODEL", help="whose map a system without one uses")
    parser.add_argument("--true-hole", action="store_true", help="tell the model where the hole is")
    parser.add_argument(
        "--features", choices=BACKBONES, default=BACKBONES[0], help="of the feature distance (default: %(default)s)"
    )
    parser.add_argument("--no-identity", action="store_true", help="leave out identity and Frechet face distance")
    parser.add_argument("--descriptor", type=Path, metavar="DIR", help="a local copy of the face descriptor's files")
    parser.add_argument("--device", default="cpu", help="where networks run (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw masks (default: %(default)s)")


def check_common(arguments: argparse.Namespace) -> None:
    """Raises UsageError where a number makes no sense."""
    if arguments.workers < 0:
        raise UsageError(f"--workers {arguments.workers} is negative", "Give 0 or more.")
    if arguments.size is not None and arguments.size < 32:
        raise UsageError(f"--size {arguments.size} is too small to measure at", "Give 32 or more.")


def chosen(arguments: argparse.Namespace, families: str | None = None) -> Draw:
    """The pictures that the options ask for, if given with other ``families``; raises as `pictures.choose`."""
    a = arguments
    families, without = (a.families, a.without) if families is None else (families, "")
    how = {"profiles": a.profiles, "in_front": a.in_front}
    return choose(a.data, a.split, a.count, a.seed, families, without, a.sources, **how)


def open_model(path: Path, arguments: argparse.Namespace) -> Restorer:
    """A run, an exported model, or ``default`` for the tool's own.

    Raises:
        UnmaskError: it is neither, or broken.
    """
    from trainer.runs import open_restorer

    return open_restorer(path, map_from=arguments.map, device=arguments.device)


def notes_on(draw: Draw) -> list[str]:
    """What has to be known of the pictures to read their figures."""
    if not draw.unnamed or draw.split == EVERY:
        return []
    names = ", ".join(draw.unnamed)
    return [f"Nothing tells who is on pictures of {names}: a person may have been trained on in another picture."]


def open_judges(arguments: argparse.Namespace, draw: Draw, notes: list[str]) -> Judges:
    """The networks that judge; where the descriptor cannot be had, its figures are left out and ``notes`` says so.

    Raises:
        ModelError: a descriptor was given by its path and is not what it should be.
        ExtraError: the backbone's package is not installed.
    """
    features: FeatureDistance | None = None
    descriptor: FaceDescriptor | None = None
    if arguments.features != "none":
        from trainer.evaluation.features import FeatureDistance

        features = FeatureDistance(arguments.features, arguments.device)
    if arguments.no_identity:
        notes.append("Identity and Frechet face distance were left out: --no-identity.")
    else:
        from trainer.evaluation.identity import MIN_FRECHET, PUBLISHED, FaceDescriptor

        try:
            descriptor = FaceDescriptor(*PUBLISHED.load(arguments.descriptor)).to(arguments.device)
        except ModelError as error:
            if arguments.descriptor is not None:
                raise
            notes.append(f"Identity and Frechet face distance were left out: {error.message}")
        else:
            if len(draw.rows) < MIN_FRECHET:
                notes.append(f"The Frechet face distance was left out: it needs {MIN_FRECHET} pictures.")
    return Judges(features, descriptor)
