"""The doctor names what works and why the rest does not, and dies of nothing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engines import BACKENDS as backends
from engines import machine, openvino
from unmask_rt import doctor
from unmask_rt.console import Console


def by_item(findings: list[doctor.Finding]) -> dict[str, doctor.Finding]:
    return {finding.item: finding for finding in findings}


def test_the_report_has_every_section_and_is_plain(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run(Console())
    shown = capsys.readouterr().out
    for title in ("System", "Packages", "Engines", "Encoders", "Cameras", "Preview", "Models"):
        assert title in shown
    assert "check failed" not in shown
    assert "onnxruntime" in shown and "libx264" in shown and "research and evaluation only" in shown
    assert "\x1b" not in shown


def test_optional_libraries_are_looked_for_but_not_imported() -> None:
    code = (
        "import json, sys\nfrom unmask_rt import doctor\ndoctor.examine()\n"
        "heavy = 'torch', 'openvino', 'tensorrt', 'tensorrt_rtx', 'pygame'\n"
        "print(json.dumps([name for name in heavy if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_a_check_that_fails_becomes_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[doctor.Finding]:
        raise RuntimeError("out of order")

    monkeypatch.setattr(doctor, "encoders", broken)
    findings = doctor.examine()
    (failed,) = [f for f in findings if f.section == "encoders"]
    assert failed.good is False and "out of order" in failed.detail
    assert any(f.section == "models" for f in findings)


def test_each_engine_says_whether_it_can_be_used_and_why_not(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = by_item(doctor.engines())
    assert set(backends) <= set(engines)
    assert engines["onnxruntime"].good and engines["onnxruntime-directml"].good is False
    assert "DmlExecutionProvider" in engines["onnxruntime-directml"].detail
    monkeypatch.setattr(openvino, "version", lambda: "")
    missing = by_item(doctor.engines())["openvino"]
    assert missing.good is False and "unmask-rt[openvino]" in missing.detail


def test_the_report_says_what_auto_takes_and_whether_int8_pays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path))
    monkeypatch.setattr(machine, "processor", lambda: ("old", frozenset({"avx2"})))
    engines = by_item(doctor.engines())
    assert engines["int8 on the processor"].good is False and "fp32 is used" in engines["int8 on the processor"].detail
    assert "none of avx512_vnni" in engines["not onnxruntime int8"].detail
    monkeypatch.setattr(machine, "processor", lambda: ("new", frozenset({"avx2", "avx_vnni"})))
    engines = by_item(doctor.engines())
    assert engines["int8 on the processor"].good and "not onnxruntime int8" not in engines
    assert "auto" in engines and str(tmp_path) in engines["kept"].detail


def test_a_second_opencv_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[str], str] = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "4.9" if name == "opencv-python" else real(name))
    packages = by_item(doctor.packages())
    assert packages["opencv-python"].good is False and packages["av"].good is None


def test_a_camera_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CAMERA_TIMEOUT_S", 1.0)
    monkeypatch.setattr(doctor, "_CAMERA_PROBE", "print('0 640x480', flush=True)\nimport time\ntime.sleep(60)")
    good, stuck = doctor.probe_cameras([0, 1])
    assert good.good and good.detail == "640x480" and good.item == "--webcam 0"
    assert stuck.good is False and "no answer" in stuck.detail


def test_a_camera_that_is_not_there_is_no_crash() -> None:
    (finding,) = doctor.probe_cameras([97])
    assert finding.good is False


def test_models_that_are_missing_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNMASK_RT_CACHE", str(tmp_path))
    finding = by_item(doctor.model_files())["centerface"]
    assert finding.good is False and "unmask-rt models fetch" in finding.detail and "MIT" in finding.detail


def test_a_window_needs_the_extra_and_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None)
    assert "unmask-rt[preview]" in doctor.preview()[0].detail
    monkeypatch.setattr(doctor, "_version", lambda name: "2.5")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert doctor.preview()[0].good is False
    monkeypatch.setenv("DISPLAY", ":0")
    assert doctor.preview()[0].good is True
