"""Malicious files and folders, opened as a user opens them, by a process that an audit hook watches.

Kept is the promise where a file is refused with an error of ours, or loaded without what it asks for where that is right. One
that runs something, writes elsewhere, asks for a connection, or ends in an error that is not ours breaks it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gadgets import gadgets
from lairs import EITHER, Case, Lair
from malicious_data import every_file
from malicious_models import every_model
from outcome import Outcome

PROMISE = "a file that is opened runs nothing, writes nowhere else and asks for no connection"
TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a case ended, and what the hook saw."""

    end: str
    seen: tuple[str, ...] = ()


def audit(folder: Path) -> Outcome:
    """Make every case in an empty folder and open each."""
    lair = Lair(folder)
    lair.prepare()
    every_model(lair)
    every_file(lair)
    before = _snapshot(folder / "cases")
    ends = watch(lair, lair.cases)
    changed = [f"after all: {path} was changed" for path in sorted(before ^ _snapshot(folder / "cases"))]
    left = [f"after all: {path.name} lies outside" for path in sorted(lair.outside.iterdir())]
    bad = [told for case in lair.cases if (told := fault(case, ends[case.name]))]
    return Outcome(
        promise=PROMISE, tried=len(lair.cases), kept=len(lair.cases) - len(bad), failures=(*bad, *changed, *left)
    )


def fault(case: Case, found: End) -> str:
    """Return how a case broke the promise; nothing where it was kept."""
    if found.seen:
        return f"{case.name}: {'; '.join(found.seen[:3])} ({found.end})"
    word = found.end.partition(":")[0]
    if word not in ("refused", "harmless") or case.right not in (word, EITHER):
        return f"{case.name}: {found.end}"
    return ""


def watch(lair: Lair, cases: Sequence[Case]) -> dict[str, End]:
    """Open cases in one process, and in another what is left when it dies of one."""
    ends: dict[str, End] = {}
    while left := [case for case in cases if case.name not in ends]:
        code, lines = _child(lair, left)
        ends |= {line["name"]: End(end=line["end"], seen=tuple(line["seen"])) for line in lines if "name" in line}
        started = [line["start"] for line in lines if "start" in line]
        if code == 0 and all(case.name in ends for case in left):
            break
        if not started or started[-1] in ends:
            raise RuntimeError(
                f"the watched process ended with {code} outside of any case; see {lair.place / 'child.txt'}"
            )
        ends[started[-1]] = End(end=f"the process died with code {code}")
    return ends


def control(folder: Path) -> Mapping[str, tuple[bool | None, tuple[str, ...]]]:
    """Load each gadget with plain pickle; return whether its canary is there (None: it makes none), and what the hook saw."""
    lair = Lair(folder)
    lair.outside.mkdir(parents=True)
    known = gadgets(lair.outside)
    cases = []
    for number, gadget in enumerate(known):
        path = folder / f"{number}.pkl"
        path.write_bytes(gadget.payload)
        cases.append(Case(name=gadget.name, way="control", path=path))
    _, lines = _child(lair, cases, control=True)
    seen = {line["name"]: tuple(line["seen"]) for line in lines}
    return {g.name: (g.canary and os.path.lexists(g.canary), seen.get(g.name, ())) for g in known}  # noqa: PTH110 - links too


def _child(lair: Lair, cases: Sequence[Case], *, control: bool = False) -> tuple[int, list[dict[str, object]]]:
    """Run the watched process; return its exit code and what it wrote."""
    cache, results = lair.place / "cache", lair.place / "results.jsonl"
    (cache / "tmp").mkdir(parents=True, exist_ok=True)
    asked = {
        "cases_folder": str(lair.place / "cases"),
        "outside": str(lair.outside),
        "free": [f"{cache}{os.sep}"],
        "innocent": {} if control else lair.innocent(),
        "control": control,
        "items": [{"name": case.name, "way": case.way, "path": str(case.path)} for case in cases],
    }
    (lair.place / "asked.json").write_text(json.dumps(asked))
    results.write_text("")
    places = {name: str(cache) for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "COMPRESSOR_CACHE")}
    # Offline is not set: a library that would ask for a connection is to be heard asking.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | places
    environment |= {
        "TMPDIR": str(cache / "tmp"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(cache / "inductor"),
    }
    command = [
        sys.executable,
        str(Path(__file__).with_name("watched.py")),
        str(lair.place / "asked.json"),
        str(results),
    ]
    with (lair.place / "child.txt").open("a") as said:
        ended = subprocess.run(
            command, env=environment, cwd=cache, stdout=said, stderr=said, timeout=TIMEOUT_S, check=False
        )
    return ended.returncode, [json.loads(line) for line in results.read_text().splitlines()]


def _snapshot(folder: Path) -> set[tuple[str, int, int]]:
    """Return every file below with its size and time; links are not followed."""
    return {
        (str(p), p.lstat().st_size, p.lstat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_symlink() or not p.is_dir()
    }
