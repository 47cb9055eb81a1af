"""Several runs, models or evaluations in one table and one sheet: same pictures, same masks, same size.

A win is claimed only where two 95 % intervals do not overlap. In the table of figures the best model stands in bold
where that holds against every other model; in the table of verdicts the first model stands against each other one.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.evaluation import record as records
from trainer.evaluation import sheets, tables
from trainer.evaluation.evaluate import picture_rows, settings_of
from trainer.evaluation.figures import FIGURES, better
from trainer.evaluation.measure import Measured, default_size, measure, name_of
from trainer.evaluation.options import add_common, check_common, chosen, notes_on, open_judges, open_model
from trainer.evaluation.record import Record, Result
from unmask_rt.errors import UsageError

if TYPE_CHECKING:
    from trainer.runs import Restorer

FACES = 16
"""Faces of the sheet."""
CLAIM = (
    "**Bold**: better than every other model, with 95 % intervals that do not overlap. Everything else claims nothing: "
    "where intervals overlap, these pictures do not tell who is better."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unmask-train compare``."""
    parser.add_argument(
        "models",
        nargs="+",
        metavar="[NAME=]RUN|MODEL|JSON",
        help="runs, exported models, or evaluation.json files; verdicts are for the first",
    )
    add_common(parser, data_required=False)
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="write compare.json, compare.md and sheet.jpg here"
    )


def main(arguments: argparse.Namespace) -> int:
    """``unmask-train compare``: prints the tables, writes the files; returns the exit code.

    Raises:
        UnmaskError: one cannot be opened, or evaluations are of other pictures.
    """
    check_common(arguments)
    named = names_of(arguments.models)
    if len(named) < 2:
        raise UsageError("one model alone cannot be compared", "Give two or more, or use `unmask-train evaluate`.")
    stored = {name: records.read(path) for name, path in named.items() if path.suffix == ".json"}
    models = {name: open_model(path, arguments) for name, path in named.items() if path.suffix != ".json"}
    measured: Measured | None = None
    parts = list(stored.items())
    notes: list[str] = []
    if models:
        if arguments.data is None:
            raise UsageError("there is nothing to measure on", "Give the prepared set: --data DATA.")
        draw = chosen(arguments)
        notes += notes_on(draw)
        judges = open_judges(arguments, draw, notes)
        known = [r.settings["size"] for r in stored.values()]
        size = arguments.size or (known[0] if known else default_size(models.values()))
        notes += [f"{name} has no map of its own: its map is where its output differs." for name in models
                  if not models[name].has_map]  # fmt: skip
        measured = measure(
            models, draw, size=size, judges=judges, true_hole=arguments.true_hole, workers=arguments.workers
        )
        parts.append(("what was measured now", records.record_of(measured, settings_of(arguments), notes)))
    joined = join(parts, list(named))
    text = markdown(joined)
    print(text)
    if arguments.out is not None:
        arguments.out.mkdir(parents=True, exist_ok=True)
        joined.write(arguments.out / "compare.json")
        (arguments.out / "compare.md").write_text(text)
        if measured is not None:
            write_sheet(arguments.out / "sheet.jpg", measured, models, true_hole=arguments.true_hole)
        else:
            print("no sheet: evaluation.json files hold no pictures")
    return 0


def names_of(given: list[str]) -> dict[str, Path]:
    """Name to path, in order.

    Raises:
        UsageError: two have the same name.
    """
    named: dict[str, Path] = {}
    for item in given:
        before, mark, after = item.partition("=")
        path = Path(after) if mark and not Path(item).exists() else Path(item)
        name = before if mark and not Path(item).exists() else _name(path)
        if name in named:
            raise UsageError(f"two models are called {name}", "Name them apart: NAME=PATH.")
        named[name] = path
    return named


def _name(path: Path) -> str:
    """RUN/evaluation/evaluation.json is called as RUN is."""
    if path.suffix != ".json":
        return name_of(path)
    folder = path.resolve().parent
    return folder.parent.name if folder.name == "evaluation" else folder.name


