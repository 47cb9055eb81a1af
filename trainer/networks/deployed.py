"""The default model as it is exported: `realtime.Unmask` with its last level rearranged, the same numbers.

Engines move memory slower than they multiply. `Unmask` says what is computed: at full resolution, with pixel
(un)shuffles between. Here every picture stays at half the crop's side, its four phases (the pixels of each 2x2 block)
as channels; bilinear doubling is a fixed 3x3 convolution for each phase, enlarging the seam's shift a product with two
matrices, and only bytes are shuffled at both ends. Channels of a phased picture are ordered (row, column, colour).

Shapes are written beside the lines: B batch, S crop side (256), H = S/2.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.realtime import Unmask, up2

LEVELS = 127.5
_NEAR, _FAR = 0.75, 0.25
"""Weights of bilinear doubling: the pixel itself and its neighbour on the phase's side."""


class Deployed(nn.Module):
    """uint8 crops of one fixed side in, uint8 faces and maps out, as `Unmask` computes them."""

    wide_weight: Tensor
    coarse_weight: Tensor
    quarters: Tensor
    rows: Tensor
    columns: Tensor

    def __init__(self, model: Unmask, side: int = 256) -> None:
        super().__init__()
        self.map_net, self.edit_net = model.map_net, model.edit_net
        self.side = side
        with torch.no_grad():
            self._fold()

    def _fold(self) -> None:
        """Weights in the order and in the units in which they are used here."""
        outer = self.edit_net.outer
        weight = outer.stem.weight  # (W, 12 as (colour, row, column) + 1 for the hole, 3, 3)
        crop = weight[:, :12].unflatten(1, (3, 4)).transpose(1, 2)  # (W, 4, 3, 3, 3)
        self.stem_weight = nn.Parameter(torch.cat([crop.flatten(1, 2) / LEVELS, weight[:, 12:]], 1))
        assert outer.head.bias is not None
        head = with_mean(outer.head.weight.unflatten(0, (3, 4)).transpose(0, 1) * LEVELS)
        bias = with_mean(outer.head.bias.unflatten(0, (3, 4)).transpose(0, 1) * LEVELS + LEVELS)
        self.head_weight, self.head_bias = nn.Parameter(head), nn.Parameter(bias)
        phases = doubling()  # (4, 1, 3, 3)
        self.register_buffer("wide_weight", phases)
        colours = torch.eye(3)[None, :, :, None, None] * phases[:, None] * LEVELS
        self.register_buffer("coarse_weight", with_mean(colours))  # (15, 3, 3, 3)
        self.register_buffer("quarters", torch.full((1, 4), 0.25))
        grid = self.side // 8
        rows = F.interpolate(torch.eye(grid)[None, None], size=(self.side, grid), mode="bilinear", align_corners=False)
        enlarge = rows[0, 0].unflatten(0, (-1, 2)).transpose(0, 1)  # (2, H, S/8)
        self.register_buffer("rows", enlarge[:, None, None].clone())  # (row, 1, 1, H, S/8)
        self.register_buffer("columns", enlarge[:, None].transpose(2, 3).clone())  # (column, 1, S/8, H)

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor]:  # uint8 (B, S, S, 3)
        half = self.side // 2
        picture = phased(crop, half)  # (B, 12, H, H) in 0..255
        small = self._mean(picture)
        mask = torch.sigmoid(self._map(small / LEVELS - 1))  # (B, 4, H, H)
        most = F.max_pool2d(mask.reshape(-1, 1, 4, half * half), (4, 1)).reshape(-1, 1, half, half)
        hole = F.max_pool2d((most * 3 - 0.6).clamp(0, 1), 5, 1, 2)  # (B, 1, H, H)
        wide = F.conv2d(edge(hole), self.wide_weight)  # (B, 4, H, H)
        keep = 1 - wide
        kept = merged(apart(picture, half) * keep.unsqueeze(2), half)
        raw = self._edit(kept, keep, hole)
        shifted = raw[:, :12] + self._shift(small - raw[:, 12:], hole)
        levels = kept + merged(apart(shifted, half) * wide.unsqueeze(2), half)
        return faces(to_bytes(levels), half), maps(to_bytes(mask * 255), half)

    def _map(self, x: Tensor) -> Tensor:  # (B, 3, H, H) -> logits (B, 4, H, H)
        net = self.map_net
        x, skips = net.stem(x), []
        for down, encode in zip(net.down, net.encode, strict=True):
            skips.append(x)
            x = encode(down(F.leaky_relu(x, 0.2)))
        x = net.middle(x)
        for narrow, decode in zip(net.narrow, net.decode, strict=True):
            x = decode(up2(narrow(F.leaky_relu(x, 0.2))) + skips.pop())
        logits: Tensor = net.head(F.leaky_relu(x, 0.2))
        return logits

    def _edit(self, kept: Tensor, keep: Tensor, hole: Tensor) -> Tensor:
        """The raw filling (B, 12, H, H) in levels and, as three more channels, its mean over the phases."""
        half, inner, outer = self.side // 2, self.edit_net.inner, self.edit_net.outer
        zero = (keep * LEVELS).unsqueeze(2)  # the middle of the range
        cut = merged(apart(kept, half) - zero, half)
        x = self._mean(cut) / LEVELS
        coarse, features = inner(x, hole)  # (B, 3, H, H), (B, b, H/2, H/2)
        y = F.conv2d(torch.cat([cut, hole], 1), self.stem_weight, outer.stem.bias, padding=1)
        y = F.leaky_relu(y + F.pixel_shuffle(outer.grow(features), 2), 0.2)
        detail = F.conv2d(F.leaky_relu(outer.body(y), 0.2), self.head_weight, self.head_bias, padding=1)
        return detail + F.conv2d(edge(coarse), self.coarse_weight)

    def _shift(self, error: Tensor, hole: Tensor) -> Tensor:  # (B, 3, H, H) -> (B, 12, H, H)
        ring = F.max_pool2d(hole, 13, 1, 6) - hole
        cells = F.avg_pool2d(torch.cat([error * ring, ring], 1), 4)  # (B, 4, S/8, S/8)
        for _ in range(3):
            cells = F.avg_pool2d(cells, 5, 1, 2, count_include_pad=False)
        shift = cells[:, :3] / (cells[:, 3:] + 0.02)
        tall = self.rows @ shift[:, None, None]  # (B, 2, 1, 3, H, S/8)
        return (tall @ self.columns).reshape(-1, 12, self.side // 2, self.side // 2)

    def _mean(self, x: Tensor) -> Tensor:
        """Of the four phases: (B, 12, H, H) -> (B, 3, H, H); a product is several times as fast as a reduction."""
        half = self.side // 2
        return (self.quarters @ x.reshape(-1, 4, 3 * half * half)).reshape(-1, 3, half, half)


def with_mean(phases: Tensor) -> Tensor:
    """Output channels (4, 3, ...) -> (15, ...): the twelve, and the mean of the phases for each colour."""
    return torch.cat([phases.flatten(0, 1), phases.mean(0)])


def to_bytes(x: Tensor) -> Tensor:
    return (x + 0.5).clamp(0, 255).to(torch.uint8)


def doubling() -> Tensor:
    """Bilinear doubling as a convolution: (4 phases as (row, column), 1, 3, 3)."""
    taps = torch.tensor([[_FAR, _NEAR, 0.0], [0.0, _NEAR, _FAR]])
    return (taps[:, None, :, None] * taps[None, :, None, :]).reshape(4, 1, 3, 3)


def edge(x: Tensor) -> Tensor:
    """Padded by one pixel of its own border: what bilinear enlarging sees there."""
    return F.pad(x, (1, 1, 1, 1), mode="replicate")


def phased(crop: Tensor, half: int) -> Tensor:
    """uint8 (B, S, S, 3) -> float (B, 12, H, H); rows are taken apart before pixels, as long runs copy faster."""
    rows = crop.reshape(-1, half, 2, half * 6).permute(0, 2, 1, 3).reshape(-1, 2, half * half, 6)
    return rows.transpose(2, 3).reshape(-1, 12, half, half).to(torch.float32)


def faces(levels: Tensor, half: int) -> Tensor:
    """uint8 (B, 12, H, H) -> (B, S, S, 3)."""
    rows = levels.reshape(-1, 2, 6, half * half).transpose(2, 3).reshape(-1, 2, half, half * 6)
    return rows.permute(0, 2, 1, 3).reshape(-1, half * 2, half * 2, 3)


def maps(levels: Tensor, half: int) -> Tensor:
    """uint8 (B, 4, H, H) -> (B, S, S)."""
    rows = levels.reshape(-1, 2, 2, half * half).transpose(2, 3).reshape(-1, 2, half, half * 2)
    return rows.permute(0, 2, 1, 3).reshape(-1, half * 2, half * 2)


def apart(x: Tensor, half: int) -> Tensor:
    """(B, 12, H, H) -> (B, 4 phases, 3 colours, H, H)."""
    return x.reshape(-1, 4, 3, half, half)


def merged(x: Tensor, half: int) -> Tensor:
    """The way back."""
    return x.reshape(-1, 12, half, half)
