"""Pairs of pictures without and with a mask, and the map of the mask, as three folders.

    unmask-train synthesize faces/ -o pairs --count 10000
    unmask-train synthesize data -o pairs --families rectangle,oval --seed 7

DIR is a folder or tar of face pictures, or a prepared set. What comes out:

    originals/000000.png   aligned face, 256 px RGB
    masked/000000.png      the same with a mask drawn on it
    maps/000000.png        coverage of the mask, grey, 255 where it hides the face
    pairs.csv              number, source and name of the face, family of the mask
    synthesis.json         what the pairs depend on

Pair number i depends on the faces, the seed, the families and i alone. Each face comes once before one comes twice. A
second call goes on where an interrupted one stopped, and a greater --count adds to what is there.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trainer.bank import add_families
from trainer.datasets import open_sources
from trainer.masks import choose_families, draw_mask
from trainer.parallel import batched, processors, run_jobs
from trainer.prepare import prepare, show_summary
from unmask_rt.errors import MissingError, SinkError, UnmaskError, UsageError

FOLDERS = ("originals", "masked", "maps")
PAIRS_A_JOB = 32
SETTINGS = "synthesis.json"
WORK = ".prepared"
"""Where the faces of a folder or tar are prepared; removed when all pairs are there."""


@dataclass(frozen=True, slots=True)
class Job:
    """Some pairs by their numbers.

    Attributes:
        data: prepared set.
        out: folder of the three folders.
        numbers: of the pairs.
        rows: the face of each.
        seed, families: what the masks depend on.
    """

    data: Path
    out: Path
    numbers: tuple[int, ...]
    rows: tuple[int, ...]
    seed: int
    families: Mapping[str, float]


def family_of(number: int, seed: int, families: Mapping[str, float]) -> tuple[str, np.random.Generator]:
    """The family of a pair's mask and the random stream that draws it."""
    rng = np.random.default_rng([seed, number])
    return str(rng.choice(list(families), p=list(families.values()))), rng


def draw_pairs(job: Job) -> int:
    """Draws and writes some pairs, each picture atomically; returns how many."""
    cv2.setNumThreads(1)
    crops, meshes = np.load(job.data / "crops.npy", mmap_mode="r"), np.load(job.data / "mesh.npy", mmap_mode="r")
    for number, row in zip(job.numbers, job.rows, strict=True):
        family, rng = family_of(number, job.seed, job.families)
        original = np.asarray(crops[row])
        masked, alpha = draw_mask(original, np.asarray(meshes[row], np.float32), rng, family)
        pictures = (original, masked, np.round(alpha * 255).astype(np.uint8))
        for folder, picture in zip(FOLDERS, pictures, strict=True):
            _write_picture(job.out / folder / f"{number:06d}.png", picture)
    return len(job.numbers)


def _write_picture(path: Path, picture: np.ndarray) -> None:
    bgr = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, code = cv2.imencode(".png", bgr)
    partial = path.with_suffix(".partial")
    try:
        partial.write_bytes(code.tobytes())
        os.replace(partial, path)
    except OSError as error:
        raise SinkError(f"{path}: {error.strerror or error}", "Free some space and call again: it goes on.") from error


