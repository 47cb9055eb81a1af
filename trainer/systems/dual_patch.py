"""Dual patch: a U-Net that sees picture and map, judged by one PatchGAN on the whole and one on the mask's region.

U-Net and PatchGAN are those of pix2pix (P. Isola et al., CVPR 2017) with BatchNorm, LeakyReLU down, ReLU and transposed
convolutions up. Loss: 100 (L1 + SSIM) + 1 perceptual + 1 + 1 adversarial, cross-entropy with logits. The region is the
picture with everything but the mask's place blacked out; both discriminators see the picture alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import losses
from trainer.data import Batch
from trainer.networks.discriminators import PatchDiscriminator
from trainer.networks.unet import UNet, depth_for
from trainer.systems.base import Figures, System
from unmask_rt.errors import UsageError


class DualPatch(System):
    """Options: ``width``, ``discriminator_width``; ``learning_rate``, ``betas``; ``backbone``; ``loss`` with l1, ssim,
    perceptual, whole and region.
    """

    takes_map = True

    def build(self) -> dict[str, nn.Module]:
        width = self.options["discriminator_width"]
        return {
            "generator": UNet(4, 3, self.options["width"], depth_for(self.size)),
            "whole": PatchDiscriminator(3, width),
            "region": PatchDiscriminator(3, width),
        }

    @classmethod
    def fetch(cls, options: dict[str, Any]) -> None:
        losses.require(options["backbone"])

    def prepare(self) -> None:
        self.optimizers = {name: self.adam(name) for name in ("generator", "whole", "region")}
        self.frozen = {"perceptual": losses.Perceptual(self.options["backbone"])}

    def step(self, batch: Batch, progress: float) -> Figures:
        weights = self.options["loss"]
        x, truth, alpha, _ = batch.floats()
        with self.autocast():
            face = self.networks["generator"](torch.cat([x, alpha], 1)).float()
        pairs = {"whole": (face, truth), "region": (black_out(face, alpha), black_out(truth, alpha))}
        figures: Figures = {f"critic_{name}": self.tell_apart(name, *pair) for name, pair in pairs.items()}
        terms = {"l1": F.l1_loss(face, truth), "ssim": losses.gaussian_ssim(face, truth)}
        with self.untrained(*pairs), self.autocast():
            terms["perceptual"] = self.frozen["perceptual"](face, truth).float()
            for name, (fake, _) in pairs.items():
                terms[name] = losses.judged(self.networks[name](fake).float(), True)
        total = sum((weights[name] * term for name, term in terms.items()), x.new_zeros(()))
        self.update("generator", total)
        return figures | {"loss": total.detach()} | {name: term.detach() for name, term in terms.items()}

    def restore(
        self, networks: Mapping[str, nn.Module], masked: Tensor, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The map is a part of the input: it has to come from elsewhere, and is handed on."""
        if alpha is None:
            raise UsageError("dual-patch needs a map of the mask", "Name a run or a model whose map is used (--map).")
        return networks["generator"](torch.cat([masked, alpha], 1)), alpha


def black_out(pictures: Tensor, alpha: Tensor) -> Tensor:
    """Pictures in -1..1 with everything but the mask's place black."""
    return (pictures + 1) * alpha - 1
