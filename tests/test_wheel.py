"""The source archive and the wheel build, and what is installed from the wheel works by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from unmask_rt import models, sample

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built by way of the source archive in a copy of the tree."""
    tree = tmp_path_factory.mktemp("tree")
    for name in ("unmask_rt", "engines", "trainer"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-WEIGHTS", "THIRD_PARTY.md"):
        shutil.copy(ROOT / file, tree)
    done = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", "dist", cwd=tree)
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = (tree / "dist").glob("*.whl")
    assert len(list((tree / "dist").glob("*.tar.gz"))) == 1
    return built


def test_the_wheel_holds_what_the_runtime_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (archive.read(n).decode() for n in names if n.endswith("/METADATA"))
    for record in models.bundled_models().values():
        assert f"unmask_rt/assets/{record['file']}" in names
    for name in ("unmask_rt/assets/models.json", "unmask_rt/assets/astronaut.jpg", "unmask_rt/py.typed"):
        assert name in names
    assert {f"trainer/presets/{p.name}" for p in (ROOT / "trainer" / "presets").glob("*") if p.is_file()} <= names
    assert any(name.endswith("licenses/LICENSE-WEIGHTS") for name in names)
    core = [line for line in metadata.splitlines() if line.startswith("Requires-Dist:") and "extra ==" not in line]
    assert not any("torch" in line for line in core)
    assert "Requires-Dist: mediapipe==0.10.30" in core


def test_what_is_installed_from_the_wheel_unmasks_a_picture(wheel: Path, tmp_path: Path, face_models: object) -> None:
    site = tmp_path / "site"
    done = run(
        *(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)),
        str(wheel),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    where = run(sys.executable, "-c", "import unmask_rt; print(unmask_rt.__file__)", cwd=tmp_path, PYTHONPATH=str(site))
    assert Path(where.stdout.strip()).is_relative_to(site)
    Image.fromarray(sample.masked_astronaut()[1]).save(tmp_path / "masked.png")
    command = site / "bin" / "unmask-rt"
    done = run(sys.executable, str(command), "masked.png", "-o", "out.png", cwd=tmp_path, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.png").is_file()
