"""The command line: what may be said, and which exit code comes back (see `unmask_rt.errors`).

    unmask-rt SOURCE -o OUT [options]        a video, a picture, a folder of pictures, a stream
    unmask-rt --webcam 0 [-o OUT]            a camera, shown in a window unless -o is given
    unmask-rt bench | doctor | models        see their --help

Heavy modules are imported only once there is work for them.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from unmask_rt import __version__, native_logs
from unmask_rt.console import Console, Verbosity

VIEWS = ("result", "side-by-side", "mask", "difference")
ON_MISS = ("pass", "hold", "blur")
LABELS = ("auto", "on", "off")
_TIME = re.compile(r"(?:(?:(\d+):)?(\d+):)?(\d+(?:\.\d*)?|\.\d+)")
_EXAMPLES = """\
examples:
  unmask-rt clip.mp4 -o out.mp4
  unmask-rt clip.mp4 -o out.mp4 --start 1:30 --duration 10 --view side-by-side
  unmask-rt photo.jpg -o photo-unmasked.png
  unmask-rt photos/ -o unmasked/
  unmask-rt --webcam 0
  unmask-rt rtsp://camera.local/stream -o recording.mp4 --duration 60

commands (each with its own --help):
  unmask-rt bench     how fast is this machine
  unmask-rt doctor    what works on this machine, and why the rest does not
  unmask-rt models    which models there are, and fetching them

exit codes: 0 done, 1 failed while working, 2 wrong usage, 3 something is missing, 130 interrupted

