"""Trains one network of a preset.

    python -m trainer.train --preset realtime-edit --data runs/data --run runs/edit --minutes 90 [--resume]

A run folder holds ``checkpoint.pt`` (all state, written atomically), ``log.jsonl`` (figures), ``sheet.jpg`` (masked |
result | truth on fixed validation faces). Interrupting loses what came after the last checkpoint, nothing else.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer import losses
from trainer.data import Batch, Faces, batches
from trainer.networks.realtime import EditNet, MapNet, PatchGan, channels_last, complete, cut


def lower_face(pictures: Tensor) -> Tensor:
    """The lower face of crops (B, C, s, s), (B, C, 5s/8, 5s/8): where features and the discriminator look."""
    s = pictures.shape[2] // 32
    return pictures[:, :, 11 * s : 31 * s, 6 * s : 26 * s]


def load_preset(name: str) -> dict[str, Any]:
    """A preset by name (a file in ``presets/``) or by path."""
    path = Path(name) if name.endswith(".toml") else Path(__file__).parent / "presets" / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.toml")))
        raise FileNotFoundError(f"no preset {name!r}; there are: {known}")
    return tomllib.loads(path.read_text())


class EditTrainer:
    """Generator and discriminator of the editing module."""

    def __init__(self, preset: dict[str, Any]) -> None:
        self.preset = preset
        self.network = channels_last(EditNet())
        self.discriminator = channels_last(PatchGan())
        self.perceptual = channels_last(losses.Perceptual(preset["backbone"]))
        self.optimizer = torch.optim.Adam(self.network.parameters(), preset["learning_rate"], (0.9, 0.99), fused=True)
        self.critic = torch.optim.Adam(
            self.discriminator.parameters(), preset["discriminator_learning_rate"], (0.5, 0.99), fused=True
        )

    def state(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {
            "network": self.network,
            "discriminator": self.discriminator,
            "optimizer": self.optimizer,
            "critic": self.critic,
        }

    def hole(self, alpha: Tensor) -> Tensor:
        """The true hole, now and then a little too wide or too narrow, as a found map is."""
        widen = int(torch.randint(-1, 3, ()))
        if widen > 0:
            alpha = F.max_pool2d(alpha, 2 * widen + 1, 1, widen)
        elif widen < 0:
            alpha = -F.max_pool2d(-alpha, 3, 1, 1)
        return self.cut(alpha)

    def cut(self, alpha: Tensor) -> Tensor:
        """The hole at half the crop's side, from alpha at the side of the samples."""
        return cut(F.max_pool2d(alpha, 2) if self.preset["size"] == 256 else alpha)

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        weights = self.preset["loss"]
        x, truth, alpha, valid = batch.floats()
        raw, composite, wide = complete(self.network, x, self.hole(alpha))
        composite = truth + (composite - truth) * valid
        seen, real, small = lower_face(composite), lower_face(truth), lower_face(wide * valid)
        halves = [F.avg_pool2d(t, 2) if t.shape[2] > 80 else t for t in (seen, real, small)]
        terms = {
            "l1_hole": losses.weighted_l1(raw, truth, wide * valid),
            "l1_rest": losses.weighted_l1(raw, truth, (1 - wide) * (1 - alpha) * valid),
            "ssim": losses.strided_ssim(*halves),
            "perceptual": self.perceptual(*halves[:2]),
        }
        adversarial = progress >= self.preset["gan_from"]
        figures = {}
        if adversarial:
            figures["critic"] = self.judge(seen.detach(), real, small)
            self.discriminator.requires_grad_(False)
            terms["adversarial"], terms["matching"] = losses.generator_terms(
                self.discriminator, torch.cat([seen, small], 1), torch.cat([real, small], 1)
            )
            self.discriminator.requires_grad_(True)
        total = sum((weights[name] * term for name, term in terms.items()), torch.zeros(()))
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()
        figures["norm"] = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.preset["clip"]))
        self.optimizer.step()
        error = ((composite - truth).square() * wide * valid).detach().sum((1, 2, 3)) / (
            (wide * valid).sum((1, 2, 3)) * 3
        ).clamp(min=1)
        figures["hole_psnr"] = float((10 * torch.log10(4 / error.clamp(min=1e-6))).mean())
        return figures | {name: float(term.detach()) for name, term in terms.items()}

    def judge(self, fake: Tensor, real: Tensor, hole: Tensor) -> float:
        """One step of the discriminator."""
        both = self.discriminator(torch.cat([torch.cat([real, hole], 1), torch.cat([fake, hole], 1)]))[-1]
        loss = losses.hinge_discriminator(*both.chunk(2))
        self.critic.zero_grad(set_to_none=True)
        loss.backward()
        self.critic.step()
        return float(loss.detach())

    @torch.no_grad()
    def sheet(self, network: nn.Module, batch: Batch) -> np.ndarray:
        x, truth, alpha, _ = batch.floats()
        assert isinstance(network, EditNet)
        _, composite, _ = complete(network, x, self.cut(alpha))
        return rows(x, composite, truth)


