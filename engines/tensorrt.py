"""TensorRT 11 and TensorRT-RTX: one backend over either module, whose calls are the same.

Networks are strongly typed: the precision is that of the graph, so FP16 and INT8 are forms of the model
(`engines.fp16`, `engines.symmetric`) and no switch of the builder. TensorRT builds for the GPU that is here, and needs
it for that; TensorRT-RTX builds for any of its targets on a machine without one and compiles the rest when it loads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from engines import cache, envelope, machine, plan_build
from engines.base import Engine, Progress, Settings, Usable
from engines.metadata import identify
from engines.plan import PlanEngine
from unmask_rt.errors import EngineError, ExtraError, UsageError

_ELSEWHERE = "Choose another --engine; `onnxruntime` needs no GPU."


class TensorRtBackend:
    """One of TensorRT's two libraries.

    Args:
        name: on the command line.
        module: of the library.
        package: that brings it.
        targets: compute capabilities it can build for without having such a GPU; empty: only for the one that is here.
    """

    precisions: tuple[str, ...] = ("fp16", "int8")
    builds = True

    def __init__(self, name: str, module: str, package: str, targets: Sequence[str]) -> None:
        self.name, self.targets = name, tuple(targets)
        self._module, self._package = module, package

    def usable(self) -> Usable:
        found = machine.package_version(self._package)
        if not found:
            return Usable(False, f"not installed. {self._install()}")
        gpus, reason = machine.nvidia_gpus()
        if not gpus:
            build = "; it can build for other machines" if self.targets else ""
            return Usable(False, f"no NVIDIA GPU ({reason}){build}", found)
        here = target_of(gpus[0])
        if self.targets and here not in self.targets:
            why = f"{gpus[0].name} ({here}) is not among its targets: {', '.join(self.targets)}"
            return Usable(False, why, found, gpus[0].name)
        return Usable(True, version=found, device=gpus[0].name)

    def variant(self, precision: str) -> str:
        return "int8-symmetric" if precision == "int8" else "fp16"

    def key(self, settings: Settings) -> Mapping[str, str]:
        gpus, _ = machine.nvidia_gpus()
        told = {"version": machine.package_version(self._package), "targets": " ".join(settings.target_gpu)}
        if gpus and not settings.target_gpu:
            told |= {"gpu": gpus[0].name, "targets": target_of(gpus[0]), "driver": gpus[0].driver}
        return told

    def build(self, model: bytes, settings: Settings, progress: Progress) -> bytes:
        targets = self._targets(settings)
        identify(model)
        if not machine.package_version(self._package):
            raise ExtraError(f"the engine {self.name!r} is not installed", self._install())
        progress(f"building for {', '.join(targets)} ({settings.precision}, batch {settings.batch})")
        # What RTX builds is not timed on a device, so there is nothing to remember.
        timing = None if self.targets else cache.folder() / f"timing-{self._stamp(targets)}.bin"
        return plan_build.build(self._module, model, settings, targets, self._facts(settings), timing)

    def load(self, model: bytes, built: bytes, settings: Settings) -> Engine:
        library = self._library()
        gpus, reason = machine.nvidia_gpus()
        if not gpus:
            raise ExtraError(f"the engine {self.name!r} needs an NVIDIA GPU, and here is none ({reason})", _ELSEWHERE)
        spec, sha256 = identify(model)
        if not built:
            built = self.build(model, settings, lambda text: None)
        self._check_target(envelope.facts(built), target_of(gpus[0]))
        fixed = {
            name: value for name, value in self._facts(settings).items() if name not in ("targets", "gpu", "driver")
        }
        plan = envelope.unpack(built, fixed | {"source": sha256})
        return PlanEngine(self.name, library, plan_build.logger(library), plan, spec, sha256, settings)

    def inspect(self, built: bytes) -> Mapping[str, Any]:
        return envelope.facts(built)

    def _facts(self, settings: Settings) -> dict[str, Any]:
        return {"backend": self.name, "precision": settings.precision, "batch": settings.batch, **self.key(settings)}

    def _check_target(self, told: Mapping[str, Any], here: str) -> None:
        if here not in str(told.get("targets", "")).split():
            raise EngineError(
                f"this engine was built for {told.get('targets')}, this GPU is {here}",
                "Build it again with `unmask-engine build`.",
            )

    def _targets(self, settings: Settings) -> tuple[str, ...]:
        """The compute capabilities to build for.

        Raises:
            UsageError: they cannot be built for.
            ExtraError: none is asked for and there is no GPU.
        """
        if unknown := [target for target in settings.target_gpu if target not in self.targets]:
            can = f"one of {', '.join(self.targets)}" if self.targets else "none: it builds for the GPU that is here"
            raise UsageError(f"{self.name} cannot build for {', '.join(unknown)}", f"--target-gpu takes {can}.")
        if settings.target_gpu:
            return settings.target_gpu
        gpus, reason = machine.nvidia_gpus()
        if gpus:
            return (target_of(gpus[0]),)
        hint = f"Name what to build for: --target-gpu {' '.join(self.targets)}." if self.targets else _ELSEWHERE
        raise ExtraError(f"there is no NVIDIA GPU here to build for ({reason})", hint)

    def _stamp(self, targets: Sequence[str]) -> str:
        return "-".join((self.name, machine.package_version(self._package), *targets))

    def _install(self) -> str:
        return f"Install it with: pip install 'unmask-rt[{self.name}]', or choose another --engine."

    def _library(self) -> Any:
        try:
            return import_module(self._module)
        except (ImportError, OSError) as error:
            raise ExtraError(
                f"the engine {self.name!r} cannot be used here: {plan_build.line(str(error))}",
                self._install(),
            ) from error


def target_of(gpu: machine.Gpu) -> str:
    """A GPU's compute capability as TensorRT writes it: "SM86"."""
    return f"SM{gpu.capability[0]}{gpu.capability[1]}"


RTX_TARGETS = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
TENSORRT = TensorRtBackend("tensorrt", "tensorrt", "tensorrt", ())
TENSORRT_RTX = TensorRtBackend("tensorrt-rtx", "tensorrt_rtx", "tensorrt_rtx", RTX_TARGETS)

__all__ = ["RTX_TARGETS", "TENSORRT", "TENSORRT_RTX", "TensorRtBackend", "target_of"]
