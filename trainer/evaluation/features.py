"""Feature distances: how far output and truth lie apart for a network trained on ImageNet. Needs torch.

Two figures, each for the whole picture and for the hole alone (the truth with the output in its hole):

* ``feature``: `trainer.losses.Perceptual` of the pair (J. Johnson et al., ECCV 2016): at each tap of the backbone the
  mean absolute difference of the features over the truth's mean absolute feature, mean over the taps;
* ``fd``: the Euclidean distance of the two descriptors, a descriptor being the backbone's last tap averaged over the
  picture and scaled to length 1. It is between 0 and 2. The ancestor's "feature distance" is published without a
  definition that we could find; this is our reading of it, and the identity distance beside it is another.
"""

from __future__ import annotations

import contextlib
import sys
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.losses import BACKBONES, Perceptual
from unmask_rt.errors import ExtraError

Batch = NDArray[np.uint8]


class Features(NamedTuple):
    """Of a batch of N pictures: the taps' outputs (N, C, H, W) each, and the descriptors (N, C) of length 1."""

    taps: list[Tensor]
    descriptors: Tensor


class FeatureDistance:
    """Distances on one frozen backbone.

    Args:
        backbone: a key of `trainer.losses.BACKBONES`.
        device: where it runs.

    Raises:
        ExtraError: the backbone's package is not installed.
    """

    def __init__(self, backbone: str, device: str = "cpu") -> None:
        self.backbone, self._device = backbone, device
        try:
            with contextlib.redirect_stdout(sys.stderr):  # packages that talk; stdout is for results
                network = Perceptual(backbone)
        except ImportError as error:
            others = ", ".join(b for b in (*BACKBONES, "none") if b != backbone)
            raise ExtraError(
                f"the feature distance on {backbone} cannot be measured: {error}",
                f"Install what it needs (extra `train`; torchvision for vgg16), or choose --features {others}.",
            ) from error
        self._network = network.to(device)

    @torch.no_grad()
    def features(self, pictures: Batch) -> Features:
        """Features of uint8[N, S, S, 3]."""
        x = torch.from_numpy(np.ascontiguousarray(pictures)).to(self._device)
        x = x.permute(0, 3, 1, 2).float().div(127.5).sub(1)  # (N, 3, S, S), channels last as it came
        taps = self._network.features(x)
        return Features(taps, torch.nn.functional.normalize(taps[-1].mean((2, 3)), dim=1))

    def distances(self, outputs: Batch, truth: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(feature, fd) of each output against the truth's features, float64[N] each."""
        found = self.features(outputs)
        axes = (1, 2, 3)
        terms = [
            (a - b).abs().mean(axes) / b.abs().mean(axes).clamp(min=1e-3)
            for a, b in zip(found.taps, truth.taps, strict=True)
        ]
        apart = (found.descriptors - truth.descriptors).norm(dim=1)
        return torch.stack(terms).mean(0).double().cpu().numpy(), apart.double().cpu().numpy()