class MapTrainer:
    """The map module."""

    def __init__(self, preset: dict[str, Any]) -> None:
        self.preset = preset
        self.network = channels_last(MapNet())
        self.optimizer = torch.optim.Adam(self.network.parameters(), preset["learning_rate"], (0.9, 0.99), fused=True)

    def state(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        return {"network": self.network, "optimizer": self.optimizer}

    def step(self, batch: Batch, progress: float) -> dict[str, float]:
        x, _, alpha, valid = batch.floats()
        logits = self.network(x)
        loss = losses.map_loss(logits, alpha, valid)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.preset["clip"]))
        self.optimizer.step()
        found, hole = logits.detach() > 0, alpha > 0.5
        iou = (found & hole).sum() / (found | hole).sum().clamp(min=1)
        return {"loss": float(loss.detach()), "iou": float(iou), "norm": norm}

    @torch.no_grad()
    def sheet(self, network: nn.Module, batch: Batch) -> np.ndarray:
        x, _, alpha, _ = batch.floats()
        shown = torch.sigmoid(network(x)) * 2 - 1
        return rows(x, shown.expand(-1, 3, -1, -1), (alpha * 2 - 1).expand(-1, 3, -1, -1))


TRAINERS: dict[str, Callable[[dict[str, Any]], EditTrainer | MapTrainer]] = {"edit": EditTrainer, "map": MapTrainer}


def rows(*columns: Tensor) -> np.ndarray:
    """Batches of pictures in -1..1 side by side, one row a sample, uint8 RGB."""
    pictures = [((c.float() + 1) * 127.5).clamp(0, 255).byte().permute(0, 2, 3, 1).numpy() for c in columns]
    return np.vstack([np.hstack(list(row)) for row in zip(*pictures, strict=True)])


def save(path: Path, trainer: EditTrainer | MapTrainer, average: nn.Module, meta: dict[str, Any]) -> None:
    """Writes a checkpoint atomically."""
    state = {name: part.state_dict() for name, part in trainer.state().items()}
    partial = path.with_suffix(".partial")
    torch.save(state | {"average": average.state_dict(), "meta": meta}, partial)
    os.replace(partial, path)


def learning_rate_at(progress: float, step: int) -> float:
    """Warm-up over 200 steps, flat, then a cosine to 5 % over the last half of the run."""
    late = max(0.0, progress - 0.5) * 2
    return min(1.0, (step + 1) / 200) * (0.05 + 0.95 * 0.5 * (1 + float(np.cos(np.pi * min(late, 1.0)))))


