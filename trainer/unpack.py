"""Makes a prepared set of the parts that `unmask-train pack` wrote, and draws its masks.

    unmask-train unpack PARTS -o DATA

A second call goes on where an interrupted one stopped drawing masks. Numpy and OpenCV are enough: neither mediapipe nor
the pictures are needed. Masks are drawn as `prepare` draws them; the faces come in another order, so each wears other
ones than at home.
"""

from __future__ import annotations

import argparse
import json
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trainer.augment import SIZE
from trainer.bank import add_families, draw_bank
from trainer.masks import choose_families
from trainer.pack import STEPS
from trainer.parallel import processors, run_jobs
from unmask_rt.errors import MissingError, SourceError, UsageError


@dataclass(frozen=True, slots=True)
class Job:
    """One part.

    Attributes:
        path: of the part.
        out: folder of the set, its arrays made already.
        first: row of the part's first face.
    """

    path: Path
    out: Path
    first: int


def unpack(parts: Path, out: Path, *, workers: int | None = None) -> int:
    """Makes a prepared set of all parts in a folder, unless just that is there; returns how many faces it holds.

    Raises:
        MissingError: there is no part.
        SourceError: a part is damaged.
        UsageError: ``out`` holds another set.
    """
    paths = sorted(parts.glob("part-*.npz"))
    if not paths:
        raise MissingError(f"there is no part in {parts}", "Write them with `unmask-train pack DATA -o PARTS`.")
    records: list[dict[str, Any]] = []
    jobs: list[Job] = []
    for path in paths:
        with readable(path) as stored:
            jobs.append(Job(path, out, len(records)))
            records += json.loads(zlib.decompress(stored["records"].tobytes()))
            shape_of_head = stored["shape"]
    if (out / "meta.json").exists():  # written last: the arrays are whole
        if json.loads((out / "meta.json").read_text("utf-8")) != records:
            raise UsageError(f"{out} holds another prepared set already", "Unpack into another folder.")
        return len(records)
    out.mkdir(parents=True, exist_ok=True)
    np.save(out / "shape.npy", shape_of_head)
    shapes = {"crops": (np.uint8, (SIZE, SIZE, 3)), "mesh": (np.float16, (478, 2)), "corners": (np.float32, (4, 2))}
    for name, (dtype, shape) in shapes.items():
        np.lib.format.open_memmap(out / f"{name}.npy", "w+", dtype, (len(records), *shape)).flush()
    for _ in run_jobs(decode, jobs, workers=workers or processors(), description="decode"):
        pass
    (out / "meta.json").write_text(json.dumps(records), "utf-8")
    return len(records)


@contextmanager
def readable(path: Path) -> Iterator[Any]:
    """A part's file, its damage as an error of ours."""
    try:
        with np.load(path) as stored:
            yield stored
    except (OSError, ValueError, KeyError, EOFError, zlib.error, zipfile.BadZipFile, cv2.error) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(f"{path} is damaged: {first}", "Carry it once more.") from error


def decode(job: Job) -> None:
    """Writes the faces of one part into the set's arrays."""
    cv2.setNumThreads(1)
    crops, meshes, corners = (np.load(job.out / f"{n}.npy", mmap_mode="r+") for n in ("crops", "mesh", "corners"))
    with readable(job.path) as stored:
        ends = stored["ends"]
        rows = slice(job.first, job.first + len(ends))
        for row, picture in enumerate(np.split(stored["crops"], ends[:-1]), job.first):
            crops[row] = cv2.cvtColor(cv2.imdecode(picture, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        steps = np.frombuffer(zlib.decompress(stored["mesh"].tobytes()), np.uint8).reshape(2, -1).T
        meshes[rows] = np.ascontiguousarray(steps).view("<i2").reshape(len(ends), -1, 2).astype(np.float32) / STEPS
        corners[rows] = stored["corners"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unmask-train unpack``."""
    add = parser.add_argument
    add("parts", type=Path, metavar="PARTS", help="folder of the parts")
    add("-o", "--output", type=Path, required=True, metavar="DATA", help="folder of the prepared set")
    add("--variants", type=int, default=3, metavar="N", help="masks a face (default: 3)")
    add("--seed", type=int, default=1, metavar="N", help="which masks (default: 1)")
    add("--workers", type=int, metavar="N", help="processes (default: one a processor)")
    add_families(parser)


def main(arguments: argparse.Namespace) -> int:
    """``unmask-train unpack``: makes the set and draws its masks; returns the exit code."""
    a = arguments
    families = choose_families(a.families, a.without)
    print(f"{unpack(a.parts, a.output, workers=a.workers)} faces")
    draw_bank(a.output, variants=a.variants, seed=a.seed, workers=a.workers, families=families)
    return 0
