"""`import compressor.auto` lets transformers' Auto classes load folders whose shape no config of theirs can express.

Such a folder (pruned heads, layers of different widths, products of two matrices, packed integers) has a model type of ours in
its `config.json`. `AutoModelForSequenceClassification.from_pretrained(folder)` then returns the encoder's own class, rebuilt.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PretrainedConfig, PreTrainedModel

from compressor import store
from compressor.errors import Incompatible
from compressor.families import base_model
from compressor.tasks import task_type


class CompressedConfig(PretrainedConfig):  # type: ignore[misc]  # untyped decorators make it Any to mypy
    """Config of a folder of ours: the encoder's own config as a dictionary."""

    model_type = store.MODEL_TYPE

    def __init__(self, encoder: dict[str, Any] | None = None, **values: Any) -> None:
        self.encoder = encoder or {}
        super().__init__(**values)


class CompressedModel(PreTrainedModel):  # type: ignore[misc]  # untyped decorators make it Any to mypy
    """Stands in the Auto classes for whatever encoder a folder holds; it is never built itself."""

    config_class = CompressedConfig
    auto_class = "AutoModel"

    @classmethod
    def from_pretrained(cls, place: str | Path, *_: Any, **options: Any) -> nn.Module:  # type: ignore[override]  # gives whatever was saved
        """Load a folder, or a Hub repository, that `compressor` saved.

        Args:
            place: A local folder or a Hub id.
            options: `revision`, `token`, `cache_dir` and `local_files_only` for a Hub id; other options are not read.

        Raises:
            Incompatible: The folder was made for another kind of task than this Auto class is for.
            StoreError: The folder is damaged.
        """
        artifact = store.load(_local(place, options))
        made_for = task_type(artifact.head.task_type).auto_class
        if cls.auto_class == "AutoModel":
            return base_model(artifact.model)
        if made_for != cls.auto_class:
            raise Incompatible(
                f"{place} has a head for {artifact.head.task_type}", hint=f"transformers.{made_for}.from_pretrained"
            )
        return artifact.model


def _local(place: str | Path, options: dict[str, Any]) -> Path:
    folder = Path(place).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    known = ("revision", "token", "cache_dir", "local_files_only")
    return Path(snapshot_download(str(place), **{name: options[name] for name in known if name in options}))


def _register() -> None:
    AutoConfig.register(store.MODEL_TYPE, CompressedConfig, exist_ok=True)
    heads = ("SequenceClassification", "TokenClassification", "MaskedLM")
    for auto in ("AutoModel", *(f"AutoModelFor{head}" for head in heads)):
        stand_in = type(auto.replace("Auto", "Compressed"), (CompressedModel,), {"auto_class": auto})
        getattr(transformers, auto).register(CompressedConfig, stand_in, exist_ok=True)
    AutoTokenizer.register(CompressedConfig, fast_tokenizer_class=transformers.PreTrainedTokenizerFast, exist_ok=True)


_register()
