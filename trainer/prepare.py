"""From folders or tars of face pictures to prepared arrays that training reads without mediapipe or av.

    unmask-train prepare img_align_celeba/ lfw.tar photos/ -o data

CelebA, CelebA-HQ, FFHQ, LFW, UTKFace, or any folder or tar of pictures. The faces are found and aligned as the tool
does it; pictures that are broken, too small, blurred, grey, cut at the chin or there already are dropped, and the
reasons counted. What comes out is a folder:

    crops.npy      uint8[N, 256, 256, 3]  aligned RGB crops
    mesh.npy       float16[N, 478, 2]     face mesh in crop pixels
    shape.npy      float64[478, 3]        mean head in crop sides (`heads.head_shape`)
    corners.npy    float32[N, 4, 2]       the picture's corners in crop pixels: outside them a crop repeats the border
    meta.json      a list of N records: name, source, identity, split, yaw, smile, open, sharpness; age, sex, group
    summary.json   what was kept, what was dropped and why
    dropped.jsonl  each dropped picture with the reason
    bank/          masks drawn on the crops

Nobody is in two splits as far as the sets tell who is who. Of your own pictures those tell it that are called as LFW's
are, Name/Name_0001.jpg (a folder a person, four digits); any other counts as a picture of another person. A second
call goes on where an interrupted one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from trainer.bank import add_families, draw_bank
from trainer.chunks import Chunk, list_chunks, work
from trainer.datasets import Source, describe, is_unnamed, open_sources, read_lists, split_of, unnamed
from trainer.heads import head_shape
from trainer.masks import choose_families
from trainer.parallel import processors, progress, run_jobs
from trainer.quality import SIZE, Duplicates
from unmask_rt.errors import SourceError, UnmaskError, UsageError


def assemble(sources: Sequence[Source], chunks: Sequence[Chunk], out: Path) -> dict[str, Any]:
    """Joins finished chunks into the arrays of a prepared set, dropping duplicates; returns the summary."""
    lists = {source.name: read_lists(source.path) for source in sources}
    duplicates = Duplicates(sum(len(chunk.members) for chunk in chunks))
    splits: dict[str, str] = {}
    records: list[dict[str, Any]] = []
    dropped: list[dict[str, str]] = []
    picks: list[list[int]] = []
    with progress("look for duplicates", len(chunks)) as advance:
        for chunk in chunks:
            picks.append([])
            with np.load(chunk.out) as stored:
                for name, reason in json.loads(str(stored["dropped"])):
                    dropped.append({"source": chunk.source, "name": name, "reason": reason})
                crops = stored["crop"]
                for i, record in enumerate(json.loads(str(stored["records"]))):
                    name = record["name"]
                    if (twin := duplicates.find(crops[i])) is not None:
                        same = f"{records[twin]['source']}/{records[twin]['name']}"
                        dropped.append({"source": chunk.source, "name": name, "reason": "duplicate", "of": same})
                        continue
                    about = {"identity": unnamed(chunk.source, name)} | describe(name, lists[chunk.source])
                    identity = str(about["identity"])
                    about["split"] = splits.setdefault(identity, about.get("split") or split_of(identity))
                    records.append(record | about)
                    picks[-1].append(i)
            advance(1)
    _write_arrays(chunks, picks, out)
    summary = {
        "kept": len(records),
        "dropped": dict(Counter(d["reason"] for d in dropped)),
        "corrupt": [f"{d['source']}/{d['name']}" for d in dropped if d["reason"] == "corrupt"],
        "by_source": dict(Counter(r["source"] for r in records)),
        "by_split": dict(Counter(r["split"] for r in records)),
        "dropped_by_source": {
            source.name: dict(Counter(d["reason"] for d in dropped if d["source"] == source.name)) for source in sources
        },
        "unnamed": dict(Counter(r["source"] for r in records if is_unnamed(r))),
        "chunks": [chunk.out.name for chunk in chunks],
    }
    write_text(out / "meta.json", json.dumps(records))
    write_text(out / "dropped.jsonl", "".join(json.dumps(d) + "\n" for d in dropped))
    write_text(out / "summary.json", json.dumps(summary, indent=1))
    return summary


def _write_arrays(chunks: Sequence[Chunk], picks: Sequence[Sequence[int]], out: Path) -> None:
    """Streams the picked rows of each chunk into the set's arrays; each appears whole or not at all."""
    count = sum(map(len, picks))
    shapes = {
        "crops": ("crop", np.uint8, (count, SIZE, SIZE, 3)),
        "mesh": ("mesh", np.float16, (count, 478, 2)),
        "corners": ("corners", np.float32, (count, 4, 2)),
    }
    files: dict[str, BinaryIO] = {}
    try:
        for name, (_, dtype, shape) in shapes.items():
            files[name] = (out / f"{name}.partial").open("wb")
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(files[name], header)
        with progress("write arrays", count) as advance:
            for chunk, pick in zip(chunks, picks, strict=True):
                if not pick:
                    continue
                with np.load(chunk.out) as stored:
                    for name, (key, dtype, _) in shapes.items():
                        files[name].write(np.ascontiguousarray(stored[key][list(pick)], dtype).tobytes())
                advance(len(pick))
    finally:
        for file in files.values():
            file.close()
    for name in shapes:
        os.replace(out / f"{name}.partial", out / f"{name}.npy")


