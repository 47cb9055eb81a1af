"""pix2pix: a U-Net judged by a PatchGAN that sees the input as well, adversarial + 100 L1.

P. Isola et al., "Image-to-Image Translation with Conditional Adversarial Networks", CVPR 2017; TensorFlow's tutorial of
the same name is the version that an ancestor of this project used. Deviation: faces are restored without dropout (the
paper leaves it on as its only noise), so that the same picture always gives the same face.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import losses
from trainer.data import Batch
from trainer.networks.discriminators import PatchDiscriminator
from trainer.networks.unet import UNet, depth_for
from trainer.systems.base import Figures, System


class Pix2Pix(System):
    """Options: ``width``, ``discriminator_width``, ``norm``; ``learning_rate``, ``betas``; ``loss`` with adversarial
    and l1.
    """

    needs_alpha = False

    def build(self) -> dict[str, nn.Module]:
        norm = self.options["norm"]
        return {
            "generator": UNet(3, 3, self.options["width"], depth_for(self.size), norm),
            "discriminator": PatchDiscriminator(6, self.options["discriminator_width"], norm),
        }

    def prepare(self) -> None:
        self.optimizers = {name: self.adam(name) for name in ("generator", "discriminator")}

    def step(self, batch: Batch, progress: float) -> Figures:
        weights = self.options["loss"]
        x, truth, _, _ = batch.floats()
        with self.autocast():
            face = self.networks["generator"](x).float()
        critic = self.judge(x, face.detach(), truth)
        with self.untrained("discriminator"), self.autocast():
            logits = self.networks["discriminator"](torch.cat([x, face], 1)).float()
        adversarial, l1 = losses.judged(logits, True), F.l1_loss(face, truth)
        total = weights["adversarial"] * adversarial + weights["l1"] * l1
        self.update("generator", total)
        return {"loss": total.detach(), "adversarial": adversarial.detach(), "l1": l1.detach(), "critic": critic}

    def judge(self, x: Tensor, fake: Tensor, real: Tensor) -> Tensor:
        """One step of the discriminator; its objective is halved, which slows it down (section 3.3)."""
        network = self.networks["discriminator"]
        with self.autocast():
            seen = [network(torch.cat([x, picture], 1)).float() for picture in (real, fake)]
        loss = (losses.judged(seen[0], True) + losses.judged(seen[1], False)) / 2
        self.update("discriminator", loss)
        return loss.detach()

    def restore(
        self, networks: Mapping[str, nn.Module], masked: Tensor, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return networks["generator"](masked), None
