"""Steps recorded once and replayed: with a stand-in for CUDA's graphs, and on a GPU where there is one."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training_media import tiny_preset, tiny_system, write_set
from trainer import checkpoint
from trainer.data import Batch, Faces, stacked
from trainer.loop import Settings, train
from trainer.processes import Place
from trainer.recorded import WARM_STEPS, Recorded
from trainer.schedule import Budget
from trainer.systems.base import Figures, System
from trainer.systems.realtime import Realtime
from trainer.work import seed_all
from unmask_rt.errors import UsageError

torch.set_num_threads(1)  # threads that wait for each other are slow on a busy machine


class Telling(System):
    """A system whose figures say what batch they are of; remembers where its steps were made."""

    def build(self) -> dict[str, nn.Module]:
        return {"generator": nn.Linear(2, 2)}

    def prepare(self) -> None:
        self.optimizers = {"generator": self.adam("generator")}
        self.made: list[float] = []
        self.where: list[Any] = []
        self.last: tuple[Batch, Figures] | None = None

    def phase(self, progress: float) -> bool:
        return progress >= 0.5

    def figures(self, batch: Batch) -> Figures:
        planes = (batch.masked, batch.truth, batch.alpha, batch.valid)
        return {"loss": torch.stack([p.float().mean() for p in planes]).sum(), "rate": 0.25}

    def step(self, batch: Batch, progress: float) -> Figures:
        self.made.append(progress)
        self.where.append(Stream.current)
        self.last = batch, self.figures(batch)
        return self.last[1]

    def restore(self, networks: Any, masked: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor | None]:
        raise UsageError("nothing is restored here")


class Stream:
    """Does at once what is put into it; says who waited for whom."""

    current: Any = None
    waits: list[tuple[Any, Any]]

    def wait_stream(self, other: Any) -> None:
        Stream.waits.append((self, other))


class Graph:
    """Replays a step on the batch that it was recorded with, into the figures that it gave."""

    def __init__(self) -> None:
        self.replays = 0
        self.work: Any = None

    def replay(self) -> None:
        self.replays += 1
        system, batch, figures = self.work
        for name, value in system.figures(batch).items():
            if isinstance(value, Tensor):
                figures[name].copy_(value)


@pytest.fixture
def telling() -> Telling:
    made = Telling({"learning_rate": 1e-3}, 64)
    made.prepare()
    return made


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, telling: Telling) -> list[Graph]:
    """torch.cuda with streams and graphs that are this processor's; the graphs that were recorded."""
    found: list[Graph] = []
    default = Stream()

    @contextlib.contextmanager
    def within(stream: Stream) -> Iterator[None]:
        Stream.current, before = stream, Stream.current
        yield
        Stream.current = before

    @contextlib.contextmanager
    def recording(graph: Graph, stream: Stream, capture_error_mode: str) -> Iterator[None]:
        with within(stream):
            yield
        assert telling.last is not None
        graph.work = telling, *telling.last
        loss = telling.last[1]["loss"]
        assert isinstance(loss, Tensor)
        loss.fill_(float("nan"))  # while it is recorded, nothing is computed
        found.append(graph)

    for name, value in {
        "Stream": Stream, "CUDAGraph": Graph, "graph": recording, "stream": within, "synchronize": lambda: None,
        "current_stream": lambda: Stream.current,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    Stream.current, Stream.waits = default, []
    return found


def batch(number: int) -> Batch:
    """Small pictures of random numbers."""
    pixels = torch.randint(0, 256, (2, 8, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
    masked, truth, alpha, valid = pixels.split((3, 3, 1, 1), 1)
    return Batch(masked, truth, alpha, valid)


def test_a_step_is_recorded_once_and_replayed(telling: Telling, graphs: list[Graph]) -> None:
    step = Recorded(telling)
    for number in range(WARM_STEPS):
        assert step(batch(number), 0.1) == telling.figures(batch(number))
    assert len(telling.made) == WARM_STEPS and not graphs, "plain steps come first"
    given = [batch(number) for number in range(WARM_STEPS + 4)]
    for number in range(WARM_STEPS, WARM_STEPS + 4):
        assert step(given[number], 0.2) == telling.figures(batch(number)), "of this very batch"
        assert len(telling.made) == WARM_STEPS + 1 and len(graphs) == 1
        assert graphs[0].replays == number - WARM_STEPS + 1
    assert all(torch.equal(one.masked, batch(number).masked) for number, one in enumerate(given)), "theirs stays theirs"


def test_each_phase_has_a_recording_of_its_own(telling: Telling, graphs: list[Graph]) -> None:
    step = Recorded(telling)
    for number in range(WARM_STEPS + 1):
        step(batch(number), 0.4)
    assert len(graphs) == 1
    for number in range(WARM_STEPS + 2):
        assert step(batch(number), 0.6) == telling.figures(batch(number))
    assert telling.made == [0.4] * (WARM_STEPS + 1) + [0.6] * (WARM_STEPS + 1), "another phase warms up anew"
    assert [graph.replays for graph in graphs] == [1, 2]
    assert step(batch(9), 0.3) == telling.figures(batch(9))
    assert [graph.replays for graph in graphs] == [2, 2] and len(telling.made) == 2 * WARM_STEPS + 2


def test_figures_are_the_callers_own(telling: Telling, graphs: list[Graph]) -> None:
    step = Recorded(telling)
    kept = [step(batch(number), 0.0) for number in range(WARM_STEPS + 3)]
    assert kept == [telling.figures(batch(number)) for number in range(WARM_STEPS + 3)]
    assert len({float(figures["loss"]) for figures in kept}) == len(kept)


def test_plain_steps_run_where_it_will_be_recorded(telling: Telling, graphs: list[Graph]) -> None:
    step, default = Recorded(telling), Stream.current
    for number in range(WARM_STEPS + 2):
        step(batch(number), 0.0)
    assert telling.where == [step.stream] * (WARM_STEPS + 1) and Stream.current is default
    assert Stream.waits == [(step.stream, default), (default, step.stream)] * WARM_STEPS


# ---- learning rates


def samples(folder: Path, size: int) -> Batch:
    return stacked(Faces(write_set(folder / "data"), "train", 1, {}, size=size, augment=False), [0, 1])


def rates_of(made: System) -> dict[str, list[float]]:
    return {name: [float(g["lr"]) for g in o.param_groups] for name, o in made.optimizers.items()}


@pytest.mark.usefixtures("quick_features")
def test_rates_are_set_as_a_share_of_the_stages(tmp_path: Path) -> None:
    plain, recordable = tiny_system("inner"), tiny_system("inner")
    rates = rates_of(plain)
    assert rates == {"generator": [5e-4], "discriminators": [2e-4]}
    recordable.make_recordable()
    groups = [group for o in recordable.optimizers.values() for group in o.param_groups]
    tensors = [group["lr"] for group in groups]
    assert all(isinstance(t, Tensor) and t.shape == () and t.device == recordable.device for t in tensors)
    assert all(group["capturable"] for group in groups)
    assert [float(t) for t in tensors] == pytest.approx([5e-4, 2e-4])
    for factor in (0.5, 0.1):
        for made in (plain, recordable):
            made.set_rates(rates, factor)
        assert rates_of(plain) == {"generator": [5e-4 * factor], "discriminators": [2e-4 * factor]}
        assert [float(t) for t in tensors] == pytest.approx([5e-4 * factor, 2e-4 * factor])
    assert all(group["lr"] is t for group, t in zip(groups, tensors, strict=True)), "filled, not replaced"
    numbers = [group for o in plain.optimizers.values() for group in o.param_groups]
    assert all(type(group["lr"]) is float and not group["capturable"] for group in numbers)
    seen = samples(tmp_path, 128)
    for made in (plain, recordable):
        torch.manual_seed(1)
        made.step(seen, 1.0)
    for name, network in plain.networks.items():
        for one, other in zip(network.parameters(), recordable.networks[name].parameters(), strict=True):
            assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.usefixtures("quick_features")
def test_what_was_recorded_goes_on_where_nothing_is(tmp_path: Path) -> None:
    """A checkpoint of a GPU holds rates as tensors; a processor takes it up, and the other way round."""
    seen, made = samples(tmp_path, 128), tiny_system("inner")
    made.make_recordable()
    made.step(seen, 1.0)
    torch.save({name: o.state_dict() for name, o in made.optimizers.items()}, tmp_path / "o.pt")
    stored = torch.load(tmp_path / "o.pt", weights_only=True)
    for again in (False, True):
        taken = tiny_system("inner")
        rates = rates_of(taken)
        for name, optimizer in taken.optimizers.items():
            optimizer.load_state_dict(stored[name])
        if again:
            taken.make_recordable()
        taken.set_rates(rates, 0.5)
        before = copy.deepcopy(taken.networks["generator"].state_dict())
        figures = taken.step(seen, 1.0)
        assert all(torch.isfinite(torch.as_tensor(v)) for v in figures.values())
        assert any(not torch.equal(v, before[k]) for k, v in taken.networks["generator"].state_dict().items())
        assert rates_of(taken)["generator"] == pytest.approx([2.5e-4])


def test_on_a_processor_steps_are_not_recorded(tmp_path: Path) -> None:
    data, settings = write_set(tmp_path / "data"), Settings(("map",), workers=0, tensorboard=False)
    place = Place(0, 1, torch.device("cpu"))
    assert train(tiny_preset("realtime"), data, tmp_path / "r", Budget("steps", 2), settings, place)
    (group,) = checkpoint.load(tmp_path / "r").optimizers["map"]["param_groups"]
    assert type(group["lr"]) is float and not group["capturable"]


@pytest.mark.gpu
@pytest.mark.usefixtures("quick_features")
@pytest.mark.parametrize("stage", ["map", "outer"])
def test_on_a_real_gpu_a_recorded_step_is_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU that torch can use")
    monkeypatch.setattr(Realtime, "hole", Realtime.cut)  # nothing at random: what is compared is the steps
    device = torch.device("cuda", torch.cuda.current_device())
    rate = {"learning_rate": 1e-4, "discriminator_learning_rate": 1e-4}
    start, plain, recorded = (tiny_system(stage, **rate) for _ in range(3))
    if stage == "outer":
        for made in (plain, recorded):
            made.options["loss"] = made.options["loss"] | {"stability": 0.0}
    start.to(device)
    for made in (plain, recorded):
        made.to(device)
        made.make_recordable()
    step, rates = Recorded(recorded), rates_of(plain)
    faces = Faces(write_set(tmp_path / "data"), "train", 1, {}, size=256)
    seen = [stacked(faces, pair).to(device) for pair in ([0, 1], [2, 3])]
    for number in range(4 * WARM_STEPS):
        progress = 0.0 if number < 2 * WARM_STEPS else 0.9
        found = []
        for made, work in ((plain, plain.step), (recorded, step)):
            made.set_rates(rates, 1 - number / 40)
            seed_all(1, number)
            found.append({name: float(value) for name, value in work(seen[number % 2], progress).items()})
        assert found[0] == pytest.approx(found[1], rel=0.05, abs=0.02), number
    assert [phase.graph is not None for phase in step.phases.values()] == [True] * (2 if stage == "outer" else 1)
    for name, network in plain.networks.items():
        moved, away = (sum(float((a - b).detach().abs().sum()) for a, b in
                           zip(network.parameters(), other.networks[name].parameters(), strict=True))
                       for other in (start, recorded))  # fmt: skip
        assert away < 0.3 * moved, name
