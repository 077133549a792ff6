from __future__ import annotations

import pytest
import torch

from compressor.artifact import CompressedModel, Form, Head
from compressor.config import StudentConfig
from compressor.errors import Incompatible
from compressor.students import build_student, initial_layers, spread, student_config
from compressor.testing.tiny import tiny_bert, tiny_tokenizer


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(0)
    module = tiny_bert(layers=6)
    head = Head(task_type="classification", label_names=("a", "b"))
    return CompressedModel(form=Form.torch, config=module.config, tokenizer=tiny_tokenizer(), head=head, module=module)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [(1, [11]), (2, [5, 11]), (3, [3, 7, 11]), (4, [2, 5, 8, 11]), (6, [1, 3, 5, 7, 9, 11]), (12, list(range(12)))],
)
def test_spread_takes_the_end_of_each_block(layers, expected) -> None:
    assert spread(12, layers) == expected


def test_spread_of_uneven_blocks_is_increasing_and_ends_at_the_top() -> None:
    for source_layers in range(1, 25):
        for student_layers in range(1, source_layers + 1):
            chosen = spread(source_layers, student_layers)
            assert len(set(chosen)) == student_layers and chosen == sorted(chosen) and chosen[-1] == source_layers - 1


def test_the_named_inits() -> None:
    assert initial_layers("first", 12, 3) == [0, 1, 2]
    assert initial_layers("last", 12, 3) == [9, 10, 11]
    assert initial_layers("uniform", 12, 3) == [0, 6, 11] or initial_layers("uniform", 12, 3) == [0, 5, 11]
    assert initial_layers([4, 2], 12, 2) == [4, 2]
    assert initial_layers(None, 12, 6) == spread(12, 6)


def test_layers_are_copied_with_everything_else(source) -> None:
    student = build_student(source, StudentConfig(layers=2, init=[4, 1]))
    weights, copied = source.model.state_dict(), student.state_dict()
    for name, value in copied.items():
        origin = name.replace("layer.0.", "layer.4.").replace("layer.1.", "layer.1.")
        torch.testing.assert_close(value, weights[origin], rtol=0, atol=0)
    student.get_parameter("bert.embeddings.word_embeddings.weight").data.zero_()
    assert source.model.get_parameter("bert.embeddings.word_embeddings.weight").abs().sum() > 0, "memory is shared"


def test_dropping_layers_equals_skipping_them(source) -> None:
    student = build_student(source, StudentConfig(layers=3, init="first")).eval()
    ids = torch.randint(5, 20, (2, 7))
    states = source.model.eval()(input_ids=ids, output_hidden_states=True).hidden_states
    got = student(input_ids=ids, output_hidden_states=True).hidden_states
    for mine, theirs in zip(got, states, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_the_strongest_ffn_neurons_stay(source) -> None:
    width = source.config.intermediate_size
    layer = source.model.bert.encoder.layer[5]
    keep = width // 2
    with torch.no_grad():
        layer.intermediate.dense.weight[: width - keep] *= 1e-3
    student = build_student(source, StudentConfig(layers=1, intermediate_size=keep))
    kept = student.bert.encoder.layer[0].intermediate.dense.weight
    torch.testing.assert_close(kept, layer.intermediate.dense.weight[width - keep :], rtol=0, atol=0)


def test_random_and_narrower_students_share_no_weights(source) -> None:
    for student in (StudentConfig(layers=6, init="random"), StudentConfig(hidden_size=16, heads=2)):
        built = build_student(source, student)
        word = built.get_parameter("bert.embeddings.word_embeddings.weight")
        assert word.shape[1] == (student.hidden_size or source.config.hidden_size)
        original = source.model.get_parameter("bert.embeddings.word_embeddings.weight")
        assert word.shape != original.shape or not torch.equal(word, original)


@pytest.mark.parametrize(
    ("student", "named"),
    [
        (StudentConfig(layers=7), "student.layers=7"),
        (StudentConfig(layers=6), "leave the source as it is"),
        (StudentConfig(heads=3), "does not divide"),
        (StudentConfig(hidden_size=10**6), "student.hidden_size"),
        (StudentConfig(layers=2, init=[0, 9]), "no layer 9"),
        (StudentConfig(layers=3, init=[0, 1]), "names 2 layers"),
        (StudentConfig(hidden_size=16, heads=2, init="first"), "copies layers"),
    ],
)
def test_what_does_not_fit_is_named(source, student, named) -> None:
    with pytest.raises(Incompatible, match=named):
        student_config(source.config, student)
