"""The measuring process: `python -m compressor.measure.worker JOB.json`, started by `processes.run_worker`.

It is told everything by the job file, writes `result.json` into the job's folder, and dies with its parent.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.commit import write_json_atomic
from compressor.errors import CompressorError
from compressor.telemetry import silence

if TYPE_CHECKING:
    from compressor.runtimes.base import Session

_KINDS = {
    "score": "compressor.measure.score_job",
    "latency": "compressor.measure.latency_job",
    "memory": "compressor.measure.memory_job",
    "cuda_energy": "compressor.measure.cuda_energy_job",
}
_PR_SET_PDEATHSIG = 1
_LARGEST_FILE = 1 << 28  # bytes


def main(argv: list[str]) -> int:
    """Do one job; return 0 only after its result is on disk."""
    job = json.loads(Path(argv[0]).read_text(encoding="utf-8"))
    out = Path(job["out"])
    _die_with_parent(job.get("parent"))
    silence()
    if job.get("talk") is not None:
        _cap_files()
    if job.get("cores"):
        os.sched_setaffinity(0, job["cores"])  # before a library counts the cores
    try:
        run: Callable[[Mapping[str, Any], Path], dict[str, Any]] = import_module(_KINDS[job["kind"]]).run
        answer = run(job, out)
    except CompressorError as error:
        traceback.print_exc()
        answer = {
            "error": {"type": type(error).__name__, "got": error.got, "allowed": error.allowed, "hint": error.hint}
        }
    write_json_atomic(out / "result.json", answer)
    return 0


def _die_with_parent(parent: int | None) -> None:
    """Ask Linux for SIGKILL when the parent ends; elsewhere the timeout has to do."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:  # it ended before we asked
        os._exit(1)


def _cap_files() -> None:
    """Bound what a flood of output, which goes straight into a file, may fill of the disk."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    allowed = _LARGEST_FILE if most == resource.RLIM_INFINITY else min(_LARGEST_FILE, most)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, most))


def opener(job: Mapping[str, Any]) -> Callable[[Path], Any]:
    """Return the function that re-loads an artifact: `compressor.store.load` unless the job names another."""
    module, _, function = job["opener"].partition(":")
    loaded: Callable[[Path], Any] = getattr(import_module(module), function)
    return loaded


def opened(job: Mapping[str, Any]) -> Session:
    """Load the job's model into the job's runtime."""
    from compressor.artifact import Form
    from compressor.runtimes import RUNTIMES

    def open_model(folder: Path) -> Any:
        return opener(job)(folder).model

    runtime, folder = RUNTIMES[job["runtime"]], Path(job["folder"])
    return runtime.load(folder, Form(job["form"]), job["threads"], open_model=open_model)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
