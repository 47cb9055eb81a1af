"""One run of the main command: open, run, say how it went."""

from __future__ import annotations

import argparse
import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Literal

import cv2

from unmask_rt import __version__
from unmask_rt.console import Console, RunProgress, faces_table, latency_table
from unmask_rt.errors import INTERRUPTED, UsageError
from unmask_rt.pipeline import Pipeline, RunReport
from unmask_rt.provenance import DIGITAL_SOURCE_TYPE
from unmask_rt.report import Tally, check_place, run_dict, write_json
from unmask_rt.sinks import EncodeOptions, Provenance, open_sink
from unmask_rt.sources import CAMERA, Source, open_source
from unmask_rt.sources.base import Kind
from unmask_rt.unmasker import Unmasker, UnmaskerOptions
from unmask_rt.warm import warm_up

DEFAULT_CODEC = "libx264"
LIVE_PRESET = "ultrafast"
TOOL = f"unmask-rt {__version__}"
MODES: dict[Kind, Literal["file", "live", "still"]] = {"video": "file", "live": "live", "picture": "still"}
"""What `Unmasker.stages` calls each kind of source."""


def run_job(arguments: argparse.Namespace, console: Console) -> int:
    """Runs the main command; ``arguments`` are those of `unmask_rt.cli.run_parser`.

    Returns:
        0, 1 if something could not be read while the rest went on, 130 if interrupted.

    Raises:
        UnmaskError: it did not work.
    """
    cv2.setNumThreads(1)  # the pipeline's threads are the parallelism
    warm_up()
    spec = _spec(arguments)
    _check_report(arguments)
    results = None if arguments.output is None else Path(arguments.output)
    source = open_source(spec, start_s=arguments.start, duration_s=arguments.duration, leave_out=results)
    try:
        if arguments.output is None and not source.info.live:
            raise UsageError("There is no output.", "Give one with -o; only live sources are shown in a window.")
        with closing(Unmasker(unmasker_options(arguments))) as unmasker:
            return _unmask(arguments, console, source, unmasker)
    finally:
        source.close()


def unmasker_options(arguments: argparse.Namespace) -> UnmaskerOptions:
    """The options of the unmasker among the arguments; what was not given keeps its default."""
    names = {field.name for field in dataclasses.fields(UnmaskerOptions)}
    given = {name: value for name, value in vars(arguments).items() if name in names and value is not None}
    return UnmaskerOptions(**given)


def encode_options(arguments: argparse.Namespace, *, live: bool) -> EncodeOptions:
    """How the output is encoded; quality and speed that were not given suit the codec and the source."""
    codec = arguments.codec or DEFAULT_CODEC
    options = EncodeOptions(codec=codec, low_latency=live, audio=not arguments.no_audio)
    if live and codec == DEFAULT_CODEC:
        options = dataclasses.replace(options, preset=LIVE_PRESET)
    given = {name: getattr(arguments, name) for name in ("crf", "preset") if getattr(arguments, name) is not None}
    return dataclasses.replace(options, **given)


def _unmask(arguments: argparse.Namespace, console: Console, source: Source, unmasker: Unmasker) -> int:
    info = source.info
    provenance = Provenance(model_sha256=unmasker.model_sha256, tool=TOOL)
    sink = open_sink(
        arguments.output,
        source,
        encode=encode_options(arguments, live=info.live),
        provenance=provenance,
        overwrite=arguments.overwrite,
        label=arguments.label,
    )
    tally = Tally()
    with RunProgress(console, frames=info.frame_count, seconds=arguments.duration if info.live else None) as progress:
        pipeline = Pipeline(
            source,
            unmasker.stages(MODES[info.kind]),
            sink,
            live=info.live,
            duration_s=arguments.duration if info.live else None,
            progress=lambda state: progress.update(state, tally.faces_now),
            on_packet=tally.add,
        )
        try:
            run = pipeline.run()
        except Exception:
            kept = pipeline.sink_report
            if kept is not None and kept.path is not None:
                console.note(f"{kept.path} holds what was made until then ({kept.frames} frames)")
                for note in kept.notes:
                    console.note(note)
            raise
    notes = [*source.notes, *(run.sink.notes if run.sink else ())]
    for note in notes:
        console.note(note)
    for failure in source.failures:
        console.error(failure)
    if arguments.report is not None:
        engine = dict(unmasker.describe())
        statement = {
            "synthetic": True,
            "digital_source_type": DIGITAL_SOURCE_TYPE,
            "model_sha256": provenance.model_sha256,
            "tool": provenance.tool,
        }
        report = run_dict(
            arguments,
            info,
            run,
            tally,
            engine=engine,
            provenance=statement,
            notes=notes,
            failures=source.failures,
        )
        write_json(arguments.report, report)
    console.result(_summary(run, tally, "picture" if info.kind == "picture" else "frame"))
    if tally.faces:
        console.result(faces_table(tally.finders()))
    if info.kind != "picture" and run.frames_out:
        console.result(latency_table(run.latency))
    if run.interrupted:
        return INTERRUPTED
    return 1 if source.failures else 0


def _summary(run: RunReport, tally: Tally, noun: str) -> str:
    """One line: where the result is and what was done."""
    parts = [f"{run.frames_out} {noun}{'' if run.frames_out == 1 else 's'}", f"{tally.treated} unmasked"]
    if tally.missed:
        parts.append(f"{tally.missed} with a masked face lost")
    dropped = ", ".join(f"{stage} {count}" for stage, count in run.dropped.items() if count)
    if dropped:
        parts.append(f"{sum(run.dropped.values())} dropped ({dropped})")
    parts.append(f"{run.latency.fps:.1f} fps")
    where = f"{run.sink.path}: " if run.sink and run.sink.path else ""
    ended = " (interrupted)" if run.interrupted else ""
    return where + ", ".join(parts) + ended


def _spec(arguments: argparse.Namespace) -> str | Path:
    """What `open_source` gets."""
    if arguments.webcam is not None:
        if arguments.source is not None:
            raise UsageError("There are two sources: SOURCE and --webcam.", "Give one of them.")
        return f"{CAMERA}{arguments.webcam}"
    if arguments.source is None:
        raise UsageError("There is no source.", "Give a file, a folder, an address, or --webcam N.")
    return str(arguments.source)


def _check_report(arguments: argparse.Namespace) -> None:
    report: Path | None = arguments.report
    if report is None:
        return
    check_place(report, overwrite=arguments.overwrite)
    place, source = report.resolve(), None if arguments.source is None else Path(arguments.source).resolve()
    output = None if arguments.output is None else Path(arguments.output).resolve()
    if place in (source, output):
        raise UsageError(f"{report} would be report and video at once.", "Give another --report.")
    if report.exists() and source in place.parents:
        raise UsageError(f"{report} is one of the inputs.", "Give another --report.")
