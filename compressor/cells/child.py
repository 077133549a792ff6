"""The process of one cell: `python -m compressor.cells.child JOB.json`, started by `compressor.cells.cell`.

Whatever ends it, the parent knows: the run folder stands, or `outcome.json` says what was wrong, or neither.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from compressor.commit import write_json_atomic
from compressor.errors import CompressorError

OUTCOME: Final = "outcome.json"
INTERRUPTED: Final = 130
_PR_SET_PDEATHSIG: Final = 1


def main(argv: list[str]) -> int:
    """Run one cell; return its exit code."""
    path = Path(argv[0])
    job = json.loads(path.read_text(encoding="utf-8"))
    _end_with_parent(job["parent"])
    try:
        _run(job)
    except CompressorError as error:
        print(f"\n{type(error).__name__}: {error}", flush=True)
        code = error.exit_code
        told: dict[str, object] = {"kind": type(error).__name__, "got": error.got}
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # a method's fault of any kind is this cell's end, and the parent is told which
        traceback.print_exc()
        code = 1
        told = {"kind": type(error).__name__, "got": str(error), "memory": _is_memory(error)}
    else:
        return 0
    write_json_atomic(path.with_name(OUTCOME), {**told, "code": code})
    return code


def _run(job: Mapping[str, Any]) -> None:
    from rich.console import Console

    from compressor import compose, engine, registry
    from compressor.quiet import quiet_libraries
    from compressor.report.screen import Screen
    from compressor.training import floors

    quiet_libraries()
    methods = registry.load()
    compose.register(methods)
    overrides = tuple(job["overrides"])
    composed = compose.from_plain(job["config"], methods)
    request = engine.Request(
        config=compose.to_run_config(composed, overrides, methods),
        overrides=overrides,
        folder=Path(job["folder"]),
        in_multirun=True,
        floors=floors.read(Path(job["floors"])),
        tracking=compose.tracking(composed),
    )
    engine.run(request, methods, Screen(Console()))


def _is_memory(error: BaseException) -> bool:
    """Tell whether memory ran out: torch says so in the text of a RuntimeError on a CPU, and by a type of its own on CUDA."""
    told = f"{type(error).__name__}: {error}".lower()
    return (
        isinstance(error, MemoryError)
        or "out of memory" in told
        or "outofmemory" in told
        or "can't allocate memory" in told
    )


def _end_with_parent(parent: int) -> None:
    """Ask Linux for an interrupt when the parent ends, so that what was trained is kept; elsewhere the cell runs on."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before we asked
        raise SystemExit(INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
