"""Checkpoints by name, folder or Hub id, with a head for the task: found, checked, and with labels in the task's order."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import store
from compressor.artifact import CompressedModel, Form
from compressor.errors import Incompatible
from compressor.published import TEACHER, readable, resolve, weights_are_pickled
from compressor.tasks.base import Task
from compressor.weights import require_room

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A checkpoint with a head for the task.

    Attributes:
        artifact: The model.
        trained: Whether its head came trained with the checkpoint.
        nameless: Whether it came trained for labels without names, which may be in any order.
    """

    artifact: CompressedModel
    trained: bool
    nameless: bool


def load(
    checkpoint: str,
    task: Task,
    *,
    revision: str | None = None,
    replace_head: bool = False,
    allow_pickle: bool | None = None,
    option: str = TEACHER,
) -> Loaded:
    """Load a checkpoint with a head for the task and its labels in the task's order.

    Args:
        checkpoint: Packaged name, folder (also one that we saved) or Hub id.
        task: Decides the head.
        revision: Hub revision.
        replace_head: Draw a fresh head from torch's random state, whatever head the checkpoint has.
        allow_pickle: Where there are no safetensors, take `pytorch_model.bin`, by the reader of torch that makes tensors only;
            None where no option allows that.
        option: What the user typed to name it, for messages.

    Raises:
        AssetError: It cannot be found, or its weights may not be opened.
        Incompatible: Its head is trained for other labels, or the weights are not those of its config.
        StoreError: It is a folder of ours, and damaged.
    """
    place = resolve(checkpoint, option, revision=revision, allow_pickle=allow_pickle)
    ours = _load_ours(place, task, option) if is_ours(place) else None
    artifact, own, fresh = ours or _load_foreign(checkpoint, place, task, allow_pickle, option)
    module = artifact.model
    head = head_parameters(module)
    trained = not replace_head and not (fresh & head)
    order = label_order(own, task)
    if trained and order is None:
        raise Incompatible(
            f"{option}={checkpoint} predicts {list((own.id2label or {}).values())}, task '{task.name}' has "
            f"{list(task.label_names)}",
            allowed="the same label names in any order",
            hint="teacher.finetune=always trains a new head, or task.label_names=[...] names the classes as the teacher does",
        )
    if trained and order is not None and order != list(range(len(order))):
        logger.warning("the teacher's labels were put into the task's order by name: %s", list(task.label_names))
        _reorder_head(module, order)
    if not trained and not head <= fresh:
        _draw_head(module, task)
    artifact = CompressedModel(
        form=Form.torch,
        config=module.config,
        tokenizer=artifact.tokenizer,
        head=task.head,
        module=module.eval(),
        trainable=artifact.trainable,
        quantised=artifact.quantised,
        cut=artifact.cut,
        lineage=artifact.lineage,
    )
    return Loaded(artifact=artifact, trained=trained, nameless=trained and _nameless(own, task))


def _load_foreign(
    checkpoint: str, place: Path, task: Task, allow_pickle: bool | None, option: str
) -> tuple[CompressedModel, PretrainedConfig, set[str]]:
    """Load a Hugging Face checkpoint; return it, its config as saved, and the parameters it did not have."""
    import transformers

    pickled = weights_are_pickled(checkpoint, place, option, allow_pickle=allow_pickle)
    with readable(checkpoint, option):
        own = transformers.AutoConfig.from_pretrained(place, trust_remote_code=False)
        require_room(own, place)
        tokenizer = transformers.AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        module, info = getattr(transformers, task.auto_class).from_pretrained(
            place,
            trust_remote_code=False,
            use_safetensors=not pickled,
            weights_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype="float32",
            **task.config_overrides(),
        )
    fresh = set(info["missing_keys"]) | {key[0] for key in info["mismatched_keys"]}
    encoder = {name for name, _ in module.named_parameters()} - head_parameters(module)
    lost = sorted(name for name in fresh & encoder if ".pooler." not in name)  # a new pooler is trained with the head
    if lost:
        raise Incompatible(
            f"{option}={checkpoint}: {len(lost)} tensors of the encoder are missing or have another shape than its "
            f"config says, such as {lost[0]}",
            allowed="a checkpoint whose weights are those of its config.json",
        )
    artifact = CompressedModel(
        form=Form.torch,
        config=module.config,
        tokenizer=tokenizer,
        head=task.head,
        module=module,
        quantised=is_quantised(own),
    )
    return artifact, own, fresh


