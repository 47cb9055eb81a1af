"""Keeps the chatter of native libraries off stderr.

MediaPipe and TensorFlow Lite write a dozen lines to file descriptor 2, and no environment variable stops them. So
descriptor 2 is led through a pipe that lets all but those lines pass, and Python's own ``sys.stderr`` goes around it.
Errors of the same libraries still come through.
"""

from __future__ import annotations

import atexit
import faulthandler
import os
import re
import sys
import threading

THREAD = "native logs"
_CHATTER = re.compile(
    rb"[IW]\d{4} "  # absl: information and warnings
    rb"|WARNING: All log messages before absl::InitializeLog"
    rb"|(INFO|VERBOSE): "  # TensorFlow Lite
    rb"|error: XDG_RUNTIME_DIR "  # SDL, where there is no desktop
)


def quiet() -> None:
    """Filters file descriptor 2 until the process ends. Does nothing where stderr is not a real descriptor."""
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    try:
        if sys.stderr.fileno() != 2:
            return
        sys.stderr.flush()
        kept = os.dup(2)
    except (OSError, ValueError, AttributeError):
        return
    reader, writer = os.pipe()
    os.dup2(writer, 2)
    os.close(writer)
    old = sys.stderr
    sys.stderr = os.fdopen(os.dup(kept), "w", buffering=1, encoding=old.encoding, errors=old.errors)
    faulthandler.enable(sys.stderr)  # a crash has no time to pass through the pipe
    thread = threading.Thread(target=_forward, args=(reader, kept), name=THREAD, daemon=True)
    thread.start()
    atexit.register(_restore, kept, thread)


def _forward(reader: int, target: int) -> None:
    with os.fdopen(reader, "rb") as lines:
        for line in lines:
            if not _CHATTER.match(line):
                os.write(target, line)


def _restore(kept: int, thread: threading.Thread) -> None:
    # Closes the pipe's last writer: what is still in it comes out before the process ends.
    os.dup2(kept, 2)
    thread.join(1.0)