def join(parts: list[tuple[str, Record]], order: list[str]) -> Record:
    """One record of several of the same pictures.

    Args:
        parts: name and record of each; the only model of a stored one gets that name.
        order: names of the models as they shall stand.

    Raises:
        UsageError: pictures, masks, size or judges differ, or a stored record holds several models.
    """
    first_name, first = parts[0]
    for name, other in parts[1:]:
        for key in ("pictures_sha256", "size", "true_hole", "features"):
            if other.settings[key] != first.settings[key]:
                raise UsageError(
                    f"{name} and {first_name} were not measured alike: {key} differs",
                    "Measure with the same --data, --split, --count, --seed, --families, --size and --features, "
                    "or give the runs themselves.",
                )
    models: dict[str, Result] = {}
    for name, record in parts:
        found = record.models
        if name not in order:
            models |= {r.name: r for r in found}
        elif len(found) == 1:
            models[name] = Result(name, "model", found[0].size, found[0].groups)
        else:
            raise UsageError(f"{name} holds {len(found)} models", "Give evaluations of one model each.")
    plain = [r for r in first.results if r.kind == "baseline"]
    strangers = next((r.strangers for _, r in parts if r.strangers is not None), None)
    notes = list(dict.fromkeys(note for _, r in parts for note in r.notes))
    return Record(first.settings, [models[n] for n in order] + plain, strangers, notes)


def winner(models: list[Result], key: str) -> str | None:
    """The model that beats every other one in a figure, or None."""
    values = {m.name: m.groups["all"][key] for m in models if key in m.groups["all"]}
    for name, value in values.items():
        others = [v for n, v in values.items() if n != name]
        if others and all(better(value, other, FIGURES[key]) for other in others):
            return name
    return None


def figures_table(record: Record, keys: tuple[str, ...]) -> str:
    """One row a system; the winner among the models in bold."""
    keys = tuple(k for k in keys if any(k in r.groups["all"] for r in record.results))
    wins = {key: winner(record.models, key) for key in keys}
    rows = []
    for result in record.results:
        cells = [tables.cell(result.groups["all"].get(key), key) for key in keys]
        marked = [
            f"**{c}**" if result.kind == "model" and wins[k] == result.name else c
            for c, k in zip(cells, keys, strict=True)
        ]
        size = f"{result.size} px" if result.kind == "model" else ""
        rows.append([result.name, size, *marked])
    return tables.table(["", "own size", *(FIGURES[k].title for k in keys)], rows)


def verdicts(record: Record) -> str:
    """The first model against each other one: the difference of each figure and whether a win may be claimed."""
    first, *others = record.models
    rows = []
    for key, figure in FIGURES.items():
        mine = first.groups["all"].get(key)
        if mine is None:
            continue
        cells = []
        for other in others:
            theirs = other.groups["all"].get(key)
            if theirs is None:
                cells.append("")
                continue
            if better(mine, theirs, figure):
                verdict = "wins"
            elif better(theirs, mine, figure):
                verdict = "loses"
            else:
                verdict = "open"
            cells.append(f"{mine.value - theirs.value:+.{figure.digits}f} {verdict}")
        rows.append([figure.title, *cells])
    return tables.table([first.name, *(f"against {o.name}" for o in others)], rows)


def markdown(record: Record) -> str:
    """The whole comparison."""
    parts = ["# Comparison\n", tables.how_measured(record), CLAIM + "\n"]
    for title, keys in (
        ("Picture", tables.PICTURE),
        ("Features and identity", tables.JUDGED),
        ("Mask and map", tables.MAP),
    ):
        if any(k in r.groups["all"] for r in record.results for k in keys):
            parts += [f"## {title}\n", figures_table(record, keys)]
    parts += [
        "## The first against the others\n",
        'Differences of the values; "open" where the 95 % intervals overlap or are not known.\n',
        verdicts(record),
    ]
    if record.notes:
        parts += ["## Notes\n", "\n".join(f"- {n}" for n in record.notes) + "\n"]
    return "\n".join(parts)


def write_sheet(path: Path, measured: Measured, models: dict[str, Restorer], *, true_hole: bool) -> None:
    """The first faces: original, masked, and what each model made of them."""
    rows = [p["row"] for p in measured.pictures[:FACES]]
    made = [picture_rows(measured.draw, rows, m, measured.size, true_hole=true_hole) for m in models.values()]
    lines = []
    for i, picture in enumerate(measured.pictures[:FACES]):
        lines.append((picture["family"], [*made[0][i][:2], *(m[i][3] for m in made)]))
    sheets.save(path, sheets.sheet(lines, ("original", "masked", *models), side=min(measured.size, 160), abreast=1))
