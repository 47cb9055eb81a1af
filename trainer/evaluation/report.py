"""One HTML page about a run: curves, sample sheets, tables and the preset, in one file that needs nothing else.

Curves come from ``log.jsonl`` as inline SVG, sheets and the pictures of an evaluation as data URIs, tables from
``evaluation/evaluation.json``; what a run does not have is said to be missing.
"""

from __future__ import annotations

import argparse
import base64
import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.evaluation import record as records
from trainer.evaluation.figures import FIGURES
from trainer.evaluation.tables import JUDGED, MAP, PICTURE, cell, how_measured
from unmask_rt.errors import UsageError

WIDTH, HEIGHT, MARGIN = 340, 150, 38
POINTS = 300
"""A curve is averaged down to at most so many points."""
NO_CURVES = frozenset({"step", "seen", "progress", "stage", "seconds", "time"})
PICTURES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png", ".webp": "webp"}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; color: #222; }
h1, h2 { line-height: 1.2; } table { border-collapse: collapse; margin: 1em 0; font-size: 13px; }
td, th { border-bottom: 1px solid #ccc; padding: 3px 9px; text-align: right; white-space: nowrap; }
td:first-child, th:first-child { text-align: left; } .scroll { overflow-x: auto; }
img { max-width: 100%; } figure { display: inline-block; margin: 4px; } figcaption { font-size: 13px; }
pre { background: #f4f4f4; padding: 1em; overflow-x: auto; font-size: 13px; } .missing { color: #777; }
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unmask-train report``."""
    parser.add_argument("run", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE.html", help="default: RUN/report.html")


def main(arguments: argparse.Namespace) -> int:
    """``unmask-train report``: writes the page, says where; returns the exit code.

    Raises:
        UsageError: there is no such run, or the page cannot go there.
    """
    out: Path = arguments.out or arguments.run / "report.html"
    page = build(arguments.run)
    if not out.absolute().parent.is_dir():
        raise UsageError(f"{out} cannot be written: there is no folder {out.parent}", "Give a file in one that exists.")
    out.write_text(page, "utf-8")
    print(f"{out}: {len(page) / 1e6:.1f} MB")
    return 0


def build(run: Path) -> str:
    """The page of a run.

    Raises:
        UsageError: the folder is missing, or holds neither a log nor a preset nor a checkpoint.
    """
    if not any((run / name).is_file() for name in ("log.jsonl", "preset.toml", "checkpoint.pt")):
        raise UsageError(f"{run} is no run", "Give the folder that `unmask-train run --run` wrote.")
    title = f"Run {run.resolve().name}"
    body = [
        f"<h1>{html.escape(title)}</h1>",
        "<h2>Curves</h2>",
        curves(read_log(run / "log.jsonl")),
        "<h2>Sample sheets</h2>",
        sheets(sorted(p for p in run.glob("sheet*") if p.suffix in PICTURES)),
        "<h2>Figures</h2>",
        figures(run / "evaluation" / records.NAME),
        sheets(sorted(p for p in (run / "evaluation").glob("*") if p.suffix in PICTURES)),
        "<h2>Preset</h2>",
        _preset(run / "preset.toml"),
    ]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(body)}</body></html>\n'


def read_log(path: Path) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Points (step, value) of each figure by stage; lines cut off by a crash are passed over."""
    result: dict[str, dict[str, list[tuple[float, float]]]] = {}
    if not path.is_file():
        return result
    for line in path.read_text("utf-8").splitlines():
        try:
            entry: dict[str, Any] = json.loads(line)
            stage, step = str(entry.get("stage", "")), float(entry["step"])
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        for key, value in entry.items():
            if key not in NO_CURVES and isinstance(value, int | float) and math.isfinite(value):
                result.setdefault(stage, {}).setdefault(key, []).append((step, float(value)))
    return result


def curves(log: dict[str, dict[str, list[tuple[float, float]]]]) -> str:
    """The curves as small charts, stage by stage."""
    if not log:
        return _missing("no log.jsonl")
    parts = []
    for stage, lines in log.items():
        if stage:
            parts.append(f"<h3>Stage {html.escape(stage)}</h3>")
        parts += [chart(key, points) for key, points in lines.items()]
    return "".join(parts)


def chart(title: str, points: Sequence[tuple[float, float]]) -> str:
    """One chart as SVG: orange what was measured on validation faces, blue all else."""
    points = thin(points)
    xs, ys = [x for x, _ in points], [y for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)
    places = " ".join(
        f"{MARGIN + (x - x0) / (x1 - x0) * (WIDTH - MARGIN - 8):.1f},"
        f"{HEIGHT - 20 - (y - y0) / (y1 - y0) * (HEIGHT - 30):.1f}"
        for x, y in points
    )
    text = '<text font-size="10" fill="#555" x="{}" y="{}" text-anchor="{}">{}</text>'
    labels = (
        text.format(MARGIN - 4, 16, "end", f"{y1:.3g}")
        + text.format(MARGIN - 4, HEIGHT - 20, "end", f"{y0:.3g}")
        + text.format(MARGIN, HEIGHT - 6, "start", f"{x0:.0f}")
        + text.format(WIDTH - 8, HEIGHT - 6, "end", f"step {x1:.0f}")
    )
    colour = "#e07b00" if title.startswith("validation_") else "#1f6fb2"
    line = f'<polyline fill="none" stroke="{colour}" stroke-width="1.5" points="{places}"/>'
    frame = f'<path d="M{MARGIN} 10V{HEIGHT - 20}H{WIDTH - 8}" fill="none" stroke="#bbb"/>'
    svg = f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{frame}{line}{labels}</svg>'
    return f"<figure><figcaption>{html.escape(title)}</figcaption>{svg}</figure>"


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `POINTS` points, each the mean of its neighbours."""
    every = max(1, -(-len(points) // POINTS))
    groups = [points[i : i + every] for i in range(0, len(points), every)]
    return [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]


def sheets(paths: Sequence[Path]) -> str:
    """Pictures as data URIs."""
    if not paths:
        return _missing("no sheet")
    parts: list[str] = []
    seen: set[str] = set()
    for path in paths:
        data = base64.b64encode(path.read_bytes()).decode()
        if data in seen:  # of the last stage there are two copies
            continue
        seen.add(data)
        kind = PICTURES[path.suffix]
        name = html.escape(path.name)
        parts.append(f'<p>{name}<br><img alt="{name}" src="data:image/{kind};base64,{data}"></p>')
    return "".join(parts)


def figures(path: Path) -> str:
    """The tables of an evaluation."""
    if not path.is_file():
        return _missing("no evaluation: `unmask-train evaluate RUN --data DATA` makes one")
    record = records.read(path)
    parts = [f"<p>{html.escape(how_measured(record))}</p>"]
    for wanted in (PICTURE, JUDGED, MAP):
        keys = [k for k in wanted if any(k in r.groups["all"] for r in record.results)]
        rows = [[r.name, *(cell(r.groups["all"].get(k), k) for k in keys)] for r in record.results]
        if keys:
            parts.append(_table(["", *(FIGURES[k].title for k in keys)], rows))
    for model in record.models:
        for kind in ("family", "source"):
            groups = {n: v for n, v in model.groups.items() if n.startswith(f"{kind} ")}
            keys = [k for k in (*PICTURE[:3], "sharpness", "map_iou") if any(k in v for v in groups.values())]
            rows = [[n.removeprefix(f"{kind} "), *(cell(v.get(k), k) for k in keys)] for n, v in groups.items()]
            parts.append(_table([kind, *(FIGURES[k].title for k in keys)], rows))
    parts += [f"<p>{html.escape(note)}</p>" for note in record.notes]
    return "".join(parts)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells) + "</tr>"

    return f'<div class="scroll"><table>{line(header, "th")}{"".join(line(r, "td") for r in rows)}</table></div>'


def _preset(path: Path) -> str:
    return f"<pre>{html.escape(path.read_text('utf-8'))}</pre>" if path.is_file() else _missing("no preset.toml")


def _missing(what: str) -> str:
    return f'<p class="missing">{html.escape(what)}</p>'
