"""Save an artifact to a folder and load it back, in any process.

A torch artifact is an ordinary Hugging Face folder (config, safetensors, tokenizer) plus `compressor.json`, which holds the
lineage. Loading builds the skeleton from the saved, final config, lets each step with a recorded structure rebuild it (cut
to the shapes that the step found), cuts what is still wider than its final shape, and loads the weights once. A compiled
artifact is the folder its runtime reads.

Where transformers alone could not build the model from its config, `config.json` names a model type of ours and holds the
encoder's config inside, so that `AutoModel` refuses the folder rather than misreading it; after `import compressor.auto` it
loads it.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import commit, surgery
from compressor.artifact import CompressedModel, Form, Head, Step
from compressor.errors import ConfigError, PluginError, StoreError, told_as
from compressor.families import encoder_layers
from compressor.method import CompressionMethod
from compressor.registry import Registry
from compressor.registry import load as load_registry
from compressor.tasks import task_type
from compressor.weights import load_weights, require_room, save_weights, stored_bytes, without_random_weights

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

SCHEMA_VERSION = 1
RECORD = "compressor.json"
MODEL_TYPE = "compressed-encoder"  # of folders that transformers cannot build from their config alone


def save(artifact: CompressedModel, final: Path, registry: Registry | None = None) -> None:
    """Write the artifact as a committed folder.

    Raises:
        StoreError: `final` is taken, or the disk is full; nothing half-written stays.
    """
    with commit.partial_folder(final, needed_bytes=_least_bytes(artifact, registry)) as folder:
        write(artifact, folder, registry)


def _least_bytes(artifact: CompressedModel, registry: Registry | None) -> int | None:
    """Return what the artifact's files take at least; None where its method writes a format of its own."""
    if artifact.folder is not None:
        return sum(path.stat().st_size for path in artifact.folder.rglob("*") if path.is_file())
    if _format_owner(artifact.lineage, registry) is not None:
        return None
    return stored_bytes(artifact.model)


