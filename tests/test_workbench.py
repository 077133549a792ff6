"""What a link is lent: splits and stages that are reused exactly where they may be."""

from __future__ import annotations

import importlib.util
import logging
import sys
from dataclasses import replace

import pytest
import torch

from compressor import keys, workbench
from compressor.capabilities import Capabilities
from compressor.config import MethodConfig, StudentConfig
from compressor.errors import PluginError
from compressor.method import CompressionMethod
from compressor.pipeline import method_classes
from compressor.tasks import build_task
from compressor.testing.house import Shorten, TinyHouse, cache_at
from compressor.testing.tiny import tiny_tokenizer
from compressor.training.progress import silent_progress
from compressor.training.session import label_loss
from compressor.training.signals import TeacherSignals
from compressor.workbench import Shared, Workbench


class Train(CompressionMethod[MethodConfig]):
    """Train the student on the labels."""

    Config = MethodConfig
    capabilities = Capabilities(needs_training=True, reads_student=True, signals=frozenset({"logits", "hidden"}))
    references = ("none: a test's own method",)
    stages = ("train",)

    def compress(self, source, ctx):
        student = ctx.build_student(source)
        for stage in self.stages:
            result = ctx.fit(student, label_loss, stage=stage, tokenizer=source.tokenizer)
        return source.evolve(model=student, notes=result.summary())


@pytest.fixture
def house(tmp_path):
    return TinyHouse(tmp_path)


def bench(house, folder, *, method=Train, student=None, shared=None, before=()):
    methods = [m(MethodConfig()) for m in (*before, method)]
    links = house.check(methods, student or StudentConfig(layers=2))
    folder.mkdir(parents=True, exist_ok=True)
    return Workbench(
        links=links,
        position=len(links) - 1,
        teacher=house.teacher,
        teacher_key="tiny",
        data=house.data,
        seed=0,
        threads=1,
        workspace=folder,
        shared=shared or Shared(),
        progress=silent_progress(),
    )


def stage_of(house, cache, **options):
    """Train one stage in a cache; return its folder's name and what came of it."""
    torch.manual_seed(0)
    context = bench(house, cache / "work", **options)
    with cache_at(cache):
        before = set((cache / "stages").glob("*"))
        result = context.fit(context.build_student(house.teacher), label_loss)
        made = set((cache / "stages").glob("[!.]*")) - before
    return {p.name for p in made}, result


class Silent(Train):
    """Says nothing of what it reads."""

    capabilities = Capabilities(needs_training=True, reads_student=True)


class Reader(Train):
    """Reads the transfer text as text."""

    capabilities = Capabilities(needs_training=True, reads_student=True, reads_unlabelled_text=True)


def test_transfer_text_is_lent_to_those_who_declare_it(house, tmp_path) -> None:
    assert list(bench(house, tmp_path / "none", method=Silent).unlabelled_texts()) == []
    house.data = replace(house.data, unlabelled=house.data.validation[:2])
    assert len(bench(house, tmp_path / "text", method=Reader).unlabelled_texts()) == 2
    assert len(bench(house, tmp_path / "signals").unlabelled_texts()) == 2
    context = bench(house, tmp_path / "silent", method=Silent)
    with pytest.raises(PluginError, match="reads the transfer text") as caught:
        context.unlabelled_texts()
    assert "reads_unlabelled_text=True" in caught.value.hint
    with pytest.raises(PluginError, match="reads the transfer text"):
        context.fit(context.build_student(house.teacher), label_loss, use_unlabelled=True)


def test_a_second_link_of_a_method_has_curves_of_its_own(house, tmp_path) -> None:
    assert bench(house, tmp_path / "1")._label == "checked"
    assert bench(house, tmp_path / "2", before=(Train,))._label == "checked 2"


# Splits ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["max_length", "type", "label_names"])
def test_cells_with_other_encodings_share_no_split(house, changed) -> None:
    shared, tokenizer = Shared(), house.teacher.tokenizer
    config, names = house.task.config, house.task.label_names
    first = shared.split("train", house.task, house.data, tokenizer, False)
    assert shared.split("train", build_task(config, names), house.data, tokenizer, False) is first
    if changed == "max_length":
        other = build_task(replace(config, max_length=8), names)
        assert int(shared.split("train", other, house.data, tokenizer, False).lengths.max()) == 8
    elif changed == "type":
        other = build_task(replace(config, type="regression"), ())
    else:
        other = build_task(config, names[::-1])
    found = shared.split("train", other, house.data, tokenizer, False)
    assert found is not first and found.task is other


