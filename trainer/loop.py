"""The training loop: takes a preset through its stages, and can stop and go on anywhere.

A run folder holds

    preset.toml       the preset with all overrides
    checkpoint.pt     all state (`checkpoint`), written atomically
    log.jsonl         means of every so many steps; lines with ``validation_...`` are of fixed validation faces
    sheet.jpg         masked | map | result | truth on validation faces, of the averaged weights
    tensorboard/      the same curves, where TensorBoard is installed

Samples are numbered through all stages (`meta.seen`), and step k of a stage draws its random numbers from a stream
seeded with (seed, stage, k, process): a run that was interrupted goes on exactly as if it had not been, as long as its
length is measured in steps, pictures or epochs; by minutes the schedule follows the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from trainer import checkpoint as store
from trainer.checkpoint import Checkpoint
from trainer.data import Faces, Sample
from trainer.interrupt import Interrupt
from trainer.pairs import Pairs, is_pairs
from trainer.preset import Preset, Stage, to_toml
from trainer.processes import Place
from trainer.record import Recorder
from trainer.resident import Held, hold
from trainer.schedule import Budget, lengths
from trainer.systems import SYSTEMS
from trainer.work import StageWork
from unmask_rt.errors import UsageError


@dataclass(frozen=True, slots=True)
class Settings:
    """How a run is carried out; what it computes is the preset's business.

    Attributes:
        stages: names of the stages that are trained, in the preset's order; none: all.
        real: folder of pseudo labels for map modules.
        workers: processes that make samples.
        amp: mixed precision (bfloat16); None: on GPUs, and on CPUs with AMX.
        save_minutes, save_steps, save_epochs: a checkpoint is written whenever one of them is over; 0: never by it.
        log_steps: a line in the log every so many steps.
        pause_steps: stop after so many steps of this call, as an interrupt does; 0: do not.
        tensorboard: write TensorBoard's files too.
        resident: samples are made where the networks are (`resident`).
    """

    stages: tuple[str, ...] = ()
    real: Path | None = None
    workers: int = 1
    amp: bool | None = None
    save_minutes: float = 4.0
    save_steps: int = 0
    save_epochs: float = 0.0
    log_steps: int = 100
    pause_steps: int = 0
    tensorboard: bool = True
    resident: bool = False


def open_data(preset: Preset, stage: Stage, data: Path, split: str, real: Path | None = None) -> Dataset[Sample]:
    """The samples of a stage: a prepared set, or a folder of picture pairs. "train" is augmented, the rest in order."""
    options = dict(stage.data)
    train = split == "train"
    half = options.pop("input_half", "left")
    if is_pairs(data):
        if SYSTEMS[stage.system].needs_alpha:
            hint = "Prepare faces: unmask-train prepare FACES -o DATA."
            raise UsageError(f"{data} holds picture pairs; the system {stage.system!r} needs to know the mask", hint)
        jitter = options["jitter"]
        return Pairs(data, split, preset.seed, size=stage.size, augment=train, jitter=jitter, input_half=half)
    if not train:
        options = {"without": options.get("without", ())}
    return Faces(
        data,
        split,
        preset.seed if train else 0,
        preset.sources,
        people=preset.people,
        size=stage.size,
        augment=train,
        real=real,
        **options,
    )


class Run:
    """A run in work: where it stands, and what its stages have left behind."""

    def __init__(
        self, preset: Preset, data: Path, folder: Path, budget: Budget, settings: Settings, place: Place
    ) -> None:
        self.preset, self.data, self.folder = preset, data, folder
        self.budget, self.settings, self.place = budget, settings, place
        wanted = [preset.stage(name) for name in settings.stages] or list(preset.stages)
        self.stages = [s for s in preset.stages if s in wanted]
        train = self.open(self.stages[0], "train")
        self.faces = len(train)  # type: ignore[arg-type] # both kinds of data have a length
        self.lengths = lengths(budget, self.stages, self.faces, place.world)
        self.carried: dict[str, dict[str, Tensor]] = {}
        self.seen = self.done_steps = 0
        self.resumed: Checkpoint | None = None
        self._held: dict[tuple[bool, tuple[int, ...]], Held] = {}

    def open(self, stage: Stage, split: str) -> Dataset[Sample]:
        """The samples of a stage."""
        return open_data(self.preset, stage, self.data, split, self.settings.real)

    def held(self, faces: Faces) -> Held:
        """The faces in the device's memory; stages share them that turn heads alike and leave out the same masks."""
        kind = faces.turned > 0, tuple(faces.left_out.tolist())
        if kind not in self._held:
            self._held.clear()  # before, not after: there may be no room for both
            self._held[kind] = hold(faces, self.place.device)
        return self._held[kind]

    def begin_from(self, start: Path) -> None:
        """Takes the weights of another run, or of an exported model, to begin with."""
        if start.is_dir():
            there = store.load(start)
            self.carried, self.seen = there.weights(), int(there.meta["seen"])
        else:
            from trainer.exported import read_weights  # these need onnx and onnxruntime, which training does not
            from trainer.runs import read_model

            self.carried = read_weights(read_model(start))

    def go_on(self) -> None:
        """Takes up the run's own checkpoint."""
        self.resumed = store.load(self.folder)
        self.carried, self.seen = self.resumed.carried, int(self.resumed.meta["seen"])

    def train(self, interrupt: Interrupt, recorder: Recorder | None) -> bool:
        """Trains what is left; returns False if it was interrupted or paused before the end."""
        names = [s.name for s in self.stages]
        first = 0
        if self.resumed is not None:
            at = self.resumed.meta["stage"]
            if at not in names:
                raise UsageError(f"{self.folder} stands at the stage {at!r}, which is not among {', '.join(names)}")
            first = names.index(at)
        for stage in self.stages[first:]:  # what a later stage lacks is to be known now, not after hours
            system = SYSTEMS[stage.system]
            with torch.device("meta"):
                system(stage.options, stage.size)
            system.fetch(stage.options)
        for number in range(first, len(self.stages)):
            work = StageWork(self, number, recorder)
            if not work.train(interrupt):
                return False
            self.carried = work.state().weights()
            self.resumed = None
        return True


