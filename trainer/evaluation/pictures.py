"""The test pictures: faces of a split, each with one mask drawn afresh, the same for every model.

Which faces are taken depends on (seed, split, count), and the mask of a face on (seed, row, family) alone: two models
measured with the same options see the same pictures, which `Draw.digest` of the evaluation's record confirms.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from trainer.augment import Planes
from trainer.datasets import is_unnamed
from trainer.evaluation import baselines
from trainer.evaluation.metrics import Target
from trainer.front import put_in_front
from trainer.masks import choose_families, draw_mask
from trainer.people import person_of
from trainer.turning import into_profile, wide_head
from unmask_rt.errors import UsageError

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Pixels = TypeVar("Pixels", NDArray[np.uint8], NDArray[np.float32])

EVERY = "all"
"""In place of a split: faces of any, to measure a run that was trained without their sources."""
MIN_COVER = 0.01
"""Share of the crop that a mask has to cover; a smaller one is drawn again."""
TRIES = 8


@dataclass(frozen=True, slots=True)
class Draw:
    """Which pictures, and how their masks are drawn.

    Attributes:
        data: the prepared set.
        split: its split, or `EVERY`.
        rows: of the set, in the order of measuring.
        families: weight of each family, in a fixed order; they sum to 1.
        seed: of the masks.
        sources: whose faces these are, in alphabetical order; none: those of any.
        profiles: heads are turned into profiles by drawing (`trainer.turning`).
        in_front: something hides part of each face (`trainer.front`).
        unnamed: sources of which some pictures do not tell who is on them, in alphabetical order.
    """

    data: Path
    split: str
    rows: tuple[int, ...]
    families: tuple[tuple[str, float], ...]
    seed: int
    sources: tuple[str, ...] = ()
    profiles: bool = False
    in_front: bool = False
    unnamed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """One test picture at the size of the prepared crops.

    Attributes:
        row: in the prepared set.
        source, identity: whose face it is, and out of which set.
        family: of its mask.
        truth, masked: uint8[256, 256, 3].
        alpha: float32[256, 256] 0..1.
        mesh: float32[478, 2], crop pixels.
        person: what the set tells of the person, `person_of`.
    """

    row: int
    source: str
    identity: str
    family: str
    truth: Image
    masked: Image
    alpha: Floats
    mesh: Floats
    person: dict[str, str]


def records_of(data: Path) -> list[dict[str, Any]]:
    """The records of a prepared set.

    Raises:
        UsageError: it is none.
    """
    try:
        records: list[dict[str, Any]] = json.loads((data / "meta.json").read_text("utf-8"))
    except OSError as error:
        hint = "Give the folder that `unmask-train prepare` wrote."
        raise UsageError(f"{data} is no prepared set: {error.strerror}", hint) from error
    return records


def _has_place(record: Mapping[str, Any], split: str) -> bool:
    """Whether a face is in a split, or was until `trainer.twins` moved it to training."""
    return split in (record["split"], record.get("moved_from"), EVERY)


def choose(
    data: Path,
    split: str,
    count: int,
    seed: int,
    families: str = "classic",
    without: str = "",
    sources: str = "",
    *,
    profiles: bool = False,
    in_front: bool = False,
) -> Draw:
    """Picks the faces of a split, in a seeded random order.

    Args:
        split: train, validation, test or `EVERY`.
        families, without: as `trainer.masks.choose_families` takes them.
        sources: names with commas between, to take the faces of these alone.
        profiles: turn heads into profiles.
        in_front: put something in front of each face.

    Raises:
        UsageError: the set is none, the split has no faces, a family or a source is not known, or the count is below 1.
    """
    if count < 1:
        raise UsageError(f"--count {count} measures nothing", "Give 1 or more.")
    records = records_of(data)
    try:
        weights = choose_families(families, without)
    except ValueError as error:
        raise UsageError(f"--families: {error}") from error
    if not any(r["split"] == "train" for r in records):
        raise UsageError(
            f"{data} has no training faces, so that there is no mean face to compare with",
            "Give the set that the model was trained on, or one prepared like it.",
        )
    if profiles and not (data / "shape.npy").exists():
        raise UsageError(f"--profiles: {data} has no shape.npy", "Prepare the set anew.")
    wanted = {name.strip() for name in sources.split(",") if name.strip()}
    there = {r["source"] for r in records}
    if wanted - there:
        unknown = ", ".join(sorted(wanted - there))
        raise UsageError(f"--sources: {data} has no {unknown}", f"It has: {', '.join(sorted(there))}.")
    of_sources = [i for i, r in enumerate(records) if r["source"] in (wanted or there)]
    rows = [i for i in of_sources if split in (records[i]["split"], EVERY)]
    if not rows:
        known = ", ".join(sorted({r["split"] for r in records if r["source"] in (wanted or there)}))
        raise UsageError(f"no such face in {data} belongs to the split {split!r}", f"It has: {known}.")
    allowed = set(rows)
    # Whoever was moved to training keeps a place in the order: the others come as they did before.
    placed = [i for i in of_sources if _has_place(records[i], split)]
    picked = [i for i in np.random.default_rng(seed).permutation(placed).tolist() if i in allowed][:count]
    chosen = [records[i] for i in picked]
    alone = {r["source"] for r in chosen if is_unnamed(r)}
    parts = tuple(weights.items()), seed, tuple(sorted(wanted)), profiles, in_front, tuple(sorted(alone))
    return Draw(data, split, tuple(picked), *parts)


class Drawer:
    """Draws pictures of a `Draw`; opens its arrays once."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self._records = json.loads((draw.data / "meta.json").read_text())
        self._crops = np.load(draw.data / "crops.npy", mmap_mode="r")
        self._meshes = np.load(draw.data / "mesh.npy", mmap_mode="r")
        self._head = wide_head(np.load(draw.data / "shape.npy")) if draw.profiles else None
        self._others = [i for i, r in enumerate(self._records) if _has_place(r, draw.split)]

    def picture(self, row: int) -> Picture:
        """The test picture of a row; raises as `draw_afresh`."""
        truth, mesh = np.asarray(self._crops[row]), np.asarray(self._meshes[row], np.float32)
        record = self._records[row]
        masked, alpha, family = draw_afresh(self.draw, row, truth, mesh)
        if self._head is not None or self.draw.in_front:
            planes = masked, truth, (alpha * 255 + 0.5).astype(np.uint8), np.full(alpha.shape, 255, np.uint8)
            if self._head is not None:
                rng = np.random.default_rng([self.draw.seed, row, 98])
                planes, turned = into_profile(planes, mesh, self._head, rng)
                mesh = turned.mesh
            if self.draw.in_front:
                planes = self._hidden(row, planes)
            masked, truth, cover, _ = planes
            alpha = cover.astype(np.float32) / np.float32(255)
        about = row, record["source"], record["identity"], family
        return Picture(*about, truth, masked, alpha, mesh, person_of(record))

    def _hidden(self, row: int, planes: Planes) -> Planes:
        """The four with something in front of the face; people are others of the split, masked every second time."""
        rng = np.random.default_rng([self.draw.seed, row, 97])
        other = int(rng.choice([i for i in self._others if i != row] or [row]))
        another = np.asarray(self._crops[other])
        if rng.random() < 0.5:
            another = draw_afresh(self.draw, other, another, np.asarray(self._meshes[other], np.float32))[0]
        return put_in_front(planes, another, rng)


