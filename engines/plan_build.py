"""Builds a TensorRT plan, in a process of its own.

A fresh process because the order in which the library lists its tensors follows their addresses: only there are two
plans of one model alike to the byte. It also keeps what a builder allocates, and a builder that crashes, away from the
tool. The parent calls `build`; the child runs this module on a folder with what it needs and leaves its answer there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from engines import cache, envelope
from engines.base import Settings
from engines.metadata import identify
from unmask_rt.errors import EngineError, ExtraError

_ELSEWHERE = "Choose another --engine; `onnxruntime` needs no GPU."
_REQUEST, _MODEL, _TIMING, _PLAN, _FAILURE = "request.json", "model.onnx", "timing.bin", "engine.bin", "failure.json"


def build(
    module: str, model: bytes, settings: Settings, targets: Sequence[str], facts: Mapping[str, Any], timing: Path | None
) -> bytes:
    """Has a child build a plan.

    Args:
        module: the library's.
        model: the form of the model that the precision wants.
        settings: precision, batch, and the targets if there are any.
        targets: what to tell people it is built for.
        facts: what a reader of the engine has to know, see `engines.envelope`.
        timing: TensorRT's timing cache, read and renewed; None for none.

    Raises:
        EngineError: the library refused, or the child died.
        ExtraError: the library cannot be loaded.
    """
    with tempfile.TemporaryDirectory(prefix="unmask-rt-build-") as name:
        folder = Path(name)
        (folder / _MODEL).write_bytes(model)
        (folder / _REQUEST).write_text(json.dumps({"module": module, "settings": asdict(settings), "facts": facts}))
        if timing is not None and timing.is_file():
            (folder / _TIMING).write_bytes(timing.read_bytes())
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry or os.getcwd() for entry in sys.path)}
        done = subprocess.run(
            [sys.executable, "-P", "-m", "engines.plan_build", name, str(timing is not None)],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
        if (folder / _FAILURE).is_file():
            told = json.loads((folder / _FAILURE).read_text())
            raise (ExtraError if told["missing"] else EngineError)(told["message"], told["hint"])
        if done.returncode or not (folder / _PLAN).is_file():
            died = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
            raise EngineError(
                f"building for {', '.join(targets)} died ({died}): {line(done.stderr, last=True)}",
                f"If memory ran out, close other programs. {_ELSEWHERE}",
            )
        if timing is not None and (folder / _TIMING).is_file():
            cache.write(timing, (folder / _TIMING).read_bytes())
        return (folder / _PLAN).read_bytes()


def plan_of(
    library: Any, model: bytes, settings: Settings, facts: Mapping[str, Any], timing: bytes | None
) -> tuple[bytes, bytes | None]:
    """Builds a plan in this process.

    Args:
        library: the module.
        model, settings, facts: as in `build`.
        timing: a serialised timing cache to go on from, b"" to begin one, None for none.

    Returns:
        The packed engine, and the timing cache as it is now.

    Raises:
        EngineError: the library refused.
    """
    spec, sha256 = identify(model)
    log = logger(library)
    builder = library.Builder(log)
    network = builder.create_network(0)
    parser = library.OnnxParser(network, log)
    if not parser.parse(model):
        wrong = parser.get_error(0).desc() if parser.num_errors else log.last
        raise EngineError(f"{library.__name__} cannot read this model: {line(wrong)}", _ELSEWHERE)
    network.name = spec.name  # else a running number
    network.get_input(0).shape = (settings.batch, spec.crop_size, spec.crop_size, 3)
    config = builder.create_builder_config()
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    if settings.target_gpu:
        config.num_compute_capabilities = len(settings.target_gpu)
        for index, target in enumerate(settings.target_gpu):
            config.set_compute_capability(getattr(library.ComputeCapability, target), index)
    if timing is not None:
        config.set_timing_cache(config.create_timing_cache(timing), False)
    told = _told(network)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(
            f"{library.__name__} could not build an engine: {line(log.last)}",
            f"If memory ran out, close other programs. {_ELSEWHERE}",
        )
    kept = bytes(config.get_timing_cache().serialize()) if timing is not None else None
    return envelope.pack({**facts, **told, "model": spec.name, "source": sha256}, bytes(plan)), kept


def logger(library: Any) -> Any:
    """A logger for a library that keeps its last error in `last` instead of printing it."""

    class Log(library.ILogger):  # type: ignore[misc] # known at run time only
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, msg: str) -> None:
            if severity in (library.ILogger.Severity.ERROR, library.ILogger.Severity.INTERNAL_ERROR):
                self.last = msg

    return Log()


def line(text: str, *, last: bool = False) -> str:
    """The first or last line of what a library said."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1 if last else 0] if lines else "no reason given"


def _told(network: Any) -> dict[str, Any]:
    """What a parsed network consists of: doors, and how many layers of which kind compute in which type."""
    doors = [network.get_input(i) for i in range(network.num_inputs)]
    doors += [network.get_output(i) for i in range(network.num_outputs)]
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    kinds = Counter(str(layer.type).rpartition(".")[2] for layer in layers)
    types = Counter(str(layer.get_output(0).dtype).rpartition(".")[2] for layer in layers)
    return {
        "tensors": {door.name: f"{str(door.dtype).rpartition('.')[2]}{list(door.shape)}" for door in doors},
        "layers": len(layers),
        "layers_by_kind": dict(sorted(kinds.items())),
        "layers_by_precision": dict(sorted(types.items())),
    }


def main(folder: Path, with_timing: bool) -> None:
    """The child's side."""
    request = json.loads((folder / _REQUEST).read_text())
    settings = Settings(**request["settings"] | {"target_gpu": tuple(request["settings"]["target_gpu"])})
    try:
        library = import_module(request["module"])
        timing = (folder / _TIMING).read_bytes() if (folder / _TIMING).is_file() else b""
        plan, kept = plan_of(
            library, (folder / _MODEL).read_bytes(), settings, request["facts"], timing if with_timing else None
        )
    except (EngineError, ImportError, OSError) as error:
        told = {
            "missing": not isinstance(error, EngineError),
            "message": getattr(error, "message", None) or f"{request['module']} cannot be loaded: {line(str(error))}",
            "hint": getattr(error, "hint", None) or f"Install it again. {_ELSEWHERE}",
        }
        (folder / _FAILURE).write_text(json.dumps(told))
        sys.exit(1)
    if kept is not None:
        (folder / _TIMING).write_bytes(kept)
    (folder / _PLAN).write_bytes(plan)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "True")
