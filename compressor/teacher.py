"""Load the teacher; if its head is not trained for the task, train it once and keep it.

The cache key holds everything that decides the result: weights, tokenizer, data, settings, seed, device, threads and our own
version. Labels are matched by name, never by position.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import __version__, assets, commit, store
from compressor.artifact import Blueprint, CompressedModel, Form
from compressor.config import FineTune, TeacherConfig
from compressor.errors import AssetError, ConfigError, Incompatible, TrainingError
from compressor.machine import Machine
from compressor.tasks.base import Example, Task
from compressor.tasks.data import TaskData
from compressor.training.session import evaluate_examples, train_on_labels

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

    from compressor.training.progress import Progress

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
    """Return what is known of the teacher without its weights.

    Raises:
        AssetError: The checkpoint cannot be found or fetched.
    """
    from transformers import AutoConfig, AutoTokenizer

    place = resolve(config.checkpoint)
    try:
        model_config = AutoConfig.from_pretrained(place, revision=config.revision)
        tokenizer = AutoTokenizer.from_pretrained(place, revision=config.revision)
    except (OSError, ValueError) as error:
        raise not_found(config.checkpoint, error) from error
    if getattr(model_config, "is_encoder_decoder", False) or not hasattr(model_config, "num_hidden_layers"):
        raise Incompatible(
            f"teacher.checkpoint={config.checkpoint} is of type {model_config.model_type}, not a transformer encoder"
        )
    for name, value in task.config_overrides().items():
        setattr(model_config, name, value)
    return Blueprint(form=Form.torch, config=model_config, tokenizer=tokenizer, head=task.head)


def resolve(checkpoint: str) -> str:
    """Turn a packaged name into its folder; a folder or Hub id stays what it is.

    Raises:
        ConfigError: It looks like a path and nothing is there.
    """
    if checkpoint in assets.model_names():
        return str(assets.fetch_model(checkpoint))
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return str(path)
    if checkpoint.startswith((".", "/", "~")) or checkpoint.count("/") > 1:
        raise ConfigError(
            f"teacher.checkpoint={checkpoint}: there is no such folder",
            allowed=f"a folder, a Hub id, or a packaged model: {', '.join(assets.model_names())}",
        )
    return checkpoint


def not_found(checkpoint: str, error: BaseException) -> AssetError:
    """Build the error for a checkpoint that neither the Hub, its cache nor the disk gives."""
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return AssetError(
        f"teacher.checkpoint={checkpoint} could not be loaded: {first}",
        allowed=f"a local folder, a reachable Hub id, or a packaged model: {', '.join(assets.model_names())}",
        hint="teacher=e5_small needs no Hub",
    )


def load_pretrained(
    checkpoint: str, task: Task, *, revision: str | None = None, replace_head: bool = False
) -> tuple[CompressedModel, bool]:
    """Load a checkpoint with a head for the task.

    Args:
        checkpoint: Packaged name, folder or Hub id.
        task: Decides the head.
        revision: Hub revision.
        replace_head: Draw a fresh head even where the checkpoint has one of another size.

    Returns:
        The artifact and whether its head came trained with the checkpoint, with labels in the task's order.

    Raises:
        AssetError: It cannot be found.
        Incompatible: Its head is trained for other labels.
    """
    import transformers

    place = resolve(checkpoint)
    try:
        own = transformers.AutoConfig.from_pretrained(place, revision=revision)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, revision=revision)
        auto = getattr(transformers, task.auto_class)
        order = None if replace_head else label_order(own, task)
        names = task.config_overrides()
        module, info = auto.from_pretrained(
            place, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True, dtype="float32", **names
        )
    except (OSError, ValueError) as error:
        raise not_found(checkpoint, error) from error
    fresh = set(info["missing_keys"]) | {key[0] for key in info["mismatched_keys"]}
    head = _head_parameters(module)
    trained = not replace_head and not (fresh & head)
    if trained and order is None:
        raise Incompatible(
            f"teacher.checkpoint={checkpoint} predicts {list((own.id2label or {}).values())}, task '{task.name}' has "
            f"{list(task.label_names)}",
            allowed="the same label names in any order",
            hint="teacher.finetune=always trains a new head, or task.label_names=[...] names the classes as the teacher does",
        )
    if trained and order is not None and order != list(range(len(order))):
        logger.warning("the teacher's labels were put into the task's order by name: %s", list(task.label_names))
        _reorder_head(module, order)
    artifact = CompressedModel(
        form=Form.torch, config=module.config, tokenizer=tokenizer, head=task.head, module=module.eval()
    )
    return artifact, trained


def _head_parameters(module: nn.Module) -> set[str]:
    """Return the parameters outside the encoder; a pooler that came untrained is no obstacle."""
    prefix = str(getattr(module, "base_model_prefix", "")) + "."
    return {name for name, _ in module.named_parameters() if not name.startswith(prefix)}


def label_order(own: PretrainedConfig, task: Task) -> list[int] | None:
    """Return, for each class of the task, its index in the checkpoint; None if the names do not match.

    Names that say nothing (LABEL_0, ...) count as being in the task's order; the check against the majority class catches
    them when they are not.
    """
    if not task.label_names:
        return [0] if own.num_labels == 1 else None
    theirs = [str((own.id2label or {}).get(i, i)).lower() for i in range(own.num_labels)]
    ours = [name.lower() for name in task.label_names]
    if theirs == ours or (len(theirs) == len(ours) and all(n == f"label_{i}" for i, n in enumerate(theirs))):
        return list(range(len(ours)))
    if sorted(theirs) == sorted(ours):
        return [theirs.index(name) for name in ours]
    return None


def _reorder_head(module: nn.Module, order: Sequence[int]) -> None:
    """Permute the output rows of the head's last linear layer."""
    import torch

    last = [m for m in module.modules() if isinstance(m, torch.nn.Linear) and m.out_features == len(order)][-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[list(order)].clone())
        if last.bias is not None:
            last.bias.copy_(last.bias[list(order)].clone())