def is_ours(place: Path) -> bool:
    """Tell whether a folder is one that we saved a model in."""
    return (place / store.RECORD).is_file()


def require_torch(folder: Path, option: str = TEACHER) -> dict[str, Any]:
    """Refuse a compiled model of ours; return its record."""
    record = store.read_record(folder)
    if record.get("form") != Form.torch:
        raise Incompatible(
            f"{option}={folder} is a compiled model (form {record.get('form')})",
            allowed="a model that torch runs: one from before it was compiled",
        )
    return record


def is_quantised(config: PretrainedConfig) -> bool:
    """Tell whether a checkpoint was quantised by one of the libraries that transformers reads."""
    return getattr(config, "quantization_config", None) is not None


def _load_ours(folder: Path, task: Task, option: str) -> tuple[CompressedModel, PretrainedConfig, set[str]] | None:
    """Load a model that we saved, structure and all; None if it is an ordinary checkpoint for a task of another type."""
    require_torch(folder, option)
    artifact = store.load(folder)
    if artifact.head.task_type != task.type:
        if any(step.structure is not None for step in artifact.lineage):
            raise Incompatible(
                f"{option}={folder} was made for a task of type {artifact.head.task_type} and rebuilt since",
                allowed=f"a model for tasks of type {task.type}",
            )
        return None
    own = copy.deepcopy(artifact.config)
    names = artifact.head.label_names
    if names:
        own.id2label = dict(enumerate(names))
    if len(names) != len(task.label_names):
        _draw_head(artifact.model, task)
        return artifact, own, head_parameters(artifact.model)
    for name, value in task.config_overrides().items():
        setattr(artifact.model.config, name, value)
    return artifact, own, set()


def head_parameters(module: nn.Module) -> set[str]:
    """Return the parameters outside the encoder; a pooler that came untrained is no obstacle."""
    prefix = str(getattr(module, "base_model_prefix", "")) + "."
    return {name for name, _ in module.named_parameters() if not name.startswith(prefix)}


def _draw_head(module: nn.Module, task: Task) -> None:
    """Give the model the task's head, as a new model of its kind would get it from torch's random state."""
    import transformers

    config: Any = module.config
    for name, value in task.config_overrides().items():
        setattr(config, name, value)
    new = getattr(transformers, task.auto_class).from_config(copy.deepcopy(config), trust_remote_code=False)
    for name, part in new.named_children():
        if name != new.base_model_prefix:
            setattr(module, name, part)
    for name, value in new.named_parameters(recurse=False):
        setattr(module, name, value)
    if hasattr(module, "num_labels"):
        module.num_labels = new.num_labels


def label_order(own: PretrainedConfig, task: Task) -> list[int] | None:
    """Return, for each class of the task, its index in the checkpoint; None if the names do not match.

    Names that say nothing (LABEL_0, ...) count as being in the task's order; `prepare` holds that against validation.
    """
    if not task.label_names:
        return [0] if task.self_supervised or own.num_labels == 1 else None
    theirs, ours = _names(own), [name.lower() for name in task.label_names]
    if theirs == ours or _nameless(own, task):
        return list(range(len(ours)))
    if sorted(theirs) == sorted(ours):
        return [theirs.index(name) for name in ours]
    return None


def _names(own: PretrainedConfig) -> list[str]:
    return [str((own.id2label or {}).get(i, i)).lower() for i in range(own.num_labels)]


def _nameless(own: PretrainedConfig, task: Task) -> bool:
    theirs = _names(own)
    return len(theirs) == len(task.label_names) and theirs == [f"label_{i}" for i in range(len(theirs))]


def _reorder_head(module: nn.Module, order: Sequence[int]) -> None:
    """Permute the output rows of the head's last linear layer."""
    import torch

    last = [m for m in module.modules() if isinstance(m, torch.nn.Linear) and m.out_features == len(order)][-1]
    with torch.no_grad():
        last.weight.copy_(last.weight[list(order)].clone())
        if last.bias is not None:
            last.bias.copy_(last.bias[list(order)].clone())
