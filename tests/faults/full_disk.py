"""A disk that is full at six sizes, under a checkpoint, an export, a result and a comparison.

The disk is a tmpfs in a mount namespace of a child process, and what fills it is a file of somebody else. It comes before the
work, or with the work's first file: then whoever looked at the free space before has seen enough, and the write itself fails.
`python tests/faults/full_disk.py` prints what was found.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from outcome import Outcome  # noqa: E402 - found through the lines above

SHARES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.999)  # of the bytes that the whole write takes; the last lacks one block
BLOCK = 4096  # of a tmpfs
DISK_MB = 64  # of memory at most, most of it never touched
FILLER = "of-somebody-else"
NAMESPACES = (["unshare", "--mount"], ["unshare", "--user", "--map-root-user", "--mount"])
MESSAGE = re.compile(r"needed: (more than )?[\d,]+ bytes, free: [\d,]+ bytes")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A write that is to fail: `write(n)` makes version n, `stands(n)` raises unless it is whole, `path` names the n-th."""

    promise: str
    write: Callable[[int], None]
    stands: Callable[[int], None]
    path: Callable[[int], Path]
    replaces: bool = False  # version n stands in the place of the one before


def namespace() -> list[str] | None:
    """Return the command that gives a child a mount namespace; None where the system allows none."""
    with tempfile.TemporaryDirectory() as place:
        for command in NAMESPACES:
            with suppress(OSError):
                probe = [*command, "mount", "-t", "tmpfs", "tmpfs", place]
                if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
                    return command
    return None


def fill(folder: Path) -> list[Outcome]:
    """Let every write fail at every size, in a child with a small disk; raise where the system allows none."""
    command = namespace()
    if command is None:
        raise RuntimeError("this system lets nobody mount a small disk of its own")
    disk, found = folder / "disk", folder / "found.json"
    disk.mkdir(parents=True)
    child = [*command, sys.executable, "-W", "ignore", __file__, str(disk), str(found)]
    ended = subprocess.run(child, capture_output=True, text=True, timeout=500, check=False)
    if ended.returncode != 0:
        raise RuntimeError(ended.stdout + ended.stderr)
    return [Outcome(**{**one, "failures": tuple(one["failures"])}) for one in json.loads(found.read_text())]


