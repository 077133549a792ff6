from __future__ import annotations

import pytest

from compressor.config import BenchConfig, RunConfig, StudentConfig, TaskConfig, TrainConfig
from compressor.errors import ConfigError


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (lambda: TrainConfig(epochs=0), "train.epochs=0"),
        (lambda: TrainConfig(learning_rate=0.0), "train.learning_rate=0.0"),
        (lambda: TrainConfig(warmup_ratio=1.0), "train.warmup_ratio=1.0"),
        (lambda: TrainConfig(gradient_accumulation=0), "train.gradient_accumulation=0"),
        (lambda: TaskConfig(source="web"), "task.source=web"),
        (lambda: TaskConfig(max_length=2), "task.max_length=2"),
        (lambda: TaskConfig(train="mine.csv"), "task.train=mine.csv"),
        (lambda: TaskConfig(source="hub", dataset="a/b", test="Mine.TSV"), "task.test=Mine.TSV"),
        (lambda: StudentConfig(layers=0), "student.layers=0"),
        (lambda: StudentConfig(init="middle"), "student.init=middle"),
        (lambda: StudentConfig(init=[-1]), "student.init=[-1]"),
        (lambda: BenchConfig(runtimes=["tensorrt"]), "bench.runtimes=tensorrt"),
        (lambda: BenchConfig(device="tpu"), "bench.device=tpu"),
        (lambda: BenchConfig(runtimes=["auto", "torch"]), "bench.runtimes=auto"),
        (lambda: BenchConfig(runtimes=["onnxruntime"], padded=True), "bench.padded=True"),
        (lambda: BenchConfig(blocks=1), "bench.blocks=1"),
        (lambda: BenchConfig(margin=0.0), "bench.margin=0.0"),
        (lambda: BenchConfig(margin=1.0), "bench.margin=1.0"),
        (lambda: BenchConfig(price_per_hour=-1.0), "bench.price_per_hour=-1.0"),
        (lambda: BenchConfig(price_per_hour=float("nan")), "bench.price_per_hour=nan"),
        (lambda: RunConfig(device="tpu"), "device=tpu"),
        (lambda: RunConfig(seed=-1), "seed=-1"),
    ],
)
def test_a_bad_value_is_named_with_what_is_allowed(build, named) -> None:
    with pytest.raises(ConfigError) as caught:
        build()
    assert named in str(caught.value)
    assert "allowed:" in str(caught.value)


def test_the_device_decides_what_is_timed_unless_runtimes_are_named() -> None:
    assert BenchConfig().runtimes == ["torch", "onnxruntime", "openvino"]
    assert BenchConfig(device="cuda").runtimes == ["torch_cuda", "torch_fp16_cuda", "torch_compile_fp16_cuda"]
    assert BenchConfig(device="cuda", runtimes=["torch"]).runtimes == ["torch"]
    assert BenchConfig(runtimes=[]).runtimes == []


def test_slots_refuse_unknown_options() -> None:
    config = StudentConfig()
    with pytest.raises(AttributeError):
        config.layrs = 3  # type: ignore[attr-defined]


def test_chosen_holds_only_what_was_set() -> None:
    assert StudentConfig(layers=3, init=[0, 1, 2]).chosen() == {"layers": 3, "init": [0, 1, 2]}
    assert StudentConfig().chosen() == {}
