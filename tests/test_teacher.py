from __future__ import annotations

import json
import logging
import shutil
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressor import commit, keys, store, teacher
from compressor.artifact import Step
from compressor.assets import CACHE_ENV
from compressor.config import FineTune, TaskConfig, TeacherConfig, TrainConfig
from compressor.errors import AssetError, ConfigError, Incompatible, StoreError, TrainingError
from compressor.machine import Machine
from compressor.tasks.base import Example
from compressor.tasks.data import load_task
from compressor.training import journal
from compressor.training.progress import silent_progress

sys.path.insert(0, str(Path(__file__).parent))

from toy_files import same_weights, write_checkpoint, write_data  # noqa: E402 - found through the line above

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


def test_a_run_that_finds_the_teacher_made_has_the_curve_of_its_training(place, loaded, monkeypatch, tmp_path) -> None:
    in_another_cache(monkeypatch, place, "curves")

    def curve(name):
        noted = journal.Journal(silent_progress(), tmp_path / name)
        found = teacher.prepare(own(place), *loaded, CPU, seed=0, progress=noted)
        return found.from_cache, journal.read(tmp_path / name)

    made, taken = curve("made"), curve("taken")
    assert made[0] is False and taken[0] is True
    assert made[1] and taken[1] == made[1] and {line["stage"] for line in made[1]} == {"teacher"}


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


def in_another_cache(monkeypatch, place, name):
    monkeypatch.setenv(CACHE_ENV, str(place / name))


# The cache ------------------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["a flipped bit", "no manifest"])
def test_a_damaged_teacher_is_made_again(place, loaded, trained, monkeypatch, tmp_path, caplog, damage) -> None:
    in_another_cache(monkeypatch, tmp_path, "cache")
    folder = Path(shutil.copytree(trained.folder, tmp_path / "cache" / "teachers" / trained.key))
    if damage == "no manifest":
        (folder / commit.MANIFEST).unlink()
    else:
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1] + bytes([weights.read_bytes()[-1] ^ 1]))
    found = prepare(own(place), loaded)
    assert not found.from_cache and found.folder == folder and "made again" in caplog.text
    assert [p.name for p in folder.parent.iterdir() if p.name != f".{trained.key}.lock"] == [trained.key]
    assert prepare(own(place), loaded).from_cache


def test_of_two_equal_runs_one_trains_and_the_other_waits(
    place, loaded, trained, monkeypatch, tmp_path, caplog
) -> None:
    in_another_cache(monkeypatch, tmp_path, "cache")
    monkeypatch.setattr(teacher, "train_on_labels", lambda *a, **k: pytest.fail("it is trained a second time"))
    folder = tmp_path / "cache" / "teachers" / trained.key
    found = []
    with commit.FolderLock(folder) as theirs, caplog.at_level(logging.INFO, "compressor"):
        assert theirs.acquire()
        ours = threading.Thread(target=lambda: found.append(prepare(own(place), loaded)))
        ours.start()
        while not any("waiting" in m for m in caplog.messages):
            assert ours.is_alive(), "it did not wait"
            time.sleep(0.05)
        shutil.copytree(trained.folder, folder)  # they finish
    ours.join(timeout=120)
    assert found[0].from_cache and found[0].validation == trained.validation


@pytest.mark.parametrize("changed", ["tests", "transfer text", "saving", "place"])
def test_what_does_not_decide_the_teacher_is_not_in_its_key(place, loaded, trained, changed, tmp_path) -> None:
    config, (task, data) = own(place), loaded
    if changed == "tests":
        data = replace(data, test=data.test[:3], extra_tests={"other": data.test}, fingerprint="another")
    elif changed == "transfer text":
        data = replace(data, unlabelled=(Example(999, "a film"),), fingerprint="another")
    elif changed == "saving":
        config.train = replace(TRAIN, checkpoint_seconds=1.0, cache_gb=0.5)
    else:
        config.checkpoint = str(shutil.copytree(place / "encoder", tmp_path / "elsewhere"))
    assert prepare(config, (task, data)).key == trained.key


@pytest.mark.parametrize("changed", ["normaliser", "length", "processes", "library", "code"])
def test_the_key_knows_what_text_code_and_libraries_become(
    place, loaded, trained, changed, tmp_path, monkeypatch
) -> None:
    config, (task, data) = own(place), loaded
    if changed == "normaliser":
        from transformers import BertTokenizer

        config.checkpoint = str(shutil.copytree(place / "encoder", tmp_path / "cased"))
        vocabulary = trained.artifact.tokenizer.get_vocab()
        BertTokenizer(vocab=vocabulary, do_lower_case=False, model_max_length=64).save_pretrained(config.checkpoint)
    elif changed == "length":
        task = type(task)(replace(task.config, max_length=16), task.label_names)
    elif changed == "processes":
        monkeypatch.setattr(teacher, "processes", lambda: 2)
    elif changed == "library":
        monkeypatch.setattr(teacher, "libraries", lambda: {**keys.libraries(), "torch": "99.0"})
    else:
        monkeypatch.setattr(teacher, "own_code", lambda parts: keys.own_code(("training",)))
    in_another_cache(monkeypatch, tmp_path, "cache")
    config.train = replace(TRAIN, epochs=1)  # the key alone is asked for
    monkeypatch.setattr(teacher, "_validate", lambda *a: {})
    keyed = prepare(config, (task, data)).key
    monkeypatch.undo()
    in_another_cache(monkeypatch, tmp_path, "cache")
    monkeypatch.setattr(teacher, "_validate", lambda *a: {})
    assert keyed != prepare(replace(own(place), train=config.train), loaded).key


