"""The U-Net of Mask2Face: residual blocks, skip connections, no normalisation, sigmoid output.

After L. Koucky and J. Maly, "Mask2Face: How We Built AI That Shows the Face Beneath the Mask", STRV, 2021
(strv.com/blog, github.com/strvcom/strv-ml-mask2face): its "ResNet" variant with 64, 128, 128, 256, 256, 512 channels
and kernels of 7, 7, 7, 3, 3, 3 pixels on 256 px. Shapes are written beside the lines: B batch, S side of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inside: int, outside: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution that keeps (or divides by its stride) the size of the grid."""
    return nn.Conv2d(inside, outside, kernel, stride, kernel // 2)


class Down(nn.Module):
    """Halves the grid; gives the block's output and what is handed across, the grid before its residual branch."""

    def __init__(self, inside: int, outside: int, kernel: int) -> None:
        super().__init__()
        self.halve = conv(inside, outside, kernel, stride=2)
        self.first, self.second = conv(outside, outside, kernel), conv(outside, outside, kernel)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # (B, inside, H, H)
        skip = self.halve(x)  # (B, outside, H/2, H/2)
        return F.relu(self.second(F.relu(self.first(skip))) + skip), skip


class Up(nn.Module):
    """Joins what was handed across before and after its residual branch, and doubles the grid."""

    def __init__(self, inside: int, outside: int, kernel: int) -> None:
        super().__init__()
        self.first, self.second = conv(2 * inside, inside, kernel), conv(inside, inside, kernel)
        self.doubling = nn.ConvTranspose2d(2 * inside, outside, kernel, 2, kernel // 2, output_padding=1)
        self.smooth = conv(outside, outside, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:  # (B, inside, H, H) both
        x = F.relu(self.second(F.relu(self.first(torch.cat([x, skip], 1)))) + x)
        return F.relu(self.smooth(self.doubling(torch.cat([x, skip], 1))))  # (B, outside, 2H, 2H)


class Mask2FaceNet(nn.Module):
    """Picture wearing a mask -> the whole picture without it.

    Args:
        width: channels at full resolution.
        multiples: of ``width``, the channels of each level below.
        kernels: side of each level's convolutions, odd.

    Raises:
        ValueError: the levels do not match, or a kernel is even.
    """

    def __init__(
        self,
        width: int = 64,
        multiples: Sequence[int] = (1, 2, 2, 4, 4, 8),
        kernels: Sequence[int] = (7, 7, 7, 3, 3, 3),
    ) -> None:
        super().__init__()
        if len(multiples) != len(kernels) or any(k % 2 == 0 for k in kernels):
            raise ValueError(f"one odd kernel a level: {len(multiples)} levels, kernels {list(kernels)}")
        widths = [width * m for m in multiples]
        self.stem = conv(3, width, kernels[0])
        inside = [width, *widths[:-1]]
        self.down = nn.ModuleList(Down(i, o, k) for i, o, k in zip(inside, widths, kernels, strict=True))
        self.middle = conv(widths[-1], widths[-1], kernels[-1])
        self.up = nn.ModuleList(Up(o, i, k) for i, o, k in reversed(list(zip(inside, widths, kernels, strict=True))))
        self.join, self.head = conv(2 * width, width, kernels[0]), conv(width, 3, 1)
        for layer in self.modules():  # Keras' default, which the source was trained with
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(layer.weight)
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, S, S) in -1..1, S a multiple of 64 (2 to the number of levels) -> the same shape and range."""
        full = x = self.stem(x)  # (B, width, S, S)
        skips = []
        for down in self.down:
            x, skip = down(x)
            skips.append(skip)
        x = F.relu(self.middle(x))  # (B, 8 width, S/64, S/64)
        for up in self.up:
            x = up(x, skips.pop())
        x = F.relu(self.join(torch.cat([full, x], 1)))  # (B, width, S, S)
        return torch.sigmoid(self.head(x)) * 2 - 1

    def squares(self) -> Tensor:
        """Sum of the squares of all convolutions' weights (no biases), for the weight regularisation."""
        layers = [m for m in self.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        return torch.stack([layer.weight.square().sum() for layer in layers]).sum()
