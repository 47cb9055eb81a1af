"""Moves faces out of testing and validation that training shows as well, in another picture.

    unmask-train prepare faces/ -o data
    unmask-train twins data

Most sets do not say who is on their pictures: `prepare` then takes each for another person, and one person, or even one
sitting, may end up on both sides. Here every face is described by the network that `evaluate` measures identity with
(dlib's, fetched once), and whoever of test or validation is nearer than --near to a training face of the same source
becomes a training face, until there is none. Models that were trained before have not seen those faces, and can still
be measured on the rest. What was moved says so in meta.json; where `prepare` adds pictures later it forgets that: call
this again then.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.evaluation.identity import PUBLISHED, Descriptors, FaceDescriptor, cut_chip
from trainer.evaluation.pictures import records_of
from trainer.parallel import progress
from trainer.prepare import write_text
from unmask_rt.errors import UsageError

NEAR = 0.30
"""Distance of descriptors under which two pictures are of one person for sure, mostly of one sitting: dlib's own limit
of .6 would take strangers of one age and origin for one person."""
BATCH = 32
ROWS = 256


def describe_set(data: Path, network: FaceDescriptor) -> Descriptors:
    """Descriptors float64[N, 128] of the faces of a prepared set."""
    crops = np.load(data / "crops.npy", mmap_mode="r")
    meshes = np.load(data / "mesh.npy", mmap_mode="r")
    parts = [np.zeros((0, 128))]
    with progress("describe faces", len(crops)) as advance:
        for start in range(0, len(crops), BATCH):
            some = zip(crops[start : start + BATCH], meshes[start : start + BATCH], strict=True)
            chips = [cut_chip(np.asarray(crop), np.asarray(mesh, np.float32)) for crop, mesh in some]
            parts.append(network.describe(np.stack(chips)))
            advance(len(chips))
    return np.concatenate(parts)


def find_twins(records: Sequence[dict[str, Any]], descriptors: Descriptors, near: float) -> list[int]:
    """Rows of test and validation that belong to training: of people near to a training face of their source, or to one
    of those.

    Args:
        records: of the prepared set.
        descriptors: float64[N, 128].
        near: Euclidean distance below which two pictures count as of one person.
    """
    sources, people = (np.array([r[key] for r in records]) for key in ("source", "identity"))
    trains = np.array([r["split"] == "train" for r in records])
    moved: list[int] = []
    for source in np.unique(sources):
        rows = np.flatnonzero(sources == source)
        trained = trains[rows]
        fresh, left = rows[trained], rows[~trained]
        while len(fresh) and len(left):
            near_by = _nearest(descriptors[left], descriptors[fresh]) < near
            found = np.isin(people[left], people[left[near_by]])  # with all their pictures
            fresh, left = left[found], left[~found]
            moved += fresh.tolist()
    return sorted(moved)


def _nearest(these: Descriptors, those: Descriptors) -> NDArray[np.float64]:
    """Distance of each of ``these`` to the nearest of ``those``."""
    parts = []
    for start in range(0, len(these), ROWS):
        some = these[start : start + ROWS]
        squares = (some**2).sum(1)[:, None] + (those**2).sum(1) - 2 * some @ those.T
        parts.append(np.sqrt(np.maximum(squares.min(1), 0)))
    return np.concatenate(parts)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("data", type=Path, help="a prepared set")
    parser.add_argument(
        "--near", type=float, default=NEAR, help="distance below which faces are one person's (default: %(default)s)"
    )
    parser.add_argument("--descriptor", type=Path, metavar="DIR", help="a local copy of the face descriptor's files")


def main(arguments: argparse.Namespace) -> int:
    """Runs the command; returns the exit code."""
    data = arguments.data
    if not 0 < arguments.near < 2:
        raise UsageError(f"--near {arguments.near} is no distance of descriptors", "Give one between 0 and 2.")
    records = records_of(data)
    network = FaceDescriptor(*PUBLISHED.load(arguments.descriptor))
    found = find_twins(records, describe_set(data, network), arguments.near)
    counts = Counter((records[i]["source"], records[i]["split"]) for i in found)
    for i in found:
        records[i] |= {"moved_from": records[i]["split"], "split": "train"}
    write_text(data / "meta.json", json.dumps(records))
    for (source, split), count in sorted(counts.items()):
        print(f"{source}: {count} of {split} are shown in training, too, and belong to it now")
    left = Counter(r["split"] for r in records)
    print(f"{left['validation']} are left to validate, {left['test']} to test")
    return 0
