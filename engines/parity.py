"""The gate before each engine: does it compute what the reference (ONNX Runtime fp32) computes?

Both see the fixed crops of `engines.crops`. Compared are the faces inside the hole and outside it, the maps, and the
edge of the hole, where a difference would show as a seam. The limits depend on the precision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from engines import crops
from engines.base import Batch, Engine

BEST_DB = 99.0
"""What a PSNR is said to be where nothing differs."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a precision has to keep; levels are of 255, PSNR in dB.

    Attributes:
        most: largest difference of any sample, faces and maps.
        hole, outside, map: least PSNR there.
        seam: largest mean difference on the edge of the hole.
    """

    most: int = 255
    hole: float = 0.0
    outside: float = 0.0
    map: float = 0.0
    seam: float = 255.0


LIMITS: Mapping[str, Limits] = {
    "fp32": Limits(most=1),
    "fp16": Limits(hole=45, outside=45, map=40, seam=1.0),
    "bf16": Limits(hole=45, outside=45, map=40, seam=1.0),
    "int8": Limits(hole=36, outside=42, map=28, seam=3.0),
}


@dataclass(frozen=True, slots=True)
class Parity:
    """Figures of one comparison; stored with the engine.

    Attributes:
        hole_max, hole_mean, hole_psnr: of the faces inside the hole, in levels and dB.
        outside_max, outside_mean, outside_psnr: outside it.
        map_max, map_psnr: of the maps.
        seam_mean: mean difference within three pixels of the hole's edge.
    """

    hole_max: int
    hole_mean: float
    hole_psnr: float
    outside_max: int
    outside_mean: float
    outside_psnr: float
    map_max: int
    map_psnr: float
    seam_mean: float

    def to_dict(self) -> dict[str, Any]:
        return {name: round(value, 3) for name, value in asdict(self).items()}

    @staticmethod
    def from_dict(stored: Mapping[str, Any]) -> Parity:
        """Reads what `to_dict` gave.

        Raises:
            TypeError, ValueError: it is something else.
        """
        numbers: dict[str, Any] = {name: int(v) if name.endswith("_max") else float(v) for name, v in stored.items()}
        return Parity(**numbers)

    def failures(self, precision: str) -> list[str]:
        """Limits of a precision that are not kept, each with both figures; empty where all is well."""
        limits = LIMITS[precision]
        failed = []
        most = max(self.hole_max, self.outside_max, self.map_max)
        if most > limits.most:
            failed.append(f"differs by {most} of 255 (allowed {limits.most})")
        for name in ("hole", "outside", "map"):
            found, least = getattr(self, f"{name}_psnr"), getattr(limits, name)
            if found < least:
                failed.append(f"{name} {found:.1f} dB (at least {least:g})")
        if self.seam_mean > limits.seam:
            failed.append(f"edge of the hole differs by {self.seam_mean:.1f} levels (allowed {limits.seam:g})")
        return failed

    def line(self) -> str:
        """For people."""
        return (
            f"hole {self.hole_psnr:.1f} dB (max {self.hole_max}, mean {self.hole_mean:.2f}), "
            f"outside {self.outside_psnr:.1f} dB (max {self.outside_max}), map {self.map_psnr:.1f} dB, "
            f"edge {self.seam_mean:.2f}"
        )


def compare(engine: Engine, reference: Engine) -> Parity:
    """Runs both on the fixed crops.

    Raises:
        EngineError: one of them failed.
    """
    given = crops.load(reference.spec.crop_size)
    wanted = reference(given)
    return figures(engine(given), wanted)


def figures(found: tuple[Batch, Batch], wanted: tuple[Batch, Batch]) -> Parity:
    """Compares (faces, maps) with (faces, maps)."""
    away = np.abs(found[0].astype(np.int16) - wanted[0])
    of_map = np.abs(found[1].astype(np.int16) - wanted[1])
    hole = wanted[1] > 127
    kernel = np.ones((7, 7), np.uint8)
    edge = np.stack([cv2.morphologyEx(h.astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0 for h in hole])
    return Parity(
        hole_max=_max(away[hole]),
        hole_mean=_mean(away[hole]),
        hole_psnr=psnr(away[hole]),
        outside_max=_max(away[~hole]),
        outside_mean=_mean(away[~hole]),
        outside_psnr=psnr(away[~hole]),
        map_max=_max(of_map),
        map_psnr=psnr(of_map),
        seam_mean=_mean(away[edge]),
    )


def psnr(away: NDArray[np.int16]) -> float:
    """Of absolute differences in levels, in dB."""
    error = float(np.mean(np.square(away, dtype=np.float32))) if away.size else 0.0
    return BEST_DB if error == 0 else min(BEST_DB, float(10 * np.log10(255.0**2 / error)))


def _max(away: NDArray[np.int16]) -> int:
    return int(away.max()) if away.size else 0


def _mean(away: NDArray[np.int16]) -> float:
    return float(away.mean()) if away.size else 0.0
