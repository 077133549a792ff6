"""The command line: help, Hydra, one run or many, and an exit code that means something."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import __version__
from compressor.errors import CompressorError, ConfigError

if TYPE_CHECKING:
    from compressor.cells.cell import Cell, Composed
    from compressor.cells.ledger import Entry
    from compressor.registry import Registry
    from compressor.report.screen import Screen
    from compressor.results import RunResult

INTERRUPTED = 130


def main() -> None:
    """Run `python -m compressor` and leave with the documented exit code."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        from compressor.help import print_help

        try:
            print_help()
            sys.stdout.flush()
        except BrokenPipeError:  # `| head` has seen enough; what is left must not fail once more at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    if "--version" in arguments:
        print(f"compressor {__version__}")
        return
    if {"-m", "--multirun"} & set(arguments) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _complain(
            ConfigError("a multirun under torchrun: its helpers would end with the first cell", hint="leave -m out")
        )
        raise SystemExit(ConfigError.exit_code)
    # W&B's agent adds this to a resumed run, for itself.
    arguments = [a for a in arguments if not a.startswith("_wandb=")]
    flags = [a for a in arguments if a in ("-m", "--multirun")]
    arguments = [*flags, *(a for a in arguments if a not in flags)]
    sys.argv[1:] = arguments  # Hydra's parser takes no flag between overrides
    # Waiting threads spin for microseconds, then sleep. Without a bound, any other load beside a run made it up to ten times
    # slower; without spinning an idle machine trains 40 % slower (6.0 and 4.3 steps a second on two cores).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises what it caught, and we say what it means
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as an interrupt does: nothing half-made is left
    try:
        raise SystemExit(_hydra(arguments))
    except CompressorError as error:
        _complain(error)
        raise SystemExit(error.exit_code) from None
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None


def _complain(error: CompressorError) -> None:
    print(f"\n{type(error).__name__}: {error}", file=sys.stderr)


def _hydra(arguments: list[str]) -> int:
    """Let Hydra compose and call us once for each run; return the exit code."""
    from compressor import installed

    installed.require_base()  # before anything is imported that an old library would break in its own words
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from compressor import compose, groups, registry, search
    from compressor.cells import ledger

    methods = registry.load()
    for error in methods.broken.values():
        print(f"warning: {error}", file=sys.stderr)
    compose.register(methods)
    search.register()
    token = f"sweep-{uuid.uuid4().hex}"
    sys.argv.append(f"+hydra.job.env_set.{ledger.TOKEN}={token}")
    try:
        compose.check_overrides(arguments, methods)
    except HydraException as error:
        raise compose.explain(error) from error
    session = Session()
    compose.Sweep.begun = _show_sweep
    entry = hydra.main(version_base="1.3", config_path=str(groups.conf_folder()), config_name="config")(session.run)
    searched = False
    try:
        _sweep(entry, token)
        if compose.Sweep.folder is not None:
            searched = (compose.Sweep.folder / search.JOURNAL).is_file()
            _run_busy_cells(compose.Sweep.folder, token, methods)
            ledger.tidy(compose.Sweep.folder)  # an interrupted sweep that is run again will want it
    except (HydraException, OmegaConfBaseException) as error:
        raise compose.explain(error) from error
    finally:
        ended = _show_cells(token, searched=searched)
    if session.error is not None:
        raise session.error
    return next((entry.code for entry in ended if entry.code), 0)


def _sweep(entry: Callable[[], object], token: str) -> None:
    """Let Hydra run everything, and note the cells that its launcher lost; what the launcher says of them is no bug of ours."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        entry()
    except (CompressorError, HydraException, OmegaConfBaseException):
        raise
    except Exception as error:  # launchers have errors of many kinds for a process of theirs that was killed
        if not _note_lost_cells(token):
            raise
        print(f"\nwarning: the launcher failed: {type(error).__name__}: {error}", file=sys.stderr)
    else:
        _note_lost_cells(token)


def _note_lost_cells(token: str) -> bool:
    """Note the cells of a multirun that Hydra's launcher lost; tell whether there are any that had begun."""
    from compressor.cells import lost
    from compressor.compose import Sweep

    if Sweep.folder is None:
        return False
    return lost.note(Sweep.folder, token, _expected(token), _cell_folder)


