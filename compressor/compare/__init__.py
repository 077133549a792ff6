"""What is known and what is noise: intervals, paired tests, three-way verdicts, and the comparison of many runs.

    from compressor.compare import compare, diff, load_runs, pareto, pick

    table = compare(load_runs(["multirun/gallery", "outputs/from_another_machine"]))
    for row in table.rows:
        print(row.label, row.size_bytes.value, row.quality["rotten_tomatoes"].score.value)
    print(pick(table, "smallest", within=1.0).chosen)
    print(diff(table, "distill_6l", "tinybert_6l").quality["rotten_tomatoes"].p_value)

The same on the command line: `python -m compressor.compare --help`. The names are loaded on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compressor.compare.choice import pick
    from compressor.compare.contrast import diff
    from compressor.compare.front import pareto
    from compressor.compare.runs import load_runs
    from compressor.compare.table import compare

_HOMES = {"compare": "table", "diff": "contrast", "load_runs": "runs", "pareto": "front", "pick": "choice"}

__all__ = ["compare", "diff", "load_runs", "pareto", "pick"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"compressor.compare.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'compressor.compare' has no attribute '{name}'")
