"""Trains the aligner on prepared arrays.

    python -m trainer.aligner.train runs/data --loose runs/loose --run runs/aligner --samples 150000

Losses: distance of the soft-argmax to the point, cross-entropy of the heatmap with a Gaussian of one cell, negative log
likelihood of the distance under the expected error, cross-entropy of ``sure`` (whose target falls with the anchors'
error) and ``masked``, distance of the yaw. What is kept is the moving average of the weights. ``--start`` begins with
the weights of another run or of an exported aligner, ``--resume`` goes on after a break.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.aligner.augment import EYES
from trainer.aligner.network import CELLS, STRIDE, YAW_UNIT, AlignNet, Raw, as_input
from trainer.aligner.samples import Samples, batches, stacked
from unmask_rt.errors import MissingError, UsageError

RIGHT = 0.08
"""Mean error of the anchors, in distances of the eyes, at which ``sure`` is asked to be a half."""
MEASURED = 1024
"""Samples by which an exported aligner's normalisations are measured."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run depends on.

    Attributes:
        samples: how many in all.
        batch: of one step.
        rate: highest learning rate.
        warm: samples of the rise of the rate.
        seed: of samples and weights.
    """

    samples: int
    batch: int = 32
    rate: float = 2.5e-3
    warm: int = 4000
    seed: int = 1


def losses(raw: Raw, points: Tensor, weight: Tensor, face: Tensor) -> dict[str, Tensor]:
    """Each part of the loss.

    Args:
        raw: of a batch.
        points: (B, 7, 2) pixels of the input.
        weight: (B, 7), 0 where a point is not known.
        face: (B, 4): 1 if there is a face, yaw in degrees, 1 if masked, weight of masked.
    """
    there = face[:, 0]
    total = weight.sum().clamp(min=1)
    error = (raw.points - points).norm(dim=2)  # (B, 7) pixels
    near = F.smooth_l1_loss(raw.points, points, reduction="none", beta=0.1).sum(2)
    cells = (points - (STRIDE - 1) / 2) / STRIDE
    steps = torch.arange(CELLS, dtype=torch.float32)
    bell = torch.exp(-0.5 * (steps - cells[..., None]) ** 2)  # (B, 7, 2, 32)
    target = bell[:, :, 1, :, None] * bell[:, :, 0, None, :]
    target = target.flatten(2) / target.flatten(2).sum(2, keepdim=True).clamp(min=1e-6)
    cross = -(target * raw.heat.flatten(2).log_softmax(2)).sum(2)
    likely = raw.spread + (error.detach() + 0.05) * torch.exp(-raw.spread)
    mean_error = (error * weight).detach()[:, :6].sum(1) / weight[:, :6].sum(1).clamp(min=1) / EYES
    sure = there / (1 + (mean_error / RIGHT) ** 4)
    return {
        "near": (near * weight).sum() / total,
        "cross": 0.3 * (cross * weight).sum() / total,
        "likely": 0.2 * (likely * weight).sum() / total,
        "sure": F.binary_cross_entropy_with_logits(raw.face[:, 0], sure),
        "yaw": (F.smooth_l1_loss(raw.face[:, 1], face[:, 1] / YAW_UNIT, reduction="none", beta=0.1) * there).mean(),
        "masked": 0.5 * (
            F.binary_cross_entropy_with_logits(raw.face[:, 2], face[:, 2], reduction="none") * face[:, 3]
        ).mean(),
    }  # fmt: skip


def rate_at(settings: Settings, seen: int) -> float:
    """Learning rate after ``seen`` samples: a linear rise, then half a cosine."""
    if seen < settings.warm:
        return settings.rate * (seen + settings.batch) / settings.warm
    part = (seen - settings.warm) / max(settings.samples - settings.warm, 1)
    return settings.rate * 0.5 * (1 + math.cos(math.pi * min(part, 1.0)))


def average(shown: AlignNet, net: AlignNet, step: int) -> None:
    """Moves ``shown`` towards ``net``: a moving average over the last thousand steps, fewer at the beginning."""
    keep = min(0.999, (1 + step) / (10 + step))
    with torch.no_grad():
        for slow, fast in zip(shown.state_dict().values(), net.state_dict().values(), strict=True):
            if slow.dtype.is_floating_point:
                slow.lerp_(fast, 1 - keep)
            else:
                slow.copy_(fast)


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a checkpoint whole or not at all."""
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_net(run: Path) -> AlignNet:
    """The averaged network of a run, or that of an exported .onnx file, for use.

    Raises:
        MissingError: there is none.
        ModelError: the file is no exported aligner.
    """
    if run.is_file():
        from trainer.aligner.exported import read_net  # needs onnx, which training does not

        return read_net(run.read_bytes())
    if not (run / "checkpoint.pt").is_file():
        raise MissingError(f"there is no checkpoint in {run}", "Train one: python -m trainer.aligner.train")
    net = AlignNet()
    net.load_state_dict(torch.load(run / "checkpoint.pt", weights_only=True)["average"])
    return net.eval()


