"""Who was seen where in one picture of a video."""

from __future__ import annotations

from dataclasses import dataclass

from unmask_rt.align import Image
from unmask_rt.faces.pose import Find, Pose


@dataclass(frozen=True, slots=True)
class Sight:
    """One track in one picture.

    Attributes:
        find: where it is and who says so.
        pull: what a look moved it by against where flow had carried it, or None where flow had no say.
    """

    find: Find
    pull: Pose | None = None


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture and what is known about it so far.

    Attributes:
        rgb: uint8[H, W, 3].
        grey: uint8[H, W], its luma.
        time_s: presentation time in seconds.
        min_side: smallest crop side of a new face, pixels.
        sights: track id -> sight.
        carried: track id -> where flow has carried whoever is not sighted yet.
    """

    rgb: Image
    grey: Image
    time_s: float
    min_side: float
    sights: dict[int, Sight]
    carried: dict[int, Pose]

    def poses(self) -> dict[int, Pose]:
        """Where everybody is, or is carried to."""
        return {**self.carried, **{i: s.find.pose for i, s in self.sights.items()}}
