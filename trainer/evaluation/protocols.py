"""The ancestors' own ways of measuring, so that a figure of ours stands beside each published one.

None of the rows is a comparison: faces, masks' drawing, count and backbone differ, and each row says how. What the
published figures do not tell (the masks' sizes, the feature distance's network) is our choice and said to be.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainer.evaluation.figures import Estimate
from trainer.evaluation.measure import Judges, measure
from trainer.evaluation.options import chosen
from trainer.evaluation.tables import cell, table

if TYPE_CHECKING:
    from trainer.runs import Restorer


@dataclass(frozen=True, slots=True)
class Protocol:
    """One published figure and how ours is taken.

    Attributes:
        title: what the protocol is.
        families: masks, as `trainer.masks.choose_families` takes them.
        size: side measured at, pixels.
        published: figures as published, by their key in `figures.FIGURES`.
        pictures: how many pictures the published figures are of, as far as it is known.
        differs: what is not the same here.
    """

    title: str
    families: str
    size: int
    published: dict[str, float]
    pictures: str
    differs: str


SAME = "other faces (the prepared set's, aligned by eyes and nose bridge)"
PROTOCOLS = (
    Protocol(
        "rectangles and ovals drawn at random on aligned faces",
        "geometric",
        256,
        {"whole_psnr": 35.64, "ssim": 0.9611, "fd": 0.4351},
        "5",
        f"{SAME}; sizes of the shapes are ours, and a hole of another size alone shifts whole PSNR by decibels; the "
        "network of the published feature distance is not known: neither FD nor identity distance need be that figure",
    ),
    Protocol(
        "synthetic masks placed by landmarks, 256 px",
        "landmark",
        256,
        {"whole_psnr": 22.25, "ssim": 0.874},
        "not known",
        f"{SAME} instead of CelebA faces; flat templates of our own drawing",
    ),
    Protocol(
        "128 px, the map found by the model",
        "classic",
        128,
        {"whole_psnr": 20.0, "ssim": 0.5},
        "not known",
        f"{SAME}; masks drawn on the mesh; the published figures are round numbers",
    ),
)
SHOWN = ("whole_psnr", "ssim", "fd", "identity", "hole_psnr", "map_iou")


def run_protocols(model: Restorer, arguments: argparse.Namespace, judges: Judges) -> list[dict[str, Any]]:
    """Measures each protocol, with the hole found by the model and, where ``--true-hole`` was given, with the true one.

    Args:
        model: what is measured.
        arguments: those of ``unmask-train evaluate``; data, split, count and seed are used.
        judges: the networks that judge.

    Returns:
        For each row: title, hole, published, pictures, differs, count, size and ours (estimates by figure).
    """
    rows = []
    for protocol in PROTOCOLS:
        draw = chosen(arguments, protocol.families)
        for true_hole in (False, True) if arguments.true_hole else (False,):
            done = measure(
                {"model": model},
                draw,
                size=protocol.size,
                judges=judges,
                true_hole=true_hole,
                workers=arguments.workers,
                progress=protocol.title,
            )
            found = done.summary(done.systems[0])["all"]
            rows.append(
                {
                    "title": protocol.title,
                    "hole": "true hole" if true_hole else "hole found",
                    "published": protocol.published,
                    "pictures": protocol.pictures,
                    "differs": protocol.differs,
                    "count": len(done.pictures),
                    "size": protocol.size,
                    "ours": {k: _plain(found[k]) for k in SHOWN if k in found},
                }
            )
    return rows


def table_of(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown; "other data, not comparable" stands in the heading."""
    lines = []
    for row in rows:
        ours = {k: Estimate(**v) for k, v in row["ours"].items()}
        published = row["published"]
        lines.append(
            [
                f"{row['title']} ({row['hole']}, {row['size']} px)",
                *(cell(ours.get(k), k) for k in SHOWN),
                " / ".join(f"{published[k]:g}" for k in SHOWN if k in published),
                f"{row['count']} / {row['pictures']}",
                row["differs"],
            ]
        )
    header = [
        "protocol",
        *("whole PSNR, dB", "SSIM", "FD", "identity distance", "hole PSNR, dB", "map IoU"),
        "published PSNR / SSIM / FD: other data, not comparable",
        "pictures, ours / theirs",
        "what differs",
    ]
    return table(header, lines)


def _plain(found: Estimate) -> dict[str, Any]:
    return {"value": found.value, "low": found.low, "high": found.high, "count": found.count}
