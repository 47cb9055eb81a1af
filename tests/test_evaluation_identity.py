"""The face descriptor: how its weights are had, what its network computes, and the distances on it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from tests.evaluation_media import aligned_astronaut
from trainer.evaluation.identity import (
    BLOCKS,
    CHIP,
    LANDMARKS,
    PUBLISHED,
    TEMPLATE,
    FaceDescriptor,
    between_strangers,
    cut_chip,
    distances,
    frechet,
)
from unmask_rt.align import apply, similarity
from unmask_rt.models import cache_dir

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


# ---- distances


def test_the_frechet_distance_of_two_clouds_is_the_textbooks() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 4)), rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4)) + 1
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(ca @ cb).astype(complex)).real.sum()  # trace of the root
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca + cb) - 2 * root
    assert frechet(a, b) == pytest.approx(float(wanted), rel=1e-9)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, a + np.array([3, 0, 4, 0])) == pytest.approx(25)


def test_distances_and_strangers() -> None:
    a = np.array([[0.0, 0.0], [3.0, 4.0], [3.0, 4.0]])
    assert distances(a, np.zeros_like(a)).tolist() == [0, 5, 5]
    assert between_strangers(a, ["x", "y", "y"]) == 5
    assert between_strangers(a, ["x", "x", "x"]) is None


def test_a_chip_is_cut_by_the_landmarks() -> None:
    picture, mesh = aligned_astronaut()
    chip = cut_chip(picture, mesh)
    assert chip.shape == (CHIP, CHIP, 3) and chip.std() > 20
    moved = apply(similarity(mesh[list(LANDMARKS)], TEMPLATE), mesh[list(LANDMARKS)])
    assert np.abs(moved - TEMPLATE).max() < 6
    assert TEMPLATE[2, 0] < CHIP / 2 < TEMPLATE[0, 0]  # the subject's right eye is on the left


# ---- the network


def made_up() -> tuple[bytes, bytes]:
    """Random weights in the package's format: half of the entries of 8 bits, half of float32."""
    rng = np.random.default_rng(3)
    shapes: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, size: int, inside: int, outside: int) -> None:
        shapes[f"{name}/conv/filters"] = (size, size, inside, outside)
        shapes[f"{name}/conv/bias"] = (outside,)
        shapes[f"{name}/scale/weights"] = (outside,)
        shapes[f"{name}/scale/biases"] = (outside,)

    convolution("conv32_down", 7, 3, 32)
    width = 32
    for name in BLOCKS:
        wide = int(name[4:].split("_")[0])
        convolution(f"{name}/conv1", 3, width, wide)
        convolution(f"{name}/conv2", 3, wide, wide)
        width = wide
    shapes["fc"] = (256, 128)
    entries: list[dict[str, Any]] = []
    data = b""
    for number, (name, shape) in enumerate(shapes.items()):
        entry: dict[str, Any] = {"name": name, "shape": shape, "dtype": "float32"}
        if number % 2:
            data += rng.normal(0, 0.05, shape).astype("<f4").tobytes()
        else:
            data += rng.integers(0, 256, shape, np.uint8).tobytes()
            entry["quantization"] = {"dtype": "uint8", "scale": 0.0004, "min": -0.05}
        entries.append(entry)
    return data, json.dumps([{"weights": entries, "paths": ["x"]}]).encode()


def test_the_network_takes_chips_to_descriptors_one_by_one() -> None:
    network = FaceDescriptor(*made_up())
    chips = np.random.default_rng(0).integers(0, 256, (2, CHIP, CHIP, 3), np.uint8)
    found = network.describe(chips)
    assert found.shape == (2, 128) and np.isfinite(found).all() and np.ptp(found) > 0
    assert np.allclose(network.describe(chips[1:]), found[1:], atol=1e-5)


@pytest.mark.skipif(
    not all((cache_dir() / "face-descriptor" / name).is_file() for name in PUBLISHED.files),
    reason="the face descriptor is not in the cache (unmask-train evaluate fetches it)",
)
def test_the_real_weights_know_a_face_again() -> None:
    network = FaceDescriptor(*PUBLISHED.load())
    picture, mesh = aligned_astronaut()
    chip = cut_chip(picture, mesh)
    lower = picture.copy()
    lower[150:] = 128
    upside_down = np.ascontiguousarray(chip[::-1])
    chips = np.stack([chip, chip[:, ::-1], (chip * 0.7).astype(np.uint8), cut_chip(lower, mesh), upside_down])
    found = network.describe(chips)
    mirror, darker, covered, turned = distances(found[1:], np.repeat(found[:1], 4, 0))
    assert darker < mirror < 0.3 < covered < turned
    assert np.linalg.norm(found[0]) == pytest.approx(1.4, abs=0.25)
