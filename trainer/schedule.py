"""How long each stage lasts, and how its learning rate goes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.preset import Stage
from unmask_rt.errors import UsageError

UNITS = ("steps", "pictures", "epochs", "minutes")


@dataclass(frozen=True, slots=True)
class Budget:
    """How long a run is trained: an amount of one of `UNITS`, all its stages together."""

    unit: str
    amount: float

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UsageError(f"a run is not measured in {self.unit!r}", f"One of: {', '.join(UNITS)}.")
        if not (self.amount > 0 and math.isfinite(self.amount)):
            raise UsageError(f"{self.amount:g} {self.unit} is no length of a run", "Give a number above 0.")


@dataclass(frozen=True, slots=True)
class Length:
    """How long a stage is trained: ``steps``, or (where that is 0) ``seconds``."""

    steps: int
    seconds: float

    def progress(self, step: int, seconds: float) -> float:
        """Share of the stage that is over, from 0 to 1, before this step and after so many seconds of training."""
        return min(1.0, step / self.steps if self.steps else seconds / self.seconds)


def lengths(budget: Budget, stages: Sequence[Stage], faces: int, processes: int) -> list[Length]:
    """A length for each stage, by their shares.

    Args:
        budget: for all of them.
        stages: those that are trained.
        faces: samples of one epoch.
        processes: each takes a batch of its own a step.
    """
    if budget.unit == "minutes":
        whole = sum(s.time_share for s in stages)
        return [Length(0, budget.amount * 60 * s.time_share / whole) for s in stages]
    whole = sum(s.share for s in stages)
    if budget.unit == "steps":
        return [Length(max(1, round(budget.amount * s.share / whole)), 0.0) for s in stages]
    pictures = budget.amount * (faces if budget.unit == "epochs" else 1)
    return [Length(max(1, math.ceil(pictures * s.share / whole / (s.batch * processes))), 0.0) for s in stages]


def constant(progress: float, step: int) -> float:
    """Always the same."""
    return 1.0


def warm_cosine(progress: float, step: int) -> float:
    """Warm-up over 200 steps, flat, then a cosine to 5 % over the last half of the stage."""
    late = max(0.0, progress - 0.5) * 2
    return min(1.0, (step + 1) / 200) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(late, 1.0))))


SCHEDULES: dict[str, Callable[[float, int], float]] = {"constant": constant, "warm-cosine": warm_cosine}
"""``schedule`` of a stage -> factor of its learning rates from (progress 0..1, step)."""