def _checkpoint(disk: Path) -> Work:
    import torch

    from compressor.training.checkpoint import Checkpoints, Snapshot

    stage = Checkpoints(disk / "stage", {"model": "a"}, logging.getLogger("faults"))

    def write(n: int) -> None:
        torch.manual_seed(n)
        sizes = {"model": 60_000, "optimizer": 120_000, "rng": 1_200}
        parts = {part: {"one": torch.randn(size), "two": torch.randn(size // 3)} for part, size in sizes.items()}
        stage.write(Snapshot(parts=parts, facts={"step": n, "epoch": 0, "history": [0.5] * 2000}))

    def stands(n: int) -> None:
        found = stage.newest()
        assert found is not None and found.facts["step"] == n, "another checkpoint is taken for the newest"

    return Work(promise="checkpoint", write=write, stands=stands, path=lambda n: disk / f"stage/step-{n:09}-epoch-0000")


def _export(disk: Path) -> Work:
    import torch

    from compressor import store
    from compressor.artifact import CompressedModel, Form, Head
    from compressor.testing.tiny import tiny_bert, tiny_tokenizer

    def write(n: int) -> None:
        torch.manual_seed(n)
        model, head = tiny_bert(layers=4), Head(task_type="classification", label_names=("bad", "good"))
        store.save(
            CompressedModel(form=Form.torch, config=model.config, tokenizer=tiny_tokenizer(), head=head, module=model),
            disk / f"exported-{n}",
        )

    return Work(
        promise="export",
        write=write,
        stands=lambda n: None if store.load(disk / f"exported-{n}").model is not None else None,
        path=lambda n: disk / f"exported-{n}",
    )


def _result(disk: Path) -> Work:
    from test_results import make_result

    from compressor.results import RunResult
    from compressor.runfolder import RunFolder

    def write(n: int) -> None:
        with RunFolder(disk / f"run-{n}") as folder:
            folder.write_yaml("run.yaml", {"overrides": ["method=distill"] * 500})
            folder.write_result(make_result(seed=n), ["method=distill"])
            folder.commit()

    def stands(n: int) -> None:
        assert RunResult.from_json(json.loads((disk / f"run-{n}/result.json").read_text())).seed == n

    return Work(promise="result and report", write=write, stands=stands, path=lambda n: disk / f"run-{n}")


def _comparison(disk: Path) -> Work:
    from rich.console import Console
    from run_folders import Model, write_run

    from compressor.report.screen import Screen

    for n in range(42):
        model = Model(right=300 + n, methods=((f"method_{n}", {}),))
        write_run(disk / f"sweep/{n}", model, predictions=False)
    screen, sweep = Screen(Console(file=Path(os.devnull).open("w"))), disk / "sweep"  # noqa: SIM115 - ends with us

    def write(n: int) -> None:
        screen.cells({sweep / str(cell): "ok" for cell in range(42 + n % 2)}, sweep)  # the last of 43 left no record

    def stands(n: int) -> None:
        assert f"{42 + n % 2} folders" in (sweep / "comparison.md").read_text(), "another comparison is found"

    return Work(promise="comparison", write=write, stands=stands, path=lambda n: sweep / "comparison.md", replaces=True)


class _Disk:
    """The small disk, and somebody who takes all of it but a rest."""

    def __init__(self, place: Path) -> None:
        self.place, self._room, self._armed = place, 0, False
        sys.addaudithook(self._hear)

    def used(self) -> int:
        """Return the bytes that are taken."""
        return shutil.disk_usage(self.place).used

    def take(self, room: int) -> None:
        """Leave `room` bytes."""
        with (self.place / FILLER).open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, max(BLOCK, shutil.disk_usage(self.place).free - room))

    @contextmanager
    def crowded(self, room: int, *, before: bool) -> Iterator[None]:
        """Lend the disk with `room` bytes free: before the work begins, or when it makes its first file or folder."""
        self._room, self._armed = room, not before
        try:
            if before:
                self.take(room)
            yield
        finally:
            self._armed = False
            (self.place / FILLER).unlink(missing_ok=True)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._armed or not arguments or not str(arguments[0]).startswith(str(self.place)):
            return
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or (event == "os.mkdir" and ".partial-" in str(arguments[0])):
            self._armed = False
            self.take(self._room)


def _suite(work: Work, disk: _Disk) -> Outcome:
    """Let one write fail at every size; after each failure the space is freed and the same write must succeed."""
    work.write(0)
    used = disk.used()
    work.write(1)
    whole = max(disk.used() - used, work.path(1).stat().st_size if work.replaces else 0)
    failures, version, tried = [], 1, 0
    for before in (False, True):
        for share in SHARES:
            tried += 1
            wrong = _once(work, disk, version, int(share * whole), before=before)
            failures += [f"{work.promise}, {share:.0%} of {whole:,} bytes, {before=}: {what}" for what in wrong[:1]]
            version += 1
    return Outcome(f"disk full: {work.promise}", tried, tried - len(failures), tuple(failures))


def _once(work: Work, disk: _Disk, version: int, room: int, *, before: bool) -> list[str]:
    from compressor.errors import StoreError

    wrong = []
    old, new = work.path(version), work.path(version + 1)
    held = _content(old)
    try:
        with disk.crowded(room, before=before):
            work.write(version + 1)
        wrong.append("a write beyond the disk ended well")
    except StoreError as error:
        if not MESSAGE.search(str(error)) or new.name not in str(error).replace("\\", ""):
            wrong.append(f"the message says too little: {error}")
    except Exception as error:  # whatever it is, it is not the error that was promised
        wrong.append(f"{type(error).__name__} instead of a StoreError: {error}")
    if _content(old) != held:
        wrong.append(f"{old.name} was damaged")
    try:
        work.stands(version)
    except Exception as error:
        wrong.append(f"{old.name} is not taken any more: {type(error).__name__}: {error}")
    if not work.replaces and new.exists():
        wrong.append(f"{new.name} stands half-made")
    if left := [path.name for path in old.parent.iterdir() if ".partial-" in path.name]:
        wrong.append(f"left over: {left}")
    try:
        work.write(version + 1)
        work.stands(version + 1)
    except Exception as error:
        wrong.append(f"with the space free again: {type(error).__name__}: {error}")
    return wrong


def _content(path: Path) -> dict[str, str]:
    from compressor import commit

    if path.is_dir():
        commit.verify(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def _child(place: Path, found: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(place)], check=True)
    disk = _Disk(place)
    outcomes = [_suite(make(place), disk) for make in (_checkpoint, _export, _result, _comparison)]
    found.write_text(json.dumps([asdict(one) for one in outcomes]))


if __name__ == "__main__":
    if sys.argv[1:]:
        _child(Path(sys.argv[1]), Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as place:
            for one in fill(Path(place)):
                print(one.promise, f"{one.kept}/{one.tried}", *one.failures, sep="\n  ")
