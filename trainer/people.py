"""What sets of faces tell of people, in words: figures are reported by it, and samples drawn by it."""

from __future__ import annotations

from typing import Any

PERSON = ("age", "sex", "group")
"""What is told."""
AGES = ((13, "below 13"), (20, "13 to 19"), (60, "20 to 59"), (200, "60 and more"))


def person_of(record: dict[str, Any]) -> dict[str, str]:
    """Age (in spans), sex and group of a prepared face, in words; of those that its set does not tell none."""
    found = {key: str(record[key]) for key in PERSON if record.get(key) is not None}
    if "age" in found:
        found["age"] = next(span for below, span in AGES if int(found["age"]) < below)
    if "sex" in found:
        found["sex"] = {"f": "female", "m": "male"}[found["sex"]]
    return found