What comes out is synthetic: it shows a face that might be under the mask, not the one that is. The output says so in
its metadata. Use it with the consent of whoever is shown.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Returns:
        The exit code. Wrong usage leaves by SystemExit(2), as argparse has it.
    """
    if argv is None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a plain kill, too, finalises the output
    code = _dispatch(list(sys.argv[1:] if argv is None else argv))
    if argv is None:
        _leave_stuck_threads(code)
    return code


def _dispatch(argv: list[str]) -> int:
    name = argv[0] if argv else ""
    parser = _COMMANDS[name]() if name in _COMMANDS else run_parser()
    if not argv:
        parser.print_help()
        return 2
    arguments = parser.parse_args(argv[1:] if name in _COMMANDS else argv)
    verbosity: Verbosity = "quiet" if arguments.quiet else "verbose" if arguments.verbose else "normal"
    console = Console(verbosity)

    def work() -> int:
        _prepare_process(console)
        handler: Callable[[argparse.Namespace, Console], int] = arguments.handler
        return handler(arguments, console)

    return console.outcome(work)


def _prepare_process(console: Console) -> None:
    console.start_logging()
    if console.verbosity != "verbose":
        native_logs.quiet()


def _leave_stuck_threads(code: int) -> None:
    """Ends the process at once if a thread is stuck in native code: an ordinary exit could crash when it comes back."""
    if any(thread.daemon and thread.name != native_logs.THREAD for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run_parser() -> argparse.ArgumentParser:
    """Arguments of the main command."""
    parser = argparse.ArgumentParser(
        prog="unmask-rt",
        usage="unmask-rt SOURCE -o OUT [options]\n       unmask-rt --webcam N [-o OUT] [options]",
        description="Removes face masks from video in real time.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(handler=_run)
    add = parser.add_argument
    add("source", nargs="?", metavar="SOURCE", help="video, picture, folder of pictures, stream address or lavfi:GRAPH")
    add("--webcam", type=_whole(0, 99), metavar="N", help="take camera N (from 0) as the source")
    add("-o", "--output", type=Path, metavar="OUT", help="file to write; a folder for a folder of pictures")
    add("-y", "--overwrite", action="store_true", help="replace what exists")

    group = parser.add_argument_group("what is shown")
    add = group.add_argument
    add("--view", choices=VIEWS, default="result", help="what the output shows (default: result)")
    add("--max-faces", type=_whole(1, 64), metavar="N", help="at most so many faces (default: 8, in pictures 32)")
    add(
        "--feather",
        type=_number(0.0, 0.5),
        metavar="SHARE",
        help="width of the soft edge, 0..0.5 of the face crop's side",
    )
    add(
        "--on-miss", choices=ON_MISS, help="what shows of a masked face that was lost: as it is, the last patch, a blur"
    )
    add(
        "--label",
        choices=LABELS,
        default="auto",
        help="a small visible mark; auto (default): only where the output has no metadata",
    )

    group = parser.add_argument_group("how it is made")
    add = group.add_argument
    add("--engine", metavar="NAME", help="what runs the network (see doctor)")
    add("--threads", type=_whole(1, 256), metavar="N", help="threads of the engine")
    add("--model", type=Path, metavar="FILE", help="another unmask model")
    add("--face-model", type=Path, metavar="FILE", help="a local copy of face_landmarker.task")
    add("--finder-model", type=Path, metavar="FILE", help="a local copy of centerface.onnx")

    group = parser.add_argument_group("input and output")
    add = group.add_argument
    add("--start", type=_seconds, default=0.0, metavar="TIME", help="begin here: 90, 1:30 or 00:01:30.5")
    add(
        "--duration", type=_positive_seconds, metavar="TIME", help="take so much; live sources run until Ctrl-C without"
    )
    add("--codec", metavar="NAME", help="video encoder (default: libx264; see doctor)")
    add("--crf", type=_number(0.0, 63.0), metavar="Q", help="constant quality, smaller is better (default: 18)")
    add("--preset", metavar="NAME", help="speed of the encoder (default: veryfast, live ultrafast)")
    add("--no-audio", action="store_true", help="leave sound and subtitles out")
    add("--report", type=Path, metavar="FILE.json", help="write settings, counts and latency as JSON")
    _add_common(parser)
    return parser


def bench_parser() -> argparse.ArgumentParser:
    """Arguments of ``bench``."""
    parser = argparse.ArgumentParser(
        prog="unmask-rt bench",
        description="Measures this machine: unpaced, at a given rate, and beside both the bare decode + encode.",
    )
    parser.set_defaults(handler=_bench)
    add = parser.add_argument
    add("--source", metavar="FILE", help="video in which every frame shows a masked face (default: a built-in clip)")
    add("--rate", type=_number(1.0, 1000.0), default=30.0, metavar="FPS", help="rate of the paced run (default: 30)")
    add("--frames", type=_whole(10, 1_000_000), default=300, metavar="N", help="frames to take (default: 300)")
    add("--engine", metavar="NAME", help="what runs the network (see doctor)")
    add("--threads", type=_whole(1, 256), metavar="N", help="threads of the engine")
    add("--model", type=Path, metavar="FILE", help="another unmask model")
    add("--face-model", type=Path, metavar="FILE", help="a local copy of face_landmarker.task")
    add("--finder-model", type=Path, metavar="FILE", help="a local copy of centerface.onnx")
    add("--max-faces", type=_whole(1, 64), metavar="N", help="at most so many faces (default: 8, in pictures 32)")
    add("--json", metavar="FILE", help="write the figures as JSON; - for stdout instead of the tables")
    add("-y", "--overwrite", action="store_true", help="replace that file")
    _add_common(parser)
    return parser


def doctor_parser() -> argparse.ArgumentParser:
    """Arguments of ``doctor``."""
    parser = argparse.ArgumentParser(
        prog="unmask-rt doctor", description="Says what works on this machine, and why the rest does not."
    )
    parser.set_defaults(handler=_doctor)
    _add_common(parser)
    return parser


def models_parser() -> argparse.ArgumentParser:
    """Arguments of ``models``."""
    parser = argparse.ArgumentParser(
        prog="unmask-rt models", description="Lists the models with size, licence, source and state; or fetches them."
    )
    parser.set_defaults(handler=_models)
    parser.add_argument("action", nargs="?", choices=("fetch",), help="get what is missing, over the network")
    _add_common(parser)
    return parser


_COMMANDS = {"bench": bench_parser, "doctor": doctor_parser, "models": models_parser}


def _add_common(parser: argparse.ArgumentParser) -> None:
    talk = parser.add_mutually_exclusive_group()
    talk.add_argument("-v", "--verbose", action="store_true", help="say more, the libraries' own messages too")
    talk.add_argument("-q", "--quiet", action="store_true", help="say nothing but errors")
    parser.add_argument("--version", action="version", version=f"unmask-rt {__version__}")


def _run(arguments: argparse.Namespace, console: Console) -> int:
    from unmask_rt.job import run_job

    return run_job(arguments, console)


def _bench(arguments: argparse.Namespace, console: Console) -> int:
    from unmask_rt.bench import run_bench

    return run_bench(arguments, console)


def _doctor(arguments: argparse.Namespace, console: Console) -> int:
    from unmask_rt import doctor

    doctor.run(console)
    return 0


def _models(arguments: argparse.Namespace, console: Console) -> int:
    from unmask_rt import models

    if arguments.action == "fetch":
        models.fetch()
    models.list_models(console)
    return 0


def _seconds(text: str) -> float:
    """Seconds from ``90``, ``1:30`` or ``00:01:30.5``."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: write 90, 1:30 or 00:01:30.5")
    hours, minutes, seconds = int(match[1] or 0), int(match[2] or 0), float(match[3])
    if match[2] is not None and (seconds >= 60 or (match[1] is not None and minutes >= 60)):
        raise argparse.ArgumentTypeError(f"{text!r} is no time: seconds (and minutes after hours) end at 59")
    return hours * 3600 + minutes * 60 + seconds


def _positive_seconds(text: str) -> float:
    seconds = _seconds(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError("it has to be more than 0")
    return seconds


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{value} is not between {low} and {high}")
        return value

    return parse


def _number(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not (math.isfinite(value) and low <= value <= high):
            raise argparse.ArgumentTypeError(f"{text} is not between {low:g} and {high:g}")
        return value

    return parse
