"""Training samples made on a GPU: the faces lie in its memory, and masks, poses and light are changed there.

What `data.Faces` with the jitter "camera" does, for the editing module, in torch: a processor of sixteen cores makes a
thousand such samples a second, a GPU trains on twice as many. Two things differ. Every second mask is one of another
face (in an aligned crop it nearly fits), so that a face is never seen with the same hole for long. And heads that are
turned further are drawn once, ahead (`turned`).

Randomness comes from torch's global generator. On a GPU the making of a batch is recorded once and replayed, as the
training's steps are (`recorded`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.augment import SIZE, camera, valid_of
from trainer.data import Batch, Faces
from trainer.turned import draw_turned
from unmask_rt.errors import UsageError

FOREIGN = 0.5
"""Share of faces that wear the mask of another one."""
TURNED_HEADS = 12_000
"""Heads that are turned ahead."""
OUT_OF_SHAPE = 2.5
"""Deviation in pixels by which points a third of the crop apart are moved."""
WARM_BATCHES = 3
ROWS_A_COPY = 1024
_LUMINANCE = (16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17,
              22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78,
              87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)  # fmt: skip
"""Quantisation of luma in JPEG at quality 50 (ISO/IEC 10918-1, table K.1); it stands for chroma here, too."""


@dataclass(frozen=True, slots=True)
class Held:
    """Faces and masks in a device's memory: N faces, V masks of each, T turned heads.

    Attributes:
        masked: uint8[V N + T, 256, 256, 3], variant by variant; the turned ones last.
        alpha: uint8[V N + T, 256, 256].
        truth, valid: uint8[N + T, 256, 256, 3] and uint8[N + T, 256, 256].
        cumulated: float32[V N], how often each mask is drawn, summed up to 1.
        last: place of the last mask that is drawn at all.
        faces, heads: N and T.
    """

    masked: Tensor
    alpha: Tensor
    truth: Tensor
    valid: Tensor
    cumulated: Tensor
    last: int
    faces: int
    heads: int


def hold(faces: Faces, device: torch.device) -> Held:
    """Moves what samples are made of into a device's memory; heads are turned where ``faces`` has any.

    Raises:
        UsageError: the samples need what is made on the processor only.
    """
    check(faces)
    arrays, usable = faces.opened(), faces.usable()  # (V, N)
    weights = np.diff(faces.cumulated, prepend=0.0) * usable / np.maximum(usable.sum(0), 1)
    weights /= weights.sum()
    worn: list[tuple[int, int]] = []
    if faces.turned:
        rng = np.random.default_rng([faces.seed, 2])
        drawn = rng.choice(weights.size, TURNED_HEADS, p=weights.ravel()).tolist()
        worn = [divmod(place, usable.shape[1]) for place in drawn]
    turned = draw_turned(faces.data, worn, seed=faces.seed)
    valid = np.stack([valid_of(corners) for corners in arrays["corners"]])
    return Held(
        masked=_moved([*arrays["masked"], turned["masked"]], device),
        alpha=_moved([*arrays["alpha"], turned["alpha"]], device),
        truth=_moved([arrays["crops"], turned["truth"]], device),
        valid=_moved([valid, turned["valid"]], device),
        cumulated=torch.tensor(np.cumsum(weights), dtype=torch.float32, device=device),
        last=int(np.flatnonzero(weights)[-1]),
        faces=usable.shape[1],
        heads=len(worn),
    )


def check(faces: Faces) -> None:
    """Refuses samples that only a processor makes.

    Raises:
        UsageError: it is so.
    """
    of_maps = faces.bare, faces.dressed, faces.shaded, faces.trimmed, faces.coloured, faces.real_share
    if any(of_maps) or faces.in_front or faces.jitter is not camera:
        hint = "Train this stage without --resident."
        raise UsageError("only samples of the editing module are made on a GPU", hint)


def _moved(parts: Sequence[np.ndarray], device: torch.device) -> Tensor:
    """Arrays one after the other in a device's memory."""
    whole = torch.empty((sum(map(len, parts)), *parts[0].shape[1:]), dtype=torch.uint8, device=device)
    place = 0
    for part in parts:
        for start in range(0, len(part), ROWS_A_COPY):
            rows = torch.from_numpy(np.array(part[start : start + ROWS_A_COPY]))
            whole[place : place + len(rows)] = rows.to(device)
            place += len(rows)
    return whole


