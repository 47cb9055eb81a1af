"""The editing module of the default model: L1, SSIM and features first, a patch discriminator later.

At half the crop's side (size 128) only the inner network is trained, at 256 the whole. The discriminator and the
features look at the lower face only, which is where the masks are; features and SSIM at half the side in both cases.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import losses
from trainer.data import Batch
from trainer.networks.realtime import EditNet, MapNet, PatchGan, complete, cut, match_seam, up2
from trainer.systems.base import Figures, System
from unmask_rt.errors import UsageError


def lower_face(pictures: Tensor) -> Tensor:
    """The lower face of crops (B, C, s, s), (B, C, 5s/8, 5s/8): where features and the discriminator look."""
    s = pictures.shape[2] // 32
    return pictures[:, :, 11 * s : 31 * s, 6 * s : 26 * s]


class Realtime(System):
    """Options: ``learning_rate``, ``discriminator_learning_rate``, ``betas`` and ``discriminator_betas``, ``backbone``
    of the features, ``gan_from`` (share of the stage after which the adversarial half starts; 2: never), ``loss`` with
    l1_hole, l1_rest, ssim, perceptual (these two are not computed if they weigh 0), adversarial and matching;
    ``widths`` and ``map_widths`` of smaller networks.
    """

    def __init__(self, options: dict[str, object], size: int) -> None:
        if size not in (128, 256):
            raise UsageError(
                f"the realtime networks have no size {size}", "Use 128 (inner network) or 256 (the whole)."
            )
        super().__init__(options, size)

    def build(self) -> dict[str, nn.Module]:
        generator = EditNet(self.options["widths"]) if "widths" in self.options else EditNet()
        return {"generator": generator, "discriminator": PatchGan()}

    def build_inherited(self) -> dict[str, nn.Module]:
        return {"map": MapNet(self.options["map_widths"]) if "map_widths" in self.options else MapNet()}

    def prepare(self) -> None:
        betas = {"key": "discriminator_learning_rate", "betas": "discriminator_betas"}
        self.optimizers = {"generator": self.adam("generator"), "discriminator": self.adam("discriminator", **betas)}
        self.frozen = {"perceptual": losses.Perceptual(self.options["backbone"])}

    def hole(self, alpha: Tensor) -> Tensor:
        """The true hole, now and then a little too wide or too narrow, as a found map is."""
        widen = int(torch.randint(-1, 3, ()))
        if widen > 0:
            alpha = F.max_pool2d(alpha, 2 * widen + 1, 1, widen)
        elif widen < 0:
            alpha = -F.max_pool2d(-alpha, 3, 1, 1)
        return self.cut(alpha)

    def cut(self, alpha: Tensor) -> Tensor:
        """The hole at half the crop's side, from alpha at the side of the samples."""
        return cut(F.max_pool2d(alpha, 2) if self.size == 256 else alpha)

    def step(self, batch: Batch, progress: float) -> Figures:
        weights, edit = self.options["loss"], self.networks["generator"]
        assert isinstance(edit, EditNet)
        x, truth, alpha, valid = batch.floats()
        with self.autocast():
            raw, composite, wide = (t.float() for t in complete(edit, x, self.hole(alpha)))
        composite = truth + (composite - truth) * valid
        seen, real, small = lower_face(composite), lower_face(truth), lower_face(wide * valid)
        halves = [F.avg_pool2d(t, 2) if t.shape[2] > 80 else t for t in (seen, real, small)]
        terms = {
            "l1_hole": losses.weighted_l1(raw, truth, wide * valid),
            "l1_rest": losses.weighted_l1(raw, truth, (1 - wide) * (1 - alpha) * valid),
        }
        if weights["ssim"]:
            terms["ssim"] = losses.strided_ssim(*halves)
        if weights["perceptual"]:
            with self.autocast():
                terms["perceptual"] = self.frozen["perceptual"](*halves[:2]).float()
        figures: Figures = {}
        if progress >= self.options["gan_from"]:
            figures["critic"] = self.judge(seen.detach(), real, small)
            critic = self.networks["discriminator"]
            assert isinstance(critic, PatchGan)
            with self.untrained("discriminator"), self.autocast():
                terms["adversarial"], terms["matching"] = losses.generator_terms(
                    critic, torch.cat([seen, small], 1), torch.cat([real, small], 1)
                )
        total = sum((weights[name] * term for name, term in terms.items()), x.new_zeros(()))
        figures["norm"] = self.update("generator", total)
        error = ((composite - truth).square() * wide * valid).detach().sum((1, 2, 3)) / (
            (wide * valid).sum((1, 2, 3)) * 3
        ).clamp(min=1)
        figures["hole_psnr"] = (10 * torch.log10(4 / error.clamp(min=1e-6))).mean()
        return figures | {name: term.detach() for name, term in terms.items()}

    def judge(self, fake: Tensor, real: Tensor, hole: Tensor) -> Tensor:
        """One step of the discriminator."""
        pairs = torch.cat([torch.cat([real, hole], 1), torch.cat([fake, hole], 1)])
        with self.autocast():
            both = self.networks["discriminator"](pairs)[-1]
        loss = losses.hinge_discriminator(*both.float().chunk(2))
        self.update("discriminator", loss)
        return loss.detach()

    def restore(
        self, networks: Mapping[str, nn.Module], masked: Tensor, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """As the exported model does it; the map network always sees 256 px."""
        if alpha is None:
            if "map" not in networks:
                raise UsageError("this run has no map module", "Name a run or a model whose map is to be used (--map).")
            alpha = torch.sigmoid(networks["map"](masked if self.size == 256 else up2(masked)))
            if self.size == 128:
                alpha = F.avg_pool2d(alpha, 2)
        hole = self.cut(alpha)
        edit = networks["generator"]
        assert isinstance(edit, EditNet)
        raw, composite, wide = complete(edit, masked, hole)
        if self.size == 256:
            composite = masked + (match_seam(raw, masked, hole) - masked) * wide
        return composite, alpha
