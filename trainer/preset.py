"""Presets: what is trained, as data.

A preset is a TOML file in ``presets/`` or anywhere else:

    title, source   what it is, and where it was published
    seed, size      of every random draw; side of the samples in pixels (a multiple of 32, at most 256)
    epochs          how long it is trained where the command line does not say it
    [sources]       how often each source of faces is drawn
    [data]          jitter ("camera", "loose", "pix2pix", "none"), input_half, and what `data.Faces` takes: bare,
                    dressed, shaded, trimmed, coloured, stood_off, in_front, turned, real_share,
                    without
    [[stage]]       name, system, batch, share (of the pictures), and the system's own options; stages run in order

Keys of a stage that every system has: ``size`` and ``data`` (instead of the preset's), ``time_share`` (of the minutes;
as ``share``), ``schedule`` (`schedule.SCHEDULES`), ``ema`` (decay of the average; 0: none), ``clip`` (gradient norm; 0:
none). A key of a stage's own that is missing is an error when the system asks for it.
"""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unmask_rt.errors import MissingError, UsageError

FOLDER = Path(__file__).parent / "presets"
WEIGHTS = ("sources", "people")
"""Tables of how often something is drawn: by source, and by what is told of a person."""
TOP = {"title", "source", "seed", "size", "epochs", "auto_resume", "checkpoint_epochs", *WEIGHTS, "data", "stage"}
DATA = {
    "jitter",
    "bare",
    "dressed",
    "shaded",
    "trimmed",
    "coloured",
    "stood_off",
    "in_front",
    "turned",
    "real_share",
    "without",
    "input_half",
}
COMMON: dict[str, Any] = {"size": 0, "time_share": 0.0, "schedule": "constant", "ema": 0.0, "clip": 0.0, "data": {}}
"""Keys that any stage may leave out, and what that means (0: as the preset, or as the share)."""


class Options(dict[str, Any]):
    """A stage's table, and those in it; a missing key is an error that names it."""

    def __init__(self, table: Mapping[str, Any], where: str) -> None:
        inner = {k: Options(v, f"{where}.{k}") if isinstance(v, Mapping) else v for k, v in table.items()}
        super().__init__(inner)
        self.where = where

    def __missing__(self, key: str) -> Any:
        raise UsageError(
            f"the preset lacks {self.where}.{key}",
            "Add it to the preset's file. A run that was begun without it goes on in another one, with --start.",
        )


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage.

    Attributes:
        name: unique in its preset.
        system: a key of `systems.SYSTEMS`.
        size: side of the samples.
        batch: pictures a step and process.
        share, time_share: relative part of the run's pictures, and of its minutes.
        schedule, ema: of the learning rate and the average.
        data: the [data] table as it holds for this stage.
        options: the whole table, for the system.
    """

    name: str
    system: str
    size: int
    batch: int
    share: float
    time_share: float
    schedule: str
    ema: float
    data: dict[str, Any]
    options: Options


@dataclass(frozen=True, slots=True)
class Preset:
    """A checked preset; ``raw`` is the file's content with all overrides."""

    name: str
    title: str
    seed: int
    size: int
    epochs: float
    auto_resume: bool
    checkpoint_epochs: float
    sources: dict[str, float]
    people: dict[str, float]
    stages: tuple[Stage, ...]
    raw: dict[str, Any]

    def stage(self, name: str) -> Stage:
        """A stage by its name.

        Raises:
            UsageError: there is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = ", ".join(s.name for s in self.stages)
        raise UsageError(f"the preset {self.name} has no stage {name!r}", f"Its stages: {names}.")


def known() -> list[str]:
    """Names of the presets that come with the trainer."""
    return sorted(p.stem for p in FOLDER.glob("*.toml"))


def read(name: str) -> tuple[str, dict[str, Any]]:
    """Name and content of a preset, by its name or by the path of a file.

    Raises:
        MissingError: there is none.
        UsageError: it is no TOML.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise MissingError(f"there is no preset {name!r}", f"There are: {', '.join(known())}; or give a .toml file.")
    try:
        return path.stem, tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is no valid TOML: {error}", "Mend the file.") from error


def load(name: str, overrides: Iterable[str] = ()) -> Preset:
    """Reads, overrides and checks a preset.

    Args:
        name: of a preset that comes along, or the path of a .toml file.
        overrides: "key=value" with dotted keys: "size=128", "stage.edit.width=32", "data.bare=0.1".

    Raises:
        MissingError: there is no such preset.
        UsageError: it or an override makes no sense.
    """
    stem, raw = read(name)
    return check(stem, overridden(raw, overrides))