# Checkpoints that are not what they say -------------------------------------------------------


def damaged(place, folder, change):
    from safetensors.torch import load_file, save_file

    shutil.copytree(place / "encoder", folder)
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return TeacherConfig(checkpoint=str(folder), train=TRAIN)


def without(part):
    def change(tensors):
        for name in [n for n in tensors if part in n]:
            del tensors[name]

    return change


def narrower(tensors):
    name = next(n for n in tensors if n.endswith("word_embeddings.weight"))
    tensors[name] = tensors[name][:-2].clone()


@pytest.mark.parametrize("change", [without("layer.3."), without("word_embeddings"), narrower])
def test_an_encoder_that_would_be_partly_random_is_refused(place, loaded, tmp_path, change) -> None:
    config = damaged(place, tmp_path / "partial", change)
    with pytest.raises(Incompatible, match="of the encoder are missing or have another shape"):
        teacher.load_pretrained(config.checkpoint, loaded[0])


def test_a_pooler_may_be_missing(place, loaded, tmp_path) -> None:
    config = damaged(place, tmp_path / "no-pooler", without("pooler"))
    assert not teacher.load_pretrained(config.checkpoint, loaded[0])[1]


def test_a_cut_file_is_a_typed_error(place, loaded, tmp_path) -> None:
    folder = Path(shutil.copytree(place / "encoder", tmp_path / "cut"))
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(AssetError, match="could not be loaded"):
        teacher.load_pretrained(str(folder), loaded[0])


@pytest.mark.parametrize("shard", ["shard.bin", "../elsewhere/model.safetensors", "/dev/zero"])
def test_an_index_that_names_a_pickle_or_a_file_elsewhere_is_refused(place, loaded, tmp_path, shard) -> None:
    folder = Path(shutil.copytree(place / "encoder", tmp_path / "sharded"))
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"weight": shard}}))
    with pytest.raises(AssetError, match="names .*(shard.bin|elsewhere|zero)"):
        teacher.load_pretrained(str(folder), loaded[0])


@pytest.mark.parametrize("asked", [{"vocab_size": 10**12}, {"num_hidden_layers": 10**6}, {"intermediate_size": 10**11}])
def test_a_config_that_asks_for_far_more_than_its_weights_is_refused_at_once(place, loaded, tmp_path, asked) -> None:
    folder = Path(shutil.copytree(place / "encoder", tmp_path / "vast"))
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | asked))
    with pytest.raises(StoreError, match=f"asks for {next(iter(asked))}"):
        teacher.load_pretrained(str(folder), loaded[0])


def test_remote_code_is_never_run(place, loaded, monkeypatch) -> None:
    import transformers

    asked = []
    for name in ("AutoConfig", "AutoTokenizer", "AutoModelForSequenceClassification"):
        kind = getattr(transformers, name)
        real = kind.from_pretrained

        def watched(*args, real=real, **kwargs):
            asked.append(kwargs["trust_remote_code"])
            return real(*args, **kwargs)

        monkeypatch.setattr(kind, "from_pretrained", watched)
    teacher.blueprint(own(place), loaded[0])
    teacher.load_pretrained(str(place / "encoder"), loaded[0])
    assert len(asked) >= 5 and not any(asked)


# Heads ----------------------------------------------------------------------------------------


def head_of(artifact):
    return artifact.model.classifier.weight.detach()


