"""Long runs: memory is held. `pytest -m soak` runs it, in about a quarter of an hour."""

from __future__ import annotations

import faulthandler
import subprocess
import sys
import time
from pathlib import Path

import av
import pytest

from unmask_rt.sample import builtin_clip

FRAMES, CLIP_FRAMES = 20_000, 100
GROWTH_MB = 24


def repeated(clip: Path, times: int, out: Path) -> None:
    """The clip so many times in a row, its packets copied."""
    with av.open(str(clip)) as source, av.open(str(out), "w") as sink:
        stream = source.streams.video[0]
        copy = sink.add_stream_from_template(stream)
        packets = [p for p in source.demux(stream) if p.dts is not None]
        length = len(packets) * packets[0].duration
        content = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe) for p in packets]
        for turn in range(times):
            for data, pts, dts, duration, key in content:
                packet = av.Packet(data)
                packet.stream, packet.time_base = copy, stream.time_base
                packet.pts, packet.dts, packet.duration = pts + turn * length, dts + turn * length, duration
                packet.is_keyframe = key
                sink.mux(packet)


def memory_mb(process: int) -> float | None:
    """Resident memory of a process; None once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), None)


@pytest.mark.soak
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_20000_frames_do_not_grow_the_memory(tmp_path: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # pytest's limit for a test that hangs is shorter than this one
    clip, long = tmp_path / "clip.mp4", tmp_path / "long.mp4"
    builtin_clip(clip, seconds=CLIP_FRAMES / 30, rate=30, sound=False, size=(640, 360))
    repeated(clip, FRAMES // CLIP_FRAMES, long)
    command = [sys.executable, "-m", "unmask_rt", str(long), "-o", str(tmp_path / "out.mp4"), "--preset", "ultrafast"]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    seen: list[float] = []
    while run.poll() is None:
        if (now := memory_mb(run.pid)) is not None:
            seen.append(now)
        time.sleep(1)
    assert run.returncode == 0, run.stderr.read() if run.stderr else ""
    with av.open(str(tmp_path / "out.mp4")) as out:
        assert out.streams.video[0].frames == FRAMES
    assert len(seen) > 60, "too fast to tell"
    early, late = (sorted(seen[int(len(seen) * a) : int(len(seen) * b)]) for a, b in ((0.2, 0.3), (0.9, 1.0)))
    grown = late[len(late) // 2] - early[len(early) // 2]
    print(f"{early[len(early) // 2]:.0f} MB early, {late[len(late) // 2]:.0f} MB late, {max(seen):.0f} MB at most")
    assert grown < GROWTH_MB, f"{grown:.0f} MB more after {FRAMES} frames: {early[0]:.0f} to {late[-1]:.0f} MB"
