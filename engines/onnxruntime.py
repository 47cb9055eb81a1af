"""ONNX Runtime on the CPU: the default engine."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Mapping
from typing import Any

import numpy as np

from engines import machine
from engines.base import Batch, Engine, Progress, Settings, Usable
from engines.spec import METADATA_KEY, ModelSpec
from unmask_rt.errors import EngineError, ModelError


class OnnxRuntimeEngine:
    """Runs an exported model with ONNX Runtime's CPU provider.

    Args:
        model: bytes of the ONNX file.
        threads: threads inside one call; 1 leaves the other cores to the rest of the pipeline.

    Raises:
        ModelError: the bytes are no model of this tool.
    """

    name = "onnxruntime"

    def __init__(self, model: bytes, *, threads: int = 1) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A spinning thread would take the core that decoding and encoding need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime raises classes of its own for each kind of damage
            raise ModelError(
                f"the unmask model cannot be read: {_first_line(error)}",
                "Give a model exported by unmask-rt with --model, or reinstall to restore the bundled one.",
            ) from error
        stored = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if stored is None:
            raise ModelError("this ONNX file is not an unmask-rt model: it carries no metadata of ours",
                             "Give a model exported by unmask-rt with --model.")  # fmt: skip
        try:
            self.spec = ModelSpec.from_json(stored)
        except ValueError as error:
            raise ModelError(
                f"the unmask model does not fit this version: {error}", "Update unmask-rt or export the model again."
            ) from error
        if self.spec.extra_channels:
            raise ModelError(
                f"the model wants channels that nothing here makes: {', '.join(self.spec.extra_channels)}",
                "Update unmask-rt.",
            )
        self.sha256 = hashlib.sha256(model).hexdigest()
        self._threads = threads
        self._version = ort.__version__
        self._input = self._session.get_inputs()[0].name

    def describe(self) -> Mapping[str, Any]:
        return {
            "engine": self.name,
            "version": self._version,
            "provider": "CPUExecutionProvider",
            "precision": "fp32",
            "threads": self._threads,
            "model": self.spec.name,
            "crop_size": self.spec.crop_size,
            "model_sha256": self.sha256,
        }

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        try:
            face, mask = self._session.run(None, {self._input: np.ascontiguousarray(crop)})
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime failed: {_first_line(error)}", "Run `unmask-rt doctor`; try another --engine."
            ) from error
        return face, mask

    def close(self) -> None:
        self._session = None


class OnnxRuntimeBackend:
    """ONNX Runtime compiles while it loads, so there is nothing to build."""

    name = "onnxruntime"
    precisions: tuple[str, ...] = ("fp32",)
    builds = False

    def usable(self) -> Usable:
        try:
            version = importlib.metadata.version("onnxruntime")
        except importlib.metadata.PackageNotFoundError:
            return Usable(False, "not installed: install unmask-rt again")
        return Usable(True, version=version, device="cpu")

    def variant(self, precision: str) -> str:
        return precision

    def key(self, settings: Settings) -> Mapping[str, str]:
        return {"version": importlib.metadata.version("onnxruntime"), "processor": machine.instruction_set()}

    def build(self, model: bytes, settings: Settings, progress: Progress) -> bytes:
        return b""

    def load(self, model: bytes, built: bytes, settings: Settings) -> Engine:
        return OnnxRuntimeEngine(model, threads=settings.threads)

    def inspect(self, built: bytes) -> Mapping[str, Any]:
        return {}


BACKEND = OnnxRuntimeBackend()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
