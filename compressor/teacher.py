"""Load the teacher; if its head is not trained for the task, train it once and keep it.

The cache key holds everything that decides the result: weights, tokenizer, training and validation examples, the task's shape,
settings, seed, device, threads, processes, the versions of torch and transformers, and the code of this file, of `pretrained`,
`training` and `tasks`. The test sets and the transfer text are no part of it: runs that differ in those alone share a teacher.
Labels are matched by name; names that say nothing (LABEL_0, ...) are taken in order, and validation must agree with that order.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import assets, commit, pretrained, published, store, surgery
from compressor.artifact import Blueprint, CompressedModel, Form
from compressor.config import FineTune, TeacherConfig
from compressor.errors import Incompatible, StoreError, TrainingError
from compressor.keys import key_of, libraries, own_code, processes, rows_hash, settings_key, weights_hash
from compressor.machine import Machine
from compressor.pretrained import Loaded, head_parameters
from compressor.tasks.base import Example, Task
from compressor.tasks.data import TaskData
from compressor.tokens import tokenizer_hash
from compressor.training.checkpoint import held, told_of
from compressor.training.distributed import Ranks, join_ranks
from compressor.training.progress import silent_progress
from compressor.training.session import evaluate_examples, train_on_labels

if TYPE_CHECKING:
    from compressor.training.progress import Progress

CLEARLY = 2.0  # standard errors by which another order of nameless labels must fit better to be believed
_CODE = ("training", "tasks", "teacher.py", "pretrained.py")  # what makes a teacher
_LABEL = "teacher"  # of its training, where progress is shown
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A teacher that is ready: in memory, and as a committed folder in the cache."""

    artifact: CompressedModel
    folder: Path
    key: str
    seconds: float  # of fine-tuning, when it happened
    from_cache: bool
    validation: Mapping[str, float]
    notes: Mapping[str, Any] = field(default_factory=dict)


def blueprint(config: TeacherConfig, task: Task) -> Blueprint:
    """Return what is known of the teacher before its weights are loaded.

    Raises:
        AssetError: The checkpoint cannot be found or fetched.
    """
    return checkpoint_blueprint(config.checkpoint, task, revision=config.revision, allow_pickle=config.allow_pickle)


