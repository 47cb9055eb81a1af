"""torch: on a GPU in FP16 as one recorded CUDA graph, on a processor as it is.

What it builds is an exported program (the bytes of a .pt2 file) made from the same ONNX file that every engine reads:
one model, one hash, and neither the trainer nor the package onnx is needed to load it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from engines import envelope, machine
from engines.base import Batch, Engine, Progress, Settings, Usable, in_batches
from engines.metadata import identify
from engines.spec import ModelSpec
from unmask_rt.errors import EngineError, ExtraError

_INSTALL = "Install it with: pip install 'unmask-rt[torch]'"
_HINT = "Run `unmask-rt doctor`; try another --engine."
_WARM_CALLS = 3


class TorchEngine:
    """Runs an exported program of one batch size.

    Args:
        name: the backend's.
        program: module of the exported program.
        spec, sha256: who the model is.
        settings: what it was built with.
        device: "cuda" or "cpu".

    Raises:
        EngineError: the GPU has not enough memory, or failed.
    """

    def __init__(self, name: str, program: Any, spec: ModelSpec, sha256: str, settings: Settings, device: str) -> None:
        import torch

        self.name, self.spec, self.sha256 = name, spec, sha256
        self._torch, self._settings, self._cuda = torch, settings, device == "cuda"
        self._program: Any = program
        if not self._cuda:
            torch.set_num_threads(settings.threads)
            return
        try:
            self._record()
        except RuntimeError as error:  # torch.OutOfMemoryError is one too
            self.close()
            raise self._failure(error) from error

    def _record(self) -> None:
        """Buffers, a few calls in which libraries choose and allocate, and the recording of all later ones."""
        torch, side = self._torch, self.spec.crop_size
        shape = self._settings.batch, side, side, 3
        self._pinned = torch.zeros(shape, dtype=torch.uint8, pin_memory=True)
        self._crop = torch.zeros(shape, dtype=torch.uint8, device="cuda")
        self._stream = torch.cuda.Stream()
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for _ in range(_WARM_CALLS):
                outputs = self._program(self._crop)
            self._stream.synchronize()
            self._answers = [torch.empty(o.shape, dtype=o.dtype, pin_memory=True) for o in outputs]
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._outputs = self._program(self._crop)

    def describe(self) -> Mapping[str, Any]:
        return {
            "engine": self.name,
            "version": self._torch.__version__,
            "provider": "CUDA graph" if self._cuda else "CPU",
            "precision": self._settings.precision,
            "batch": self._settings.batch,
            "threads": self._settings.threads,
            "model": self.spec.name,
            "crop_size": self.spec.crop_size,
            "model_sha256": self.sha256,
        }

    def __call__(self, crop: Any, extra: Batch | None = None) -> tuple[Batch, Batch]:
        """As `engines.base.Engine`; on a GPU ``crop`` may also be a uint8 tensor or array that is there already."""
        if self._program is None:
            raise EngineError("torch failed: the engine is closed", _HINT)
        torch, side = self._torch, self.spec.crop_size
        if self._cuda and hasattr(crop, "__cuda_array_interface__"):
            crop = torch.as_tensor(crop, device="cuda")
        if crop.dtype not in (np.uint8, torch.uint8) or tuple(crop.shape[1:]) != (side, side, 3):
            raise EngineError(f"torch failed: crops are {crop.dtype}{list(crop.shape)}, not {side} px of uint8", _HINT)
        try:
            if self._cuda:
                return self._on_gpu(crop)
            return in_batches(self._on_processor, np.ascontiguousarray(crop), self._settings.batch)
        except RuntimeError as error:
            raise self._failure(error) from error

    def _on_processor(self, crop: Batch) -> tuple[Batch, Batch]:
        with self._torch.inference_mode():
            face, mask = self._program(self._torch.from_numpy(crop))
        return face.numpy(), mask.numpy()

    def _on_gpu(self, crop: Any) -> tuple[Batch, Batch]:
        torch, batch = self._torch, self._settings.batch
        there = isinstance(crop, torch.Tensor)
        count, side = len(crop), self.spec.crop_size
        faces, maps = np.empty((count, side, side, 3), np.uint8), np.empty((count, side, side), np.uint8)
        if there:
            self._stream.wait_stream(torch.cuda.current_stream())
        with torch.inference_mode(), torch.cuda.stream(self._stream):
            for start in range(0, count, batch):
                part = min(batch, count - start)  # a last call that is not full computes old crops once more
                given = crop[start : start + part]
                if not there:
                    self._pinned[:part].numpy()[:] = given
                    given = self._pinned[:part]
                self._crop[:part].copy_(given, non_blocking=True)
                self._graph.replay()
                for answer, output in zip(self._answers, self._outputs, strict=True):
                    answer.copy_(output, non_blocking=True)
                self._stream.synchronize()
                faces[start : start + part] = self._answers[0][:part].numpy()
                maps[start : start + part] = self._answers[1][:part].numpy()
        return faces, maps

    def _failure(self, error: RuntimeError) -> EngineError:
        text = _line(error)
        if "out of memory" in text:
            return EngineError(
                "the GPU has no memory left", "Close other programs that use it, or choose another --engine."
            )
        return EngineError(f"torch failed: {text}", _HINT)

    def close(self) -> None:
        self._program = self._graph = self._outputs = None


class TorchBackend:
    """torch, on whatever device it sees."""

    name = "torch"
    builds = True

    @property
    def precisions(self) -> tuple[str, ...]:
        """FP16 only on a GPU: processors compute it slower than FP32."""
        return ("fp16", "fp32") if device() == "cuda" else ("fp32",)

    def usable(self) -> Usable:
        if not version():
            return Usable(False, f"not installed. {_INSTALL}")
        if device() == "cuda":
            return Usable(True, version=version(), device=machine.nvidia_gpus()[0][0].name)
        why = "on the processor, where others are faster"
        return Usable(True, why, version(), "cpu", automatic=False)

    def variant(self, precision: str) -> str:
        return precision

    def key(self, settings: Settings) -> Mapping[str, str]:
        told = {"version": version(), "device": device()}
        if told["device"] == "cuda":
            gpu = machine.nvidia_gpus()[0][0]
            return told | {
                "gpu": gpu.name,
                "capability": f"{gpu.capability[0]}.{gpu.capability[1]}",
                "driver": gpu.driver,
            }
        return told

    def build(self, model: bytes, settings: Settings, progress: Progress) -> bytes:
        spec, sha256 = identify(model)
        progress(f"exporting for torch ({settings.precision}, batch {settings.batch})")
        try:
            from engines import to_torch

            program = to_torch.program(model, settings.batch)
        except (ImportError, OSError) as error:
            raise ExtraError(f"an engine for torch cannot be built: {error}", _INSTALL) from error
        calls = sum(node.op == "call_function" for node in program.graph.nodes)
        told = {"layers": calls, "model": spec.name, "source": sha256}
        return envelope.pack(self._facts(settings) | told, to_torch.to_bytes(program))

    def load(self, model: bytes, built: bytes, settings: Settings) -> Engine:
        if settings.precision not in self.precisions:
            raise EngineError(f"torch does not run {settings.precision} on this machine", "Choose --precision fp32.")
        spec, sha256 = identify(model)
        built = built or self.build(model, settings, lambda text: None)
        body = envelope.unpack(built, self._facts(settings) | {"source": sha256})
        try:
            import torch
        except (ImportError, OSError) as error:  # OSError: a library that its own wheel needs is missing
            raise ExtraError(f"the engine 'torch' cannot be used here: {error}", _INSTALL) from error
        if device() == "cuda" and not torch.cuda.is_available():
            raise ExtraError(
                "this build of torch does not reach the GPU", "Install one with CUDA, or use --engine onnxruntime."
            )
        try:
            program = torch.export.load(io.BytesIO(body))
        except Exception as error:  # it raises classes of its own and of zipfile's for each kind of damage
            raise EngineError(
                f"torch cannot read the exported program: {_line(error)}", "Build it again with `unmask-engine build`."
            ) from error
        try:
            module = placed(program, device())
        except RuntimeError as error:
            raise EngineError(
                f"torch cannot bring the network to {device()}: {_line(error)}", "Is the GPU's memory full?"
            ) from error
        return TorchEngine(self.name, module, spec, sha256, settings, device())

    def inspect(self, built: bytes) -> Mapping[str, Any]:
        return envelope.facts(built)

    def _facts(self, settings: Settings) -> dict[str, Any]:
        return {"backend": self.name, "precision": settings.precision, "batch": settings.batch, "version": version()}


BACKEND = TorchBackend()


def version() -> str:
    """Full build version of the installed package, "" where there is none."""
    return machine.package_version("torch")


def device() -> str:
    """Where torch would run, found without importing it: its build for processors says so in its version."""
    return "cuda" if version() and "+cpu" not in version() and machine.nvidia_gpus()[0] else "cpu"


def placed(program: Any, where: str) -> Any:
    """The module of an exported program on a device: its weights, and what its operations assert about devices."""
    from torch.export.passes import move_to_device_pass

    return move_to_device_pass(program, where).module()


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
