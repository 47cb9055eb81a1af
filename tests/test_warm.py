"""What is loaded ahead is loaded quietly, and without what nobody needs."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from unmask_rt import warm
from unmask_rt.faces import mesh

ALONE = """
import ctypes.util, sys
def forbidden(name):
    raise AssertionError(f"looked for {name}")
ctypes.util.find_library = forbidden
from unmask_rt.faces.mesh import mediapipe
mediapipe()
assert "mediapipe.tasks.python.vision" in sys.modules
assert "sounddevice" not in sys.modules, "hidden for everybody else too"
"""


def test_mediapipe_comes_without_a_search_for_sound_libraries() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_what_cannot_be_loaded_ahead_is_not_told_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = threading.Event()

    def missing() -> None:
        called.set()
        raise ImportError("no mediapipe here")

    monkeypatch.setattr(mesh, "mediapipe", missing)
    before = set(threading.enumerate())
    warm.warm_up()
    for thread in set(threading.enumerate()) - before:
        thread.join(30)
    assert called.is_set() and not capsys.readouterr().err