def train(
    preset: dict[str, Any],
    data: Path,
    run: Path,
    *,
    minutes: float,
    resume: bool,
    start: Path | None = None,
    real: Path | None = None,
    workers: int = 1,
) -> None:
    """Runs a preset for so many minutes (all its parts together), from scratch or another run's averaged weights."""
    torch.manual_seed(preset["seed"])
    run.mkdir(parents=True, exist_ok=True)
    trainer = TRAINERS[preset["network"]](preset)
    average = copy.deepcopy(trainer.network).requires_grad_(False).eval()
    if start is not None:
        stored = torch.load(start / "checkpoint.pt", weights_only=True)
        trainer.network.load_state_dict(stored["average"])
        average.load_state_dict(stored["average"])
        if "discriminator" in stored and "discriminator" in trainer.state():
            trainer.state()["discriminator"].load_state_dict(stored["discriminator"])
    step, spent = 0, 0.0
    checkpoint = run / "checkpoint.pt"
    if resume and checkpoint.exists():
        stored = torch.load(checkpoint, weights_only=True)
        for name, part in trainer.state().items():
            part.load_state_dict(stored[name])
        average.load_state_dict(stored["average"])
        step, spent = stored["meta"]["step"], stored["meta"]["seconds"]
    size = preset["batch"]
    dataset = Faces(
        data,
        "train",
        preset["seed"],
        preset["sources"],
        bare=preset.get("bare", 0.0),
        dressed=preset.get("dressed", 0.0),
        size=preset["size"],
        real=real,
        real_share=preset.get("real_share", 0.0),
    )
    fixed_set = Faces(data, "validation", 0, preset["sources"], augment=False, size=preset["size"])
    fixed = Batch(*(torch.from_numpy(np.stack(a)) for a in zip(*(fixed_set[i * 37] for i in range(12)), strict=True)))
    base = {"optimizer": preset["learning_rate"], "critic": preset.get("discriminator_learning_rate", 0.0)}
    began, saved, waited, figures, logged = time.monotonic(), time.monotonic(), 0.0, {}, time.monotonic()
    gathered: dict[str, list[float]] = {}
    stream = batches(dataset, size, step * size, workers)
    while True:
        now = time.monotonic()
        progress = (spent + now - began) / (minutes * 60)
        if progress >= 1:
            break
        batch = next(stream)
        waited += time.monotonic() - now
        for name, part in trainer.state().items():
            if isinstance(part, torch.optim.Optimizer):
                for group in part.param_groups:
                    group["lr"] = base[name] * learning_rate_at(progress, step)
        figures = trainer.step(batch, progress)
        step += 1
        decay = min(preset["ema"], step / (step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(trainer.network.parameters()), 1 - decay)
        for name, value in figures.items():
            gathered.setdefault(name, []).append(value)
        if step % 100 == 0:
            seconds = time.monotonic() - logged
            line = {
                "step": step,
                "progress": round(progress, 4),
                "images_per_s": round(100 * size / seconds, 1),
                "waiting": round(waited / seconds, 3),
            }
            line |= {name: round(float(np.mean(values)), 4) for name, values in gathered.items()}
            print(json.dumps(line), flush=True)
            with (run / "log.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            gathered, waited, logged = {}, 0.0, time.monotonic()
        if time.monotonic() - saved > 240 or step == 50:
            save(checkpoint, trainer, average, {"step": step, "seconds": spent + time.monotonic() - began})
            picture = trainer.sheet(average, fixed)
            cv2.imwrite(str(run / "sheet.jpg"), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
            saved = time.monotonic()
    save(checkpoint, trainer, average, {"step": step, "seconds": spent + time.monotonic() - began})
    cv2.imwrite(str(run / "sheet.jpg"), cv2.cvtColor(trainer.sheet(average, fixed), cv2.COLOR_RGB2BGR))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--start", type=Path, help="run folder whose weights to begin with")
    parser.add_argument("--real", type=Path, help="folder of pseudo labels, for the map module")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train(
        load_preset(arguments.preset),
        arguments.data,
        arguments.run,
        minutes=arguments.minutes,
        resume=arguments.resume,
        start=arguments.start,
        real=arguments.real,
    )


if __name__ == "__main__":
    main()
