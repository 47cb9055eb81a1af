"""``unmask-train``: prepare faces, train a preset, measure it, export it.

Each command's module is imported only when it is called; it offers ``add_arguments(parser)`` and ``main(args) -> int``.
Exit codes are those of `unmask_rt.errors`; 130 after Ctrl-C, with a checkpoint written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from unmask_rt import __version__
from unmask_rt.console import Console
from unmask_rt.errors import ExtraError

COMMANDS: dict[str, tuple[str, str]] = {
    "prepare": ("trainer.prepare", "folders or tars of pictures -> aligned faces with masks drawn on them"),
    "twins": ("trainer.twins", "whoever training shows too no longer tests"),
    "pack": ("trainer.pack", "a prepared set -> a few small files, for a machine with a GPU"),
    "unpack": ("trainer.unpack", "and back"),
    "synthesize": ("trainer.synthesize", "three folders of pictures: faces, masked faces, maps"),
    "run": ("trainer.run", "train a preset"),
    "evaluate": ("trainer.evaluation.evaluate", "figures of a run or a model on faces that it has not seen"),
    "compare": ("trainer.evaluation.compare", "several runs or models in one table and one sheet"),
    "unmask": ("trainer.evaluation.unmask", "a folder of pictures in, maps and results out"),
    "mix": ("trainer.mix", "two runs of one network -> a run between them"),
    "report": ("trainer.evaluation.report", "one HTML page about a run"),
    "export": ("trainer.export", "a run -> one ONNX file that unmask-rt runs"),
    "calibration": ("trainer.calibration", "crops that an int8 model is calibrated on"),
}
"""Name -> module and what it does."""

_EXAMPLES = """\
  unmask-train prepare faces/ -o data
  unmask-train run --preset realtime --data data --run runs/mine
  unmask-train evaluate runs/mine --data data
  unmask-train export runs/mine -o mine.onnx
  unmask-rt clip.mp4 -o out.mp4 --model mine.onnx

exit codes: 0 done, 1 failed while working, 2 wrong usage, 3 something is missing, 130 interrupted
"""


def overview() -> argparse.ArgumentParser:
    """The parser of the program itself: its commands, and nothing of theirs."""
    width = max(map(len, COMMANDS)) + 2
    lines = "".join(f"  {name:{width}s}{what}\n" for name, (_, what) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="unmask-train",
        usage="unmask-train COMMAND [options]",
        description="Trains, measures and exports networks that take face masks off pictures.",
        epilog=f"commands (each with its own --help):\n{lines}\nexamples:\n{_EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"unmask-train {__version__}")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Returns:
        The exit code. Wrong usage leaves by SystemExit(2), as argparse has it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in COMMANDS:
        parser = overview()
        if not argv:
            parser.print_help()
            return 2
        _, rest = parser.parse_known_args(argv)
        parser.error(f"there is no command {rest[0]!r}; there are: {', '.join(COMMANDS)}")
    name, what = argv[0], COMMANDS[argv[0]]

    def work() -> int:
        try:
            module = import_module(what[0])
            parser = argparse.ArgumentParser(
                prog=f"unmask-train {name}",
                description=module.__doc__,
                formatter_class=argparse.RawDescriptionHelpFormatter,
            )
            module.add_arguments(parser)
            return int(module.main(parser.parse_args(argv[1:])))
        except ModuleNotFoundError as error:
            hint = "Install what training needs: pip install 'unmask-rt[train]'"
            raise ExtraError(f"the package {error.name!r} is not installed", hint) from error

    return Console("verbose").outcome(work)  # who trains changes code, and wants to see where it failed


if __name__ == "__main__":
    sys.exit(main())
