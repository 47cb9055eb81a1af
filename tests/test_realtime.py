"""The default model's systems: what their steps learn from, and that they restore as the exported model does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.training_media import tiny_preset, tiny_system, write_set
from trainer.data import Batch, Faces, stacked
from trainer.networks.realtime import EditNet, MapNet, Unmask, complete
from trainer.preset import Options
from trainer.runs import LoadedRun
from trainer.systems import realtime as module
from trainer.systems.base import System
from trainer.systems.realtime import Realtime
from unmask_rt.errors import UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


pytestmark = pytest.mark.usefixtures("quick_features")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "data")


def realtime(stage: str) -> Realtime:
    made = tiny_system(stage)
    assert isinstance(made, Realtime)
    return made


def batch(data: Path, size: int) -> Batch:
    return stacked(Faces(data, "train", 1, {}, size=size, augment=False), [0, 1])


@pytest.mark.parametrize("stage", ["map", "inner", "outer"])
@pytest.mark.parametrize("progress", [0.0, 0.95])
def test_a_step_of_every_stage_is_finite_and_moves_the_weights(data: Path, stage: str, progress: float) -> None:
    made = tiny_system(stage)
    (name,) = made.averaged
    before = {k: v.clone() for k, v in made.networks[name].state_dict().items()}
    figures = made.step(batch(data, made.size), progress)
    assert figures and all(np.isfinite(float(v)) for v in figures.values()), figures
    after = made.networks[name].state_dict()
    moved = [k for k in before if not torch.equal(before[k], after[k])]
    inner_only = [k for k in moved if not k.startswith("inner.")]
    assert moved and (stage != "inner" or not inner_only)
    assert all(torch.isfinite(v).all() for v in after.values())
    if stage != "map":
        assert ("adversarial" in figures) == ("critic" in figures) == (progress >= made.options["gan_from"])


def test_the_map_learns_a_batch_by_heart(data: Path) -> None:
    made, seen = tiny_system("map", learning_rate=1e-2), batch(data, 256)
    found = [float(made.step(seen, 0.0)["loss"]) for _ in range(12)]
    assert found[-1] < 0.8 * found[0]


def test_the_editing_module_learns_a_batch_by_heart(data: Path) -> None:
    made, seen = tiny_system("inner"), batch(data, 128)
    found = [float(made.step(seen, 0.0)["l1_hole"]) for _ in range(20)]
    assert found[-1] < 0.8 * found[0]


def test_what_weighs_nothing_is_not_computed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny_system("outer")
    made.options["loss"] = made.options["loss"] | {"ssim": 0.0, "perceptual": 0.0, "face": 0.0, "stability": 0.0}
    made.frozen = {}

    def asked(*given: Any) -> Any:
        raise AssertionError("a loss that weighs nothing was computed")

    monkeypatch.setattr(made, "unsteadiness", asked)
    figures = made.step(batch(data, 256), 0.0)
    assert {"l1_hole", "l1_rest"} <= set(figures) and not {"ssim", "perceptual", "face", "stability"} & set(figures)


def test_the_face_loss_looks_at_the_whole_crop_and_is_fetched_where_it_counts(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    class Seeing(nn.Module):
        def forward(self, output: Tensor, truth: Tensor) -> Tensor:
            seen.extend([tuple(output.shape), tuple(truth.shape)])
            return (output - truth).square().mean()

    asked: list[str] = []

    def perceptual(backbone: str) -> nn.Module:
        asked.append(backbone)
        return Seeing() if backbone == "faceres" else nn.Identity()

    monkeypatch.setattr(module.losses, "Perceptual", perceptual)
    for weight, backbones in ((0.0, ["none"]), (1.0, ["none", "faceres"])):
        asked.clear()
        options = tiny_preset("realtime").stage("inner").options
        loss = options["loss"] | {"perceptual": 0.0, "face": weight}
        made = Realtime(Options(options | {"backbone": "none", "loss": loss, "gan_from": 2}, "stage.inner"), 128)
        made.prepare()
        figures = made.step(batch(data, 128), 0.0)
        assert asked == backbones and ("face" in figures) == bool(weight)
    assert seen == [(len(batch(data, 128).masked), 3, 128, 128)] * 2 and figures["face"] > 0


# ---- holes


def rectangle(size: int, count: int = 1) -> Tensor:
    """Alpha of a rectangular mask, (count, 1, size, size)."""
    alpha, s = torch.zeros(count, 1, size, size), size // 32
    alpha[..., 13 * s + 1 : 20 * s, 10 * s : 22 * s] = 1
    return alpha


@pytest.mark.parametrize("stage", ["inner", "outer"])
def test_each_hole_is_by_itself_too_wide_or_too_narrow(stage: str) -> None:
    made = realtime(stage)
    alpha = rectangle(made.size)
    ways = [-F.max_pool2d(-alpha, 3, 1, 1), alpha, F.max_pool2d(alpha, 3, 1, 1), F.max_pool2d(alpha, 5, 1, 2)]
    allowed = [made.cut(way)[0] for way in ways]
    assert len({float(hole.sum()) for hole in allowed}) == 4 and allowed[0].shape == (1, 128, 128)
    torch.manual_seed(0)
    holes = made.hole(alpha.expand(64, -1, -1, -1))
    found = [[bool(torch.equal(hole, way)) for way in allowed] for hole in holes]
    assert all(any(same) for same in found), "between one pixel narrower and two wider"
    assert np.array(found).sum(0).min() >= 4, "and each of these in every batch"


# ---- what is drawn stays where it is


class Standin(nn.Module):
    """An inner network of arithmetic: says of cut pictures and holes what is drawn."""

    def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.draw = draw

    def inner(self, x: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        return self.draw(torch.cat([x, hole], 1)), x


def blurred(x: Tensor) -> Tensor:
    """What lies around a place, 41 x 41 pixels of it: the same wherever the face stands."""
    return F.avg_pool2d(x[:, :3], 41, 1, 20)


def unsteadiness(made: Realtime, draw: Callable[[Tensor], Tensor], count: int = 4) -> list[float]:
    """Of random pictures with a hole, by a network that draws so."""
    edit = cast(EditNet, Standin(draw))
    torch.manual_seed(1)
    x, alpha, found = F.avg_pool2d(torch.rand(count, 3, 130, 130) * 2 - 1, 3, 1), rectangle(128, count), []
    for _ in range(6):
        raw, _, wide = complete(edit, x, made.hole(alpha))
        found.append(float(made.unsteadiness(edit, x, alpha, raw, wide)))
    return found


def test_who_draws_the_same_wherever_the_face_stands_is_steady(monkeypatch: pytest.MonkeyPatch) -> None:
    made = realtime("inner")
    monkeypatch.setattr(module, "NOISE", 0.0)
    every = [unsteadiness(made, lambda x: torch.sin(x[:, :3] * 7 + x[:, 3:] * 2))]
    monkeypatch.setattr(made, "hole", made.cut)  # of one edge: else what is around a hole differs
    every += [unsteadiness(made, draw) for draw in (blurred, lambda x: F.avg_pool2d(x[:, :3], 9, 1, 4))]
    assert max(map(max, every)) < 1e-6
    monkeypatch.setattr(module, "NOISE", 0.2)
    assert min(unsteadiness(made, blurred)) > 1e-4, "noise alone is seen, too"


def test_who_draws_by_place_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    made = realtime("inner")
    monkeypatch.setattr(module, "NOISE", 0.0)
    ramp = torch.linspace(0, 1, 128)
    found = unsteadiness(made, lambda x: ramp.expand_as(x[:, :3]))
    steps = np.array(found) * 127  # whole pixels that it was shifted by
    assert np.allclose(steps, steps.round(), atol=1e-3) and 1 <= steps.max().round() <= module.SHIFT
    assert len(set(steps.round())) > 1, "not always by as much"


def test_a_steady_network_is_what_the_loss_pulls_to(data: Path) -> None:
    only = dict.fromkeys(("l1_hole", "l1_rest", "ssim", "perceptual", "face", "adversarial", "matching"), 0.0)
    made, seen = realtime("outer"), batch(data, 256)
    made.options["loss"] = only | {"stability": 10.0}
    torch.manual_seed(0)
    found = [float(made.step(seen, 0.0)["stability"]) for _ in range(16)]
    assert np.mean(found[-4:]) < 0.5 * np.mean(found[:4])


# ---- discriminators


def parameters_of(made: System) -> dict[str, list[Tensor]]:
    return {n: [p.detach().clone() for p in network.parameters()] for n, network in made.networks.items()}


@pytest.mark.parametrize("stage", ["inner", "outer"])
def test_both_discriminators_learn_from_where_the_adversarial_half_begins(data: Path, stage: str) -> None:
    made = realtime(stage)
    begin = float(made.options["gan_from"])
    both = {"discriminator", "whole"}
    for first, progress, moved in (
        (0.0, begin - 0.01, {"generator"}),
        (0.0, begin, {"generator"} | both),
        (0.2, 0.19, both),
        (0.2, max(0.2, begin), {"generator"} | both),
    ):
        made.options["critics_first"] = first
        before = parameters_of(made)
        made.step(batch(data, made.size), progress)
        after = parameters_of(made)
        changed = {n for n in before if any(not torch.equal(a, b) for a, b in zip(before[n], after[n], strict=True))}
        assert changed == moved
    assert all(p.requires_grad for n in ("discriminator", "whole") for p in made.networks[n].parameters())


@pytest.mark.parametrize("stage", ["inner", "outer"])
def test_one_discriminator_sees_the_lower_face_and_one_the_whole_at_half_the_side(data: Path, stage: str) -> None:
    made = realtime(stage)
    shown: dict[str, list[torch.Size]] = {}
    for name in ("discriminator", "whole"):
        made.networks[name].register_forward_hook(
            lambda network, given, found, name=name: shown.setdefault(name, []).append(given[0].shape)
        )
    made.step(batch(data, made.size), 1.0)
    side = made.size * 5 // 8
    assert shown["discriminator"] == [(4, 4, side, side), (2, 4, side, side), (2, 4, side, side)], "both, fake, real"
    assert shown["whole"] == [(4, 4, 128, 128), (2, 4, 128, 128), (2, 4, 128, 128)]


# ---- restoring


def test_it_restores_as_the_exported_model_does(data: Path) -> None:
    made = tiny_system("outer")
    map_net, edit_net = MapNet((4, 4, 6, 8)).eval(), made.networks["generator"].eval()
    assert isinstance(edit_net, EditNet)
    torch.manual_seed(2)
    for parameter in [*map_net.parameters(), *edit_net.parameters()]:
        parameter.data.add_(torch.randn_like(parameter) * 0.02)
    run = LoadedRun.__new__(LoadedRun)
    nn.Module.__init__(run)
    run.system, run.size, run.networks = made, 256, nn.ModuleDict({"map": map_net, "generator": edit_net})
    crop = batch(data, 256).masked.permute(0, 2, 3, 1)
    with torch.no_grad():
        wanted, own = Unmask(map_net, edit_net)(crop), run(crop)
    assert all(torch.equal(a, b) for a, b in zip(wanted, own, strict=True)) and wanted[1].float().std() > 0


def test_at_half_the_side_the_map_still_sees_the_whole(data: Path) -> None:
    made = tiny_system("inner")
    networks: dict[str, nn.Module] = {"generator": made.networks["generator"].eval(), "map": MapNet().eval()}
    x, _, alpha, _ = batch(data, 128).floats()
    with torch.no_grad():
        face, found = made.restore(networks, x, None)
        given, same = made.restore(networks, x, alpha)
    assert face.shape == x.shape and found is not None and found.shape == alpha.shape and same is alpha
    assert torch.equal(given[..., :40, :], x[..., :40, :])  # nothing but the hole changes


def test_what_cannot_be_is_refused(data: Path) -> None:
    options = tiny_preset("realtime").stage("inner").options
    with pytest.raises(UsageError, match="no size 64"):
        Realtime(options, 64)
    made = Realtime(options, 128)
    x = batch(data, 128).floats()[0]
    with pytest.raises(UsageError, match="--map"):
        made.restore({"generator": made.networks["generator"]}, x, None)
    broken = Realtime(Options({k: v for k, v in options.items() if k != "loss"}, "stage.inner"), 128)
    with pytest.raises(UsageError, match="loss"):
        broken.prepare()
