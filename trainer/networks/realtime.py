"""The networks of the default model, small enough to hold in the head.

    MapNet   aligned crop -> where the mask is
    EditNet  crop with the hole cut out -> completed crop
    Unmask   both behind one call on uint8, as it is exported

Shapes are written beside the lines: B batch, S crop side (256). All convolutions work on a grid of 64 and below, of at
least 32 channels; the full resolution is reached by pixel shuffling (W. Shi et al., "Real-Time Single Image and Video
Super-Resolution Using an Efficient Sub-Pixel CNN", CVPR 2016). That is what makes 256 pixels affordable on a laptop's
processor: it moves memory slower than it multiplies, most of all in int8, where a ReLU costs nothing: hence no other
activation between convolutions, and one on the residual stream as well.
"""

from __future__ import annotations

import itertools
import math
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def conv(inside: int, outside: int, *, stride: int = 1, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps (or divides by its stride) the size of the grid."""
    layer = nn.Conv2d(inside, outside, kernel, stride, kernel // 2)
    nn.init.kaiming_normal_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def channels_last(module: M) -> M:
    """The same module with its weights in the memory order that convolutions on a processor are fastest in."""
    return module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it


def quiet(layer: nn.Conv2d, gain: float) -> nn.Conv2d:
    """The same layer with weights scaled down, so that a residual branch starts out small."""
    with torch.no_grad():
        layer.weight.mul_(gain)
    return layer


class Residual(nn.Module):
    """act(x + conv(x)): one convolution a block; no normalisation, so nothing depends on the batch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = quiet(conv(channels, channels), 0.3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.conv(x))


class TokenMixer(nn.Module):
    """Lets every place of a small grid speak to every other with weights of its own.

    The token-mixing half of MLP-Mixer (I. Tolstikhin et al., NeurIPS 2021). In an aligned crop a place has a meaning,
    so weights tied to places are an advantage, and so is a learnt bias for each channel and place.
    """

    def __init__(self, channels: int, side: int, hidden: int) -> None:
        super().__init__()
        self.side = side
        self.norm = nn.LayerNorm(channels)
        self.widen = nn.Linear(side * side, hidden)
        self.narrow = nn.Linear(hidden, side * side)
        self.place = nn.Parameter(torch.zeros(side * side, channels))
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, s, s)
        channels, side = self.norm.normalized_shape[0], self.side  # numbers, so that exported shapes are constant
        # Weights stand on the left: tokens stay in the order in which convolutions like their memory (channels last).
        tokens = self.norm(x.permute(0, 2, 3, 1).reshape(-1, side * side, channels))  # (B, s*s, C)
        mixed = self.narrow.weight @ gelu(self.widen.weight @ tokens + self.widen.bias[:, None])
        mixed = mixed + (self.narrow.bias[:, None] + self.place)
        return F.relu(x + mixed.reshape(-1, side, side, channels).permute(0, 3, 1, 2))


def gelu(x: Tensor) -> Tensor:
    """GELU by its tanh approximation; exported in the form that engines know as one operator."""
    if not torch.onnx.is_in_onnx_export():
        return F.gelu(x, approximate="tanh")
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x.pow(3))))


