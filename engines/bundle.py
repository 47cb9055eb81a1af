"""Making the int8 form of a model and putting it where the tool finds it. Needs the package onnx."""

from __future__ import annotations

import hashlib
import json
import zipfile
from importlib import resources
from pathlib import Path

import numpy as np

from engines import quantise as quantising
from engines import variants
from engines.base import Batch, Progress
from engines.metadata import identify
from unmask_rt import models
from unmask_rt.errors import MissingError, ModelError, SinkError


def quantise(model: Path | None, calibration: Path, progress: Progress) -> bytes:
    """The int8 form of a model file (None: the bundled one), made with the crops of a file.

    Raises:
        MissingError: there is no such file, or it holds no crops.
        ModelError, UsageError: see `engines.quantise.make`.
    """
    return quantising.make(models.load_unmask_model(model)[0], load_crops(calibration), progress)


def load_crops(file: Path) -> Batch:
    """What `unmask-train calibration` wrote.

    Raises:
        MissingError: there is no such file, or it holds no crops.
    """
    hint = "Write one with `unmask-train calibration DATA -o FILE.npz`."
    try:
        with np.load(file) as stored:
            crops: Batch = stored["crops"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise MissingError(f"{file} holds no calibration crops: {error}", hint) from error
    if crops.dtype != np.uint8 or crops.ndim != 4:
        raise MissingError(f"{file} holds no calibration crops: {crops.dtype}{list(crops.shape)}", hint)
    return crops


def keep(made: bytes) -> Path:
    """Keeps an int8 form in the cache; returns its place.

    Raises:
        SinkError: the cache cannot be written.
    """
    place = variants.keep(identify(made)[1], "int8", made)
    if place is None:
        raise SinkError("the int8 form cannot be kept", "UNMASK_RT_CACHE moves the folder; or write it with -o FILE.")
    return place


def add(made: bytes, assets: Path | None = None) -> Path:
    """Puts an int8 form beside the bundled model and into the index; returns its place.

    Raises:
        ModelError: it is no form of the bundled model.
    """
    folder = assets or Path(str(resources.files("unmask_rt"))) / "assets"
    index = json.loads((folder / "models.json").read_text("utf-8"))
    record = next(iter(index.values()))
    if identify(made)[1] != record["sha256"]:
        raise ModelError("this int8 form was made from another model than the bundled one", "Make it again.")
    file = folder / f"{Path(record['file']).stem}-int8.onnx"
    file.write_bytes(made)
    record |= {"int8": file.name, "int8_sha256": hashlib.sha256(made).hexdigest()}
    (folder / "models.json").write_text(json.dumps(index, indent=1) + "\n")
    return file