def test_tokenizers_that_normalise_otherwise_share_no_split(house) -> None:
    shared = Shared()
    cased = type(tiny_tokenizer())(vocab=tiny_tokenizer().get_vocab(), do_lower_case=False, model_max_length=64)
    assert cased.get_vocab() == house.teacher.tokenizer.get_vocab()
    first = shared.split("train", house.task, house.data, house.teacher.tokenizer, False)
    house.teacher.tokenizer(["a", "a film"], padding=True, truncation=True, max_length=9)  # leaves traces in a fast one
    assert shared.split("train", house.task, house.data, house.teacher.tokenizer, False) is first
    assert shared.split("train", house.task, house.data, cased, False) is not first


# Stages ---------------------------------------------------------------------------------------


def test_a_finished_stage_is_reused_and_says_so(house, tmp_path, caplog) -> None:
    made, first = stage_of(house, tmp_path / "cache")
    assert len(made) == 1
    with caplog.at_level(logging.INFO, "compressor"):
        again, second = stage_of(house, tmp_path / "cache")
    assert not again and second.resumed_from == "finished" and second.seconds == first.seconds
    name = next(iter(made)).partition("-")[0]
    assert [m for m in caplog.messages if "reused" in m] == [
        f"{name}: finished before in {first.seconds:.0f} s; its weights are reused"
    ]


@pytest.mark.parametrize("changed", ["max_length", "labels", "start", "plugin", "library", "processes"])
def test_a_stage_is_not_reused_where_something_else_would_be_learned(house, tmp_path, monkeypatch, changed) -> None:
    stage_of(house, tmp_path / "cache")
    if changed == "max_length":
        house.task.config.max_length = 12
    elif changed == "labels":
        first = house.data.validation[0]
        house.data = replace(house.data, validation=(replace(first, label=1 - first.label), *house.data.validation[1:]))
    elif changed == "start":
        with torch.no_grad():
            house.teacher.model.bert.embeddings.word_embeddings.weight[0] += 1.0
    elif changed == "plugin":
        monkeypatch.setattr(workbench, "plugin_code", lambda classes: "other code")
    elif changed == "library":
        monkeypatch.setattr(workbench, "libraries", lambda: {**keys.libraries(), "torch": "99.0"})
    else:
        monkeypatch.setattr(workbench, "processes", lambda: 2)
    assert len(stage_of(house, tmp_path / "cache")[0]) == 1


@pytest.mark.parametrize("changed", ["tests", "saving"])
def test_a_stage_is_reused_where_nothing_else_would_be_learned(house, tmp_path, changed) -> None:
    stage_of(house, tmp_path / "cache")
    if changed == "tests":
        house.data = replace(house.data, test=house.data.test[:3], fingerprint="another")
    else:
        house.train = replace(house.train, checkpoint_seconds=9.0, cache_gb=1.0)
    assert stage_of(house, tmp_path / "cache")[1].resumed_from == "finished"


def test_hidden_states_that_no_longer_fit_make_another_stage(house, tmp_path) -> None:
    def key(cache_gb):
        house.train = replace(house.train, cache_gb=cache_gb)
        context = bench(house, tmp_path / "work")
        split = context._shared.split("train", house.task, house.data, house.teacher.tokenizer, False)
        signals = TeacherSignals(hidden=(1,))
        outputs = context._teacher_outputs(split, signals, house.teacher.tokenizer, house.train)
        return context._stage_key("train", house.train, house.teacher.model, [split], False, outputs)

    assert key(4.0) == key(1.0) != key(0.0)


def test_a_stage_name_is_used_once_in_a_link(house) -> None:
    class Twice(Train):
        stages = ("train", "train")

    class TwoStages(Train):
        stages = ("first", "second")

    with pytest.raises(PluginError, match="two stages named 'train'"):
        house.compress([Twice(MethodConfig())])
    house.compress([TwoStages(MethodConfig())])
    house.compress([Train(MethodConfig()), Shorten(MethodConfig())])


# Code -----------------------------------------------------------------------------------------


