"""A system's step recorded once and replayed: a CUDA graph for each phase of the training.

A step of these small networks is some thousand short kernels, and starting them one by one takes a processor longer
than a GPU needs to compute them. Recording follows PyTorch's notes on CUDA graphs, "Whole-network capture".
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, fields
from typing import Any

import torch

from trainer.data import Batch
from trainer.systems.base import Figures, System

WARM_STEPS = 4
"""Steps of each phase that are made as they are before one is recorded: libraries choose and allocate in them."""

Step = Callable[[Batch, float], Figures]


@dataclass(slots=True)
class Recording:
    """One phase.

    Attributes:
        steps: made so far.
        graph: the recorded step.
        batch: what it reads.
        figures: what it writes.
    """

    steps: int = 0
    graph: Any = None
    batch: Batch | None = None
    figures: Figures | None = None


class Recorded:
    """`System.step` on a GPU, replayed where its phase has been recorded; figures are copies, as those of a step are.

    The system has to be made recordable (`System.make_recordable`), and batches are all of one shape.
    """

    def __init__(self, system: System) -> None:
        self.system = system
        self.phases: dict[Hashable, Recording] = {}
        self.stream = torch.cuda.Stream()

    def __call__(self, batch: Batch, progress: float) -> Figures:
        phase = self.phases.setdefault(self.system.phase(progress), Recording())
        phase.steps += 1
        if phase.steps <= WARM_STEPS:
            return self._apart(lambda: self.system.step(batch, progress))
        if phase.graph is None:
            phase.batch = Batch(*(getattr(batch, field.name).clone() for field in fields(Batch)))
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local"):
                phase.figures = self.system.step(phase.batch, progress)
            phase.graph = graph
        assert phase.batch is not None and phase.figures is not None
        for field in fields(Batch):
            getattr(phase.batch, field.name).copy_(getattr(batch, field.name), non_blocking=True)
        phase.graph.replay()
        return {name: value.clone() if isinstance(value, torch.Tensor) else value
                for name, value in phase.figures.items()}  # fmt: skip

    def _apart(self, step: Callable[[], Figures]) -> Figures:
        """Runs on the stream that records: what is allocated there is reused by the recording."""
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            figures = step()
        torch.cuda.current_stream().wait_stream(self.stream)
        return figures
