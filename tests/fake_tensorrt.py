"""A TensorRT and an NVIDIA driver in Python, for tests on machines without a GPU.

`FakeDriver` keeps "device" memory on the host and does what the driver's calls say, streams, pinned memory and recorded
graphs included. `FakeLibrary` has the calls of `tensorrt` and `tensorrt_rtx` that the tool makes (`CALLS`, held against
the real signatures by a test); its plans carry an ONNX model, which its context runs with ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import enum
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import onnxruntime

CALLS: dict[str, tuple[str, ...]] = {
    "Builder.__init__": ("logger",),
    "Builder.create_network": ("flags",),
    "Builder.create_builder_config": (),
    "Builder.build_serialized_network": ("network", "config"),
    "OnnxParser.__init__": ("network", "logger"),
    "OnnxParser.parse": ("model",),
    "OnnxParser.get_error": ("index",),
    "ParserError.desc": (),
    "INetworkDefinition.get_input": ("index",),
    "INetworkDefinition.get_output": ("index",),
    "INetworkDefinition.get_layer": ("index",),
    "ILayer.get_output": ("index",),
    "IBuilderConfig.set_compute_capability": ("compute_capability", "index"),
    "IBuilderConfig.create_timing_cache": ("serialized_timing_cache",),
    "IBuilderConfig.set_timing_cache": ("cache", "ignore_mismatch"),
    "IBuilderConfig.get_timing_cache": (),
    "ITimingCache.serialize": (),
    "Runtime.__init__": ("logger",),
    "Runtime.deserialize_cuda_engine": ("serialized_engine",),
    "ICudaEngine.create_execution_context": (),
    "ICudaEngine.get_tensor_name": ("index",),
    "ICudaEngine.get_tensor_shape": ("name",),
    "ICudaEngine.get_tensor_mode": ("name",),
    "ICudaEngine.get_tensor_dtype": ("name",),
    "IExecutionContext.set_input_shape": ("name", "shape"),
    "IExecutionContext.set_tensor_address": ("name", "memory"),
    "IExecutionContext.execute_async_v3": ("stream_handle",),
    "IExecutionContext.is_stream_capturable": ("stream",),
    "ILogger.__init__": (),
    "ILogger.log": ("severity", "msg"),
}
"""Every method that the tool calls -> the names of what it gives, in the order in which it gives them."""
ATTRIBUTES = {
    "Builder": (),
    "INetworkDefinition": ("name", "num_inputs", "num_outputs", "num_layers"),
    "OnnxParser": ("num_errors",),
    "IBuilderConfig": ("profiling_verbosity", "num_compute_capabilities"),
    "ILayer": ("type",),
    "ITensor": ("name", "shape", "dtype"),
    "ICudaEngine": ("num_io_tensors",),
}
ERROR, OUT_OF_MEMORY, LOST = 999, 2, 719


class FakeDriver:
    """What of the driver's library `engines.cuda` calls.

    Attributes:
        fails: name of a call -> the error that it answers with.
        called: names of the calls, in order.
        kept: addresses of memory that is not freed yet.
        stream_work: what was put into the stream and not done yet.
    """

    def __init__(self, devices: int = 1) -> None:
        self.devices = devices
        self.fails: dict[str, int] = {}
        self.called: list[str] = []
        self.kept: dict[int, Any] = {}
        self.stream_work: list[Callable[[], None]] = []
        self._recording: list[Callable[[], None]] | None = None
        self._graphs: list[list[Callable[[], None]]] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("cu"):
            raise AttributeError(name)

        def call(*arguments: Any) -> int:
            self.called.append(name)
            if name in self.fails:
                return self.fails[name]
            work = getattr(self, "_" + name.removesuffix("_v2"), None)
            return 0 if work is None else int(work(*arguments) or 0)

        return call

    def put(self, work: Callable[[], None]) -> None:
        """Puts work into the stream, or into the graph that is being recorded."""
        (self.stream_work if self._recording is None else self._recording).append(work)

    def _cuDeviceGetCount(self, count: Any) -> None:
        count._obj.value = self.devices

    def _cuStreamCreate(self, stream: Any, flags: ctypes.c_uint) -> None:
        assert flags.value == 1, "the default stream would wait for everybody else's"
        stream._obj.value = 7

    def _allocate(self, address: Any, size: ctypes.c_size_t) -> None:
        block = (ctypes.c_uint8 * size.value)(*[85] * min(size.value, 16))
        address._obj.value = ctypes.addressof(block)
        self.kept[address._obj.value] = block

    def _cuMemAlloc(self, address: Any, size: ctypes.c_size_t) -> None:
        self._allocate(address, size)

    def _cuMemHostAlloc(self, address: Any, size: ctypes.c_size_t, flags: ctypes.c_uint) -> None:
        self._allocate(address, size)

    def _cuMemFree(self, address: Any) -> None:
        del self.kept[address.value]

    def _cuMemFreeHost(self, address: Any) -> None:
        del self.kept[address.value]

    def _copy(self, target: Any, source: Any, size: Any, stream: Any) -> None:
        assert stream.value == 7

        def copy() -> None:
            ctypes.memmove(target.value, source.value, size.value)

        self.put(copy)

    _cuMemcpyHtoDAsync = _cuMemcpyDtoHAsync = _cuMemcpyDtoDAsync = _copy

    def _cuStreamSynchronize(self, stream: Any) -> None:
        assert self._recording is None, "waiting breaks a recording"
        while self.stream_work:
            self.stream_work.pop(0)()

    def _cuStreamBeginCapture(self, stream: Any, mode: ctypes.c_int) -> None:
        assert mode.value == 1, "another thread's calls must not break the recording"
        self._recording = []

    def _cuStreamEndCapture(self, stream: Any, graph: Any) -> None:
        assert self._recording is not None
        self._graphs.append(self._recording)
        graph._obj.value, self._recording = len(self._graphs), None

    def _cuGraphInstantiateWithFlags(self, runnable: Any, graph: Any, flags: Any) -> None:
        runnable._obj.value = graph.value

    def _cuGraphLaunch(self, runnable: Any, stream: Any) -> None:
        self.stream_work.extend(self._graphs[runnable.value - 1])

    def _cuGraphExecDestroy(self, runnable: Any) -> None:
        self._graphs[runnable.value - 1] = []

    def _cuGetErrorName(self, code: Any, text: Any) -> None:
        text._obj.value = {LOST: b"CUDA_ERROR_LAUNCH_FAILED"}.get(code.value, b"CUDA_ERROR_UNKNOWN")


class DataType(enum.Enum):
    UINT8 = 0
    HALF = 1


class TensorIOMode(enum.Enum):
    INPUT = 0
    OUTPUT = 1


class FakeLibrary:
    """The module `tensorrt_rtx`, as far as the tool goes.

    Attributes:
        broken: what goes wrong: "parse", "build", "deserialize", "context", "address", "run".
        uncapturable: the context cannot be recorded.
        kind: type of the tensors.
        turned: lists the tensors the other way round.
        alive: how many runtimes exist.
    """

    __name__ = "tensorrt_rtx"
    __version__ = "1.7.1.116"
    DataType, TensorIOMode = DataType, TensorIOMode

    class ILogger:
        class Severity(enum.Enum):
            ERROR = 0
            INTERNAL_ERROR = 1
            WARNING = 2

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    class ProfilingVerbosity(enum.Enum):
        DETAILED = 0

    class ComputeCapability(enum.Enum):
        SM86 = 3
        SM89 = 4

    def __init__(self, driver: FakeDriver) -> None:
        self.driver = driver
        self.broken, self.uncapturable, self.turned = "", False, False
        self.kind, self.alive = DataType.UINT8, 0
        self.configs: list[_Config] = []

    def Builder(self, logger: Any) -> Any:
        return _Builder(self, logger)

    def OnnxParser(self, network: Any, logger: Any) -> Any:
        return _Parser(self, network, logger)

    def Runtime(self, logger: Any) -> Any:
        assert "cuInit" in self.driver.called and self.driver.devices, "a Runtime without a device crashes the process"
        return _Runtime(self, logger)

    def complain(self, logger: Any, text: str) -> None:
        logger.log(self.ILogger.Severity.WARNING, "a warning that is not the reason")
        logger.log(self.ILogger.Severity.ERROR, text)


class _Thing:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class _Network:
    num_inputs, num_outputs, num_layers = 1, 2, 1

    def __init__(self) -> None:
        self.name, self.model = "Unnamed Network 0", b""
        self.input: Any = _Thing(name="crop", shape=(-1, 0, 0, 3), dtype=DataType.UINT8)

    def get_input(self, index: int) -> Any:
        return self.input

    def get_output(self, index: int) -> Any:
        shape = tuple(self.input.shape)
        return (_Thing(name="face", shape=shape, dtype=DataType.UINT8),
                _Thing(name="map", shape=shape[:3], dtype=DataType.UINT8))[index]  # fmt: skip

    def get_layer(self, index: int) -> Any:
        return _Thing(type="LayerType.CONVOLUTION", get_output=lambda index: _Thing(dtype=DataType.HALF))


class _Parser:
    num_errors = 1

    def __init__(self, library: FakeLibrary, network: _Network, logger: Any) -> None:
        self.library, self.network = library, network

    def parse(self, model: bytes) -> bool:
        self.network.model = model
        return self.library.broken != "parse"

    def get_error(self, index: int) -> Any:
        return _Thing(desc=lambda: "In node 3: UNSUPPORTED_NODE")


class _Config:
    def __init__(self) -> None:
        self.capabilities: dict[int, Any] = {}
        self.num_compute_capabilities, self.timing = 0, b""

    def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
        self.capabilities[index] = compute_capability
        return True

    def create_timing_cache(self, serialized_timing_cache: bytes) -> Any:
        return _Thing(serialize=lambda: serialized_timing_cache + b".")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.cache


class _Builder:
    def __init__(self, library: FakeLibrary, logger: Any) -> None:
        self.library, self.logger = library, logger

    def create_network(self, flags: int) -> _Network:
        return _Network()

    def create_builder_config(self) -> _Config:
        self.library.configs.append(_Config())
        return self.library.configs[-1]

    def build_serialized_network(self, network: _Network, config: _Config) -> bytes | None:
        if self.library.broken == "build":
            self.library.complain(self.logger, "Requested size was 9999 bytes: out of memory")
            return None
        told: dict[str, Any] = {"version": self.library.__version__, "shape": list(network.input.shape)}
        return json.dumps(told).encode() + b"\n" + network.model


class _Runtime:
    def __init__(self, library: FakeLibrary, logger: Any) -> None:
        self.library, self.logger = library, logger
        library.alive += 1

    def __del__(self) -> None:
        self.library.alive -= 1

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Any:
        told = json.loads(serialized_engine.partition(b"\n")[0])
        if self.library.broken == "deserialize" or told["version"] != self.library.__version__:
            self.library.complain(self.logger, "The engine plan file is not compatible with this version")
            return None
        return _Engine(self, serialized_engine.partition(b"\n")[2], tuple(told["shape"]))


class _Engine:
    num_io_tensors = 3

    def __init__(self, runtime: _Runtime, model: bytes, shape: tuple[int, ...]) -> None:
        self.runtime, self.library, self.model = runtime, runtime.library, model
        # Names of the plan's own: the tool must not know them.
        self.tensors = {"in0": shape, "out0": shape, "out1": shape[:3]}

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[-1 - index if self.library.turned else index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return self.tensors[name]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name == "in0" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.library.kind

    def create_execution_context(self) -> Any:
        if self.library.broken == "context":
            self.library.complain(self.runtime.logger, "Cuda failure: out of memory")
            return None
        return _Context(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine, self.library = engine, engine.library
        self.addresses: dict[str, int] = {}
        self.session = onnxruntime.InferenceSession(engine.model, providers=["CPUExecutionProvider"])

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        return shape == self.engine.tensors[name]

    def set_tensor_address(self, name: str, memory: int) -> bool:
        assert memory in self.library.driver.kept, "not memory of the device"
        self.addresses[name] = memory
        return self.library.broken != "address"

    def is_stream_capturable(self, stream: int) -> bool:
        return not self.library.uncapturable

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle == 7, "not the engine's own stream"
        if self.library.broken == "run":
            self.library.complain(self.engine.runtime.logger, "Cuda Runtime (unspecified launch failure)")
            return False

        def compute() -> None:
            outputs = self.session.run(None, {"crop": self._array("in0")})
            for name, value in zip(("out0", "out1"), outputs, strict=True):
                self._array(name)[:] = value

        self.library.driver.put(compute)
        return True

    def _array(self, name: str) -> np.ndarray:
        shape = self.engine.tensors[name]
        raw = (ctypes.c_uint8 * int(np.prod(shape))).from_address(self.addresses[name])
        return np.ctypeslib.as_array(raw).reshape(shape)
