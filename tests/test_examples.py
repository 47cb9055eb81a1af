"""The examples run as they stand, and stay short."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.media import read_video
from unmask_rt import sample

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def run(name: str, *arguments: Path) -> str:
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_an_example_is_under_forty_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) < 40


def test_the_picture_example_changes_the_mask_only(tmp_path: Path, face_models: object) -> None:
    masked = sample.masked_astronaut()[1]
    Image.fromarray(masked).save(tmp_path / "masked.png")
    assert "of the pixels changed" in run("picture.py", tmp_path / "masked.png", tmp_path / "out.png")
    result = np.asarray(Image.open(tmp_path / "out.png"))
    changed = (result != masked).any(axis=2)
    mouth = np.round(sample.astronaut_mesh()[13]).astype(int)
    assert changed[mouth[1], mouth[0]]
    assert not changed[:, 300:].any() and not changed[200:].any()


def test_the_video_example_keeps_every_frame(tmp_path: Path, masked_clip: Path, face_models: object) -> None:
    assert "15 frames" in run("video.py", masked_clip, tmp_path / "out.mp4")
    assert len(read_video(tmp_path / "out.mp4")) == 15
