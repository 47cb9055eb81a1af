"""The kinds of mask that are placed on the mesh: what is painted on each and the ranges its style is drawn from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from trainer.masks import paint
from trainer.masks.head import Floats, Head, Outline, Rng, Style
from trainer.masks.outlines import (
    outline_chin,
    outline_cloth,
    outline_gaiter,
    outline_held,
    outline_low,
    outline_stretch,
)
from trainer.masks.texture import FILTER_COLOURS, SURGICAL_COLOURS, any_colour, choose, foam_colour


@dataclass(frozen=True, slots=True)
class Family:
    """A kind of mask: how its outline runs, what is painted on it, and the ranges that its style is drawn from.

    Attributes:
        paint, colour, shape: the texture, the cloth's albedo, the outline.
        top, side, drop, folds, noise: ranges of the values of `Style` by these names.
        straps: "loops", "bands", "dangling" or "none".
        prints: how likely a word or a badge is, 0..1.
        opacity: range of a thin cloth's opacity; None for the usual opaque one.
        rim: range of the opacity at the mask's edge as a share of that in its middle; None for one as in the middle.
        shadow: how much wider the shadow reaches than that of a mask that lies close to the skin.
    """

    paint: paint.Painter
    colour: Callable[[Rng], Floats]
    shape: Callable[[Head, Style, Rng], Outline]
    top: tuple[float, float] = (0.35, 0.95)
    side: tuple[float, float] = (0.55, 1.0)
    drop: tuple[float, float] = (0.0, 0.10)
    folds: tuple[float, float] = (0.0, 0.10)
    noise: tuple[float, float] = (0.0, 0.03)
    straps: str = "loops"
    prints: float = 0.1
    opacity: tuple[float, float] | None = None
    rim: tuple[float, float] | None = None
    shadow: float = 1.0


def _cloth(pointed: float, tall: tuple[float, float]) -> Callable[[Head, Style, Rng], Outline]:
    def shape(head: Head, style: Style, rng: Rng) -> Outline:
        return outline_cloth(head, style, rng, pointed=pointed, tall_sides=float(rng.uniform(*tall)))

    return shape


CLASSIC: dict[str, Family] = {
    "surgical": Family(paint.paint_pleats, lambda r: choose(SURGICAL_COLOURS, r), _cloth(0.2, (0.3, 0.8)), prints=0.05),
    "kn95": Family(
        paint.paint_fold,
        lambda r: choose(FILTER_COLOURS, r, 0.03),
        _cloth(1.0, (0.1, 0.6)),
        folds=(0, 0.05),
        prints=0.2,
    ),
    "cup": Family(
        paint.paint_cup,
        lambda r: choose(FILTER_COLOURS, r, 0.04),
        _cloth(0.6, (0.1, 0.5)),
        side=(0.25, 0.8),
        folds=(0, 0.02),
        straps="bands",
        prints=0.3,
    ),
    "cloth": Family(paint.paint_cloth, any_colour, _cloth(0.5, (0.2, 0.8)), noise=(0.0, 0.06)),
    "sport": Family(
        paint.paint_sport,
        lambda r: r.uniform(0.01, 0.15, 3).astype(np.float32),
        _cloth(0.7, (0.4, 1.0)),
        side=(0.8, 1.0),
        prints=0.3,
    ),
    "gaiter": Family(
        paint.paint_tube,
        any_colour,
        outline_gaiter,
        top=(0.1, 0.8),
        straps="none",
        folds=(0.02, 0.15),
        noise=(0.0, 0.06),
    ),
}
"""Worn as they should be."""
FAMILY_WEIGHTS = {"surgical": 0.34, "kn95": 0.16, "cup": 0.09, "cloth": 0.21, "sport": 0.08, "gaiter": 0.12}
"""How often each of them is drawn where no family is asked for."""


def _look(rng: Rng, names: tuple[str, ...]) -> Family:
    """One of the kinds above, in proportion to its weight."""
    weights = np.array([FAMILY_WEIGHTS[name] for name in names])
    return CLASSIC[str(rng.choice(names, p=weights / weights.sum()))]


def stretch(rng: Rng) -> Family:
    """Moulded stretch foam with arms around the ears, mostly dark and without a pattern."""
    del rng
    return replace(
        CLASSIC["sport"],
        colour=foam_colour,
        shape=outline_stretch,
        top=(0.2, 0.85),
        straps="none",
        folds=(0.0, 0.03),
        noise=(0.0, 0.02),
        prints=0.08,
    )


def under_nose(rng: Rng) -> Family:
    """Any mask, worn under the nose."""
    return replace(_look(rng, ("surgical", "kn95", "cloth", "sport")), shape=outline_low)


def on_chin(rng: Rng) -> Family:
    """Any soft mask, pulled down to the chin and bunched there."""
    kind = _look(rng, ("surgical", "kn95", "cloth", "sport"))
    return replace(kind, shape=outline_chin, folds=(0.08, 0.25), prints=0.0)


def held(rng: Rng) -> Family:
    """A mask held or hanging in front of the face: flat, tilted, its loops loose, its shadow soft and wide."""
    kind = _look(rng, ("surgical", "kn95", "cloth"))
    return replace(kind, shape=outline_held, straps="dangling", shadow=2.5, folds=(0.0, 0.08))


def sheer(rng: Rng) -> Family:
    """Thin cloth, tulle or film that lets the face show through, most of all at its edge."""
    kind = _look(rng, ("surgical", "cloth", "gaiter"))
    return replace(kind, opacity=(0.6, 0.94), rim=(0.55, 0.95))


def patchwork(rng: Rng) -> Family:
    """A cloth mask or a tube whose print or pieces have straight edges and colours far apart."""
    return replace(_look(rng, ("cloth", "gaiter")), paint=paint.paint_patchwork)


EVERYDAY: dict[str, Callable[[Rng], Family]] = {
    "stretch": stretch,
    "under-nose": under_nose,
    "chin": on_chin,
    "held": held,
    "sheer": sheer,
}
"""Of another make, worn in other ways, or thin; each draws first which mask it is."""


def draw_style(family: Family, rng: Rng) -> Style:
    """A random mask of a family; one in fourteen is worn under the nose, a few have a see-through cloth."""
    top = float(rng.uniform(*family.top))
    if rng.random() < 0.07:
        top = float(rng.uniform(-0.2, 0.0))
    light = rng.random() < 0.7
    style = Style(
        colour=family.colour(rng),
        top=top,
        side=float(rng.uniform(*family.side)),
        drop=float(rng.uniform(*family.drop)),
        noise=float(rng.uniform(*family.noise)),
        folds=float(rng.uniform(*family.folds)),
        straps=float(rng.uniform(0.010, 0.032)) if family.straps != "none" and rng.random() < 0.85 else 0.0,
        strap_colour=(rng.uniform(0.75, 1, 3) if light else rng.uniform(0, 0.3, 3)).astype(np.float32),
        opacity=float(rng.uniform(0.9, 0.99)) if rng.random() < 0.08 else 1.0,
    )
    return style if family.opacity is None else replace(style, opacity=float(rng.uniform(*family.opacity)))
