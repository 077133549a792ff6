"""`albert`: where it starts, what sharing saves, counted, and genuine checkpoints."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open

from compressor import store
from compressor.artifact import CompressedModel
from compressor.config import StudentConfig, TaskConfig
from compressor.errors import ConfigError, Incompatible
from compressor.families import encoder_layers
from compressor.tasks import build_task
from compressor.tasks.data import TaskData
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_examples
from compressor.workbench import Workbench
from compressor_plugins.albert import (
    Albert,
    AlbertConfig,
    Share,
    Start,
    encoder_parameters,
    grouped,
    tie_layers,
)


@parametrize_with_checks([Albert(AlbertConfig(embedding_size=8)), Albert(AlbertConfig(share=Share.attention))])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


class Started(Workbench):
    """Keeps the model as it is before it trains."""

    seen: list = []

    def fit(self, model, loss, **kwargs):
        import copy

        Started.seen.append((copy.deepcopy(model).eval(), loss, kwargs))
        return super().fit(model, loss, **kwargs)


def started(house, method, student=None):
    Started.seen.clear()
    result = house.compress([method], student or StudentConfig(), bench=Started)
    return Started.seen[0][0], result


# sharing


def test_groups_are_those_of_transformers() -> None:
    assert grouped(12, 1) == [list(range(12))]
    assert grouped(12, 5) == [[0, 1, 2], [3, 4], [5, 6, 7], [8, 9], [10, 11]]


@pytest.mark.parametrize(
    ("options", "layers"),
    [({}, [0]), ({"start": Start.last}, [3]), ({"start": Start.mean}, [0, 1, 2, 3]), ({"start_layers": [2]}, [2])],
)
def test_the_shared_layer_starts_from_one_layer_or_from_the_mean(tmp_path, options, layers) -> None:
    house = TinyHouse(tmp_path)
    albert, _ = started(house, Albert(AlbertConfig(**options)))
    weights = [layer.intermediate.dense.weight.detach().numpy() for layer in encoder_layers(house.teacher.model)]
    got = encoder_layers(albert)[0].ffn.weight.detach().numpy()
    np.testing.assert_allclose(got, np.mean([weights[layer] for layer in layers], axis=0), atol=1e-7)


@pytest.mark.parametrize(
    ("share", "shared", "own"),
    [
        (Share.attention, "attention.output.LayerNorm.weight", "intermediate.dense.bias"),
        (Share.ffn, "output.LayerNorm.weight", "attention.self.query.weight"),
    ],
)
def test_only_the_chosen_part_is_shared(tmp_path, share, shared, own) -> None:
    model = TinyHouse(tmp_path).teacher.model
    tie_layers(model, share, 2, [[0], [2]])
    pointers = [{p: layer.get_parameter(p).data_ptr() for p in (shared, own)} for layer in encoder_layers(model)]
    assert [p[shared] for p in pointers].count(pointers[0][shared]) == 2 and pointers[0][shared] != pointers[3][shared]
    assert len({p[own] for p in pointers}) == 4


def test_twelve_layers_in_one_take_a_twelfth_of_the_parameters_and_the_bytes_follow(tmp_path) -> None:
    house = TinyHouse(tmp_path, layers=12)
    one = encoder_parameters(house.teacher.model) // 12
    result = house.compress([Albert(AlbertConfig())], StudentConfig())
    assert encoder_parameters(result.model) == one == result.lineage[0].notes["encoder_parameters"]
    assert result.lineage[0].notes["encoder_parameters_before"] == 12 * one
    tied = house.compress([Albert(AlbertConfig(genuine=False, groups=2))], StudentConfig())
    assert encoder_parameters(tied.model) == 2 * one
    for name, artifact, layers in (("albert", result, 1), ("tied", tied, 2)):
        store.save(artifact, tmp_path / name)
        with safe_open(str(tmp_path / name / "model.safetensors"), framework="pt") as file:
            inside = sum(
                file.get_tensor(key).numel() for key in set(file.keys()) if "layer." in key or "albert_layers" in key
            )
        assert inside == layers * one
    again = store.load(tmp_path / "tied")
    queries = [layer.attention.self.query.weight.data_ptr() for layer in encoder_layers(again.model)]
    assert len(set(queries)) == 2 and queries[0] == queries[5] != queries[6]


def test_training_moves_what_is_shared_for_all_layers_at_once(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    before, result = started(house, Albert(AlbertConfig(share=Share.ffn)))
    old, new = (encoder_layers(m)[0].output.dense.weight for m in (before, result.model))
    assert not torch.equal(old, new)
    assert {id(layer.output.dense.weight) for layer in encoder_layers(result.model)} == {id(new)}


# the start, and genuine checkpoints


def other_house(tmp_path, family: str, kind: str = "classification") -> TinyHouse:
    """Return a house whose teacher is of another family, with equal layers, so that sharing them loses nothing."""
    import transformers

    house = TinyHouse(tmp_path)
    names = ("O", "B-X") if kind == "token_classification" else ("negative", "positive")
    if kind == "token_classification":
        house.task = build_task(TaskConfig(name=kind, type=kind, max_length=32), names)
        splits = {
            name: tuple(tiny_examples(16, seed=i, kind=kind)) for i, name in enumerate(("train", "validation", "test"))
        }
        house.data = TaskData(**splits, fingerprint=kind)
    sizes = {
        "vocab_size": house.teacher.config.vocab_size,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "pad_token_id": 0,
    }
    sizes |= {"num_attention_heads": 4, "intermediate_size": 48, "hidden_dim": 48, "max_position_embeddings": 64}
    sizes |= {"type_vocab_size": 2} if family != "mpnet" else {}
    sizes |= {"embedding_size": 16} if family == "electra" else {}
    sizes |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]} if family == "deberta-v2" else {}
    config = transformers.AutoConfig.for_model(family, **sizes, **house.task.config_overrides())
    torch.manual_seed(1)
    module = getattr(transformers, house.task.auto_class).from_config(config).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    first, *others = encoder_layers(module)
    for layer in others:
        layer.load_state_dict(first.state_dict())
    house.teacher = replace(house.teacher, module=module, config=module.config, head=house.task.head)
    return house


def logits(house, model) -> np.ndarray:
    blueprint = replace(house.teacher, module=model, config=model.config)
    from compressor.families import forward_inputs

    batch = house.batch(blueprint)
    with torch.inference_mode():
        found = model(**forward_inputs(model, batch.inputs)).logits
    return (found[batch.inputs["attention_mask"].bool()] if found.ndim == 3 else found).numpy()


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "electra", "distilbert"])
def test_an_albert_of_equal_layers_is_its_source_before_it_trains(tmp_path, family) -> None:
    house = other_house(tmp_path, family, "token_classification")
    albert, result = started(house, Albert(AlbertConfig()))
    assert type(albert).__name__ == "AlbertForTokenClassification"
    np.testing.assert_allclose(logits(house, albert), logits(house, house.teacher.model), atol=2e-5)
    assert np.isfinite(logits(house, result.model)).all()


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_pooling_heads_that_end_in_tanh_move_over_as_they_are(tmp_path, family) -> None:
    house = other_house(tmp_path, family)
    albert, _ = started(house, Albert(AlbertConfig()))
    np.testing.assert_allclose(logits(house, albert), logits(house, house.teacher.model), atol=2e-5)
    assert albert.config.hidden_act == house.teacher.config.hidden_act == "gelu"


@pytest.mark.parametrize("family", ["mpnet", "deberta-v2"])
def test_relative_positions_stay_in_their_own_architecture(tmp_path, family) -> None:
    house = other_house(tmp_path, family)
    with pytest.raises(Incompatible, match=r"genuine=false"):
        house.check([Albert(AlbertConfig())])
    tied, result = started(house, Albert(AlbertConfig(genuine=False)))
    np.testing.assert_allclose(logits(house, tied), logits(house, house.teacher.model), atol=2e-5)
    assert type(result.model) is type(house.teacher.model)


def test_the_factorised_start_is_near_its_source_and_nearer_the_wider_it_is(tmp_path) -> None:
    house = other_house(tmp_path, "bert")
    teacher = logits(house, house.teacher.model)
    errors = [
        np.abs(logits(house, started(house, Albert(AlbertConfig(embedding_size=size)))[0]) - teacher).mean()
        for size in (4, 12, 28)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < np.abs(teacher).mean() / 5


def test_the_embeddings_learn_too_where_they_were_factorised(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    started(house, Albert(AlbertConfig(embedding_size=8)))
    _, _, asked = Started.seen[0]
    assert asked["student_signals"].hidden == (-1, 0, 1, 2, 3) and asked["signals"].hidden == (-1, 0, 1, 2, 3)


def test_a_process_without_this_package_computes_the_same(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([Albert(AlbertConfig(embedding_size=8, groups=2))], StudentConfig())
    store.save(result, tmp_path / "albert")
    batch = house.batch(result)
    np.savez(tmp_path / "in.npz", **{k: v.numpy() for k, v in batch.inputs.items()})
    script = (
        "import sys, numpy, torch; torch.set_num_threads(1)\n"
        "from transformers import AutoModelForSequenceClassification as Auto\n"
        "model, info = Auto.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "assert type(model).__name__ == 'AlbertForSequenceClassification' and not info['missing_keys'], info\n"
        "inputs = {k: torch.tensor(v) for k, v in numpy.load(sys.argv[2]).items()}\n"
        "numpy.save(sys.argv[3], model.eval()(**inputs).logits.detach().numpy())\n"
        "assert not [m for m in sys.modules if m.startswith('compressor')]\n"
    )
    paths = [str(tmp_path / name) for name in ("albert", "in.npz", "out.npy")]
    ended = subprocess.run(
        [sys.executable, "-c", script, *paths], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), house.logits(result))


def test_distillation_after_sharing_keeps_the_sharing(tmp_path) -> None:
    from compressor_plugins.distill import Distill, DistillConfig

    house = TinyHouse(tmp_path)
    result = house.compress([Albert(AlbertConfig(share=Share.attention)), Distill(DistillConfig())], StudentConfig())
    store.save(result, tmp_path / "chain")
    again: CompressedModel = store.load(tmp_path / "chain")
    assert encoder_parameters(again.model) == encoder_parameters(result.model) < encoder_parameters(house.teacher.model)
    np.testing.assert_array_equal(house.logits(again), house.logits(result))


def test_int8_after_albert_quantises_the_shared_layer_wherever_it_runs(tmp_path) -> None:
    from compressor_plugins.int8_dynamic import Int8Dynamic, Int8DynamicConfig

    chain = [Albert(AlbertConfig(embedding_size=8)), Int8Dynamic(Int8DynamicConfig())]
    notes = TinyHouse(tmp_path).compress(chain, StudentConfig()).lineage[-1].notes
    assert notes["linears_quantised"] == notes["linears_eligible"]


# refusals


@pytest.mark.parametrize(
    "options",
    [
        {"groups": 0},
        {"embedding_size": 1},
        {"start_layers": [0, 1]},
        {"start_layers": [-1]},
        {"hidden_weight": -1.0},
        {"alpha": 2.0},
        {"temperature": 0.0},
        {"dropout": 1.0},
    ],
)
def test_options_out_of_range_are_named(options) -> None:
    with pytest.raises(ConfigError, match=f"method.albert.{next(iter(options))}="):
        AlbertConfig(**options)


@pytest.mark.parametrize(
    ("options", "student", "told"),
    [
        ({"groups": 5}, {}, "the student has 4 layers"),
        ({"groups": 3}, {"layers": 2}, "the student has 2 layers"),
        ({"start_layers": [4]}, {}, "no layer 4"),
        ({"embedding_size": 32}, {}, "embeddings are 32 wide"),
        ({"embedding_size": 8, "share": Share.ffn}, {}, "only ALBERT's own architecture"),
        ({}, {"hidden_size": 16, "heads": 2}, "keeps its source's width"),
    ],
)
def test_what_does_not_fit_is_refused_before_work(tmp_path, options, student, told) -> None:
    with pytest.raises(Incompatible, match=told):
        TinyHouse(tmp_path).check([Albert(AlbertConfig(**options))], StudentConfig(**student))