class Resident:
    """Batches of augmented pairs, made where the faces lie.

    Args:
        held: the faces and their masks.
        faces: the samples as the processor would make them: at which side, and how they are changed.
        batch: pictures a batch.

    Raises:
        UsageError: the samples need what is made on the processor only.
    """

    def __init__(self, held: Held, faces: Faces, batch: int) -> None:
        check(faces)
        self.held, self.size, self.batch, self.device = held, faces.size, batch, held.truth.device
        self.share_turned, self.share_off = faces.turned, faces.stood_off
        self.x = torch.arange(SIZE, dtype=torch.float32, device=self.device)
        steps = torch.arange(8, dtype=torch.float32)
        cosines = torch.cos((2 * steps[None] + 1) * steps[:, None] * math.pi / 16) / 2
        cosines[0] /= math.sqrt(2)
        self.cosines = cosines.to(self.device)
        self.table = torch.tensor(_LUMINANCE, dtype=torch.float32).view(1, 1, 1, 8, 1, 8).to(self.device)

    def __iter__(self) -> Iterator[Batch]:
        if self.device.type != "cuda":
            while True:
                yield self.draw()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_BATCHES):
                self.draw()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            made = self.draw()
        while True:
            graph.replay()
            yield made

    @torch.no_grad()
    def draw(self) -> Batch:
        """One batch."""
        held, (place, row) = self.held, self._choose()
        masked, truth, alpha, valid = (
            planes[chosen].view(self.batch, SIZE, SIZE, -1).permute(0, 3, 1, 2).to(torch.float32)
            for planes, chosen in ((held.masked, place), (held.truth, row), (held.alpha, place), (held.valid, row))
        )  # (B, C, 256, 256) in 0..255
        masked, alpha = self._other_masks(masked, truth, alpha)
        masked, alpha = self._stand_off(masked, alpha)
        masked, truth, alpha, valid = self._pose(masked, truth, alpha, valid)
        masked, truth = self._light(masked, truth)
        masked = self._jpeg(self._noise(masked))
        return Batch(*(as_bytes(plane) for plane in (masked, truth, alpha, valid)))

    def _random(self, low: float = 0.0, high: float = 1.0) -> Tensor:  # (B, 1, 1, 1)
        return torch.rand(self.batch, 1, 1, 1, device=self.device) * (high - low) + low

    def _normal(self, deviation: float, channels: int = 1) -> Tensor:  # (B, C, 1, 1)
        return torch.randn(self.batch, channels, 1, 1, device=self.device) * deviation

    def _choose(self) -> tuple[Tensor, Tensor]:
        """Places of a batch's masks, and of their faces."""
        held, place = self.held, self._any_mask()
        row = place % held.faces
        if held.heads and self.share_turned:
            head = torch.randint(held.heads, (self.batch,), device=self.device)
            turned = torch.rand(self.batch, device=self.device) < self.share_turned
            place = torch.where(turned, len(held.cumulated) + head, place)
            row = torch.where(turned, held.faces + head, row)
        return place, row

    def _any_mask(self) -> Tensor:
        drawn = torch.searchsorted(self.held.cumulated, torch.rand(self.batch, device=self.device), right=True)
        return drawn.clamp(max=self.held.last)

    def _other_masks(self, masked: Tensor, truth: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """Masks of other faces, of one grey, with a shadow around them."""
        cover = self.held.alpha[self._any_mask()][:, None].to(torch.float32)
        cover = torch.where(self._random() < 0.5, cover, cover.flip(3))
        near = F.avg_pool2d(F.avg_pool2d(cover, 9, 1, 4), 9, 1, 4) / 255
        shaded = truth * (1 - near * self._random(0.0, 0.5))
        worn = shaded + (self._random(0.0, 255.0) - shaded) * cover / 255
        chosen = self._random() < FOREIGN
        return torch.where(chosen, worn, masked), torch.where(chosen, cover, alpha)

    def _stand_off(self, masked: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
        """`augment.stand_off`."""
        covered = (alpha > 127).any(2, keepdim=True)  # (B, 1, 1, 256)
        left = torch.where(covered, self.x, 999.0).amin(3, keepdim=True)
        right = torch.where(covered, self.x, -1.0).amax(3, keepdim=True)
        pivot, wider = left + (right - left) * self._random(0.35, 0.65), 1 + self._random(0.05, 0.35)
        outside = torch.where(self._random() < 0.5, self.x > pivot, self.x < pivot)
        pulled = (self._random() < self.share_off) & (right - left >= 31)
        source = torch.where(outside & pulled, pivot + (self.x - pivot) / wider, self.x)  # (B, 1, 1, 256)
        rows = self.x.view(1, 1, SIZE, 1) + self._random(-0.1, 0.1) * (source - self.x)
        moved = sampled(torch.cat([masked, alpha], 1), source.expand(-1, -1, SIZE, -1), rows)
        cover = moved[:, 3:]
        return masked + (moved[:, :3] - masked) * cover / 255, torch.maximum(alpha, cover)

    def _pose(self, masked: Tensor, truth: Tensor, alpha: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        """Turned, scaled, shifted and mirrored, and drawn a little out of shape: other people have other proportions.
        Gives all four at the side of the samples."""
        angle, scale = self._normal(math.radians(3.5)), torch.exp(self._normal(0.045))
        middle = (SIZE - 1) / 2
        x = self.x - middle - self._normal(4.0)  # (B, 1, 1, 256)
        y = self.x.view(1, 1, SIZE, 1) - middle - self._normal(4.0)
        c, s = torch.cos(angle) / scale, torch.sin(angle) / scale
        bent = torch.randn(self.batch, 2, 4, 4, device=self.device) * OUT_OF_SHAPE
        bent = F.interpolate(bent, size=(SIZE, SIZE), mode="bicubic", align_corners=True)
        columns, rows = c * x - s * y + bent[:, :1], s * x + c * y + bent[:, 1:]
        columns = torch.where(self._random() < 0.5, columns, -columns) + middle
        rows = rows + middle
        planes = sampled(torch.cat([masked, truth, alpha, valid], 1), columns, rows)
        inside = (columns >= 0) & (columns <= SIZE - 1) & (rows >= 0) & (rows <= SIZE - 1)
        sure = (planes[:, 7:] > 254) & inside
        planes = torch.cat([planes[:, :7], sure * 255.0], 1)
        if self.size != SIZE:
            planes = F.avg_pool2d(planes, SIZE // self.size)
        masked, truth, alpha, valid = planes.split((3, 3, 1, 1), 1)
        return masked, truth, alpha, (valid > 254) * 255.0

    def _light(self, masked: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """`augment.tone_curve`, and blur now and then."""
        both = torch.cat([masked, truth], 1).clamp(0, 255) / 255
        both = both ** torch.exp(self._normal(0.18))
        both = (both - 0.5) * torch.exp(self._normal(0.1)) + 0.5 + self._normal(0.03)
        gain = torch.exp(self._normal(0.12) + self._normal(0.04, 3))
        both = (both * gain.repeat(1, 2, 1, 1) * 255).clamp(0, 255)
        width = torch.where(self._random() < 0.15, self._random(0.4, 1.6) * self.size / SIZE, 0.05)
        taps = torch.exp(-((self.x[:9] - 4) ** 2) / (2 * width.view(-1, 1) ** 2))  # (B, 9)
        taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(6, 0)
        flat = F.pad(both.reshape(1, -1, self.size, self.size), (4, 4, 4, 4), mode="replicate")
        flat = F.conv2d(flat, taps.view(-1, 1, 1, 9), groups=len(taps))
        flat = F.conv2d(flat, taps.view(-1, 1, 9, 1), groups=len(taps))
        both = flat.view(self.batch, 6, self.size, self.size)
        return both[:, :3], both[:, 3:]

    def _noise(self, masked: Tensor) -> Tensor:
        deviation = self._random(1.0, 7.0) * (self._random() < 0.2)
        return (masked + torch.randn_like(masked[:, :1]) * deviation).clamp(0, 255)

    def _jpeg(self, masked: Tensor) -> Tensor:
        """Luma and halved chroma in blocks of 8 x 8, their cosines rounded to steps (ISO/IEC 10918-1)."""
        quality = self._random(30.0, 90.0)
        scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality).view(-1, 1, 1, 1, 1, 1)
        steps = ((self.table * scale + 50) / 100).floor().clamp(1, 255)
        red, green, blue = masked.split(1, 1)
        luma = 0.299 * red + 0.587 * green + 0.114 * blue
        chroma = torch.cat([blue - luma, red - luma], 1) * 0.5
        luma = self._rounded(luma - 128, steps) + 128
        chroma = F.interpolate(self._rounded(F.avg_pool2d(chroma, 2), steps), scale_factor=2.0)
        blue, red = luma + 2 * chroma[:, :1], luma + 2 * chroma[:, 1:]
        green = (luma - 0.299 * red - 0.114 * blue) / 0.587
        return torch.where(self._random() < 0.3, torch.cat([red, green, blue], 1), masked)

    def _rounded(self, plane: Tensor, steps: Tensor) -> Tensor:
        blocks = plane.reshape(*plane.shape[:2], plane.shape[2] // 8, 8, plane.shape[3] // 8, 8)
        cosines = torch.einsum("uy,vx,bchywx->bchuwv", self.cosines, self.cosines, blocks)
        rounded = (cosines / steps).round() * steps
        return torch.einsum("uy,vx,bchuwv->bchywx", self.cosines, self.cosines, rounded).reshape(plane.shape)


def sampled(planes: Tensor, columns: Tensor, rows: Tensor) -> Tensor:
    """Planes (B, C, 256, 256) read between pixels at columns and rows (B, 1, 256, 256); borders are repeated."""
    grid = torch.cat([columns, rows], 1).permute(0, 2, 3, 1) * (2 / SIZE) + (1 / SIZE - 1)
    return F.grid_sample(planes, grid, mode="bilinear", padding_mode="border", align_corners=False)


def as_bytes(plane: Tensor) -> Tensor:
    return (plane + 0.5).clamp(0, 255).to(torch.uint8)