def overridden(raw: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of a preset's content with overrides; see `load`."""
    raw = copy.deepcopy(raw)
    for text in overrides:
        override(raw, text)
    return raw


def override(raw: dict[str, Any], text: str) -> None:
    """Sets one value in place; it must be there already, or be one that can be left out (`COMMON`, `DATA`, `TOP`)."""
    key, equals, value = text.partition("=")
    path = key.strip().split(".")
    if not equals:
        raise UsageError(f"--set {text!r} is no key=value", "Example: --set stage.edit.width=32")
    try:
        parsed = tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    table: Any = raw
    optional: Iterable[str] = TOP
    for i, part in enumerate(path[:-1]):
        if part == "data" and isinstance(table, dict) and (i == 0 or (i == 2 and path[0] == "stage")):
            table, optional = table.setdefault("data", {}), DATA
        elif i == 0 and part in WEIGHTS:
            table, optional = table.setdefault(part, {}), ()
        elif i == 1 and path[0] == "stage":
            table, optional = next((s for s in table if s.get("name") == part), None), COMMON
        else:
            table, optional = (table.get(part) if isinstance(table, dict) else None), ()
        if table is None:
            raise UsageError(f"--set {key}: there is no {part!r} in the preset", _places(raw))
    if not isinstance(table, dict) or (path[-1] not in table and path[-1] not in optional and path[0] not in WEIGHTS):
        raise UsageError(f"--set {key}: the preset has no such key", _places(raw))
    table[path[-1]] = parsed


def _places(raw: Mapping[str, Any]) -> str:
    stages = [f"stage.{s.get('name')}.KEY" for s in raw.get("stage", []) if isinstance(s, dict)]
    return f"Keys are: size, seed, epochs, data.KEY, sources.NAME, people.WORD, {', '.join(stages)}."


def check(name: str, raw: dict[str, Any]) -> Preset:
    """A preset from a file's content.

    Raises:
        UsageError: something is missing, unknown or out of its range.
    """
    from trainer.augment import JITTERS
    from trainer.schedule import SCHEDULES
    from trainer.systems import SYSTEMS

    def refuse(what: str, hint: str = "Mend the preset.") -> UsageError:
        return UsageError(f"preset {name}: {what}", hint)

    if unknown := set(raw) - TOP:
        raise refuse(f"unknown key {', '.join(sorted(unknown))}", f"Keys are: {', '.join(sorted(TOP))}.")
    if missing := {"title", "seed", "size", "sources", "stage"} - set(raw):
        raise refuse(f"{', '.join(sorted(missing))} is missing")
    if not isinstance(raw["seed"], int) or raw["seed"] < 0:
        raise refuse(f"seed {raw['seed']!r}", "A whole number from 0 on.")
    if not isinstance(raw["stage"], list) or not raw["stage"]:
        raise refuse("it needs one [[stage]] or more")
    stages = []
    for table in raw["stage"]:
        if missing := {"name", "system", "batch"} - set(table):
            raise refuse(f"a stage lacks {', '.join(sorted(missing))}")
        options = Options(COMMON | {"share": 1.0} | table, f"stage.{table['name']}")
        where = f"stage {options['name']}"
        size = options["size"] or raw["size"]
        data = {"jitter": "camera"} | raw.get("data", {}) | options["data"]
        if unknown := set(data) - DATA:
            raise refuse(f"{where}: unknown data key {', '.join(sorted(unknown))}", f"There are: {', '.join(DATA)}.")
        if options["system"] not in SYSTEMS:
            raise refuse(f"{where}: no system {options['system']!r}", f"There are: {', '.join(SYSTEMS)}.")
        if options["schedule"] not in SCHEDULES:
            raise refuse(f"{where}: no schedule {options['schedule']!r}", f"There are: {', '.join(SCHEDULES)}.")
        if data["jitter"] not in JITTERS:
            raise refuse(f"{where}: no jitter {data['jitter']!r}", f"There are: {', '.join(JITTERS)}.")
        if not isinstance(size, int) or size % 32 or not 32 <= size <= 256:
            raise refuse(f"{where}: size {size!r}", "A multiple of 32 from 32 to 256.")
        if not isinstance(options["batch"], int) or options["batch"] < 1:
            raise refuse(f"{where}: batch {options['batch']!r}", "A whole number from 1 on.")
        if not options["share"] > 0 or not 0 <= options["ema"] < 1:
            raise refuse(f"{where}: share must be above 0, and ema from 0 to below 1")
        stages.append(
            Stage(
                options["name"],
                options["system"],
                size,
                options["batch"],
                float(options["share"]),
                float(options["time_share"] or options["share"]),
                options["schedule"],
                float(options["ema"]),
                data,
                options,
            )
        )
    if len({s.name for s in stages}) != len(stages):
        raise refuse("two stages have the same name")
    return Preset(
        name,
        raw["title"],
        raw["seed"],
        raw["size"],
        float(raw.get("epochs", 1.0)),
        bool(raw.get("auto_resume", False)),
        float(raw.get("checkpoint_epochs", 0.0)),
        {k: float(v) for k, v in raw["sources"].items()},
        {k: float(v) for k, v in raw.get("people", {}).items()},
        tuple(stages),
        raw,
    )


def to_toml(table: Mapping[str, Any], prefix: str = "") -> str:
    """TOML of a preset's content: plain values, lists of them, tables, and lists of tables."""
    lines, tables = [], []
    for key, value in table.items():
        if isinstance(value, Mapping):
            tables.append(f"\n[{prefix}{key}]\n{to_toml(value, f'{prefix}{key}.')}")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            tables += [f"\n[[{prefix}{key}]]\n{to_toml(v, f'{prefix}{key}.')}" for v in value]
        else:
            lines.append(
                f"{key if key.replace('-', '').replace('_', '').isalnum() else json.dumps(key)} = {_value(value)}"
            )
    return "\n".join(lines) + ("\n" if lines else "") + "".join(tables)


def _value(value: Any) -> str:
    """JSON's numbers, truth values, lists and strings are TOML's too, as long as no character is escaped."""
    return json.dumps(value, ensure_ascii=False)
