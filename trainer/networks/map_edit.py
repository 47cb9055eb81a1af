"""The two U-Nets of "A Novel GAN-Based Network for Unmasking of Masked Face".

After N. Ud Din, K. Javed, S. Bae and J. Yi, IEEE Access 8, 2020, pp. 44276-44287, doi 10.1109/ACCESS.2020.2977386. The
paper gives the parts; layers and widths are those of a public re-implementation on 128 px (pairs of 3x3 convolutions
with BatchNorm and LeakyReLU, 64 to 1024 channels, dilations 2, 4, 8 and 16 in the middle;
github.com/MaielloCiro/UnmaskingFace), without its dropout. Squeeze-and-excitation on the first three levels is that of
another (github.com/daviddirethucus/Face-Mask_Inpainting).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def block(inside: int, outside: int, dilations: Sequence[int] = (1, 1)) -> nn.Sequential:
    """3x3 convolutions, each with BatchNorm and LeakyReLU, one for each dilation."""
    layers: list[nn.Module] = []
    for dilation in dilations:
        layers += [
            nn.Conv2d(inside, outside, 3, 1, dilation, dilation, bias=False),
            nn.BatchNorm2d(outside),
            nn.LeakyReLU(0.2),
        ]
        inside = outside
    return nn.Sequential(*layers)


class SqueezeExcite(nn.Module):
    """Weighs channels by what the whole grid shows (J. Hu et al., "Squeeze-and-Excitation Networks", CVPR 2018)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(1, channels // reduction)
        self.squeeze, self.excite = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, H, H)
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


class PooledUNet(nn.Module):
    """A U-Net that goes down by max pooling (O. Ronneberger et al., MICCAI 2015), four levels.

    Args:
        inside: channels in.
        outside: channels out; no activation follows.
        width: channels at full resolution, doubled on each level.
        dilations: of the convolutions in the middle, at a sixteenth of the side.
        excited: on how many levels, from the top, squeeze-and-excitation follows the pooling.
    """

    def __init__(
        self, inside: int, outside: int, width: int = 64, dilations: Sequence[int] = (1, 1), excited: int = 0
    ) -> None:
        super().__init__()
        widths = [width, width * 2, width * 4, width * 8]
        self.encode = nn.ModuleList(block(i, o) for i, o in zip([inside, *widths[:-1]], widths, strict=True))
        self.excite = nn.ModuleList(SqueezeExcite(w) if n < excited else nn.Identity() for n, w in enumerate(widths))
        self.middle = block(width * 8, width * 16, dilations)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 3, 2, 1, output_padding=1) for w in reversed(widths))
        self.decode = nn.ModuleList(block(2 * w, w) for w in reversed(widths))
        self.head = nn.Conv2d(width, outside, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, inside, S, S), S a multiple of 16 -> (B, outside, S, S)
        skips = []
        for encode, excite in zip(self.encode, self.excite, strict=True):
            x = encode(x)
            skips.append(x)
            x = excite(F.max_pool2d(x, 2))
        x = self.middle(x)  # (B, 16 width, S/16, S/16)
        for up, decode in zip(self.up, self.decode, strict=True):
            x = decode(torch.cat([up(x), skips.pop()], 1))
        return self.head(x)


class MapUNet(PooledUNet):
    """The map module: picture (B, 3, S, S) in -1..1 -> logits of the mask (B, 1, S, S)."""

    def __init__(self, width: int = 64) -> None:
        super().__init__(3, 1, width)


class EditUNet(PooledUNet):
    """The editing module's generator: picture and map -> the picture without the mask."""

    def __init__(self, width: int = 64, dilations: Sequence[int] = (2, 4, 8, 16), excited: int = 3) -> None:
        super().__init__(4, 3, width, dilations, excited)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 4, S, S): picture in -1..1 and map, 0 or 1 -> (B, 3, S, S) in -1..1."""
        return torch.tanh(super().forward(x))


def without_specks(found: Tensor) -> Tensor:
    """The found map cut at 0.5 and opened by 3x3 (eroded, then dilated), the paper's noise removal.

    Args:
        found: (B, 1, S, S), 0..1.

    Returns:
        The same shape, 0 or 1.
    """
    eroded = -F.max_pool2d(-(found > 0.5).to(found.dtype), 3, 1, 1)
    return F.max_pool2d(eroded, 3, 1, 1)
