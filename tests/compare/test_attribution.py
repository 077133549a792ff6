"""A speed-up whose parts are known comes apart into them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressor.compare.attribution import attribute, read_cells
from compressor.errors import StoreError
from compressor.results import NULL, PADDED, LineageStep


def step(method: str, **config) -> LineageStep:
    return LineageStep(method=method, distribution="d", version="0", config=config, seconds=1.0)


DISTILL, INT8 = step("distill", temperature=2.0), step("int8_onnx")
LINEAGES = {"teacher": [], "distill": [DISTILL], "distill+int8_onnx": [DISTILL, INT8], "other": [step("distill")]}


def samples(speed: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (np.linspace(5e6, 2e7, 20) * rng.lognormal(0, 0.01, (1, 12, 20)) / speed).astype(np.int64)


SPEEDS = {
    ("teacher", "torch"): 1.0,
    ("teacher", "onnxruntime"): 1.9,
    ("distill", "onnxruntime"): 1.9 * 2.0,
    ("other", "onnxruntime"): 1.9 * 3.0,
    ("distill+int8_onnx", "onnxruntime"): 1.9 * 2.0 * 2.2,
}
CELLS = {cell: samples(speed, i) for i, (cell, speed) in enumerate(SPEEDS.items())}


def split(cells=CELLS, runtime: str = "onnxruntime", candidate: str = "distill+int8_onnx"):
    return attribute(candidate, runtime, LINEAGES, cells, teacher="teacher", seed=0)


def test_runtime_and_each_step_have_their_part() -> None:
    found = split()
    assert [p.name for p in found.parts] == ["runtime onnxruntime", "distill", "int8_onnx"]
    assert [p.ratio for p in found.parts] == pytest.approx([1.9, 2.0, 2.2], rel=0.01)
    assert found.total.ratio == pytest.approx(1.9 * 2.0 * 2.2, rel=0.01)
    assert np.prod([p.ratio for p in found.parts]) == pytest.approx(found.total.ratio, rel=0.01)
    assert all(p.ci95.low < p.ratio < p.ci95.high for p in (found.total, *found.parts))


def test_steps_between_which_nothing_was_timed_share_a_part() -> None:
    cells = {cell: ns for cell, ns in CELLS.items() if cell[0] != "distill"}
    found = split(cells)
    assert [p.name for p in found.parts] == ["runtime onnxruntime", "distill + int8_onnx"]
    assert found.parts[1].ratio == pytest.approx(4.4, rel=0.01)


def test_in_eager_torch_there_is_no_part_of_a_runtime() -> None:
    cells = {**CELLS, ("distill", "torch"): samples(2.0, 9)}
    found = split(cells, "torch", "distill")
    assert [p.name for p in found.parts] == ["distill"] and found.parts[0].ratio == found.total.ratio


def test_half_precision_has_a_part_of_its_own_where_float32_was_timed_on_the_same_engine() -> None:
    speeds = {("teacher", "torch_cuda"): 1.0, ("teacher", "torch_compile_cuda"): 1.4}
    speeds |= {
        ("teacher", "torch_compile_fp16_cuda"): 1.4 * 2.5,
        ("distill", "torch_compile_fp16_cuda"): 1.4 * 2.5 * 1.9,
    }
    cells = {cell: samples(speed, i) for i, (cell, speed) in enumerate(speeds.items())}
    found = split(cells, "torch_compile_fp16_cuda", "distill")
    assert found.start == "torch_cuda"
    names = ["runtime torch_compile_cuda", "precision torch_compile_fp16_cuda", "distill"]
    assert [p.name for p in found.parts] == names
    assert [p.ratio for p in found.parts] == pytest.approx([1.4, 2.5, 1.9], rel=0.01)
    del cells["teacher", "torch_compile_cuda"]
    assert [p.name for p in split(cells, "torch_compile_fp16_cuda", "distill").parts] == [
        "runtime torch_compile_fp16_cuda",
        "distill",
    ]


def test_not_padding_has_a_part_where_the_teacher_was_timed_padded() -> None:
    found = split({**CELLS, (PADDED, "torch"): samples(0.4, 9)})
    assert found.padded and not split().padded
    assert [p.name for p in found.parts] == ["no padding", "runtime onnxruntime", "distill", "int8_onnx"]
    assert [p.ratio for p in found.parts] == pytest.approx([2.5, 1.9, 2.0, 2.2], rel=0.01)
    assert found.total.ratio == pytest.approx(2.5 * 1.9 * 2.0 * 2.2, rel=0.01)


def test_where_the_teacher_was_loaded_twice_every_part_is_taken_to_both_loads() -> None:
    once, twice = split(), split({**CELLS, (NULL, "torch"): samples(1.21, 9), (NULL, "onnxruntime"): samples(1.9, 10)})
    assert [p.ratio for p in twice.parts] == pytest.approx([1.9 / 1.1, 2.0, 2.2], rel=0.01)
    assert twice.total.ratio == pytest.approx(once.total.ratio / 1.1, rel=0.01)


@pytest.mark.parametrize(
    "missing", [("teacher", "torch"), ("teacher", "onnxruntime"), ("distill+int8_onnx", "onnxruntime")]
)
def test_without_an_end_nothing_is_said(missing) -> None:
    assert split({cell: ns for cell, ns in CELLS.items() if cell != missing}) is None


def write(folder: Path, rows: list[tuple]) -> None:
    (folder / "timings").mkdir()
    names = ("candidate", "round", "load", "block", "text", "ns")
    pq.write_table(
        pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))), folder / "timings" / "torch.parquet"
    )


def test_cells_are_read_back_in_any_order(tmp_path: Path) -> None:
    rows = [
        (n, r, 0, b, t, 1000 * r + 100 * b + 10 * t + 1)
        for n in "ab"
        for r in range(2)
        for b in range(3)
        for t in range(4)
    ]
    write(tmp_path, rows[::-1])
    found = read_cells(tmp_path)
    assert set(found) == {("a", "torch"), ("b", "torch")}
    assert found["a", "torch"].shape == (2, 1, 3, 4) and found["a", "torch"][1, 0, 2, 3] == 1231


def test_a_file_with_a_hole_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [("a", 0, 0, b, t, 5) for b in range(2) for t in range(2)][:-1])
    with pytest.raises(StoreError, match="lacks calls of 'a'"):
        read_cells(tmp_path)
    (tmp_path / "timings" / "torch.parquet").write_bytes(b"no parquet")
    with pytest.raises(StoreError, match="cannot be read"):
        read_cells(tmp_path)
    assert read_cells(tmp_path / "nowhere") == {}