def write_text(path: Path, text: str) -> None:
    """Writes a file of a prepared set whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, "utf-8")
    os.replace(partial, path)


def prepare(
    inputs: Sequence[Path],
    out: Path,
    face_model: bytes | None = None,
    *,
    workers: int | None = None,
    keep_chunks: bool = False,
) -> dict[str, Any]:
    """Prepares every picture of ``inputs`` into ``out``; returns the summary.

    Args:
        inputs: folders and tars.
        out: folder of the prepared set.
        face_model: bytes of the FaceLandmarker; None fetches them if any picture is still to be looked at.
        workers: processes; None for one a processor.
        keep_chunks: leaves ``out/chunks`` (as large as the set itself), so that inputs added later cost only
            themselves; the masks are drawn anew then.

    Raises:
        SourceError: an input cannot be read or holds no picture.
        UsageError: two inputs have the same name, or the folder holds a set made from others.
        UnmaskError: a worker process died.
    """
    sources = open_sources(inputs)
    for source in sources:
        if not source.members:
            raise SourceError(
                f"{source.path}: there is no picture in it", "JPEG, PNG, WebP and BMP files are looked for."
            )
    folder = out / "chunks"
    chunks = list_chunks(sources, folder)
    if (out / "summary.json").exists():
        there: dict[str, Any] = json.loads((out / "summary.json").read_text("utf-8"))
        if there.get("chunks") == [chunk.out.name for chunk in chunks]:
            write_shape(out, face_model)
            return there
        if "chunks" not in there or not folder.exists():
            raise UsageError(
                f"{out} holds faces that were prepared from other pictures",
                "Prepare into another folder, or delete this one.",
            )
        if (out / "bank").exists():
            shutil.rmtree(out / "bank")  # its rows are no longer those of the faces
    folder.mkdir(parents=True, exist_ok=True)
    todo = [chunk for chunk in chunks if not chunk.out.exists()]
    if todo:
        if face_model is None:
            from unmask_rt.models import load_face_model

            face_model = load_face_model()
        jobs = [(chunk, face_model) for chunk in todo]
        results = run_jobs(
            work,
            jobs,
            workers=workers or processors(),
            description="find faces",
            size=lambda job: len(job[0].members),
            jobs_per_process=8,
        )
        for _ in results:
            pass
    summary = assemble(sources, chunks, out)
    write_shape(out, face_model)
    if not keep_chunks:
        shutil.rmtree(folder)
    return summary


def write_shape(out: Path, face_model: bytes | None) -> None:
    """Writes the mean head of a prepared set, unless that is there or there are no faces."""
    records = json.loads((out / "meta.json").read_text("utf-8"))
    if (out / "shape.npy").exists() or not records:
        return
    if face_model is None:
        from unmask_rt.models import load_face_model

        face_model = load_face_model()
    turned = np.array([record["yaw"] for record in records])
    np.save(out / "shape.npy", head_shape(np.load(out / "crops.npy", mmap_mode="r"), turned, face_model))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("inputs", nargs="+", type=Path, metavar="FACES", help="folder or tar of pictures")
    add("-o", "--output", type=Path, required=True, metavar="DATA", help="folder of the prepared set")
    add("--workers", type=int, metavar="N", help="processes (default: one a processor)")
    add("--face-model", type=Path, metavar="FILE", help="a local copy of face_landmarker.task")
    add("--keep-chunks", action="store_true", help="keep what each part gave, so that more inputs can be added later")
    group = parser.add_argument_group("masks drawn on the faces")
    add = group.add_argument
    add("--no-bank", action="store_true", help="draw none")
    add("--variants", type=int, default=2, metavar="N", help="masks a face (default: 2)")
    add("--seed", type=int, default=1, metavar="N", help="which masks (default: 1)")
    add_families(group)


def main(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    families = choose_families(arguments.families, arguments.without)
    model = None
    if arguments.face_model is not None:
        from unmask_rt.models import load_face_model

        model = load_face_model(arguments.face_model)
    summary = prepare(
        arguments.inputs, arguments.output, model, workers=arguments.workers, keep_chunks=arguments.keep_chunks
    )
    show_summary(summary)
    if not summary["kept"]:
        raise UnmaskError("not a single face was kept", "The reasons stand in the table above and in dropped.jsonl.")
    if not arguments.no_bank:
        draw_bank(
            arguments.output,
            variants=arguments.variants,
            seed=arguments.seed,
            workers=arguments.workers,
            families=families,
        )
    return 0


def show_summary(summary: Mapping[str, Any]) -> None:
    """Prints what was kept and dropped, by source, and names the corrupt pictures."""
    from rich.console import Console
    from rich.table import Table

    reasons = sorted(summary["dropped"], key=lambda reason: -summary["dropped"][reason])
    sources = list(summary["dropped_by_source"])
    table = Table("", *sources, "all")
    kept = [summary["by_source"].get(source, 0) for source in sources]
    table.add_row("kept", *map(str, kept), str(summary["kept"]), end_section=True)
    for reason in reasons:
        dropped = [summary["dropped_by_source"][source].get(reason, 0) for source in sources]
        table.add_row(reason, *map(str, dropped), str(summary["dropped"][reason]))
    console = Console()
    console.print(table)
    train, validation, test = (summary["by_split"].get(split, 0) for split in ("train", "validation", "test"))
    console.print(f"{train} to train on, {validation} to validate, {test} to test")
    if unnamed_by_source := summary.get("unnamed"):  # sets that were prepared before do not tell
        faces = ", ".join(f"{count} of {source}" for source, count in unnamed_by_source.items())
        console.print(
            f"nothing tells who is on {faces}: each counts as another person, so if they are of few people, some are "
            "trained and tested on alike (unmask-train prepare --help says how pictures are named)",
            soft_wrap=True,
            highlight=False,
        )
    for name in summary["corrupt"]:
        console.print(f"corrupt: {name}", soft_wrap=True, highlight=False)
