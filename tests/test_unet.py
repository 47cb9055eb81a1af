"""pix2pix and dual-patch: networks as published, and what their steps learn from."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training_media import tiny_preset, write_set
from trainer import losses
from trainer.data import Batch, Faces, stacked
from trainer.networks.discriminators import PatchDiscriminator
from trainer.networks.unet import UNet, depth_for, normalisation
from trainer.systems import SYSTEMS
from trainer.systems.base import System
from trainer.systems.dual_patch import DualPatch, black_out
from unmask_rt.errors import UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


pytestmark = pytest.mark.usefixtures("quick_features")


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    data = write_set(tmp_path_factory.mktemp("set") / "data")
    return stacked(Faces(data, "train", 1, {}, size=32, augment=False), [0, 1])


def system(name: str, **options: Any) -> System:
    torch.manual_seed(0)
    (stage,) = tiny_preset(name, **options).stages
    made = SYSTEMS[name](stage.options, stage.size)
    made.prepare()
    return made


# ---- networks


def test_the_networks_are_as_large_as_published() -> None:
    with torch.device("meta"):
        unet, critic = UNet(3, 3, 64, 8), PatchDiscriminator(6, 64)
        assert UNet(4, 3, 64, 8)(torch.zeros(2, 4, 256, 256)).shape == (2, 3, 256, 256)
        assert critic(torch.zeros(1, 6, 256, 256)).shape == (1, 1, 30, 30)
    assert sum(p.numel() for p in unet.parameters()) == 54_414_531
    assert sum(p.numel() for p in critic.parameters()) == 2_768_705
    downs = [m for m in unet.down.modules() if isinstance(m, nn.Conv2d)]
    assert [d.out_channels for d in downs] == [64, 128, 256, 512, 512, 512, 512, 512]
    assert [sum(isinstance(m, nn.Dropout) for m in up.modules()) for up in unet.up] == [1, 1, 1, 0, 0, 0, 0]
    assert [depth_for(s) for s in (256, 128, 192, 32)] == [8, 7, 6, 5]


def test_a_patch_is_seventy_pixels() -> None:
    critic = PatchDiscriminator(3, 4).eval()
    picture = torch.randn(1, 3, 128, 128, requires_grad=True)
    critic(picture)[0, 0, 7, 7].backward()
    assert picture.grad is not None
    rows = picture.grad.abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert int(rows.max() - rows.min()) + 1 == 70


def test_weights_begin_normal() -> None:
    torch.manual_seed(1)
    unet = UNet(3, 3, 32, 5)
    weights = torch.cat(
        [m.weight.detach().flatten() for m in unet.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    )
    assert abs(float(weights.mean())) < 1e-4 and abs(float(weights.std()) - 0.02) < 2e-4
    norms = torch.cat([m.weight.detach() for m in unet.modules() if isinstance(m, nn.BatchNorm2d)])
    assert abs(float(norms.mean()) - 1) < 0.01 and 0.01 < float(norms.std()) < 0.03


def test_a_batch_of_one_is_normalised_as_a_picture_by_itself() -> None:
    batch, instance = normalisation("batch", 6).train(), normalisation("instance", 6)
    x = torch.randn(1, 6, 8, 8) * 3 + 1
    assert torch.allclose(batch(x), instance(x), atol=1e-5) and torch.equal(instance(x), instance.eval()(x))


def test_every_level_reaches_the_output_and_only_training_drops_out() -> None:
    torch.manual_seed(0)
    unet, x = UNet(3, 3, 4, 5, "instance").eval(), torch.rand(2, 3, 32, 32)
    assert torch.equal(unet(x), unet(x)) and unet(x).abs().max() <= 1
    unet(x).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in unet.named_parameters() if "weight" in n)
    unet.train()
    assert not torch.equal(unet(x), unet(x))


# ---- steps


@pytest.mark.parametrize("name", ["pix2pix", "dual-patch"])
def test_a_batch_is_learnt_and_every_part_moves(batch: Batch, name: str) -> None:
    made = system(name, learning_rate=3e-3)
    before = {n: {k: v.clone() for k, v in net.state_dict().items()} for n, net in made.networks.items()}
    figures = [made.step(batch, 0.0) for _ in range(12)]
    assert float(figures[-1]["l1"]) < 0.8 * float(figures[0]["l1"])
    for part, network in made.networks.items():
        moved = [k for k, v in network.state_dict().items() if not torch.equal(v, before[part][k])]
        assert len(moved) > len(before[part]) * 0.8, part
        assert all(p.requires_grad for p in network.parameters())
    assert {n.removeprefix("critic_") for n in figures[0]} >= (
        {"whole", "region"} if name == "dual-patch" else {"critic"}
    )


def test_the_loss_is_the_weighted_sum_of_its_terms(batch: Batch) -> None:
    figures = {k: float(v) for k, v in system("dual-patch").step(batch, 0.0).items()}
    wanted = 100 * (figures["l1"] + figures["ssim"]) + figures["perceptual"] + figures["whole"] + figures["region"]
    assert figures["loss"] == pytest.approx(wanted, rel=1e-5)
    figures = {k: float(v) for k, v in system("pix2pix").step(batch, 0.0).items()}
    assert figures["loss"] == pytest.approx(100 * figures["l1"] + figures["adversarial"], rel=1e-5)


def test_the_region_shows_the_mask_s_place_alone() -> None:
    picture, alpha = torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    alpha[..., 4:, :] = 1
    shown = black_out(picture, alpha)
    assert (shown[..., :4, :] == -1).all() and torch.allclose(shown[..., 4:, :], picture[..., 4:, :], atol=1e-6)


def test_the_map_matters_to_dual_patch_and_it_cannot_do_without(batch: Batch) -> None:
    made = system("dual-patch")
    made.step(batch, 0.0)
    assert isinstance(made, DualPatch)
    networks: dict[str, nn.Module] = {"generator": made.networks["generator"].eval()}
    x, _, alpha, _ = batch.floats()
    with torch.no_grad():
        face, found = made.restore(networks, x, alpha)
        other: Tensor = made.restore(networks, x, 1 - alpha)[0]
    assert face.shape == x.shape and found is alpha and (face - other).abs().max() > 1e-3
    with pytest.raises(UsageError, match="--map"):
        made.restore(networks, x, None)


def test_mixed_precision_steps_are_finite_and_near(batch: Batch) -> None:
    full, mixed = system("pix2pix"), system("pix2pix")
    mixed.amp = True
    torch.manual_seed(1)
    one = full.step(batch, 0.0)
    torch.manual_seed(1)
    other = mixed.step(batch, 0.0)
    assert float(other["l1"]) == pytest.approx(float(one["l1"]), rel=0.05) and float(other["l1"]) != float(one["l1"])


def test_gaussian_ssim_is_that_of_scikit_image() -> None:
    from skimage.metrics import structural_similarity

    torch.manual_seed(0)
    one, other = torch.rand(1, 3, 40, 40) * 2 - 1, torch.rand(1, 3, 40, 40) * 2 - 1
    other = 0.6 * one + 0.4 * other
    luma = [((p[0] + 1) / 2 * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0).numpy() for p in (one, other)]
    _, whole = structural_similarity(
        *luma, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    wanted = float(whole[5:-5, 5:-5].mean())
    assert float(1 - losses.gaussian_ssim(one, other)) == pytest.approx(wanted, abs=1e-4)
    assert float(losses.gaussian_ssim(one, one)) == pytest.approx(0, abs=1e-5)
