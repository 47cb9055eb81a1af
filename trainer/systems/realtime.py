"""The editing module of the default model: L1, SSIM and features first, two discriminators later.

At half the crop's side (size 128) only the inner network is trained, at 256 the whole. The discriminator and the
features look at the lower face only, which is where the masks are; features and SSIM at half the side in both cases.
A second discriminator sees the whole crop at half the side: what is drawn has to belong to the face around it.

What it draws must not change with the crop's place: a face that trembles by a few pixels in its crop, as it does in
video, is drawn twice, and the difference is a loss (``stability``; the consistency term of S. Zheng et al., "Improving
the Robustness of Deep Neural Networks via Stability Training", CVPR 2016, with shifts beside noise).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import faceres, losses
from trainer.data import Batch
from trainer.networks.realtime import EditNet, MapNet, PatchGan, complete, cut, match_seam, up2
from trainer.systems.base import Figures, System
from unmask_rt.errors import UsageError


def lower_face(pictures: Tensor) -> Tensor:
    """The lower face of crops (B, C, s, s), (B, C, 5s/8, 5s/8): where features and the discriminator look."""
    s = pictures.shape[2] // 32
    return pictures[:, :, 11 * s : 31 * s, 6 * s : 26 * s]


SHIFT = 4
"""Most pixels by which the second view of a face is shifted, each way."""
NOISE = 0.02
"""Deviation of the second view's noise, of the range -1..1."""


