"""Where a speed-up comes from: the runtime, and each step of the chain, as far as the cells between were measured too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from compressor.compare.bootstrap import Calls, Loads, both_loads, speed_up
from compressor.compare.statistics import Interval
from compressor.config import EAGER
from compressor.errors import StoreError
from compressor.results import NULL, PADDED, LineageStep

# The same engine on the same device in float32: what is between the two is precision alone.
_IN_FP32: Final = {
    "torch_bf16": "torch",
    "openvino_bf16": "openvino",
    "torch_fp16_cuda": "torch_cuda",
    "torch_bf16_cuda": "torch_cuda",
    "torch_compile_fp16_cuda": "torch_compile_cuda",
    "torch_compile_bf16_cuda": "torch_compile_cuda",
}
# (candidate, runtime) -> nanoseconds, [rounds, loads, blocks, texts]
Cells = Mapping[tuple[str, str], Calls]
Lineages = Mapping[str, Sequence[LineageStep]]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedPart:
    """How many times faster one change alone made it."""

    name: str
    ratio: float
    ci95: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """A candidate's speed-up on one runtime over the teacher in eager torch, and the parts that multiply to it.

    Attributes:
        candidate: The model.
        runtime: Where it is so fast.
        start: The runtime of eager torch: of the CPU, or of a CUDA device where nothing was timed on the CPU.
        padded: Whether the start is the teacher on texts padded to the longest that the task takes.
        total: The whole.
        parts: Padding, runtime, precision and the chain.
    """

    candidate: str
    runtime: str
    start: str
    padded: bool
    total: SpeedPart
    parts: tuple[SpeedPart, ...]


def read_cells(folder: Path) -> Cells:
    """Read the raw samples of a run folder, `timings/<runtime>.parquet`; empty where nothing was timed.

    Raises:
        StoreError: A file is damaged, or calls are missing from it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    cells = {}
    for path in sorted((folder / "timings").glob("*.parquet")):
        try:
            table = pq.read_table(path)
            names = np.asarray(table["candidate"].to_pylist())
            places = [np.asarray(table[column], np.int64) for column in ("round", "load", "block", "text")]
            ns = np.asarray(table["ns"], np.int64)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise StoreError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
        shape = tuple(int(place.max()) + 1 for place in places)
        for name in dict.fromkeys(names.tolist()):
            mine = names == name
            samples = np.zeros(shape, np.int64)
            samples[tuple(place[mine] for place in places)] = ns[mine]
            if not (samples > 0).all():
                raise StoreError(f"{path} lacks calls of '{name}'")
            cells[str(name), path.stem] = samples
    return cells


def attribute(
    candidate: str, runtime: str, lineages: Lineages, cells: Cells, *, teacher: str, seed: int
) -> Attribution | None:
    """Split the speed-up of a candidate over the teacher in eager torch.

    Where the teacher was timed on padded texts too (`bench.padded`), that is the start, and not padding the first part. Then
    comes the runtime: the teacher there against the teacher in eager torch. Where the runtime computes in half
    precision and its float32 sibling was timed too, that is two parts, the sibling and the precision. Then comes one part for
    each stretch of the candidate's chain that ends in a model which was timed there as well, such as the baseline `distill` of
    the chain `[distill,int8_onnx]`; steps between two such models share a part. All cells come from one interleaved experiment.
    Each part and the total are estimates of their own, so that the parts multiply to the total within about a hundredth.

    Returns:
        None where the teacher was not timed in eager torch or on this runtime, or the candidate not on this runtime.
    """
    start = next((name for name in EAGER if (teacher, name) in cells), None)
    loads = _by_loads(cells, teacher)
    there, end = loads.get((teacher, runtime)), loads.get((candidate, runtime))
    if start is None or there is None or end is None:
        return None
    parts = []
    plain = loads[teacher, start]
    begun = loads.get((PADDED, start), plain)
    if begun is not plain:
        parts.append(_part("no padding", plain, begun, seed))
    fp32 = _IN_FP32.get(runtime, runtime)
    if fp32 != runtime and (teacher, fp32) not in cells:
        fp32 = runtime
    if fp32 != start:
        parts.append(_part(f"runtime {fp32}", loads[teacher, fp32], plain, seed))
    if fp32 != runtime:
        parts.append(_part(f"precision {runtime}", there, loads[teacher, fp32], seed))
    before, done = there, 0
    for length, name in _way(candidate, runtime, lineages, cells):
        steps = lineages[candidate][done:length]
        parts.append(_part(" + ".join(step.method for step in steps), loads[name, runtime], before, seed))
        before, done = loads[name, runtime], length
    return Attribution(
        candidate=candidate,
        runtime=runtime,
        start=start,
        padded=begun is not plain,
        total=_part("total", end, begun, seed),
        parts=tuple(parts),
    )


def _by_loads(cells: Cells, teacher: str) -> dict[tuple[str, str], Loads]:
    """Return each cell's calls, the teacher's of both its loads."""
    return {
        (model, runtime): both_loads(ns, cells.get((NULL, runtime)) if model == teacher else None)
        for (model, runtime), ns in cells.items()
    }


def _way(candidate: str, runtime: str, lineages: Lineages, cells: Cells) -> list[tuple[int, str]]:
    """Return the timed models whose chains begin the candidate's, with the length of their chains, shortest first."""
    whole = [(step.method, dict(step.config)) for step in lineages[candidate]]
    found: dict[int, str] = {}
    for name, steps in lineages.items():
        chain = [(step.method, dict(step.config)) for step in steps]
        if 0 < len(chain) < len(whole) and chain == whole[: len(chain)] and (name, runtime) in cells:
            found.setdefault(len(chain), name)
    return [*sorted(found.items()), (len(whole), candidate)]


def _part(name: str, ours: Loads, theirs: Loads, seed: int) -> SpeedPart:
    found = speed_up(ours, theirs, seed=seed)
    return SpeedPart(name=name, ratio=found.ratio, ci95=found.ci95)
