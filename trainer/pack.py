"""A prepared set in a few small files, to be carried to a machine that has a GPU but not the pictures.

    unmask-train pack DATA -o PARTS --megabytes 50      # here
    unmask-train unpack PARTS -o DATA                   # there: numpy and OpenCV are enough

Crops travel as WebP, the mesh in quarters of a pixel, and no mask travels at all: `unpack` draws them there. The faces
to train on go, and a few to validate; those that models are tested on stay at home. Each part is an .npz by itself:

    crops, ends    uint8[...] the encoded crops one after the other, int64[N] where each of them ends
    mesh           uint8[...] zlib of int16[N, 478, 2], low bytes first, then high ones
    corners        float32[N, 4, 2]
    records        uint8[...] zlib of JSON: the faces' records of meta.json
    shape          float64[478, 3] the mean head
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.parallel import batched, processors, run_jobs
from unmask_rt.errors import MissingError, UsageError

VALIDATED = 96
"""Faces to validate that are taken along."""
STEPS = 4
"""Steps of the mesh's coordinates in a pixel."""
FACES_A_JOB = 512
_BESIDE = 1_150
"""Bytes of a face beside its crop, about."""
_ALWAYS = 14_000
"""Bytes of a part without any face: the mean head, and what the file says of its arrays."""


@dataclass(frozen=True, slots=True)
class Job:
    """Some faces of a prepared set.

    Attributes:
        data: the set.
        rows: which.
        quality: of the WebP, 1..100.
    """

    data: Path
    rows: tuple[int, ...]
    quality: int


def encode(job: Job) -> dict[int, bytes]:
    """The crops of a job as WebP, by their rows."""
    cv2.setNumThreads(1)
    crops = np.load(job.data / "crops.npy", mmap_mode="r")
    options = [cv2.IMWRITE_WEBP_QUALITY, job.quality]
    pictures = ((row, cv2.cvtColor(np.asarray(crops[row]), cv2.COLOR_RGB2BGR)) for row in job.rows)
    return {row: cv2.imencode(".webp", picture, options)[1].tobytes() for row, picture in pictures}


def chosen_rows(records: list[dict[str, Any]]) -> list[int]:
    """All rows to train on and `VALIDATED` to validate, mixed, so that each part holds some of everything."""
    train = [i for i, r in enumerate(records) if r["split"] == "train"]
    validation = [i for i, r in enumerate(records) if r["split"] == "validation"]
    rows = train + validation[:: max(1, len(validation) // VALIDATED)][:VALIDATED]
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]


def pack(data: Path, out: Path, *, megabytes: float, quality: int = 90, workers: int | None = None) -> list[Path]:
    """Writes the parts of a prepared set; returns their paths.

    Raises:
        MissingError: ``data`` is no prepared set.
        UsageError: a part is too small to hold anything, or ``out`` holds something already.
    """
    if not (data / "meta.json").is_file():
        raise MissingError(f"{data} is no prepared set of faces", "Make one: unmask-train prepare FACES -o DATA.")
    if megabytes < 0.1:
        raise UsageError(f"parts of {megabytes:g} MB hold nothing", "Give at least 0.1.")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty", "Write into another folder.")
    out.mkdir(parents=True, exist_ok=True)
    records = json.loads((data / "meta.json").read_text("utf-8"))
    rows = chosen_rows(records)
    jobs = [Job(data, part, quality) for part in batched(rows, FACES_A_JOB)]
    coded: dict[int, bytes] = {}
    done = run_jobs(encode, jobs, workers=workers or processors(), description="encode", size=lambda job: len(job.rows))
    for found in done:
        coded.update(found)
    arrays = {name: np.load(data / f"{name}.npy", mmap_mode="r") for name in ("mesh", "corners")}
    paths = []
    for number, part in enumerate(parts_of(rows, coded, int(megabytes * 1e6))):
        mesh = np.rint(np.asarray(arrays["mesh"][part], np.float32) * STEPS).astype("<i2")
        paths.append(out / f"part-{number:02d}.npz")
        np.savez(
            paths[-1],
            crops=np.frombuffer(b"".join(coded[row] for row in part), np.uint8),
            ends=np.cumsum([len(coded[row]) for row in part]),
            mesh=_packed(_by_significance(mesh)),
            corners=arrays["corners"][part],
            records=_packed(json.dumps([records[row] for row in part]).encode()),
            shape=np.load(data / "shape.npy"),
        )
    return paths


def parts_of(rows: list[int], coded: dict[int, bytes], most: int) -> Iterator[list[int]]:
    """Rows in order, as many a part as fit into so many bytes."""
    part: list[int] = []
    size = _ALWAYS
    for row in rows:
        length = len(coded[row]) + _BESIDE
        if part and size + length > most:
            yield part
            part, size = [], _ALWAYS
        part.append(row)
        size += length
    if part:
        yield part


def _packed(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.compress(content, 9), np.uint8)


def _by_significance(mesh: NDArray[np.int16]) -> bytes:
    """All low bytes, then all high ones: they compress better apart."""
    return np.ascontiguousarray(mesh.view(np.uint8).reshape(-1, 2).T).tobytes()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unmask-train pack``."""
    parser.add_argument("data", type=Path, metavar="DATA", help="a prepared set")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="PARTS", help="folder of the parts")
    parser.add_argument("--megabytes", type=float, default=50.0, metavar="N", help="most of each part (default: 50)")
    parser.add_argument("--quality", type=int, default=90, metavar="Q", help="of the WebP (default: 90)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (default: one a processor)")


def main(arguments: argparse.Namespace) -> int:
    """``unmask-train pack``: writes the parts and names them; returns the exit code."""
    a = arguments
    for path in pack(a.data, a.output, megabytes=a.megabytes, quality=a.quality, workers=a.workers):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")
    return 0
