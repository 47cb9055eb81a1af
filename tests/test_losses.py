"""Losses: zero for what is right, growing with what is wrong, blind where the weight is zero."""

from __future__ import annotations

import sys
import types

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from trainer.losses import (
    Perceptual,
    generator_terms,
    hinge_discriminator,
    luma,
    map_loss,
    strided_ssim,
    weighted_l1,
)
from trainer.networks.realtime import PatchGan

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


@pytest.fixture(scope="module")
def face(astronaut: NDArray[np.uint8]) -> Tensor:
    """The sample face, (1, 3, 128, 128) in -1..1."""
    return torch.from_numpy(astronaut[50:178, 160:288].copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def ones_like(picture: Tensor) -> Tensor:
    return torch.ones_like(picture[:, :1])


def halves(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Weights of the left half alone and of the right half alone."""
    left = torch.zeros_like(picture[:, :1])
    left[..., : left.shape[3] // 2] = 1
    return left, 1 - left


def noisy(picture: Tensor, deviation: float) -> Tensor:
    return picture + deviation * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))


# ---- L1


def test_l1_is_the_mean_over_what_counts(face: Tensor) -> None:
    left, right = halves(face)
    wrong = face + 0.25 * right
    assert weighted_l1(face, face, ones_like(face)) == 0
    assert weighted_l1(wrong, face, right).item() == pytest.approx(0.25, rel=1e-4)
    assert weighted_l1(wrong, face, left) == 0
    assert weighted_l1(wrong, face, ones_like(face)).item() == pytest.approx(0.125, rel=1e-3)
    assert weighted_l1(wrong, face, 0 * left) == 0


# ---- SSIM


def test_luma_is_what_opencv_calls_grey(face: Tensor, astronaut: NDArray[np.uint8]) -> None:
    grey = cv2.cvtColor(astronaut[50:178, 160:288], cv2.COLOR_RGB2GRAY)
    found = luma(face)
    assert found.shape == (1, 1, 128, 128) and np.abs(found[0, 0].numpy() * 255 - grey).max() < 0.6
    ends = luma(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)).flatten().tolist()
    assert ends == pytest.approx([0, 1], abs=1e-6)


def test_ssim_loss_is_zero_for_equal_pictures(face: Tensor) -> None:
    assert strided_ssim(face, face, ones_like(face)).abs() < 1e-4


def test_ssim_loss_follows_scikit_image(face: Tensor) -> None:
    worse = [noisy(face, d) for d in (0.02, 0.05, 0.1, 0.2)]
    worse += [face * 0.8 + 0.15, face * 1.4 - 0.3]
    worse += [torch.nn.functional.avg_pool2d(face, k, 1, k // 2) for k in (3, 9)]
    ours = [strided_ssim(p, face, ones_like(face)).item() for p in worse]
    theirs = []
    for picture in worse:
        one, other = (
            ((p[0].permute(1, 2, 0).double() + 1) / 2 @ torch.tensor([0.299, 0.587, 0.114]).double()).numpy()
            for p in (picture, face)
        )
        theirs.append(1 - structural_similarity(one, other, data_range=1.0, win_size=7))
    assert np.argsort(ours).tolist() == np.argsort(theirs).tolist()
    assert np.abs(np.array(ours) - theirs).max() < 0.06


def test_ssim_loss_counts_only_what_has_weight(face: Tensor) -> None:
    left, right = halves(face)
    wrong = torch.where(right.expand_as(face) > 0, noisy(face, 0.5), face)
    whole, blind = strided_ssim(wrong, face, ones_like(face)), strided_ssim(wrong, face, left)
    assert blind < 0.1 * whole and strided_ssim(wrong, face, right) > 1.5 * whole
    assert strided_ssim(wrong, face, 0 * left) == 0


def test_every_loss_pulls_towards_the_truth(face: Tensor) -> None:
    for loss in (weighted_l1, strided_ssim):
        guess = noisy(face, 0.1).requires_grad_(True)
        before = loss(guess, face, ones_like(face))
        (slope,) = torch.autograd.grad(before, guess)
        after = loss(guess - slope * (1e-3 / slope.abs().max()), face, ones_like(face))
        assert after < before


# ---- perceptual


@pytest.fixture(scope="module")
def perceptual() -> Perceptual:
    return Perceptual()


def test_perceptual_distance_is_zero_for_equal_and_grows(perceptual: Perceptual, face: Tensor) -> None:
    assert perceptual(face, face) == 0
    distances = [float(perceptual(noisy(face, d), face)) for d in (0.02, 0.1, 0.4)]
    assert 0 < distances[0] < distances[1] < distances[2]
    shifted = torch.roll(face, 1, 3)
    assert perceptual(shifted, face) < perceptual(face.flip(2), face), "a face upside down is further than one moved"


def test_perceptual_features_are_frozen_and_let_the_slope_through(perceptual: Perceptual, face: Tensor) -> None:
    perceptual.train()
    assert not any(m.training for m in perceptual.modules())
    assert not any(p.requires_grad for p in perceptual.parameters())
    assert len(perceptual.features(face)) == len(perceptual.taps) == 4
    guess = noisy(face, 0.1).requires_grad_(True)
    perceptual(guess, face).backward()
    assert guess.grad is not None and guess.grad.abs().sum() > 0


# ---- adversarial


def test_hinge_is_zero_when_the_critic_is_sure_and_right() -> None:
    sure = torch.full((2, 1, 4, 4), 1.5)
    assert hinge_discriminator(sure, -sure) == 0
    assert hinge_discriminator(-sure, sure).item() == pytest.approx(5.0)
    assert hinge_discriminator(0 * sure, 0 * sure).item() == pytest.approx(2.0)


def test_generator_terms(face: Tensor) -> None:
    torch.manual_seed(0)
    critic = PatchGan().eval()
    real, fake = (torch.cat([p, ones_like(p)], 1) for p in (face, noisy(face, 0.3)))
    adversarial, matching = generator_terms(critic, fake, real)
    assert adversarial.item() == pytest.approx(-critic(fake)[-1].mean().item(), abs=1e-5) and matching > 0
    assert generator_terms(critic, real, real)[1] == 0


# ---- map


def square(value: float = 1.0) -> Tensor:
    alpha = torch.zeros(2, 1, 64, 64)
    alpha[..., 20:50, 15:45] = value
    return alpha


def test_map_loss_falls_the_righter_the_map() -> None:
    alpha, everywhere = square(), torch.ones(2, 1, 64, 64)
    right = (alpha * 2 - 1) * 6
    shifted = [torch.roll(right, by, 3) for by in (4, 12)]
    order = [right, right * 0.3, *shifted, -right]
    losses = [map_loss(logits, alpha, everywhere).item() for logits in order]
    assert losses == sorted(losses) and losses[0] < 0.05 < losses[1]
    empty = torch.zeros_like(alpha)
    assert map_loss(torch.full_like(alpha, -8), empty, everywhere) < 0.02, "a face without a mask"
    assert map_loss(right, empty, everywhere) > 1


def test_map_loss_respects_the_weight() -> None:
    alpha, left = square(), torch.zeros(2, 1, 64, 64)
    left[..., :32] = 1
    right_map = (alpha * 2 - 1) * 6
    spoilt = torch.where(left > 0, right_map, -right_map)
    assert map_loss(spoilt, alpha, left).item() == pytest.approx(map_loss(right_map, alpha, left).item(), abs=1e-5)
    assert map_loss(spoilt, alpha, 1 - left) > 2


def test_map_loss_learns() -> None:
    alpha, everywhere = square(), torch.ones(2, 1, 64, 64)
    logits = torch.zeros_like(alpha, requires_grad=True)
    optimizer = torch.optim.Adam([logits], 0.5)
    first = map_loss(logits, alpha, everywhere).item()
    for _ in range(20):
        optimizer.zero_grad()
        loss = map_loss(logits, alpha, everywhere)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1 * first and ((logits > 0) == (alpha > 0.5)).all()


def test_vgg16_is_taken_from_torchvision_where_there_is_one(monkeypatch: pytest.MonkeyPatch, face: Tensor) -> None:
    """A torchvision that hands out the layers of VGG16, narrow and untrained."""
    widths = [4, 4, 0, 8, 8, 0, 8, 8, 8, 0, 8, 8, 8, 0]
    layers: list[nn.Module] = []
    inside = 3
    for width in widths:
        layers += [nn.Conv2d(inside, width, 3, 1, 1), nn.ReLU(True)] if width else [nn.MaxPool2d(2)]
        inside = width or inside
    fake = types.ModuleType("torchvision.models")
    fake.VGG16_Weights = types.SimpleNamespace(IMAGENET1K_V1="weights")  # type: ignore[attr-defined]
    fake.vgg16 = lambda weights: types.SimpleNamespace(features=nn.Sequential(*layers))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", fake)
    distance = Perceptual("vgg16")
    assert [f.shape[1] for f in distance.features(face)] == [4, 8, 8, 8]
    assert float(distance(face, face)) == 0 and float(distance(-face, face)) > 0


def test_without_torchvision_vgg16_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ImportError, match="torchvision"):
        Perceptual("vgg16")
