"""An encoder-decoder judged twice: is this a real face, and is it the face of the person with the mask?

No publication of exactly this system could be found; this is our reading of it. The same arrangement, a converter with
a real/fake discriminator on its output and a second one on (input, output) pairs, is D. Yoo et al., "Pixel-Level Domain
Transfer", ECCV 2016, whose three kinds of pairs are taken over: (input, its truth) belong together; (input, output) do
not, nor do (input, another's truth). That the second one passes both pictures through the same layers is the Siamese
discriminator of C. Donahue et al., "Semantically Decomposing the Latent Spaces of Generative Adversarial Networks",
ICLR 2018; a discriminator and a Siamese network side by side are in N. A. Kande et al., "SiameseGAN", IEEE Trans. Med.
Imaging 40, 2021. The L1 term and its weight of 100 are pix2pix's (P. Isola et al., CVPR 2017). The masks are those of
the prepared bank, which are placed by the landmarks of the face mesh.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from trainer import losses
from trainer.data import Batch
from trainer.networks.siamese import EncoderDecoder, RealOrFake, SiameseDiscriminator
from trainer.systems.base import Figures, System
from unmask_rt.errors import UsageError


class Siamese(System):
    """Options: ``width``, ``depth``, ``discriminator_width``; ``learning_rate``, ``discriminator_learning_rate``,
    ``betas``; ``loss`` with l1, classifier and siamese.
    """

    needs_alpha = False

    def build(self) -> dict[str, nn.Module]:
        depth, judges = self.options.get("depth", 4), self.options.get("discriminator_width", 64)
        if self.size % 2**depth:
            raise UsageError(f"siamese of depth {depth} on {self.size} px", f"Its size is a multiple of {2**depth}.")
        return {
            "generator": EncoderDecoder(self.options.get("width", 64), depth),
            "classifier": RealOrFake(judges),
            "siamese": SiameseDiscriminator(judges),
        }

    def prepare(self) -> None:
        key = "discriminator_learning_rate"
        self.optimizers = {"generator": self.adam("generator")}
        self.optimizers |= {name: self.adam(name, key=key) for name in ("classifier", "siamese")}

    def step(self, batch: Batch, progress: float) -> Figures:
        x, truth, _, valid = batch.floats()
        with self.autocast():
            face = self.networks["generator"](x)
        face = truth + (face.float() - truth) * valid
        figures: Figures = {
            "critic_classifier": self.tell_apart("classifier", face, truth),
            "critic_siamese": self.compare(x, face.detach(), truth),
        }
        with self.untrained("classifier", "siamese"), self.autocast():
            real = self.networks["classifier"](face).float()
            together = self.networks["siamese"](x, face).float()
        terms = {
            "l1": losses.weighted_l1(face, truth, valid),
            "classifier": losses.judged(real, True),
            "siamese": losses.judged(together, True),
        }
        total = sum((self.options["loss"][name] * term for name, term in terms.items()), x.new_zeros(()))
        self.update("generator", total)
        return figures | {"loss": total.detach()} | {name: term.detach() for name, term in terms.items()}

    def compare(self, x: Tensor, fake: Tensor, real: Tensor) -> Tensor:
        """One step of the Siamese discriminator on its three kinds of pairs.

        Another's truth is that of the next picture of the batch, so that its descriptor is there already; a batch of
        one has no other.
        """
        network = self.networks["siamese"]
        assert isinstance(network, SiameseDiscriminator)
        with self.autocast():
            masked, truth, output = (network.branch(picture) for picture in (x, real, fake))
            others = [output, truth.roll(1, 0)][: 2 if len(x) > 1 else 1]
            together, apart = network.weigh(masked, truth), [network.weigh(masked, other) for other in others]
        terms = [losses.judged(together.float(), True), *(losses.judged(logits.float(), False) for logits in apart)]
        loss = torch.stack(terms).mean()
        self.update("siamese", loss)
        return loss.detach()

    def restore(
        self, networks: Mapping[str, nn.Module], masked: Tensor, alpha: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return networks["generator"](masked), None