def test_always_draws_a_new_head_whatever_head_there_is(loaded, trained, tmp_path) -> None:
    relabelled(trained, tmp_path / "headed", ("bad", "good"))
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        artifact, taken = teacher.load_pretrained(str(tmp_path / "headed"), loaded[0], replace_head=True)
        assert not taken
        drawn.append(artifact)
    assert not torch.equal(head_of(drawn[0]), head_of(trained.artifact))
    assert not drawn[0].model.classifier.bias.any(), "the head is drawn as the model draws it"
    assert head_of(drawn[0]).std() < 0.05
    assert same_weights(drawn[0], drawn[1]) and not torch.equal(head_of(drawn[0]), head_of(drawn[2]))
    encoder = trained.artifact.model.bert.state_dict()
    assert all(torch.equal(v, encoder[k]) for k, v in drawn[2].model.bert.state_dict().items())


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    """A checkpoint with a trained head of three classes, without names for them."""
    place = tmp_path_factory.mktemp("three")
    write_checkpoint(place / "headed", headless=False, labels=3)
    rows = write_data(place / "two.csv").read_text().splitlines()[1:]
    (place / "data.csv").write_text(
        "text,label\n" + "\n".join(f"{r.rpartition(',')[0]},{i % 3}" for i, r in enumerate(rows))
    )
    return place


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0)])
def test_nameless_labels_are_held_against_every_order(three, monkeypatch, tmp_path, order) -> None:
    in_another_cache(monkeypatch, tmp_path, "cache")
    names = ["red", "green", "blue"]
    task, data = load_task(TaskConfig(name="toy", source="file", train=str(three / "data.csv"), label_names=names))

    def knows(model, task, tokenizer, examples, device):
        """A teacher that is right nine times in ten, and whose output i means class `order[i]`."""
        wanted = [(e.label + (i % 10 == 0)) % 3 for i, e in enumerate(examples)]
        predictions = [order.index(label) for label in wanted]
        if order == (1, 0, 2):  # mostly the class that is in place, so that it beats the majority nevertheless
            predictions = [2 if e.label == 2 else p for p, e in zip(predictions, examples, strict=True)]
        return predictions, {"accuracy": 0.6}

    monkeypatch.setattr(teacher, "evaluate_examples", knows)
    config = TeacherConfig(checkpoint=str(three / "headed"))
    if order == (0, 1, 2):
        assert prepare(config, (task, data)).validation == {"accuracy": 0.6}
        return
    right = str([names[i] for i in order]).replace("[", r"\[").replace("]", r"\]")
    with pytest.raises(TrainingError, match=f"have no names.*outputs meant {right}"):
        prepare(config, (task, data))


def test_a_better_order_must_be_clearly_better(loaded) -> None:
    task = loaded[0]
    examples = [Example(i, "", label=i % 2) for i in range(40)]
    right = [e.label for e in examples]
    assert teacher.better_order(task, right, examples) == ([], 0.0)
    assert teacher.better_order(task, [1 - p for p in right], examples) == (["good", "bad"], float("inf"))
    chance = [1 - p if i < 21 else p for i, p in enumerate(right)]
    assert 0 < teacher.better_order(task, chance, examples)[1] < teacher.CLEARLY


# Models of our own ----------------------------------------------------------------------------


def halve(module):
    """Halve the feed-forward parts: a structure that no config tells of."""
    for layer in module.bert.encoder.layer:
        one, two = layer.intermediate.dense, layer.output.dense
        layer.intermediate.dense = torch.nn.Linear(one.in_features, one.out_features // 2)
        layer.output.dense = torch.nn.Linear(two.in_features // 2, two.out_features)
    return module


@pytest.fixture
def rebuilt(trained, monkeypatch, tmp_path):
    """The trained teacher, rebuilt by a plugin and saved; and the registry that knows the plugin."""
    from compressor.registry import RegisteredMethod, Registry
    from compressor.testing.house import Shorten

    class Halve(Shorten):
        def rebuild(self, skeleton, structure):
            return halve(skeleton)

    known = Registry({"halve": RegisteredMethod(name="halve", method=Halve, distribution="a-plugin", version="1")})
    monkeypatch.setattr(store, "load_registry", lambda: known)
    step = Step(method="halve", distribution="a-plugin", version="1", config={}, structure={"halved": True})
    torch.manual_seed(3)
    model = type(trained.artifact.model)(trained.artifact.config)
    model.load_state_dict(trained.artifact.model.state_dict())
    artifact = replace(trained.artifact, module=halve(model).eval(), lineage=(step,))
    store.save(artifact, tmp_path / "rebuilt")
    return artifact, tmp_path / "rebuilt"


def test_a_rebuilt_model_of_ours_is_a_teacher_too(rebuilt, loaded, monkeypatch) -> None:
    artifact, folder = rebuilt
    monkeypatch.setattr(teacher, "_validate", lambda *a: {})
    for from_cache in (False, True):
        found = prepare(TeacherConfig(checkpoint=str(folder), finetune=FineTune.never), loaded)
        assert found.from_cache is from_cache
        assert same_weights(found.artifact, artifact)
        assert [step.method for step in found.artifact.lineage] == ["halve"]


def test_a_rebuilt_model_of_ours_gets_a_head_for_other_labels(rebuilt, loaded) -> None:
    artifact, folder = rebuilt
    task = type(loaded[0])(loaded[0].config, ("one", "two", "three"))
    found, taken = teacher.load_pretrained(str(folder), task)
    assert not taken and head_of(found).shape[0] == found.config.num_labels == found.model.num_labels == 3
    assert found.model.bert.encoder.layer[0].intermediate.dense.out_features == 32
    batch = task.collate(found.tokenizer, loaded[1].test[:3], task.encode(found.tokenizer, loaded[1].test[:3]))
    assert found.model(**batch.inputs).logits.shape == (3, 3)


def test_a_damaged_model_of_ours_is_named(rebuilt, loaded) -> None:
    (rebuilt[1] / "model.safetensors").write_bytes(b"")
    with pytest.raises(StoreError, match=r"model\.safetensors"):
        teacher.load_pretrained(str(rebuilt[1]), loaded[0])


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


def test_the_libraries_are_named_with_their_versions() -> None:
    import transformers

    found = keys.libraries()
    assert found["torch"] == str(torch.__version__) and found["transformers"] == transformers.__version__
