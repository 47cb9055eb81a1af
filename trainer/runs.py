"""A run or an exported model as one kind of thing: crops in, faces and maps out."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from engines import open_engine
from trainer import checkpoint, preset
from trainer.processes import pick_device
from trainer.systems import SYSTEMS
from trainer.work import fill
from unmask_rt import models
from unmask_rt.errors import MissingError, ModelError, UsageError

Crops = NDArray[np.uint8]
CHUNK = 8
"""Crops that go through a network at once."""
CHANGED = 8
"""Mean absolute difference of the channels, in levels, from which a pixel counts as redrawn."""


class Restorer(Protocol):
    """Completes aligned crops.

    Attributes:
        name: of the run's folder or of the model.
        size: side S of its crops in pixels.
        has_map: whether the maps are found by a map module; otherwise they show where the output differs from the input
            by more than `CHANGED` levels.
    """

    name: str
    size: int
    has_map: bool

    def __call__(self, crops: Crops, alpha: Crops | None = None) -> tuple[Crops, Crops]:
        """uint8[N, S, S, 3] RGB -> completed crops uint8[N, S, S, 3] and maps uint8[N, S, S], 0 or 255 to both sides.

        Args:
            crops: masked faces.
            alpha: the true map uint8[N, S, S], for figures that say "true hole"; None: the map is found.

        Raises:
            UsageError: a map is needed and there is none, or one is given to a model that takes none.
        """
        ...


class LoadedRun(nn.Module):
    """The averaged networks of a run's stage behind one call on uint8: what is measured and what is exported.

    Attributes:
        name: the run's folder.
        stage: name of the stage.
        system: its system.
        meta, preset: of the checkpoint.
    """

    def __init__(self, run: Path) -> None:
        """Reads a run.

        Raises:
            MissingError, ModelError, UsageError: see `checkpoint.load` and `work.fill`.
        """
        super().__init__()
        stored = checkpoint.load(run)
        self.name, self.meta = run.name, stored.meta
        self.preset = preset.check(str(stored.meta["preset"]), stored.preset)
        stage = self.preset.stage(str(stored.meta["stage"]))
        self.stage, self.size = stage.name, stage.size
        self.system = SYSTEMS[stage.system](stage.options, stage.size)
        networks = {name: self.system.networks[name] for name in self.system.averaged}
        networks |= {name: part for name, part in self.system.inherited.items() if name in stored.carried}
        for name, network in networks.items():
            weights = stored.average if name in stored.average else stored.carried
            if name not in weights:
                raise ModelError(f"{run} lacks the network {name!r}", "Train it again.")
            fill(network, weights[name], name)
        self.networks = nn.ModuleDict(networks)
        self.eval().requires_grad_(False)

    @property
    def has_map(self) -> bool:
        """Whether the run has a map module of its own."""
        return "map" in self.networks

    def adopt_map(self, other: LoadedRun) -> bool:
        """Takes the map module of another run in the place of its own, where the same network belongs there.

        Returns:
            False where it does not fit: another network, or for crops of another side.
        """
        own = self.system.build_inherited().get("map")
        if own is None or "map" not in other.networks or self.size != other.size:
            return False
        weights = other.networks["map"].state_dict()
        if {k: v.shape for k, v in own.state_dict().items()} != {k: v.shape for k, v in weights.items()}:
            return False
        own.load_state_dict(weights)
        self.networks["map"] = own.eval().requires_grad_(False)
        return True

    @property
    def completes(self) -> bool:
        """Whether it draws faces, or only finds masks."""
        return set(self.networks) != {"map"}

    def forward(self, crop: Tensor, alpha: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """uint8 (B, S, S, 3) and, where one is given, the map uint8 (B, S, S) -> face and map of the same kinds."""
        x = crop.permute(0, 3, 1, 2).to(torch.float32) / 127.5 - 1
        known = None if alpha is None else alpha[:, None].to(torch.float32) / 255
        face, found = self.system.restore(dict(self.networks.items()), x, known)
        face = ((face + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return face, None if found is None else (found[:, 0] * 255 + 0.5).to(torch.uint8)


class RunRestorer:
    """A run as a `Restorer`; ``map_from`` gives the map where it is set."""

    def __init__(self, run: LoadedRun, device: torch.device, map_from: Restorer | None = None) -> None:
        self.run, self.device, self.map_from = run.to(device), device, map_from
        self.run.system.device = device
        self.name, self.size = run.name, run.size
        self.has_map = run.has_map if map_from is None else map_from.has_map

    def __call__(self, crops: Crops, alpha: Crops | None = None) -> tuple[Crops, Crops]:
        found = alpha
        if alpha is None and self.map_from is not None:
            found = map_at(self.map_from, crops)
        faces, maps = [], []
        for i in range(0, len(crops), CHUNK):
            part = torch.tensor(crops[i : i + CHUNK]).to(self.device)
            given = None if found is None else torch.tensor(found[i : i + CHUNK])
            with torch.inference_mode():
                face, own = self.run(part, None if given is None else given.to(self.device))
            faces.append(face.cpu().numpy())
            maps.append(None if own is None else own.cpu().numpy())
        face = np.concatenate(faces) if faces else np.zeros_like(crops)
        if found is not None:
            return face, found
        drawn = [changed(face[i : i + 1], crops[i : i + 1]) for i in range(len(crops))]
        own_maps = [m for m in maps if m is not None] or drawn
        return face, np.concatenate(own_maps) if own_maps else np.zeros(crops.shape[:3], np.uint8)


class EngineRestorer:
    """An exported model as a `Restorer`; ``map_from`` replaces its maps, not the hole that it fills."""

    has_map = True

    def __init__(self, model: bytes, threads: int, map_from: Restorer | None = None) -> None:
        self.engine, self.map_from = open_engine("onnxruntime", model, threads=threads, precision="fp32"), map_from
        self.name, self.size = self.engine.spec.name, self.engine.spec.crop_size

    def __call__(self, crops: Crops, alpha: Crops | None = None) -> tuple[Crops, Crops]:
        if alpha is not None:
            raise UsageError(
                "an exported model finds its holes itself",
                "Measure the run that it was exported from with the true hole.",
            )
        parts = [self.engine(crops[i : i + CHUNK]) for i in range(0, len(crops), CHUNK)]
        if not parts:
            return np.zeros_like(crops), np.zeros(crops.shape[:3], np.uint8)
        faces, maps = (np.concatenate(column) for column in zip(*parts, strict=True))
        return faces, maps if self.map_from is None else map_at(self.map_from, crops)


def changed(faces: Crops, crops: Crops) -> Crops:
    """Where an output differs from its input by more than `CHANGED` levels: 0 or 255."""
    moved = np.abs(faces.astype(np.int16) - crops).mean(3)
    return ((moved > CHANGED) * 255).astype(np.uint8)


def map_at(source: Restorer, crops: Crops) -> Crops:
    """The maps that another restorer finds on crops of any size, at the crops' size."""
    seen = at_side(torch.tensor(crops), source.size).numpy()
    return at_side(torch.tensor(source(seen)[1])[..., None], crops.shape[1])[..., 0].numpy()


