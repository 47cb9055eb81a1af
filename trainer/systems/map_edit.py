"""The map module finds the mask; the editing module takes it away, judged on the whole face and then on the hole.

Source: N. Ud Din, K. Javed, S. Bae and J. Yi, "A Novel GAN-Based Network for Unmasking of Masked Face", IEEE Access 8,
2020, pp. 44276-44287, doi 10.1109/ACCESS.2020.2977386.

From the paper: a segmentation network trained first and cleaned of noise, a generator with squeeze-and-excitation and
dilated convolutions that sees picture and map, reconstruction (L1 + SSIM), perceptual and adversarial losses, a
discriminator that learns the whole face first and another that "comes in to focus learning on the deep missing region".
The paper's numbers could not be looked up. From two public re-implementations that agree: 100 on the reconstruction
(one halves it between L1 and SSIM), 0.3 on the whole face's discriminator and 0.7 on the hole's once both are there,
both conditioned on the input. Ours: the share of the stage after which the second comes in, the backbone of the
perceptual network and so its weight, SSIM of luma alone. Both discriminators are pix2pix's.
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
from trainer.networks.map_edit import EditUNet, MapUNet, without_specks
from trainer.systems.base import Figures, System
from unmask_rt.errors import UsageError


class MapModule(System):
    """First stage. Options: ``width``, ``learning_rate``, ``betas``."""

    averaged = ("map",)

    def build(self) -> dict[str, nn.Module]:
        return {"map": MapUNet(self.options.get("width", 64))}

    def prepare(self) -> None:
        self.optimizers = {"map": self.adam("map")}

    def step(self, batch: Batch, progress: float) -> Figures:
        x, _, alpha, valid = batch.floats()
        with self.autocast():
            logits = self.networks["map"](x)
        by_pixel = F.binary_cross_entropy_with_logits(logits.float(), alpha, reduction="none")
        loss = (by_pixel * valid).sum() / valid.sum().clamp(min=1)
        self.update("map", loss)
        found, hole, seen = logits.detach() > 0, alpha > 0.5, valid > 0.5
        right = ((found == hole) & seen).sum() / seen.sum().clamp(min=1)
        iou = (found & hole & seen).sum() / ((found | hole) & seen).sum().clamp(min=1)
        return {"loss": loss.detach(), "accuracy": right, "iou": iou}

    def restore(
        self, networks: Mapping[str, nn.Module], masked: Tensor, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return masked, torch.sigmoid(networks["map"](masked))


class MapEdit(System):
    """Second stage. Where no map module has been left behind it learns with the true map and needs one to restore.

    Options: ``width``, ``map_width`` (that of the first stage), ``dilations``, ``excited``, ``discriminator_width``;
    ``learning_rate``, ``discriminator_learning_rate``, ``betas``; ``backbone``; ``windows`` of SSIM; ``mask_from``, the
    share of the stage after which the hole's discriminator comes in; ``loss`` with l1, ssim, perceptual, whole_alone
    (before that), whole and hole (after).
    """

    def build(self) -> dict[str, nn.Module]:
        names = ("width", "dilations", "excited")
        width = self.options.get("discriminator_width", 64)
        return {
            "generator": EditUNet(**{n: self.options[n] for n in names if n in self.options}),
            "whole": PatchDiscriminator(6, width),
            "hole": PatchDiscriminator(6, width),
        }

    def build_inherited(self) -> dict[str, nn.Module]:
        return {"map": MapUNet(self.options.get("map_width", 64))}

    @classmethod
    def fetch(cls, options: dict[str, Any]) -> None:
        losses.require(options["backbone"])

    def prepare(self) -> None:
        key = "discriminator_learning_rate"
        self.optimizers = {"generator": self.adam("generator")}
        self.optimizers |= {name: self.adam(name, key=key) for name in ("whole", "hole")}
        self.frozen = {"perceptual": losses.Perceptual(self.options["backbone"])}
        self.ssim = losses.ssim_of(self.options["windows"])

    def phase(self, progress: float) -> bool:
        return progress >= self.options["mask_from"]

    def step(self, batch: Batch, progress: float) -> Figures:
        x, truth, alpha, valid = batch.floats()
        with torch.no_grad(), self.autocast():
            found = torch.sigmoid(self.inherited["map"](x)).float() if "map" in self.inherited else alpha
        hole = without_specks(found)
        with self.autocast():
            face = self.networks["generator"](torch.cat([x, hole], 1))
        face = truth + (face.float() - truth) * valid
        both = self.phase(progress)
        pairs = {"whole": (face, truth)}
        if both:  # outside of the hole both are the input, so that nothing else can tell them apart
            pairs["hole"] = (x + (face - x) * hole, x + (truth - x) * hole)
        figures: Figures = {
            f"critic_{name}": self.tell_apart(name, torch.cat([x, fake], 1), torch.cat([x, real], 1))
            for name, (fake, real) in pairs.items()
        }
        weights = self.options["loss"]
        terms = {"l1": losses.weighted_l1(face, truth, valid), "ssim": self.ssim(face, truth, valid)}
        with self.untrained(*pairs), self.autocast():
            terms["perceptual"] = self.frozen["perceptual"](face, truth).float()
            for name, (fake, _) in pairs.items():
                logits = self.networks[name](torch.cat([x, fake], 1)).float()
                terms[name if both else "whole_alone"] = losses.judged(logits, True)
        total = sum((weights[name] * term for name, term in terms.items()), x.new_zeros(()))
        self.update("generator", total)
        return figures | {"loss": total.detach()} | {name: term.detach() for name, term in terms.items()}

    def restore(
        self, networks: Mapping[str, nn.Module], masked: Tensor, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if alpha is None:
            if "map" not in networks:
                raise UsageError("this run has no map module", "Give a map, or train its stages in order: map, edit.")
            alpha = torch.sigmoid(networks["map"](masked))
        return networks["generator"](torch.cat([masked, without_specks(alpha)], 1)), alpha
