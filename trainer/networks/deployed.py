"""The default model as it is exported: `realtime.Unmask` without shuffling, the same numbers.

Engines move memory slower than they multiply. `Unmask` says what is computed: at full resolution, with pixel
(un)shuffles between. Here every picture stays on a grid of a quarter of the crop's side, its sixteen phases (the pixels
of each 4x4 block) as channels; the inner network's picture and the outer one's detail come out of one convolution,
bilinear doubling of the hole is a convolution with fixed weights, averages of phases and enlarging the seam's shift are
products with matrices, and only bytes are shuffled at both ends. Channels of a phased picture are ordered (row, column,
colour).

Shapes are written beside the lines: B batch, S crop side (256), Q = S/4.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.networks.realtime import Unmask

LEVELS = 127.5
_NEAR, _FAR = 0.75, 0.25
"""Weights of bilinear doubling: the pixel itself and its neighbour on the phase's side."""


class Deployed(nn.Module):
    """uint8 crops of one fixed side in, uint8 faces and maps out, as `Unmask` computes them."""

    wide_weight: Tensor
    fours: Tensor
    halves: Tensor
    whole: Tensor
    colours: Tensor
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
        inner, outer = self.edit_net.inner, self.edit_net.outer
        self.map_stem = nn.Parameter(colour_last(self.map_net.stem.weight, 2, 1))
        # The hole is given in levels too: int8 has one scale for all channels of a picture.
        inside, outside = inner.stem.weight, outer.stem.weight
        self.inner_stem = nn.Parameter(torch.cat([colour_last(inside[:, :12], 2, 1), inside[:, 12:]], 1) / LEVELS)
        self.outer_stem = nn.Parameter(torch.cat([colour_last(outside[:, :48], 4, 1), outside[:, 48:]], 1) / LEVELS)
        # The inner picture, its pixels repeated 2x2, and the detail: one convolution of both networks' features.
        assert outer.head.bias is not None and inner.head.bias is not None
        repeated = torch.arange(4) // 2  # a row (or column) of a block of 4x4 -> of half the side
        picture = [t.unflatten(0, (3, 2, 2))[:, repeated][:, :, repeated].flatten(0, 2)
                   for t in (inner.head.weight, inner.head.bias)]  # fmt: skip
        weight = torch.cat([outer.head.weight, picture[0]], 1)
        self.head_weight = nn.Parameter(colour_last(weight, 4, 0) * LEVELS)
        # Half a level more than meant: what is cut off to whole levels in the end is rounded.
        bias = outer.head.bias + picture[1]
        self.head_bias = nn.Parameter(colour_last(bias, 4, 0) * LEVELS + LEVELS + 0.5)
        self.register_buffer("fours", torch.eye(4).reshape(4, 1, 2, 2).clone())
        taps = doubling()  # (16, 4, 4)
        self.register_buffer("wide_weight", taps[:, None].clone())
        pairs = torch.eye(2).repeat_interleave(2, 1)  # (2, 4): the rows of a block by the row of half the side
        halves = torch.einsum("Rr,Cc,Kk->RCKrck", pairs, pairs, torch.eye(3)).reshape(12, 48) / 4
        self.register_buffer("halves", halves.clone())
        self.register_buffer("whole", torch.eye(3).repeat(1, 4) / 4)  # (3, 12): halves -> the block's mean
        self.register_buffer("colours", torch.eye(3).repeat(1, 16) / 16)  # (3, 48)
        grid = self.side // 8
        rows = F.interpolate(torch.eye(grid)[None, None], size=(self.side, grid), mode="bilinear", align_corners=False)
        enlarge = rows[0, 0].unflatten(0, (-1, 4)).transpose(0, 1)  # (4, Q, S/8)
        self.register_buffer("rows", enlarge[:, None, None].clone())  # (row, 1, 1, Q, S/8)
        self.register_buffer("columns", enlarge[:, None].transpose(2, 3).clone())  # (column, 1, S/8, Q)

    def forward(self, crop: Tensor) -> tuple[Tensor, Tensor]:  # uint8 (B, S, S, 3)
        q = self.side // 4
        picture = phased(crop, q)  # (B, 48, Q, Q) in 0..255
        small = mixed(self.halves, picture, q)  # (B, 12, Q, Q)
        mask = torch.sigmoid(self._map(small))  # (B, 16, Q, Q)
        hole = F.max_pool2d((F.pixel_shuffle(most(mask, q), 2) * 3 - 0.6).clamp(0, 1), 5, 1, 2)  # (B, 1, S/2, S/2)
        wide = F.conv2d(edge(hole), self.wide_weight, stride=2)  # (B, 16, Q, Q)
        keep = 1 - wide
        kept = merged(apart(picture, q) * keep.unsqueeze(2), q)
        phases = F.conv2d(hole, self.fours, stride=2)  # (B, 4, Q, Q)
        raw = self._edit(kept, keep, phases)
        error = mixed(self.whole, small, q) - mixed(self.colours, raw, q) + 0.5  # (B, 3, Q, Q)
        filling = raw + self._shift(error, phases)
        levels = kept + merged(apart(filling, q) * wide.unsqueeze(2), q)
        return faces(to_bytes(levels), q), maps(to_bytes(mask * 255 + 0.5), q)

    def _map(self, small: Tensor) -> Tensor:  # (B, 12, Q, Q) in 0..255 -> logits (B, 16, Q, Q)
        x = small / LEVELS - 1
        return self.map_net.phases(F.conv2d(x, self.map_stem, self.map_net.stem.bias, padding=1))

    def _edit(self, kept: Tensor, keep: Tensor, hole: Tensor) -> Tensor:
        """The raw filling (B, 48, Q, Q) in levels, plus a half."""
        inner, outer, q = self.edit_net.inner, self.edit_net.outer, self.side // 4
        cut = merged(apart(kept, q) - (keep * LEVELS).unsqueeze(2), q)  # zero, the middle of the range, in the hole
        hole = hole * LEVELS
        given = torch.cat([mixed(self.halves, cut, q), hole], 1)
        _, features = inner.phases(F.conv2d(given, self.inner_stem, inner.stem.bias, padding=1))
        y = F.conv2d(torch.cat([cut, hole], 1), self.outer_stem, outer.stem.bias, padding=1) + outer.grow(features)
        y = outer.body(F.relu(y))
        return F.conv2d(torch.cat([y, features], 1), self.head_weight, self.head_bias, padding=1)

    def _shift(self, error: Tensor, hole: Tensor) -> Tensor:  # (B, 3, Q, Q), (B, 4, Q, Q) -> (B, 48, Q, Q)
        small = torch.maximum(torch.maximum(hole[:, :1], hole[:, 1:2]), torch.maximum(hole[:, 2:3], hole[:, 3:]))
        ring = F.max_pool2d(small, 7, 1, 3) - small
        cells = F.avg_pool2d(torch.cat([error * ring, ring], 1), 2)  # (B, 4, S/8, S/8)
        for _ in range(3):
            cells = F.avg_pool2d(cells, 5, 1, 2, count_include_pad=False)
        shift = cells[:, :3] / (cells[:, 3:] + 0.02)
        tall = self.rows @ shift[:, None, None]  # (B, 4, 1, 3, Q, S/8)
        return (tall @ self.columns).reshape(-1, 48, self.side // 4, self.side // 4)


def unfolded(stored: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The way back from `Deployed`: its parameters by name -> weights of `MapNet` and of `EditNet`.

    What the inner network's picture and the outer one's detail share in their common bias is given to the picture.

    Raises:
        KeyError: a parameter is missing.
    """
    stored = dict(stored)
    inside, outside = (stored.pop(name) * LEVELS for name in ("inner_stem", "outer_stem"))
    stored["map_net.stem.weight"] = colour_first(stored.pop("map_stem"), 2, 1)
    stored["edit_net.inner.stem.weight"] = torch.cat([colour_first(inside[:, :12], 2, 1), inside[:, 12:]], 1)
    stored["edit_net.outer.stem.weight"] = torch.cat([colour_first(outside[:, :48], 4, 1), outside[:, 48:]], 1)
    weight = colour_first(stored.pop("head_weight") / LEVELS, 4, 0)
    bias = colour_first((stored.pop("head_bias") - LEVELS - 0.5) / LEVELS, 4, 0)
    picture = weight[:, len(outside) :].unflatten(0, (3, 4, 4))[:, ::2, ::2].flatten(0, 2)
    blocks = bias.reshape(3, 2, 2, 2, 2)  # colour, row and column of half the side, each twice
    shared = blocks.mean((2, 4), keepdim=True)
    stored["edit_net.inner.head.weight"], stored["edit_net.inner.head.bias"] = picture, shared.flatten()
    stored["edit_net.outer.head.weight"] = weight[:, : len(outside)]
    stored["edit_net.outer.head.bias"] = (blocks - shared).flatten()
    found, edit = (
        {name.removeprefix(part): value for name, value in stored.items() if name.startswith(part)}
        for part in ("map_net.", "edit_net.")
    )
    return found, edit


def colour_last(channels: Tensor, block: int, axis: int) -> Tensor:
    """Channels on an axis from the order of a pixel shuffle, (colour, row, column), to (row, column, colour)."""
    parts = channels.unflatten(axis, (3, block, block))
    return parts.movedim(axis, axis + 2).flatten(axis, axis + 2)


def colour_first(channels: Tensor, block: int, axis: int) -> Tensor:
    """The way back of `colour_last`."""
    parts = channels.unflatten(axis, (block, block, 3))
    return parts.movedim(axis + 2, axis).flatten(axis, axis + 2)


def to_bytes(x: Tensor) -> Tensor:
    """Levels, cut off to whole ones within 0..255."""
    return x.clamp(0, 255).to(torch.uint8)


def doubling() -> Tensor:
    """Bilinear doubling of blocks of 2x2 into blocks of 4x4, for a stride of 2: (16 phases as (row, column), 4, 4)."""
    taps = torch.tensor(
        [[_FAR, _NEAR, 0.0, 0.0], [0.0, _NEAR, _FAR, 0.0], [0.0, _FAR, _NEAR, 0.0], [0.0, 0.0, _NEAR, _FAR]]
    )
    return torch.einsum("ri,cj->rcij", taps, taps).flatten(0, 1)


def edge(x: Tensor) -> Tensor:
    """Padded by one pixel of its own border: what bilinear enlarging sees there."""
    return F.pad(x, (1, 1, 1, 1), mode="replicate")


def mixed(matrix: Tensor, x: Tensor, q: int) -> Tensor:
    """The channels of (B, C, Q, Q) mixed by a matrix (K, C), at every place alike: (B, K, Q, Q)."""
    return (matrix @ x.reshape(-1, matrix.shape[1], q * q)).reshape(-1, matrix.shape[0], q, q)


def most(mask: Tensor, q: int) -> Tensor:
    """The greatest of each 2x2 pixels: 16 phases -> 4."""
    rows = mask.reshape(-1, 2, 2, 4, q, q)
    columns = torch.maximum(rows[:, :, 0], rows[:, :, 1]).reshape(-1, 2, 2, 2, q, q)
    return torch.maximum(columns[:, :, :, 0], columns[:, :, :, 1]).reshape(-1, 4, q, q)


def phased(crop: Tensor, q: int) -> Tensor:
    """uint8 (B, S, S, 3) -> float (B, 48, Q, Q); rows are taken apart before pixels, as long runs copy faster."""
    rows = crop.reshape(-1, q, 4, q * 12).permute(0, 2, 1, 3).reshape(-1, 4, q * q, 12)
    return rows.transpose(2, 3).reshape(-1, 48, q, q).to(torch.float32)


def faces(levels: Tensor, q: int) -> Tensor:
    """uint8 (B, 48, Q, Q) -> (B, S, S, 3)."""
    rows = levels.reshape(-1, 4, 12, q * q).transpose(2, 3).reshape(-1, 4, q, q * 12)
    return rows.permute(0, 2, 1, 3).reshape(-1, q * 4, q * 4, 3)


def maps(levels: Tensor, q: int) -> Tensor:
    """uint8 (B, 16, Q, Q) -> (B, S, S)."""
    rows = levels.reshape(-1, 4, 4, q * q).transpose(2, 3).reshape(-1, 4, q, q * 4)
    return rows.permute(0, 2, 1, 3).reshape(-1, q * 4, q * 4)


def apart(x: Tensor, q: int) -> Tensor:
    """(B, 48, Q, Q) -> (B, 16 phases, 3 colours, Q, Q)."""
    return x.reshape(-1, 16, 3, q, q)


def merged(x: Tensor, q: int) -> Tensor:
    """The way back."""
    return x.reshape(-1, 48, q, q)
