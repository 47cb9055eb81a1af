"""ONNX Runtime: the default engine and the reference on the CPU; other execution providers where its build has them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engines import machine
from engines.base import Batch, Engine, Progress, Settings, Usable, in_batches
from engines.metadata import identify
from unmask_rt.errors import EngineError, ExtraError, ModelError

PACKAGES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
"""Distributions that bring the module onnxruntime."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One of ONNX Runtime's execution providers.

    Attributes:
        name: as ONNX Runtime knows it.
        device: what it runs on, for people.
        options: given to it.
        needs_nvidia: whether it needs an NVIDIA GPU.
    """

    name: str
    device: str
    options: Mapping[str, str] = field(default_factory=dict)
    needs_nvidia: bool = False


CPU = Provider("CPUExecutionProvider", "cpu")


class OnnxRuntimeEngine:
    """Runs a model, in calls of a fixed number of crops.

    Args:
        model: bytes of an ONNX file, the fp32 one or another form of it.
        settings: how.
        provider: on what.
        name: as --engine knows it.

    Raises:
        ModelError: the bytes are no model of this tool.
        ExtraError: the provider does not work here.
    """

    def __init__(self, model: bytes, settings: Settings, provider: Provider = CPU, name: str = "onnxruntime") -> None:
        from unmask_rt.ort import ort

        self.name = name
        self.spec, self.sha256 = identify(model)
        options = ort.SessionOptions()
        options.intra_op_num_threads = settings.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A spinning thread would take the core that decoding and encoding need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_free_dimension_override_by_name("n", settings.batch)
        wanted = [(provider.name, dict(provider.options)), CPU.name] if provider.name != CPU.name else [CPU.name]
        try:
            self._session = ort.InferenceSession(model, options, providers=wanted)
        except Exception as error:  # ONNX Runtime raises classes of its own for each kind of damage
            if provider.name != CPU.name:
                raise ExtraError(
                    f"ONNX Runtime's {provider.name} cannot run the model: {_first_line(error)}",
                    "Choose another --engine; `unmask-rt doctor` says what is missing.",
                ) from error
            raise ModelError(
                f"the unmask model cannot be read: {_first_line(error)}",
                "Give a model exported by unmask-rt with --model, or reinstall to restore the bundled one.",
            ) from error
        self._provider = self._session.get_providers()[0]
        if self._provider != provider.name:
            raise ExtraError(
                f"ONNX Runtime could not start {provider.name} and would run on {self._provider}",
                "Its log (unmask-rt -v) names the library that is missing; or choose another --engine.",
            )
        self._settings = settings
        self._version = ort.__version__
        self._input = self._session.get_inputs()[0].name

    def describe(self) -> Mapping[str, Any]:
        return {
            "engine": self.name,
            "version": self._version,
            "provider": self._provider,
            "precision": self._settings.precision,
            "threads": self._settings.threads,
            "model": self.spec.name,
            "crop_size": self.spec.crop_size,
            "model_sha256": self.sha256,
        }

    def __call__(self, crop: Batch, extra: Batch | None = None) -> tuple[Batch, Batch]:
        return in_batches(self._run, np.ascontiguousarray(crop), self._settings.batch)

    def _run(self, crop: Batch) -> tuple[Batch, Batch]:
        try:
            face, found = self._session.run(None, {self._input: crop})
        except Exception as error:
            raise EngineError(
                f"ONNX Runtime failed: {_first_line(error)}", "Run `unmask-rt doctor`; try another --engine."
            ) from error
        return face, found

    def close(self) -> None:
        self._session = None


class OnnxRuntimeBackend:
    """ONNX Runtime compiles while it loads, so there is nothing to build.

    Args:
        name: as --engine knows it.
        provider: what it runs on.
        precisions: what makes sense there.
    """

    builds = False

    def __init__(self, name: str, provider: Provider, precisions: tuple[str, ...]) -> None:
        self.name, self.precisions, self._provider = name, precisions, provider

    def usable(self) -> Usable:
        installed = version()
        if not installed or importlib.util.find_spec("onnxruntime") is None:
            return Usable(False, "not installed: install unmask-rt again")
        if self._provider.name == CPU.name:
            return Usable(True, "", installed, "cpu")
        try:
            from unmask_rt.ort import ort

            there = ort.get_available_providers()
        except ImportError as error:
            return Usable(False, f"{installed}, but it cannot be loaded: {error}")
        if self._provider.name not in there:  # another wheel is needed, not another device
            return Usable(False, f"this build of ONNX Runtime has no {self._provider.name}")
        if self._provider.needs_nvidia:
            gpus, why = machine.nvidia_gpus()
            if not gpus:
                return Usable(False, f"no NVIDIA GPU ({why})", installed)
            return Usable(True, "", installed, gpus[0].name)
        return Usable(True, "", installed, self._provider.device)

    def variant(self, precision: str) -> str:
        return precision

    def key(self, settings: Settings) -> Mapping[str, str]:
        parts = {"version": version(), "provider": self._provider.name, "processor": machine.instruction_set()}
        if self._provider.needs_nvidia:
            for gpu in machine.nvidia_gpus()[0][:1]:
                parts["gpu"] = f"{gpu.name}, {gpu.capability[0]}.{gpu.capability[1]}, driver {gpu.driver}"
        return parts

    def build(self, model: bytes, settings: Settings, progress: Progress) -> bytes:
        return b""

    def load(self, model: bytes, built: bytes, settings: Settings) -> Engine:
        return OnnxRuntimeEngine(model, settings, self._provider, self.name)

    def inspect(self, built: bytes) -> Mapping[str, Any]:
        return {}


BACKEND = OnnxRuntimeBackend("onnxruntime", CPU, ("fp32", "int8"))
CUDA = OnnxRuntimeBackend(
    "onnxruntime-cuda", Provider("CUDAExecutionProvider", "CUDA", {"use_tf32": "0"}, True), ("fp16", "fp32")
)
TENSORRT = OnnxRuntimeBackend(
    "onnxruntime-tensorrt", Provider("TensorrtExecutionProvider", "TensorRT", {}, True), ("fp16", "fp32")
)
DIRECTML = OnnxRuntimeBackend("onnxruntime-directml", Provider("DmlExecutionProvider", "DirectML"), ("fp16", "fp32"))
COREML = OnnxRuntimeBackend("onnxruntime-coreml", Provider("CoreMLExecutionProvider", "Core ML"), ("fp32", "fp16"))


def version() -> str:
    """Of whichever distribution brings ONNX Runtime, with its name; "" where there is none."""
    for package in PACKAGES:
        if number := machine.package_version(package):
            return number if package == "onnxruntime" else f"{number} ({package})"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
