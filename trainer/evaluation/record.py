"""The record of an evaluation, ``evaluation.json``: what was measured, on which pictures, with which result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trainer.evaluation.figures import FIGURES, Estimate
from trainer.evaluation.measure import Kind, Measured
from unmask_rt.errors import UsageError

FORMAT = "unmask-evaluation-1"
NAME = "evaluation.json"

Groups = dict[str, dict[str, Estimate]]


@dataclass(frozen=True, slots=True)
class Result:
    """Of one model or baseline.

    Attributes:
        name, kind: of it.
        size: side of the crops that it works on, pixels.
        groups: estimates by group ("all", "family NAME", "source NAME") and figure.
    """

    name: str
    kind: Kind
    size: int
    groups: Groups


@dataclass(frozen=True, slots=True)
class Record:
    """One evaluation.

    Attributes:
        settings: which pictures, masks and judges; ``pictures_sha256`` is equal where pictures and masks are.
        results: models first, then baselines.
        strangers: mean identity distance between different people of the pictures, None where it was left out.
        notes: what was left out and why, in words.
        protocol: rows of the ancestors' protocols (`trainer.evaluation.protocols`), empty where not asked for.
        photos: the gate's figures on photographs (`trainer.evaluation.photos`), empty where not asked for.
        frames: figures of whole pictures (`trainer.evaluation.frames`), empty where not asked for.
        clips: one entry a clip (`trainer.evaluation.clips`), empty where not asked for.
    """

    settings: dict[str, Any]
    results: list[Result]
    strangers: float | None = None
    notes: list[str] = field(default_factory=list)
    protocol: list[dict[str, Any]] = field(default_factory=list)
    photos: dict[str, Estimate] = field(default_factory=dict)
    frames: dict[str, Estimate] = field(default_factory=dict)
    clips: list[dict[str, Any]] = field(default_factory=list)

    @property
    def models(self) -> list[Result]:
        return [r for r in self.results if r.kind == "model"]

    def write(self, path: Path) -> None:
        """Writes it as JSON."""
        path.write_text(json.dumps({"format": FORMAT} | asdict(self), indent=1) + "\n")


def record_of(measured: Measured, settings: dict[str, Any], notes: list[str]) -> Record:
    """The record of what was measured."""
    draw = measured.draw
    about = {
        "data": draw.data.resolve().name,
        "split": draw.split,
        "sources": list(draw.sources),
        "count": len(measured.pictures),
        "seed": draw.seed,
        "profiles": draw.profiles,
        "in_front": draw.in_front,
        "families": dict(draw.families),
        "size": measured.size,
        "pictures_sha256": measured.digest,
    }
    results = [Result(s.name, s.kind, s.size, measured.summary(s)) for s in measured.systems]
    return Record(about | settings, results, measured.strangers(), notes)


def read(path: Path) -> Record:
    """Reads a record.

    Raises:
        UsageError: it is missing or none.
    """
    hint = "Give an evaluation.json that `unmask-train evaluate` wrote, a run, or a model."
    try:
        stored = json.loads(path.read_text())
        if stored["format"] != FORMAT:
            raise ValueError(f"its format is {stored['format']!r}")
        results = [
            Result(r["name"], r["kind"], r["size"], {g: _estimates(v) for g, v in r["groups"].items()})
            for r in stored["results"]
        ]
        photos = {key: Estimate(**value) for key, value in stored["photos"].items()}
        rest = (stored["strangers"], stored["notes"], stored["protocol"], photos, _estimates(stored["frames"]))
        return Record(stored["settings"], results, *rest, stored["clips"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} is no evaluation: {error}", hint) from error


def _estimates(stored: dict[str, Any]) -> dict[str, Estimate]:
    return {key: Estimate(**value) for key, value in stored.items() if key in FIGURES}
