"""Figures of a run or a model on faces that it has not been trained on.

Each face gets one freshly drawn mask (seeded, other than the training's). Beside the model stand the masked input,
OpenCV's inpainting and the mean face on the same pictures. With an output folder (a run has its own: RUN/evaluation):

    evaluation.json   every figure, over all pictures, by mask family, by source and by what is known of the person
    evaluation.md     the same as tables
    sheet.jpg         the first 24 faces: original | masked | map | result
    worst.jpg, best.jpg  the 16 of lowest and of highest hole PSNR
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer.evaluation import sheets, tables
from trainer.evaluation.measure import BATCH, Measured, default_size, measure, name_of, restore
from trainer.evaluation.options import add_common, check_common, chosen, notes_on, open_judges, open_model
from trainer.evaluation.pictures import Draw, Drawer, at_size
from trainer.evaluation.record import NAME, Record, record_of
from unmask_rt import native_logs
from unmask_rt.errors import ExtraError, UsageError

if TYPE_CHECKING:
    from trainer.runs import Restorer

COLUMNS = ("original", "masked", "map", "result")
FIRST, EXTREMES = 24, 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unmask-train evaluate``."""
    parser.add_argument("model", type=Path, metavar="RUN|MODEL", help="a run's folder, or an exported .onnx file")
    add_common(parser)
    parser.add_argument("--protocol", action="store_true", help="also measure in the ancestors' own ways")
    parser.add_argument(
        "--frames", type=Path, nargs="+", default=[], metavar="INPUT",
        help="also whole pictures through the tool: the folders and tars that DATA was prepared from",
    )  # fmt: skip
    parser.add_argument("--photos", type=Path, metavar="DIR", help="also the gate on labelled photographs")
    parser.add_argument("--clip", type=Path, nargs="+", default=[], metavar="FILE", help="also clips of bare faces")
    parser.add_argument("--face-model", type=Path, help="for whole pictures: a copy of face_landmarker.task")
    parser.add_argument("--finder-model", type=Path, help="for whole pictures: a copy of centerface.onnx")
    parser.add_argument(
        "-o", "--out", type=Path, metavar="DIR", help="where files go (default of a run: RUN/evaluation)"
    )


def main(arguments: argparse.Namespace) -> int:
    """``unmask-train evaluate``: prints the tables and writes the files; returns the exit code.

    Raises:
        UnmaskError: it cannot be measured.
    """
    check_common(arguments)
    if (arguments.profiles or arguments.in_front) and (arguments.frames or arguments.protocol):
        raise UsageError(
            "--profiles and --in-front change crops: whole pictures and published protocols are measured without them",
            "Leave --frames and --protocol to a call of their own.",
        )
    draw = chosen(arguments)
    model = open_model(arguments.model, arguments)
    notes = notes_on(draw)
    judges = open_judges(arguments, draw, notes)
    if not model.has_map:
        notes.append("The model has no map of its own; map and gate figures are those of where its output differs.")
    models = {name_of(arguments.model): model}
    size = arguments.size or default_size(models.values())
    measured = measure(models, draw, size=size, judges=judges, true_hole=arguments.true_hole, workers=arguments.workers)
    record = record_of(measured, settings_of(arguments), notes)
    if arguments.protocol:
        from trainer.evaluation.protocols import run_protocols

        record.protocol.extend(run_protocols(model, arguments, judges))
    if arguments.frames or arguments.photos is not None or arguments.clip:
        measure_outside(record, draw, arguments)
    text = tables.markdown(record, f"Evaluation of {measured.systems[0].name}")
    print(text)
    out = arguments.out or (arguments.model / "evaluation" if arguments.model.is_dir() else None)
    if out is not None:
        write(out, record, text)
        write_sheets(out, measured, model, true_hole=arguments.true_hole)
        print(f"{out}: {NAME}, evaluation.md, sheet.jpg, worst.jpg, best.jpg")
    return 0


def measure_outside(record: Record, draw: Draw, arguments: argparse.Namespace) -> None:
    """Adds what is measured on whole pictures and clips, through the tool's own stages.

    Raises:
        ExtraError: mediapipe or av is missing.
    """
    try:
        from trainer.evaluation.clips import measure_clips
        from trainer.evaluation.engine import open_engine_of
        from trainer.evaluation.frames import measure_frames
        from trainer.evaluation.photos import measure_photos
    except ImportError as error:
        raise ExtraError(
            f"whole pictures and clips cannot be measured here: {error}",
            "Install unmask-rt with its dependencies (mediapipe, av), or leave out --frames, --photos and --clip.",
        ) from error
    native_logs.quiet()
    models = {"face_model": arguments.face_model, "finder_model": arguments.finder_model}
    with closing(open_engine_of(arguments.model, arguments)) as engine:
        if arguments.frames:
            record.frames.update(measure_frames(engine, draw, arguments.frames, **models))
        if arguments.photos is not None:
            record.photos.update(measure_photos(engine, arguments.photos, **models))
        record.clips.extend(measure_clips(engine, arguments.clip, seed=arguments.seed, **models))


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the record says of the options, beside the pictures."""
    return {"true_hole": arguments.true_hole, "features": arguments.features}


def write(out: Path, record: Record, text: str) -> None:
    """Writes record and tables."""
    out.mkdir(parents=True, exist_ok=True)
    record.write(out / NAME)
    (out / "evaluation.md").write_text(text)


def write_sheets(out: Path, measured: Measured, model: Restorer, *, true_hole: bool) -> None:
    """The first, the worst and the best faces; their pictures are drawn again rather than kept."""
    scores = [row["hole_psnr"] for row in measured.systems[0].rows]
    order = np.argsort(scores, kind="stable")
    pages = {
        "sheet": list(range(len(scores)))[:FIRST],
        "worst": order[:EXTREMES].tolist(),
        "best": order[::-1][:EXTREMES].tolist(),
    }
    for name, positions in pages.items():
        labels = [f"{measured.pictures[i]['family']} {scores[i]:.1f} dB" for i in positions]
        rows = [measured.pictures[i]["row"] for i in positions]
        pictures = picture_rows(measured.draw, rows, model, measured.size, true_hole=true_hole)
        page = sheets.sheet(list(zip(labels, pictures, strict=True)), COLUMNS, side=min(measured.size, 192))
        sheets.save(out / f"{name}.jpg", page)


def picture_rows(
    draw: Draw, rows: Sequence[int], model: Restorer, size: int, *, true_hole: bool
) -> list[list[sheets.Image]]:
    """Original, masked, map and result of rows of the prepared set."""
    drawer, result = Drawer(draw), []
    for start in range(0, len(rows), BATCH):
        pictures = [drawer.picture(row) for row in rows[start : start + BATCH]]
        outputs, maps = restore(model, pictures, size, true_hole=true_hole)
        for picture, output, found in zip(pictures, outputs, maps, strict=True):
            result.append([at_size(picture.truth, size), at_size(picture.masked, size), sheets.grey(found), output])
    return result