def up2(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class MapNet(nn.Module):
    """Segmentation U-Net: aligned crop -> logits of the mask at full resolution."""

    def __init__(self, widths: tuple[int, int, int, int] = (32, 32, 64, 96)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.stem = conv(12, a)
        self.down = nn.ModuleList([conv(a, b, stride=2), conv(b, c, stride=2), conv(c, d, stride=2)])
        self.encode = nn.ModuleList([Residual(a), Residual(b), Residual(c), Residual(d)])
        self.middle = nn.Sequential(TokenMixer(d, 8, 128), Residual(d), TokenMixer(d, 8, 128))
        self.narrow = nn.ModuleList([conv(d, c, kernel=1), conv(c, b, kernel=1), conv(b, a, kernel=1)])
        self.decode = nn.ModuleList([Residual(c), Residual(b), Residual(a)])
        self.head = conv(a, 16)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, S, S) in -1..1
        x = self.stem(F.pixel_unshuffle(F.avg_pool2d(x, 2), 2))  # (B, a, S/4, S/4)
        return F.pixel_shuffle(self.phases(x), 4)  # (B, 1, S, S)

    def phases(self, x: Tensor) -> Tensor:
        """What follows the first convolution: (B, a, S/4, S/4) -> logits (B, 16, S/4, S/4), not yet shuffled."""
        x = self.encode[0](F.relu(x))
        skips = []
        for down, encode in zip(self.down, self.encode[1:], strict=True):
            skips.append(x)
            x = encode(F.relu(down(x)))
        x = self.middle(x)  # (B, d, S/32, S/32)
        for narrow, decode in zip(self.narrow, self.decode, strict=True):
            x = decode(F.relu(up2(narrow(x)) + skips.pop()))
        logits: Tensor = self.head(x)
        return logits


class InnerNet(nn.Module):
    """The generator at half the crop's side: decides what face there is."""

    def __init__(self, widths: tuple[int, int, int, int, int]) -> None:
        super().__init__()
        b, c, d, e, f = widths
        self.stem = conv(16, b)
        self.down = nn.ModuleList(
            [conv(b, c, stride=2), conv(c, d, stride=2), conv(d, e, stride=2), conv(e, f, stride=2)]
        )
        self.encode = nn.ModuleList(
            [
                Residual(c),
                nn.Sequential(Residual(d), Residual(d)),
                nn.Sequential(Residual(e), TokenMixer(e, 8, 128), Residual(e)),
                nn.Sequential(
                    TokenMixer(f, 4, 64),
                    Residual(f),
                    TokenMixer(f, 4, 64),
                    Residual(f),
                    TokenMixer(f, 4, 64),
                ),
            ]
        )
        self.narrow = nn.ModuleList(
            [conv(f, e, kernel=1), conv(e, d, kernel=1), conv(d, c, kernel=1), conv(c, b, kernel=1)]
        )
        self.decode = nn.ModuleList(
            [
                nn.Sequential(Residual(e), TokenMixer(e, 8, 128), Residual(e)),
                nn.Sequential(Residual(d), TokenMixer(d, 16, 128), Residual(d)),
                nn.Sequential(Residual(c), Residual(c)),
                Residual(b),
            ]
        )
        self.first = Residual(b)
        self.head = quiet(conv(b, 12), 0.3)

    def forward(self, x: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:  # (B, 3, H, H) in -1..1, (B, 1, H, H)
        coarse, features = self.phases(self.stem(F.pixel_unshuffle(torch.cat([x, hole], 1), 2)))
        return F.pixel_shuffle(coarse, 2), features  # (B, 3, H, H), (B, b, H/2, H/2)

    def phases(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What follows the first convolution: (B, b, H/2, H/2) -> the picture (B, 12, H/2, H/2), not yet shuffled, and
        features (B, b, H/2, H/2)."""
        x = self.first(F.relu(x))
        skips = []
        for down, encode in zip(self.down, self.encode, strict=True):
            skips.append(x)  # (B, b, H/2, H/2) down to (B, e, H/16, H/16)
            x = encode(F.relu(down(x)))
        for narrow, decode in zip(self.narrow, self.decode, strict=True):
            x = decode(F.relu(up2(narrow(x)) + skips.pop()))
        return self.head(x), x


class OuterNet(nn.Module):
    """Doubles the resolution: detail for the inner network's picture, from its features and the full crop."""

    def __init__(self, inner_width: int, width: int = 64) -> None:
        super().__init__()
        self.stem = conv(52, width)
        self.grow = conv(inner_width, width, kernel=1)
        self.body = nn.Sequential(Residual(width), Residual(width))
        self.head = quiet(conv(width, 48), 0.05)

    def forward(self, x: Tensor, hole: Tensor, coarse: Tensor, features: Tensor) -> Tensor:
        """``x`` (B, 3, S, S), ``hole`` (B, 1, S/2, S/2), the others as the inner network gives them."""
        y = self.stem(torch.cat([F.pixel_unshuffle(x, 4), F.pixel_unshuffle(hole, 2)], 1)) + self.grow(features)
        detail = self.head(self.body(F.relu(y)))  # (B, 48, S/4, S/4)
        return up2(coarse) + F.pixel_shuffle(detail, 4)  # (B, 3, S, S)


class EditNet(nn.Module):
    """Inpainting generator: crop with the hole cut out, and the hole -> the crop completed.

    Grown from the inside: trained at half the side first, where a picture costs a quarter, then with the outer level.
    """

    def __init__(self, widths: tuple[int, int, int, int, int] = (32, 64, 128, 192, 320)) -> None:
        super().__init__()
        self.inner = InnerNet(widths)
        self.outer = OuterNet(widths[0])

    def forward(self, x: Tensor, hole: Tensor) -> Tensor:
        """``x`` (B, 3, S, S) in -1..1 with zeros in the hole, ``hole`` (B, 1, S/2, S/2)."""
        return self.outer(x, hole, *self.inner(F.avg_pool2d(x, 2), hole))


def cut(mask: Tensor) -> Tensor:
    """From a map at half the crop's side (B, 1, S/2, S/2) in 0..1 to the hole: hardened, grown by 4 px of the crop."""
    return F.max_pool2d((mask * 3 - 0.6).clamp(0, 1), 5, 1, 2)


def complete(edit: EditNet, x: Tensor, hole: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cuts the hole, fills it, and puts the rest back: (raw output, composite, hole at the resolution of ``x``).

    With ``x`` at half the crop's side (as large as ``hole``) only the inner network runs.
    """
    if x.shape[2:] == hole.shape[2:]:
        wide = hole
        raw, _ = edit.inner(x * (1 - hole), hole)
    else:
        wide = F.interpolate(hole, scale_factor=2.0, mode="bilinear", align_corners=False)  # (B, 1, S, S)
        raw = edit(x * (1 - wide), hole)
    return raw, x + (raw - x) * wide, wide


def match_seam(raw: Tensor, x: Tensor, hole: Tensor) -> Tensor:
    """Shifts the colour of the filling so that it meets the picture at the seam.

    The error of the raw output on a ring just outside the hole is known; its smooth continuation inwards is taken
    away, on a grid of 8-pixel cells (a coarse membrane in the sense of P. Perez et al., "Poisson Image Editing", 2003).
    """
    small = F.max_pool2d(hole, 2)
    ring = F.max_pool2d(small, 7, 1, 3) - small  # (B, 1, S/4, S/4)
    error = F.avg_pool2d(x - raw, 4) * ring
    cells = F.avg_pool2d(torch.cat([error, ring], 1), 2)  # (B, 4, S/8, S/8)
    for _ in range(3):
        cells = F.avg_pool2d(cells, 5, 1, 2, count_include_pad=False)
    shift = cells[:, :3] / (cells[:, 3:] + 0.02)
    return raw + F.interpolate(shift, scale_factor=8.0, mode="bilinear", align_corners=False)


class Unmask(nn.Module):
    """The exported model: uint8 in, uint8 out, everything between inside the graph."""

    def __init__(self, map_net: MapNet, edit_net: EditNet) -> None:
        super().__init__()
        self.map_net = map_net
        self.edit_net = edit_net

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor]:  # uint8 (B, S, S, 3)
        x = crop.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        mask = torch.sigmoid(self.map_net(x))
        hole = cut(F.max_pool2d(mask, 2))
        raw, _, wide = complete(self.edit_net, x, hole)
        composite = x + (match_seam(raw, x, hole) - x) * wide
        face = ((composite + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return face, (mask[:, 0] * 255 + 0.5).to(torch.uint8)  # (B, S, S, 3), (B, S, S)


class PatchGan(nn.Module):
    """PatchGAN discriminator (P. Isola et al., CVPR 2017), spectrally normalised; returns its features, logits last.

    Each of the ``halvings`` first layers halves the grid.
    """

    def __init__(self, inside: int = 4, width: int = 64, halvings: int = 3) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        widths = [inside, *(min(width * 2**i, width * 4) for i in range(halvings))]
        layers = [norm(nn.Conv2d(a, b, 4, 2, 1)) for a, b in itertools.pairwise(widths)]
        self.layers = nn.ModuleList([*layers, norm(nn.Conv2d(widths[-1], widths[-1], 3, 1, 1))])
        self.head = nn.Conv2d(widths[-1], 1, 3, 1, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return [*features, self.head(x)]