def prepare(
    config: TeacherConfig, task: Task, data: TaskData, machine: Machine, *, seed: int, progress: Progress
) -> Teacher:
    """Return a teacher that is trained for the task, from the cache where it has been made before.

    Raises:
        Incompatible: Its labels are others.
        TrainingError: It does no better than the majority class, or training diverged.
    """
    import torch

    torch.manual_seed(seed)
    always = config.finetune is FineTune.always
    artifact, trained = load_pretrained(config.checkpoint, task, revision=config.revision, replace_head=always)
    if not trained and config.finetune is FineTune.never:
        raise Incompatible(
            f"teacher.checkpoint={config.checkpoint} has no head trained for task '{task.name}'",
            hint="teacher.finetune=auto",
        )
    key = _key(config, artifact, task, data, machine, trained=trained, seed=seed)
    folder = assets.cache_root() / "teachers" / key
    if commit.is_complete(folder):
        record = json.loads((folder / "teacher.json").read_text(encoding="utf-8"))
        cached = replace(store.load(folder), lineage=())
        return Teacher(artifact=cached, folder=folder, key=key, from_cache=True, **record)
    seconds, notes = 0.0, dict[str, Any]()
    if not trained:
        result = train_on_labels(
            artifact,
            task,
            data,
            config.train,
            seed=seed,
            device=machine.device,
            checkpoints=assets.cache_root() / "stages" / f"teacher-{key}",
            progress=progress,
        )
        seconds, notes = result.seconds, result.summary()
    validation = _validate(artifact.model, artifact.tokenizer, task, data, machine.device)
    artifact.model.cpu()
    record = {"seconds": seconds, "validation": dict(validation), "notes": notes}
    with commit.partial_folder(folder, keep_existing=True) as partial:
        store.write(artifact, partial)
        commit.write_json_atomic(partial / "teacher.json", record)
    return Teacher(artifact=artifact, folder=folder, key=key, from_cache=False, **record)


def _validate(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, task: Task, data: TaskData, device: str
) -> Mapping[str, float]:
    """Score the teacher on validation and refuse one that knows no more than the majority class."""
    predictions, scores = evaluate_examples(model, task, tokenizer, data.validation, device=device)
    metric = task.metrics[0]
    floor = task.chance(data.train, data.validation)
    if scores[metric.name] > floor:
        return scores
    raise TrainingError(
        f"the teacher scores {metric.name} {scores[metric.name]:.4f} on validation; a constant answer scores {floor:.4f}"
        + _better_order(task, predictions, data.validation),
        hint="teacher.finetune=always, more teacher.train.epochs, or task.label_names=[...] in the teacher's order",
    )


def _better_order(task: Task, predictions: Sequence[Any], examples: Sequence[Example]) -> str:
    """Name the order of labels under which the predictions score best, where the classes are few."""
    if not 2 <= len(task.label_names) <= 6 or task.token_level:
        return ""
    references = task.references(examples)
    best = max(
        itertools.permutations(range(len(task.label_names))),
        key=lambda order: task.metrics[0]([order[p] for p in predictions], references, task.label_names),
    )
    if best == tuple(range(len(best))):
        return ""
    return f"; it would score best if its outputs meant {[task.label_names[i] for i in best]}"


def _key(
    config: TeacherConfig,
    artifact: CompressedModel,
    task: Task,
    data: TaskData,
    machine: Machine,
    *,
    trained: bool,
    seed: int,
) -> str:
    settings = None if trained else {k: str(v) for k, v in asdict(config.train).items()}
    text = json.dumps(
        {
            "version": __version__,
            "weights": weights_hash(artifact.model, skip=set() if trained else _head_parameters(artifact.model)),
            "config": artifact.config.to_json_string(),
            "vocabulary": hashlib.sha256(
                json.dumps(artifact.tokenizer.get_vocab(), sort_keys=True).encode()
            ).hexdigest(),
            "data": data.fingerprint,
            "task": [task.type, task.config.max_length, list(task.label_names)],
            "train": settings,
            "seed": None if trained else seed,
            "device": machine.device,
            "threads": machine.threads,
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def weights_hash(model: nn.Module, skip: set[str] | None = None) -> str:
    """Hash names, shapes and bytes of the state, without the names in `skip`."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name in (skip or ()):
            continue
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
