"""What a run says while it is trained: ``log.jsonl``, lines on the terminal, TensorBoard, and a sample sheet."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from trainer.systems.base import Figures
from unmask_rt.errors import UnmaskError

SHOWN = ("stage", "step", "progress", "images_per_s", "waiting")


class Recorder:
    """Gathers the figures of steps and writes their means.

    Args:
        run: the run's folder.
        seen: pictures of the checkpoint that is gone on from; later lines of an earlier attempt are dropped.
        tensorboard: also write ``RUN/tensorboard``, where the package is installed.
    """

    def __init__(self, run: Path, seen: int, tensorboard: bool = True) -> None:
        self.path = run / "log.jsonl"
        self.board: Any = None
        if self.path.exists():
            lines = [line for line in self.path.read_text().splitlines() if _seen(line) <= seen]
            self.path.write_text("".join(f"{line}\n" for line in lines))
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter

                self.board = SummaryWriter(str(run / "tensorboard"), purge_step=seen)
            except ImportError:
                print("TensorBoard is not installed (pip install tensorboard): log.jsonl only", flush=True)
        self.start()

    def start(self) -> None:
        """Begins to gather anew; time from here on counts."""
        self.gathered: dict[str, list[Tensor | float]] = {}
        self.steps, self.waited, self.began = 0, 0.0, time.monotonic()

    def add(self, figures: Figures, waited: float) -> None:
        """The figures of one step, and the seconds it waited for its batch."""
        self.steps += 1
        self.waited += waited
        for name, value in figures.items():
            self.gathered.setdefault(name, []).append(value)

    def write(self, head: Mapping[str, Any], pictures: int, rates: Mapping[str, float]) -> None:
        """A line with the means since the last one.

        Args:
            head: stage, step, progress and seen.
            pictures: pictures of one step, all processes together.
            rates: learning rate by optimizer.

        Raises:
            UnmaskError: a figure is no finite number: the training has diverged.
        """
        if not self.steps:
            return
        seconds = max(time.monotonic() - self.began, 1e-9)
        means = {n: float(torch.stack([torch.as_tensor(v).float().cpu() for v in vs]).mean()) for n, vs in
                 self.gathered.items()}  # fmt: skip
        line: dict[str, Any] = dict(head) | {
            "images_per_s": round(self.steps * pictures / seconds, 2),
            "waiting": round(self.waited / seconds, 4),
        }
        line |= {f"rate_{name}": rate for name, rate in rates.items()}
        line |= {name: float(f"{value:.5g}") for name, value in means.items()}
        self.start()
        broken = [name for name, value in means.items() if not math.isfinite(value)]
        if broken:
            raise UnmaskError(
                f"the training has diverged at step {line['step']} of {line['stage']}: {', '.join(broken)} not finite",
                "Go on from the last checkpoint with --resume and a lower learning rate (--set), or without --amp.",
            )
        with self.path.open("a") as log:
            log.write(json.dumps(line) + "\n")
        shown = [f"{k} {line[k]:g}" if isinstance(line[k], float) else str(line[k]) for k in SHOWN if k in line]
        print("  ".join([*shown, *(f"{k} {v:.4g}" for k, v in means.items())]), flush=True)
        if self.board is not None:
            for name, value in line.items():
                if isinstance(value, int | float):
                    self.board.add_scalar(f"{line['stage']}/{name}", value, line["seen"])

    def note(self, head: Mapping[str, Any], figures: Mapping[str, float]) -> None:
        """A line of its own, for figures on validation faces."""
        line = dict(head) | {name: float(f"{value:.5g}") for name, value in figures.items()}
        with self.path.open("a") as log:
            log.write(json.dumps(line) + "\n")
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(f"{line['stage']}/{name}", value, line["seen"])

    def sheet(self, run: Path, stage: str, picture: np.ndarray) -> None:
        """Writes ``sheet.jpg`` and ``sheet-STAGE.jpg``; ``picture`` is uint8 RGB."""
        _, code = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 92])
        for name in ("sheet.jpg", f"sheet-{stage}.jpg"):
            (run / name).write_bytes(code.tobytes())

    def close(self) -> None:
        if self.board is not None:
            self.board.close()


def _seen(line: str) -> float:
    """Pictures seen at a line of the log; a line that was cut off counts as never."""
    try:
        return float(json.loads(line)["seen"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def side_by_side(*columns: Tensor) -> np.ndarray:
    """Batches of pictures (B, 1 or 3, S, S) in -1..1 side by side, one row a sample, uint8 RGB."""
    pictures = [
        ((c.detach().float().cpu().expand(-1, 3, -1, -1) + 1) * 127.5 + 0.5).clamp(0, 255).byte().permute(0, 2, 3, 1)
        for c in columns
    ]
    return np.vstack([np.hstack(list(row)) for row in zip(*(p.numpy() for p in pictures), strict=True)])
