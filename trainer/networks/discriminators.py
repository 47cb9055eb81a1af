"""Discriminators that several systems share."""

from __future__ import annotations

from torch import Tensor, nn

from trainer.networks.unet import normal_weights, normalisation


class PatchDiscriminator(nn.Module):
    """PatchGAN: one logit for each overlapping patch of 70 x 70 pixels.

    P. Isola et al., CVPR 2017, section 6.1.2: C64-C128-C256-C512 with 4x4 convolutions, the first three of stride 2,
    the first without normalisation, LeakyReLU (0.2); then one logit a place.

    Args:
        inside: channels; twice the picture's where it is conditioned on the input.
        width: of the first layer, 64 in the paper.
        norm: a key of `unet.NORMS`.
    """

    def __init__(self, inside: int, width: int = 64, norm: str = "batch") -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(inside, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for i in range(3):
            a, b = width * 2**i, width * 2 ** (i + 1)
            stride = 2 if i < 2 else 1
            layers += [nn.Conv2d(a, b, 4, stride, 1, bias=False), normalisation(norm, b), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width * 8, 1, 4, 1, 1))
        self.apply(normal_weights)

    def forward(self, x: Tensor) -> Tensor:  # (B, inside, S, S) -> logits (B, 1, S/8 - 2, S/8 - 2)
        return self.layers(x)
