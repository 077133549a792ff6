"""Count the promises of reliability under faults, and print the table; a promise that is not kept makes the exit code 1.

python tests/benchmarks/faults.py                  # every suite in full; killing trainings and sweeps takes by far the longest
python tests/benchmarks/faults.py --share 0.1      # a tenth of the kills
python tests/benchmarks/faults.py --only writers damage
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "faults"))

import damage  # noqa: E402 - found through the line above
import full_disk  # noqa: E402
import hostile_sweep  # noqa: E402
import killed_sweeps  # noqa: E402
import killed_training  # noqa: E402
import killed_writers  # noqa: E402
import lost_tracking  # noqa: E402
import malicious  # noqa: E402
import mutations  # noqa: E402
from outcome import Outcome  # noqa: E402

Suite = Callable[[Path, float], Sequence[Outcome]]


def _count(full: int, share: float) -> int:
    return max(1, round(full * share))


def _full_disk(folder: Path, share: float) -> list[Outcome]:
    if full_disk.namespace() is None:
        return [Outcome("full disk (this system lets nobody mount a small one)", 0, 0)]
    return full_disk.fill(folder)


SUITES: dict[str, Suite] = {
    "training": lambda folder, share: [killed_training.kill(folder, _count(200, share))],
    "damage": lambda folder, share: damage.damage(folder, _count(200, share)),
    "writers": lambda folder, share: [
        killed_writers.kill(folder / str(writers), _count(kills, share), writers=writers)
        for writers, kills in ((1, 333), (2, 333), (8, 334))
    ],
    "disk": _full_disk,
    "sweeps": lambda folder, share: [killed_sweeps.kill(folder, _count(50, share))],
    "hostile": lambda folder, share: [
        hostile_sweep.survive(folder / launcher, launcher, (0, 1) if share > 0.5 else (0,))
        for launcher in hostile_sweep.LAUNCHERS
    ],
    "tracking": lambda folder, share: [lost_tracking.lose(folder)],
    "files": lambda folder, share: [malicious.audit(folder)],
    "options": lambda folder, share: [mutations.refuse(_count(300, share), 0)],
}


def rows(names: Sequence[str], share: float) -> Iterator[Outcome]:
    """Run suites one after the other and yield what each found."""
    for name in names:
        with tempfile.TemporaryDirectory() as place:
            started = time.monotonic()
            found = SUITES[name](Path(place), share)
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        yield from found


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--share", type=float, default=1.0, help="of the full number of kills, flips and options")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print("| promise | tried | kept |", "|---|---|---|", sep="\n")
    broken: list[str] = []
    for found in rows(options.only, options.share):
        print(f"| {found.promise} | {found.tried} | {found.kept} |", flush=True)
        broken += found.failures
    for line in broken[:50]:
        print(f"not kept: {line}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
