"""The networks of the default model, small enough to hold in the head.

    MapNet   aligned crop -> where the mask is
    EditNet  crop with the hole cut out -> completed crop
    Unmask   both behind one call on uint8, as it is exported

Shapes are written beside the lines: B batch, S crop side (256). All work is done on a 128-pixel grid and below; the
full resolution is reached by pixel shuffling (W. Shi et al., "Real-Time Single Image and Video Super-Resolution Using
an Efficient Sub-Pixel CNN", CVPR 2016), which is what makes 256 pixels affordable on a laptop's processor.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv(inside: int, outside: int, *, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps (or divides by its stride) the size of the grid."""
    layer = nn.Conv2d(inside, outside, kernel, stride, kernel // 2)
    nn.init.kaiming_normal_(layer.weight, a=0.2)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def quiet(layer: nn.Conv2d, gain: float) -> nn.Conv2d:
    """The same layer with weights scaled down, so that a residual branch starts out small."""
    with torch.no_grad():
        layer.weight.mul_(gain)
    return layer


class Residual(nn.Module):
    """x + conv(act(x)): one convolution a block; no normalisation, so nothing depends on the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = quiet(conv(channels, channels), 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.leaky_relu(x, 0.2))


class TokenMixer(nn.Module):
    """Lets every place of a small grid speak to every other with weights of its own.

    The token-mixing half of MLP-Mixer (I. Tolstikhin et al., NeurIPS 2021). In an aligned crop a place has a meaning,
    so weights tied to places are an advantage.
    """

    def __init__(self, channels: int, side: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(side * side, hidden)
        self.narrow = nn.Linear(hidden, side * side)
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, s, s)
        tokens = self.norm(x.flatten(2).transpose(1, 2)).transpose(1, 2)  # (B, C, s*s)
        return x + self.narrow(F.gelu(self.widen(tokens), approximate="tanh")).unflatten(2, x.shape[2:])


class Place(nn.Module):
    """A learnt bias for each channel and place of a grid."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1, channels, side, side))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bias


def up2(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class MapNet(nn.Module):
    """Segmentation U-Net: aligned crop -> logits of the mask at full resolution."""

    def __init__(self, widths: tuple[int, int, int, int, int] = (8, 24, 32, 64, 96)) -> None:
        super().__init__()
        a, b, c, d, e = widths
        self.stem = conv(3, a)
        self.down = nn.ModuleList([conv(a, b, stride=2), conv(b, c, stride=2), conv(c, d, stride=2), conv(d, e, stride=2)])
        self.encode = nn.ModuleList([Residual(b), Residual(c), Residual(d), Residual(e)])
        self.middle = nn.Sequential(Place(e, 8), TokenMixer(e, 8, 128), Residual(e), TokenMixer(e, 8, 128))
        self.narrow = nn.ModuleList([conv(e, d, kernel=1), conv(d, c, kernel=1), conv(c, b, kernel=1), conv(b, a, kernel=1)])
        self.decode = nn.ModuleList([Residual(d), Residual(c), Residual(b), Residual(a)])
        self.head = conv(a, 4)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, S, S) in -1..1
        x = self.stem(F.avg_pool2d(x, 2))  # (B, a, S/2, S/2)
        skips = []
        for down, encode in zip(self.down, self.encode, strict=True):
            skips.append(x)
            x = encode(down(F.leaky_relu(x, 0.2)))
        x = self.middle(x)  # (B, e, S/32, S/32)
        for narrow, decode in zip(self.narrow, self.decode, strict=True):
            x = decode(up2(narrow(F.leaky_relu(x, 0.2))) + skips.pop())
        return F.pixel_shuffle(self.head(F.leaky_relu(x, 0.2)), 2)  # (B, 1, S, S)


class EditNet(nn.Module):
    """Inpainting generator: crop with the hole cut out, and the hole -> the crop completed."""

    def __init__(self, widths: tuple[int, int, int, int, int, int] = (16, 32, 64, 128, 256, 320)) -> None:
        super().__init__()
        a, b, c, d, e, f = widths
        self.stem = conv(4, a)
        self.fine_stem = quiet(conv(13, a), 0.1)
        self.down = nn.ModuleList(
            [conv(a, b, stride=2), conv(b, c, stride=2), conv(c, d, stride=2), conv(d, e, stride=2), conv(e, f, stride=2)]
        )
        self.encode = nn.ModuleList(
            [Residual(b), Residual(c), nn.Sequential(Residual(d), Residual(d)), nn.Sequential(Residual(e), TokenMixer(e, 8, 128), Residual(e))]
            + [nn.Sequential(Place(f, 4), TokenMixer(f, 4, 64), Residual(f), TokenMixer(f, 4, 64), Residual(f), TokenMixer(f, 4, 64))]
        )  # fmt: skip
        self.narrow = nn.ModuleList([conv(f, e, kernel=1), conv(e, d, kernel=1), conv(d, c, kernel=1), conv(c, b, kernel=1)])
        self.decode = nn.ModuleList(
            [
                nn.Sequential(Place(e, 8), Residual(e), TokenMixer(e, 8, 128), Residual(e)),
                nn.Sequential(Place(d, 16), Residual(d), TokenMixer(d, 16, 128), Residual(d)),
                nn.Sequential(Place(c, 32), Residual(c), Residual(c)),
                Residual(b),
            ]
        )
        self.grow = conv(b, a * 4)
        self.last = Residual(a)
        self.head = quiet(conv(a, 12), 0.3)

    def forward(self, x: Tensor, hole: Tensor) -> Tensor:  # (B, 3, S, S) in -1..1 with zeros in the hole; (B, 1, S/2, S/2)
        x = self.stem(torch.cat([F.avg_pool2d(x, 2), hole], 1)) + self.fine_stem(torch.cat([F.pixel_unshuffle(x, 2), hole], 1))
        skips = []
        for down, encode in zip(self.down, self.encode, strict=True):
            skips.append(x)  # (B, a, S/2, S/2) down to (B, e, S/32, S/32)
            x = encode(down(F.leaky_relu(x, 0.2)))
        for narrow, decode in zip(self.narrow, self.decode, strict=True):
            x = decode(up2(narrow(F.leaky_relu(x, 0.2))) + skips.pop())
        x = F.pixel_shuffle(self.grow(F.leaky_relu(x, 0.2)), 2) + skips.pop()  # (B, a, S/2, S/2)
        return F.pixel_shuffle(self.head(F.leaky_relu(self.last(x), 0.2)), 2)  # (B, 3, S, S)


def cut(mask: Tensor) -> Tensor:
    """From a map (B, 1, S, S) in 0..1 to the hole (B, 1, S/2, S/2): hardened, then grown by 4 px of the crop."""
    hard = (F.max_pool2d(mask, 2) * 3 - 0.6).clamp(0, 1)
    return F.max_pool2d(hard, 5, 1, 2)


def complete(edit: EditNet, x: Tensor, hole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts the hole, fills it, and puts the rest back: (raw output, composite, hole at full resolution)."""
    wide = F.interpolate(hole, scale_factor=2.0, mode="bilinear", align_corners=False)  # (B, 1, S, S)
    raw = edit(x * (1 - wide), hole)
    return raw, x + (raw - x) * wide, wide


class Unmask(nn.Module):
    """The exported model: uint8 in, uint8 out, everything between inside the graph."""

    def __init__(self, map_net: MapNet, edit_net: EditNet) -> None:
        super().__init__()
        self.map_net = map_net
        self.edit_net = edit_net

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor]:  # uint8 (B, S, S, 3)
        x = crop.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        mask = torch.sigmoid(self.map_net(x))
        _, composite, _ = complete(self.edit_net, x, cut(mask))
        face = ((composite + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return face, (mask[:, 0] * 255 + 0.5).to(torch.uint8)  # (B, S, S, 3), (B, S, S)


class PatchGan(nn.Module):
    """PatchGAN discriminator (P. Isola et al., CVPR 2017) with spectral normalisation; returns its features, logits last."""

    def __init__(self, inside: int = 4, width: int = 32) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.layers = nn.ModuleList(
            [
                norm(nn.Conv2d(inside, width, 4, 2, 1)),
                norm(nn.Conv2d(width, width * 2, 4, 2, 1)),
                norm(nn.Conv2d(width * 2, width * 4, 4, 2, 1)),
                norm(nn.Conv2d(width * 4, width * 4, 3, 1, 1)),
            ]
        )
        self.head = nn.Conv2d(width * 4, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return [*features, self.head(x)]
