"""The map module of the default model: where the mask is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainer import losses
from trainer.data import Batch
from trainer.networks.realtime import MapNet
from trainer.systems.base import Figures, System
from unmask_rt.errors import UsageError


class Segmentation(System):
    """Cross-entropy and soft Dice on faces with and without a mask. Options: ``learning_rate``, ``betas``."""

    averaged = ("map",)

    def __init__(self, options: dict[str, Any], size: int) -> None:
        if size != 256:
            raise UsageError(
                f"the map module has no size {size}", "Train it at 256; a stage's own size is stage.NAME.size."
            )
        super().__init__(options, size)

    def build(self) -> dict[str, nn.Module]:
        return {"map": MapNet(self.options["widths"]) if "widths" in self.options else MapNet()}

    def prepare(self) -> None:
        self.optimizers = {"map": self.adam("map")}

    def step(self, batch: Batch, progress: float) -> Figures:
        x, _, alpha, valid = batch.floats()
        with self.autocast():
            logits = self.networks["map"](x)
        logits = logits.float()
        loss = losses.map_loss(logits, alpha, valid)
        norm = self.update("map", loss)
        found, hole = logits.detach() > 0, alpha > 0.5
        iou = (found & hole).sum() / (found | hole).sum().clamp(min=1)
        return {"loss": loss.detach(), "iou": iou, "norm": norm}

    def restore(
        self, networks: Mapping[str, nn.Module], masked: Tensor, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The picture as it is, and the map: this stage completes nothing."""
        return masked, torch.sigmoid(networks["map"](masked))
