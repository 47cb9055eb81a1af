"""What the command line accepts, what it says, and its exit codes. The unmasker is a fake: it darkens a corner."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import PIL.Image
import pytest

from tests.media import moving_gradient, write_video
from unmask_rt import cli, job
from unmask_rt.errors import EngineError, ExtraError, ModelError
from unmask_rt.frames import Face, Packet, Patch
from unmask_rt.pipeline import THREAD_PREFIX
from unmask_rt.unmasker import Unmasker

HASH = "ab" * 32
IDENTITY = np.eye(2, 3)


def a_patch(strength: float = 1.0) -> Patch:
    face = Face(1, np.zeros((6, 2), np.float32), (0.0, 0.0, 8.0, 8.0), "mesh", 1.0)
    empty = np.zeros((8, 8, 3), np.uint8)
    return Patch(face, IDENTITY, empty, empty, empty[..., 0], 1.0, strength)


class FakeStage:
    def __init__(self, name: str, act: Callable[[Packet], Packet] = lambda packet: packet) -> None:
        self.name, self._act = name, act

    def __call__(self, packet: Packet) -> Sequence[Packet]:
        return [self._act(packet)]

    def flush(self) -> Sequence[Packet]:
        return []

    def close(self) -> None:
        pass


def unmasks(packet: Packet) -> Packet:
    patch = a_patch()
    return replace(packet, faces=(patch.face,), patches=(patch,))


class FakeUnmasker:
    """Every frame has one face, and it is unmasked."""

    model_sha256 = HASH
    act: Callable[[Packet], Packet] = staticmethod(unmasks)
    modes: list[str]
    options: Any

    def __init__(self, options: Any) -> None:
        type(self).options, type(self).modes = options, []

    def stages(self, mode: str) -> list[FakeStage]:
        self.modes.append(mode)
        return [FakeStage("find"), FakeStage("inpaint", type(self).act), FakeStage("blend")]

    def describe(self) -> dict[str, Any]:
        return {"engine": "fake", "model_sha256": HASH}

    def close(self) -> None:
        self.modes.append("closed")


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeUnmasker]:
    class Fresh(FakeUnmasker):
        pass

    monkeypatch.setattr(job, "Unmasker", Fresh)
    # Inside pytest the descriptors and the logging belong to pytest.
    monkeypatch.setattr(cli, "_prepare_process", lambda console: None)
    return Fresh


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("clip") / "clip.mp4", moving_gradient(20), tone_hz=440.0)


def run(*arguments: object) -> int:
    """The exit code, also where argparse leaves by SystemExit."""
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as error:
        assert isinstance(error.code, int)
        return error.code


def frames_of(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_where_no_metadata_can_say_it_a_mark_does(clip: Path, tmp_path: Path, fake: type[FakeUnmasker]) -> None:
    """Without any option: what comes out says in one way or another that it is synthetic."""
    corner = {}
    for label in ((), ("--label", "off")):
        assert run(clip, "-o", tmp_path / f"{len(label)}.ts", "--crf", "1", *label) == 0
        with av.open(str(tmp_path / f"{len(label)}.ts")) as container:
            corner[len(label)] = next(container.decode(video=0)).to_ndarray(format="gray")[-12:, :30].astype(int)
    assert np.abs(corner[0] - corner[2]).mean() > 10


def test_a_name_of_any_bytes_does_not_cost_the_run(tmp_path: Path) -> None:
    code = (
        "from unmask_rt.console import Console; import os; "
        "Console('normal').result(os.fsdecode(b'out\\xe9.mp4') + ': done')"
    )
    env = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.endswith("mp4: done\n")


def test_photographs_beside_and_above_their_results(tmp_path: Path, fake: type[FakeUnmasker]) -> None:
    (tmp_path / "photos" / "raw").mkdir(parents=True)
    PIL.Image.fromarray(moving_gradient(1)[0]).save(tmp_path / "photos" / "raw" / "a.jpg")
    assert run(tmp_path / "photos" / "raw", "-o", tmp_path / "photos") == 0
    assert run(tmp_path / "photos", "-o", tmp_path / "photos" / "out") == 0
    before = sorted((tmp_path / "photos" / "out").rglob("*.png"))
    assert run(tmp_path / "photos", "-o", tmp_path / "photos" / "out", "-y") == 0
    assert sorted((tmp_path / "photos" / "out").rglob("*.png")) == before and before


def test_a_video(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], fake: type[FakeUnmasker]) -> None:
    out, report = tmp_path / "out.mp4", tmp_path / "report.json"
    assert run(clip, "-o", out, "--report", report, "--max-faces", "2", "--view", "mask") == 0
    assert frames_of(out) == 20
    assert fake.modes == ["file", "closed"]
    assert (fake.options.max_faces, fake.options.view) == (2, "mask")
    printed = capsys.readouterr()
    assert f"{out}: 20 frames, 20 unmasked" in printed.out
    assert "end to end" in printed.out
    assert "\x1b" not in printed.out + printed.err
    told = json.loads(report.read_text())
    assert told["outcome"] == "done"
    assert told["frames"] == {
        **{"in": 20, "out": 20, "with_faces": 20, "treated": 20, "missed": 0},
        "dropped": {"find": 0, "inpaint": 0, "blend": 0, "encode": 0},
    }
    found_by = {"mesh": {"count": 20, "share": 1.0, "confidence": 1.0}}
    assert told["faces"] == {"seen": 20, "most_at_once": 1, "tracks": 1, "found_by": found_by}
    assert told["settings"]["max_faces"] == 2
    assert told["engine"]["engine"] == "fake"
    assert told["provenance"]["synthetic"] is True and told["provenance"]["model_sha256"] == HASH
    assert "compositeWithTrainedAlgorithmicMedia" in told["provenance"]["digital_source_type"]
    assert [stage["stage"] for stage in told["latency"]["stages"]] == ["decode", "find", "inpaint", "blend", "encode"]
    assert "av" in told["versions"] and "processor" in told["machine"]


def test_part_of_a_video(clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    assert run(clip, "-o", out, "--start", "0:00.2", "--duration", "0.4", "--no-audio") == 0
    assert frames_of(out) == 10
    with av.open(str(out)) as container:
        assert not container.streams.audio


def test_a_live_source_until_its_duration(tmp_path: Path, fake: type[FakeUnmasker]) -> None:
    out, report = tmp_path / "out.mp4", tmp_path / "report.json"
    spec = "lavfi:testsrc=size=64x64:rate=20"
    assert run(spec, "-o", out, "--duration", "0.5", "--report", report) == 0
    assert fake.modes == ["live", "closed"]
    told = json.loads(report.read_text())
    assert told["frames"]["in"] == told["frames"]["out"] + sum(told["frames"]["dropped"].values())
    assert 5 <= told["frames"]["in"] <= 12


def test_a_picture_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str], fake: type[FakeUnmasker]) -> None:
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    for index, picture in enumerate(moving_gradient(2)):
        PIL.Image.fromarray(picture).save(folder / ["a.png", "deep/b.jpg"][index])
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:60])
    assert run(folder / "a.png", "-o", tmp_path / "one.png") == 0
    assert fake.modes == ["still", "closed"]
    capsys.readouterr()
    assert run(folder, "-o", tmp_path / "out") == 1
    printed = capsys.readouterr()
    assert "broken.png" in printed.err and "error: " in printed.err
    assert (tmp_path / "out" / "a.png").is_file() and (tmp_path / "out" / "deep" / "b.png").is_file()
    assert "2 pictures, 2 unmasked" in printed.out


def make_bad_inputs(tmp_path: Path, clip: Path) -> dict[str, Path]:
    text = tmp_path / "text.mp4"
    text.write_text("this is no video at all\n" * 100)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(clip.read_bytes()[:300])
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    sound = tmp_path / "sound.mp4"
    with av.open(str(clip)) as source, av.open(str(sound), "w") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    return {"missing": tmp_path / "missing.mp4", "text": text, "cut": cut, "empty": empty, "sound": sound}


@pytest.mark.parametrize("kind", ["missing", "text", "cut", "empty", "sound"])
def test_unreadable_source(kind: str, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.mp4"
    path = make_bad_inputs(tmp_path, clip)[kind]
    assert run(path, "-o", out) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and path.name in printed.err
    assert printed.out == "" and "Traceback" not in printed.err
    assert not list(tmp_path.glob("*out*"))


def test_a_folder_without_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "folder.mp4"
    folder.mkdir()
    assert run(folder, "-o", tmp_path / "out.mp4") == 1


def test_output_that_is_there(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.mp4"
    out.write_text("precious")
    assert run(clip, "-o", out) == 2
    assert "-y" in capsys.readouterr().err
    assert out.read_text() == "precious"
    assert run(clip, "-o", out, "-y") == 0
    assert frames_of(out) == 20


def test_output_that_is_the_input(clip: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(clip.read_bytes())
    assert run(copy, "-o", copy, "-y") == 2
    assert copy.read_bytes() == clip.read_bytes()


def test_output_that_cannot_be_written(clip: Path, tmp_path: Path) -> None:
    assert run(clip, "-o", tmp_path / "nowhere" / "out.mp4") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{clip}",), "-o"),
        (("-o", "x.mp4"), "no source"),
        (("{clip}", "--webcam", "0", "-o", "x.mp4"), "two sources"),
        (("{clip}", "-o", "x.mp4", "--codec", "nonsense"), "nonsense"),
        (("{clip}", "-o", "x.mp4", "--preset", "nonsense"), "nonsense"),
        (("{clip}", "-o", "x.nonsense"), "x.nonsense"),
        (("{clip}", "-o", "x.mp4", "--start", "soon"), "'soon' is no time: write 90, 1:30 or 00:01:30.5"),
        (("{clip}", "-o", "x.mp4", "--start", "1:75"), "end at 59"),
        (("{clip}", "-o", "x.mp4", "--duration", "0"), "more than 0"),
        (("{clip}", "-o", "x.mp4", "--feather", "2"), "2 is not between 0 and 0.5"),
        (("{clip}", "-o", "x.mp4", "--max-faces", "0"), "0 is not between 1 and 64"),
        (("{clip}", "-o", "x.mp4", "--max-faces", "two"), "'two' is no whole number"),
        (("{clip}", "-o", "x.mp4", "--crf", "nan"), "nan is not between"),
        (("{clip}", "-o", "x.mp4", "--view", "all"), "result"),
        (("{clip}", "-o", "x.mp4", "-v", "-q"), "not allowed with"),
        (("{clip}", "-o", "x.mp4", "--report", "nowhere/x.json"), "report"),
        (("{clip}", "-o", "x.mp4", "--report", "x.mp4"), "report and video"),
        (("{clip}", "-o", "x.mp4", "--report", "{clip}"), "is there already"),
        (
            ("{clip}", "-o", "x.mp4", "-y", "--report", "{clip.parent}/../{clip.parent.name}/{clip.name}"),
            "report and video",
        ),
        (("{clip}", "-o", "x.mp4", "--nonsense"), "--nonsense"),
        (("--webcam", "-1"), "-1"),
        (("bench", "--rate", "0"), "0 is not between"),
        (("models", "nonsense"), "nonsense"),
    ],
)
def test_wrong_usage(
    arguments: tuple[str, ...],
    words: str,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*(argument.format(clip=clip) for argument in arguments)) == 2
    assert words in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_camera_that_does_not_exist(tmp_path: Path) -> None:
    assert run("--webcam", "98", "-o", tmp_path / "out.mp4") == 1


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ModelError("the model is damaged", "fetch it"), 3),
        (ExtraError("no such engine"), 3),
        (RuntimeError("a bug"), 1),
    ],
)
def test_errors_at_the_start(
    error: Exception,
    code: int,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def broken(options: object) -> object:
        raise error

    monkeypatch.setattr(job, "Unmasker", broken)
    assert run(clip, "-o", tmp_path / "out.mp4") == code
    assert str(error) in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_error_while_working_keeps_what_is_done(
    clip: Path, tmp_path: Path, fake: type[FakeUnmasker], capsys: pytest.CaptureFixture[str]
) -> None:
    def breaks(packet: Packet) -> Packet:
        if packet.frame.index == 15:
            time.sleep(0.3)  # the frames before it have been written by then
            raise EngineError("the engine broke")
        return packet

    fake.act = staticmethod(breaks)
    out = tmp_path / "out.mp4"
    assert run(clip, "-o", out) == 1
    printed = capsys.readouterr()
    assert "error: the engine broke" in printed.err and f"{out} holds" in printed.err
    assert frames_of(out) == 15
    out.write_text("precious")
    assert run(clip, "-o", out, "-y") == 1
    assert out.read_text() == "precious"
    assert "partial" in capsys.readouterr().err


def test_a_full_disk(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))  # writing more fails, as on a full disk
    try:
        assert run(clip, "-o", tmp_path / "out.mp4") == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    printed = capsys.readouterr()
    assert "error: " in printed.err and "disk" in printed.err


def test_interrupt(clip: Path, tmp_path: Path, fake: type[FakeUnmasker], capsys: pytest.CaptureFixture[str]) -> None:
    def interrupts(packet: Packet) -> Packet:
        if packet.frame.index == 10:
            time.sleep(0.2)
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.2)
        return unmasks(packet)

    fake.act = staticmethod(interrupts)
    out, report = tmp_path / "out.mp4", tmp_path / "report.json"
    assert run(clip, "-o", out, "--report", report) == 130
    assert frames_of(out) >= 10
    assert "interrupted" in capsys.readouterr().out
    assert json.loads(report.read_text())["outcome"] == "interrupted"


def test_quiet(clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(clip, "-o", tmp_path / "a.mp4", "-q") == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90.0),
        ("1:30", 90.0),
        ("00:01:30.5", 90.5),
        ("2:00:00", 7200.0),
        ("0.25", 0.25),
        (".5", 0.5),
        ("120:00", 7200),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert cli._seconds(text) == seconds


def test_encoding_suits_source_and_codec() -> None:
    def options(*arguments: str, live: bool = False) -> tuple[str, float | None, str | None, bool]:
        encode = job.encode_options(cli.run_parser().parse_args(["in", *arguments]), live=live)
        return encode.codec, encode.crf, encode.preset, encode.low_latency

    assert options() == ("libx264", 18, "veryfast", False)
    assert options(live=True) == ("libx264", 18, "ultrafast", True)
    assert options("--preset", "slow", "--crf", "20.5", live=True) == ("libx264", 20.5, "slow", True)


def test_help_and_version_come_without_the_heavy_modules() -> None:
    code = (
        "import sys\nfrom unmask_rt import cli\n"
        "try:\n    cli.main(['--help'])\nexcept SystemExit as done:\n    assert not done.code\n"
        "heavy = {'av', 'cv2', 'numpy', 'mediapipe', 'onnxruntime', 'rich', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for option in ("--engine", "--model", "--face-model", "--on-miss", "--label", "--report", "--webcam", "bench"):
        assert option in done.stdout


def test_module_runs_as_a_program() -> None:
    done = subprocess.run([sys.executable, "-m", "unmask_rt", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("unmask-rt ")
    done = subprocess.run([sys.executable, "-m", "unmask_rt"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "usage" in done.stdout


@pytest.mark.parametrize("stuck", [True, False])
def test_a_stuck_thread_does_not_take_part_in_the_exit(stuck: bool) -> None:
    code = (
        "import atexit, sys, threading\nfrom unmask_rt import cli\n"
        "cli._dispatch = lambda argv: 130\natexit.register(print, 'ordinary exit')\n"
        f"if {stuck}:\n    threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "sys.argv = ['unmask-rt']\nsys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 130
    assert ("ordinary exit" in done.stdout) is not stuck


def test_a_plain_kill_is_answered_like_ctrl_c() -> None:
    code = (
        "import os, signal, sys, time\nfrom unmask_rt import cli\n"
        "def handler(arguments, console):\n    os.kill(os.getpid(), signal.SIGTERM)\n    time.sleep(20)\n"
        "cli._run = handler\nsys.argv = ['unmask-rt', 'in', '-o', 'out']\nsys.exit(cli.main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (130, "error: interrupted\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "{tmp}/broken.onnx"), "unmask model"),
        (("--model", "{tmp}/none.onnx"), "none.onnx"),
    ],
)
def test_what_is_missing_or_damaged(
    arguments: tuple[str, ...],
    words: str,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    face_models: object,
) -> None:
    monkeypatch.setattr(job, "Unmasker", Unmasker)
    (tmp_path / "broken.onnx").write_bytes(b"no model" * 100)
    given = [argument.format(tmp=tmp_path) for argument in arguments]
    assert run(clip, "-o", tmp_path / "out.mp4", *given) == 3
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


def test_models_and_doctor_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    from unmask_rt import doctor, models

    called: list[str] = []
    monkeypatch.setattr(models, "fetch", lambda: called.append("fetch"))
    monkeypatch.setattr(models, "list_models", lambda console: called.append("list"))
    monkeypatch.setattr(doctor, "run", lambda console: called.append("doctor"))
    assert [run("models"), run("models", "fetch"), run("doctor")] == [0, 0, 0]
    assert called == ["list", "fetch", "list", "doctor"]


def test_no_thread_is_left_behind() -> None:
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_PREFIX)]
