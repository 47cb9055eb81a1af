"""The U-Net of pix2pix.

P. Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017, section 6.1.1:
4x4 convolutions of stride 2 down to a single place and transposed ones back up, every layer of the way down joined to
the one of its size on the way up. Down: LeakyReLU (0.2); up: ReLU, dropout in the first three layers; tanh at the end.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NORMS: dict[str, type[nn.Module]] = {"batch": nn.BatchNorm2d, "instance": nn.InstanceNorm2d}
"""``norm`` of a preset: over the batch, or over each picture by itself (BatchNorm with a batch of one)."""


def normalisation(kind: str, channels: int) -> nn.Module:
    """A normalisation with a scale and a shift for each channel."""
    return NORMS[kind](channels, affine=True)


def normal_weights(module: nn.Module) -> None:
    """Weights from N(0, 0.02), of normalisations from N(1, 0.02), shifts of zero; for ``module.apply``."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm2d | nn.InstanceNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def depth_for(size: int, most: int = 8) -> int:
    """How often a side can be halved: 8 times from 256 px to a single place, 7 times from 128 px."""
    return min(most, (size & -size).bit_length() - 1)


class UNet(nn.Module):
    """Picture -> picture.

    Args:
        inside, outside: channels.
        width: channels of the first layer (64 in the paper); doubled three times.
        downs: how often the side is halved (8 in the paper, at 256 px); it must be divisible by so many twos.
        norm: a key of `NORMS`; the first layer and the innermost have none. (With one the innermost would be zeroed by
            the normalisation of a single place, as an erratum of the paper says.)
        dropout: how many of the first layers upwards have dropout of 0.5 while training.
    """

    def __init__(
        self, inside: int = 3, outside: int = 3, width: int = 64, downs: int = 8, norm: str = "batch", dropout: int = 3
    ) -> None:
        super().__init__()
        widths = [width * min(2**i, 8) for i in range(downs)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (a, b) in enumerate(zip([inside, *widths[:-1]], widths, strict=True)):
            plain = i in (0, downs - 1)
            layers: list[nn.Module] = [nn.Conv2d(a, b, 4, 2, 1, bias=plain)]
            layers += [] if plain else [normalisation(norm, b)]
            self.down.append(nn.Sequential(*layers, nn.LeakyReLU(0.2) if i < downs - 1 else nn.ReLU()))
        for i in range(downs - 1):
            a, b = widths[downs - 1 - i] * (2 if i else 1), widths[downs - 2 - i]
            layers = [nn.ConvTranspose2d(a, b, 4, 2, 1, bias=False), normalisation(norm, b)]
            layers += [nn.Dropout(0.5)] if i < dropout else []
            self.up.append(nn.Sequential(*layers, nn.ReLU()))
        self.head = nn.Sequential(nn.ConvTranspose2d(widths[0] * (2 if downs > 1 else 1), outside, 4, 2, 1), nn.Tanh())
        self.apply(normal_weights)

    def forward(self, x: Tensor) -> Tensor:  # (B, inside, S, S) -> (B, outside, S, S) in -1..1
        skips = []
        for down in self.down:
            x = down(x)
            skips.append(x)  # (B, width, S/2, S/2), (B, 2 width, S/4, S/4), ...
        skips.pop()
        for up in self.up:
            x = torch.cat([up(x), skips.pop()], 1)
        return self.head(x)
