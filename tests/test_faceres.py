"""Networks published for TensorFlow.js: how their files are had, what is read out of them, and the face network of the
loss."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tests.evaluation_media import aligned_astronaut
from trainer.faceres import PUBLISHED, STRIDES, TAPS, layers
from trainer.losses import Perceptual
from trainer.tfjs import Published, entries
from unmask_rt.errors import ModelError
from unmask_rt.fetch import digest
from unmask_rt.models import cache_dir

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


# ---- having the files


def package(**contents: bytes) -> bytes:
    """An npm package with these files in its folder ``models``."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, data in contents.items():
            member = tarfile.TarInfo(f"package/models/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Published:
    """A network whose files are these few bytes, and a cache of its own."""
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(PUBLISHED.variable, raising=False)
    return replace(PUBLISHED, files={"bin": digest(b"weights"), "names": digest(b"names")})


@pytest.fixture
def place(own: Published) -> Path:
    return cache_dir() / own.cache


def answer(monkeypatch: pytest.MonkeyPatch, data: bytes | Exception) -> list[str]:
    """Lets the network answer with these bytes; returns the addresses asked."""
    asked = []

    def urlopen(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        if isinstance(data, Exception):
            raise data
        return io.BytesIO(data)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_files_are_fetched_once_and_said_aloud(
    own: Published, place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = answer(monkeypatch, package(bin=b"weights", names=b"names"))
    assert own.load() == (b"weights", b"names") == own.load()
    assert asked == [own.package]
    assert capfd.readouterr().err.count("using the network") == 1
    assert sorted(p.name for p in place.iterdir()) == ["bin", "names"]
    (place / "bin").write_bytes(b"damaged")
    assert own.load() == (b"weights", b"names") and len(asked) == 2


@pytest.mark.parametrize(
    "data",
    [
        urllib.error.URLError("no network"),
        b"no archive at all",
        package(bin=b"other", names=b"names"),
        package(bin=b"weights"),
    ],
    ids=["offline", "no-archive", "foreign", "incomplete"],
)
def test_files_that_cannot_be_had_are_an_error_and_leave_nothing(
    own: Published, place: Path, monkeypatch: pytest.MonkeyPatch, data: bytes | Exception
) -> None:
    answer(monkeypatch, data)
    with pytest.raises(ModelError, match=r"loss\.face=0") as caught:
        own.load()
    assert caught.value.exit_code == 3
    assert not place.exists() or not list(place.iterdir())


def test_a_given_folder_is_checked_and_never_fetched_into(
    own: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = answer(monkeypatch, package(bin=b"weights", names=b"names"))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "bin").write_bytes(b"weights")
    with pytest.raises(ModelError, match="names"):
        own.load(folder)
    (folder / "names").write_bytes(b"names")
    assert own.load(folder) == (b"weights", b"names")
    monkeypatch.setenv(own.variable, str(folder))
    assert own.load() == (b"weights", b"names") and not asked


# ---- reading them


def written(tensors: dict[str, NDArray[Any]]) -> tuple[bytes, list[dict[str, Any]]]:
    """Values as a package holds them, and what its JSON says of them."""
    told = []
    for name, values in tensors.items():
        entry: dict[str, Any] = {"name": name, "shape": list(values.shape), "dtype": "float32"}
        if values.dtype == np.float16:
            entry["quantization"] = {"dtype": "float16", "original_dtype": "float32"}
        elif values.dtype == np.uint8:
            entry["quantization"] = {"dtype": "uint8", "scale": 0.5, "min": -3.0}
        elif values.dtype == np.int32:
            entry["dtype"] = "int32"
        told.append(entry)
    return b"".join(values.tobytes() for values in tensors.values()), told


@pytest.mark.parametrize("graph", [False, True], ids=["manifest", "graph"])
def test_entries_of_every_kind_are_read(graph: bool) -> None:
    tensors = {
        "half": np.array([[1.5, -2], [0.25, 8]], np.float16),
        "number": np.array(7, np.int32),
        "byte": np.array([0, 10], np.uint8),
        "whole": np.array([1e-3], np.float32),
    }
    weights, told = written(tensors)
    groups = [{"weights": told[:2]}, {"weights": told[2:]}]
    found = entries(weights, json.dumps({"weightsManifest": groups} if graph else groups).encode())
    assert {name: values.tolist() for name, values in found.items()} == {
        "half": [[1.5, -2], [0.25, 8]], "number": 7, "byte": [-3, 2], "whole": [pytest.approx(1e-3)],
    }  # fmt: skip


# ---- the face network


def invented(seed: int = 0) -> tuple[bytes, bytes]:
    """Files of a face network of few features and random weights, as the package holds them."""
    rng = np.random.default_rng(seed)
    tensors: dict[str, NDArray[Any]] = {"global_pooling/Mean/reduction_indices": np.array([1, 2], np.int32)}

    def add(name: str, *shape: int, scale: float = 1.0) -> None:
        tensors[name] = (rng.normal(size=shape) * scale).astype(np.float16)

    add("conv1/convolution/merged_input", 3, 3, 3, 4, scale=0.005)
    add("conv1_bn/batchnorm_1/sub", 4)
    for i in range(1, len(STRIDES) + 1):
        add(f"conv_dw_{i}/depthwise_kernel", 3, 3, 4, 1)
        add(f"conv_dw_{i}_bn/batchnorm_1/mul", 4)
        add(f"conv_dw_{i}_bn/batchnorm_1/sub", 4)
        add(f"conv_pw_{i}/convolution/merged_input", 1, 1, 4, 4)
        add(f"conv_pw_{i}_bn/batchnorm_1/sub", 4)
    weights, told = written(tensors)
    return weights, json.dumps({"weightsManifest": [{"weights": told}]}).encode()


@pytest.fixture
def features(monkeypatch: pytest.MonkeyPatch) -> Perceptual:
    """The loss on a face network of random weights."""
    files = invented()
    monkeypatch.setattr(Published, "load", lambda self, folder=None: files)
    return Perceptual("faceres")


def face(side: int) -> Tensor:
    """The sample face, aligned, (1, 3, side, side) in -1..1."""
    picture = torch.from_numpy(aligned_astronaut()[0].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    return F.interpolate(picture, (side, side), mode="area")


def test_blocks_compute_what_their_weights_say() -> None:
    files = invented(1)
    found, made = entries(*files), layers(*files)
    x = torch.rand(1, 4, 11, 8, generator=torch.Generator().manual_seed(0)) * 6
    for i in (1, 2):  # a stride of 1, and one of 2: on an odd side one row more at both ends, else at the end only
        stride = STRIDES[i - 1]
        kernel = found[f"conv_dw_{i}/depthwise_kernel"].permute(2, 3, 0, 1)
        padded = F.pad(x, (1, 1, 1, 1)) if stride == 1 else F.pad(x, (0, 1, 1, 1))
        deep = F.conv2d(padded, kernel, stride=stride, groups=4) * found[f"conv_dw_{i}_bn/batchnorm_1/mul"].view(
            4, 1, 1
        )
        deep = (deep + found[f"conv_dw_{i}_bn/batchnorm_1/sub"].view(4, 1, 1)).clamp(0, 6)
        wide = torch.einsum("io,bihw->bohw", found[f"conv_pw_{i}/convolution/merged_input"][0, 0], deep)
        wide = (wide + found[f"conv_pw_{i}_bn/batchnorm_1/sub"].view(4, 1, 1)).clamp(0, 6)
        assert torch.allclose(made[i + 1](x), wide, atol=1e-4)


def test_the_network_gets_the_face_of_a_crop_of_either_size(features: Perceptual) -> None:
    shown = [features.layers[0](face(side)) for side in (128, 256)]
    assert [tuple(x.shape) for x in shown] == [(1, 3, 160, 154)] * 2
    assert (shown[0] - shown[1]).abs().mean() < 4, "levels of 255: the same place of the same face"
    grey = features.layers[0](torch.zeros(1, 3, 128, 128))
    assert torch.allclose(grey[0, :, 0, 0], 127.5 - torch.tensor([103.939, 116.779, 123.68]))
    red = features.layers[0](torch.tensor([1.0, -1, -1]).view(1, 3, 1, 1).expand(1, 3, 128, 128))
    assert red[0, 2].mean() > 100 > 0 > red[0, 0].mean(), "blue first"
    assert [tuple(x.shape[2:]) for x in features.features(face(128))] == [(40, 39), (20, 20), (10, 10), (5, 5), ()]
    assert len(TAPS) == 5


def test_the_loss_sees_the_face_and_nothing_around_it(features: Perceptual) -> None:
    truth = face(128)
    drawn, around = truth.clone(), truth.clone()
    drawn[:, :, 70:100, 40:90] = 0
    around[:, :, :10] = around[:, :, 122:] = 0
    drawn.requires_grad_(True)
    loss = features(drawn, truth)
    loss.backward()
    assert features(truth, truth) == features(around, truth) == 0 < loss
    assert (
        drawn.grad is not None and drawn.grad[:, :, 70:100, 40:90].abs().sum() > 0 == drawn.grad[:, :, :10].abs().sum()
    )
    assert not any(p.requires_grad for p in features.parameters())


@pytest.mark.skipif(
    not all((cache_dir() / PUBLISHED.cache / name).is_file() for name in PUBLISHED.files),
    reason="the face network is not in the cache (training with a face loss fetches it)",
)
def test_the_real_weights_know_a_face_again() -> None:
    network, picture = Perceptual("faceres"), face(128)
    covered = picture.clone()
    covered[:, :, 75:] = 0
    others = [picture.flip(3), picture * 0.7 - 0.3, covered, picture.flip(2)]
    first, *rest = (network.features(x)[-1][0] for x in (picture, *others))
    mirror, darker, hidden, turned = (float(F.cosine_similarity(first, x, 0)) for x in rest)
    assert min(mirror, darker) > 0.85 > hidden > turned
