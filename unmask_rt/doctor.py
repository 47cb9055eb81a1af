"""``unmask-rt doctor``: what this machine has, and why each engine, encoder, camera and model can or cannot be used.

Every check is cheap, uses no network and cannot take the program down: optional packages are looked for without being
imported (OpenVINO would look up a host, TensorRT may crash without a driver), cameras are opened by another process
that has a time limit.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines import machine
from engines.machine import CPU_FEATURES, nvidia_gpus, processor
from unmask_rt import __version__, models
from unmask_rt.threads import default_threads

if TYPE_CHECKING:
    from unmask_rt.console import Console

CAMERA_TIMEOUT_S = 15.0
CAMERA_INDICES = 4
PACKAGES = ("av", "mediapipe", "numpy", "onnxruntime", "opencv-python-headless", "pillow", "rich")
_CAMERA_PROBE = """
import sys, cv2
for index in map(int, sys.argv[1:]):
    camera = cv2.VideoCapture(index)
    good, frame = camera.read() if camera.isOpened() else (False, None)
    print(index, f"{frame.shape[1]}x{frame.shape[0]}" if good else "no picture", flush=True)
    camera.release()
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        section: what it belongs to ("system", "engines", ...).
        item: what was looked at.
        good: True usable, False not usable, None neither (a plain fact).
        detail: version, reason or what to do.
    """

    section: str
    item: str
    good: bool | None
    detail: str


def run(console: Console) -> None:
    """Examines the machine and prints one table a section."""
    from rich.table import Table

    findings = examine()
    for section in dict.fromkeys(f.section for f in findings):
        table = Table(title=section.capitalize(), title_justify="left", show_header=False)
        table.add_column()
        table.add_column()
        table.add_column(overflow="fold")
        for finding in findings:
            if finding.section == section:
                mark = {True: "yes", False: "no", None: ""}[finding.good]
                table.add_row(finding.item, mark, finding.detail)
        console.result(table)
    console.result(models.WEIGHTS_NOTE)


def examine() -> list[Finding]:
    """All findings, section by section; a check that fails unexpectedly becomes a finding that says so."""
    findings = []
    checks: tuple[tuple[str, Callable[[], list[Finding]]], ...] = (
        ("system", system),
        ("packages", packages),
        ("engines", engines),
        ("encoders", encoders),
        ("cameras", cameras),
        ("preview", preview),
        ("models", model_files),
    )
    for section, check in checks:
        try:
            findings += check()
        except Exception as error:  # a diagnosis must not die of what it diagnoses
            findings.append(Finding(section, "check failed", False, f"{type(error).__name__}: {error}"))
    return findings


def system() -> list[Finding]:
    """Versions, platform, processor, memory, load."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name, features = processor()
    known = [feature for feature in CPU_FEATURES if feature in features]
    facts = {
        "unmask-rt": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": name,
        "cores usable": str(cores),
        "features": " ".join(known) or "unknown",
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory"] = f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.1f} GiB"
    if hasattr(os, "getloadavg"):
        facts["load"] = f"{os.getloadavg()[0]:.2f} (1 minute)"
    findings = [Finding("system", item, None, detail) for item, detail in facts.items()]
    gpus, reason = nvidia_gpus()
    for gpu in gpus:
        major, minor = gpu.capability
        findings.append(Finding("system", "gpu", None, f"{gpu.name}, compute capability {major}.{minor}"))
    if not gpus:
        findings.append(Finding("system", "gpu", None, f"no NVIDIA GPU ({reason})"))
    return findings


def packages() -> list[Finding]:
    """Versions of the core packages."""
    found = []
    for name in PACKAGES:
        version = _version(name)
        detail = version or "not installed: install unmask-rt again"
        found.append(Finding("packages", name, None if version else False, detail))
    # Two OpenCV wheels overwrite each other's files: what is imported then is a matter of luck.
    others = ("opencv-python", "opencv-contrib-python", "opencv-contrib-python-headless")
    for name in (other for other in others if _version(other)):
        detail = f"{_version(name)} overwrites files of opencv-python-headless: uninstall both, then install that again"
        found.append(Finding("packages", name, False, detail))
    return found


def engines() -> list[Finding]:
    """Each engine, and why it can or cannot be used; what ``auto`` takes, and why not the others; what is kept."""
    from engines import BACKENDS, backend, cache
    from engines.base import Settings
    from engines.select import remembered

    found = []
    for name in BACKENDS:
        state = backend(name).usable()
        detail = ", ".join(part for part in (state.version, state.device, state.why) if part)
        found.append(Finding("engines", name, state.ok, detail))
    fast, why = machine.fast_int8()
    found.append(Finding("engines", "int8 on the processor", fast, why if fast else f"{why}: fp32 is used"))
    model, _ = models.load_unmask_model()
    threads = default_threads()
    choice, rejected = remembered(model, Settings(threads=threads))
    chosen = choice.line() if choice is not None else "not measured yet: the first run does, in a second or two"
    found.append(Finding("engines", "auto", None, chosen))
    for label, reason in rejected.items():
        if " " in label:  # those without a precision are listed above
            found.append(Finding("engines", f"not {label}", None, reason))
    kept = cache.entries()
    size = sum(entry.size_bytes for entry in kept) / 1e6
    found.append(Finding("engines", "kept", None, f"{len(kept)} engines, {size:.1f} MB in {cache.folder()}"))
    return found


def encoders() -> list[Finding]:
    """Encoders that really open here, not only those that FFmpeg was built with."""
    from unmask_rt.sinks.encoders import available_encoders

    found = []
    for name, reason in available_encoders().items():
        hardware = not name.startswith("lib") and "_" in name
        detail = f"needs hardware and a driver that are not here ({reason})" if reason and hardware else reason
        found.append(Finding("encoders", name, reason == "", detail))
    return found


def cameras() -> list[Finding]:
    """Cameras that OpenCV gets a picture from."""
    indices = list(range(CAMERA_INDICES))
    if sys.platform.startswith("linux"):
        nodes = sorted(Path("/dev").glob("video*"))
        indices = [int(node.name[5:]) for node in nodes if node.name[5:].isdigit()]
        if not indices:
            return [Finding("cameras", "none", None, "no /dev/video*")]
    return probe_cameras(indices)


def probe_cameras(indices: list[int]) -> list[Finding]:
    """Asks another process for one picture of each camera: a driver that hangs takes only that process down."""
    command = [sys.executable, "-P", "-c", _CAMERA_PROBE, *map(str, indices)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=CAMERA_TIMEOUT_S, check=False)
        lines, late = done.stdout.splitlines(), False
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        lines, late = (output.decode() if isinstance(output, bytes) else output).splitlines(), True
    seen = {int(index): detail for index, detail in (line.split(" ", 1) for line in lines if line[:1].isdigit())}
    rest = f"no answer within {CAMERA_TIMEOUT_S:.0f} s" if late else "could not be opened"
    found = [(index, seen.get(index, rest)) for index in indices]
    return [Finding("cameras", f"--webcam {index}", "x" in detail, detail) for index, detail in found]


def preview() -> list[Finding]:
    """Whether a window could be opened."""
    version = _version("pygame-ce")
    if version is None:
        return [Finding("preview", "window", False, "needs the extra: pip install 'unmask-rt[preview]'")]
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return [Finding("preview", "window", False, f"pygame-ce {version}, but no display (DISPLAY is not set)")]
    return [Finding("preview", "window", True, f"pygame-ce {version}")]


def model_files() -> list[Finding]:
    """Each model with state, licence and place."""
    found = []
    for model in models.describe_models():
        if model.state == "ready":
            advice = ""
        elif model.source == "bundled":
            advice = "; install unmask-rt again"
        elif os.environ.get(model.source):
            advice = f"; {model.source} names it"
        else:
            advice = "; run 'unmask-rt models fetch'"
        detail = f"{model.state}, {model.licence}, {model.path}{advice}"
        found.append(Finding("models", model.name, model.state == "ready", detail))
    return found


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
