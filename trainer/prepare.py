"""From folders or tars of face pictures to prepared arrays that training reads without mediapipe or av.

    unmask-train prepare faces/*.tar -o runs/data --face-model face_landmarker.task

A prepared set is a folder:

    crops.npy      uint8[N, 256, 256, 3]  aligned RGB crops
    mesh.npy       float16[N, 478, 2]     face mesh in crop pixels
    corners.npy    float32[N, 4, 2]       the picture's corners in crop pixels: outside them a crop repeats the border
    meta.json      a list of N records: name, source, identity, split, yaw, smile, open, age, sex, group, sharpness
    summary.json   what was kept, what was dropped and why

Work goes chunk by chunk into ``chunks/``; a second call goes on where the first stopped.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from unmask_rt.align import MESH_ANCHORS, Image, apply, crop_transform, scale_of, warp
from unmask_rt.faces.mesh import FaceMesh

SIZE = 256
CHUNK = 250
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}
CHIN = 152
MIN_SCALE = 0.45
"""Source pixels for one crop pixel below which a face is too small to learn texture from."""
MIN_INSIDE = 0.3
"""Share of the crop that the picture has to cover; tight portraits are kept, the loss leaves out what they lack."""
MIN_SHARPNESS = 3.0
"""Mean absolute Laplacian of the face's luma (0..255) below which a picture is out of focus."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Up to `CHUNK` pictures of one source, worked off by one process and written as one file."""

    source: str
    path: str
    names: tuple[str, ...]
    out: str


def list_chunks(inputs: Sequence[Path], out: Path) -> list[Chunk]:
    """Splits tars and folders of pictures into chunks.

    Raises:
        FileNotFoundError: an input is neither a folder nor a tar.
        ValueError: two inputs have the same name, which is what chunks and sources are told apart by.
    """
    chunks = []
    stems = [path.stem for path in inputs]
    if len(set(stems)) < len(stems):
        twice = sorted(s for s in set(stems) if stems.count(s) > 1)
        raise ValueError(f"inputs need different names, these are there twice: {', '.join(twice)}")
    for path in inputs:
        if path.is_dir():
            names = sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.suffix.lower() in PICTURES)
        elif path.is_file() and tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                names = sorted(m.name for m in tar if m.isfile() and Path(m.name).suffix.lower() in PICTURES)
        else:
            raise FileNotFoundError(f"{path}: neither a folder of pictures nor a tar of them")
        for start in range(0, len(names), CHUNK):
            target = out / "chunks" / f"{path.stem}-{start:06d}.npz"
            chunks.append(Chunk(path.stem, str(path), tuple(names[start : start + CHUNK]), str(target)))
    return chunks


def read_pictures(chunk: Chunk) -> Iterator[tuple[str, bytes]]:
    """Name and encoded bytes of each picture of a chunk."""
    root = Path(chunk.path)
    if root.is_dir():
        for name in chunk.names:
            yield name, (root / name).read_bytes()
        return
    wanted = set(chunk.names)
    with tarfile.open(root) as tar:
        for member in tar:
            if member.name in wanted:
                file = tar.extractfile(member)
                assert file is not None
                yield member.name, file.read()


def describe(source: str, name: str) -> dict[str, Any]:
    """What a file's name tells about the person: identity, age, sex, group, as the known face sets write it."""
    stem = Path(name).name.split(".")[0]
    if m := re.match(r"(?:\d{5}_)?(\d{5})A(\d{2})$", stem):  # All-Age-Faces
        return {"identity": f"aaf-{m[1]}", "age": int(m[2])}
    if m := re.match(r"(?:\d{5}_)?(\d{1,3})_([01])_([0-4])_\d+", stem):  # UTKFace
        group = ("white", "black", "asian", "indian", "other")[int(m[3])]
        return {"age": int(m[1]), "sex": "mf"[int(m[2])], "group": group}
    if m := re.match(r"(?:\d{5}_)?([AC])([FM])(\d+)$", stem):  # SCUT-FBP5500
        return {"identity": f"scut-{m[0]}", "sex": m[2].lower(), "group": {"A": "asian", "C": "white"}[m[1]]}
    if m := re.match(r"\d{5}_(female|male)_([a-z]+)_", stem):
        return {"sex": m[1][0], "group": m[2]}
    parent = Path(name).parent.name
    if parent and re.match(r"^[A-Z][^/]*_\w+$", parent):  # LFW: one folder a person
        return {"identity": parent}
    return {}


def split_of(identity: str) -> str:
    """Deterministic split by identity: 94 % train, 3 % validation, 3 % test."""
    share = int.from_bytes(hashlib.sha256(identity.encode()).digest()[:4], "big") / 2**32
    return "train" if share < 0.94 else "validation" if share < 0.97 else "test"


def difference_hash(crop: Image) -> int:
    """64-bit dHash of a crop (N. Krawetz): equal for the same picture at another size or quality."""
    grey = cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    return int.from_bytes(np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes(), "big")


def yaw_of(mesh: np.ndarray) -> float:
    """Turn of the head, -1..1, from the nose tip's place between the cheeks; 0 looks straight ahead."""
    left, right, nose = mesh[234, 0], mesh[454, 0], mesh[1, 0]
    return float(np.clip(2 * (nose - left) / max(right - left, 1e-3) - 1, -1, 1))


