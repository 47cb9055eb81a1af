"""Whole pictures through the tool's own stages: what a user gets, from the picture to the picture.

The people are those of the evaluation's crops, in the pictures that the set was prepared from: a mask is drawn on the
whole picture, and finding, aligning, drawing and blending all count. Each picture also goes through without a mask: it
has to come back untouched. Needs mediapipe.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track

from engines.base import Engine
from trainer.datasets import open_sources, read_members
from trainer.evaluation.engine import tool_stages
from trainer.evaluation.figures import Estimate, summarise
from trainer.evaluation.metrics import Target
from trainer.evaluation.pictures import Draw, Image, draw_afresh
from trainer.quality import decode
from unmask_rt import models, planes
from unmask_rt.align import Points
from unmask_rt.errors import UsageError
from unmask_rt.faces.mesh import FaceMesh
from unmask_rt.frames import Packet
from unmask_rt.pipeline import Stage
from unmask_rt.sources.arrays import frame_of

ROOMY = 0.12, 0.18
"""Share of a picture that the mask covers where there is room around the face; figures of the whole depend on it."""


def measure_frames(
    engine: Engine, draw: Draw, inputs: Sequence[Path], *, face_model: Path | None, finder_model: Path | None
) -> dict[str, Estimate]:
    """Figures of whole pictures, by their keys in `trainer.evaluation.figures.FIGURES`.

    Args:
        engine: runs the network.
        draw: the people, by their rows in the prepared set, and the families and seed of the masks.
        inputs: the folders and tars that the set was prepared from.
        face_model, finder_model: local copies.

    Raises:
        UsageError: no picture of these people is in the inputs, or none shows a face.
    """
    rows = []
    console = Console(stderr=True)
    with (
        FaceMesh(models.load_face_model(face_model), max_faces=1, video=False) as mesh,
        tool_stages(engine, "still", face_model=face_model, finder_model=finder_model) as stages,
    ):
        shown = track(
            pictures(draw, inputs), "frames", len(draw.rows), console=console, disable=not console.is_terminal
        )
        for row, truth in shown:
            found = mesh(truth)
            if found:
                rows.append(measure_frame(stages, truth, found[0].points, draw, row))
    if not rows:
        raise UsageError("no face was found in the pictures of these people", "Give the pictures that DATA is made of.")
    return summarise(rows)


def measure_frame(stages: Sequence[Stage], truth: Image, mesh: Points, draw: Draw, row: int) -> dict[str, float]:
    """The figures of one picture uint8[H, W, 3] of a bare face."""
    masked, alpha, _ = draw_afresh(draw, row, truth, mesh)
    target = Target(truth, masked, alpha)
    figures = target.figures(through(stages, masked))
    figures["cover"] = float(target.hole.mean())
    figures["untouched"] = float(np.array_equal(through(stages, truth), truth))
    if ROOMY[0] <= figures["cover"] <= ROOMY[1]:
        figures |= {"roomy_psnr": figures["whole_psnr"], "roomy_ssim": figures["ssim"]}
    return figures


def through(stages: Sequence[Stage], picture: Image) -> Image:
    """A picture uint8[H, W, 3] after all stages."""
    packet = Packet(frame_of(picture))
    for stage in stages:
        (packet,) = stage(packet)
    return planes.upright(packet.frame)


def pictures(draw: Draw, inputs: Sequence[Path]) -> Iterator[tuple[int, Image]]:
    """Row and picture uint8[H, W, 3] of each of a draw's people, in the order of the draw.

    Raises:
        UsageError: a person's picture is not in the inputs, or cannot be read any more.
    """
    records = json.loads((draw.data / "meta.json").read_text())
    sources = {source.name: source for source in open_sources(inputs)}
    known = {name: {member.name: member for member in source.members} for name, source in sources.items()}
    for row in draw.rows:
        record = records[row]
        member = known.get(record["source"], {}).get(record["name"])
        rgb = None
        if member is not None:
            ((_, data),) = read_members(sources[record["source"]].path, [member])
            rgb = decode(data)
        if rgb is None:
            raise UsageError(
                f"the picture {record['name']} of the source {record['source']!r} is not there to be read",
                "Give all folders and tars that DATA was prepared from.",
            )
        yield row, rgb
