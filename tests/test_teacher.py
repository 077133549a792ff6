from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
import torch

from compressor import teacher
from compressor.assets import CACHE_ENV
from compressor.config import FineTune, TaskConfig, TeacherConfig, TrainConfig
from compressor.errors import AssetError, ConfigError, Incompatible, TrainingError
from compressor.machine import Machine
from compressor.tasks.data import load_task
from compressor.training.progress import silent_progress

sys.path.insert(0, str(Path(__file__).parent))

from toy_files import write_checkpoint, write_data  # noqa: E402 - found through the line above

CPU = Machine(device="cpu", threads=1)
TRAIN = TrainConfig(epochs=10, batch_size=16, learning_rate=3e-3)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher")
    write_data(folder / "data.csv")
    write_checkpoint(folder / "encoder")
    return folder


@pytest.fixture
def loaded(place, monkeypatch):
    monkeypatch.setenv(CACHE_ENV, str(place / "cache"))
    return load_task(TaskConfig(name="toy", source="file", train=str(place / "data.csv")))


def prepare(config, loaded, seed=0):
    return teacher.prepare(config, *loaded, CPU, seed=seed, progress=silent_progress())


def own(place, **changes):
    return TeacherConfig(checkpoint=str(place / "encoder"), train=TRAIN, **changes)