def train(
    preset: Preset,
    data: Path,
    folder: Path,
    budget: Budget,
    settings: Settings,
    place: Place,
    *,
    resume: bool = False,
    start: Path | None = None,
    interrupt: Interrupt | None = None,
) -> bool:
    """Trains a preset.

    Args:
        preset: what.
        data: a prepared set, or a folder of picture pairs where the systems allow it.
        folder: of the run; made where it is missing.
        budget: how long, all stages together.
        settings: how.
        place: of this process.
        resume: go on from the folder's checkpoint, if there is one.
        start: another run, an exported model or "default" whose weights are taken to begin with.
        interrupt: what asks for a checkpoint and an early end; None: nothing does.

    Returns:
        Whether it was trained to its end; False after an interrupt or a pause, with a checkpoint written.

    Raises:
        UsageError: the folder holds a run already and ``resume`` is off, or something does not fit.
        MissingError, ModelError: what is to be gone on from cannot be read.
    """
    there = store.exists(folder)
    if there and not resume:
        raise UsageError(f"{folder} holds a run already", "Go on with --resume, or choose another folder.")
    run = Run(preset, data, folder, budget, settings, place)
    if start is not None:
        run.begin_from(start)
    if there:
        run.go_on()
    recorder = None
    if place.first:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "preset.toml").write_text(to_toml(preset.raw), "utf-8")
        recorder = Recorder(folder, run.seen, settings.tensorboard)
    try:
        return run.train(interrupt or Interrupt(), recorder)
    finally:
        if recorder is not None:
            recorder.close()
