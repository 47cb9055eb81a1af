"""The training systems by name. Each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from unmask_rt.errors import UsageError

if TYPE_CHECKING:
    from trainer.systems.base import System

PLACES: dict[str, str] = {
    "segmentation": "trainer.systems.segmentation:Segmentation",
    "realtime": "trainer.systems.realtime:Realtime",
    "pix2pix": "trainer.systems.pix2pix:Pix2Pix",
    "dual-patch": "trainer.systems.dual_patch:DualPatch",
    "mask2face": "trainer.systems.mask2face:Mask2Face",
    "map-module": "trainer.systems.map_edit:MapModule",
    "map-edit": "trainer.systems.map_edit:MapEdit",
    "siamese": "trainer.systems.siamese:Siamese",
}
"""Name in a preset's stage -> where its class lives."""


class _Systems(Mapping[str, "type[System]"]):
    """A mapping from names to classes that imports a system's module when it is looked up."""

    def __getitem__(self, name: str) -> type[System]:
        if name not in PLACES:
            raise UsageError(f"there is no system {name!r}", f"A stage's `system` is one of: {', '.join(PLACES)}.")
        module, _, attribute = PLACES[name].partition(":")
        found: type[System] = getattr(import_module(module), attribute)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(PLACES)

    def __len__(self) -> int:
        return len(PLACES)


SYSTEMS: Mapping[str, type[System]] = _Systems()
