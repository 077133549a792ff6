"""The command line: help, Hydra, one run or many, and an exit code that means something."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import __version__
from compressor.errors import CompressorError, ConfigError

if TYPE_CHECKING:
    from compressor.registry import Registry
    from compressor.report.screen import Screen
    from compressor.results import RunResult
    from compressor.workbench import Shared

INTERRUPTED = 130


def main() -> None:
    """Run `python -m compressor` and leave with the documented exit code."""
    arguments = sys.argv[1:]
    if {"-h", "--help"} & set(arguments):
        from compressor.help import print_help

        print_help()
        return
    if "--version" in arguments:
        print(f"compressor {__version__}")
        return
    if {"-m", "--multirun"} & set(arguments) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _complain(
            ConfigError("a multirun under torchrun: its helpers would end with the first cell", hint="leave -m out")
        )
        raise SystemExit(ConfigError.exit_code)
    flags = [a for a in arguments if a in ("-m", "--multirun")]
    arguments = [*flags, *(a for a in arguments if a not in flags)]
    sys.argv[1:] = arguments  # Hydra's parser takes no flag between overrides
    # Waiting threads spin for microseconds, then sleep. Without a bound, any other load beside a run made it up to ten times
    # slower; without spinning an idle machine trains 40 % slower (6.0 and 4.3 steps a second on two cores).
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra then raises what it caught, and we say what it means
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
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from compressor import compose, registry

    methods = registry.load()
    for error in methods.broken.values():
        print(f"warning: {error}", file=sys.stderr)
    compose.register(methods)
    try:
        compose.check_overrides(arguments, methods)
    except HydraException as error:
        raise compose.explain(error) from error
    session = Session(methods)

    def job(cfg: DictConfig) -> float | None:
        return session.run(cfg)

    entry = hydra.main(version_base="1.3", config_path=str(compose.conf_folder()), config_name="config")(job)
    try:
        entry()
    except (HydraException, OmegaConfBaseException) as error:
        raise compose.explain(error) from error
    finally:
        session.show_cells()
    if session.error is not None:
        raise session.error
    return session.exit_code


class Session:
    """The runs of one command: one, or the cells of a multirun, which share what they can."""

    def __init__(self, methods: Registry) -> None:
        self.methods = methods
        self.cells: dict[Path, RunResult] = {}  # by folder, in the order in which they ran
        self.exit_code = 0
        self.error: CompressorError | None = None
        self.shared: Shared | None = None
        self.screen: Screen | None = None
        self.sweep_folder: Path | None = None

    def run(self, cfg: Any) -> float | None:
        """Run one cell and return its objective, the result's first metric on test."""
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        from compressor import compose, engine
        from compressor.machine import is_main_process
        from compressor.quiet import quiet_libraries
        from compressor.report.screen import Screen
        from compressor.workbench import Shared

        quiet_libraries()
        hydra_config = HydraConfig.get()
        overrides = tuple(hydra_config.overrides.task)
        self.screen = self.screen or Screen(quiet=not is_main_process())
        self.shared = self.shared or Shared()
        folder = Path(hydra_config.runtime.output_dir)
        if hydra_config.mode is not RunMode.MULTIRUN:
            try:
                config = compose.to_run_config(cfg, overrides, self.methods)
                request = engine.Request(config=config, overrides=overrides, folder=folder)
                return objective(engine.run(request, self.methods, self.screen, self.shared))
            except CompressorError as error:
                self.error = error  # raised at the end: through Hydra it would come with a line of Hydra's own
                return None
            finally:
                if folder.is_dir() and not any(folder.iterdir()):
                    folder.rmdir()  # Hydra made it
        number = int(hydra_config.job.num)
        self.sweep_folder = folder.parent
        self.screen.rule(f"cell {number}: {' '.join(overrides)}")
        result, code = engine.run_cell(
            lambda: compose.to_run_config(cfg, overrides, self.methods),
            overrides,
            folder,
            self.methods,
            self.screen,
            self.shared,
        )
        self.exit_code = self.exit_code or code
        self.cells[folder] = result
        return objective(result)

    def show_cells(self) -> None:
        """Print the table over the cells of a multirun, however many of them ran."""
        if self.cells and self.screen is not None and self.sweep_folder is not None:
            self.screen.cells(self.cells, self.sweep_folder)


def objective(result: RunResult) -> float | None:
    """Return the first metric of the last result candidate: the number that a sweeper may optimise."""
    scored = [c for c in result.candidates if c.role in ("teacher", "result") and c.metrics]
    return next(iter(scored[-1].metrics.values())).value if scored else None