def order_of(count: int, faces: int, seed: int) -> list[int]:
    """The face of each pair: all in random order, then all in another order, and so on."""
    rounds = [np.random.default_rng([seed, i]).permutation(faces) for i in range(-(-count // faces))]
    return [int(row) for row in np.concatenate(rounds)[:count]] if rounds else []


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Makes sure that a folder is new, empty, or holds pairs of the same settings, and writes these down.

    Raises:
        UsageError: there is something else in it.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file", "Give a folder.")
    record = out / SETTINGS
    if record.exists():
        if (out / FOLDERS[0]).exists() and json.loads(record.read_text("utf-8")) != settings:
            raise UsageError(
                f"{out} holds pairs of other faces, another seed or other families",
                "Write into another folder, or delete this one.",
            )
    elif out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} holds something else", "Write into another folder.")
    out.mkdir(parents=True, exist_ok=True)
    partial = record.with_suffix(".partial")
    partial.write_text(json.dumps(settings, indent=1) + "\n", "utf-8")
    os.replace(partial, record)


def synthesize(
    faces: Path,
    out: Path,
    *,
    count: int,
    families: Mapping[str, float],
    seed: int = 1,
    workers: int | None = None,
    face_model: bytes | None = None,
) -> int:
    """Writes pairs; returns how many were drawn in this call.

    Args:
        faces: folder or tar of pictures, or a prepared set.
        out: folder of the three folders.
        count: how many pairs there are in the end.
        families: weight of each family of masks, of sum 1.
        seed: of the order of the faces and of the masks.
        workers: processes; None for one a processor.
        face_model: bytes of the FaceLandmarker, for faces that are not prepared yet; None fetches them.

    Raises:
        UsageError: ``out`` holds something else, or lies among the faces.
        MissingError: ``faces`` does not exist.
        UnmaskError: no face was good enough.
        SinkError: a picture cannot be written.
    """
    if not faces.exists():
        raise MissingError(f"{faces} does not exist", "Give a folder or tar of face pictures, or a prepared set.")
    if out.resolve().is_relative_to(faces.resolve()):
        raise UsageError(f"{out} lies in {faces}", "Write into a folder outside of the faces.")
    prepared = (faces / "crops.npy").exists()
    data = faces if prepared else out / WORK
    if prepared:
        records = _records(data)
        names = [(record["source"], record["name"]) for record in records]
    else:
        [source] = open_sources([faces])
        names = [(source.name, member.name) for member in source.members]
    claim(out, {"seed": seed, "families": dict(families), "faces": _digest(names)})
    if not prepared:
        if _finished(out, count):
            return 0
        show_summary(prepare([faces], data, face_model, workers=workers))
        records = _records(data)
    if not records:
        raise UnmaskError(f"no face of {faces} is good enough", "The reasons stand in the table above.")
    for folder in FOLDERS:
        (out / folder).mkdir(exist_ok=True)
    present = set.intersection(*({int(p.stem) for p in (out / folder).glob("*.png")} for folder in FOLDERS))
    missing = [number for number in range(count) if number not in present]
    rows = order_of(max(count, *(number + 1 for number in present), 0), len(records), seed)
    jobs = [
        Job(data.resolve(), out.resolve(), numbers, tuple(rows[n] for n in numbers), seed, dict(families))
        for numbers in batched(missing, PAIRS_A_JOB)
    ]
    for _ in run_jobs(
        draw_pairs, jobs, workers=workers or processors(), description="draw pairs", size=lambda job: len(job.numbers)
    ):
        pass
    present.update(missing)
    _write_list(out, {number: records[rows[number]] for number in sorted(present)}, seed, families)
    if not prepared:
        shutil.rmtree(data)
    return len(missing)


def _records(data: Path) -> list[dict[str, Any]]:
    return list(json.loads((data / "meta.json").read_text("utf-8")))


def _digest(names: list[tuple[str, str]]) -> str:
    """Of the sources and names of pictures, in their order."""
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()[:16]


def _finished(out: Path, count: int) -> bool:
    """Whether a list of at least ``count`` pairs was written: that happens last."""
    try:
        with (out / "pairs.csv").open(encoding="utf-8") as file:
            return sum(1 for _ in file) - 1 >= count
    except FileNotFoundError:
        return False


def _write_list(out: Path, faces: Mapping[int, Mapping[str, Any]], seed: int, families: Mapping[str, float]) -> None:
    partial = out / "pairs.partial"
    with partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("number", "source", "name", "family"))
        for number, face in faces.items():
            writer.writerow((f"{number:06d}", face["source"], face["name"], family_of(number, seed, families)[0]))
    os.replace(partial, out / "pairs.csv")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add = parser.add_argument
    add("faces", type=Path, metavar="DIR", help="folder or tar of face pictures, or a prepared set")
    add("-o", "--output", type=Path, required=True, metavar="DIR", help="new or empty folder for the three folders")
    add("--count", type=int, default=10_000, metavar="N", help="how many pairs (default: 10000)")
    add("--seed", type=int, default=1, metavar="N", help="which masks and which order of the faces (default: 1)")
    add("--workers", type=int, metavar="N", help="processes (default: one a processor)")
    add("--face-model", type=Path, metavar="FILE", help="a local copy of face_landmarker.task")
    add_families(parser)


def main(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    if arguments.count < 1:
        raise UsageError(f"--count {arguments.count}: there has to be at least one pair")
    families = choose_families(arguments.families, arguments.without)
    model = None
    if arguments.face_model is not None:
        from unmask_rt.models import load_face_model

        model = load_face_model(arguments.face_model)
    drawn = synthesize(
        arguments.faces,
        arguments.output,
        count=arguments.count,
        families=families,
        seed=arguments.seed,
        workers=arguments.workers,
        face_model=model,
    )
    print(f"{arguments.output}: {arguments.count} pairs, {drawn} of them drawn now")
    return 0
