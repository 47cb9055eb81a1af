"""Trains a preset: all its stages in order, or some of them.

    unmask-train run --preset realtime --data data --run runs/mine --minutes 120
    unmask-train run --preset pix2pix --data data --run runs/p --pictures 60000 --set size=128
    unmask-train run --preset realtime --data data --run runs/mine --resume

Ctrl-C writes a checkpoint and leaves with exit code 130; --resume goes on as if nothing had happened.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from trainer import checkpoint, preset
from trainer.interrupt import Interrupt
from trainer.loop import Settings, train
from trainer.processes import joined
from trainer.schedule import UNITS, Budget
from unmask_rt.errors import INTERRUPTED, MissingError, UsageError

AMP = {"auto": None, "on": True, "off": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unmask-train run``."""
    add = parser.add_argument
    known = ", ".join(preset.known())
    add("--preset", help=f"name or .toml file; there are: {known} (with --resume: that of the run, as it was begun)")
    add(
        "--data", type=Path, required=True, help="a prepared set, or (pix2pix) a folder with train/*.jpg and test/*.jpg"
    )
    add("-o", "--run", type=Path, required=True, help="folder of the run")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=float, help="so many steps, all stages together")
    length.add_argument("--pictures", type=float, help="so many pictures")
    length.add_argument("--epochs", type=float, help="so many times the number of prepared faces")
    length.add_argument("--minutes", type=float, help="so long; the schedule follows the clock")
    add("--resume", action="store_true", help="go on from the run's checkpoint, if there is one")
    add(
        "--start",
        type=Path,
        metavar="RUN",
        help="begin with the weights of another run, of an exported .onnx file, or of the tool's own model (`default`)",
    )
    add("--stage", action="append", default=[], metavar="NAME", help="train this stage only; may be repeated")
    add(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override the preset: size=128, stage.NAME.KEY=V",
    )
    add("--real", type=Path, help="folder of pseudo labels (trainer.pseudo), for the map module")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 (under torchrun each process takes its own)")
    add("--amp", choices=tuple(AMP), help="bfloat16; auto (default): on GPUs and CPUs with AMX")
    add("--threads", type=int, help="torch's threads (default: as many as cores)")
    add("--workers", type=int, help="processes that make samples (default: one for two cores, at most 8)")
    add(
        "--resident",
        action=argparse.BooleanOptionalAction,
        help="make the samples in the GPU's memory, of faces kept there",
    )
    add(
        "--save-minutes", type=float, default=4.0, help="a checkpoint every so many minutes (default 4; 0: not by time)"
    )
    add("--save-steps", type=int, default=0, help="a checkpoint every so many steps")
    add("--save-epochs", type=float, default=0.0, help="a checkpoint every so many epochs")
    add("--log-steps", type=int, default=100, help="a line in the log every so many steps (default 100)")
    add(
        "--pause-steps", type=int, default=0, help="stop after so many steps of this call, to go on later with --resume"
    )
    add("--no-tensorboard", action="store_true", help="log.jsonl only")


def budget_of(args: argparse.Namespace, chosen: preset.Preset, stored: dict[str, object] | None) -> Budget:
    """How long: what the command line says, else what the run was begun with, else the preset's epochs."""
    for unit in UNITS:
        amount = getattr(args, unit)
        if amount is not None:
            return Budget(unit, amount)
    if stored is not None:
        return Budget(str(stored["unit"]), float(str(stored["amount"])))
    return Budget("epochs", chosen.epochs)


def main(args: argparse.Namespace) -> int:
    """Trains; returns 0 after the end or a pause, 130 after an interrupt.

    Raises:
        UnmaskError: see `loop.train`.
    """
    if args.threads:
        torch.set_num_threads(args.threads)
    there = checkpoint.load(args.run) if checkpoint.exists(args.run) else None
    chosen = None if args.preset is None else preset.load(args.preset, args.set)
    resume = args.resume or (chosen is not None and chosen.auto_resume)
    if there is not None and resume:  # what the run was begun with, its own overrides included
        begun_as = str(there.meta["preset"])
        if chosen is not None and chosen.name != begun_as:
            raise UsageError(
                f"{args.run} was begun with the preset {begun_as}, not {chosen.name}",
                "Go on without --preset, or begin another run with --start from this one.",
            )
        chosen = preset.check(begun_as, preset.overridden(there.preset, args.set))
    if chosen is None:
        raise UsageError("which preset?", f"Give one with --preset: {', '.join(preset.known())}, or a .toml file.")
    stored = there.meta if there is not None and resume else None
    del there
    begun = stored or {}
    real = args.real or begun.get("real")
    if real and not (Path(real) / "crops.npy").is_file():
        raise MissingError(f"{real} holds no pseudo labels", "Make them: python -m trainer.pseudo PICTURES -o DIR.")
    settings = Settings(
        stages=tuple(args.stage or begun.get("stages", ())),
        real=Path(real) if real else None,
        workers=min(8, max(1, (os.cpu_count() or 2) // 2)) if args.workers is None else args.workers,
        amp=AMP[args.amp] if args.amp else begun.get("amp"),
        save_minutes=args.save_minutes,
        save_steps=args.save_steps,
        save_epochs=args.save_epochs,
        log_steps=max(1, args.log_steps),
        pause_steps=args.pause_steps,
        tensorboard=not args.no_tensorboard,
        resident=bool(begun.get("resident", False)) if args.resident is None else args.resident,
    )
    with joined(args.device) as place, Interrupt().listening() as interrupt:
        finished = train(
            chosen, args.data, args.run, budget_of(args, chosen, stored), settings, place,
            resume=resume, start=None if stored is not None else args.start, interrupt=interrupt,
        )  # fmt: skip
    if not finished and (interrupt.asked or not args.pause_steps):
        print(f"interrupted; go on with --data {args.data} --run {args.run} --resume", flush=True)
        return INTERRUPTED
    return 0
