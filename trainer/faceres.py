"""A network that knows faces, for the loss: what it sees in a drawn face shall be what it sees in the true one.

MobileNet trained on VGGFace2 to tell people apart, then age and sex (A. V. Savchenko, "Efficient Facial
Representations for Age, Gender and Identity Recognition in Organizing Photo Albums using Multi-output CNN", 2019), its
weights in the float16 form of the npm package @vladmandic/human (MIT). It is not the network that `evaluation.identity`
judges with, nor by the same people: likeness is not measured by what a network was trained on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.tfjs import Published, entries

PUBLISHED = Published(
    what="the face network of the loss",
    package="https://registry.npmjs.org/@vladmandic/human/-/human-3.3.6.tgz",
    package_bytes=28_615_417,
    folder="package/models",
    files={
        "faceres.bin": "2c7d2d62b76c97528b736527aa09d310ea71743c9e3e79fb6c62d4b2d73af79b",
        "faceres.json": "5b83d49c0385d2e68a05122441b94226313677cae9fcc40b9587ad50079eb4df",
    },
    cache="face-features",
    variable="UNMASK_RT_FACERES",
    instead="do without: --set stage.inner.loss.face=0 --set stage.outer.loss.face=0",
)
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
"""Of the depthwise convolution in each block."""
TAPS = (4, 6, 12, 14, 15)
"""What is compared: the layers after the 3rd, 5th, 11th and 13th block (grids of 40, 20, 10 and 5), and their mean."""
WINDOW = (3 / 32, 30 / 32, 3 / 32, 29 / 32)
"""The face in an aligned crop: top, bottom, left and right, of its side."""
HEIGHT = 160
"""Pixels that the window is brought to. The network was trained at 224; at 160 it tells sex as often right and people
as far apart as there, at 112 no longer (measured on 150 adults)."""


class _Input(nn.Module):
    """Cuts the face out of aligned crops (B, 3, S, S) in -1..1: BGR less ImageNet's mean, as the network wants it."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        top, bottom, left, right = (round(edge * x.shape[2]) for edge in WINDOW)
        x = x[:, :, top:bottom, left:right]
        width = round(HEIGHT * (right - left) / (bottom - top))
        x = F.interpolate(x, (HEIGHT, width), mode="bilinear", align_corners=False)
        return (x.flip(1) + 1) * 127.5 - self.mean


class _Convolution(nn.Module):
    """Convolution, normalisation and ReLU6; padded as TensorFlow pads ("same": more at the end)."""

    weight: Tensor
    bias: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.register_buffer("weight", weight.contiguous())
        self.register_buffer("bias", bias)
        self._stride, self._groups = stride, groups

    def forward(self, x: Tensor) -> Tensor:
        down, across = (self._padding(side) for side in x.shape[2:])
        x = F.pad(x, (across // 2, across - across // 2, down // 2, down - down // 2))
        return F.relu6(F.conv2d(x, self.weight, self.bias, self._stride, groups=self._groups))

    def _padding(self, side: int) -> int:
        return max((-(-side // self._stride) - 1) * self._stride + self.weight.shape[2] - side, 0)


class _Mean(nn.Module):
    """The descriptor: means of all features over the picture, (B, 1024)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def layers(weights: bytes, names: bytes) -> list[nn.Module]:
    """The network as layers: input, first convolution, thirteen blocks, mean.

    Args:
        weights, names: the two files of `PUBLISHED`.
    """
    found = entries(weights, names)
    first = found["conv1/convolution/merged_input"].permute(3, 2, 0, 1)
    out: list[nn.Module] = [_Input(), _Convolution(first, found["conv1_bn/batchnorm_1/sub"], 2)]
    for i, stride in enumerate(STRIDES, 1):
        deep = found[f"conv_dw_{i}/depthwise_kernel"].permute(2, 3, 0, 1)
        deep = deep * found[f"conv_dw_{i}_bn/batchnorm_1/mul"].view(-1, 1, 1, 1)
        wide = found[f"conv_pw_{i}/convolution/merged_input"].permute(3, 2, 0, 1)
        out.append(
            nn.Sequential(
                _Convolution(deep, found[f"conv_dw_{i}_bn/batchnorm_1/sub"], stride, len(deep)),
                _Convolution(wide, found[f"conv_pw_{i}_bn/batchnorm_1/sub"]),
            )
        )
    return [*out, _Mean()]


def fetched() -> tuple[list[nn.Module], tuple[int, ...]]:
    """The layers with the published weights, and `TAPS`.

    Raises:
        ModelError: the weights cannot be had.
    """
    return layers(*PUBLISHED.load()), TAPS
