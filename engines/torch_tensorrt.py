"""Torch-TensorRT: the exported program of `engines.torch`, compiled by TensorRT.

Where TensorRT takes the whole program it becomes one serialised engine, which runs like any other plan, without torch.
Where an operator is left over it becomes a compiled module: TensorRT's parts and torch's, called as one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from engines import envelope, machine, plan_build
from engines.base import Engine, Progress, Settings, Usable
from engines.metadata import identify
from engines.plan import PlanEngine
from engines.tensorrt import target_of
from unmask_rt.errors import EngineError, ExtraError

_INSTALL = "Install it with: pip install 'unmask-rt[torch-tensorrt]', or choose another --engine."
_PACKAGES = ("torch", "torch_tensorrt", "tensorrt")


class TorchTensorRtBackend:
    """Compiles for the GPU that is here."""

    name = "torch-tensorrt"
    precisions: tuple[str, ...] = ("fp16",)
    builds = True

    def usable(self) -> Usable:
        if missing := [package for package in _PACKAGES if not machine.package_version(package)]:
            return Usable(False, f"not installed: {', '.join(missing)}. {_INSTALL}")
        gpus, reason = machine.nvidia_gpus()
        if not gpus:
            return Usable(False, f"no NVIDIA GPU ({reason})", machine.package_version("torch_tensorrt"))
        return Usable(True, version=machine.package_version("torch_tensorrt"), device=gpus[0].name)

    def variant(self, precision: str) -> str:
        return precision

    def key(self, settings: Settings) -> Mapping[str, str]:
        versions = ", ".join(f"{package} {machine.package_version(package)}" for package in _PACKAGES)
        gpus, _ = machine.nvidia_gpus()
        told = {"gpu": gpus[0].name, "targets": target_of(gpus[0]), "driver": gpus[0].driver} if gpus else {}
        return {"version": versions, **told}

    def build(self, model: bytes, settings: Settings, progress: Progress) -> bytes:
        self._need_gpu()
        library, torch = _library("torch_tensorrt"), _library("torch")
        spec, sha256 = identify(model)
        to_torch = _library("engines.to_torch")
        progress("exporting for torch")
        program = to_torch.program(model, settings.batch)
        side = spec.crop_size
        crop = torch.zeros((settings.batch, side, side, 3), dtype=torch.uint8, device="cuda")
        progress(f"compiling with TensorRT ({settings.precision}, batch {settings.batch})")
        facts = {**self._facts(settings), "model": spec.name, "source": sha256}
        with tempfile.TemporaryDirectory(prefix="unmask-rt-build-") as folder:
            options = {"inputs": [crop], "timing_cache_path": str(Path(folder) / "timing.bin")}
            try:
                plan = library.dynamo.convert_exported_program_to_serialized_trt_engine(
                    program, require_full_compilation=True, **options
                )
                return envelope.pack({**facts, "form": "engine"}, bytes(plan))
            except Exception as error:  # whatever its converters raise: the parts that it takes are left to try
                refused = plan_build.line(str(error))
            progress(f"not as a whole ({refused}): compiling a module")
            file = Path(folder) / "module.pt2"
            try:
                module = library.dynamo.compile(program, **options)
                library.save(module, str(file), output_format="exported_program", arg_inputs=[crop])
            except Exception as error:
                raise EngineError(
                    f"Torch-TensorRT cannot compile this model: {plan_build.line(str(error))}",
                    "If memory ran out, close other programs. Choose another --engine; `onnxruntime` needs no GPU.",
                ) from error
            return envelope.pack({**facts, "form": "module", "refused": refused}, file.read_bytes())

    def load(self, model: bytes, built: bytes, settings: Settings) -> Engine:
        self._need_gpu()
        spec, sha256 = identify(model)
        built = built or self.build(model, settings, lambda text: None)
        body = envelope.unpack(built, self._facts(settings) | {"source": sha256})
        if envelope.facts(built)["form"] == "engine":
            tensorrt = _library("tensorrt")
            return PlanEngine(self.name, tensorrt, plan_build.logger(tensorrt), body, spec, sha256, settings)
        library = _library("torch_tensorrt")
        with tempfile.TemporaryDirectory(prefix="unmask-rt-load-") as folder:
            file = Path(folder) / "module.pt2"
            file.write_bytes(body)
            try:
                module = library.load(str(file)).module()
            except Exception as error:
                raise EngineError(
                    f"Torch-TensorRT cannot read the compiled module: {plan_build.line(str(error))}",
                    "Build it again with `unmask-engine build`.",
                ) from error
        engine: Engine = _library("engines.torch").TorchEngine(self.name, module, spec, sha256, settings, "cuda")
        return engine

    def inspect(self, built: bytes) -> Mapping[str, Any]:
        return envelope.facts(built)

    def _facts(self, settings: Settings) -> dict[str, Any]:
        return {"backend": self.name, "precision": settings.precision, "batch": settings.batch, **self.key(settings)}

    def _need_gpu(self) -> None:
        """Before anything is imported: without TensorRT's libraries that raises, without a device it may crash."""
        gpus, reason = machine.nvidia_gpus()
        if not gpus:
            raise ExtraError(
                f"the engine {self.name!r} needs an NVIDIA GPU, and here is none ({reason})",
                "Choose another --engine; `onnxruntime` needs no GPU.",
            )


BACKEND = TorchTensorRtBackend()


def _library(name: str) -> Any:
    try:
        return import_module(name)
    except Exception as error:  # Torch-TensorRT raises a plain Exception where TensorRT's libraries are missing
        raise ExtraError(
            f"the engine 'torch-tensorrt' cannot be used here: {plan_build.line(str(error))}", _INSTALL
        ) from error
