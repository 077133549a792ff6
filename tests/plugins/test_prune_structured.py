"""Narrower everywhere: what stays computes what it did, the shapes are one config's, the scores are the formulas'."""

from __future__ import annotations

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from compressor import store
from compressor.artifact import parameter_count
from compressor.errors import ConfigError, Incompatible, MissingExtra
from compressor.families import encoder_layers
from compressor.surgery import encoder_linears, head_count, layer_parts
from compressor.testing import parametrize_with_checks
from compressor.testing.encoders import FAMILIES, house_of, tiny_encoder
from compressor.testing.house import TinyHouse
from compressor_plugins.distill import Distill, DistillConfig
from compressor_plugins.prune_structured import GroupImportance, PruneStructured, PruneStructuredConfig

pytest.importorskip("torch_pruning")
TAKEN = ("bert", "roberta", "xlm-roberta", "electra", "distilbert", "albert")
HALF = PruneStructuredConfig(hidden=0.5, importance=GroupImportance.magnitude)


@parametrize_with_checks([PruneStructured(PruneStructuredConfig())])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


class NormOfSome(nn.Module):
    """A layer norm over some of the dimensions, the others set to zero: what is left when a norm gets narrower."""

    def __init__(self, norm: nn.LayerNorm, kept: list[int]) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, states):
        some = nn.functional.layer_norm(
            states[..., self.kept],
            [len(self.kept)],
            self.norm.weight[self.kept],
            self.norm.bias[self.kept],
            self.norm.eps,
        )
        out = torch.zeros_like(states)
        out[..., self.kept] = some
        return out


def rows_kept(before: torch.Tensor, after: torch.Tensor) -> list[int]:
    """Return which entries of a vector stay, given what stayed of it."""
    places = [int((before == value).nonzero()[0]) for value in after]
    assert len(set(places)) == len(places)
    return places