def _expected(token: str) -> dict[int, list[str]]:
    """Return what is typed for each cell of the multirun: all of Hydra's own sweeper, the last batch of a search."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    from compressor.cells import ledger
    from compressor.compose import Sweep

    assert Sweep.folder is not None and Sweep.config is not None
    told, sweeper = ledger.expected(Sweep.folder, token), Sweep.config.hydra.sweeper
    if told or not str(sweeper._target_).endswith(f".{BasicSweeper.__name__}"):
        return told
    typed = [*(f"{name}={value}" for name, value in (sweeper.params or {}).items()), *Sweep.config.hydra.overrides.task]
    overrides = OverridesParser.create(config_loader=Sweep.loader).parse_overrides(typed)
    return dict(enumerate(line for batch in BasicSweeper.split_arguments(overrides, None) for line in batch))


def _cell_folder(number: int, line: Sequence[str]) -> Path:
    """Return where Hydra would have put the run folder of a cell."""
    from omegaconf import OmegaConf, open_dict

    from compressor.compose import Sweep

    assert Sweep.folder is not None and Sweep.config is not None and Sweep.loader is not None
    composed = Sweep.loader.load_sweep_config(Sweep.config, list(line))
    with open_dict(composed):
        composed.hydra.job.num = number
    return Sweep.folder / str(OmegaConf.select(composed, "hydra.sweep.subdir"))


class Session:
    """What Hydra calls for each run: it may be copied to another process, and nothing that is set there comes back."""

    def __init__(self) -> None:
        # Of a single run: through Hydra it would come with lines of Hydra's own.
        self.error: CompressorError | None = None

    def run(self, cfg: Any) -> float | None:
        """Run once, or one cell; return the objective, the result's first metric on test."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from compressor import registry
        from compressor.machine import is_main_process
        from compressor.quiet import outlive_readers, quiet_libraries
        from compressor.report.screen import Screen

        quiet_libraries()
        methods = registry.load()  # here, since a launcher's process has none yet
        hydra_config = HydraConfig.get()
        overrides = tuple(hydra_config.overrides.task)
        screen = Screen(quiet=not is_main_process())
        folder = Path(hydra_config.runtime.output_dir)
        if hydra_config.mode is RunMode.MULTIRUN:
            outlive_readers()
            from compressor.cells.cell import Cell

            sweep = Path(hydra_config.sweep.dir).absolute()
            if not folder.absolute().is_relative_to(sweep):
                raise ConfigError(
                    f"hydra.sweep.subdir={hydra_config.sweep.subdir}", allowed="a folder inside hydra.sweep.dir"
                )
            cell = Cell(overrides=overrides, folder=folder.absolute(), sweep=sweep)
            return _cell(cfg, cell, int(hydra_config.job.num), methods, screen)
        return self._single(cfg, overrides, folder, methods, screen)

    def _single(
        self, cfg: Any, overrides: tuple[str, ...], folder: Path, methods: Registry, screen: Screen
    ) -> float | None:
        from compressor import compose, engine

        try:
            config = compose.to_run_config(cfg, overrides, methods)
            request = engine.Request(config=config, overrides=overrides, folder=folder, tracking=compose.tracking(cfg))
            return objective(engine.run(request, methods, screen))
        except CompressorError as error:
            self.error = error
            return None
        finally:
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()  # Hydra made it