class Realtime(System):
    """Options: ``learning_rate``, ``discriminator_learning_rate``, ``betas`` and ``discriminator_betas``, ``backbone``
    of the features, ``gan_from`` (share of the stage after which the adversarial half starts; 2: never),
    ``critics_first`` (share of the stage in which only the discriminators learn: new ones beside a generator that
    draws already; 0 if left out), ``critic`` (width of the discriminators), ``loss`` with l1_hole, l1_rest,
    ssim, perceptual, face (features of a network that knows faces, `faceres`), stability (these four are not computed
    if they weigh 0), adversarial and matching; ``widths`` and ``map_widths`` of smaller networks.
    """

    def __init__(self, options: dict[str, Any], size: int) -> None:
        if size not in (128, 256):
            raise UsageError(
                f"the realtime networks have no size {size}", "Use 128 (inner network) or 256 (the whole)."
            )
        super().__init__(options, size)

    def build(self) -> dict[str, nn.Module]:
        generator = EditNet(self.options["widths"]) if "widths" in self.options else EditNet()
        width = self.options["critic"]
        critics = {"discriminator": PatchGan(width=width), "whole": PatchGan(width=width, halvings=4)}
        return {"generator": generator, **critics}

    def build_inherited(self) -> dict[str, nn.Module]:
        return {"map": MapNet(self.options["map_widths"]) if "map_widths" in self.options else MapNet()}

    @classmethod
    def fetch(cls, options: dict[str, Any]) -> None:
        losses.require(options["backbone"])
        if options["loss"]["face"]:
            faceres.PUBLISHED.load()

    def prepare(self) -> None:
        betas = {"key": "discriminator_learning_rate", "betas": "discriminator_betas"}
        self.optimizers = {
            "generator": self.adam("generator"),
            "discriminators": self.adam("discriminator", "whole", **betas),
        }
        self.frozen = {"perceptual": losses.Perceptual(self.options["backbone"])}
        if self.options["loss"]["face"]:
            self.frozen["face"] = losses.Perceptual("faceres")

    def phase(self, progress: float) -> tuple[bool, bool]:
        """Whether only the discriminators learn, and whether the generator learns by them."""
        return progress < self.options.get("critics_first", 0.0), progress >= self.options["gan_from"]

    def hole(self, alpha: Tensor) -> Tensor:
        """The true hole, each by itself a little too wide or too narrow, as found maps are."""
        widen = torch.randint(-1, 3, (len(alpha), 1, 1, 1), device=alpha.device)
        wider = F.max_pool2d(alpha, 3, 1, 1)
        alpha = torch.where(widen < 0, -F.max_pool2d(-alpha, 3, 1, 1), alpha)
        alpha = torch.where(widen == 1, wider, torch.where(widen == 2, F.max_pool2d(wider, 3, 1, 1), alpha))
        return self.cut(alpha)

    def cut(self, alpha: Tensor) -> Tensor:
        """The hole at half the crop's side, from alpha at the side of the samples."""
        return cut(F.max_pool2d(alpha, 2) if self.size == 256 else alpha)

    def step(self, batch: Batch, progress: float) -> Figures:
        weights, edit = self.options["loss"], self.networks["generator"]
        assert isinstance(edit, EditNet)
        critics_only, adversarial_half = self.phase(progress)
        x, truth, alpha, valid = batch.floats()
        with self.autocast(), torch.set_grad_enabled(not critics_only):
            raw, composite, wide = (t.float() for t in complete(edit, x, self.hole(alpha)))
        composite = truth + (composite - truth) * valid
        seen, real, small = lower_face(composite), lower_face(truth), lower_face(wide * valid)
        looks = {}
        if critics_only or adversarial_half:
            looks = {"discriminator": (seen, real, small), "whole": self.overview(composite, truth, wide * valid)}
        if critics_only:
            return {"critic": self.judge(looks)}
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
        if weights["face"]:
            with self.autocast():
                terms["face"] = self.frozen["face"](composite, truth).float()
        if weights["stability"]:
            terms["stability"] = self.unsteadiness(edit, x, alpha, raw, wide)
        figures: Figures = {}
        if adversarial_half:
            figures["critic"] = self.judge(looks)
            with self.untrained(*looks), self.autocast():
                found = [
                    losses.generator_terms(
                        self.networks[name], torch.cat([drawn, hole], 1), torch.cat([wanted, hole], 1)
                    )
                    for name, (drawn, wanted, hole) in looks.items()
                ]
            adversarial, matching = zip(*found, strict=True)
            terms |= {"adversarial": torch.stack(adversarial).mean(), "matching": torch.stack(matching).mean()}
        total = sum((weights[name] * term for name, term in terms.items()), x.new_zeros(()))
        figures["norm"] = self.update("generator", total)
        error = ((composite - truth).square() * wide * valid).detach().sum((1, 2, 3)) / (
            (wide * valid).sum((1, 2, 3)) * 3
        ).clamp(min=1)
        figures["hole_psnr"] = (10 * torch.log10(4 / error.clamp(min=1e-6))).mean()
        return figures | {name: term.detach() for name, term in terms.items()}

    def overview(self, *pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the second discriminator sees: the whole crops, at 128 px."""
        drawn, truth, hole = (F.avg_pool2d(p, 2) if self.size == 256 else p for p in pictures)
        return drawn, truth, hole

    def unsteadiness(self, edit: EditNet, x: Tensor, alpha: Tensor, raw: Tensor, wide: Tensor) -> Tensor:
        """How far the filling of a quarter of the crops changes when they are shifted by a few whole pixels, which
        blurs nothing, with a little noise and another edge of the hole: mean absolute difference in both holes."""
        count = max(1, len(x) // 4)
        across, down = (
            (torch.arange(self.size, device=x.device) + torch.randint(-SHIFT, SHIFT + 1, (1,), device=x.device)).clamp(
                0, self.size - 1
            )
            for _ in range(2)
        )
        moved, covered, first, hole = (
            t[:count].index_select(2, down).index_select(3, across) for t in (x, alpha, raw, wide)
        )
        moved = (moved + NOISE * torch.randn_like(moved)).clamp(-1, 1)
        with self.autocast():
            second, _, other = (t.float() for t in complete(edit, moved, self.hole(covered)))
        return losses.weighted_l1(second, first, hole * other)

    def judge(self, looks: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Tensor:
        """One step of the discriminators, each on what it sees of the output, of the truth, and of the hole."""
        found = []
        for name, (fake, real, hole) in looks.items():
            pairs = torch.cat([torch.cat([real, hole], 1), torch.cat([fake.detach(), hole], 1)])
            with self.autocast():
                both = self.networks[name](pairs)[-1]
            found.append(losses.hinge_discriminator(*both.float().chunk(2)))
        loss = torch.stack(found).mean()
        self.update("discriminators", loss)
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
