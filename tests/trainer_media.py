"""A tiny set of faces for the trainer: the sample picture over and over, each time a little different."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from trainer.bank import draw_bank
from trainer.datasets import split_of
from trainer.prepare import prepare
from unmask_rt import sample
from unmask_rt.align import Image

COUNTS = {"train": 6, "validation": 2, "test": 1}
"""Good faces of the folder, by split."""
DROPPED = {
    "too small": 1, "blurred": 1, "grey": 1, "chin cut off": 1, "no face": 1, "corrupt": 3, "duplicate": 1,
}  # fmt: skip
CORRUPT = ["faces/cut.jpg", "faces/empty.png", "faces/text.jpg"]
IN_TAR = 2
VARIANTS, BANK_SEED = 2, 1


class TinySet(NamedTuple):
    """The inputs, the prepared folder with a bank of `VARIANTS` masks, and the summary of its making."""

    inputs: tuple[Path, Path]
    data: Path
    summary: dict[str, Any]


def make_set(folder: Path, face_model: bytes) -> TinySet:
    inputs = write_faces(folder)
    summary = prepare(inputs, folder / "data", face_model, workers=1)
    draw_bank(folder / "data", variants=VARIANTS, seed=BANK_SEED, workers=1)
    return TinySet(inputs, folder / "data", summary)


def portrait(number: int) -> Image:
    """The sample face, mirrored, turned and lit in its own way before its own background, uint8[360, 360, 3] RGB."""
    rng = np.random.default_rng(number)
    picture = np.ascontiguousarray(sample.astronaut()[20:280, 90:350])
    mesh = sample.astronaut_mesh() - np.array([90, 20], np.float32)
    face = cv2.fillConvexPoly(np.zeros((260, 260), np.uint8), np.round(cv2.convexHull(mesh)).astype(np.int32), 255)
    face = cv2.GaussianBlur(cv2.dilate(face, np.ones((9, 9), np.uint8)), (0, 0), 3).astype(np.float32) / 255
    spots = np.asarray(cv2.resize(rng.uniform(0, 255, (5, 5, 3)).astype(np.float32), (260, 260)))
    picture = (
        (spots * 0.7 * (1 - face[..., None]) + picture * (0.3 + 0.7 * face[..., None])).clip(0, 255).astype(np.uint8)
    )
    if number % 2:
        picture = np.ascontiguousarray(picture[:, ::-1])
    turn = cv2.getRotationMatrix2D((130, 100), float(rng.uniform(-12, 12)), 1.0)
    turn = np.array([[360 / 260, 0, 0.2], [0, 360 / 260, 0.2]]) @ np.vstack([turn, [0, 0, 1]])
    picture = cv2.warpAffine(picture, turn, (360, 360), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    light = rng.uniform(0.8, 1.1, 3)
    return np.clip(picture * light, 0, 255).astype(np.uint8)


def encoded(picture: Image, extension: str = ".png") -> bytes:
    _, code = cv2.imencode(extension, cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    return code.tobytes()


def name_in(split: str, count: int) -> list[str]:
    """File names in the folder ``faces`` whose faces fall into a split."""
    names = (f"p{i:03d}.png" for i in range(10_000))
    found = []
    for name in names:
        if split_of(f"faces-{name}") == split:
            found.append(name)
        if len(found) == count:
            break
    return found


def write_faces(folder: Path) -> tuple[Path, Path]:
    """Writes ``folder/faces`` with good, bad and broken pictures and ``folder/more.tar`` with two good ones."""
    faces = folder / "faces"
    faces.mkdir()
    number = 0
    for split, count in COUNTS.items():
        for name in name_in(split, count):
            (faces / name).write_bytes(encoded(portrait(number)))
            number += 1
    first = faces / name_in("train", 1)[0]
    (faces / "z-again.png").write_bytes(first.read_bytes())
    whole = sample.astronaut()
    small = cv2.resize(whole, (288, 288), interpolation=cv2.INTER_AREA)
    (faces / "small.png").write_bytes(encoded(np.asarray(small)))
    blurred = cv2.GaussianBlur(portrait(50), (0, 0), 5)
    (faces / "blurred.png").write_bytes(encoded(np.asarray(blurred)))
    grey = cv2.cvtColor(portrait(51), cv2.COLOR_RGB2GRAY)
    (faces / "grey.png").write_bytes(encoded(np.stack([grey] * 3, 2)))
    chin = round(float(sample.astronaut_mesh()[152, 1]))
    (faces / "chin.png").write_bytes(encoded(np.ascontiguousarray(whole[: chin - 4])))
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    (faces / "noise.png").write_bytes(encoded(noise))
    (faces / "cut.jpg").write_bytes(encoded(portrait(52), ".jpg")[:900])
    (faces / "empty.png").write_bytes(b"")
    (faces / "text.jpg").write_text("no picture at all\n")
    (faces / "notes.txt").write_text("not looked at\n")
    with tarfile.open(folder / "more.tar", "w") as tar:
        for i in range(IN_TAR):
            data = encoded(portrait(number + i))
            member = tarfile.TarInfo(f"somewhere/q{i}.png")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return faces, folder / "more.tar"