def _cell(cfg: Any, cell: Cell, number: int, methods: Registry, screen: Screen) -> float | None:
    from compressor import compose
    from compressor.cells import ledger, lost
    from compressor.cells.sharing import BUSY, run_free_cell

    screen.rule(f"cell {number}: {' '.join(cell.overrides)}")
    token, told = ledger.token(), _teller(cfg, cell.overrides, methods)

    def note(status: str, code: int, job: dict[str, Any] | None = None) -> None:
        ledger.write(
            cell.sweep, token, ledger.Entry(number=number, folder=cell.folder, status=status, code=code, job=job)
        )

    lost.begin(cell, number, token)
    try:
        outcome = run_free_cell(cell, told, methods, screen, token=token)
    except KeyboardInterrupt:
        note("interrupted", INTERRUPTED)
        raise
    except Exception as error:  # a bug of ours, which the launcher tells of
        note(f"failed({type(error).__name__}: {error})", 1)
        raise
    status = outcome.result.status
    job = None
    if status == BUSY:
        with suppress(CompressorError):  # of a cell that cannot be composed the other command says so
            job = {"overrides": cell.overrides, "config": compose.to_plain(cfg)}
    note(status, outcome.code, job)
    return objective(outcome.result)


def _teller(cfg: Any, overrides: tuple[str, ...], methods: Registry) -> Callable[[], Composed]:
    """Return what composes, when asked, what a cell's process is told."""
    from compressor import compose
    from compressor.cells.cell import Composed

    def composed() -> Composed:
        config = compose.to_run_config(cfg, overrides, methods)
        limits, tracking = compose.cell_limits(cfg), compose.tracking(cfg)
        return Composed(config=config, values=compose.to_plain(cfg), limits=limits, tracking=tracking)

    return composed


def _run_busy_cells(sweep: Path, token: str, methods: Registry) -> None:
    """Wait for the cells that other commands were at, and note how they ended."""
    from compressor import compose
    from compressor.cells import ledger
    from compressor.cells.cell import Cell
    from compressor.cells.sharing import run_busy_cell
    from compressor.report.screen import Screen

    for entry in ledger.read(sweep, token):
        if entry.job is None:
            continue
        overrides, cfg = tuple(entry.job["overrides"]), compose.from_plain(entry.job["config"], methods)
        screen, told = Screen(), _teller(cfg, overrides, methods)
        screen.rule(f"cell {entry.number}: {' '.join(overrides)}")
        cell = Cell(overrides=overrides, folder=entry.folder, sweep=sweep)
        outcome = run_busy_cell(cell, told, methods, screen)
        ledger.write(sweep, token, replace(entry, status=outcome.result.status, code=outcome.code, job=None))


def _show_sweep() -> None:
    """Say where the cells will stand, before the first: a machine that fails says no more."""
    from compressor.compose import Sweep
    from compressor.quiet import outlive_readers
    from compressor.report.screen import Screen

    outlive_readers()
    if again := Sweep.again():
        Screen().line("sweep", f"the same command with {again} goes on where this one stops")


def _show_cells(token: str, *, searched: bool) -> list[Entry]:
    """Print the table over the cells that this command has ended, however many they are; return them.

    Args:
        token: Names the command.
        searched: Whether it was a search that came to its end: if nothing was left to do, the table is that of its folder.
    """
    from compressor import trials
    from compressor.cells import ledger
    from compressor.compose import Sweep
    from compressor.report.screen import Screen
    from compressor.search import JOURNAL

    if Sweep.folder is None:
        return []
    ended = ledger.read(Sweep.folder, token)
    states = {entry.folder: entry.status for entry in ended} or (trials.states(Sweep.folder) if searched else {})
    if states:
        Screen().cells(states, Sweep.folder)
        if (Sweep.folder / JOURNAL).is_file():
            Screen().fronts(Sweep.folder)
    if any(entry.code for entry in ended) and (again := Sweep.again()):
        Screen().line("again", f"the same command with {again} runs what is missing")
    return ended


def objective(result: RunResult) -> float | None:
    """Return the first metric of the last result candidate: the number that a sweeper may optimise."""
    scored = [c for c in result.candidates if c.role in ("teacher", "result") and c.metrics]
    return next(iter(scored[-1].metrics.values())).value if scored else None
