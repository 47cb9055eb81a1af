"""The default model's systems: what their steps learn from, and that they restore as the exported model does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.training_media import tiny_preset, write_set
from trainer.data import Batch, Faces, stacked
from trainer.networks.realtime import EditNet, MapNet, Unmask
from trainer.preset import Options
from trainer.runs import LoadedRun
from trainer.systems import SYSTEMS
from trainer.systems.base import System
from trainer.systems.realtime import Realtime
from unmask_rt.errors import UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


pytestmark = pytest.mark.usefixtures("quick_features")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_set(tmp_path_factory.mktemp("set") / "data")


def system(stage: str, **options: Any) -> System:
    torch.manual_seed(0)
    found = tiny_preset("realtime", **options).stage(stage)
    made = SYSTEMS[found.system](found.options, found.size)
    made.prepare()
    return made


def batch(data: Path, size: int) -> Batch:
    return stacked(Faces(data, "train", 1, {}, size=size, augment=False), [0, 1])


@pytest.mark.parametrize("stage", ["map", "inner", "outer", "finish"])
@pytest.mark.parametrize("progress", [0.0, 0.95])
def test_a_step_of_every_stage_is_finite_and_moves_the_weights(data: Path, stage: str, progress: float) -> None:
    made = system(stage)
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
    made, seen = system("map", learning_rate=1e-2), batch(data, 256)
    found = [float(made.step(seen, 0.0)["loss"]) for _ in range(12)]
    assert found[-1] < 0.8 * found[0]


def test_the_editing_module_learns_a_batch_by_heart(data: Path) -> None:
    made, seen = system("inner"), batch(data, 128)
    found = [float(made.step(seen, 0.0)["l1_hole"]) for _ in range(20)]
    assert found[-1] < 0.8 * found[0]


def test_what_weighs_nothing_is_not_computed(data: Path) -> None:
    made = system("outer")
    made.options["loss"] = made.options["loss"] | {"ssim": 0.0, "perceptual": 0.0}
    made.frozen = {}
    figures = made.step(batch(data, 256), 0.0)
    assert {"l1_hole", "l1_rest"} <= set(figures) and not {"ssim", "perceptual"} & set(figures)


def test_holes_are_now_and_then_too_wide_or_too_narrow() -> None:
    made = system("outer")
    assert isinstance(made, Realtime)
    alpha = torch.zeros(1, 1, 256, 256)
    alpha[..., 101:161, 81:181] = 1
    torch.manual_seed(0)
    areas = {float(made.hole(alpha).sum()) for _ in range(30)}
    assert len(areas) >= 3 and min(areas) < float(made.cut(alpha).sum()) < max(areas)
    assert made.cut(alpha).shape == (1, 1, 128, 128)


def test_it_restores_as_the_exported_model_does(data: Path) -> None:
    made = system("outer")
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
    made = system("inner")
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
    broken = Realtime(Options({k: v for k, v in options.items() if k != "loss"}), 128)
    broken.prepare()
    with pytest.raises(UsageError, match="loss"):
        broken.step(batch(data, 128), 0.0)
