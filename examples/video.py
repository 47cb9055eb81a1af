"""Takes the masks off a video frame by frame; sound, timestamps and metadata are the sink's business.

python examples/video.py masked.mp4 unmasked.mp4
"""

from __future__ import annotations

import sys

from unmask_rt import Unmasker, open_source
from unmask_rt.sinks import Provenance, open_sink


def main(path: str, target: str) -> None:
    source = open_source(path)
    with Unmasker() as unmasker:
        provenance = Provenance(unmasker.model_sha256, tool="unmask-rt example")
        sink = open_sink(target, source, provenance=provenance, overwrite=True)
        try:
            for frame in source:
                sink.write(unmasker.process(frame))
            print(f"{sink.finish().frames} frames in {target}")
        finally:
            sink.abort()  # does nothing after finish()
            source.close()


if __name__ == "__main__":
    main(*sys.argv[1:3])