def load_class(path):
    """Import a file under a name of its own and return its class."""
    spec = importlib.util.spec_from_file_location(f"guest_{path.stem}_{abs(hash(path))}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Guest


def test_the_code_of_a_plugin_is_its_whole_package(tmp_path) -> None:
    package = tmp_path / "guest" / "inner"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").touch()
    (package / "method.py").write_text("class Guest: ...\n")
    (package.parent / "losses.py").write_text("WEIGHT = 1\n")
    (tmp_path / "beside.py").write_text("X = 1\n")
    guest = load_class(package / "method.py")
    before = keys.plugin_code([guest])
    (tmp_path / "beside.py").write_text("X = 2\n")
    assert keys.plugin_code([guest]) == before
    (package.parent / "losses.py").write_text("WEIGHT = 2\n")
    assert keys.plugin_code([guest]) != before


def test_the_code_of_a_plugin_of_one_file_is_that_file(tmp_path) -> None:
    (tmp_path / "single.py").write_text("class Guest: ...\n")
    guest = load_class(tmp_path / "single.py")
    before = keys.plugin_code([guest])
    (tmp_path / "beside.py").write_text("X = 1\n")
    assert keys.plugin_code([guest]) == before
    (tmp_path / "single.py").write_text("class Guest:\n    x = 1\n")
    assert keys.plugin_code([guest]) != before


def test_a_derived_method_counts_the_one_it_is_derived_from(house) -> None:
    class Derived(Train): ...

    found = method_classes(link.method for link in house.check([Derived(MethodConfig())]))
    assert found == {Derived, Train}


def test_our_code_is_all_that_may_decide_a_weight() -> None:
    from pathlib import Path

    root = Path(keys.__file__).parent
    counted = {f for f in root.rglob("*.py") if keys._within(f.relative_to(root), ())}
    for name in ("training/loop.py", "workbench.py", "students.py", "tasks/losses.py", "config.py", "context.py"):
        assert root / name in counted
    for name in ("report/screen.py", "help.py", "cli.py", "measure/size.py", "compare/bootstrap.py"):
        assert root / name not in counted


# Frozen embeddings ----------------------------------------------------------------------------


RANDOM = StudentConfig(layers=2, init="random")


@pytest.mark.parametrize(
    ("student", "before", "moves"),
    [
        (RANDOM, (), True),
        (StudentConfig(hidden_size=16), (), True),
        (StudentConfig(layers=2), (), False),
        (RANDOM, (Shorten,), True),
        (RANDOM, (Train,), False),
    ],
    ids=["random", "narrower", "copied", "random and untrained before", "random and trained before"],
)
def test_a_random_table_is_not_frozen(house, tmp_path, caplog, student, before, moves) -> None:
    house.train = replace(house.train, freeze_embeddings=True)
    context = bench(house, tmp_path / "work", student=student, before=before)
    torch.manual_seed(0)
    model = context.build_student(house.teacher)
    table = model.get_input_embeddings().weight.detach().clone()
    with cache_at(tmp_path / "cache"), caplog.at_level(logging.WARNING, "compressor"):
        context.fit(model, label_loss)
    assert torch.equal(model.get_input_embeddings().weight, table) is not moves
    told = [m for m in caplog.messages if "freeze_embeddings" in m]
    assert len(told) == moves and all("\n" not in m for m in told)


# A method's own texts -------------------------------------------------------------------------


def test_extra_texts_are_unlabelled_examples_of_a_stage_of_their_own(house, tmp_path) -> None:
    seen, folders = [], []

    def counting(inputs):
        seen.append(inputs.batch.labels)
        return {"soft": inputs.task.soft_loss(inputs.logits, inputs.teacher_logits, inputs.batch)}

    for number, texts in enumerate(((), ("the film is good", "a bad plot"), ("the film is good", "a sad plot"))):
        torch.manual_seed(0)
        context = bench(house, tmp_path / f"work-{number}")
        seen.clear()
        with cache_at(tmp_path / "cache"):
            before = set((tmp_path / "cache" / "stages").glob("[!.]*"))
            context.fit(
                context.build_student(house.teacher), counting, signals=TeacherSignals(logits=True), extra_texts=texts
            )
            folders.append(set((tmp_path / "cache" / "stages").glob("[!.]*")) - before)
        labels = torch.cat(seen)
        assert len(labels) == 48 + len(texts)
        assert int((labels < 0).sum()) == len(texts)
    assert all(len(made) == 1 for made in folders)


def test_extra_texts_are_refused_where_examples_are_no_single_texts(house, tmp_path) -> None:
    context = bench(house, tmp_path / "work")
    context.plan = replace(
        context.plan, task=build_task(replace(house.task.config, text_pair="hypothesis"), ("negative", "positive"))
    )
    with pytest.raises(PluginError, match="not single texts"):
        context.fit(context.build_student(house.teacher), label_loss, extra_texts=("more",))


def test_a_method_may_give_the_students_shape_and_read_the_training_texts(house, tmp_path) -> None:
    context = bench(house, tmp_path / "work")
    assert context.build_student(house.teacher, StudentConfig(layers=3)).config.num_hidden_layers == 3
    assert list(context.training_texts()) == [example.text for example in house.data.train]
