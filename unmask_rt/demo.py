"""The demo: a masked clip with sound from the sample picture, the mask taken off it, and both beside each other.

python -m unmask_rt.demo [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import av
import numpy as np
import PIL.Image

from unmask_rt import __version__, cli, models, sample
from unmask_rt.align import Image
from unmask_rt.errors import SourceError
from unmask_rt.provenance import Provenance

SECONDS = 6.0


def main(argv: list[str] | None = None) -> int:
    """Makes ``masked.mp4``, ``unmasked.mp4`` and ``side-by-side.jpg`` in a folder (default ``demo``).

    Returns:
        The exit code of ``unmask-rt``.
    """
    arguments = sys.argv[1:] if argv is None else argv
    folder = Path(arguments[0] if arguments else "demo")
    folder.mkdir(parents=True, exist_ok=True)
    masked, result, picture = folder / "masked.mp4", folder / "unmasked.mp4", folder / "side-by-side.jpg"
    print(f"making {masked}: {SECONDS:.0f} s of a real face that wears a drawn mask", flush=True)
    sample.builtin_clip(masked, seconds=SECONDS)
    print(f"unmask-rt {masked} -o {result} -y", flush=True)
    code = cli.main([str(masked), "-o", str(result), "-y"])
    if code == 0:
        write_side_by_side(masked, result, picture)
        print(f"\nresult:       {result}\nside by side: {picture}")
    return code


def write_side_by_side(masked: Path, result: Path, picture: Path, *, at: float = 0.5) -> None:
    """Saves the same frame of both videos next to each other, cut to a square around the face of the built-in clip.

    Args:
        masked, result: videos of one size.
        picture: JPEG to write; it says in its metadata that it is synthetic.
        at: which frame, 0..1 of the way through.

    Raises:
        SourceError: a video holds no frames.
    """
    squares = []
    for path in (masked, result):
        frame = _frame_at(path, at)
        height, width = frame.shape[:2]
        left = max(0, round(sample.FACE_X * width) - height // 2)
        squares.append(frame[:, left : left + height])
    provenance = Provenance(models.load_unmask_model()[1], f"unmask-rt {__version__}")
    both = PIL.Image.fromarray(sample.side_by_side(*squares))
    both.save(picture, quality=90, xmp=provenance.xmp)


def _frame_at(path: Path, at: float) -> Image:
    with av.open(str(path)) as container:
        count = container.streams.video[0].frames
        for index, frame in enumerate(container.decode(video=0)):
            if index >= at * (count - 1):
                return np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    raise SourceError(f"{path} holds no frames")


if __name__ == "__main__":
    sys.exit(main())
