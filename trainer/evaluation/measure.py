"""The loop over the test pictures: every model and every baseline on the same cases, figure by figure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.figures import Estimate, summarise
from trainer.evaluation.metrics import Target, map_figures, says_mask
from trainer.evaluation.pictures import BASELINES, Case, Draw, Picture, at_size, cases
from trainer.people import AGES, PERSON

if TYPE_CHECKING:
    from trainer.evaluation.features import FeatureDistance, Features
    from trainer.evaluation.identity import FaceDescriptor
    from trainer.runs import Restorer

Batch = NDArray[np.uint8]
BATCH = 8
GROUPS = ("family", "source", *PERSON)
"""What pictures are grouped by: family of the mask, source and traits of the face."""
Kind = Literal["model", "baseline"]


@dataclass(slots=True)
class System:
    """What one model or baseline reached.

    Attributes:
        name, kind: of it.
        size: side of the crops that it works on, pixels.
        rows: figures of each picture, in the order of the pictures.
        descriptors: float64[128] of each output, empty where they are left out.
    """

    name: str
    kind: Kind
    size: int
    rows: list[dict[str, float]] = field(default_factory=list)
    descriptors: list[NDArray[np.float64]] = field(default_factory=list)


@dataclass(slots=True)
class Measured:
    """What all of them reached on the same pictures.

    Attributes:
        draw: which pictures.
        size: side that was measured at.
        systems: models first, then baselines.
        pictures: row, source, identity and family of each, and what is known of the person.
        digest: SHA-256 over the masked pictures: equal where pictures and masks are.
        truths: descriptors of the truth.
    """

    draw: Draw
    size: int
    systems: list[System]
    pictures: list[dict[str, Any]] = field(default_factory=list)
    digest: str = ""
    truths: list[NDArray[np.float64]] = field(default_factory=list)

    def groups(self) -> dict[str, list[int]]:
        """Positions of the pictures: all, and by each of `GROUPS`."""
        result: dict[str, list[int]] = {"all": list(range(len(self.pictures)))}
        for key in GROUPS:
            for name in sorted({p[key] for p in self.pictures if key in p}, key=_in_order):
                result[f"{key} {name}"] = [i for i, p in enumerate(self.pictures) if p.get(key) == name]
        return result

    def summary(self, system: System) -> dict[str, dict[str, Estimate]]:
        """Estimates of a system by group and figure."""
        result = {name: summarise([system.rows[i] for i in picks]) for name, picks in self.groups().items()}
        if system.descriptors:
            from trainer.evaluation.identity import MIN_FRECHET, frechet

            count = len(system.descriptors)
            if count >= MIN_FRECHET:
                value = frechet(np.stack(system.descriptors), np.stack(self.truths))
                result["all"]["frechet"] = Estimate(value, None, None, count)
        return result

    def strangers(self) -> float | None:
        """Mean identity distance between the pictures' own people: what no likeness at all would give."""
        if not self.truths:
            return None
        from trainer.evaluation.identity import between_strangers

        return between_strangers(np.stack(self.truths), [p["identity"] for p in self.pictures])


class Judges:
    """The networks that judge, each of them optional."""

    def __init__(self, features: FeatureDistance | None = None, descriptor: FaceDescriptor | None = None) -> None:
        self.features, self.descriptor = features, descriptor

    def truth_features(self, truths: Batch) -> Features | None:
        return None if self.features is None else self.features.features(truths)

    def add_features(self, rows: list[dict[str, float]], outputs: Batch, holes: Batch, truth: Features | None) -> None:
        """Adds the four feature distances of a batch to its rows; ``holes`` are the truths with the outputs' holes."""
        if self.features is None or truth is None:
            return
        for prefix, pictures in (("", outputs), ("hole_", holes)):
            feature, apart = self.features.distances(pictures, truth)
            for row, one, other in zip(rows, feature, apart, strict=True):
                row |= {f"{prefix}feature": float(one), f"{prefix}fd": float(other)}

    def describe(self, pictures: Iterable[Batch], batch: list[Case]) -> NDArray[np.float64] | None:
        """Descriptors of pictures of the batch's faces, chips cut by the truth's landmarks."""
        if self.descriptor is None:
            return None
        from trainer.evaluation.identity import cut_chip

        chips = []
        for picture, case in zip(pictures, batch, strict=True):
            ratio = picture.shape[0] / case.picture.truth.shape[0]
            chips.append(cut_chip(picture, (case.picture.mesh + 0.5) * ratio - 0.5))
        return self.descriptor.describe(np.stack(chips))


