"""Every first-party method keeps every promise: those here, the others each in the test file of its own."""

from __future__ import annotations

import runpy
from pathlib import Path

from compressor import registry
from compressor.config import MethodConfig
from compressor.testing import parametrize_with_checks
from compressor_plugins.distill import Distill, DistillConfig, HiddenLoss
from compressor_plugins.drop_layers import DropLayers
from compressor_plugins.finetune import Finetune, FinetuneConfig
from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig


@parametrize_with_checks(
    [
        Distill(DistillConfig()),
        Distill(DistillConfig(hidden_weight=0.0, alpha=0.0)),
        Distill(DistillConfig(hidden_loss=HiddenLoss.cosine, alpha=1.0)),
        Finetune(FinetuneConfig()),
        DropLayers(MethodConfig()),
        Int8Dynamic(Int8DynamicConfig()),
    ]
)
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def test_no_method_is_left_out() -> None:
    checked: set[type] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        promises = runpy.run_path(str(path)).get("test_promises")
        for mark in getattr(promises, "pytestmark", ()):
            checked |= {type(case.values[0]) for case in mark.args[1]} if mark.name == "parametrize" else set()
    everyone = {entry.method for entry in registry.load().methods.values()}
    ours = {method for method in everyone if method.__module__.startswith("compressor_plugins")}
    assert len(ours) > 25 and ours <= checked, ours - checked
