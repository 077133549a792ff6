"""The command line: help, Hydra, one run or many, and an exit code that means something."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from compressor import __version__
from compressor.errors import CompressorError

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
    import hydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from compressor import compose, registry

    methods = registry.load()
    for error in methods.broken.values():
        print(f"warning: {error}", file=sys.stderr)
    compose.register(methods)
    outcome = {"code": 0}

    def job(cfg: DictConfig) -> float | None:
        code, objective = run_job(cfg, methods)
        outcome["code"] = outcome["code"] or code
        return objective

    entry = hydra.main(version_base="1.3", config_path=str(compose.conf_folder()), config_name="config")(job)
    try:
        entry()
    except (HydraException, OmegaConfBaseException) as error:
        raise compose.explain(error) from error
    return outcome["code"]