@pytest.fixture(scope="module")
def trained(place):
    """A checkpoint with a trained head, as a user would have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CACHE_ENV, str(place / "cache"))
        task, data = load_task(TaskConfig(name="toy", source="file", train=str(place / "data.csv")))
        return teacher.prepare(own(place), task, data, CPU, seed=0, progress=silent_progress())


def relabelled(trained, folder, names):
    """Save the trained teacher with its outputs in another order and under these names."""
    order = [names.index(n) if n in names else i for i, n in enumerate(("bad", "good"))]
    model = type(trained.artifact.model)(trained.artifact.config)
    model.load_state_dict(trained.artifact.model.state_dict())
    with torch.no_grad():
        model.classifier.weight.copy_(model.classifier.weight[order].clone())
        model.classifier.bias.copy_(model.classifier.bias[order].clone())
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {n: i for i, n in enumerate(names)}
    model.save_pretrained(folder)
    trained.artifact.tokenizer.save_pretrained(folder)
    return TeacherConfig(checkpoint=str(folder), finetune=FineTune.never)


def test_an_untrained_head_is_trained_once_and_cached(place, loaded, trained) -> None:
    assert trained.validation["accuracy"] > 0.9 and trained.seconds > 0
    again = prepare(own(place), loaded)
    assert again.from_cache and again.key == trained.key and again.validation == trained.validation
    for name, value in trained.artifact.model.state_dict().items():
        assert torch.equal(value, again.artifact.model.state_dict()[name])


@pytest.mark.parametrize("changed", ["seed", "epochs", "weights", "data"])
def test_the_cache_key_holds_what_decides_the_teacher(place, loaded, trained, changed, tmp_path) -> None:
    config, seed = own(place), 0
    task, data = loaded
    if changed == "seed":
        seed = 1
    elif changed == "epochs":
        config.train = TrainConfig(epochs=9, batch_size=16, learning_rate=3e-3)
    elif changed == "weights":
        config.checkpoint = str(write_checkpoint(tmp_path / "other", seed=5))
    else:
        task, data = load_task(TaskConfig(name="toy", source="file", train=str(write_data(tmp_path / "d.csv", seed=3))))
    assert prepare(config, (task, data), seed=seed).key != trained.key


def test_a_trained_head_is_taken_as_it_is(loaded, trained, tmp_path) -> None:
    found = prepare(relabelled(trained, tmp_path / "same", ("bad", "good")), loaded)
    assert found.seconds == 0 and found.validation == trained.validation


def test_labels_in_another_order_are_realigned_by_name(loaded, trained, tmp_path, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        found = prepare(relabelled(trained, tmp_path / "turned", ("good", "bad")), loaded)
    assert found.validation == trained.validation
    assert "by name" in caplog.text


def test_nameless_labels_in_another_order_are_refused_with_the_better_order(loaded, trained, tmp_path) -> None:
    config = relabelled(trained, tmp_path / "nameless", ("good", "bad"))
    from transformers import AutoConfig

    saved = AutoConfig.from_pretrained(tmp_path / "nameless")
    saved.id2label, saved.label2id = {0: "LABEL_0", 1: "LABEL_1"}, {"LABEL_0": 0, "LABEL_1": 1}
    saved.save_pretrained(tmp_path / "nameless")
    with pytest.raises(TrainingError, match=r"outputs meant \['good', 'bad'\]"):
        prepare(config, loaded)


def test_a_head_for_other_labels_is_refused(loaded, trained, tmp_path) -> None:
    with pytest.raises(Incompatible, match="entailment"):
        prepare(relabelled(trained, tmp_path / "other", ("entailment", "neutral")), loaded)


def test_no_head_and_no_permission_to_train_is_refused(place, loaded) -> None:
    with pytest.raises(Incompatible, match="no head trained"):
        prepare(own(place, finetune=FineTune.never), loaded)


def test_a_folder_that_is_not_there(loaded) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        teacher.blueprint(TeacherConfig(checkpoint="./nowhere"), loaded[0])


def test_no_hub_names_the_offline_choice(loaded, monkeypatch) -> None:
    from transformers import AutoConfig

    def refuse(*args, **kwargs):
        raise OSError("We couldn't connect")

    monkeypatch.setattr(AutoConfig, "from_pretrained", refuse)
    with pytest.raises(AssetError, match="teacher=e5_small"):
        teacher.blueprint(TeacherConfig(checkpoint="bert-base-uncased"), loaded[0])


@pytest.mark.parametrize("family", ["roberta", "electra", "distilbert", "mpnet"])
def test_other_families_are_teachers_too(family, place, loaded, tmp_path) -> None:
    import transformers

    from compressor.config import Precision, StudentConfig
    from compressor.students import build_student
    from compressor.testing.tiny import tiny_tokenizer
    from compressor.training.batching import encode_split
    from compressor.training.loop import fit
    from compressor.training.session import label_loss
    from compressor.training.signals import TeacherSignals
    from compressor.training.teacher_cache import TeacherOutputs

    torch.manual_seed(0)
    names = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "distilbert":
        names = {"dim": 32, "n_layers": 4, "n_heads": 4, "hidden_dim": 64}
    config = transformers.AutoConfig.for_model(family, vocab_size=40, max_position_embeddings=66, **names)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / family)
    tiny_tokenizer().save_pretrained(tmp_path / family)
    found = teacher.blueprint(TeacherConfig(checkpoint=str(tmp_path / family)), loaded[0])
    assert found.layers == 4
    artifact, trained = teacher.load_pretrained(str(tmp_path / family), loaded[0])
    assert not trained
    student = build_student(artifact, StudentConfig(layers=2))
    split = encode_split(loaded[0], artifact.tokenizer, loaded[1].train[:16])
    seen = []
    for model in (student, artifact.model):
        model.register_forward_pre_hook(lambda module, args, given: seen.append(set(given)), with_kwargs=True)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    taught = TeacherOutputs(
        artifact.model,
        artifact.tokenizer,
        split=split,
        student_tokenizer=artifact.tokenizer,
        signals=TeacherSignals(logits=True, hidden=(-1, 3), attention=(3,), qkv=(3,)),
        precision=Precision.fp32,
    )
    settings = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-3, precision=Precision.fp32, keep_best=False)
    result = fit(student, label_loss, train=split, validation=split, settings=settings, teacher=taught)
    assert result.steps == 1 and 0 <= result.best_score <= 1
    assert len(seen) >= 3  # the teacher, the step, the validation
    assert all(("token_type_ids" in given) == (family in ("roberta", "electra")) for given in seen)
    assert any(not torch.equal(value, before[name]) for name, value in student.state_dict().items())
