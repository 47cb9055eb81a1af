"""Exports a run as one ONNX file that unmask-rt runs: uint8 crop -> uint8 face and map, with its metadata inside.

    unmask-train export runs/mine -o mine.onnx
    unmask-train export runs/pix2pix --map default -o pix2pix.onnx      # with the map of the tool's own model
    unmask-rt clip.mp4 -o out.mp4 --model mine.onnx
    unmask-train export runs/edit --map runs/map -o unmask_rt/assets/unmask-256.onnx --name unmask-256 --bundle

The tool needs to know where the mask is. A run without a map module takes the map of another run or model (--map); so
does one whose input includes the map. The default network is written in the form that engines run fastest
(`networks.deployed`); `unmask-engine build --precision int8` makes its int8 form. What was written is compared with
torch; it may differ by 2 levels of 255.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import onnx
import torch
from onnx import compose
from onnx.utils import Extractor
from torch import Tensor, nn

from engines.export import register, to_onnx, write
from engines.metadata import identify
from engines.spec import ModelSpec
from trainer.networks.deployed import Deployed
from trainer.networks.realtime import EditNet, MapNet, Unmask
from trainer.runs import EngineRestorer, LoadedRun, Restorer, RunRestorer, at_side, open_restorer, read_model
from unmask_rt import align, sample
from unmask_rt.errors import EngineError, UsageError

MOST, HALF = 2, 4
"""Levels by which a pixel of the exported model may differ from torch, and with weights stored in FP16."""
LICENCE = "not stated; that of the pictures it was trained on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``unmask-train export``."""
    add = parser.add_argument
    add("run", type=Path, help="folder of the run")
    add("-o", "--out", type=Path, required=True, help="the .onnx file")
    add("--map", type=Path, help="run or model whose map is used, or `default`: that of the tool's own model")
    add("--name", help="of the model (default: the run's folder)")
    add("--licence", default=LICENCE, help=f"of the weights (default: {LICENCE!r})")
    add("--bundle", action="store_true", help="make it the package's default: enter it in the models.json beside it")


def main(args: argparse.Namespace) -> int:
    """Exports; returns 0.

    Raises:
        UsageError: the run cannot be exported like this.
        EngineError: the file does not compute what torch does.
        MissingError, ModelError: something cannot be read.
    """
    difference, half = export_run(args.run, args.out, map_from=args.map, name=args.name, licence=args.licence)
    if args.bundle:
        register(args.out, identify(args.out.read_bytes())[0])
    size, kind = args.out.stat().st_size / 1e6, "FP16" if half else "FP32"
    print(f"{args.out}: {size:.1f} MB, weights stored in {kind}, differs from torch by at most {difference} of 255")
    return 0


def export_run(
    folder: Path, out: Path, *, map_from: Path | None = None, name: str | None = None, licence: str = LICENCE
) -> tuple[int, bool]:
    """Writes a run as one ONNX file.

    Args:
        folder: the run.
        out: the file.
        map_from: run, .onnx file or "default" whose map is used.
        name: of the model.
        licence: of the weights.

    Returns:
        The largest difference from torch in levels, and whether the weights are stored in FP16 (FP32 where that would
        cost more than `HALF` levels).

    Raises:
        UsageError: there is no map, or the run only finds masks.
        EngineError: even with FP32 weights the file differs from torch by more than `MOST` levels.
    """
    run = LoadedRun(folder)
    if not run.completes:
        raise UsageError(f"{folder} only finds masks", "Export a run that draws faces, with --map for this one.")
    if map_from is None and not run.has_map:
        hint = "Add --map RUN for the map of another run, or --map default for that of the tool's own model."
        raise UsageError(f"{folder} has no map module, and the tool needs to know where the mask is", hint)
    source = None if map_from is None else open_restorer(map_from)
    if source is not None and not source.has_map:
        raise UsageError(f"{map_from} has no map module either", "Name another one with --map.")
    trained = told(run)
    if isinstance(source, RunRestorer):
        trained += f"; map: {told(source.run)}"
        if run.adopt_map(source.run):
            source = map_from = None
    spec = ModelSpec(
        name=name or run.name,
        crop_size=run.size,
        template=tuple((float(x), float(y)) for x, y in align.TEMPLATE.round(6)),
        extra_channels=(),
        licence=licence,
        trained=trained,
    )
    reference = RunRestorer(run, torch.device("cpu"), source)
    difference = 0
    for half, most in ((True, HALF), (False, MOST)):
        write(graph_of(run, map_from, source), out, spec, half=half)
        difference = differs(reference, EngineRestorer(out.read_bytes(), threads=1))
        if difference <= most:
            return difference, half
    raise EngineError(f"{out} differs from torch by {difference} levels", "Train on, or report this.")


