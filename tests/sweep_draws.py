"""Draw the next parameter set of a sweep as W&B's server would: `python sweep_draws.py SWEEP.yaml < runs.json`.

W&B's sweep library needs an environment of its own, since its last release is from before NumPy 2. `runs.json` lists what ran,
as `{"config": {NAME: VALUE}, "objective": X}`. Printed is `{NAME: VALUE}`, or `null` when a grid is through; a file that breaks
W&B's schema for sweeps is refused.
"""

import json
import sys
from pathlib import Path

import yaml

import sweeps


def main() -> None:
    """Print the next parameter set."""
    sweep = yaml.safe_load(Path(sys.argv[1]).read_text())
    metric = sweep["metric"]["name"]
    runs = [
        sweeps.SweepRun(
            config={name: {"value": value} for name, value in run["config"].items()},
            state="finished",
            summary_metrics={metric: run["objective"]},
        )
        for run in json.load(sys.stdin)
    ]
    drawn = sweeps.next_run(sweep, runs, validate=True)
    print(json.dumps(None if drawn is None else {name: given["value"] for name, given in drawn.config.items()}))


if __name__ == "__main__":
    main()
