"""The few calls of NVIDIA's driver that an engine needs: memory, copies, one stream, one recorded graph.

They go straight to the driver's own library, so no CUDA toolkit and no package is needed beside what runs the network.
One context (the device's primary one) is shared with TensorRT and torch.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unmask_rt.errors import EngineError, ExtraError

OUT_OF_MEMORY = 2
_NON_BLOCKING = 1
_CAPTURE_THIS_THREAD = 1
_NAMES = {
    "cuMemAlloc": "cuMemAlloc_v2",
    "cuMemFree": "cuMemFree_v2",
    "cuMemcpyHtoDAsync": "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync": "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync": "cuMemcpyDtoDAsync_v2",
    "cuStreamBeginCapture": "cuStreamBeginCapture_v2",
    "cuStreamDestroy": "cuStreamDestroy_v2",
    "cuDevicePrimaryCtxRelease": "cuDevicePrimaryCtxRelease_v2",
}
"""Calls whose symbol has a version."""


class DeviceError(EngineError):
    """The GPU refused a call: no memory left, or it is lost.

    Attributes:
        code: the driver's number.
    """

    def __init__(self, message: str, hint: str, code: int) -> None:
        super().__init__(message, hint)
        self.code = code


def load_driver() -> Any:
    """The driver's library.

    Raises:
        ExtraError: there is none.
    """
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise ExtraError(
            "there is no NVIDIA driver on this machine", "Install one, or choose another --engine."
        ) from error


class Device:
    """The first GPU with a stream of its own. Calls may come from any thread, one at a time.

    Raises:
        ExtraError: no driver or no device.
        DeviceError: the device does not answer.
    """

    def __init__(self) -> None:
        self._driver = load_driver()
        if code := self._driver.cuInit(0):
            raise ExtraError(
                f"the NVIDIA driver does not start (error {code})", "Check `nvidia-smi`, or choose another --engine."
            )
        count = ctypes.c_int()
        self._call("cuDeviceGetCount", ctypes.byref(count))
        if not count.value:
            raise ExtraError("the NVIDIA driver sees no device", "Check `nvidia-smi`, or choose another --engine.")
        self._device, self._context, self._stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._freed: list[Callable[[], int]] = []
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        self._freed.append(lambda: self._try("cuDevicePrimaryCtxRelease", self._device))
        self.enter()
        self._call("cuStreamCreate", ctypes.byref(self._stream), ctypes.c_uint(_NON_BLOCKING))
        self._freed.append(lambda: self._try("cuStreamDestroy", self._stream))

    @property
    def stream(self) -> int:
        """Handle of the stream, as TensorRT takes it."""
        return int(self._stream.value or 0)

    def enter(self) -> None:
        """Makes the device the calling thread's; belongs before whatever a thread does with it."""
        self._call("cuCtxSetCurrent", self._context)

    def memory(self, size: int) -> int:
        """Address of ``size`` bytes on the device, kept until `close`."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc", ctypes.byref(address), ctypes.c_size_t(size))
        self._freed.append(lambda: self._try("cuMemFree", address))
        return address.value

    def pinned(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """An array of bytes in memory that the device reads and writes by itself, kept until `close`."""
        address, size = ctypes.c_void_p(), int(np.prod(shape))
        self._call("cuMemHostAlloc", ctypes.byref(address), ctypes.c_size_t(size), ctypes.c_uint(0))
        self._freed.append(lambda: self._try("cuMemFreeHost", address))
        raw = (ctypes.c_uint8 * size).from_address(int(address.value or 0))
        return np.ctypeslib.as_array(raw).reshape(shape)

    def to_device(self, target: int, source: NDArray[np.uint8]) -> None:
        """Copies an array to the device, in the stream's order."""
        where = ctypes.c_void_p(source.ctypes.data)
        self._call("cuMemcpyHtoDAsync", ctypes.c_uint64(target), where, ctypes.c_size_t(source.nbytes), self._stream)

    def to_host(self, target: NDArray[np.uint8], source: int) -> None:
        """Fills an array from the device, in the stream's order."""
        where = ctypes.c_void_p(target.ctypes.data)
        self._call("cuMemcpyDtoHAsync", where, ctypes.c_uint64(source), ctypes.c_size_t(target.nbytes), self._stream)

    def on_device(self, target: int, source: int, size: int) -> None:
        """Copies from device memory to device memory, in the stream's order."""
        self._call(
            "cuMemcpyDtoDAsync", ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(size), self._stream
        )

    def wait(self, stream: int | None = None) -> None:
        """Waits until everything in the stream (or in another one) is done."""
        self._call("cuStreamSynchronize", self._stream if stream is None else ctypes.c_void_p(stream))

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Records what ``work`` puts into the stream, without running it.

        Returns:
            A call that puts all of it into the stream again, at the cost of one.
        """
        graph, runnable = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuStreamBeginCapture", self._stream, ctypes.c_int(_CAPTURE_THIS_THREAD))
        try:
            work()
        finally:
            code = self._try("cuStreamEndCapture", self._stream, ctypes.byref(graph))
        if code:
            raise self._error("cuStreamEndCapture", code)
        try:
            self._call("cuGraphInstantiateWithFlags", ctypes.byref(runnable), graph, ctypes.c_uint64(0))
        finally:
            self._try("cuGraphDestroy", graph)
        self._freed.append(lambda: self._try("cuGraphExecDestroy", runnable))
        return lambda: self._call("cuGraphLaunch", runnable, self._stream)

    def close(self) -> None:
        """Gives everything back; twice is harmless, and so is a device that is gone."""
        if self._freed:
            self._try("cuCtxSetCurrent", self._context)
        while self._freed:
            self._freed.pop()()

    def _try(self, name: str, *arguments: Any) -> int:
        return int(getattr(self._driver, _NAMES.get(name, name))(*arguments))

    def _call(self, name: str, *arguments: Any) -> None:
        if code := self._try(name, *arguments):
            raise self._error(name, code)

    def _error(self, name: str, code: int) -> DeviceError:
        if code == OUT_OF_MEMORY:
            return DeviceError(
                "the GPU has no memory left", "Close other programs that use it, or choose another --engine.", code
            )
        text = ctypes.c_char_p()
        self._driver.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text))
        told = text.value.decode() if text.value else f"error {code}"
        return DeviceError(
            f"the GPU failed: {told} ({name})", "Check `nvidia-smi`; another --engine works without it.", code
        )
