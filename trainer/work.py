"""One stage of a run in work: its system, averages, steps, checkpoints and figures."""

from __future__ import annotations

import copy
import random
import textwrap
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from trainer import checkpoint as store
from trainer.checkpoint import Checkpoint
from trainer.data import Batch, Faces, Sample, batches, stacked
from trainer.interrupt import Interrupt
from trainer.record import Recorder, side_by_side
from trainer.recorded import Recorded, Step
from trainer.resident import Resident
from trainer.schedule import SCHEDULES
from trainer.systems import SYSTEMS
from trainer.systems.base import System
from unmask_rt.errors import UnmaskError, UsageError

if TYPE_CHECKING:
    from trainer.loop import Run

SHEET_FACES = 12
"""Validation faces on a sheet, and of the figures beside it."""


def seed_all(*numbers: int) -> None:
    """Seeds torch, numpy and Python with a mixture of some numbers, each from 0 on."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


class StageWork:
    """One stage in work."""

    def __init__(self, run: Run, number: int, recorder: Recorder | None) -> None:
        self.run, self.recorder = run, recorder
        self.stage, self.length = run.stages[number], run.lengths[number]
        self.last = number == len(run.stages) - 1
        self.number = run.preset.stages.index(self.stage)
        self.step, self.seconds, self.done = 0, 0.0, False
        device = run.place.device
        seed_all(run.preset.seed, self.number)
        self.system: System = SYSTEMS[self.stage.system](self.stage.options, self.stage.size)
        for name in list(self.system.inherited):
            if name in run.carried:
                fill(self.system.inherited[name], run.carried[name], name)
            else:
                del self.system.inherited[name]
        resumed = run.resumed
        if resumed is not None and not resumed.optimizers:
            raise UsageError(
                f"{run.folder} holds weights alone, as mixed runs do, and cannot be gone on with",
                "Begin another run with --start from it.",
            )
        for name, network in self.system.networks.items():
            weights = resumed.networks if resumed is not None else run.carried
            if name in weights:
                fill(network, weights[name], name)
        self.system.prepare()
        self.system.to(device)
        for network in self.system.networks.values():
            run.place.same(network)
        self.average = {n: copy.deepcopy(self.system.networks[n]).requires_grad_(False) for n in self.system.averaged}
        for name, network in self.average.items():
            network.eval()
            if resumed is not None:
                fill(network, resumed.average[name], name)
        amp = run.settings.amp
        amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
        self.system.amp = (device.type == "cuda" or amx) if amp is None else amp
        self.rates = {n: [float(g["lr"]) for g in o.param_groups] for n, o in self.system.optimizers.items()}
        if resumed is not None:
            for name, optimizer in self.system.optimizers.items():
                betas = [group["betas"] for group in optimizer.param_groups]
                optimizer.load_state_dict(resumed.optimizers[name])
                for group, asked in zip(optimizer.param_groups, betas, strict=True):  # as the rates: of the preset
                    group["betas"] = asked
            self.step, self.seconds = int(resumed.meta["step"]), float(resumed.meta["seconds"])
        # Exchanges between processes are not recorded.
        if device.type == "cuda" and run.place.world == 1:
            self.system.make_recordable()
            self.make_step: Step = Recorded(self.system)
        else:
            self.make_step = self.system.step

    def state(self) -> Checkpoint:
        """Everything that going on needs."""
        meta = {
            "preset": self.run.preset.name, "stage": self.stage.name, "step": self.step, "seen": self.run.seen,
            "seconds": self.seconds, "done": self.done and self.last,
            "unit": self.run.budget.unit, "amount": self.run.budget.amount, "stages": [s.name for s in self.run.stages],
            "real": str(self.run.settings.real or ""), "amp": self.run.settings.amp,
            "resident": self.run.settings.resident,
        }  # fmt: skip
        return Checkpoint(
            self.run.preset.raw,
            meta,
            {n: m.state_dict() for n, m in self.system.networks.items()},
            {n: m.state_dict() for n, m in self.average.items()},
            {n: o.state_dict() for n, o in self.system.optimizers.items()},
            self.run.carried,
        )

    def head(self) -> dict[str, Any]:
        progress = round(self.length.progress(self.step, self.seconds), 5)
        return {"stage": self.stage.name, "step": self.step, "progress": progress, "seen": self.run.seen}

    def save(self) -> None:
        """A checkpoint, and what the averaged weights make of validation faces."""
        parameters = [p for network in self.system.networks.values() for p in network.parameters()]
        if not all(bool(p.isfinite().all()) for p in parameters):
            raise UnmaskError(
                f"the training has diverged before step {self.step} of {self.stage.name}: weights are not finite",
                "Go on from the last checkpoint with --resume and a lower learning rate (--set), or without --amp.",
            )
        if self.recorder is not None:
            store.save(self.run.folder, self.state())
            self.show(self.recorder)

    @torch.no_grad()
    def show(self, recorder: Recorder) -> None:
        fixed = self.fixed.to(self.run.place.device)
        x, truth, alpha, _ = fixed.floats()
        networks: dict[str, nn.Module] = self.average | self.system.inherited
        known = None if "map" in networks or not alpha.any() else alpha
        face, found = self.system.restore(networks, x, known)
        face = face.clamp(-1, 1)
        error = (face - truth).abs() * 127.5
        figures = {"validation_l1": float(error.mean())}
        if alpha.any():
            hole = alpha > 0.5
            figures["validation_l1_hole"] = float((error * hole).sum() / (hole.sum() * 3).clamp(min=1))
            if "map" in networks and found is not None:
                both = ((found > 0.5) & hole).sum() / ((found > 0.5) | hole).sum().clamp(min=1)
                figures["validation_iou"] = float(both)
        recorder.note(self.head(), figures)
        columns = [x, found * 2 - 1, face, truth] if found is not None else [x, face, truth]
        recorder.sheet(self.run.folder, self.stage.name, side_by_side(*columns))

    def train(self, interrupt: Interrupt) -> bool:
        """Steps until the stage is over (True) or somebody wants a pause (False); leaves a checkpoint either way."""
        run, stage, place = self.run, self.stage, self.run.place
        settings, pictures = run.settings, stage.batch * place.world
        dataset, fixed = run.open(stage, "train"), run.open(stage, "validation")
        count = len(fixed)  # type: ignore[arg-type]
        self.fixed = stacked(fixed, [i * max(1, count // SHEET_FACES) for i in range(min(SHEET_FACES, count))])
        stream = self.stream(dataset)
        for network in self.system.networks.values():
            network.train()
        if self.recorder is not None:
            self.recorder.start()
        epoch = run.faces / pictures
        save_epochs = settings.save_epochs or run.preset.checkpoint_epochs
        began, spent, saved, saved_step = time.monotonic(), self.seconds, time.monotonic(), self.step
        while True:
            now = time.monotonic()
            self.seconds = spent + now - began
            paused = interrupt.asked or 0 < settings.pause_steps <= run.done_steps
            (progress, stop, due) = place.agree(
                self.length.progress(self.step, self.seconds),
                paused,
                0 < settings.save_minutes * 60 <= now - saved
                or 0 < settings.save_steps <= self.step - saved_step
                or 0 < save_epochs * epoch <= self.step - saved_step,
            )
            self.done = progress >= 1
            if self.done or stop or due:
                if self.recorder is not None and (self.done or stop):
                    self.log(pictures)
                self.save()
                place.wait()
                saved, saved_step = time.monotonic(), self.step
                if self.recorder is not None and due:
                    self.recorder.began += saved - now
                if self.done:
                    return True
                if stop:
                    return False
                now = time.monotonic()
            batch = next(stream).to(place.device)
            waited = time.monotonic() - now
            factor = SCHEDULES[stage.schedule](progress, self.step)
            self.system.set_rates(self.rates, factor)
            seed_all(run.preset.seed, self.number, self.step, place.rank + 1)
            figures = self.make_step(batch, progress)
            self.step += 1
            run.done_steps += 1
            run.seen += pictures
            self.follow()
            if self.recorder is not None:
                self.recorder.add(figures, waited)
                if self.step % settings.log_steps == 0:
                    self.log(pictures)

    def stream(self, dataset: Dataset[Sample]) -> Iterator[Batch]:
        """Batches without end, made on the processor or where the networks are."""
        run, place = self.run, self.run.place
        if run.settings.resident:
            if not isinstance(dataset, Faces):
                raise UsageError("picture pairs are made on the processor", "Train without --resident.")
            return self.seeded(Resident(run.held(dataset), dataset, self.stage.batch))
        return batches(
            dataset, self.stage.batch, run.seen, run.settings.workers,
            rank=place.rank, world=place.world, pinned=place.device.type == "cuda",
        )  # fmt: skip

    def seeded(self, resident: Resident) -> Iterator[Batch]:
        """Its batches, each from random numbers of its own: as with steps, a resumed run draws the same."""
        stream = iter(resident)
        while True:
            seed_all(self.run.preset.seed, self.number, self.step, self.run.place.rank + 1, 1)
            yield next(stream)

    def log(self, pictures: int) -> None:
        assert self.recorder is not None
        rates = {name: float(o.param_groups[0]["lr"]) for name, o in self.system.optimizers.items()}
        self.recorder.write(self.head(), pictures, rates)

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the averages towards the networks; buffers are taken over."""
        decay = min(self.stage.ema, self.step / (self.step + 10))
        for name, average in self.average.items():
            network = self.system.networks[name]
            torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - decay)
            for mine, theirs in zip(average.buffers(), network.buffers(), strict=True):
                mine.copy_(theirs)


def fill(network: nn.Module, weights: dict[str, Tensor], name: str) -> None:
    """Loads weights into a network.

    Raises:
        UsageError: they belong to a network of another shape.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if len(str(error).splitlines()) > 1 else str(error)
        raise UsageError(
            f"the stored weights of {name!r} do not fit: {textwrap.shorten(first, 160, placeholder=' ...')}",
            "Use the preset and the --set options that they were trained with (the tool's own model: realtime).",
        ) from error
