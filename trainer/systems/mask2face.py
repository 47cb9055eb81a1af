"""Mask2Face: one U-Net, no discriminator; mean absolute error, structural similarity and weight regularisation.

Source: L. Koucky and J. Maly, "Mask2Face: How We Built AI That Shows the Face Beneath the Mask", STRV, 2021, and
github.com/strvcom/strv-ml-mask2face. Its published 22.25 dB and SSIM .874 stand beside other faces and masks than ours.

Deviations: SSIM of luma instead of each channel; pixels outside of the original picture do not count. What the
published code calls L1 is a mean squared error, and it has no weight regularisation; here the one is the mean absolute
error, and the other the sum of the squared weights of all convolutions, with a weight of our own.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from trainer import losses
from trainer.data import Batch
from trainer.networks.mask2face import Mask2FaceNet
from trainer.systems.base import Figures, System
from unmask_rt.errors import UsageError


class Mask2Face(System):
    """Options: ``width``, ``multiples``, ``kernels``; ``learning_rate``; ``windows`` of SSIM; ``loss`` with l1, ssim
    and weights.
    """

    needs_alpha = False

    def build(self) -> dict[str, nn.Module]:
        names = ("width", "multiples", "kernels")
        network = Mask2FaceNet(**{n: self.options[n] for n in names if n in self.options})
        if self.size % 2 ** len(network.down):
            raise UsageError(
                f"mask2face of {len(network.down)} levels on {self.size} px",
                f"Its size is a multiple of {2 ** len(network.down)}.",
            )
        return {"generator": network}

    def prepare(self) -> None:
        self.optimizers = {"generator": self.adam("generator")}
        self.ssim = losses.ssim_of(self.options["windows"])

    def step(self, batch: Batch, progress: float) -> Figures:
        x, truth, _, valid = batch.floats()
        network = self.networks["generator"]
        assert isinstance(network, Mask2FaceNet)
        with self.autocast():
            face = network(x)
        face = truth + (face.float() - truth) * valid
        terms = {
            "l1": losses.weighted_l1(face, truth, valid) / 2,  # of pictures in 0..1
            "ssim": self.ssim(face, truth, valid),
            "weights": network.squares(),
        }
        total = sum((self.options["loss"][name] * term for name, term in terms.items()), x.new_zeros(()))
        self.update("generator", total)
        return {"loss": total.detach()} | {name: term.detach() for name, term in terms.items()}

    def restore(
        self, networks: Mapping[str, nn.Module], masked: Tensor, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return networks["generator"](masked), None
