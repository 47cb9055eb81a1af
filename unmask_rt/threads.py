"""How many threads the engine gets where nobody says."""

from __future__ import annotations

import os


def default_threads() -> int:
    """Half of the processor's, at most four: the other half finds, blends and encodes."""
    return min(4, max(1, (os.cpu_count() or 1) // 2))
