from __future__ import annotations

import pytest

from compressor import registry
from compressor.config import BenchConfig, ChainStep, RunConfig, TaskConfig, TeacherConfig
from compressor.errors import ConfigError
from compressor.unread import require_read

METHODS = registry.load()


def steps(*names):
    return [ChainStep(name=n, config=METHODS.get(n).method.Config()) for n in names]


def test_a_device_beside_named_runtimes_is_read_by_nobody() -> None:
    config = RunConfig(bench=BenchConfig(device="cuda", runtimes=["torch"]))
    with pytest.raises(ConfigError, match="bench.device=cuda"):
        require_read(["bench.device=cuda", "bench.runtimes=[torch]"], config, METHODS)
    require_read(["bench.device=cuda", "bench.runtimes=[auto]"], RunConfig(bench=BenchConfig(device="cuda")), METHODS)


@pytest.mark.parametrize(
    ("typed", "chain", "reader"),
    [
        ("student.layers=3", (), "drop_layers"),
        ("student.layers=3", ("int8_dynamic",), "distill"),
        ("train.epochs=3", ("drop_layers",), "finetune"),
        ("task.unlabelled=imdb_sentences", ("finetune",), "distill"),
        ("task.subset=sst2", ("distill",), "task.source=hub"),
        ("teacher.revision=main", ("distill",), "a Hub id"),
        ("method.distill.temperature=3", ("finetune",), "a chain or baseline with distill"),
        ("+method.distill.temperature=3", ("finetune",), "a chain or baseline with distill"),
        ("bench.throughput_batch=8", (), "bench.throughput=true"),
        ("task.unlabelled_limit=9", ("distill",), "task.unlabelled="),
    ],
)
def test_a_setting_that_nobody_reads_is_named_with_its_readers(typed, chain, reader) -> None:
    with pytest.raises(ConfigError) as caught:
        require_read([typed], RunConfig(chain=steps(*chain)), METHODS)
    assert typed in str(caught.value) and reader in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "config"),
    [
        ("student.layers=3", RunConfig(chain=steps("distill"))),
        ("student.layers=3", RunConfig(chain=steps("int8_dynamic"), baselines={"finetune": steps("finetune")})),
        ("train.epochs=3", RunConfig(chain=steps("drop_layers", "distill"))),
        ("task.unlabelled=imdb_sentences", RunConfig(chain=steps("distill"))),
        ("task.unlabelled=imdb_sentences", RunConfig(chain=steps("prune_vocab"))),
        (
            "task.unlabelled_limit=9",
            RunConfig(chain=steps("distill"), task=TaskConfig(unlabelled="imdb_sentences")),
        ),
        ("task.unlabelled=null", RunConfig(chain=steps("finetune"))),
        ("task.subset=sst2", RunConfig(task=TaskConfig(source="hub", dataset="glue"))),
        ("teacher.revision=main", RunConfig(teacher=TeacherConfig(checkpoint="someone/model"))),
        ("teacher.train.epochs=3", RunConfig()),
        ("bench.texts=4", RunConfig()),
        ("bench.throughput_batch=8", RunConfig(bench=BenchConfig(throughput=True))),
    ],
)
def test_a_setting_that_somebody_reads_passes(typed, config) -> None:
    require_read([typed], config, METHODS)
