"""What this machine has that engines depend on: the processor's instruction set, and NVIDIA devices by their driver.

Loads no library but the driver's own, and that only when asked.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import platform
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CPU_FEATURES = (
    *("sse4_2", "avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8"),
    *("asimddp", "i8mm"),
)
"""What the engines' kernels make use of, as /proc/cpuinfo names it."""
_FAST_INT8 = ("avx512_vnni", "avx_vnni", "asimddp")


def package_version(package: str) -> str:
    """Full build version of an installed distribution, "" where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


@dataclass(frozen=True, slots=True)
class Gpu:
    """An NVIDIA device as its driver names it; ``capability`` is (major, minor), ``driver`` the CUDA version it has."""

    name: str
    capability: tuple[int, int]
    driver: str = ""


@cache
def processor() -> tuple[str, frozenset[str]]:
    """Name and feature flags of the first processor; no flags where the system does not tell."""
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in info.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    name = fields.get("model name") or fields.get("cpu model") or platform.machine()
    return name, frozenset((fields.get("flags") or fields.get("features") or "").split())


def instruction_set() -> str:
    """The features of this processor that kernels are chosen by, as one line: part of a cached engine's key."""
    features = processor()[1]
    return " ".join([platform.machine(), *(feature for feature in CPU_FEATURES if feature in features)])


def fast_int8() -> tuple[bool, str]:
    """Whether this processor multiplies 8-bit numbers in one instruction (VNNI, on ARM dot products), and why."""
    features = processor()[1]
    for feature in _FAST_INT8:
        if feature in features:
            return True, feature
    if not features:
        if platform.machine().lower() in ("arm64", "aarch64"):
            return True, platform.machine()  # macOS: every Apple processor has the dot products
        return False, "the system does not tell what this processor can"
    return False, f"this processor has none of {', '.join(_FAST_INT8)}"


def nvidia_gpus() -> tuple[list[Gpu], str]:
    """NVIDIA devices by the driver's own library, and why there are none; loads no CUDA runtime."""
    try:
        cuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return [], "no driver"
    if code := cuda.cuInit(0):
        return [], f"the driver reports error {code}"
    count, version = ctypes.c_int(), ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(count))
    cuda.cuDriverGetVersion(ctypes.byref(version))
    driver = _driver_build() or f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    gpus = []
    for index in range(count.value):
        device, name, numbers = ctypes.c_int(), ctypes.create_string_buffer(128), []
        cuda.cuDeviceGet(ctypes.byref(device), index)
        cuda.cuDeviceGetName(name, len(name), device)
        for attribute in (75, 76):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            value = ctypes.c_int()
            cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
            numbers.append(value.value)
        gpus.append(Gpu(name.value.decode(errors="replace"), (numbers[0], numbers[1]), driver))
    return gpus, "the driver sees no device"


def _driver_build() -> str:
    """The kernel driver's own version on Linux, "" elsewhere."""
    file = Path("/sys/module/nvidia/version")
    return file.read_text().strip() if file.is_file() else ""
