"""Encoder-decoder generator, real/fake classifier and Siamese discriminator.

The layers are those of A. Radford et al., "Unsupervised Representation Learning with Deep Convolutional GANs" (DCGAN),
ICLR 2016: 4x4 convolutions of stride 2, BatchNorm on all but the first and last, LeakyReLU down, ReLU and transposed
convolutions up, weights drawn from a normal distribution of deviation 0.02.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def encoder(width: int, depth: int) -> tuple[nn.Sequential, int]:
    """``depth`` layers from 3 channels on, each halving the grid, and the last one's channels (8 ``width`` at most)."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    inside = width
    for level in range(1, depth):
        outside = width * min(2**level, 8)
        layers += [nn.Conv2d(inside, outside, 4, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.LeakyReLU(0.2)]
        inside = outside
    return nn.Sequential(*layers), inside


def draw_weights(network: nn.Module) -> None:
    """DCGAN's initial weights."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)


class EncoderDecoder(nn.Module):
    """Picture wearing a mask -> the whole picture without it, through a bottleneck and with no skip connection.

    Args:
        width: channels of the first layer.
        depth: layers down and layers up; the bottleneck's side is that of the picture over 2 to this.
    """

    def __init__(self, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.encode, inside = encoder(width, depth)
        layers: list[nn.Module] = []
        for level in reversed(range(depth - 1)):
            outside = width * min(2**level, 8)
            layers += [nn.ConvTranspose2d(inside, outside, 4, 2, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()]
            inside = outside
        self.decode = nn.Sequential(*layers, nn.ConvTranspose2d(inside, 3, 4, 2, 1), nn.Tanh())
        draw_weights(self)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, S, S) in -1..1, S a multiple of 2 to the depth -> the same
        return self.decode(self.encode(x))


class RealOrFake(nn.Module):
    """Convolutional classifier of one picture (B, 3, S, S): logit of its being a real face, (B, 1)."""

    def __init__(self, width: int = 64, depth: int = 4) -> None:
        super().__init__()
        self.encode, channels = encoder(width, depth)
        self.head = nn.Linear(channels * 16, 1)
        draw_weights(self)

    def forward(self, picture: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.encode(picture), 4).flatten(1))


class SiameseDiscriminator(nn.Module):
    """Logit (B, 1) of two pictures (B, 3, S, S) showing one real face, the first with its mask on.

    Both pass through the same layers; their descriptors' absolute difference is weighed into one number (J. Bromley et
    al., "Signature Verification using a Siamese Time Delay Neural Network", NIPS 1993, in the form of G. Koch et al.,
    "Siamese Neural Networks for One-shot Image Recognition", 2015).

    Args:
        width: channels of the first layer.
        depth: layers of the branch.
        descriptor: numbers in a descriptor.
    """

    def __init__(self, width: int = 64, depth: int = 4, descriptor: int = 128) -> None:
        super().__init__()
        self.encode, channels = encoder(width, depth)
        self.describe = nn.Linear(channels * 16, descriptor)
        self.head = nn.Linear(descriptor, 1)
        draw_weights(self)

    def branch(self, picture: Tensor) -> Tensor:
        """A picture's descriptor, (B, descriptor) in 0..1."""
        return torch.sigmoid(self.describe(F.adaptive_avg_pool2d(self.encode(picture), 4).flatten(1)))

    def weigh(self, one: Tensor, other: Tensor) -> Tensor:
        """Logit (B, 1) of two descriptors belonging together."""
        return self.head((one - other).abs())

    def forward(self, masked: Tensor, face: Tensor) -> Tensor:
        return self.weigh(self.branch(masked), self.branch(face))
