"""Synthetic face masks: a library of families, each seeded and with its coverage as the truth for a map.

    masked, alpha = draw_mask(rgb, mesh, np.random.default_rng(7))
    masked, alpha = draw_mask(rgb, mesh, np.random.default_rng(7), "rectangle")

Numpy and OpenCV only: the demo clip and the benchmark use it too. The families of `GROUPS`:

    classic    placed on the mesh, drawn so that they sit, fold, shade and cast a shadow: surgical, KN95, cup, cloth,
               sport, gaiter
    everyday   stretch masks with arms around the ears; masks worn under the nose, on the chin, or held in front;
               cloth thin enough to see through, or pieced together from colours far apart
    landmark   flat templates warped to six landmarks
    geometric  a rectangle or an oval of one colour

A mesh-placed mask is drawn in three steps: an outline (smooth curves through points of the mesh, by family), a texture
over the outline's own coordinates (u from ear to ear, v from the upper edge to the lower), and light: the shading of
the visible upper face carried over, a cylinder's falloff, folds, and a contact shadow on the skin beside the edge.

Placing masks by landmarks follows A. Anwar and A. Raychowdhury, "Masked Face Recognition for Secure Authentication"
(MaskTheFace), arXiv:2008.11104, 2020; shapes and drawing are our own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from trainer.masks.draw import draw_placed
from trainer.masks.families import CLASSIC, EVERYDAY, FAMILY_WEIGHTS, Family, patchwork
from trainer.masks.geometric import draw_oval, draw_rectangle
from trainer.masks.head import Floats, Head, Image, Rng
from trainer.masks.landmark import draw_landmark
from trainer.masks.texture import any_colour, value_noise
from unmask_rt.errors import UsageError

__all__ = [
    "FAMILIES",
    "FAMILY_WEIGHTS",
    "GROUPS",
    "Drawer",
    "Head",
    "any_colour",
    "choose_families",
    "draw_mask",
    "value_noise",
]

Drawer = Callable[[Image, Floats, Rng], tuple[Image, Floats]]
"""(rgb, mesh, rng) -> (masked, alpha), as `draw_mask`."""


def _chosen(choose: Callable[[Rng], Family]) -> Drawer:
    return lambda rgb, mesh, rng: draw_placed(rgb, mesh, rng, choose(rng))


FAMILIES: dict[str, Drawer] = {
    **{name: partial(draw_placed, kind=kind) for name, kind in CLASSIC.items()},
    **{name: _chosen(choose) for name, choose in EVERYDAY.items()},
    "flat-surgical": draw_landmark("surgical"),
    "flat-cup": draw_landmark("cup"),
    "flat-cloth": draw_landmark("cloth"),
    "rectangle": draw_rectangle,
    "oval": draw_oval,
    "patchwork": _chosen(patchwork),
}
"""Every family by its name. A bank stores places in this list: new ones belong at its end."""

GROUPS: dict[str, dict[str, float]] = {
    "classic": FAMILY_WEIGHTS,
    "everyday": {"stretch": 0.3, "under-nose": 0.15, "chin": 0.15, "held": 0.1, "sheer": 0.15, "patchwork": 0.15},
    "landmark": {"flat-surgical": 0.5, "flat-cup": 0.2, "flat-cloth": 0.3},
    "geometric": {"rectangle": 0.5, "oval": 0.5},
}
"""Families that belong together and how often each is drawn among them; every family is in one group."""


def choose_families(names: str | Iterable[str], without: str | Iterable[str] = ()) -> dict[str, float]:
    """Weights, of sum 1, of the families that a command was asked for.

    Args:
        names: families or groups, each with an optional weight: "classic", "cup,oval", "classic:4,everyday". A string
            is taken apart at its commas.
        without: families or groups to leave out again, for example to hold them back for measuring.

    Raises:
        UsageError: a name is no family and no group, a weight is not above 0, or nothing is left.
    """
    wanted: dict[str, float] = {}
    for item in _items(names):
        name, _, weight = item.partition(":")
        try:
            share = float(weight) if weight else 1.0
        except ValueError:
            share = 0.0
        if not 0 < share < float("inf"):
            raise UsageError(f"{item!r}: the weight after the colon has to be a number above 0")
        for family, part in _members(name).items():
            wanted[family] = wanted.get(family, 0.0) + share * part
    for item in _items(without):
        for family in _members(item):
            wanted.pop(family, None)
    if not wanted:
        raise UsageError("no family of masks is left to draw", "Name more of them, or leave fewer out.")
    total = sum(wanted.values())
    return {name: wanted[name] / total for name in FAMILIES if name in wanted}


def _items(names: str | Iterable[str]) -> list[str]:
    parts = names.split(",") if isinstance(names, str) else names
    return [part.strip() for part in parts if part.strip()]


def _members(name: str) -> dict[str, float]:
    if name in GROUPS:
        return GROUPS[name]
    if name in FAMILIES:
        return {name: 1.0}
    known = ", ".join([*GROUPS, *FAMILIES])
    raise UsageError(f"no family of masks is called {name!r}", f"There are {known}.")


def draw_mask(rgb: Image, mesh: Floats, rng: Rng, family: str | None = None) -> tuple[Image, Floats]:
    """Draws one mask on one face.

    Args:
        rgb: uint8[H, W, 3] picture.
        mesh: float[478, 2] (or more columns; only x and y count) face mesh in its pixels.
        rng: source of all randomness: the same state draws the same mask.
        family: a key of `FAMILIES`, or None for a classic one drawn by `FAMILY_WEIGHTS`.

    Returns:
        The masked picture uint8[H, W, 3] and the mask's coverage float32[H, W] in 0..1 (cloth and straps; the contact
        shadow on the skin is not part of it).

    Raises:
        KeyError: there is no such family.
    """
    if family is None:
        family = str(rng.choice(list(FAMILY_WEIGHTS), p=list(FAMILY_WEIGHTS.values())))
    return FAMILIES[family](rgb, mesh, rng)
