"""With the face models in the cache nothing needs a network, and nothing asks for one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from unmask_rt import sample

INTERNET = re.compile(r"AF_INET6?|sin6?_addr|nscd|resolve")
"""What a trace shows of an address on the internet, or of a local service that looks up names."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, masked_clip: Path, face_models: object) -> Path:
    """A folder with a picture, a clip and a script that unmasks both; the face models are in the cache."""
    folder = tmp_path_factory.mktemp("offline")
    Image.fromarray(sample.masked_astronaut()[1]).save(folder / "masked.png")
    shutil.copy(masked_clip, folder / "masked.mp4")
    (folder / "run.py").write_text(
        "import sys\n"
        "from unmask_rt.cli import main\n"
        "codes = [main([f'masked{e}', '-o', f'out{e}', '-y']) for e in ('.png', '.mp4')]\n"
        "sys.exit(max(codes))\n"
    )
    return folder


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_the_runtime_works_where_there_is_no_network(work: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or run([unshare, "-rn", "true"], work).returncode != 0:
        pytest.skip("a network namespace of one's own is not permitted here (unshare -rn)")
    alone = [unshare, "-rn", sys.executable]
    probe = "import socket; socket.create_connection(('1.1.1.1', 53), 2)"
    assert run([*alone, "-c", probe], work).returncode != 0, "the namespace has a network after all"
    done = run([*alone, "run.py"], work)
    assert done.returncode == 0, done.stderr
    assert "using the network" not in done.stderr
    assert (work / "out.png").stat().st_size > 0 and (work / "out.mp4").stat().st_size > 0


def test_libraries_keep_and_send_nothing_of_their_own(work: Path, tmp_path: Path) -> None:
    """ONNX Runtime would write an id into the home folder at once, and look up a host ten seconds later."""
    code = (
        "import time\n"
        "from engines import open_engine\n"
        "from unmask_rt import models\n"
        "from unmask_rt.faces.aligner import Aligner\n"
        "engine = open_engine('onnxruntime', models.load_unmask_model()[0], precision='fp32')\n"
        "aligner = Aligner(models.load_aligner_model())\n"
        "time.sleep(15)\n"
    )
    log, home = tmp_path / "trace.log", tmp_path / "home"
    home.mkdir()
    command = [sys.executable, "-c", code]
    if strace := shutil.which("strace"):
        command = [strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(log), *command]
    apart = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "ORT_"))}
    apart |= {"HOME": str(home), "UNMASK_RT_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=apart)
    if "ptrace" in done.stderr and "not permitted" in done.stderr:
        pytest.skip("tracing is not permitted here")
    assert done.returncode == 0, done.stderr
    assert list(home.rglob("*")) == []
    if log.exists():
        assert [line for line in log.read_text(errors="replace").splitlines() if INTERNET.search(line)] == []


def test_a_run_with_a_network_looks_up_no_host(work: Path) -> None:
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed (apt-get install strace)")

    def trace(*command: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        log = work / "trace.log"
        done = run([strace, "-f", "-qq", "-e", "trace=connect,sendto,sendmsg,sendmmsg", "-o", str(log), *command], work)
        if "ptrace" in done.stderr and "not permitted" in done.stderr:
            pytest.skip("tracing is not permitted here")
        return done, [line for line in log.read_text(errors="replace").splitlines() if INTERNET.search(line)]

    lookup = "import socket\ntry: socket.getaddrinfo('host.invalid', 80)\nexcept OSError: pass"
    assert trace(sys.executable, "-c", lookup)[1], "the trace does not see a look-up"
    done, seen = trace(sys.executable, "run.py")
    assert done.returncode == 0, done.stderr
    assert seen == []
