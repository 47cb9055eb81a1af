"""From a trained aligner to the ONNX file that ships.

    python -m trainer.aligner.export runs/aligner -o unmask_rt/assets/aligner.onnx --bundle

uint8 goes in, pixels and probabilities come out; weights are stored in FP16 and computed in FP32.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from engines.export import LICENCE, register_aligner, store_half, to_onnx, write_with
from trainer.aligner.data import POINTS
from trainer.aligner.network import CROP, ZOOM, AlignNet, Exported
from trainer.aligner.train import load_net
from unmask_rt.faces.aligner import METADATA_KEY


def export(net: AlignNet, out: Path, trained: str) -> None:
    """Writes a network with what `unmask_rt.faces.aligner` must know of it.

    Args:
        net: in evaluation mode.
        out: ``.onnx`` file.
        trained: how, for people.
    """
    graph = to_onnx(Exported(net), (CROP, CROP, 3), outputs=("points", "confidence", "face"))
    store_half(graph)
    about = {"crop_size": CROP, "zoom": ZOOM, "points": POINTS, "licence": LICENCE, "trained": trained}
    write_with(graph, out, METADATA_KEY, json.dumps(about))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--bundle", action="store_true", help="enter it in the models.json beside it")
    arguments = parser.parse_args()
    seen = torch.load(arguments.run / "checkpoint.pt", weights_only=True)["seen"]
    export(load_net(arguments.run), arguments.out, f"{seen} samples in its last part")
    if arguments.bundle:
        register_aligner(arguments.out, LICENCE)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
