"""The process that opens malicious files: each by the way a user would, under an audit hook that records what must not happen.

`python watched.py CASES RESULTS`: both are JSON, a line each for what was started and how it ended, so that a process that dies
tells on what.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any, Final, NoReturn

MARK: Final = "canary"  # in all code that a file brings along
CPU_S: Final = 15.0  # of one case; the promise is five seconds on an idle machine
WALL_S: Final = 90.0
MEMORY: Final = 2_000_000_000  # bytes beside what the libraries take
_STARTS: Final = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.forkpty",
    "os.startfile",
    "pty.spawn",
)
_CONNECTS: Final = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request")
_CHANGES: Final = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod")


class TookTooLong(BaseException):
    """More processor time than a refusal may cost; no library's `except Exception` holds it up."""


class Watch:
    """The audit hook: what happened that must not, while it is on.

    Args:
        cases: The folder whose code must not run.
        free: The folders that may be written to.
    """

    def __init__(self, cases: str, free: tuple[str, ...]) -> None:
        self._cases, self._free = cases, free
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hear)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        self.on = False  # what is done here is no event
        try:
            told = self._judge(event, arguments)
        finally:
            self.on = True
        if told:
            self.seen.append(f"{event} {told}"[:200])
            if event in _CONNECTS:
                raise ConnectionError("no connections here")

    def _judge(self, event: str, arguments: tuple[Any, ...]) -> str:
        if event in _STARTS or event in _CONNECTS or event in ("pickle.find_class", "code.__new__", "marshal.loads"):
            return " ".join(map(str, arguments)) if event != "marshal.loads" or _marked(arguments[0]) else ""
        if event == "exec" and isinstance(arguments[0], CodeType):
            code = arguments[0]
            return code.co_filename if self._foreign(code.co_filename) or MARK in repr(code.co_consts) else ""
        if event in ("compile", "import", "ctypes.dlopen"):
            return str(arguments)[:120] if any(map(_marked, arguments)) or any(map(self._foreign, arguments)) else ""
        if event == "open":
            path, mode, flags = arguments
            writes = (
                flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
                if isinstance(flags, int)
                else set(mode or "") & set("wax+")
            )
            return str(path) if writes and self._forbidden(path) else ""
        if event in _CHANGES:
            return (
                str(arguments)
                if any(self._forbidden(path) for path in arguments[:2] if isinstance(path, (str, bytes, Path)))
                else ""
            )
        return ""

    def _foreign(self, name: object) -> bool:
        return isinstance(name, (str, bytes, Path)) and os.path.abspath(os.fsdecode(name)).startswith(self._cases)  # noqa: PTH100

    def _forbidden(self, path: object) -> bool:
        if not isinstance(path, (str, bytes, Path)) or os.fsdecode(path) in (os.devnull, "/dev/tty"):
            return False
        return not os.path.abspath(os.fsdecode(path)).startswith(self._free)  # noqa: PTH100 - no links are followed


def _marked(value: object) -> bool:
    return MARK in value if isinstance(value, str) else MARK.encode() in value if isinstance(value, bytes) else False


def main(cases: Path, results: Path) -> None:
    """Open each case and write how it ended."""
    asked = json.loads(cases.read_text())
    outside = Path(asked["outside"])
    with results.open("a", buffering=1) as told:
        watch = Watch(asked["cases_folder"], tuple(asked["free"]))
        if asked["control"]:
            _control(asked["items"], watch, outside, told)
            return
        for way, path in asked["innocent"].items():
            WAYS[way](Path(path))  # reads in every library, whose own start is nothing to record
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        signal.signal(signal.SIGPROF, _too_long)
        for item in asked["items"]:
            told.write(json.dumps({"start": item["name"]}) + "\n")
            faulthandler.dump_traceback_later(WALL_S, exit=True)
            before = set(os.listdir(outside))  # noqa: PTH208
            signal.setitimer(signal.ITIMER_PROF, CPU_S)
            watch.seen, watch.on = [], True
            end = _open(WAYS[item["way"]], Path(item["path"]))
            watch.on = False
            signal.setitimer(signal.ITIMER_PROF, 0)
            made = sorted(set(os.listdir(outside)) - before)  # noqa: PTH208
            told.write(json.dumps({"name": item["name"], "end": end, "seen": [*watch.seen, *made]}) + "\n")
        faulthandler.cancel_dump_traceback_later()


def _too_long(*_: object) -> NoReturn:
    raise TookTooLong


