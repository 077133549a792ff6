"""Graph surgery for integers: nothing changes until something is rounded, and rounding is what numpy says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from compressor.errors import Incompatible
from compressor.runtimes import onnx_graph
from compressor.runtimes.onnx_graph import Affine

RNG = np.random.default_rng(5)
W = RNG.normal(size=(6, 4)).astype(np.float32)
X = RNG.normal(size=(3, 6)).astype(np.float32)


def model_of(nodes, weights: dict[str, np.ndarray], outputs=("y",), width: int = 4) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, **feed: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feed)


@pytest.fixture
def shared(tmp_path: Path) -> onnx.ModelProto:
    """Three uses of one weight: behind a Transpose, as a copy, and in a Gemm."""
    bias = np.arange(4, dtype=np.float32)
    nodes = [
        helper.make_node("Transpose", ["wt"], ["w1"], name="t", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
        helper.make_node("MatMul", ["x", "copy"], ["b"], name="second"),
        helper.make_node("Gemm", ["x", "wt", "bias"], ["c"], name="third", transB=1),
    ]
    weights = {"wt": np.ascontiguousarray(W.T), "copy": W, "bias": bias}
    onnx.save(model_of(nodes, weights, ("a", "b", "c")), str(tmp_path / "m.onnx"))
    return onnx_graph.read_graph(tmp_path / "m.onnx")


def test_one_weight_is_stored_once_and_nothing_changes(shared) -> None:
    assert [n.name for n in onnx_graph.weight_linears(shared.graph)] == ["first", "second", "third"]
    assert len([i for i in shared.graph.initializer if len(i.dims) == 2]) == 1
    a, b, c = run(shared, x=X)
    for got, expected in ((a, X @ W), (b, X @ W), (c, X @ W + np.arange(4))):
        np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("found", [Affine(0.02, 128), Affine(0.011, 40)])
def test_integer_products_equal_numpy(shared, per_channel, found) -> None:
    onnx_graph.quantise(shared, {"x": found}, ["first", "third"], per_channel=per_channel, levels=127)
    assert onnx_graph.integer_linears(shared.graph) == 2
    assert [n.name for n in onnx_graph.weight_linears(shared.graph)] == ["second"]
    scale = np.abs(W).max(axis=0 if per_channel else None) / np.float32(127)
    rounded = np.clip(np.rint(X / np.float32(found.scale)) + found.zero, 0, 255) - found.zero
    expected = rounded * np.float32(found.scale) @ (np.clip(np.rint(W / scale), -127, 127) * scale)
    first, second, third = run(shared, x=X)
    np.testing.assert_allclose(first, expected, atol=1e-5)
    np.testing.assert_allclose(third, expected + np.arange(4), atol=1e-5)
    np.testing.assert_allclose(second, X @ W, atol=1e-5)  # not named, so not rounded
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize(
    ("low", "high", "symmetric", "expected"),
    [
        (-1.0, 1.55, False, Affine(0.01, 100)),
        (-0.5, 2.54, True, Affine(0.02, 128)),
        (0.5, 2.55, False, Affine(0.01, 0)),  # widened to hold 0
        (-2.55, -1.0, False, Affine(0.01, 255)),
    ],
)
def test_scale_and_zero_point_of_a_range(low, high, symmetric, expected) -> None:
    got = onnx_graph.affine(low, high, symmetric=symmetric)
    assert got.zero == expected.zero and got.scale == pytest.approx(expected.scale)


def test_an_empty_range_and_a_zero_row_divide_by_nothing() -> None:
    assert onnx_graph.affine(0.0, 0.0).scale > 0
    rounded, scale = onnx_graph.round_weight(np.array([[0.0, 0.0], [1.0, -0.5]], np.float32), 0, 127)
    assert rounded.tolist() == [[0, 0], [127, -64]] and scale.tolist() == pytest.approx([1.0, 1 / 127])


@pytest.mark.parametrize("per_row", [True, False])
def test_tables_become_int8_and_only_read_rows_become_float(tmp_path: Path, per_row) -> None:
    table = RNG.normal(size=(40, 4)).astype(np.float32) * np.linspace(0.1, 3, 40, dtype=np.float32)[:, None]
    small = RNG.normal(size=(2, 4)).astype(np.float32)
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"])
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"], name="g"),
        helper.make_node("Gather", ["small", "zeros"], ["types"], name="s"),
        helper.make_node("Add", ["rows", "types"], ["y"], name="add"),
    ]
    model = model_of(nodes, {"table": table, "small": small, "zeros": np.zeros(1, np.int64)})
    del model.graph.input[:]
    model.graph.input.append(ids)
    assert onnx_graph.pack_tables(model, per_row=per_row) == 1
    assert {i.name for i in model.graph.initializer if i.data_type == TensorProto.INT8} == {"table.int8"}
    scale = np.abs(table).max(axis=1 if per_row else None, keepdims=True) / np.float32(127)
    expected = np.rint(table / scale) * scale + small[0]
    wanted = np.array([3, 39, 3, 0])
    np.testing.assert_allclose(run(model, ids=wanted)[0], expected[wanted], atol=1e-6)


def test_a_table_that_is_also_a_matrix_stays_float() -> None:
    table = RNG.normal(size=(20, 6)).astype(np.float32)
    nodes = [
        helper.make_node("Transpose", ["table"], ["wt"], name="t", perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["y"], name="tied"),
        helper.make_node("Gather", ["table", "one"], ["z"], name="g"),
    ]
    model = model_of(nodes, {"table": table, "one": np.zeros(1, np.int64)}, ("y",), width=20)
    assert onnx_graph.pack_tables(model, per_row=True) == 0


def test_more_than_one_file_holds_is_refused(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "m.onnx").write_bytes(b"123456")
    (tmp_path / "m.onnx.data").write_bytes(b"123456")
    monkeypatch.setattr(onnx_graph, "_LARGEST", 10)
    with pytest.raises(Incompatible, match="12 bytes"):
        onnx_graph.read_graph(tmp_path / "m.onnx")