def draw_afresh(draw: Draw, row: int, truth: Image, mesh: Floats) -> tuple[Image, Floats, str]:
    """The mask of a row of a draw.

    Args:
        truth: uint8[H, W, 3] RGB, the crop or the whole picture.
        mesh: float32[478, 2], pixels of ``truth``.

    Returns:
        The masked picture, alpha float32[H, W] and the mask's family.

    Raises:
        UsageError: no mask of the families drawn can be placed on this face.
    """
    names, weights = zip(*draw.families, strict=True)
    for attempt in range(TRIES):
        stream = [draw.seed, row, 99] if attempt == 0 else [draw.seed, row, 99, attempt]
        rng = np.random.default_rng(stream)
        family = str(rng.choice(names, p=weights))
        masked, alpha = draw_mask(truth, mesh, rng, family)
        if float((alpha > 0.5).mean()) >= MIN_COVER:
            return masked, alpha, family
    raise UsageError(f"no mask can be drawn on row {row} of {draw.data}", "Give other --families.")


def at_size(picture: Pixels, size: int) -> Pixels:
    """A square picture or plane at another size: averaged where it shrinks, cubic where it grows."""
    if picture.shape[0] == size:
        return picture
    way = cv2.INTER_AREA if size < picture.shape[0] else cv2.INTER_CUBIC
    resized = np.asarray(cv2.resize(picture, (size, size), interpolation=way))
    return resized if picture.dtype == np.uint8 else np.clip(resized, 0, 1)


