"""Preparing goes chunk by chunk: each is worked off by one process and written as one file, so that nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from trainer.datasets import Member, Source, read_members
from trainer.quality import prepare_picture
from unmask_rt.faces.mesh import FaceMesh

CHUNK = 250
FORMAT = 2
"""Raised when chunks made before are no longer what would be made now."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Up to `CHUNK` pictures of one source, worked off by one process and written as one file."""

    source: str
    path: Path
    members: tuple[Member, ...]
    out: Path


def list_chunks(sources: Iterable[Source], folder: Path) -> list[Chunk]:
    """Splits sources into chunks, whose file names hold a digest of what is in them."""
    chunks = []
    for source in sources:
        for start in range(0, len(source.members), CHUNK):
            members = source.members[start : start + CHUNK]
            content = json.dumps([FORMAT, str(source.path), [(m.name, m.offset, m.size) for m in members]])
            digest = hashlib.sha256(content.encode()).hexdigest()[:12]
            chunks.append(Chunk(source.name, source.path, members, folder / f"{source.name}-{start:06d}-{digest}.npz"))
    return chunks


def work(job: tuple[Chunk, bytes]) -> Path:
    """Prepares one chunk with a face model and writes it atomically; returns the path."""
    chunk, model = job
    cv2.setNumThreads(1)
    kept, records, dropped = [], [], []
    with FaceMesh(model, max_faces=2, video=False, blendshapes=True) as mesh:
        for name, data in read_members(chunk.path, chunk.members):
            verdict, result = prepare_picture(mesh, data)
            if verdict != "kept":
                dropped.append((name, verdict))
                continue
            kept.append(result)
            records.append({"name": name, "source": chunk.source} | result["figures"])
    partial = chunk.out.with_suffix(".partial")
    arrays: dict[str, Any] = {"records": json.dumps(records), "dropped": json.dumps(dropped)}
    for key in ("crop", "mesh", "corners"):
        arrays[key] = np.stack([k[key] for k in kept]) if kept else np.zeros(0)
    with partial.open("wb") as file:
        np.savez(file, **arrays)
    os.replace(partial, chunk.out)
    return chunk.out
