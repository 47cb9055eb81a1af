"""``--engine auto``: which backend and precision is fastest here, of those that are installed, usable and right.

Measured once, in a second or two, and remembered for this model, these versions and this machine. A backend whose
engines take long to build takes part only once its engine is built (`unmask-engine build`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from engines import BACKENDS, backend, cache, crops, machine, variants
from engines.base import Backend, Engine, Settings, Usable
from engines.metadata import identify
from engines.obtain import is_reference, obtain
from unmask_rt.errors import ParityError, UnmaskError

AGAIN_S = 24 * 3600
"""How long a choice holds if an engine took no part for a reason that may pass, as a GPU without memory."""
BUDGET_S = 1.0
"""For timing all candidates, once they are loaded."""
ROUNDS = 8
LEAST_ROUNDS = 2
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """An engine that may be tried; ``key`` is the name of its entry in the cache."""

    name: str
    settings: Settings
    key: str

    @property
    def label(self) -> str:
        return f"{self.name} {self.settings.precision}"


@dataclass(frozen=True, slots=True)
class Choice:
    """What ``auto`` takes.

    Attributes:
        name, precision: the winner.
        times_ms: a crop's time for each candidate that was measured; empty where there was only one.
        rejected: every other backend and precision, and why it does not take part.
    """

    name: str
    precision: str
    times_ms: Mapping[str, float]
    rejected: Mapping[str, str]

    def line(self) -> str:
        """For people."""
        times = ", ".join(f"{label} {ms:.1f} ms" for label, ms in self.times_ms.items())
        return f"{self.name} {self.precision}" + (f" (measured: {times})" if times else " (nothing else can be used)")


def candidates(
    names: Iterable[str], model: bytes, settings: Settings, precision: str = "auto"
) -> tuple[list[Candidate], dict[str, str]]:
    """Who may take part, and why the others may not; loads and builds nothing.

    Raises:
        ModelError: the model is damaged or foreign.
    """
    identify(model)
    found, rejected = [], {}
    for name in names:
        chosen = backend(name)
        state = chosen.usable()
        if not state.ok or not state.automatic:
            rejected[name] = state.why or "not measured by itself: choose it with --engine"
            continue
        for wanted in chosen.precisions if precision == "auto" else (precision,):
            one = replace(settings, precision=wanted)
            reason, key = _reason(chosen, state, model, one)
            if reason:
                rejected[f"{name} {wanted}"] = reason
            else:
                found.append(Candidate(name, one, key))
    return found, rejected


def _reason(chosen: Backend, state: Usable, model: bytes, settings: Settings) -> tuple[str, str]:
    """Why a precision does not take part ("" where it does), and the key of its entry in the cache."""
    if settings.precision not in chosen.precisions:
        return "the engine does not run this precision", ""
    if is_reference(chosen.name, settings):
        return "", f"reference {state.version}"
    if settings.precision == "int8" and state.device == "cpu" and not machine.fast_int8()[0]:
        return f"slower than fp32 or less exact here: {machine.fast_int8()[1]}", ""
    variant = variants.find(model, chosen.variant(settings.precision))
    if variant is None:
        return f"the model's {chosen.variant(settings.precision)} form is not there (unmask-engine build)", ""
    key = cache.key_of(chosen, model, variant, settings)
    if chosen.builds and state.device != "cpu" and cache.read(key) is None:
        return f"not built yet: unmask-engine build --backend {chosen.name} --precision {settings.precision}", ""
    return "", key.name


def choose(names: Iterable[str], model: bytes, settings: Settings, precision: str = "auto") -> tuple[Choice, Engine]:
    """The fastest candidate, opened.

    Args:
        names: backends that take part.
        model: bytes of the fp32 model.
        settings: how engines are built; the precision in it does not count.
        precision: one of `engines.base.PRECISIONS`, or "auto".

    Raises:
        UnmaskError: nothing can be used; says why.
    """
    names = list(names)
    found, rejected = candidates(names, model, settings, precision)
    if len(found) <= 1:  # with none the error says why, with one there is nothing to measure
        name, wanted = (
            (found[0].name, found[0].settings.precision) if found else (names[0], _first(names[0], precision))
        )
        engine = obtain(name, model, replace(settings, precision=wanted))
        return Choice(name, wanted, {}, rejected), engine
    place = _place(model, found)
    kept = _remembered(place)
    if kept is not None:
        try:
            engine = obtain(kept.name, model, replace(settings, precision=kept.precision))
        except UnmaskError as error:
            log.warning("%s %s was chosen before and cannot be used now: %s", kept.name, kept.precision, error.message)
        else:
            return replace(kept, rejected=rejected | dict(kept.rejected)), engine
    return _measured(found, model, rejected, place)


def _first(name: str, precision: str) -> str:
    return backend(name).precisions[0] if precision == "auto" else precision


def _measured(found: list[Candidate], model: bytes, rejected: dict[str, str], place: Path) -> tuple[Choice, Engine]:
    engines: dict[Candidate, Engine] = {}
    failures: dict[str, UnmaskError] = {}
    for candidate in found:
        engine = None
        try:
            engine = obtain(candidate.name, model, candidate.settings)
            engine(crops.load(engine.spec.crop_size, 1))  # a device may be lost as late as now
        except UnmaskError as error:
            if engine is not None:
                engine.close()
            if len(failures) == len(found) - 1:
                raise
            failures[candidate.label] = error
        else:
            engines[candidate] = engine
    try:
        times = [timing.fastest_s for timing in time_engines(list(engines.values()), budget_s=BUDGET_S)]
    except BaseException:
        for engine in engines.values():
            engine.close()
        raise
    order = sorted(zip(times, engines, strict=True), key=lambda pair: pair[0])
    best = order[0][1]
    for candidate, engine in engines.items():
        if candidate is not best:
            engine.close()
    told = {candidate.label: round(seconds * 1e3, 2) for seconds, candidate in order}
    reasons = {label: error.message for label, error in failures.items()}
    choice = Choice(best.name, best.settings.precision, told, rejected | reasons)
    lasting = all(isinstance(error, ParityError) for error in failures.values())
    cache.write(
        place,
        json.dumps(
            {
                "choice": {"name": choice.name, "precision": choice.precision},
                "times_ms": told,
                "rejected": reasons,
                "until": None if lasting else time.time() + AGAIN_S,
            },
            indent=1,
        ).encode(),
    )
    return choice, engines[best]


@dataclass(frozen=True, slots=True)
class Timing:
    """Of one engine, a crop: in its fastest call, and the processor's time in the call in the middle."""

    fastest_s: float
    cpu_s: float