def told(run: LoadedRun) -> str:
    """How a run was trained, for people."""
    text = f"preset {run.preset.name}, stage {run.stage}, {run.meta['step']} steps, {run.meta['seen']} pictures in all"
    return f"{text}, {run.meta['mixed']}" if "mixed" in run.meta else text


def differs(reference: Restorer, exported: Restorer) -> int:
    """The largest difference of two restorers on a masked face and on smooth noise, in levels."""
    side = reference.size
    transform = align.crop_transform(sample.astronaut_mesh()[list(align.MESH_ANCHORS)], side)
    masked = align.warp(sample.masked_astronaut()[1], transform, side)
    noise = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), np.uint8)
    crops = np.stack([masked, *(np.asarray(cv2.resize(n, (side, side))) for n in noise)])
    pairs = zip(reference(crops), exported(crops), strict=True)
    return max(int(np.abs(a.astype(np.int16) - b).max()) for a, b in pairs)


# ---- graphs


class _Finding(nn.Module):
    """crop -> map of a run with a map module."""

    def __init__(self, run: LoadedRun) -> None:
        super().__init__()
        self.run = run

    def forward(self, crop: Tensor) -> Tensor | None:
        found: Tensor | None = self.run(crop)[1]
        return found


class _Smaller(nn.Module):
    """crop -> the same at the side of a map module."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, crop: Tensor) -> Tensor:
        return at_side(crop, self.side)


class _Completing(nn.Module):
    """crop and map at the map module's side -> face and map at the crop's."""

    def __init__(self, run: LoadedRun) -> None:
        super().__init__()
        self.run = run

    def forward(self, crop: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        found = at_side(found[..., None], self.run.size)[..., 0]
        return self.run(crop, found)[0], found.clone()


def graph_of(run: LoadedRun, map_from: Path | None, source: Restorer | None) -> onnx.ModelProto:
    """The whole model as one graph, crop -> face and map."""
    shape = run.size, run.size, 3
    if map_from is None or source is None:
        return to_onnx(deployed(run) or run, shape)
    if isinstance(source, RunRestorer):
        finding = to_onnx(_Finding(source.run), (source.size, source.size, 3), outputs=["map"])
    else:
        whole = onnx.load_from_string(read_model(map_from))
        finding = Extractor(whole).extract_model(["crop"], ["map"])
    smaller = to_onnx(_Smaller(source.size), shape, outputs=["small"])
    map_shape = source.size, source.size
    completing = to_onnx(_Completing(run), shape, map_shape, inputs=["crop", "found"])
    return chained(smaller, finding, completing)


def deployed(run: LoadedRun) -> Deployed | None:
    """The default network in the form that engines run fastest; None for any other."""
    generator, finding = (dict(run.networks.items()).get(name) for name in ("generator", "map"))
    if run.size != 256 or not isinstance(generator, EditNet) or not isinstance(finding, MapNet):
        return None
    return Deployed(Unmask(finding, generator), run.size).eval().requires_grad_(False)


def chained(smaller: onnx.ModelProto, finding: onnx.ModelProto, completing: onnx.ModelProto) -> onnx.ModelProto:
    """One graph of three: crop -> small -> map; crop and map -> face and map."""
    parts = [compose.add_prefix(m, p) for m, p in ((smaller, "smaller/"), (finding, "map/"), (completing, "edit/"))]
    edges = {
        "smaller/crop": "crop", "map/crop": "smaller/small", "edit/crop": "crop", "edit/found": "map/map",
        "edit/face": "face", "edit/map": "map",
    }  # fmt: skip
    joined = onnx.ModelProto()
    joined.CopyFrom(completing)
    del joined.graph.node[:], joined.graph.initializer[:], joined.graph.input[:], joined.graph.value_info[:]
    joined.graph.input.append(smaller.graph.input[0])
    for part in parts:
        for node in part.graph.node:
            node.input[:] = [edges.get(edge, edge) for edge in node.input]
            node.output[:] = [edges.get(edge, edge) for edge in node.output]
            joined.graph.node.append(node)
        joined.graph.initializer.extend(part.graph.initializer)
    return joined
