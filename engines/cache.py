"""Where built engines are kept, with what they depend on and how close to the reference they are.

    <cache>/engines/<backend>-<precision>-<key>.engine   the library's own bytes (absent where nothing is built)
    <cache>/engines/<backend>-<precision>-<key>.json     all that the key is made of, parity figures, size, hash
    <cache>/engines/forms/                               other forms of models (see `engines.variants`)

The key covers the model, the input's shape, the backend's own build, the settings and the machine, so an engine that
was built elsewhere or for another driver is simply not found. Files appear by atomic rename; a lock lets two processes
build once. An engine that is damaged, or that its library refuses, is built again, and the log says why. If the folder
cannot be written, everything still works, slower.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.base import Backend, Settings
from engines.metadata import identify
from unmask_rt.models import cache_dir

MOST_BYTES = 4 << 30
"""Size from which the engines that were not used for longest are deleted."""
LOCK_TIMEOUT_S = 900.0
log = logging.getLogger(__name__)


def folder() -> Path:
    """The folder of engines; it need not exist."""
    return cache_dir() / "engines"


@dataclass(frozen=True, slots=True)
class Key:
    """What an engine depends on.

    Attributes:
        backend, precision: for people.
        parts: everything, as text.
    """

    backend: str
    precision: str
    parts: Mapping[str, str]

    @property
    def name(self) -> str:
        """Stem of its files."""
        digest = hashlib.sha256(json.dumps(dict(self.parts), sort_keys=True).encode()).hexdigest()
        return f"{self.backend}-{self.precision}-{digest[:20]}"


def key_of(backend: Backend, model: bytes, variant: bytes, settings: Settings) -> Key:
    """The key of an engine.

    Args:
        backend: who builds it.
        model: the fp32 model; compared with it is what is built.
        variant: the form of it that is built from.
        settings: how.

    Raises:
        ModelError: damaged or foreign.
    """
    spec, sha256 = identify(model)
    parts = {
        "model": sha256,
        "form": hashlib.sha256(variant).hexdigest(),
        "input": f"uint8[{settings.batch}, {spec.crop_size}, {spec.crop_size}, 3]",
        "backend": backend.name,
        "precision": settings.precision,
        "targets": " ".join(settings.target_gpu),
        **backend.key(settings),
    }
    if not {"gpu", "targets"} & {name for name, value in parts.items() if value}:  # a GPU's engine has no threads
        parts["threads"] = str(settings.threads)
    return Key(backend.name, settings.precision, parts)


@dataclass(frozen=True, slots=True)
class Entry:
    """What is kept of one engine.

    Attributes:
        name: stem of its files.
        record: the sidecar: ``parts``, ``parity`` (absent before the comparison), ``sha256`` and ``bytes``.
        path: the sidecar's place.
    """

    name: str
    record: Mapping[str, Any]
    path: Path

    @property
    def size_bytes(self) -> int:
        built = self.path.with_suffix(".engine")
        return self.path.stat().st_size + (built.stat().st_size if built.is_file() else 0)


def read(key: Key) -> tuple[dict[str, Any], bytes] | None:
    """Sidecar and engine of a key; None where there is none, or (logged) where it cannot be trusted."""
    path = folder() / f"{key.name}.json"
    try:
        record: dict[str, Any] = json.loads(path.read_text("utf-8"))
        built = path.with_suffix(".engine").read_bytes() if record["bytes"] else b""
        if record["parts"] != dict(key.parts):
            raise ValueError("it was built for something else")
        if len(built) != record["bytes"]:
            raise ValueError(f"it has {len(built)} bytes and should have {record['bytes']}")
        if hashlib.sha256(built).hexdigest() != record["sha256"]:
            raise ValueError("its SHA-256 is wrong")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the engine %s is not used and built again: %s", key.name, error)
        return None
    with suppress(OSError):
        os.utime(path)
    return record, built


def store(key: Key, built: bytes, more: Mapping[str, Any]) -> None:
    """Keeps an engine (b"" where nothing is built) and what is known of it."""
    record = {
        "parts": dict(key.parts),
        "bytes": len(built),
        "sha256": hashlib.sha256(built).hexdigest(),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **more,
    }
    path = folder() / f"{key.name}.json"
    if built and not write(path.with_suffix(".engine"), built):
        return
    write(path, json.dumps(record, indent=1).encode())
    prune(keep=key.name)


def write(path: Path, data: bytes) -> bool:
    """Writes a file by atomic rename; False (logged) where that cannot be done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    except OSError as error:
        log.warning("%s cannot be written (%s): nothing is kept. UNMASK_RT_CACHE moves the folder.", path, error)
        return False
    return True


def entries() -> list[Entry]:
    """All engines that are kept, the last used first."""
    found = []
    for path in folder().glob("*.json"):
        try:
            record = json.loads(path.read_text("utf-8"))
            used = path.stat().st_mtime
        except (OSError, ValueError):
            record, used = {}, 0.0
        if isinstance(record, dict) and ("parts" in record or not record):
            found.append((used, Entry(path.stem, record, path)))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0], reverse=True)]


def prune(keep: str = "", most_bytes: int | None = None) -> list[str]:
    """Deletes the engines that were not used for longest until the rest fits; returns their names."""
    room = MOST_BYTES if most_bytes is None else most_bytes
    gone = []
    for entry in entries():
        with suppress(OSError):
            room -= entry.size_bytes
            if room < 0 and entry.name != keep:
                remove(entry)
                gone.append(entry.name)
    return gone


def remove(entry: Entry) -> None:
    """Deletes one engine."""
    for path in (entry.path, entry.path.with_suffix(".engine")):
        path.unlink(missing_ok=True)


def clean() -> tuple[int, int]:
    """Deletes the whole folder's files but locks that are held; returns how many and how many bytes."""
    count = size = 0
    for path in sorted(folder().rglob("*")):
        if path.is_file() and path.suffix != ".lock":
            with suppress(OSError):
                bytes_there = path.stat().st_size
                path.unlink()
                count, size = count + 1, size + bytes_there
    return count, size


@contextmanager
def lock(name: str) -> Iterator[None]:
    """Held by one process at a time; waits for the other. Without it where the folder cannot be written."""
    path = folder() / f"{name}.lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError:
        yield
        return
    with file:
        _acquire(file.fileno(), name)
        yield  # the system lets go of the lock when the file is closed, or the process dies


def _acquire(number: int, name: str) -> None:
    deadline, told = time.monotonic() + LOCK_TIMEOUT_S, False
    while not _try_lock(number):
        if not told:
            log.warning("another process builds or loads the engine %s: waiting for it", name)
            told = True
        if time.monotonic() > deadline:
            log.warning("the other process does not finish: going on without it")
            return
        time.sleep(0.05)


if os.name == "nt":  # pragma: no cover # the other half is tested
    import msvcrt

    def _try_lock(number: int) -> bool:
        try:
            msvcrt.locking(number, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
else:
    import fcntl

    def _try_lock(number: int) -> bool:
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return True  # a file system without locks
        return True