def _begun(start: Path, samples: Samples, batch: int) -> AlignNet:
    """The network of a run, or of an exported aligner, to be trained on."""
    net = load_net(start)
    if start.is_file():
        from trainer.aligner.exported import measure

        measure(net, (stacked(samples, range(k, k + batch))[0] for k in range(0, MEASURED, batch)))
    return net


def train(
    settings: Settings,
    data: Path,
    loose: Path,
    run: Path,
    *,
    extra: Sequence[tuple[Path, float]] = (),
    start: Path | None = None,
    resume: bool = False,
    workers: int = 1,
    save_minutes: float = 3.0,
    stop_at: int | None = None,
) -> AlignNet:
    """Trains, and returns the averaged network.

    Raises:
        UsageError: the folder holds a run and ``resume`` is not given.
    """
    file = run / "checkpoint.pt"
    if file.exists() and not resume:
        raise UsageError(f"{run} holds a run already", "Give --resume to go on with it, or another folder.")
    torch.manual_seed(settings.seed)
    samples = Samples(data, loose, "train", settings.seed, extra=extra)
    net = AlignNet() if start is None or file.exists() else _begun(start, samples, settings.batch)
    run.mkdir(parents=True, exist_ok=True)
    net.train()
    shown = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.rate, betas=(0.9, 0.98), weight_decay=1e-3)
    seen = 0
    if file.exists():
        stored = torch.load(file, weights_only=True)
        net.load_state_dict(stored["net"])
        shown.load_state_dict(stored["average"])
        optimizer.load_state_dict(stored["optimizer"])
        seen = int(stored["seen"])
    feed = batches(samples, settings.batch, seen, workers)
    saved = said = time.monotonic()
    said_at = seen
    sums: dict[str, float] = {}
    end = settings.samples if stop_at is None else min(stop_at, settings.samples)

    def keep() -> None:
        state = {"net": net.state_dict(), "average": shown.state_dict(), "optimizer": optimizer.state_dict()}
        save(file, state | {"seen": seen, "settings": asdict(settings)})

    while seen < end:
        crop, points, weight, face = next(feed)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(settings, seen)
        raw = net(as_input(crop))
        parts = losses(raw, points, weight, face)
        optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 20.0)
        optimizer.step()
        seen += settings.batch
        average(shown, net, seen // settings.batch)
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + float(value.detach()) * settings.batch
        now = time.monotonic()
        if seen - said_at >= 3200 or seen >= end:
            line = {"seen": seen, "rate": rate_at(settings, seen), "per_s": (seen - said_at) / (now - said)}
            line |= {name: value / (seen - said_at) for name, value in sums.items()}
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print("  ".join(f"{k} {v:.4g}" for k, v in line.items()), flush=True)
            said, said_at, sums = now, seen, {}
        if now - saved > save_minutes * 60:
            keep()
            saved = now
    keep()
    return shown.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a prepared set with its bank of masks")
    parser.add_argument("--loose", type=Path, required=True, help="its loose crops (trainer.aligner.data)")
    parser.add_argument(
        "--extra", nargs=2, action="append", default=[], metavar=("FOLDER", "SHARE"), help="see trainer.aligner.samples"
    )
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="begin with the weights of this run, or of this exported .onnx file")
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2.5e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--stop-at", type=int, metavar="SAMPLES", help="leave the rest for --resume")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    settings = Settings(given.samples, given.batch, given.rate, seed=given.seed)
    train(
        settings,
        given.data,
        given.loose,
        given.run,
        extra=[(Path(folder), float(share)) for folder, share in given.extra],
        start=given.start,
        resume=given.resume,
        workers=given.workers,
        stop_at=given.stop_at,
    )


if __name__ == "__main__":
    main()