def time_engines(
    engines: list[Engine], *, rounds: int = ROUNDS, budget_s: float = 60.0, batch: int = 1
) -> list[Timing]:
    """Times engines in turns, so that a busy machine is busy for all of them; ``batch`` crops a call."""
    if not engines:
        return []
    given = crops.load(engines[0].spec.crop_size, 2 * batch)
    walls: list[list[float]] = [[] for _ in engines]
    cpus: list[list[float]] = [[] for _ in engines]
    for engine in engines:
        engine(given[:batch])  # the first call allocates
    start = time.monotonic()
    for turn in range(rounds):
        for engine, wall, cpu in zip(engines, walls, cpus, strict=True):
            before = time.perf_counter(), time.process_time()
            engine(given[:batch] if turn % 2 else given[batch:])
            wall.append((time.perf_counter() - before[0]) / batch)
            cpu.append((time.process_time() - before[1]) / batch)
        if turn + 1 >= LEAST_ROUNDS and time.monotonic() - start > budget_s:
            break
    return [Timing(min(wall), float(np.median(cpu))) for wall, cpu in zip(walls, cpus, strict=True)]


def remembered(model: bytes, settings: Settings) -> tuple[Choice | None, dict[str, str]]:
    """What ``auto`` chose before on this machine (None: not measured yet), and why others take no part."""
    found, rejected = candidates(BACKENDS, model, settings)
    if len(found) == 1:
        return Choice(found[0].name, found[0].settings.precision, {}, rejected), rejected
    kept = _remembered(_place(model, found))
    return kept, rejected | (dict(kept.rejected) if kept is not None else {})


def _place(model: bytes, found: list[Candidate]) -> Path:
    """Where a choice among these is remembered."""
    told = [identify(model)[1], *sorted(f"{c.label} {c.settings.threads} {c.settings.batch} {c.key}" for c in found)]
    digest = hashlib.sha256("\n".join([machine.instruction_set(), *told]).encode()).hexdigest()
    return cache.folder() / f"choice-{digest[:20]}.json"


def _remembered(place: Path) -> Choice | None:
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        stored: dict[str, Any] = json.loads(place.read_text("utf-8"))
        if stored["until"] is not None and time.time() > float(stored["until"]):
            return None
        times = {str(label): float(ms) for label, ms in stored["times_ms"].items()}
        name, precision = str(stored["choice"]["name"]), str(stored["choice"]["precision"])
        if name in BACKENDS:
            return Choice(name, precision, times, {str(k): str(v) for k, v in stored["rejected"].items()})
    return None
