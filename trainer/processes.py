"""One process or several: a run under ``torchrun`` splits each step's pictures among its processes.

    torchrun --nproc-per-node 2 -m trainer.cli run --preset ... --data ... -o RUN    # --run is torchrun's own

Each process takes a batch of its own from the same numbered samples, gradients are averaged before each update
(`systems.base.average_gradients`), and process 0 alone writes files. Backend: NCCL on GPUs, Gloo on CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as distributed
from torch import nn

from unmask_rt.errors import ExtraError, UsageError


@dataclass(frozen=True, slots=True)
class Place:
    """Where this process stands: its number, how many there are, and its device."""

    rank: int
    world: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, *values: float) -> list[float]:
        """What the first process says: clocks and signals must not make processes go apart."""
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.broadcast(tensor, 0)
        return [float(v) for v in tensor.tolist()]

    def same(self, module: nn.Module) -> None:
        """Gives a module the first process's weights."""
        if self.world > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                distributed.broadcast(tensor.data, 0)

    def wait(self) -> None:
        """Until all processes are here."""
        if self.world > 1:
            distributed.barrier()


def pick_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of a name: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1".

    Raises:
        UsageError: there is no such kind of device.
        ExtraError: there is no GPU that torch can use.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"there is no device {name!r}", "Use auto, cpu or cuda.") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ExtraError("torch sees no GPU here", "Use --device cpu, or install torch's CUDA build and a driver.")
        if name == "cuda":
            device = torch.device("cuda", local_rank)
    return device


@contextmanager
def joined(device: str) -> Iterator[Place]:
    """The place of this process among those that torchrun started, or the only one."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield Place(0, 1, pick_device(device))
        return
    chosen = pick_device(device, int(os.environ.get("LOCAL_RANK", "0")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    distributed.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield Place(distributed.get_rank(), world, chosen)
    finally:
        distributed.destroy_process_group()