def _open(way: Callable[[Path], None], path: Path) -> str:
    from compressor.errors import CompressorError

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            way(path)
    except CompressorError as error:
        return f"refused: {type(error).__name__}: {error.got}"[:400]
    except SystemExit as error:
        return f"refused: exit code {error.code}" if error.code else "harmless"
    except TookTooLong:
        return f"took more than {CPU_S} s of a processor"
    except BaseException as error:
        return f"{type(error).__name__} is no error of ours: {error}"[:400]
    return "harmless"


def _control(items: list[dict[str, str]], watch: Watch, outside: Path, told: io.TextIOBase) -> None:
    """Load pickles as nobody should."""
    import pickle

    for item in items:
        watch.seen, watch.on = [], True
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            pickle.loads(Path(item["path"]).read_bytes())
        watch.on = False
        told.write(json.dumps({"name": item["name"], "end": "", "seen": watch.seen}) + "\n")


def _model(path: Path) -> None:
    from compressor import store

    store.load(path)


def _toy_task() -> Any:
    from compressor.config import TaskConfig
    from compressor.tasks import build_task

    return build_task(TaskConfig(name="toy", max_length=32), ("bad", "good"))


def _teacher(path: Path) -> None:
    from compressor import pretrained
    from compressor.teacher import checkpoint_blueprint

    task = _toy_task()
    checkpoint_blueprint(str(path), task)  # as the engine does it before anything is spent
    pretrained.load(str(path), task)


def _allowed(path: Path) -> None:
    """Load a teacher whose user allowed pickles."""
    from compressor import pretrained
    from compressor.teacher import checkpoint_blueprint

    checkpoint_blueprint(str(path), _toy_task(), allow_pickle=True)
    pretrained.load(str(path), _toy_task(), allow_pickle=True)


def _runtime(path: Path) -> None:
    import numpy as np

    from compressor import store
    from compressor.runtimes import runtime_for

    artifact = store.load(path)
    with runtime_for(artifact.form).load(path, artifact.form, 1, open_model=lambda f: store.load(f).model) as session:
        session.run({name: np.ones((1, 4), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")})


def _compare(path: Path) -> None:
    """Print and write every form of the comparison; what would act on its reader is an error."""
    from compressor import comparing

    pages = Path(os.environ["TMPDIR"])
    for form in ("terminal", "markdown", "csv", "json", "html"):
        page = pages / f"page.{form}"
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            comparing.main(
                [str(path), "--verify", "--format", form, *(["--out", str(page)] if form != "terminal" else [])]
            )
        text = printed.getvalue() if form == "terminal" else page.read_text()
        cells = [cell.strip('"') for line in text.splitlines() for cell in line.split(",")] if form == "csv" else []
        if (
            "\x1b" in text
            or "\x00" in text
            or (form in ("html", "markdown") and ("<script>alert" in text or "<img src=x" in text))
        ):
            raise RuntimeError(f"{form}: markup or escapes of a name are in it")
        if any(cell.startswith(("=", "@")) for cell in cells):
            raise RuntimeError("csv: a cell is a formula")


def _tracking(path: Path) -> None:
    """Read what a mirror would send."""
    from compressor import tracking
    from compressor.compare.runs import load_runs

    for run in load_runs([path], verify=True).runs:
        tracking.config_of(run)
        list(tracking.history(run))
        tracking.summary(run.result)
        tracking.table(run.result)


def _task(path: Path) -> None:
    from compressor.config import TaskConfig
    from compressor.tasks.data import load_task

    load_task(TaskConfig(name="toy", source="file", train=str(path), max_length=32))


def _unlabelled(path: Path) -> None:
    from compressor.config import TaskConfig
    from compressor.tasks.sources import read_texts

    read_texts(TaskConfig(name="toy", source="file", train="unread.csv", unlabelled=str(path)))


def _hub(path: Path) -> None:
    from compressor.config import TaskConfig
    from compressor.tasks.data import load_task

    load_task(TaskConfig(name="toy", source="hub", dataset=str(path), max_length=32))


def _stage(path: Path) -> None:
    """Look for a checkpoint to go on from, as training does."""
    import logging

    from compressor.training.checkpoint import Checkpoints

    Checkpoints(path, {}, logging.getLogger("stage")).newest()


def _runs(path: Path) -> None:
    """Load a pickle as nobody should: what the watcher must notice."""
    import pickle

    pickle.loads(path.read_bytes())


def _dies(path: Path) -> None:
    """End as a parser that overruns its stack does."""
    os.kill(os.getpid(), signal.SIGSEGV)


WAYS: Final[dict[str, Callable[[Path], None]]] = {
    "model": _model, "teacher": _teacher, "allowed": _allowed, "runtime": _runtime, "compare": _compare,
    "tracking": _tracking, "task": _task, "unlabelled": _unlabelled, "hub": _hub, "stage": _stage, "runs": _runs, "dies": _dies,
}  # fmt: skip

if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
