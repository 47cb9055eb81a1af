"""Runs a TensorRT plan, of whichever of its libraries: `tensorrt` and `tensorrt_rtx` have the same calls.

Names and shapes are the plan's own. Its buffers are made once: crops go through pinned memory into the input's, the
network and the copies back are recorded once as a CUDA graph and launched as one call from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engines.base import Batch, Settings
from engines.cuda import Device, DeviceError
from engines.spec import ModelSpec
from unmask_rt.errors import EngineError

_HINT = "Run `unmask-rt doctor`; try another --engine."


class OnDevice(Protocol):
    """An array in the memory of the GPU, as torch, CuPy and others offer theirs."""

    @property
    def __cuda_array_interface__(self) -> Mapping[str, Any]: ...


class PlanEngine:
    """A deserialised plan, ready to run.

    Args:
        name: the backend's.
        library: its module.
        log: a logger of that module's, with `last` for what it heard.
        plan: the library's own bytes.
        spec, sha256: who the model is.
        settings: what it was built with.

    Raises:
        EngineError: the plan does not fit this library or GPU, or is no model of this tool.
        DeviceError: the GPU has not enough memory, or is lost.
    """

    def __init__(
        self, name: str, library: Any, log: Any, plan: bytes, spec: ModelSpec, sha256: str, settings: Settings
    ) -> None:
        self.name, self.spec, self.sha256 = name, spec, sha256
        self._settings, self._version = settings, str(library.__version__)
        self._runtime: Any = None
        self._engine: Any = None
        self._context: Any = None
        self._log = log
        self._recorded = False
        self._device: Device | None = Device()  # before any Runtime: without a device that one takes the process down
        try:
            self._open(library, plan)
            self._warm()
        except BaseException:
            self.close()
            raise

    def _open(self, library: Any, plan: bytes) -> None:
        device = self._here()
        self._runtime = library.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(
                f"{self.name} {self._version} does not take this plan: {self._log.last or 'no reason given'}",
                "It was built for another version or GPU: run `unmask-engine build` again.",
            )
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise EngineError(
                f"{self.name} cannot prepare to run: {self._log.last or 'no reason given'}",
                "The GPU may have no memory left: close other programs that use it, or choose another --engine.",
            )
        side, batch = self.spec.crop_size, self._settings.batch
        wanted = {(True, (batch, side, side, 3)): "crop", (False, (batch, side, side, 3)): "face",
                  (False, (batch, side, side)): "map"}  # fmt: skip
        found: dict[str, tuple[int, NDArray[np.uint8]]] = {}
        for index in range(self._engine.num_io_tensors):
            tensor = self._engine.get_tensor_name(index)
            shape = tuple(self._engine.get_tensor_shape(tensor))
            given = self._engine.get_tensor_mode(tensor) == library.TensorIOMode.INPUT
            meaning = wanted.pop((given, shape), None)
            if meaning is None or self._engine.get_tensor_dtype(tensor) != library.DataType.UINT8:
                raise EngineError(
                    f"the plan's tensor {tensor!r} {list(shape)} is none of this tool's",
                    "Run `unmask-engine build` again.",
                )
            found[meaning] = device.memory(int(np.prod(shape))), device.pinned(shape)
            if given and not self._context.set_input_shape(tensor, shape):
                raise EngineError(f"{self.name} refuses the shape {list(shape)}: {self._log.last}", _HINT)
            if not self._context.set_tensor_address(tensor, found[meaning][0]):
                raise EngineError(f"{self.name} refuses the memory of {tensor!r}: {self._log.last}", _HINT)
        if wanted:
            raise EngineError(f"the plan lacks {', '.join(wanted.values())}", "Run `unmask-engine build` again.")
        (self._crop_at, self._crop), (self._face_at, self._face), (self._map_at, self._map) = (
            found[meaning] for meaning in ("crop", "face", "map")
        )

    def _warm(self) -> None:
        """One plain run, in which the library allocates what it needs, then the recording of all later ones."""
        device = self._here()
        self._crop[:] = 0
        device.to_device(self._crop_at, self._crop)
        self._compute()
        device.wait()
        self._launch: Callable[[], None] = self._compute
        self._recorded = bool(self._context.is_stream_capturable(device.stream))
        if self._recorded:
            try:
                self._launch = device.record(self._compute)
            except DeviceError:
                raise
            except EngineError:
                self._recorded = False  # the library refuses to be recorded: each call is put into the stream anew

    def _compute(self) -> None:
        """Puts the network and the copies of its outputs into the stream."""
        device = self._here()
        if not self._context.execute_async_v3(device.stream):
            raise EngineError(f"{self.name} failed: {self._log.last or 'no reason given'}", _HINT)
        device.to_host(self._face, self._face_at)
        device.to_host(self._map, self._map_at)

    def describe(self) -> Mapping[str, Any]:
        return {
            "engine": self.name,
            "version": self._version,
            "provider": "CUDA graph" if self._recorded else "CUDA",
            "precision": self._settings.precision,
            "batch": self._settings.batch,
            "model": self.spec.name,
            "crop_size": self.spec.crop_size,
            "model_sha256": self.sha256,
        }

    def __call__(self, crop: Batch | OnDevice, extra: Batch | None = None) -> tuple[Batch, Batch]:
        """As `engines.base.Engine`; ``crop`` may also lie on the GPU already (uint8, without gaps)."""
        device = self._here()
        device.enter()
        if isinstance(crop, np.ndarray):
            count, send = self._from_host(crop)
        else:
            count, send = self._from_device(crop.__cuda_array_interface__)
        side, batch = self.spec.crop_size, self._settings.batch
        faces, maps = np.empty((count, side, side, 3), np.uint8), np.empty((count, side, side), np.uint8)
        for start in range(0, count, batch):
            part = min(batch, count - start)  # a last call that is not full computes old crops once more
            send(start, part)
            self._launch()
            device.wait()
            faces[start : start + part] = self._face[:part]
            maps[start : start + part] = self._map[:part]
        return faces, maps

    def _from_host(self, crop: Batch) -> tuple[int, Callable[[int, int], None]]:
        self._check(crop.dtype.str, crop.shape)
        device = self._here()

        def send(start: int, part: int) -> None:
            self._crop[:part] = crop[start : start + part]
            device.to_device(self._crop_at, self._crop)

        return len(crop), send

    def _from_device(self, told: Mapping[str, Any]) -> tuple[int, Callable[[int, int], None]]:
        shape = tuple(told["shape"])
        self._check(told["typestr"], shape)
        if told.get("strides") is not None:
            raise EngineError("crops on the GPU have to lie in memory without gaps", "Make them contiguous.")
        device, size = self._here(), self._crop[0].nbytes
        if (stream := told.get("stream")) is not None:
            device.wait(int(stream))  # whoever makes the crops may not have finished yet
        return shape[0], lambda start, part: device.on_device(
            self._crop_at, told["data"][0] + start * size, part * size
        )

    def _check(self, kind: str, shape: tuple[int, ...]) -> None:
        side = self.spec.crop_size
        if kind.lstrip("|<>=") != "u1" or shape[1:] != (side, side, 3):
            raise EngineError(
                f"{self.name} failed: crops are {kind}{list(shape)}, not uint8[N, {side}, {side}, 3]", _HINT
            )

    def _here(self) -> Device:
        if self._device is None:
            raise EngineError(f"{self.name} failed: the engine is closed", _HINT)
        return self._device

    def close(self) -> None:
        """Frees context, engine and runtime in this order, then what lies on the device."""
        if self._device is None:
            return
        device, self._device = self._device, None
        with suppress(DeviceError):  # one that is gone has nothing to give back
            device.enter()
        self._launch = self._compute
        self._context = self._engine = self._runtime = None
        device.close()
