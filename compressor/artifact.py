"""The value that flows through a chain: a model, its tokenizer, its labels and its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.families import ffn_size_name

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

JSON = Any  # what `json` can write; a recursive alias buys nothing that mypy can use here


class Form(StrEnum):
    """How a model is held: a trainable `nn.Module`, or a folder that one runtime executes."""

    torch = "torch"
    onnx = "onnx"
    openvino = "openvino"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What the model predicts.

    `label_names` is in logit order; empty for regression.
    """

    task_type: str
    label_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One method that was applied. `structure` is what the saved config cannot express."""

    method: str
    distribution: str
    version: str
    config: Mapping[str, JSON]
    structure: Mapping[str, JSON] | None = None
    notes: Mapping[str, JSON] = field(default_factory=dict)
    seconds: float = 0.0
    # Heads and neurons of each layer that `structure` was made on, where they were not those of the config.
    source_shapes: Sequence[Mapping[str, int]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """A model without its weights: all that can be known, and checked, before anything is spent.

    `cut` holds `heads` and `neurons` of a layer where a step left another number than the config's: the number, or None
    where layers differ or only the work will tell. `inner_multiple` divides, as far as is known, every width inside the layers
    that neither config nor `cut` tells (ranks of products, differing numbers of neurons); 0 if there is none.
    """

    form: Form
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    head: Head
    trainable: bool = True
    quantised: bool = False
    cut: Mapping[str, int | None] = field(default_factory=dict)
    inner_multiple: int = 0

    @property
    def layers(self) -> int:
        """Number of encoder layers."""
        return int(self.config.num_hidden_layers)

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.config.hidden_size)

    @property
    def heads(self) -> int | None:
        """Attention heads that each layer has; None where layers differ or only the work will tell."""
        return self.cut.get("heads", self._of_config()["heads"])

    @property
    def neurons(self) -> int | None:
        """Feed-forward neurons that each layer has; None where layers differ or only the work will tell."""
        return self.cut.get("neurons", self._of_config()["neurons"])

    @property
    def attention_width(self) -> int:
        """Width of a layer's queries; of one head where layers have differing numbers, for its divisors divide them all."""
        width = getattr(self.config, "true_hidden_size", None) or self.hidden_size
        return int(width) // int(self.config.num_attention_heads) * (self.heads or 1)

    def with_cut(self, **parts: int | None) -> Blueprint:
        """Return a blueprint whose layers have these `heads` or `neurons`; those of the config are no cut."""
        whole = self._of_config()
        now = {**self.cut, **parts}
        return replace(self, cut={part: number for part, number in now.items() if number != whole[part]})

    def _of_config(self) -> dict[str, int | None]:
        names = {"heads": "num_attention_heads", "neurons": ffn_size_name(self.config)}
        return {part: getattr(self.config, name, None) for part, name in names.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class CompressedModel:
    """A model, how it came to be, and what it may still become.

    In form `torch`, `module` is set and `folder` is None. In a compiled form `folder` holds the files that
    the runtime loads and `module` is None; `config` then still describes the architecture.
    """

    form: Form
    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerBase
    head: Head
    module: nn.Module | None = None
    folder: Path | None = None
    trainable: bool = True
    quantised: bool = False
    cut: Mapping[str, int | None] = field(default_factory=dict)  # see `Blueprint`
    lineage: tuple[Step, ...] = ()
    # Of the step just done, until the pipeline writes them into the lineage:
    structure: Mapping[str, JSON] | None = None
    notes: Mapping[str, JSON] = field(default_factory=dict)

    @property
    def model(self) -> nn.Module:
        """The module of an artifact in form `torch`.

        Raises:
            TypeError: The artifact is compiled; the chain check keeps methods from meeting this.
        """
        if self.module is None:
            raise TypeError(f"an artifact of form {self.form} holds a folder, not a module")
        return self.module

    @property
    def blueprint(self) -> Blueprint:
        """The artifact without its weights."""
        return Blueprint(
            form=self.form,
            config=self.config,
            tokenizer=self.tokenizer,
            head=self.head,
            trainable=self.trainable,
            quantised=self.quantised,
            cut=self.cut,
        )

    def evolve(
        self,
        *,
        model: nn.Module | None = None,
        folder: Path | None = None,
        form: Form | None = None,
        structure: Mapping[str, JSON] | None = None,
        notes: Mapping[str, JSON] | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> CompressedModel:
        """Return the next artifact, with this one's head and history.

        Pass `model` for a torch result, or `folder` and `form` for a compiled one. Whether the result may be trained, and
        whether it is quantised, is what the method's `Capabilities` say; the pipeline sets both together with the lineage,
        and what was cut as it finds it in the model.
        """
        if (model is None) == (folder is None):
            raise TypeError("evolve takes either model= or folder= with form=")
        config = self.config if model is None else model.config
        return replace(
            self,
            form=form or Form.torch,
            config=config,
            module=model,
            folder=folder,
            structure=structure,
            notes=dict(notes or {}),
            tokenizer=tokenizer or self.tokenizer,
        )


def parameter_count(model: nn.Module) -> int:
    """Count parameters, shared tensors once."""
    return sum(p.numel() for p in {id(p): p for p in model.parameters()}.values())
