"""What every training system is to the loop: networks, optimizers, one step, and restoring a face.

To *restore* faces a system needs its networks only: ``__init__`` makes them. To be *trained* it needs optimizers and
the frozen networks of its losses as well: `prepare` makes those, once, before the first step. Its options are the
stage's table of the preset, as read from the file.

Randomness comes from torch's global generator alone; the loop seeds it before each step with (seed, step), which is why
a resumed run draws the same numbers without anything being stored.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as distributed
from torch import Tensor, nn

from trainer import losses
from trainer.data import Batch

Figures = dict[str, Tensor | float]
"""Figures of a step by name: numbers, or detached tensors of no dimension (which the loop reads when it logs)."""


class System(ABC):
    """One stage of a preset.

    Args:
        options: the stage's table of the preset.
        size: side S of the samples in pixels.

    Attributes:
        networks: the trained parts by name ("generator", "discriminator", "map", ...).
        inherited: frozen networks of earlier stages by name, in evaluation mode; the loop fills them with that stage's
            weights before `prepare`. Those that no earlier stage has left behind are taken out of the dictionary.
        optimizers: by name; made by `prepare`.
        frozen: networks that the losses look through, neither trained nor stored; made by `prepare`.
        device: where the networks are.
    """

    averaged: ClassVar[tuple[str, ...]] = ("generator",)
    """Names of the networks with a moving average: those that restore a face."""

    needs_alpha: ClassVar[bool] = True
    """Whether a step reads the batch's alpha; folders of picture pairs have none."""

    takes_map: ClassVar[bool] = False
    """Whether `restore` cannot do without a map of the mask from elsewhere."""

    def __init__(self, options: dict[str, Any], size: int) -> None:
        self.options, self.size = options, size
        self.device = torch.device("cpu")
        self.amp = False
        self.networks = {k: _channels_last(v) for k, v in self.build().items()}
        self.inherited = {k: _channels_last(v).eval().requires_grad_(False) for k, v in self.build_inherited().items()}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.frozen: dict[str, nn.Module] = {}

    # ---- what a system says about itself

    @abstractmethod
    def build(self) -> dict[str, nn.Module]:
        """New networks by name, of random weights from torch's global generator."""

    def build_inherited(self) -> dict[str, nn.Module]:
        """Networks of earlier stages that this one uses; their weights are filled in later."""
        return {}

    @classmethod
    def fetch(cls, options: dict[str, Any]) -> None:
        """Fetches what a stage with these options looks through, where it comes over the network, and imports the
        packages that hold it: called before the first stage is trained, so that what cannot be had is known then.

        Raises:
            ModelError: there is no way to get it.
            ImportError: a package is missing.
        """
        return

    @abstractmethod
    def prepare(self) -> None:
        """Makes ``optimizers`` (and ``frozen``), once, before the first step."""

    @abstractmethod
    def step(self, batch: Batch, progress: float) -> Figures:
        """One optimisation step of every part. On a GPU it is recorded and replayed (`recorded`): its numbers never
        leave the device, and its form depends on `phase` alone.

        Args:
            batch: uint8 pictures on `device`; ``batch.floats()`` scales them.
            progress: share of the stage that is over, 0..1.
        """

    def phase(self, progress: float) -> Hashable:
        """What a step's form depends on: two steps of one phase do the same operations, on other numbers."""
        return None

    @abstractmethod
    def restore(
        self, networks: Mapping[str, nn.Module], masked: Tensor, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Completes faces. Called without gradients; it is what is exported, so torch operations only.

        Args:
            networks: the averaged and the inherited networks by name, in evaluation mode.
            masked: (B, 3, S, S) in -1..1.
            alpha: map of the mask (B, 1, S, S) in 0..1, where one is known; None: the system's own has to do.

        Returns:
            The face (B, 3, S, S) in -1..1, and the map (B, 1, S, S) in 0..1 or None for a system without a map.
        """

    # ---- what systems are built from

    def adam(self, *names: str, key: str = "learning_rate", betas: str = "betas") -> torch.optim.Optimizer:
        """Adam over some networks, with the rate and the betas (.9, .999 where there are none) of these options."""
        parameters = [p for name in names for p in self.networks[name].parameters()]
        first, second = self.options.get(betas, (0.9, 0.999))
        return torch.optim.Adam(parameters, self.options[key], (first, second), fused=True)

    def set_rates(self, rates: Mapping[str, Sequence[float]], factor: float) -> None:
        """Sets every optimizer's learning rates, by its name and parameter groups, to so much of the given ones."""
        for name, optimizer in self.optimizers.items():
            for group, rate in zip(optimizer.param_groups, rates[name], strict=True):
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate * factor)
                else:
                    group["lr"] = rate * factor

    def make_recordable(self) -> None:
        """Lets the optimizers' steps be recorded on a GPU (`recorded`): nothing in them may be a number of Python's."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["capturable"] = True
                group["lr"] = torch.tensor(float(group["lr"]), device=self.device)

    def autocast(self) -> torch.autocast:
        """Mixed precision (bfloat16) for the networks' forward passes, where it is switched on; losses take floats."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.amp)

    def update(self, name: str, loss: Tensor) -> Tensor:
        """Backward pass and step of one optimizer; gradients are averaged over processes and clipped (``clip``).

        Returns:
            The gradients' norm before clipping (0 where the stage does not clip), detached.
        """
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        average_gradients(parameters)
        norm = torch.zeros(())
        if self.options.get("clip", 0.0) > 0:
            norm = nn.utils.clip_grad_norm_(parameters, self.options["clip"]).detach()
        optimizer.step()
        return norm

    def tell_apart(self, name: str, fake: Tensor, real: Tensor) -> Tensor:
        """One step of a discriminator on what it sees of an output and of a truth: the mean of its two errors."""
        with self.autocast():
            seen = [self.networks[name](picture) for picture in (real, fake.detach())]
        loss = (losses.judged(seen[0].float(), True) + losses.judged(seen[1].float(), False)) / 2
        self.update(name, loss)
        return loss.detach()

    @contextlib.contextmanager
    def untrained(self, *names: str) -> Iterator[None]:
        """Inside, these networks get no gradients: for the generator's losses through a discriminator."""
        for name in names:
            self.networks[name].requires_grad_(False)
        try:
            yield
        finally:
            for name in names:
                self.networks[name].requires_grad_(True)

    def to(self, device: torch.device) -> None:
        """Moves every network; call it before the first step."""
        self.device = device
        for part in (*self.networks.values(), *self.inherited.values(), *self.frozen.values()):
            part.to(device)


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """The mean of the gradients over all processes of a distributed run, in one exchange; alone it does nothing."""
    if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.reshape(-1) for g in gradients])
    distributed.all_reduce(flat)
    flat /= distributed.get_world_size()
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))


def _channels_last(module: nn.Module) -> nn.Module:
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs
