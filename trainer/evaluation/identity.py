"""Does the drawn face look like the same person? Descriptors of dlib's face network, fetched once. Needs torch.

The network is dlib's face ResNet (D. E. King, 2017: 128-d descriptor of a 150 px chip, pairs of one person mostly under
0.6 apart), its weights in the 8-bit form of the npm package @vladmandic/face-api (MIT). Chips are cut by the landmarks
of the truth, both from output and truth, as dlib cuts them: four eye corners and the base of the nose, padding 0.25.

It judges pictures here and nothing else: it is no part of the runtime.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from trainer.tfjs import Published, entries
from unmask_rt.align import similarity, warp

Image = NDArray[np.uint8]
Descriptors = NDArray[np.float64]

PUBLISHED = Published(
    what="the face descriptor",
    package="https://registry.npmjs.org/@vladmandic/face-api/-/face-api-1.7.15.tgz",
    package_bytes=12_677_476,
    folder="package/model",
    files={
        "face_recognition_model.bin": "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589",
        "face_recognition_model-weights_manifest.json": (
            "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b"
        ),
    },
    cache="face-descriptor",
    variable="UNMASK_RT_DESCRIPTOR",
    instead="leave it out with --no-identity",
)

CHIP = 150
SAME_PERSON = 0.6
"""Distance under which dlib takes two pictures for one person."""
MIN_FRECHET = 240
"""Pictures below which a 128-d covariance says nothing."""
LANDMARKS = (263, 362, 33, 133, 2)
"""Mesh points of dlib's five: outer and inner corner of the subject's left eye, of the right eye, base of the nose."""
_FIVE = np.array(
    [[0.85957, 0.21350], [0.64606, 0.22897], [0.12058, 0.21373], [0.33409, 0.22906], [0.49011, 0.62780]], np.float32
)
_PADDING = 0.25
TEMPLATE = ((_FIVE + _PADDING) / (2 * _PADDING + 1) * CHIP).astype(np.float32)
"""Where `LANDMARKS` lie in a chip, pixels: dlib's mean face shape."""


class _Convolution(nn.Module):
    """Convolution and dlib's affine layer."""

    def __init__(self, found: dict[str, Tensor], name: str, stride: int, padding: int) -> None:
        super().__init__()
        weight = found[f"{name}/conv/filters"].permute(3, 2, 0, 1)  # from H, W, in, out
        scale = found[f"{name}/scale/weights"]
        self.register_buffer("weight", (weight * scale.view(-1, 1, 1, 1)).contiguous())
        self.register_buffer("bias", found[f"{name}/conv/bias"] * scale + found[f"{name}/scale/biases"])
        self._stride, self._padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.get_buffer("weight"), self.get_buffer("bias"), self._stride, self._padding)


class _Residual(nn.Module):
    """Two convolutions beside the input, which is halved and filled up with zero channels where ``down``."""

    def __init__(self, found: dict[str, Tensor], name: str, *, down: bool) -> None:
        super().__init__()
        self._down = down
        self.first = _Convolution(found, f"{name}/conv1", 2 if down else 1, 0 if down else 1)
        self.second = _Convolution(found, f"{name}/conv2", 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.second(F.relu(self.first(x)))
        if self._down:
            x = F.avg_pool2d(x, 2)
            out = F.pad(out, (0, x.shape[3] - out.shape[3], 0, x.shape[2] - out.shape[2]))
            x = F.pad(x, (0, 0, 0, 0, 0, out.shape[1] - x.shape[1]))
        return F.relu(out + x)


BLOCKS = (
    *("conv32_1", "conv32_2", "conv32_3"),
    *("conv64_down", "conv64_1", "conv64_2", "conv64_3"),
    *("conv128_down", "conv128_1", "conv128_2"),
    *("conv256_down", "conv256_1", "conv256_2", "conv256_down_out"),
)


class FaceDescriptor(nn.Module):
    """The network: chips to descriptors.

    Args:
        weights: the 8-bit values, one entry after the other.
        manifest: JSON that names the entries with shape, scale and minimum.
    """

    def __init__(self, weights: bytes, manifest: bytes) -> None:
        super().__init__()
        found = entries(weights, manifest)
        self.stem = _Convolution(found, "conv32_down", 2, 0)
        self.blocks = nn.Sequential(*(_Residual(found, name, down="_down" in name) for name in BLOCKS))
        self.register_buffer("last", found["fc"])  # (256, 128)
        self.register_buffer("mean", torch.tensor([122.782, 117.001, 104.298]).view(1, 3, 1, 1))
        self.eval()

    def forward(self, chips: Tensor) -> Tensor:
        """Chips 0..255 (N, 3, 150, 150) to descriptors (N, 128)."""
        x = (chips - self.get_buffer("mean")) / 255
        x = F.max_pool2d(F.relu(self.stem(x)), 3, 2)
        return self.blocks(x).mean((2, 3)) @ self.get_buffer("last")

    @torch.no_grad()
    def describe(self, chips: NDArray[np.uint8]) -> Descriptors:
        """Descriptors float64[N, 128] of chips uint8[N, 150, 150, 3] RGB."""
        x = torch.from_numpy(np.ascontiguousarray(chips)).to(self.get_buffer("last").device)
        return self(x.permute(0, 3, 1, 2).float()).double().cpu().numpy()


def cut_chip(picture: Image, mesh: NDArray[np.float32]) -> Image:
    """The chip uint8[150, 150, 3] of a face.

    Args:
        picture: uint8[H, W, 3] RGB.
        mesh: float32[478, 2] in its pixels.
    """
    return warp(picture, similarity(mesh[list(LANDMARKS)], TEMPLATE), CHIP)


def distances(a: Descriptors, b: Descriptors) -> NDArray[np.float64]:
    """Euclidean distance of each pair of rows."""
    return np.asarray(np.linalg.norm(a - b, axis=1))


def between_strangers(descriptors: Descriptors, identities: list[str]) -> float | None:
    """Mean distance of neighbouring rows of different people; None where there are none: what "no likeness" means."""
    apart = distances(descriptors[:-1], descriptors[1:])
    different = [i for i in range(len(identities) - 1) if identities[i] != identities[i + 1]]
    return float(apart[different].mean()) if different else None


def frechet(a: Descriptors, b: Descriptors) -> float:
    """Frechet distance of two sets of descriptors float64[N, D], taken for normal (M. Heusel et al., 2017).

    Squared distance of the means + trace(Ca + Cb - 2 sqrt(Ca Cb)), sample covariances. The trace of the root is that of
    the symmetric sqrt(Ca) Cb sqrt(Ca), which needs no complex numbers.
    """
    difference = a.mean(0) - b.mean(0)
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ cb @ root).clip(0)
    return float(difference @ difference + np.trace(ca) + np.trace(cb) - 2 * np.sqrt(middle).sum())