def prepare_picture(mesh: FaceMesh, data: bytes) -> tuple[str, dict[str, Any]]:
    """One encoded picture to a crop; returns ("kept", arrays and figures) or (reason it was dropped, {})."""
    bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if bgr is None:
        return "corrupt", {}
    rgb = np.asarray(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
    found = mesh(rgb)
    if not found:
        return "no face", {}
    face = max(found, key=lambda f: float(np.ptp(f.points[:, 0])))
    transform = crop_transform(face.points[list(MESH_ANCHORS)], SIZE)
    if scale_of(transform) > 1 / MIN_SCALE:
        return "too small", {}
    crop = warp(rgb, transform, SIZE)
    points = apply(transform, face.points)
    height, width = rgb.shape[:2]
    edges = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    corners = apply(transform, edges.astype(np.float32))
    chin_x, chin_y = face.points[CHIN]
    if not (0 <= chin_x < width and chin_y < height - 1) or points[CHIN, 1] > SIZE - 4:
        return "chin cut off", {}
    inside = cv2.fillConvexPoly(np.zeros((SIZE, SIZE), np.uint8), np.round(corners).astype(np.int32), 1)
    if inside.mean() < MIN_INSIDE:
        return "crop mostly outside the picture", {}
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
    middle = grey[64:224, 56:200]
    sharpness = float(np.abs(cv2.Laplacian(middle, cv2.CV_32F)).mean())
    if sharpness < MIN_SHARPNESS:
        return "blurred", {}
    if float(np.abs(np.ptp(crop.astype(np.int16), axis=2)).mean()) < 4:
        return "grey", {}
    smile = (face.blendshapes["mouthSmileLeft"] + face.blendshapes["mouthSmileRight"]) / 2
    figures = {
        "yaw": round(yaw_of(points), 3),
        "smile": round(smile, 3),
        "open": round(face.blendshapes["jawOpen"], 3),
        "sharpness": round(sharpness, 2),
        "hash": difference_hash(crop),
    }
    return "kept", {"crop": crop, "mesh": points.astype(np.float16), "corners": corners, "figures": figures}


def work(job: tuple[Chunk, bytes]) -> str:
    """Prepares one chunk and writes it atomically; returns the path."""
    chunk, model = job
    cv2.setNumThreads(1)
    kept, records, dropped = [], [], []
    with FaceMesh(model, max_faces=2, video=False, blendshapes=True) as mesh:
        for name, data in read_pictures(chunk):
            verdict, result = prepare_picture(mesh, data)
            if verdict != "kept":
                dropped.append((name, verdict))
                continue
            kept.append(result)
            about = {"identity": f"{chunk.source}-{Path(name).name}"} | describe(chunk.source, name)
            records.append({"name": name, "source": chunk.source} | about | result["figures"])
    target = Path(chunk.out)
    partial = target.with_suffix(".partial")
    empty = np.zeros((0,))
    with partial.open("wb") as file:
        np.savez(
            file,
            crops=np.stack([k["crop"] for k in kept]) if kept else empty,
            mesh=np.stack([k["mesh"] for k in kept]) if kept else empty,
            corners=np.stack([k["corners"] for k in kept]) if kept else empty,
            records=json.dumps(records),
            dropped=json.dumps(dropped),
        )
    os.replace(partial, target)
    return chunk.out


def assemble(chunks: Sequence[Chunk], out: Path) -> dict[str, Any]:
    """Joins the chunks into the arrays of a prepared set, dropping duplicates; returns the summary."""
    seen: set[int] = set()
    reasons: Counter[str] = Counter()
    corrupt: list[str] = []
    records: list[dict[str, Any]] = []
    picks: list[tuple[str, list[int]]] = []
    for chunk in chunks:
        with np.load(chunk.out) as stored:
            for name, reason in json.loads(str(stored["dropped"])):
                reasons[reason] += 1
                if reason == "corrupt":
                    corrupt.append(f"{chunk.source}/{name}")
            pick = []
            for i, record in enumerate(json.loads(str(stored["records"]))):
                key = record.pop("hash")
                if key in seen:
                    reasons["duplicate"] += 1
                    continue
                seen.add(key)
                records.append(record | {"split": split_of(record["identity"])})
                pick.append(i)
            picks.append((chunk.out, pick))
    count = len(records)
    arrays = {
        "crops": np.lib.format.open_memmap(out / "crops.npy", "w+", np.uint8, (count, SIZE, SIZE, 3)),
        "mesh": np.lib.format.open_memmap(out / "mesh.npy", "w+", np.float16, (count, 478, 2)),
        "corners": np.lib.format.open_memmap(out / "corners.npy", "w+", np.float32, (count, 4, 2)),
    }
    row = 0
    for path, pick in picks:
        if not pick:
            continue
        with np.load(path) as stored:
            for key, array in arrays.items():
                array[row : row + len(pick)] = stored[key][pick]
        row += len(pick)
    for array in arrays.values():
        array.flush()
    (out / "meta.json").write_text(json.dumps(records))
    summary = {
        "kept": count,
        "dropped": dict(reasons),
        "corrupt": corrupt,
        "by_source": dict(Counter(r["source"] for r in records)),
        "by_split": dict(Counter(r["split"] for r in records)),
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    return summary


def prepare(inputs: Sequence[Path], out: Path, face_model: bytes, *, workers: int = 2) -> dict[str, Any]:
    """Prepares every picture of ``inputs`` into ``out``; returns the summary."""
    from rich.progress import track

    (out / "chunks").mkdir(parents=True, exist_ok=True)
    chunks = list_chunks(inputs, out)
    todo = [(c, face_model) for c in chunks if not Path(c.out).exists()]
    if todo:
        with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=8) as pool:
            for _ in track(pool.imap_unordered(work, todo), total=len(todo), description="prepare"):
                pass
    return assemble(chunks, out)