def at_side(pictures: Tensor, side: int) -> Tensor:
    """uint8 (B, s, s, C) at another side: means of whole blocks where the sides allow it, else bilinear."""
    old = pictures.shape[2]
    if old == side or not len(pictures):
        return pictures
    planes = pictures.permute(0, 3, 1, 2).to(torch.float32)
    if old % side == 0:
        planes = F.avg_pool2d(planes, old // side)
    else:
        planes = F.interpolate(planes, size=(side, side), mode="bilinear", align_corners=False)
    return (planes + 0.5).to(torch.uint8).permute(0, 2, 3, 1)


def open_restorer(path: Path, *, map_from: Path | None = None, device: str = "cpu") -> Restorer:
    """Opens a run's folder (its averaged weights), an exported .onnx file, or a bundled model by its name ("default").

    Args:
        path: what.
        map_from: another one whose maps are used; needed by systems whose input includes the map.
        device: for runs, see `processes.pick_device`.

    Raises:
        MissingError: there is nothing of that name.
        ModelError: it is damaged or foreign.
        UsageError: it does not fit its preset.
    """
    other = None if map_from is None else open_restorer(map_from, device=device)
    if path.is_dir():
        return RunRestorer(LoadedRun(path), pick_device(device), other)
    return EngineRestorer(read_model(path), torch.get_num_threads(), other)


def read_model(path: Path) -> bytes:
    """The bytes of an .onnx file or of a bundled model ("default" or its name).

    Raises:
        MissingError: there is none.
    """
    if not path.exists() and str(path) != "default" and str(path) not in models.bundled_models():
        hint = "Give the folder of a run, an exported .onnx file, or `default` for the tool's own model."
        raise MissingError(f"there is no run or model {path}", hint)
    data, _ = models.load_unmask_model(None if str(path) == "default" else path)
    return data
