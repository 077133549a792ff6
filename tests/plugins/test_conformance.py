"""Every first-party method keeps every promise."""

from __future__ import annotations

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
