"""The ancestor systems mask2face, map-edit and siamese: what they learn from, what they give, what they refuse."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import trainer
from trainer.data import Batch
from trainer.networks.map_edit import EditUNet, MapUNet, SqueezeExcite, without_specks
from trainer.networks.mask2face import Mask2FaceNet
from trainer.networks.siamese import EncoderDecoder, RealOrFake, SiameseDiscriminator
from trainer.systems import SYSTEMS
from trainer.systems.base import System
from trainer.systems.map_edit import MapEdit
from trainer.systems.siamese import Siamese
from unmask_rt.errors import UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine
SIDE = 64
TINY: dict[str, Any] = {"width": 4, "map_width": 4, "discriminator_width": 4, "kernels": [3] * 6, "learning_rate": 3e-3}
STAGES = {"unet": "mask2face", "map": "map-edit", "edit": "map-edit", "gan": "siamese"}
"""Stage -> preset."""


def options(stage: str, **changed: Any) -> dict[str, Any]:
    """A stage's table as its preset has it, with tiny networks."""
    text = (Path(trainer.__file__).parent / "presets" / f"{STAGES[stage]}.toml").read_text()
    table: dict[str, Any] = next(s for s in tomllib.loads(text)["stage"] if s["name"] == stage)
    return table | {key: value for key, value in TINY.items() if key in table} | changed


def system(stage: str, **changed: Any) -> System:
    torch.manual_seed(0)
    table = options(stage, **changed)
    made = SYSTEMS[table["system"]](table, SIDE)
    made.prepare()
    return made


