"""`mobilebert`: its losses against numpy, its shapes, its schedule, and genuine checkpoints."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from compressor import store
from compressor.artifact import parameter_count
from compressor.config import StudentConfig, TaskConfig
from compressor.errors import ConfigError, Incompatible
from compressor.families import embeddings, encoder_layers
from compressor.tasks import build_task
from compressor.tasks.data import TaskData
from compressor.testing import parametrize_with_checks
from compressor.testing.house import TinyHouse
from compressor.testing.tiny import tiny_examples
from compressor.training.signals import LossInputs, Outputs
from compressor.workbench import Workbench
from compressor_plugins.mobilebert import (
    MobileBert,
    MobileBertConfig,
    Normalization,
    Schedule,
    Transfer,
    attention_divergence,
)

RNG = np.random.default_rng(7)


@parametrize_with_checks([MobileBert(MobileBertConfig(transfer_epochs=2))])
def test_promises(method, check, tmp_path) -> None:
    check(method, tmp_path)


def distributions(*shape):
    e = np.exp(RNG.normal(size=shape))
    return e / e.sum(axis=-1, keepdims=True)


# losses


def test_attention_transfer_is_the_divergence_of_each_head_over_real_tokens() -> None:
    student, teacher = distributions(2, 3, 4, 4), distributions(2, 3, 4, 4)
    mask = np.array([[1, 1, 1, 0], [1, 1, 1, 1]], dtype=bool)
    kl_BHL = (teacher * np.log(teacher / student)).sum(axis=-1)
    expected = np.mean([kl_BHL[b, h, t] for b in range(2) for h in range(3) for t in range(4) if mask[b, t]])
    args = torch.tensor(student), torch.tensor(teacher), torch.tensor(mask)
    assert attention_divergence(*args).item() == pytest.approx(expected, abs=1e-5)
    assert attention_divergence(args[1], args[1], args[2]).item() == pytest.approx(0, abs=1e-6)


def test_a_head_learns_from_the_mean_of_its_neighbours() -> None:
    student, teacher = distributions(1, 2, 4, 4), distributions(1, 6, 4, 4)
    target = np.stack([teacher[:, :3].mean(axis=1), teacher[:, 3:].mean(axis=1)], axis=1)
    mask = torch.ones(1, 4, dtype=torch.bool)
    expected = (target * np.log(target / student)).sum(axis=-1).mean()
    got = attention_divergence(torch.tensor(student), torch.tensor(teacher), mask)
    assert got.item() == pytest.approx(expected, abs=1e-5)


def test_feature_map_transfer_is_the_squared_error_over_the_teachers_variance(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    batch = house.batch(house.teacher)
    mask = batch.inputs["attention_mask"].numpy().astype(bool)
    hs = {layer: RNG.normal(size=(*mask.shape, 6)) for layer in (-1, 0, 1)}
    ht = {layer: RNG.normal(size=(*mask.shape, 6)) * 2 for layer in (-1, 1, 3)}
    maps = {layer: distributions(len(mask), 2, mask.shape[1], mask.shape[1]) for layer in (0, 1)}
    step = LossInputs(
        task=house.task,
        batch=batch,
        student=Outputs(
            hidden={k: torch.tensor(v) for k, v in hs.items()},
            attention={k: torch.tensor(v) for k, v in maps.items()},
        ),
        teacher=Outputs(
            hidden={k: torch.tensor(v) for k, v in ht.items()},
            attention={1: torch.tensor(maps[0]), 3: torch.tensor(maps[0])},
        ),
        step=0,
        total_steps=1,
    )  # fmt: skip
    transfer = Transfer({0: 1, 1: 3}, torch.nn.Identity(), 3.0, 0.5)

    def error(s, t):
        return ((hs[s] - ht[t])[mask] ** 2).mean() / ht[t][mask].var(axis=0, ddof=1).mean()

    everything = transfer(step)
    expected = 3.0 * np.mean([error(-1, -1), error(0, 1), error(1, 3)])
    assert everything["features"].item() == pytest.approx(expected, abs=1e-4)
    second = transfer.of_layers(step, [1])
    assert second["features"].item() == pytest.approx(3.0 * error(1, 3), abs=1e-4)
    kl = (maps[0] * np.log(maps[0] / maps[1])).sum(-1).transpose(0, 2, 1)[mask].mean()
    assert second["attention"].item() == pytest.approx(0.5 * kl, abs=1e-5)
    assert everything["attention"].item() == pytest.approx(
        0.25 * kl, abs=1e-5
    )  # layer 0 has the teacher's maps already


# the student


def test_sizes_scale_to_the_source_and_follow_the_options(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    config = house.check([MobileBert(MobileBertConfig())])[0].result.config
    assert (config.hidden_size, config.intra_bottleneck_size, config.intermediate_size, config.embedding_size) == (
        32,
        8,
        32,
        8,
    )
    assert (config.num_attention_heads, config.num_feedforward_networks, config.normalization_type) == (4, 4, "no_norm")
    options = MobileBertConfig(
        bottleneck_size=12, ffn_networks=2, embedding_size=6, normalization=Normalization.layer_norm, trigram_input=False,
        activation="gelu", transfer_epochs=1,
    )  # fmt: skip
    result = house.compress([MobileBert(options)], StudentConfig(layers=2, intermediate_size=20, heads=2))
    layer = encoder_layers(result.model)[0]
    assert len(encoder_layers(result.model)) == 2 and len(layer.ffn) == 1
    assert layer.attention.self.query.weight.shape == (12, 12) and layer.attention.self.value.weight.shape == (12, 32)
    assert layer.intermediate.dense.weight.shape == (20, 12)
    assert embeddings(result.model).word_embeddings.embedding_dim == 6
    assert isinstance(layer.output.LayerNorm, torch.nn.LayerNorm)
    assert result.lineage[0].notes["parameters"] == parameter_count(result.model)


class Recorded(Workbench):
    """Keeps the model as it is before each stage, and what the stage asked for."""

    seen: list = []

    def fit(self, model, loss, **kwargs):
        import copy

        before = copy.deepcopy(model).eval()
        result = super().fit(model, loss, **kwargs)
        Recorded.seen.append((before, copy.deepcopy(model), kwargs, result))
        return result


def stages(house, options, student=None):
    Recorded.seen.clear()
    house.compress([MobileBert(options)], student or StudentConfig(), bench=Recorded)
    return list(Recorded.seen)


def test_the_embeddings_start_near_the_sources_without_a_norm(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    torch.manual_seed(3)
    for parameter in embeddings(house.teacher.model).parameters():
        torch.nn.init.normal_(parameter, std=1.0)
    embeddings(house.teacher.model).position_embeddings.weight.data *= 0.1
    batch = house.batch(house.teacher)
    mask = batch.inputs["attention_mask"].bool()
    with torch.no_grad():
        wanted = embeddings(house.teacher.model)(batch.inputs["input_ids"])[mask]
        errors = []
        for size in (4, 16, 32):
            start = stages(house, MobileBertConfig(embedding_size=size, transfer=False))[0][0]
            got = embeddings(start)(batch.inputs["input_ids"])[mask]
            errors.append(((got - wanted) ** 2).mean().item() / wanted.var().item())
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.05


def test_the_head_comes_from_the_source(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    start = stages(house, MobileBertConfig(transfer=False))[0][0]
    assert torch.equal(start.classifier.weight, house.teacher.model.classifier.weight)
    assert torch.equal(start.mobilebert.pooler.dense.weight, house.teacher.model.bert.pooler.dense.weight)


# schedules


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"schedule": Schedule.progressive}, ["transfer", "task"]),
        ({"schedule": Schedule.joint}, ["transfer", "task"]),
        ({"schedule": Schedule.auxiliary}, ["task"]),
        ({"transfer": False}, ["task"]),
    ],
)
def test_the_stages_of_each_schedule(tmp_path, options, names) -> None:
    found = stages(TinyHouse(tmp_path), MobileBertConfig(transfer_epochs=2, **options))
    assert [kwargs["stage"] for _, _, kwargs, _ in found] == names
    terms = [set(result.epochs[0].train) for _, _, _, result in found]
    transfer, task = {"features", "attention"}, {"soft", "hard"}
    assert terms == {
        "transfer": [transfer, task],
        "task": [task | transfer] if "schedule" in options else [task],
    }[names[0]]  # fmt: skip


def test_layers_take_turns_and_those_below_move_a_little(tmp_path) -> None:
    from compressor.training.turns import LayerTurns

    house = TinyHouse(tmp_path)
    moved = {}
    for rate in (0.0, 0.1):
        (before, after, *_), (task, *_) = stages(house, MobileBertConfig(transfer_epochs=4, lower_rate=rate))
        changes = [
            sum((a - b).abs().sum().item() for a, b in zip(x.parameters(), y.parameters(), strict=True))
            for x, y in zip(encoder_layers(before), encoder_layers(after), strict=True)
        ]
        assert all(change > 0 for change in changes)
        assert torch.equal(before.classifier.weight, after.classifier.weight)  # the head waits
        assert all(p.requires_grad for p in task.parameters())
        moved[rate] = changes
    assert moved[0.0][3] != moved[0.1][3]  # the last one met other layers below

    model = house.teacher.model
    hook = LayerTurns(model, 0.25)
    hook.before_forward(5, 8)
    assert hook.layer == 2
    flags = [all(p.requires_grad for p in layer.parameters()) for layer in encoder_layers(model)]
    assert flags == [True, True, True, False]
    weights = [layer.output.dense.weight for layer in encoder_layers(model)]
    start = [w.detach().clone() for w in weights]
    with torch.no_grad():
        for weight in weights:
            weight += 1.0
    hook.after_step(6, 8)
    np.testing.assert_allclose((weights[1] - start[1]).detach(), 0.25, atol=1e-6)
    np.testing.assert_allclose((weights[2] - start[2]).detach(), 1.0, atol=1e-6)


def test_every_layer_has_the_same_mean_rate_in_its_turn(tmp_path) -> None:
    from compressor.training.optimization import rate_factor
    from compressor.training.turns import LayerTurns

    turns = LayerTurns(TinyHouse(tmp_path).teacher.model, 0.0)
    rates = [group["lr"] for group in turns.parameter_groups(0.01, 0.1)[::2]]
    means = [
        np.mean([rate * rate_factor(s, 400, 0.0) for s in range(i * 100, i * 100 + 100)])
        for i, rate in enumerate(rates)
    ]
    np.testing.assert_allclose(means, 0.01, rtol=0.05)


def test_another_width_learns_through_a_projection_that_is_thrown_away(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    found = stages(house, MobileBertConfig(transfer_epochs=1), StudentConfig(layers=2, hidden_size=16, heads=2))
    assert tuple(found[0][2]["extra_modules"]["projection"].weight.shape) == (32, 16)
    assert not [name for name in found[1][1].state_dict() if "projection" in name]


def test_the_control_learns_less_of_the_maps(tmp_path) -> None:
    """With transfer the last layer's maps are nearer the teacher's than without."""
    house = TinyHouse(tmp_path)
    batch = house.batch(house.teacher)
    mask = batch.inputs["attention_mask"].bool()
    wanted = house.teacher.model(**batch.inputs, output_hidden_states=True).hidden_states[-1][mask]
    errors = {}
    for transfer in (True, False):
        options = MobileBertConfig(transfer=transfer, transfer_epochs=6, schedule=Schedule.joint)
        model = stages(house, options)[-1][1]
        got = model(**batch.inputs, output_hidden_states=True).hidden_states[-1][mask]
        errors[transfer] = ((got - wanted) ** 2).mean().item()
    assert errors[True] < errors[False]


# families, tasks, checkpoints


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "mpnet", "electra", "distilbert", "deberta-v2"])
def test_sources_of_other_families(tmp_path, family) -> None:
    import transformers

    house = TinyHouse(tmp_path)
    kind = "token_classification" if family in ("electra", "mpnet") else "classification"
    if kind == "token_classification":
        house.task = build_task(TaskConfig(name=kind, type=kind, max_length=32), ("O", "B-X"))
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
    sizes |= {"embedding_size": 32} if family == "electra" else {}
    config = transformers.AutoConfig.for_model(family, **sizes, **house.task.config_overrides())
    module = getattr(transformers, house.task.auto_class).from_config(config).eval()
    house.teacher = replace(house.teacher, module=module, config=module.config, head=house.task.head)
    result = house.compress([MobileBert(MobileBertConfig(transfer_epochs=1))], StudentConfig(layers=2))
    assert type(result.model).__name__ == house.task.auto_class.replace("AutoModel", "MobileBert")
    assert np.isfinite(house.logits(result)).all()


def test_factorised_sources_are_refused(tmp_path) -> None:
    from compressor_plugins.albert import Albert, AlbertConfig

    with pytest.raises(Incompatible, match="factorised already"):
        TinyHouse(tmp_path).check(
            [Albert(AlbertConfig(embedding_size=8)), MobileBert(MobileBertConfig())], StudentConfig()
        )


def test_a_process_without_this_package_computes_the_same(tmp_path) -> None:
    house = TinyHouse(tmp_path)
    result = house.compress([MobileBert(MobileBertConfig(transfer_epochs=1))], StudentConfig(layers=2))
    store.save(result, tmp_path / "mobile")
    batch = house.batch(result)
    np.savez(tmp_path / "in.npz", **{k: v.numpy() for k, v in batch.inputs.items()})
    script = (
        "import sys, numpy, torch; torch.set_num_threads(1)\n"
        "from transformers import AutoModelForSequenceClassification as Auto\n"
        "model, info = Auto.from_pretrained(sys.argv[1], output_loading_info=True)\n"
        "assert type(model).__name__ == 'MobileBertForSequenceClassification' and not info['missing_keys'], info\n"
        "inputs = {k: torch.tensor(v) for k, v in numpy.load(sys.argv[2]).items()}\n"
        "numpy.save(sys.argv[3], model.eval()(**inputs).logits.detach().numpy())\n"
        "assert not [m for m in sys.modules if m.startswith('compressor')]\n"
    )
    paths = [str(tmp_path / name) for name in ("mobile", "in.npz", "out.npy")]
    ended = subprocess.run(
        [sys.executable, "-c", script, *paths], capture_output=True, text=True, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), house.logits(result))


def test_distillation_goes_on_from_a_mobilebert(tmp_path) -> None:
    from compressor_plugins.distill import Distill, DistillConfig

    house = TinyHouse(tmp_path)
    chain = [MobileBert(MobileBertConfig(transfer_epochs=1)), Distill(DistillConfig())]
    result = house.compress(chain, StudentConfig(layers=2))
    assert result.config.model_type == "mobilebert" and [step.method for step in result.lineage] == [
        "mobilebert",
        "distill",
    ]


# refusals


@pytest.mark.parametrize(
    "options",
    [
        {"bottleneck_size": 0},
        {"embedding_size": 0},
        {"ffn_networks": 0},
        {"transfer_epochs": 0},
        {"lower_rate": 1.5},
        {"feature_weight": 0.0},
        {"attention_weight": -1.0},
        {"alpha": 2.0},
        {"temperature": 0.0},
    ],
)
def test_options_out_of_range_are_named(options) -> None:
    with pytest.raises(ConfigError, match=f"method.mobilebert.{next(iter(options))}="):
        MobileBertConfig(**options)


@pytest.mark.parametrize(
    ("options", "student", "told"),
    [
        ({}, {"init": "first", "layers": 2}, "fits into a bottleneck"),
        ({}, {"layers": 5}, "cannot learn from 4"),
        ({"bottleneck_size": 12}, {"heads": 3}, "the 4 heads"),
        ({"bottleneck_size": 10}, {}, "do not divide the width 10"),
        ({"embedding_size": 64}, {}, "embedding_size=64"),
    ],
)
def test_what_does_not_fit_is_refused_before_work(tmp_path, options, student, told) -> None:
    with pytest.raises(Incompatible, match=told):
        TinyHouse(tmp_path).check([MobileBert(MobileBertConfig(**options))], StudentConfig(**student))


def test_heads_of_a_pruned_teacher_are_counted(tmp_path) -> None:
    house, method = TinyHouse(tmp_path), MobileBert(MobileBertConfig())
    whole = house.teacher
    for cut, told in (({"heads": 3}, "the 3 heads"), ({"heads": None}, "differ in their numbers")):
        house.teacher = replace(whole, cut=cut)
        with pytest.raises(Incompatible, match=told):
            house.check([method], StudentConfig(layers=2))
        house.check([MobileBert(MobileBertConfig(attention_weight=0.0))], StudentConfig(layers=2))


def test_heads_that_do_not_match_work_without_attention_transfer(tmp_path) -> None:
    options = MobileBertConfig(bottleneck_size=12, attention_weight=0.0, transfer_epochs=1)
    house = TinyHouse(tmp_path)
    assert house.compress([MobileBert(options)], StudentConfig(layers=2, heads=3)).model.config.num_attention_heads == 3
