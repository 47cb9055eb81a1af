"""What a run leaves behind in numbers: counts of faces, and where, with what and on what it ran."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

from unmask_rt import __version__
from unmask_rt.errors import SinkError, UsageError
from unmask_rt.frames import FoundBy, Packet
from unmask_rt.pipeline import RunReport
from unmask_rt.sources.base import SourceInfo


class Tally:
    """Counts what finished packets say about faces; `add` is called from the encode thread.

    Attributes:
        frames: packets seen.
        with_faces: frames with a face.
        treated: frames in which something was unmasked.
        missed: frames in which a masked face was lost (see ``--on-miss``).
        faces: sum of the faces of all frames.
        most_at_once: most faces in one frame.
        faces_now: faces in the latest frame.
        found_by: who placed how many of the faces, and the sum of their confidences.
    """

    def __init__(self) -> None:
        self.frames = self.with_faces = self.treated = self.missed = 0
        self.faces = self.most_at_once = self.faces_now = 0
        self.found_by: dict[FoundBy, tuple[int, float]] = {}
        self._tracks: set[int] = set()

    def add(self, packet: Packet) -> None:
        """Takes one finished packet."""
        self.frames += 1
        self.faces_now = len(packet.faces)
        self.faces += self.faces_now
        self.most_at_once = max(self.most_at_once, self.faces_now)
        self.with_faces += bool(packet.faces)
        self.treated += any(patch.strength > 0 for patch in packet.patches)
        self.missed += bool(packet.missed)
        self._tracks.update(face.track for face in packet.faces)
        for face in packet.faces:
            count, total = self.found_by.get(face.found_by, (0, 0.0))
            self.found_by[face.found_by] = count + 1, total + face.confidence

    @property
    def tracks(self) -> int:
        """Persons told apart over time (means nothing for pictures)."""
        return len(self._tracks)

    def finders(self) -> dict[str, dict[str, float]]:
        """Who placed the faces, most often first: ``count``, ``share`` of all, mean ``confidence`` (both 0..1)."""
        return {
            name: {"count": count, "share": round(count / self.faces, 4), "confidence": round(total / count, 4)}
            for name, (count, total) in sorted(self.found_by.items(), key=lambda item: -item[1][0])
        }


def environment() -> dict[str, Any]:
    """Versions and machine, for reports; nothing that names the user."""
    from unmask_rt import doctor

    versions = {finding.item: finding.detail for finding in doctor.packages()}
    machine = {
        finding.item: finding.detail for finding in doctor.system() if finding.item not in ("python", "unmask-rt")
    }
    return {
        "versions": {"unmask-rt": __version__, "python": platform.python_version(), **versions},
        "machine": machine,
    }


def run_dict(
    settings: argparse.Namespace,
    info: SourceInfo,
    run: RunReport,
    tally: Tally,
    *,
    engine: dict[str, Any],
    provenance: dict[str, Any],
    notes: list[str],
    failures: list[str],
) -> dict[str, Any]:
    """The whole report of a run, ready for JSON."""
    sink = run.sink
    faces: dict[str, Any] = {"seen": tally.faces, "most_at_once": tally.most_at_once, "found_by": tally.finders()}
    if info.kind != "picture":
        faces["tracks"] = tally.tracks
    return {
        "outcome": "interrupted" if run.interrupted else "failed" if failures else "done",
        "settings": {name: _plain(value) for name, value in vars(settings).items() if name != "handler"},
        "source": {
            "name": info.name,
            "kind": info.kind,
            "display_size": info.display_size,
            "pixel_format": info.pixel_format,
            "rate": float(info.rate) if info.rate else None,
        },
        "output": {
            "path": str(sink.path) if sink and sink.path else None,
            "codec": sink.codec if sink else "",
            "complete": bool(sink and sink.complete),
        },
        "frames": {
            "in": run.frames_in,
            "out": run.frames_out,
            "with_faces": tally.with_faces,
            "treated": tally.treated,
            "missed": tally.missed,
            "dropped": dict(run.dropped),
        },
        "faces": faces,
        "engine": engine,
        "latency": run.latency.to_dict(),
        "provenance": provenance,
        "notes": notes,
        "failures": failures,
        **environment(),
    }


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Writes a report.

    Raises:
        SinkError: the file cannot be written.
    """
    try:
        path.write_text(to_json(report) + "\n", encoding="utf-8")
    except OSError as error:
        raise SinkError(f"The report {path} cannot be written: {error.strerror}.", "Give another file.") from error


def check_place(path: Path, *, overwrite: bool) -> None:
    """Before the work, so that it is not done in vain.

    Args:
        path: where a report is to be written.
        overwrite: whether a file may be there already.

    Raises:
        UsageError: it cannot be written there, or a file is there.
    """
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"The report {path} cannot be written there.", "Give a file in a folder that exists.")
    if path.exists() and not overwrite:
        raise UsageError(f"{path} is there already", "Give another name, or -y to replace it.")


def to_json(report: dict[str, Any]) -> str:
    """Indented JSON; what JSON does not know is written as text."""
    return json.dumps(report, indent=2, ensure_ascii=False, default=str)


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value
