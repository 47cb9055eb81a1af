"""The networks: shapes, how much they cost, and what they may not touch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from trainer.networks.realtime import EditNet, MapNet, PatchGan, Unmask, complete, cut, match_seam

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
SMALL = (8, 8, 8, 8, 8)


def gmac(network: torch.nn.Module, *inputs: Tensor) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(*inputs)
    return counter.get_total_flops() / 2e9


def hole_at(side: int, batch: int = 1) -> Tensor:
    """A sure hole over mouth and chin at half the crop's side."""
    hole = torch.zeros(batch, 1, side, side)
    hole[:, :, side // 2 : side * 7 // 8, side // 4 : side * 3 // 4] = 1
    return hole


@pytest.fixture(scope="module")
def edit() -> EditNet:
    torch.manual_seed(0)
    return EditNet(SMALL).eval().requires_grad_(False)


def test_the_whole_model_costs_at_most_1_8_gmac_a_crop() -> None:
    with torch.device("meta"):  # shapes only
        map_net, edit_net = MapNet(), EditNet()
        picture, hole = torch.zeros(1, 3, 256, 256), torch.zeros(1, 1, 128, 128)
        apart = gmac(map_net, picture), gmac(edit_net, picture, hole)
        whole = gmac(Unmask(map_net, edit_net), torch.zeros(1, 256, 256, 3, dtype=torch.uint8))
    assert min(apart) > 0.05 and sum(apart) == pytest.approx(whole, rel=0.02) and whole <= 1.8


@pytest.mark.parametrize("batch", [1, 3])
def test_shapes_and_types(edit: EditNet, batch: int) -> None:
    picture, hole = torch.rand(batch, 3, 256, 256) * 2 - 1, hole_at(128, batch)
    map_net = MapNet((4, 4, 4, 4)).eval()
    assert map_net(picture).shape == (batch, 1, 256, 256)
    assert edit(picture, hole).shape == (batch, 3, 256, 256)
    coarse, features = edit.inner(picture[:, :, ::2, ::2], hole)
    assert coarse.shape == (batch, 3, 128, 128) and features.shape[2:] == (64, 64)
    crop = torch.randint(0, 256, (batch, 256, 256, 3), dtype=torch.uint8)
    face, mask = Unmask(map_net, edit)(crop)
    assert face.shape == (batch, 256, 256, 3) and mask.shape == (batch, 256, 256)
    assert face.dtype == mask.dtype == torch.uint8


def test_nothing_depends_on_the_rest_of_the_batch(edit: EditNet) -> None:
    crop = torch.randint(0, 256, (2, 256, 256, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    model = Unmask(MapNet((4, 4, 4, 4)).eval(), edit)
    both, alone = model(crop), model(crop[1:])
    for together, apart in zip(both, alone, strict=True):
        assert (together[1].int() - apart[0].int()).abs().max() <= 1


@pytest.mark.parametrize("side", [128, 256])
def test_what_lies_in_the_hole_is_not_looked_at_and_the_rest_is_kept(edit: EditNet, side: int) -> None:
    torch.manual_seed(2)
    hole = hole_at(128)
    picture = torch.rand(1, 3, side, side) * 2 - 1
    _, composite, wide = complete(edit, picture, hole)
    assert wide.shape == (1, 1, side, side)
    inside = (wide == 1).expand_as(picture)
    other = torch.where(inside, -picture, picture)
    _, again, _ = complete(edit, other, hole)
    assert torch.allclose(composite, again, atol=1e-5)
    outside = (wide == 0).expand_as(picture)
    assert torch.equal(composite[outside], picture[outside])
    assert not torch.allclose(composite[inside], picture[inside], atol=0.05)


def test_the_hole_is_hard_and_a_little_wider_than_the_map() -> None:
    mask = torch.zeros(1, 1, 128, 128)
    mask[..., 60:80, 50:70] = 0.9
    mask[..., 10:20, 10:20] = 0.15  # what the map hardly believes in
    hole = cut(mask)
    assert (hole[..., 58:82, 48:72] == 1).all() and hole.sum() == 24 * 24


def test_the_seam_takes_away_a_wrong_exposure() -> None:
    hole = cut(hole_at(128))
    wide = torch.nn.functional.interpolate(hole, scale_factor=2.0, mode="bilinear", align_corners=False)
    truth = torch.linspace(-0.5, 0.5, 256).view(1, 1, 1, 256).expand(1, 3, 256, 256)
    wrong = truth + torch.tensor([0.3, -0.2, 0.1]).view(1, 3, 1, 1)
    matched = match_seam(wrong, truth, hole)
    edge = wide * (1 - torch.nn.functional.avg_pool2d(wide, 17, 1, 8)) > 0.2
    before, after = ((p - truth).abs()[edge.expand_as(truth)].mean() for p in (wrong, matched))
    assert after < 0.35 * before
    right = match_seam(truth, truth, hole)
    assert torch.allclose(right, truth, atol=1e-5)


def test_the_discriminator_gives_patches_and_its_features() -> None:
    critic = PatchGan()
    channels = next(p for p in critic.parameters() if p.dim() == 4).shape[1]
    features = critic(torch.rand(2, channels, 80, 80))
    assert len(features) >= 3 and features[-1].shape[:2] == (2, 1) and features[-1].shape[2] > 2


def test_every_parameter_of_both_networks_learns() -> None:
    torch.manual_seed(0)
    map_net, edit_net = MapNet((4, 4, 4, 4)), EditNet(SMALL)
    for parameter in (*map_net.parameters(), *edit_net.parameters()):
        if not parameter.any():
            torch.nn.init.normal_(parameter, 0, 0.02)
    picture = torch.rand(1, 3, 256, 256) * 2 - 1
    raw, _, _ = complete(edit_net, picture, hole_at(128))
    (map_net(picture).square().mean() + raw.square().mean()).backward()
    for name, parameter in (*map_net.named_parameters(), *edit_net.named_parameters()):
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