def measure(
    models: Mapping[str, Restorer],
    draw: Draw,
    *,
    size: int,
    judges: Judges,
    true_hole: bool = False,
    workers: int = 1,
    progress: str = "measure",
) -> Measured:
    """Runs models over the pictures of a draw.

    Each model gets the masked picture at its own size; its output is brought to ``size`` (averaged where it shrinks,
    cubic where it grows) and measured there. The hole is the one that the model finds, unless ``true_hole``.

    Args:
        models: by the name that they are shown under.
        draw: the pictures.
        size: side that is measured at, pixels.
        judges: the networks that judge.
        true_hole: tell the models where the hole is.
        workers: processes beside this one that draw masks and measure baselines.
        progress: what the progress bar says.
    """
    systems = [System(name, "model", model.size) for name, model in models.items()]
    plain = [System(name, "baseline", size) for name in BASELINES]
    result = Measured(draw, size, systems + plain)
    digest = hashlib.sha256()
    stream = _shown(cases(draw, size, workers=workers), len(draw.rows), progress)
    while batch := list(islice(stream, BATCH)):
        for case in batch:
            digest.update(case.picture.masked.tobytes())
            about = case.picture
            result.pictures.append(
                {"row": about.row, "source": about.source, "identity": about.identity, "family": about.family}
                | about.person
            )
        targets = [Target(c.truth, c.masked, c.alpha) for c in batch]
        truths = np.stack([c.truth for c in batch])
        wanted, known = judges.truth_features(truths), judges.describe(truths, batch)
        if known is not None:
            result.truths.extend(known)
        for system in result.systems:
            if system.kind == "model":
                rows, outputs = _run(models[system.name], batch, targets, size, true_hole=true_hole)
            else:
                rows = [dict(case.figures[system.name]) for case in batch]
                outputs = np.stack([case.baselines[system.name] for case in batch])
            holes = np.stack([t.only_hole(o) for t, o in zip(targets, outputs, strict=True)])
            judges.add_features(rows, outputs, holes, wanted)
            described = judges.describe(outputs, batch)
            if described is not None and known is not None:
                _add_identity(rows, described, known)
                system.descriptors.extend(described)
            system.rows.extend(rows)
    result.digest = digest.hexdigest()
    return result


def _run(
    model: Restorer, batch: list[Case], targets: list[Target], size: int, *, true_hole: bool
) -> tuple[list[dict[str, float]], Batch]:
    """Figures and outputs (at ``size``) of a model on a batch."""
    outputs, maps = restore(model, [c.picture for c in batch], size, true_hole=true_hole)
    rows = [t.figures(o) for t, o in zip(targets, outputs, strict=True)]
    if not true_hole:
        bare = model(np.stack([at_size(c.picture.truth, model.size) for c in batch]))[1]
        for row, found, none, case in zip(rows, maps, bare, batch, strict=True):
            hole = at_size(case.picture.alpha, model.size) > 0.5
            masked, clear = float(says_mask(found)), float(not says_mask(none))
            row |= map_figures(found, hole)
            row |= {"gate_masked": masked, "gate_bare": clear, "gate": (masked + clear) / 2}
    return rows, outputs


def restore(model: Restorer, pictures: list[Picture], size: int, *, true_hole: bool) -> tuple[Batch, Batch]:
    """A model's outputs at ``size``, uint8[N, size, size, 3], and its maps at its own size."""
    crops = np.stack([at_size(p.masked, model.size) for p in pictures])
    alpha = None
    if true_hole:
        alpha = np.stack([np.round(at_size(p.alpha, model.size) * 255).astype(np.uint8) for p in pictures])
    faces, maps = model(crops, alpha)
    return np.stack([at_size(face, size) for face in faces]), maps


def _in_order(name: str) -> tuple[int, str]:
    """Sorts names by the alphabet, spans of age by age."""
    spans = [span for _, span in AGES]
    return (spans.index(name) if name in spans else 0), name


def _add_identity(rows: list[dict[str, float]], found: NDArray[np.float64], known: NDArray[np.float64]) -> None:
    from trainer.evaluation.identity import SAME_PERSON, distances

    for row, distance in zip(rows, distances(found, known), strict=True):
        row |= {"identity": float(distance), "identity_same": float(distance < SAME_PERSON)}


def _shown(stream: Iterator[Case], count: int, text: str) -> Iterator[Case]:
    """The stream with a progress bar on stderr."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(stream, text, count, console=console, disable=not console.is_terminal)


def default_size(models: Iterable[Restorer]) -> int:
    """The side that several models are compared at: the smallest of theirs, so that none has to invent pixels."""
    return min(m.size for m in models)


def name_of(path: Path) -> str:
    """How a run or a model file is shown."""
    return path.stem if path.suffix == ".onnx" else path.resolve().name