def distinct_norms(model) -> None:
    """Make every norm's weights tell its dimensions apart."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "distilbert"])
def test_what_stays_computes_what_it_did(tmp_path, family) -> None:
    model = tiny_encoder(family)
    distinct_norms(model)
    house = house_of(tmp_path, model)
    result = house.compress([PruneStructured(HALF)])
    notes, cut = result.lineage[0].notes, encoder_layers(result.model)
    norms = [m for m in encoder_layers(model)[0].modules() if isinstance(m, nn.LayerNorm)]
    narrow = [m for m in cut[0].modules() if isinstance(m, nn.LayerNorm)]
    kept = rows_kept(norms[0].weight, narrow[0].weight)
    assert kept == sorted(kept) and len(kept) == 16 == notes["hidden"][1]
    masked = copy.deepcopy(model)
    for number, layer in enumerate(encoder_layers(masked)):
        parts, left = layer_parts(masked, layer), layer_parts(result.model, cut[number])
        neurons = [  # of a neuron's incoming weights only those from the kept dimensions stay
            i for i in range(64) if (parts.ffn_in.weight[i, kept] == left.ffn_in.weight).all(dim=1).any()
        ]
        assert len(neurons) == left.ffn_in.out_features == 32
        heads = notes["heads_kept"][number]
        with torch.no_grad():
            parts.ffn_out.weight[:, [i for i in range(64) if i not in neurons]] = 0
            parts.attention_output.weight[:, [i for i in range(32) if i // 8 not in heads]] = 0
    pooler = {"bert": "bert.pooler.dense", "distilbert": "pre_classifier"}.get(family, "classifier.dense")
    top, top_left = masked.get_submodule(pooler), result.model.get_submodule(pooler)
    stay = [i for i in range(32) if (top.weight[i, kept] == top_left.weight).all(dim=1).any()]
    assert len(stay) == 16
    last = masked.classifier if hasattr(masked.classifier, "weight") else masked.classifier.out_proj
    with torch.no_grad():
        last.weight[:, [i for i in range(32) if i not in stay]] = 0
    if family == "electra":  # no norm follows the projection of its embeddings
        with torch.no_grad():
            gone = [i for i in range(32) if i not in kept]
            masked.electra.embeddings_project.weight[gone] = 0
            masked.electra.embeddings_project.bias[gone] = 0
    for name, module in list(masked.named_modules()):
        if isinstance(module, nn.LayerNorm) and module.normalized_shape == (32,):
            parent, _, own = name.rpartition(".")
            setattr(masked.get_submodule(parent), own, NormOfSome(module, kept))
    np.testing.assert_allclose(
        house.logits(result), house.logits(replace(house.teacher, module=masked)), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("family", TAKEN)
def test_every_shape_is_what_the_config_says(tmp_path, family) -> None:
    import transformers

    house = house_of(tmp_path, tiny_encoder(family))
    method = PruneStructured(replace(HALF, hidden=0.75))
    result = house.compress([method])
    assert result.config.hidden_size == 24 and result.config.num_attention_heads == 3
    fresh = transformers.AutoModelForSequenceClassification.from_config(result.config)
    shapes = [{n: tuple(p.shape) for n, p in m.named_parameters()} for m in (fresh, result.model)]
    assert shapes[0] == shapes[1]
    outline = house.check([method])[0].result.config
    assert (outline.hidden_size, outline.num_attention_heads) == (24, 3)
    assert result.config._attn_implementation == house.teacher.config._attn_implementation


PLAIN = """
import sys, torch, transformers
model = transformers.AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
assert "compressor" not in sys.modules
print(model.config.hidden_size, *model(torch.arange(5, 12)[None]).logits[0].tolist())
"""


def test_the_result_is_a_checkpoint_for_anybody(tmp_path) -> None:
    result = house_of(tmp_path, tiny_encoder("bert")).compress([PruneStructured(HALF)])
    store.save(result, tmp_path / "plain")
    ended = subprocess.run(
        [sys.executable, "-c", PLAIN, str(tmp_path / "plain")], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr[-1500:]
    width, *logits = ended.stdout.split()
    with torch.inference_mode():
        expected = result.model(torch.arange(5, 12)[None]).logits[0]
    assert width == "16"
    np.testing.assert_allclose([float(x) for x in logits], expected.numpy(), atol=1e-6)


def test_operations_and_parameters_fall_by_the_predicted_number(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    result = house.compress([PruneStructured(HALF)])
    products = sum(linear.weight.numel() for linear in encoder_linears(result.model).values())
    assert products == 3 * (4 * 16 * 16 + 2 * 16 * 32)  # a quarter of the teacher's
    vocabulary = house.teacher.config.vocab_size
    tables = (vocabulary + 80 + 2) * 16
    biases = 3 * (4 * 16 + 32 + 16 + 2 * 2 * 16) + 2 * 16  # of linears and norms in the layers; the embeddings' norm
    assert parameter_count(result.model) == products + tables + biases + 16 * 16 + 16 + 2 * 16 + 2


def test_other_heads_than_fill_the_width_are_recorded_by_layer(tmp_path) -> None:
    house = house_of(tmp_path, tiny_encoder("bert"))
    result = house.compress([PruneStructured(PruneStructuredConfig(hidden=0.75, heads=0.25, ffn=1.0))])
    assert result.config.num_attention_heads == 3 and result.config.intermediate_size == 64
    assert [head_count(result.model, layer) for layer in encoder_layers(result.model)] == [1, 1, 1]
    store.save(result, tmp_path / "shaped")
    np.testing.assert_array_equal(house.logits(store.load(tmp_path / "shaped")), house.logits(result))
    alone = house.compress([PruneStructured(PruneStructuredConfig(hidden=1.0, heads=0.5))])
    assert alone.config.hidden_size == 32 and alone.config.num_attention_heads == 4
    assert [head_count(alone.model, layer) for layer in encoder_layers(alone.model)] == [2, 2, 2]


@pytest.mark.parametrize("kind", list(GroupImportance))
def test_neurons_are_ranked_by_the_formula_in_numpy(tmp_path, kind) -> None:
    """The group of a neuron has its row of the first linear and its column of the second."""
    house = house_of(tmp_path, tiny_encoder("bert"))
    options = PruneStructuredConfig(hidden=1.0, ffn=0.25, importance=kind, examples=48)
    result = house.compress([PruneStructured(options)])
    model = copy.deepcopy(house.teacher.model)
    examples = house.data.train
    tokenizer = house.teacher.tokenizer
    batch = house.task.collate(tokenizer, examples, house.task.encode(tokenizer, examples))
    torch.autograd.backward(house.task.hard_loss(model(**batch.inputs).logits, batch))
    for before, after in zip(encoder_layers(model), encoder_layers(result.model), strict=True):
        parts = layer_parts(model, before)
        terms = []
        for linear, axis in ((parts.ffn_in, 1), (parts.ffn_out, 0)):
            weight = linear.weight.detach().numpy()
            gradient = linear.weight.grad.numpy()
            member = weight**2 if kind is GroupImportance.magnitude else np.abs(weight * gradient)
            terms.append(member.sum(axis=axis))
        kept = np.sort(np.argsort(-(terms[0] + terms[1]) / 2)[:16])
        got = layer_parts(result.model, after).ffn_in.weight.detach().numpy()
        np.testing.assert_array_equal(got, parts.ffn_in.weight.detach().numpy()[kept])


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in TAKEN])
def test_families_that_the_graph_does_not_cover_are_refused(tmp_path, family) -> None:
    with pytest.raises(Incompatible, match=f"does not take family {family}"):
        house_of(tmp_path, tiny_encoder(family)).check([PruneStructured(HALF)])


def test_hidden_states_as_wide_as_the_embeddings_are_refused_where_transformers_would_drop_the_projection(
    tmp_path,
) -> None:
    with pytest.raises(Incompatible, match="leaves out the projection"):
        house_of(tmp_path, tiny_encoder("electra", embedding_size=16)).check([PruneStructured(HALF)])


def test_distillation_follows(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([PruneStructured(HALF), Distill(DistillConfig())])
    assert result.blueprint.hidden_size == 16 and np.isfinite(house.logits(result)).all()


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(MissingExtra, match="torch-pruning is not installed") as caught:
        TinyHouse(tmp_path).check([PruneStructured(HALF)])
    assert "pruning" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"hidden": 0.0}, "hidden=0.0"),
        ({"heads": 1.5}, "heads=1.5"),
        ({"hidden": 1.0}, "removes nothing"),
        ({"multiple_of": 0}, "multiple_of=0"),
        ({"examples": 0}, "examples=0"),
    ],
)
def test_options_out_of_range_are_named(options, told) -> None:
    with pytest.raises(ConfigError, match=told):
        PruneStructuredConfig(**options)


def test_a_share_that_rounds_to_nothing_is_refused_before_work(tmp_path) -> None:
    with pytest.raises(Incompatible, match="removes nothing from 32 dimensions"):
        TinyHouse(tmp_path).check([PruneStructured(PruneStructuredConfig(hidden=0.95, ffn=1.0))])