def write(artifact: CompressedModel, folder: Path, registry: Registry | None = None) -> None:
    """Write the artifact's files into an existing folder, without committing it."""
    artifact.tokenizer.save_pretrained(folder)
    config = copy.deepcopy(artifact.config)
    owner = layer_shapes = None
    if artifact.form is Form.torch:
        config.architectures = [type(artifact.model).__name__]
        owner = _format_owner(artifact.lineage, registry)
        layer_shapes = surgery.shapes(artifact.model)
        if owner is None:
            save_weights(artifact.model, folder)
        else:
            instantiate(artifact.lineage[owner], registry or load_registry()).save_weights(artifact.model, folder)
    else:
        assert artifact.folder is not None
        shutil.copytree(artifact.folder, folder, dirs_exist_ok=True)
    config.save_pretrained(folder)
    if artifact.form is Form.torch and not _plain(artifact, owner, layer_shapes, registry):
        _wrap_config(folder)
    record = {
        "schema_version": SCHEMA_VERSION,
        "form": artifact.form.value,
        "trainable": artifact.trainable,
        "quantised": artifact.quantised,
        "head": {"task_type": artifact.head.task_type, "label_names": list(artifact.head.label_names)},
        "lineage": [asdict(step) for step in artifact.lineage],
        "layer_shapes": layer_shapes,  # heads and neurons of each layer, where they are not those of the config
        "weights_of": owner,  # index of the step whose format the weights have; null for plain safetensors
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def load(folder: Path, registry: Registry | None = None) -> CompressedModel:
    """Read an artifact; a torch one comes in eval mode on the CPU.

    Raises:
        StoreError: The folder is damaged, not ours, or its weights do not fit.
        PluginError: A step needs a plugin that is not installed.
    """
    commit.verify(folder)
    record = read_record(folder)

    def stumbled(error: Exception) -> StoreError:  # a manifest vouches for bytes, not for what they mean
        told = (str(error).strip() or "nothing more is known").splitlines()[0]
        return StoreError(f"{folder} is no model that we saved: {type(error).__name__}: {told:.300}")

    with told_as(stumbled):
        return _load(folder, record, registry)


def _load(folder: Path, record: Mapping[str, Any], registry: Registry | None) -> CompressedModel:
    form = Form(record["form"])
    head = Head(task_type=record["head"]["task_type"], label_names=tuple(record["head"]["label_names"]))
    lineage = tuple(Step(**step) for step in record["lineage"])
    config = read_config(folder)
    if form is Form.torch:
        require_room(config, folder)
    artifact = CompressedModel(
        form=form,
        config=config,
        tokenizer=read_tokenizer(folder, config),
        head=head,
        folder=folder if form is not Form.torch else None,
        trainable=record["trainable"],
        quantised=record.get("quantised", False),
        lineage=lineage,
    )
    if form is Form.torch:
        module = _module(folder, record, artifact, registry)
        artifact = replace(artifact, module=module, cut=surgery.cut(config, surgery.shapes(module)))
    return artifact


def _plain(artifact: CompressedModel, owner: int | None, layer_shapes: Any, registry: Registry | None) -> bool:
    """Tell whether transformers builds and fills this model from its config alone."""
    if layer_shapes is not None or any(step.structure is not None for step in artifact.lineage):
        return False
    if owner is None or getattr(artifact.config, "quantization_config", None) is not None:
        return True  # the config names a format that transformers reads
    method = (registry or load_registry()).get(artifact.lineage[owner].method).method
    return method.load_weights is CompressionMethod.load_weights  # what our plain reader reads is plain


def _wrap_config(folder: Path) -> None:
    """Put the encoder's config under a model type of ours."""
    path = folder / "config.json"
    inner = json.loads(path.read_text(encoding="utf-8"))
    outer = {"architectures": inner.get("architectures"), "model_type": MODEL_TYPE, "encoder": inner}
    path.write_text(json.dumps(outer, indent=2) + "\n", encoding="utf-8")


def read_config(folder: Path) -> PretrainedConfig:
    """Read the encoder's config of a saved artifact, inside ours if need be."""
    from transformers import AutoConfig

    values = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if values.get("model_type") != MODEL_TYPE:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    inner = dict(values["encoder"])
    return AutoConfig.for_model(inner.pop("model_type"), **inner)


def read_tokenizer(folder: Path, config: PretrainedConfig | None = None) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a saved artifact.

    Raises:
        StoreError: There is none; transformers would make up an empty one.
    """
    from transformers import AutoTokenizer

    if not any(folder.glob("tokenizer*")):
        raise StoreError(f"{folder} holds no tokenizer")
    return AutoTokenizer.from_pretrained(
        folder, config=config or read_config(folder), local_files_only=True, trust_remote_code=False
    )


def read_record(folder: Path) -> dict[str, Any]:
    """Read `compressor.json`.

    Raises:
        StoreError: It is missing, unreadable, or of another schema.
    """
    path = folder / RECORD
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read: {error}", hint="a folder written by python -m compressor") from error
    if not isinstance(record, dict) or record.get("schema_version") != SCHEMA_VERSION:
        found = record.get("schema_version") if isinstance(record, dict) else record
        raise StoreError(f"{path} has schema {found!r:.40}", allowed=str(SCHEMA_VERSION))
    return record


def _module(folder: Path, record: Mapping[str, Any], artifact: CompressedModel, registry: Registry | None) -> nn.Module:
    import transformers

    auto = getattr(transformers, task_type(artifact.head.task_type).auto_class)
    with without_random_weights():
        module: nn.Module = auto.from_config(artifact.config, trust_remote_code=False)
    for step in artifact.lineage:
        if step.structure is not None:
            registry = registry or load_registry()
            _reshape(module, step.source_shapes, folder)
            module = instantiate(step, registry).rebuild(module, step.structure)
    _reshape(module, record.get("layer_shapes"), folder)
    if record["weights_of"] is None:
        load_weights(module, folder)
    else:
        instantiate(artifact.lineage[record["weights_of"]], registry or load_registry()).load_weights(module, folder)
    return module.eval()


def _reshape(module: nn.Module, shapes: Any, folder: Path) -> None:
    """Cut layers to recorded shapes.

    Raises:
        StoreError: The layers are not those that the shapes were recorded of.
    """
    if shapes is None:
        return
    layers = len(encoder_layers(module))
    if len(shapes) != layers:
        raise StoreError(f"{folder} records the shapes of {len(shapes)} layers, and its config has {layers}")
    surgery.reshape(module, shapes)


def _format_owner(lineage: tuple[Step, ...], registry: Registry | None) -> int | None:
    """Return the index of the last step with a weights format of its own; None for plain safetensors.

    A step whose plugin is gone has none: the model could be loaded without it.
    """
    if not lineage:
        return None
    registry = registry or load_registry()
    for index in reversed(range(len(lineage))):
        known = registry.methods.get(lineage[index].method)
        if known is not None and known.method.save_weights is not CompressionMethod.save_weights:
            return index
    return None


def instantiate(step: Step, registry: Registry) -> CompressionMethod[Any]:
    """Build the method of a lineage step from its recorded options.

    Raises:
        PluginError: The plugin is missing or no longer knows the options; distribution and version are named.
    """
    if "${" in json.dumps(dict(step.config)):  # OmegaConf would look it up, in the environment too
        raise StoreError(
            f"the options recorded of method '{step.method}' refer to other values", allowed="plain values"
        )
    try:
        entry = registry.get(step.method)
    except ConfigError as error:
        raise PluginError(
            f"this model was made by method '{step.method}' of {step.distribution} {step.version}, which is not installed",
            hint=f"pip install '{step.distribution}=={step.version}'",
        ) from error
    try:
        return entry.method(config_from(entry.method, step.config))
    except TypeError as error:
        raise PluginError(
            f"method '{step.method}' {entry.version} does not know the options recorded by {step.version}: {error}",
            hint=f"pip install '{step.distribution}=={step.version}'",
        ) from error


def config_from(method: type[CompressionMethod[Any]], values: Mapping[str, Any]) -> Any:
    """Build a method's typed options from plain values."""
    from omegaconf import OmegaConf

    return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(method.Config), dict(values)))
