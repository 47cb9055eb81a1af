"""Pseudo labels: what the map module itself is sure of on pictures of people really wearing masks.

    python -m trainer.pseudo masked-faces.tar --model unmask.onnx -o runs/real

Every face is cut as the runtime cuts it, and the map is taken as the mean over mirrored, turned, shifted and scaled
views. Pixels on which the views agree become labels, the rest gets no weight; faces of which too little is certain, or
whose map is no sensible mask, are left out (after D.-H. Lee, "Pseudo-Label", ICML workshop 2013). Writes

    crops.npy  uint8[N, 256, 256, 3]    alpha.npy  uint8[N, 256, 256]    weight.npy  uint8[N, 256, 256] (0 or 255)

and ``sheet*.jpg`` to be looked at. Names of faces that look wrong go into ``reject.txt`` (one row number a line); a
second call leaves them out.
"""

from __future__ import annotations

import argparse
import contextlib
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np

from engines import open_engine
from engines.base import Engine
from unmask_rt import models
from unmask_rt.blend import mask_score
from unmask_rt.faces.find import FindStage
from unmask_rt.frames import Packet
from unmask_rt.inpaint import InpaintStage
from unmask_rt.sources import open_source

SIZE = 256


def agreed_map(engine: Engine, crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean map 0..1 over eight views, and where they agree; float32[S, S] and bool[S, S]."""
    maps = []
    for flip in (False, True):
        for angle, scale, dx, dy in ((0, 1.0, 0, 0), (6, 1.06, 5, -4), (-6, 0.95, -5, 3), (3, 0.9, 0, 8)):
            matrix = cv2.getRotationMatrix2D((127.5, 127.5), angle, scale)
            matrix[:, 2] += (dx, dy)
            view = cv2.warpAffine(crop, matrix, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
            found = engine(np.ascontiguousarray(view[:, ::-1] if flip else view)[None])[1][0]
            found = np.ascontiguousarray(found[:, ::-1]) if flip else found
            back = cv2.invertAffineTransform(matrix)
            found = cv2.warpAffine(found, back, (SIZE, SIZE), borderMode=cv2.BORDER_REPLICATE)
            maps.append(found.astype(np.float32) / 255)
    stack = np.stack(maps)
    mean = stack.mean(0)
    return mean, ((mean > 0.85) | (mean < 0.1)) & (stack.std(0) < 0.2)


def is_sensible(mean: np.ndarray, sure: np.ndarray, grown: float = 1.0) -> bool:
    """One large piece over mouth and chin, eyes free, most pixels certain; ``grown`` is as for `mask_score`."""
    hard = (mean > 0.5).astype(np.uint8)
    area = float(hard.mean())
    if not 0.06 < area < 0.5 or mask_score((mean * 255).astype(np.uint8), grown=grown) < 0.8 or sure.mean() < 0.88:
        return False
    if hard[70:95, 60:196].mean() > 0.25:  # the eyes
        return False
    _, _, stats, _ = cv2.connectedComponentsWithStats(hard)
    return float(stats[1:, cv2.CC_STAT_AREA].max()) > 0.93 * float(hard.sum())


def unpack(archive: Path, folder: Path) -> None:
    """Writes the files of a tar into a folder; links, devices and names that lead out of it are left out."""
    with tarfile.open(archive) as tar:
        for member in tar:
            place = (folder / member.name).resolve()
            content = tar.extractfile(member) if member.isreg() and place.is_relative_to(folder.resolve()) else None
            if content is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content.read())


def label(pictures: Path, model: Path | None, out: Path) -> int:
    """Labels every face of a folder or tar of pictures; returns how many were kept.

    Raises:
        ValueError: no face was kept.
    """
    out.mkdir(parents=True, exist_ok=True)
    reject_file = out / "reject.txt"
    rejected = {int(line) for line in reject_file.read_text().split()} if reject_file.exists() else set()
    data, _ = models.load_unmask_model(model)
    crops, alphas, weights = [], [], []
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as open_things:
        if pictures.is_file():
            unpack(pictures, Path(folder))
            pictures = Path(folder)
        engine = open_engine("onnxruntime", data, threads=1, precision="fp32")
        open_things.callback(engine.close)
        face_model, finder_model = models.load_face_model(None), models.load_finder_model(None)
        aligner_model = models.load_aligner_model()
        find = open_things.enter_context(
            contextlib.closing(FindStage(face_model, finder_model, aligner_model, max_faces=4, mode="still"))
        )
        cut = InpaintStage(engine, "still")
        seen = 0
        for frame in open_source(str(pictures), start_s=0.0, duration_s=None):
            (packet,) = find(Packet(frame))
            (packet,) = cut(packet)
            for patch in packet.patches:
                seen += 1
                if seen - 1 in rejected:
                    continue
                mean, sure = agreed_map(engine, patch.crop)
                if is_sensible(mean, sure, patch.grown):
                    crops.append((seen - 1, patch.crop))
                    alphas.append(np.round(mean * 255).astype(np.uint8))
                    weights.append(sure.astype(np.uint8) * 255)
    if not crops:
        raise ValueError(f"of {seen} faces found, none wears a mask that the model is sure of")
    np.save(out / "crops.npy", np.stack([c for _, c in crops]))
    np.save(out / "alpha.npy", np.stack(alphas))
    np.save(out / "weight.npy", np.stack(weights))
    write_sheets(out, crops, alphas)
    return len(crops)


def write_sheets(out: Path, crops: list[tuple[int, np.ndarray]], alphas: list[np.ndarray]) -> None:
    """Contact sheets of the labels, each tile with its number."""
    tiles = []
    for (number, crop), alpha in zip(crops, alphas, strict=True):
        tile = crop.copy()
        tile[alpha > 127] = (tile[alpha > 127] * 0.5 + np.array([127, 0, 0])).astype(np.uint8)
        tile = np.asarray(cv2.resize(tile, (96, 96), interpolation=cv2.INTER_AREA))
        cv2.putText(tile, str(number), (2, 11), cv2.FONT_HERSHEY_SIMPLEX, 0.36, (0, 255, 0), 1, cv2.LINE_AA)
        tiles.append(tile)
    for page in range(0, len(tiles), 180):
        part = tiles[page : page + 180]
        part += [np.zeros_like(part[0])] * (-len(part) % 18)
        grid = np.vstack([np.hstack(part[i : i + 18]) for i in range(0, len(part), 18)])
        cv2.imwrite(str(out / f"sheet{page // 180}.jpg"), cv2.cvtColor(grid, cv2.COLOR_RGB2BGR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--model", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    a = parser.parse_args()
    print(f"{label(a.pictures, a.model, a.out)} faces labelled")


if __name__ == "__main__":
    main()
