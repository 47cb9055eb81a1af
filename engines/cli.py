"""``unmask-engine``: builds, compares, shows and measures the engines that can run the network here.

    unmask-engine bench                                  all that can be used here, side by side
    unmask-engine verify                                 compares each with the reference, with figures
    unmask-engine build --backend tensorrt-rtx --precision fp16 --target-gpu SM86 SM89
    unmask-engine build --precision int8 --calibration crops.npz     makes the int8 form of a model
    unmask-engine list | inspect NAME | clean

exit codes: 0 done, 1 failed (verify: an engine is too far off), 2 wrong usage, 3 something is missing, 130 interrupted
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from engines import BACKENDS, backend, cache
from engines.base import MOST_BATCH, PRECISIONS, Backend, Settings
from unmask_rt import __version__, models
from unmask_rt.console import Console
from unmask_rt.errors import EngineError, ExtraError, SinkError, UnmaskError, UsageError
from unmask_rt.threads import default_threads


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: arguments without the program's name; None for those of the process.

    Returns:
        The exit code. Wrong usage leaves by SystemExit(2), as argparse has it.
    """
    arguments = parser().parse_args(argv)
    console = Console("verbose" if arguments.verbose else "normal")
    console.start_logging()
    handler: Callable[[argparse.Namespace, Console], int] = arguments.handler
    return console.outcome(lambda: handler(arguments, console))


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    top = argparse.ArgumentParser(
        prog="unmask-engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"unmask-engine {__version__}")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, handler: Callable[[argparse.Namespace, Console], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text)
        made.set_defaults(handler=handler)
        made.add_argument("-v", "--verbose", action="store_true", help="say more")
        return made

    build = command("build", _build, "builds an engine, or the int8 form of a model, and keeps it")
    _add_choice(build, needed=True)
    build.add_argument("--target-gpu", nargs="+", default=[], metavar="SM", help="GPUs to build for: SM86 SM89 SM120")
    build.add_argument("--calibration", type=Path, metavar="FILE.npz", help="crops to make the int8 form with")
    build.add_argument("-o", "--out", type=Path, metavar="FILE", help="write it here too")
    build.add_argument("--bundle", action="store_true", help="with --calibration: into the package, beside its model")
    _add_choice(command("verify", _verify, "compares engines with the reference and prints the figures"))
    _add_choice(command("bench", _bench, "times all engines in turns: ratios to the first"))
    inspect = command("inspect", _inspect, "says what a kept engine consists of")
    inspect.add_argument("engine", help="its name as `list` shows it (a beginning is enough), or a file")
    command("list", _list, "shows the engines that are kept")
    command("clean", _clean, "deletes the engines that are kept")
    return top


def _add_choice(to: argparse.ArgumentParser, *, needed: bool = False) -> None:
    backend, precision = "which one", "which one"
    if not needed:
        backend, precision = (
            f"{backend} (default: all that can be used here)",
            f"{precision} (default: all that it runs)",
        )
    to.add_argument("--backend", choices=list(BACKENDS), help=backend)
    to.add_argument("--precision", choices=PRECISIONS, help=precision)
    to.add_argument("--batch", type=int, choices=range(1, MOST_BATCH + 1), default=1, help="crops a call (default: 1)")
    threads = default_threads()
    to.add_argument(
        "--threads", type=int, default=threads, metavar="N", help=f"threads of a call (default: {threads}, as the tool)"
    )
    to.add_argument("--model", type=Path, metavar="FILE", help="another unmask model")


def _build(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.calibration is not None:
        return _quantise(arguments, console)
    if arguments.bundle:
        raise UsageError("--bundle is for the int8 form of a model", "Add --precision int8 --calibration FILE.npz.")
    if arguments.backend is None or arguments.precision is None:
        raise UsageError("what is to be built?", "Say --backend and --precision.")
    from engines import variants
    from engines.obtain import is_reference, obtain

    chosen = backend(arguments.backend)
    settings = _settings(arguments, arguments.precision)
    model, _ = models.load_unmask_model(arguments.model)
    _require_precision(chosen, settings.precision)
    if settings.target_gpu and not getattr(chosen, "targets", ()):
        raise UsageError(f"{chosen.name} builds for this machine only", "Leave --target-gpu out, or use tensorrt-rtx.")
    variant = variants.obtain(model, chosen.variant(settings.precision))
    key = cache.key_of(chosen, model, variant, settings)
    state = chosen.usable()
    if chosen.builds and (settings.target_gpu or not state.ok):
        if not state.version:
            raise ExtraError(
                f"{chosen.name} cannot build here: {state.why}", "Install it; `unmask-rt doctor` says how."
            )
        with cache.lock(key.name):  # for other machines, or for a device that is not here: built, not run
            found = cache.read(key)
            built = found[1] if found is not None else chosen.build(variant, settings, console.note)
            if found is None:
                cache.store(key, built, {})
        why = "it is for other GPUs" if state.ok else state.why
        console.result(f"{key.name}: {len(built) / 1e6:.1f} MB, not compared with the reference: {why}")
    else:
        obtain(arguments.backend, model, settings, console.note).close()
        found = cache.read(key)
        if found is None and not is_reference(chosen.name, settings):
            raise SinkError("the engine was compared, and cannot be kept", "UNMASK_RT_CACHE moves the folder.")
        built = found[1] if found is not None else b""
        console.result(f"{key.name}: {len(built) / 1e6:.1f} MB, compared with the reference and ready")
    if arguments.out is not None:
        if not built:
            raise UsageError(f"{chosen.name} builds nothing that could be written", "Leave -o out.")
        _write(arguments.out, built)
    return 0


def _quantise(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.precision not in (None, "int8"):
        raise UsageError("--calibration is for int8", "Leave --precision out, or say int8.")
    try:
        from engines import bundle
    except ImportError as error:
        raise ExtraError(f"quantising needs a package: {error}", "pip install 'onnx>=1.20,<2'") from error
    if arguments.bundle and arguments.model is not None:
        raise UsageError("--bundle is for the package's own model", "Leave --model out.")
    made = bundle.quantise(arguments.model, arguments.calibration, console.note)
    if arguments.out is not None:
        _write(arguments.out, made)
    place = bundle.add(made) if arguments.bundle else bundle.keep(made)
    console.result(f"{place}: {len(made) / 1e6:.1f} MB")
    return 0


def _verify(arguments: argparse.Namespace, console: Console) -> int:
    from engines import parity
    from engines.obtain import is_reference, open_unchecked, reference

    model, _ = models.load_unmask_model(arguments.model)
    asked = _chosen(arguments, console)
    if not asked:
        raise ExtraError("there is no engine to be compared", "`unmask-rt doctor` says why.")
    standard, bad = reference(model), 0
    for chosen, settings in asked:
        label = f"{chosen.name} {settings.precision}"
        if is_reference(chosen.name, settings):
            console.result(f"{label}: the reference")
            continue
        try:
            engine = open_unchecked(chosen.name, model, settings, console.note)
        except UnmaskError as error:
            console.result(f"{label}: {error.message}")
            bad += arguments.backend is not None
            continue
        try:
            told = parity.compare(engine, standard)
        finally:
            engine.close()
        failed = told.failures(settings.precision)
        bad += bool(failed)
        console.result(f"{label}: {'FAILS: ' + '; '.join(failed) if failed else 'good'}; {told.line()}")
    standard.close()
    return 1 if bad else 0


def _bench(arguments: argparse.Namespace, console: Console) -> int:
    from engines.obtain import obtain
    from engines.select import time_engines

    model, _ = models.load_unmask_model(arguments.model)
    labels, engines = [], []
    for chosen, settings in _chosen(arguments, console):
        label = f"{chosen.name} {settings.precision}"
        try:
            engines.append(obtain(chosen.name, model, settings, console.note))
            labels.append(label)
        except UnmaskError as error:
            console.result(f"{label}: {error.message}")
    if not engines:
        raise ExtraError("there is no engine to be timed", "`unmask-rt doctor` says why.")
    batch = arguments.batch
    many = "one crop a call" if batch == 1 else f"{batch} crops a call, times are a crop's"
    console.result(f"{arguments.threads} thread(s), {many}, 40 calls each, in turns; xN: as fast as the first")
    times = time_engines(engines, rounds=40, batch=batch)
    first = times[0]
    console.result(f"{'':28s} {'fastest':>8s}             {'CPU, median':>11s}")
    for label, timing in zip(labels, times, strict=True):
        fastest = f"{timing.fastest_s * 1e3:8.2f} ms  x{first.fastest_s / timing.fastest_s:.2f}"
        cpu = f"{timing.cpu_s * 1e3:8.2f} ms  x{first.cpu_s / max(timing.cpu_s, 1e-9):.2f}"
        console.result(f"{label:28s} {fastest}  {cpu}")
    for engine in engines:
        engine.close()
    return 0


def _inspect(arguments: argparse.Namespace, console: Console) -> int:
    file = Path(arguments.engine)
    if file.is_file():
        _tell(console, backend_of_file(file).inspect(file.read_bytes()))
        return 0
    fitting = [entry for entry in cache.entries() if entry.name.startswith(arguments.engine)]
    if len(fitting) != 1:
        raise UsageError(
            f"{len(fitting)} engines are called {arguments.engine}...", "`unmask-engine list` shows their names."
        )
    entry = fitting[0]
    if "parts" not in entry.record:
        raise EngineError(f"{entry.name} is damaged", "It is built again when it is asked for; `clean` deletes it.")
    _tell(console, entry.record)
    built = entry.path.with_suffix(".engine")
    if built.is_file():
        _tell(console, backend(entry.record["parts"]["backend"]).inspect(built.read_bytes()))
    return 0


def backend_of_file(file: Path) -> Backend:
    """Whose engine a file holds.

    Raises:
        EngineError: it is none, or a damaged one.
    """
    from engines import envelope

    return backend(str(envelope.facts(file.read_bytes()).get("backend", next(iter(BACKENDS)))))


def _list(arguments: argparse.Namespace, console: Console) -> int:
    for entry in cache.entries():
        told = entry.record.get("parity")
        state = f"hole {told['hole_psnr']} dB" if told else "not compared" if entry.record else "damaged"
        console.result(f"{entry.name}  {entry.size_bytes / 1e6:.1f} MB  {state}  {entry.record.get('made', '')}")
    console.result(f"folder: {cache.folder()}")
    return 0


def _clean(arguments: argparse.Namespace, console: Console) -> int:
    count, size = cache.clean()
    console.result(f"{count} files deleted, {size / 1e6:.1f} MB")
    return 0


def _chosen(arguments: argparse.Namespace, console: Console) -> list[tuple[Backend, Settings]]:
    """Backends and precisions that were asked for, or all that can be used here; the others are named with reasons."""
    found = []
    for name in [arguments.backend] if arguments.backend else BACKENDS:
        chosen = backend(name)
        state = chosen.usable()
        if not state.ok:
            if arguments.backend:
                raise ExtraError(f"{name} cannot be used here: {state.why}", "`unmask-rt doctor` says more.")
            console.note(f"{name}: {state.why}")
            continue
        if arguments.backend and arguments.precision:
            _require_precision(chosen, arguments.precision)
        for precision in [arguments.precision] if arguments.precision else chosen.precisions:
            if precision in chosen.precisions:
                found.append((chosen, _settings(arguments, precision)))
    return found


def _require_precision(chosen: Backend, precision: str) -> None:
    if precision not in chosen.precisions:
        raise UsageError(f"{chosen.name} does not run {precision}", f"It runs: {', '.join(chosen.precisions)}.")


def _settings(arguments: argparse.Namespace, precision: str) -> Settings:
    targets = tuple(getattr(arguments, "target_gpu", ()))
    return Settings(precision, arguments.batch, arguments.threads, targets)


def _write(path: Path, data: bytes) -> None:
    if not cache.write(path, data):
        raise UsageError(f"{path} cannot be written", "Choose another place with -o.")


def _tell(console: Console, facts: object, indent: str = "") -> None:
    """Prints nested facts, one a line."""
    items = facts.items() if hasattr(facts, "items") else enumerate(facts) if isinstance(facts, list) else ()
    for name, value in items:
        if hasattr(value, "items") or (isinstance(value, list) and value and hasattr(value[0], "items")):
            console.result(f"{indent}{name}:")
            _tell(console, value, indent + "  ")
        else:
            console.result(f"{indent}{name}: {value}")


if __name__ == "__main__":
    sys.exit(main())
