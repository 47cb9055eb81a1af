"""Takes the masks off one picture, as a program would that has it in memory.

python examples/picture.py masked.jpg unmasked.png
"""

from __future__ import annotations

import sys

import numpy as np
from PIL import Image

from unmask_rt import Unmasker, frame_of


def main(source: str, target: str) -> None:
    rgb = np.asarray(Image.open(source).convert("RGB"))  # uint8[H, W, 3]
    with Unmasker() as unmasker:
        frame = unmasker.process(frame_of(rgb), mode="still")
    result = frame.video.to_ndarray(format="rgb24")  # uint8[H, W, 3]
    print(f"{np.any(result != rgb, axis=2).mean():.1%} of the pixels changed")
    Image.fromarray(result).save(target)


if __name__ == "__main__":
    main(*sys.argv[1:3])
