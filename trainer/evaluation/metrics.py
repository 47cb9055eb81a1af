"""Figures of one picture: output against truth, over the whole picture and over the hole alone.

Pictures are uint8[S, S, 3] RGB, ``alpha`` is the true mask's coverage float32[S, S] in 0..1, and the hole is where it
exceeds 0.5. Lengths in pixels (the erosion of 5x5, the margin of 4, the seam of 2) are those of the size measured at.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from unmask_rt.blend import mask_score

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

LUMA = np.array([0.299, 0.587, 0.114])
TREATED = 2.0
"""Mean change of the hole, in levels of 255, above which a picture counts as treated."""
SHOULD_CHANGE, DID_NOT = 40.0, 14.0
"""A pixel that differs by more than the first from the truth and changed by less than the second is mask left over."""
FAR_PX = 4.0
SEAM_PX = 2
GATE = 0.6
"""Share of mouth and chin that the map has to call mask for a single picture to be treated: `unmask_rt.gate.ON`,
written down again because that module needs av."""
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2


def luma(rgb: Image) -> NDArray[np.float64]:
    """BT.601 luma, float64[S, S] in 0..255."""
    return rgb.astype(np.float64) @ LUMA


def psnr(output: Image, truth: Image, where: Bools | None = None) -> float:
    """10 log10(255^2 / mean squared error) in dB over all channels, of all pixels or of a region; 138 dB at most."""
    difference = (output.astype(np.float64) - truth) ** 2
    error = float((difference if where is None else difference[where]).mean())
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


def ssim_map(output: Image, truth: Image) -> NDArray[np.float64]:
    """SSIM of luma at each pixel (Z. Wang et al., 2004), 7x7 uniform window, data range 255, sample covariance.

    Returns:
        float64[S - 6, S - 6]: the border of 3 px, where the window leaves the picture, is cut off as scikit-image does.
    """
    x, y = luma(output), luma(truth)
    mx, my = _mean7(x), _mean7(y)
    vx, vy, vxy = (
        (_mean7(a * b) - ma * mb) * (49 / 48) for a, b, ma, mb in ((x, x, mx, mx), (y, y, my, my), (x, y, mx, my))
    )
    return ((2 * mx * my + _C1) * (2 * vxy + _C2)) / ((mx**2 + my**2 + _C1) * (vx + vy + _C2))


def ssim(output: Image, truth: Image) -> float:
    """Mean of `ssim_map` over the picture."""
    return float(ssim_map(output, truth).mean())


def edges(rgb: Image) -> Floats:
    """abs(Sobel x) + abs(Sobel y) of luma, float32[S, S]."""
    grey = luma(rgb).astype(np.float32)
    return np.asarray(np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1)))


def seam_energy(output: Image, truth: Image, ring: Bools) -> float:
    """Gradient difference across the seam: mean over ring and channels of abs(dx(o - g)) + abs(dy(o - g)).

    dx and dy are differences to the next pixel, in levels of 255 a pixel. A patch whose colour is off, whose lines do
    not go on or whose grain ends at the edge has steps there that the truth has not. The definition is our own.
    """
    difference = output.astype(np.float32) - truth
    dx = np.abs(np.diff(difference, axis=1, append=difference[:, -1:]))
    dy = np.abs(np.diff(difference, axis=0, append=difference[-1:]))
    return float((dx + dy)[ring].mean()) if ring.any() else float("nan")


class Target:
    """One test picture, and all of it that does not depend on the output.

    Args:
        truth: uint8[S, S, 3].
        masked: uint8[S, S, 3], the input.
        alpha: float32[S, S] 0..1.

    Raises:
        ValueError: the mask covers nothing.
    """

    def __init__(self, truth: Image, masked: Image, alpha: Floats) -> None:
        self.truth, self.masked = truth, masked
        self.hole: Bools = alpha > 0.5
        if not self.hole.any():
            raise ValueError("the mask of this picture covers nothing")
        solid = self.hole.astype(np.uint8)
        self.inner = cv2.erode(solid, np.ones((5, 5), np.uint8)) > 0
        around = np.ones((2 * SEAM_PX + 1, 2 * SEAM_PX + 1), np.uint8)
        self.ring = (cv2.dilate(solid, around) > 0) & (cv2.erode(solid, around) == 0)
        distance = cv2.distanceTransform((alpha <= 0.05).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        self.far = distance > FAR_PX
        self.should = self.hole & (_change(truth, masked) > SHOULD_CHANGE)
        self.strength = float(edges(truth)[self.inner].mean()) if self.inner.any() else float("nan")

    def figures(self, output: Image) -> dict[str, float]:
        """The figures of an output uint8[S, S, 3]; nan where one is not defined for this picture."""
        moved = _change(output, self.masked)
        error = np.abs(output.astype(np.float32) - self.truth)
        similar = ssim_map(output, self.truth)
        inside = self.hole[3:-3, 3:-3]
        strength = float(edges(output)[self.inner].mean()) if self.inner.any() else float("nan")
        return {
            "whole_psnr": psnr(output, self.truth),
            "hole_psnr": psnr(output, self.truth, self.hole),
            "ssim": float(similar.mean()),
            "hole_ssim": float(similar[inside].mean()) if inside.any() else float("nan"),
            "l1": float(error.mean()),
            "hole_l1": float(error[self.hole].mean()),
            "sharpness": strength / max(self.strength, 1e-6),
            "seam": seam_energy(output, self.truth, self.ring),
            "treated": float(moved[self.hole].mean() > TREATED),
            "mask_left": float((moved[self.should] < DID_NOT).mean()) if self.should.any() else float("nan"),
            "far_change": float(moved[self.far].mean()) if self.far.any() else float("nan"),
        }

    def only_hole(self, output: Image) -> Image:
        """The truth with the output in its hole: what a feature distance of the hole alone is measured on."""
        return np.where(self.hole[..., None], output, self.truth)


def map_figures(found: Image, hole: Bools) -> dict[str, float]:
    """IoU, precision and recall of a map uint8[S, S] at 0.5 against the hole; precision of an empty map is 0."""
    hard = found > 127
    both = int((hard & hole).sum())
    return {
        "map_iou": both / max(int((hard | hole).sum()), 1),
        "map_precision": both / max(int(hard.sum()), 1),
        "map_recall": both / max(int(hole.sum()), 1),
    }


def says_mask(found: Image) -> bool:
    """Whether the score of a map uint8[S, S] reaches what counts as a mask (`gate.ON`)."""
    return mask_score(found) >= GATE


def _change(a: Image, b: Image) -> Floats:
    """Mean over the channels of the absolute difference, float32[S, S]."""
    return np.asarray(np.abs(a.astype(np.float32) - b).mean(2))


def _mean7(a: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(cv2.blur(a, (7, 7)))[3:-3, 3:-3]