@dataclass(frozen=True, slots=True)
class Case:
    """A picture at the size measured at, with its baselines already measured.

    Attributes:
        picture: at the crops' own size.
        truth, masked: uint8[S, S, 3].
        alpha: float32[S, S].
        baselines: output uint8[S, S, 3] of each baseline.
        figures: `Target.figures` of each baseline.
    """

    picture: Picture
    truth: Image
    masked: Image
    alpha: Floats
    baselines: dict[str, Image]
    figures: dict[str, dict[str, float]]


BASELINES = ("masked input", "Telea, true hole", "mean face, true hole")


class CaseMaker:
    """Row to `Case`: the part of the work that needs no network, and so can be spread over processes.

    Args:
        draw: the pictures.
        size: side S that is measured at.
    """

    def __init__(self, draw: Draw, size: int) -> None:
        cv2.setNumThreads(1)
        self._drawer, self._size = Drawer(draw), size
        mean = baselines.mean_face(draw.data)
        self._mean = np.asarray(
            mean if mean.shape[0] == size else cv2.resize(mean, (size, size), interpolation=cv2.INTER_AREA)
        )

    def __call__(self, row: int) -> Case:
        picture = self._drawer.picture(row)
        truth, masked = at_size(picture.truth, self._size), at_size(picture.masked, self._size)
        alpha = at_size(picture.alpha, self._size)
        target = Target(truth, masked, alpha)
        done = {
            BASELINES[0]: masked,
            BASELINES[1]: baselines.telea(masked, target.hole),
            BASELINES[2]: baselines.paste_mean(self._mean, masked, alpha),
        }
        figures = {name: target.figures(output) for name, output in done.items()}
        return Case(picture, truth, masked, alpha, done, figures)


_maker: CaseMaker


def _start(draw: Draw, size: int) -> None:
    global _maker
    _maker = CaseMaker(draw, size)


def _make(row: int) -> Case:
    return _maker(row)


def cases(draw: Draw, size: int, *, workers: int) -> Iterator[Case]:
    """The cases of a draw in order.

    Args:
        draw: the pictures.
        size: side that is measured at.
        workers: processes that draw and measure baselines; 0 does it here.
    """
    if workers == 0:
        yield from map(CaseMaker(draw, size), draw.rows)
        return
    # Little is handed over at the start: a process that dies while fed more than a pipe holds would hang this one.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (draw, size))
    with pool:
        yield from _in_order(pool, _make, draw.rows, ahead=6 * workers)


def _in_order(
    pool: ProcessPoolExecutor, work: Callable[[int], Case], rows: Sequence[int], *, ahead: int
) -> Iterator[Case]:
    """Results in order, never more than ``ahead`` of them waiting: pictures are large."""
    waiting: deque[Future[Case]] = deque()
    todo = iter(rows)
    try:
        for row in todo:
            waiting.append(pool.submit(work, row))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
