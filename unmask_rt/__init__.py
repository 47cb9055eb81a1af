"""Removes face masks from video in real time.

    from unmask_rt import Unmasker, UnmaskerOptions

Names are imported when first used, so that ``import unmask_rt`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unmask_rt.errors import UnmaskError as UnmaskError
    from unmask_rt.frames import Frame as Frame
    from unmask_rt.sources import open_source as open_source
    from unmask_rt.sources.arrays import frame_of as frame_of
    from unmask_rt.unmasker import Unmasker as Unmasker
    from unmask_rt.unmasker import UnmaskerOptions as UnmaskerOptions

__version__ = "0.1.0"

_EXPORTS = {
    "Frame": "unmask_rt.frames",
    "UnmaskError": "unmask_rt.errors",
    "Unmasker": "unmask_rt.unmasker",
    "UnmaskerOptions": "unmask_rt.unmasker",
    "frame_of": "unmask_rt.sources.arrays",
    "open_source": "unmask_rt.sources",
}

__all__ = ["Frame", "UnmaskError", "Unmasker", "UnmaskerOptions", "__version__", "frame_of", "open_source"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
