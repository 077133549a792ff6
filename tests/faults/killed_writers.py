"""kill -9 of processes that write run folders into one place, several at a time."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import killing  # noqa: E402 - found through the line above
from outcome import Outcome  # noqa: E402

from compressor import commit  # noqa: E402

_NAMES = 40  # cells that all writers want to make; a folder that is there is not made again
_NAMED = frozenset(f"cell-{number}" for number in range(_NAMES))
_LONGEST_S = 0.06  # of a writer's life


def write(place: str, acknowledged: str, seed: int) -> None:
    """Make one cell after the other until the end comes; note each that was committed only after it was."""
    rng = random.Random(seed)
    with open(acknowledged, "a", buffering=1) as notes:  # noqa: PTH123 - a line is with the system at once
        while True:
            name = f"cell-{rng.randrange(_NAMES)}"
            final = Path(place) / name
            if commit.is_complete(final):
                continue
            with commit.partial_folder(final, keep_existing=True) as partial:
                (partial / "result.json").write_bytes(name.encode() * rng.randrange(1, 2000))
                (partial / "predictions.bin").write_bytes(os.urandom(rng.randrange(1, 50_000)))
            notes.write(f"{name}\n")


def kill(folder: Path, kills: int, *, writers: int, seed: int = 0) -> Outcome:
    """Keep so many writers at work and kill one after the other; between kills no folder may be half a folder.

    Kept promises are counted per kill: every folder of a cell verifies, what was acknowledged is there, and no cell was made a
    second time, under its name or beside it. Where all cells are made, the place is emptied and the writers begin again.
    """
    rng = random.Random(seed)
    failures: list[str] = []
    kept = era = 0
    seen: dict[str, str] = {}
    place, notes = _place(folder, era)
    at_work = [killing.start(write, str(place), str(notes), rng.random()) for _ in range(writers)]
    for tried in range(kills):
        victim = rng.randrange(writers)
        killing.kill_after(at_work[victim], rng.uniform(0, _LONGEST_S))
        wrong = _what_is_wrong(place, notes, seen)
        kept += not wrong
        failures += wrong
        if sum(1 for _ in place.glob("cell-*")) == _NAMES:
            for process in at_work:
                killing.kill_after(process, 0)
            failures += [f"after the sweep: {left}" for left in _leftovers(place)]
            era, seen = era + 1, {}
            place, notes = _place(folder, era)
            at_work = [killing.start(write, str(place), str(notes), rng.random()) for _ in range(writers)]
        else:
            at_work[victim] = killing.start(write, str(place), str(notes), seed + tried + rng.random())
    for process in at_work:
        killing.kill_after(process, 0)
    failures += _what_is_wrong(place, notes, seen) + [f"after the sweep: {left}" for left in _leftovers(place)]
    word = f"{writers} writer{'s' * (writers > 1)}"
    return Outcome(
        f"run folders under kill -9, {word}: none lost, none half-written, none made twice",
        kills,
        kept,
        tuple(failures),
    )


def _place(folder: Path, era: int) -> tuple[Path, Path]:
    place = folder / f"era-{era}"
    place.mkdir(parents=True)
    return place, folder / f"acknowledged-{era}"


def _what_is_wrong(place: Path, notes: Path, seen: dict[str, str]) -> list[str]:
    """Return what was acknowledged and is not there, what is there and is not whole, and what is another than it was.

    Args:
        place: Where the cells are.
        notes: What was acknowledged.
        seen: The hash of each cell's manifest when it was seen first; no two makings of a cell have the same bytes.
    """
    noted = set(notes.read_text().split()) if notes.exists() else set()
    wrong = [f"{name} was acknowledged and is lost" for name in noted if not (place / name).is_dir()]
    cells = sorted(place.glob("cell-*"))
    wrong += [f"{path.name} is there and not whole" for path in cells if not commit.is_complete(path)]
    now = {path.name: commit.sha256_file(path / commit.MANIFEST) for path in cells}
    wrong += [f"{name} was made twice" for name in now if seen.setdefault(name, now[name]) != now[name]]
    return wrong + [f"{name} is no cell's name" for name in now if name not in _NAMED]


def _leftovers(place: Path) -> list[str]:
    commit.sweep_leftovers(place)
    return [path.name for path in place.glob(".*")]