def checkpoint_blueprint(
    checkpoint: str,
    task: Task,
    *,
    revision: str | None = None,
    allow_pickle: bool | None = None,
    option: str = published.TEACHER,
) -> Blueprint:
    """Return what is known of a checkpoint with a head for the task, before its weights are loaded.

    Raises:
        ConfigError: It looks like a path and nothing is there.
        AssetError: It cannot be found or fetched.
        Incompatible: It is no encoder that torch runs.
    """
    from transformers import AutoConfig, AutoTokenizer

    place = published.resolve(checkpoint, option, revision=revision, weights=False)
    ours = pretrained.is_ours(place)
    record = pretrained.require_torch(place, option) if ours else {}
    with published.readable(checkpoint, option):
        model_config = store.read_config(place) if ours else AutoConfig.from_pretrained(place, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(place, config=model_config, trust_remote_code=False)
    if getattr(model_config, "is_encoder_decoder", False) or not hasattr(model_config, "num_hidden_layers"):
        raise Incompatible(f"{option}={checkpoint} is of type {model_config.model_type}, not a transformer encoder")
    if not ours:  # now, so that a run that could not open them is refused before its first second
        place = published.resolve(checkpoint, option, revision=revision, allow_pickle=allow_pickle)
        published.weights_are_pickled(checkpoint, place, option, allow_pickle=allow_pickle)
    for name, value in task.config_overrides().items():
        setattr(model_config, name, value)
    shapes = record.get("layer_shapes")  # of a model of ours whose layers are not as its config says
    with published.readable(checkpoint, option):
        cut = surgery.cut(model_config, shapes)
        inner_multiple = math.gcd(*(shape["neurons"] for shape in shapes or []))
    return Blueprint(
        form=Form.torch,
        config=model_config,
        tokenizer=tokenizer,
        head=task.head,
        trainable=record.get("trainable", True),
        quantised=record.get("quantised", pretrained.is_quantised(model_config)),
        cut=cut,
        inner_multiple=inner_multiple,
    )


def load_pretrained(
    checkpoint: str,
    task: Task,
    *,
    revision: str | None = None,
    replace_head: bool = False,
    allow_pickle: bool | None = None,
    option: str = published.TEACHER,
) -> tuple[CompressedModel, bool]:
    """Load a checkpoint with a head for the task; return it and whether its head came trained. See `pretrained.load`."""
    loaded = pretrained.load(
        checkpoint, task, revision=revision, replace_head=replace_head, allow_pickle=allow_pickle, option=option
    )
    return loaded.artifact, loaded.trained


def prepare(
    config: TeacherConfig, task: Task, data: TaskData, machine: Machine, *, seed: int, progress: Progress
) -> Teacher:
    """Return a teacher that is trained for the task, from the cache where it has been made before.

    Of several runs that want the same one, one makes it and the others wait.

    Raises:
        Incompatible: Its labels are others, or its weights are not those of its config.
        TrainingError: It does no better than the majority class, its labels are in another order, or training diverged.
    """
    import torch

    torch.manual_seed(seed)
    loaded = pretrained.load(
        config.checkpoint,
        task,
        revision=config.revision,
        replace_head=config.finetune is FineTune.always,
        allow_pickle=config.allow_pickle,
    )
    if not loaded.trained and task.self_supervised:
        raise Incompatible(
            f"teacher.checkpoint={config.checkpoint} with teacher.finetune={config.finetune} brings no trained head for task "
            f"type {task.type}, and what such a head knows is not learned here",
            allowed="a checkpoint that was saved with its trained head, and teacher.finetune=auto",
            hint="teacher=checkpoint teacher.checkpoint=bert-base-uncased",
        )
    if not loaded.trained and config.finetune is FineTune.never:
        raise Incompatible(
            f"teacher.checkpoint={config.checkpoint} has no head trained for task '{task.name}'",
            hint="teacher.finetune=auto",
        )
    if not loaded.trained and not loaded.artifact.trainable:
        raise Incompatible(f"teacher.checkpoint={config.checkpoint} needs a new head and cannot be trained")
    key = _key(config, loaded, task, data, machine, seed)
    folder, stage = assets.cache_root() / "teachers" / key, assets.cache_root() / "stages" / f"teacher-{key}"
    ranks = join_ranks(machine.device)
    with held(folder, ranks, logger):
        ready = _cached(folder, key)
        if not ranks.agree(ready is None)[0]:
            assert ready is not None
            _recall(stage, progress if ranks.is_main else silent_progress())
            return ready
        seconds, notes = 0.0, dict[str, Any]()
        if not loaded.trained:
            result = train_on_labels(
                loaded.artifact,
                task,
                data,
                config.train,
                seed=seed,
                device=machine.device,
                checkpoints=stage,
                progress=progress,
                label=_LABEL,
            )
            seconds, notes = result.seconds, result.summary()
        validation = _validate(loaded, task, data, machine.device)
        loaded.artifact.model.cpu()
        record: dict[str, Any] = {"seconds": seconds, "validation": dict(validation), "notes": notes}
        _keep(loaded.artifact, folder, record, ranks)
    return Teacher(artifact=loaded.artifact, folder=folder, key=key, from_cache=False, **record)


def _recall(stage: Path, progress: Progress) -> None:
    """Tell of the training that another run made the teacher by, if it is still kept."""
    if lines := told_of(stage).lines():
        with progress.task(_LABEL, lines[-1][0], lines[-1][0]) as bar:
            bar.recall(lines)


def _cached(folder: Path, key: str) -> Teacher | None:
    """Return the teacher that lies in the folder; None, with a warning if it is damaged, where there is none."""
    if not folder.exists():
        return None
    try:
        artifact = store.load(folder)
        record = commit.read_json(folder / "teacher.json")
    except StoreError as error:
        logger.warning("%s\n  the teacher is made again", error)
        return None
    return Teacher(artifact=artifact, folder=folder, key=key, from_cache=True, **record)


def _keep(artifact: CompressedModel, folder: Path, record: Mapping[str, Any], ranks: Ranks) -> None:
    """Commit the teacher, in the main process, in place of a damaged one."""
    if ranks.is_main:
        if not commit.is_complete(folder):
            commit.set_aside(folder)
        commit.sweep_leftovers(folder.parent)
        with commit.partial_folder(folder, keep_existing=True) as partial:
            store.write(artifact, partial)
            commit.write_json_atomic(partial / "teacher.json", record)
    ranks.wait()


def _validate(loaded: Loaded, task: Task, data: TaskData, device: str) -> Mapping[str, float]:
    """Score the teacher on validation; refuse one that knows no more than the majority class, or whose labels are mixed up."""
    artifact = loaded.artifact
    predictions, scores = evaluate_examples(artifact.model, task, artifact.tokenizer, data.validation, device=device)
    metric = task.metrics[0]
    found, floor = scores[metric.name], task.chance(data.train, data.validation)
    better, errors = better_order(task, predictions, data.validation)
    would = f"it would score best if its outputs meant {better}"
    if found <= floor:
        raise TrainingError(
            f"the teacher scores {metric.name} {found:.4f} on validation; a constant answer scores {floor:.4f}"
            + (f"; {would}" if better else ""),
            hint="teacher.finetune=always, more teacher.train.epochs, or task.label_names=[...] in the teacher's order",
        )
    if loaded.nameless and errors > CLEARLY:
        raise TrainingError(
            f"the teacher's outputs have no names (LABEL_0, ...) and are not in the task's order {list(task.label_names)}: "
            f"{would} ({errors:.1f} standard errors better on validation)",
            allowed="outputs in the task's order, or with names",
            hint=f"id2label={dict(enumerate(better))} in the checkpoint's config.json, or teacher.finetune=always",
        )
    return scores


def better_order(task: Task, predictions: Sequence[Any], examples: Sequence[Example]) -> tuple[list[str], float]:
    """Return what a model's outputs should mean to be right most often, and how many standard errors better that is.

    The names are empty where the task's own order is the best one, or the classes are not two to six.
    """
    import numpy as np

    count = len(task.label_names)
    if not 2 <= count <= 6:
        return [], 0.0
    hits = np.zeros((len(predictions), count, count))  # [example, output, class]
    for i, (given, wanted) in enumerate(zip(predictions, task.references(examples), strict=True)):
        for pair in zip(given, wanted, strict=False) if isinstance(given, list) else ((given, wanted),):
            hits[i][pair] += 1
    outputs, total = np.arange(count), hits.sum(axis=0)
    best = list(max(itertools.permutations(range(count)), key=lambda order: total[outputs, list(order)].sum()))
    gain = (hits[:, outputs, best] - hits[:, outputs, outputs]).sum(axis=1)
    if best == list(range(count)):
        return [], 0.0
    error = gain.std() / np.sqrt(len(gain))
    return [task.label_names[i] for i in best], float(gain.mean() / error) if error else float("inf")


def _key(config: TeacherConfig, loaded: Loaded, task: Task, data: TaskData, machine: Machine, seed: int) -> str:
    artifact, trained = loaded.artifact, loaded.trained
    return key_of(
        {
            "libraries": libraries(),
            "code": own_code(_CODE),
            "weights": weights_hash(artifact.model, skip=set() if trained else head_parameters(artifact.model)),
            "config": artifact.config.to_json_string(),
            "lineage": [asdict(step) for step in artifact.lineage],
            "tokenizer": tokenizer_hash(artifact.tokenizer),
            "data": rows_hash({"train": data.train, "validation": data.validation}),
            "task": task_key(task),
            "nameless": loaded.nameless,
            "train": None if trained else settings_key(config.train),
            "seed": None if trained else seed,
            "device": machine.device,
            "threads": machine.threads,
            "processes": processes(),
        }
    )


def task_key(task: Task) -> list[Any]:
    """Return what decides how a task encodes its examples."""
    return [task.type, task.config.max_length, list(task.label_names)]