def faces(count: int = 2) -> Batch:
    """Ovals of a skin's colour with eyes and a mouth, under a mask of one colour; a strip at the left is not valid."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    truths, masked = [], []
    alpha = (((x - 32) / 20) ** 2 + ((y - 46) / 12) ** 2 < 1).float()
    for i in range(count):
        picture = torch.full((3, SIDE, SIDE), 40.0 + 30 * i)
        picture[:, ((x - 32) / 22) ** 2 + ((y - 34) / 28) ** 2 < 1] = torch.tensor([[200.0 - 40 * i], [150.0], [120.0]])
        for cx, cy, r in ((23, 24, 3), (41, 24, 3), (32, 48, 4 + i)):
            picture[:, (x - cx) ** 2 + (y - cy) ** 2 < r * r] = torch.tensor([[60.0], [20.0], [30.0]])
        truths.append(picture)
        masked.append(picture * (1 - alpha) + torch.tensor([90.0, 140.0, 220.0])[:, None, None] * alpha)
    holes = (alpha * 255).expand(count, 1, SIDE, SIDE).byte()
    valid = torch.full((count, 1, SIDE, SIDE), 255, dtype=torch.uint8)
    valid[..., :4] = 0
    return Batch(torch.stack(masked).byte(), torch.stack(truths).byte(), holes, valid)


def weights(network: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in network.parameters()]


def same(before: list[Tensor], network: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


# ---- every system


@pytest.mark.parametrize("stage", STAGES)
def test_a_batch_is_learnt_by_heart(stage: str) -> None:
    made, batch = system(stage, mask_from=0.0), faces()
    names = {"unet": ("l1", "ssim"), "map": ("loss",), "edit": ("l1", "ssim"), "gan": ("l1",)}[stage]
    seen = []
    for _ in range(25):
        figures = made.step(batch, 0.5)
        assert all(torch.isfinite(torch.as_tensor(value)) for value in figures.values()), figures
        seen.append(sum(float(figures[name]) for name in names))
    assert seen[-1] < 0.7 * seen[0], seen


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_moves_every_network(stage: str) -> None:
    made = system(stage)
    before = {name: weights(network) for name, network in made.networks.items()}
    made.step(faces(), 0.9)
    assert [name for name, network in made.networks.items() if same(before[name], network)] == []
    assert all(p.requires_grad for network in made.networks.values() for p in network.parameters())


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("side", [64, 128])
def test_restored_faces_and_maps_have_the_shape_and_range_of_the_input(stage: str, side: int) -> None:
    made = system(stage)
    networks = {n: copy.deepcopy(made.networks[n]).eval() for n in made.averaged} | made.inherited
    masked = torch.rand(2, 3, side, side) * 2 - 1
    with torch.no_grad():
        face, found = made.restore(networks, masked, None)
        alone, _ = made.restore(networks, masked[:1], None)
    assert face.shape == masked.shape and float(face.abs().max()) <= 1
    assert torch.allclose(face[:1], alone, atol=1e-5), "a face depends on the others of its batch"
    if stage in ("map", "edit"):
        assert found is not None and found.shape == (2, 1, side, side)
        assert float(found.min()) >= 0 and float(found.max()) <= 1
    else:
        assert found is None and float(face.std()) > 0


@pytest.mark.parametrize("stage", STAGES)
def test_pixels_outside_of_the_picture_teach_nothing(stage: str) -> None:
    """With nothing valid every output is replaced by the truth: the generator's or map's gradient is zero."""
    made, batch = system(stage, **({"loss": {"l1": 1, "ssim": 1, "weights": 0}} if stage == "unet" else {})), faces()
    batch = Batch(batch.masked, batch.truth, batch.alpha, torch.zeros_like(batch.valid))
    trained = made.networks[made.averaged[0]]
    made.step(batch, 0.9)
    assert max(float(p.grad.abs().max()) for p in trained.parameters() if p.grad is not None) < 1e-6


# ---- networks


def test_the_published_widths_are_the_default() -> None:
    with torch.device("meta"):  # shapes only
        millions = {
            type(n).__name__: sum(p.numel() for p in n.parameters()) / 1e6
            for n in (Mask2FaceNet(), MapUNet(), EditUNet(), EncoderDecoder())
        }
    assert 40 < millions["Mask2FaceNet"] < 45 and 30 < millions["MapUNet"] < 36 and 50 < millions["EditUNet"] < 58
    assert 5 < millions["EncoderDecoder"] < 6
    assert [options(stage)[key] for stage, key in (("edit", "dilations"), ("edit", "excited"))] == [[2, 4, 8, 16], 3]


def test_levels_and_kernels_have_to_match() -> None:
    with pytest.raises(ValueError, match="one odd kernel a level"):
        Mask2FaceNet(4, (1, 2), (3, 3, 3))
    with pytest.raises(ValueError, match="one odd kernel a level"):
        Mask2FaceNet(4, (1, 2), (4, 3))
    with pytest.raises(UsageError, match="multiple of 64"):
        SYSTEMS["mask2face"](options("unet"), 96)
    with pytest.raises(UsageError, match="multiple of 64"):
        SYSTEMS["siamese"](options("gan", depth=6), 96)


@pytest.mark.parametrize("stage", ["unet", "edit"])
def test_the_windows_of_ssim_can_be_chosen(stage: str) -> None:
    seen = [float(system(stage, windows=windows).step(faces(), 0.9)["ssim"]) for windows in ("gaussian", "strided")]
    assert seen[0] != seen[1] and max(seen) < 1.5 * min(seen)
    with pytest.raises(UsageError, match="no windows 'round'"):
        system(stage, windows="round")


def test_dilated_convolutions_see_further_and_excitation_weighs_channels() -> None:
    torch.manual_seed(0)

    def reach(dilations: tuple[int, ...]) -> int:
        network = EditUNet(4, dilations).eval()
        picture = torch.zeros(1, 4, 256, 256, requires_grad=True)
        network.middle.register_forward_hook(lambda _, __, out: out[0, :, 0, 0].sum().backward(retain_graph=True))
        network(picture)
        assert picture.grad is not None
        return int((picture.grad[0].abs().sum(0) > 0).nonzero().max())

    assert reach((2, 4)) > reach((1, 1)) + 40
    excite = SqueezeExcite(8)
    x = torch.rand(2, 8, 4, 4) + 0.1
    gains = (excite(x) / x).detach()
    assert torch.allclose(gains, gains[:, :, :1, :1].expand_as(gains), atol=1e-5)
    assert float(gains.min()) > 0 and float(gains.max()) < 1
    assert sum(isinstance(m, SqueezeExcite) for m in EditUNet(4).modules()) == 3


def test_specks_are_taken_out_of_a_map_and_the_mask_stays() -> None:
    found = torch.zeros(1, 1, 32, 32)
    found[0, 0, 8:20, 8:24] = 0.9
    clean = without_specks(found)
    found[0, 0, 28, 3], found[0, 0, 2:4, 28] = 1.0, 0.8
    assert torch.equal(without_specks(found), clean) and torch.equal(clean, (clean > 0.5).float())
    assert torch.equal(clean[0, 0, 8:20, 8:24], torch.ones(12, 16)) and float(clean.sum()) == 12 * 16


# ---- mask2face


def test_the_weights_are_regularised() -> None:
    network = Mask2FaceNet(2, (1, 2), (3, 3))
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    by_hand = sum(float((layer.weight.detach() ** 2).sum()) for layer in layers)
    assert float(network.squares().detach()) == pytest.approx(by_hand, rel=1e-5)
    assert len(layers) == 1 + 2 * 3 + 1 + 2 * 4 + 2

    def after(weight: float) -> tuple[float, float]:
        made = system("unet", loss={"l1": 1.0, "ssim": 1.0, "weights": weight})
        for _ in range(10):
            figures = made.step(faces(), 0.5)
        return float(figures["weights"]), float(figures["loss"]) - float(figures["l1"]) - float(figures["ssim"])

    free, pulled = after(0.0), after(0.1)
    assert pulled[0] < 0.9 * free[0]
    assert free[1] == pytest.approx(0, abs=1e-4) and pulled[1] == pytest.approx(0.1 * pulled[0], rel=1e-3)


# ---- map-edit


def test_the_holes_discriminator_comes_in_later() -> None:
    made, batch = system("edit", mask_from=0.4), faces()
    before = weights(made.networks["hole"])
    figures = made.step(batch, 0.39)
    assert same(before, made.networks["hole"]) and {"critic_whole", "whole_alone"} <= set(figures)
    assert not {"critic_hole", "hole", "whole"} & set(figures)
    figures = made.step(batch, 0.4)
    assert not same(before, made.networks["hole"]) and {"critic_hole", "critic_whole", "hole", "whole"} <= set(figures)
    assert "whole_alone" not in figures and made.phase(0.39) != made.phase(0.4), "each form is recorded by itself"
    shares = made.options["loss"]
    total = sum(shares[name] * float(figures[name]) for name in ("l1", "ssim", "perceptual", "whole", "hole"))
    assert float(figures["loss"]) == pytest.approx(total, rel=1e-4)


def test_the_discriminators_see_the_whole_face_and_the_hole_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    made, batch = system("edit"), faces()
    del made.inherited["map"]  # the true map, so that the hole is known
    shown: dict[str, list[Tensor]] = {"whole": [], "hole": []}
    for name, pictures in shown.items():
        made.networks[name].register_forward_pre_hook(lambda _, args, to=pictures: to.append(args[0].detach()))
    made.step(batch, 0.9)
    x, truth, alpha, _ = batch.floats()
    hole = without_specks(alpha)
    for name, pictures in shown.items():
        real, fake, again = pictures
        assert torch.equal(real[:, :3], x) and torch.equal(fake[:, :3], x) and torch.equal(fake, again)
        outside = ((fake[:, 3:] - x).abs() * (1 - hole)).amax() < 1e-6
        assert outside == (name == "hole")
        wanted = truth if name == "whole" else x + (truth - x) * hole
        assert torch.allclose(real[:, 3:], wanted, atol=1e-6)


def test_the_map_module_reports_its_accuracy() -> None:
    made, batch = system("map"), faces()
    figures = [made.step(batch, 0.5) for _ in range(40)]
    first, last = ({k: float(v) for k, v in f.items()} for f in (figures[0], figures[-1]))
    assert last["accuracy"] > max(0.95, first["accuracy"]) and last["iou"] > 0.8 and last["loss"] < first["loss"]


def test_the_editing_module_uses_its_own_map_or_the_one_it_is_given() -> None:
    made, batch = system("edit"), faces()
    networks = {"generator": made.networks["generator"].eval()} | made.inherited
    x, _, alpha, _ = batch.floats()
    with torch.no_grad():
        own, found = made.restore(networks, x, None)
        other, given = made.restore(networks, x, alpha)
        assert given is not None and torch.equal(given, alpha)
        assert found is not None and torch.equal(found, torch.sigmoid(made.inherited["map"](x)))
        assert not torch.equal(own, other)
        without = {"generator": networks["generator"]}
        assert torch.equal(made.restore(without, x, alpha)[0], other)
        with pytest.raises(UsageError, match="no map module"):
            made.restore(without, x, None)


def test_the_map_module_stays_as_it_is_while_the_editing_module_learns() -> None:
    made = system("edit")
    before = {k: v.clone() for k, v in made.inherited["map"].state_dict().items()}
    made.step(faces(), 0.9)
    assert all(torch.equal(before[k], v) for k, v in made.inherited["map"].state_dict().items())


# ---- siamese


def test_the_siamese_discriminator_sees_pairs_and_the_classifier_faces() -> None:
    made, batch = system("gan"), faces()
    assert isinstance(made, Siamese)
    network = made.networks["siamese"]
    assert isinstance(network, SiameseDiscriminator)
    branches: list[Tensor] = []
    network.encode.register_forward_pre_hook(lambda _, args: branches.append(args[0].detach()))
    single: list[Tensor] = []
    made.networks["classifier"].register_forward_pre_hook(lambda _, args: single.append(args[0].detach()))
    made.step(batch, 0.5)
    x, truth, _, _ = batch.floats()
    output = single[1]
    assert torch.equal(single[0], truth) and torch.equal(single[2], output) and not torch.allclose(output, truth)
    wanted = [x, truth, output, x, output]  # its own step, and then the generator's
    assert len(branches) == len(wanted) and all(torch.equal(a, b) for a, b in zip(branches, wanted, strict=True))


def test_the_siamese_discriminator_learns_whose_face_it_is() -> None:
    made, (x, truth, _, _) = system("gan", discriminator_width=8), faces().floats()
    assert isinstance(made, Siamese)
    noise = torch.randn_like(truth).clamp(-1, 1)
    network = made.networks["siamese"]
    for _ in range(60):
        made.compare(x, noise, truth)
    with torch.no_grad():
        right, fake, stranger = (network(x, face) for face in (truth, noise, truth.roll(1, 0)))
    assert float(right.min()) > float(fake.max()) and float(right.min()) > float(stranger.max())


def test_both_branches_of_the_siamese_discriminator_are_one() -> None:
    torch.manual_seed(0)
    network = SiameseDiscriminator(4).eval()
    one, other = torch.rand(2, 3, 3, SIDE, SIDE)
    assert torch.allclose(network(one, other), network(other, one))
    assert torch.allclose(network(one, one), network.head.bias.expand(3, 1))
    assert RealOrFake(4)(one).shape == (3, 1)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_three_kinds_of_pairs_count_alike_and_a_batch_of_one_has_no_stranger(count: int) -> None:
    made = system("gan", discriminator_width=8)
    assert isinstance(made, Siamese)
    x, truth, _, _ = faces(count).floats()
    network = made.networks["siamese"]
    nn.init.normal_(network.get_submodule("head").get_parameter("weight"), 0, 3)  # logits far from each other
    others = [-truth, *([truth.roll(1, 0)] if count > 1 else [])]
    with torch.no_grad():
        logits = [-network(x, truth), *(network(x, other) for other in others)]
    wanted = [float(nn.functional.softplus(logit).mean()) for logit in logits]
    assert len({round(w, 3) for w in wanted}) == len(wanted)
    assert float(made.compare(x, -truth, truth)) == pytest.approx(sum(wanted) / len(wanted), rel=1e-3)


def test_the_generator_has_a_bottleneck_and_no_way_around_it() -> None:
    network = EncoderDecoder(4, 3)
    inner: list[Tensor] = []
    network.decode[0].register_forward_pre_hook(lambda _, args: inner.append(args[0]))
    network(torch.rand(1, 3, SIDE, SIDE))
    assert inner[0].shape == (1, 16, 8, 8)
    assert {type(made) for made in (system("edit"), system("gan"))} == {MapEdit, Siamese}
