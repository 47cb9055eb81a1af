"""The aligner's network: 36 million multiplications a face, heatmaps at a quarter of the input's side.

Soft-argmax of heatmaps (Sun et al., "Integral Human Pose Regression", ECCV 2018), kept narrow by a cross-entropy with a
small Gaussian; the expected error of each point is learned with it as the scale of a Laplace distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CROP = 128
"""Side of the input in pixels."""
ZOOM = 1.5
"""Side of the input in canonical crop sides."""
CELLS = 32
STRIDE = CROP // CELLS
POINTS = 7
NEAR = 1.5
"""Pixels of the input within which a point counts as right: 4.5 % of the distance of a frontal face's outer eye
corners."""
YAW_UNIT = 45.0


@dataclass(frozen=True, slots=True)
class Raw:
    """What the network says of a batch, before it is put into words.

    Attributes:
        heat: (B, 7, 32, 32) log of the heatmaps, unnormalised.
        points: (B, 7, 2) x and y, pixels of the input.
        spread: (B, 7) log of the mean error that is to be expected, pixels of the input.
        face: (B, 3) logit of `sure`, yaw in units of 45 degrees, logit of `masked`.
    """

    heat: Tensor
    points: Tensor
    spread: Tensor
    face: Tensor


def _conv(inputs: int, outputs: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
    )


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.conv(x)))


class AlignNet(nn.Module):
    """Float crops (B, 3, 128, 128) in -1..1 to `Raw`."""

    def __init__(self) -> None:
        super().__init__()
        self.fine = nn.Sequential(_conv(3, 16, 2), _conv(16, 32, 2))  # (B, 32, 32, 32)
        self.middle = nn.Sequential(_conv(32, 64, 2), _Residual(64))  # (B, 64, 16, 16)
        self.coarse = nn.Sequential(_conv(64, 96, 2), _Residual(96))  # (B, 96, 8, 8)
        self.whole = _conv(96, 128, 2)  # (B, 128, 4, 4)
        self.down = nn.Conv2d(128, 96, 1)
        self.side = _conv(96, 64, size=1)
        self.head = nn.Conv2d(64, POINTS * 4, 3, 1, 1)
        self.words = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, 64), nn.ReLU(inplace=True))
        self.spread = nn.Linear(64, POINTS)
        self.face = nn.Linear(64, 3)
        step = torch.arange(CELLS, dtype=torch.float32) * STRIDE + (STRIDE - 1) / 2
        rows, columns = torch.meshgrid(step, step, indexing="ij")
        self.register_buffer("grid", torch.stack([columns.flatten(), rows.flatten()], 1))  # (1024, 2)
        self.grid: Tensor

    def forward(self, x: Tensor) -> Raw:
        middle = self.middle(self.fine(x))
        coarse = self.coarse(middle)
        whole = self.whole(coarse)
        coarse = coarse + F.interpolate(self.down(whole), scale_factor=2.0, mode="nearest")
        joined = middle + F.interpolate(self.side(coarse), scale_factor=2.0, mode="nearest")
        heat = F.pixel_shuffle(self.head(joined), 2).float()  # (B, 7, 32, 32)
        points = heat.flatten(2).softmax(2) @ self.grid
        words = self.words(whole)
        return Raw(heat, points, self.spread(words).float(), self.face(words).float())


class Exported(nn.Module):
    """uint8 crops (B, 128, 128, 3) to points (B, 7, 2) in their pixels, confidence (B, 7), and face (B, 3): how sure
    0..1, yaw in degrees, masked 0..1."""

    def __init__(self, net: AlignNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        raw = self.net(as_input(crop))
        confidence = 1 - torch.exp(-NEAR * torch.exp(-raw.spread))
        sure, yaw, masked = raw.face.unbind(1)
        return raw.points, confidence, torch.stack([sure.sigmoid(), yaw * YAW_UNIT, masked.sigmoid()], 1)


def as_input(crop: Tensor) -> Tensor:
    """uint8 (B, 128, 128, 3) to float (B, 3, 128, 128), -1..1."""
    return crop.permute(0, 3, 1, 2).to(torch.float32) * (1 / 127.5) - 1
