"""The raw samples of a latency experiment on disk, so that any statistic can be computed again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from compressor.measure.latency import LatencyResult
from compressor.results import NULL, PADDED


def write_samples(result: LatencyResult, path: Path) -> None:
    """Write one row a call: candidate, round, load, block, text, ns; the controls under their own names.

    Loads are numbered over all attempts at a round that count.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, list[Any]] = {"candidate": [], "round": [], "load": [], "block": [], "text": [], "ns": []}
    controls = {NULL: result.null, PADDED: result.padded}
    arms = {**result.timed, **{name: samples for name, samples in controls.items() if samples is not None}}
    for name, samples in arms.items():
        values = samples.samples_ns
        rows["candidate"] += [name] * values.size
        for column, numbers in zip(("round", "load", "block", "text"), np.indices(values.shape), strict=True):
            rows[column] += numbers.ravel().tolist()
        rows["ns"] += values.ravel().tolist()
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(rows), path)
