"""A rival: any published smaller encoder, fine-tuned on the task, with or without the teacher's help."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Incompatible,
    LossInputs,
    MethodConfig,
    Plan,
    TeacherSignals,
    reserved_positions,
)

if TYPE_CHECKING:
    from torch import Tensor

_OPTION = "method.checkpoint.checkpoint"


@dataclass(slots=True, kw_only=True)
class CheckpointConfig(MethodConfig):
    """Options of `checkpoint`."""

    checkpoint: str = "minilm-l6"  # packaged name, folder (also one of this program's) or Hub id
    allow_pickle: bool = False  # typed, never in a file: takes pytorch_model.bin where there are no safetensors
    teacher_weight: float = 0.5  # of the teacher's soft targets; the labels have the rest; 0 is plain fine-tuning
    temperature: float = 2.0  # softens both distributions; classes only
    learning_rate: float | None = 5e-5  # the rate of pretrained weights; null takes train.learning_rate
    epochs: int | None = None  # passes over the data; null takes train.epochs

    def __post_init__(self) -> None:
        if not self.checkpoint:
            raise ConfigError(f"{_OPTION}=", allowed="a packaged name, a folder or a Hub id")
        if not 0 <= self.teacher_weight <= 1:
            raise ConfigError(f"method.checkpoint.teacher_weight={self.teacher_weight}", allowed="0 to 1")
        if self.temperature <= 0:
            raise ConfigError(f"method.checkpoint.temperature={self.temperature}", allowed="above 0")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise ConfigError(
                f"method.checkpoint.learning_rate={self.learning_rate}", allowed="above 0 and below 1, or null"
            )
        if self.epochs is not None and self.epochs < 1:
            raise ConfigError(f"method.checkpoint.epochs={self.epochs}", allowed="1 or more, or null")


class Checkpoint(CompressionMethod[CheckpointConfig]):
    """Take another encoder in place of the source and train it on the task: what compression has to beat.

    loss = (1 - w) * CE(y, p) + w * T^2 * KL(p_teacher^T || p^T)     (Hinton et al. 2015, section 2), w = teacher_weight

    The encoder keeps its own tokenizer. Where that cuts text differently from the teacher's, the teacher's sentence logits are
    matched example by example; a task with a prediction a token then has w = 0. The head is drawn anew, whatever the
    checkpoint was trained for.
    """

    Config = CheckpointConfig
    capabilities = Capabilities(
        needs_training=True,
        own_source=True,
        signals=frozenset({"logits"}),
        tasks=frozenset(
            {"classification", "regression", "token_classification"}
        ),  # whose heads are learned in fine-tuning
    )
    references = ("Devlin et al. 2019, arXiv:1810.04805, section 4", "Hinton et al. 2015, arXiv:1503.02531, section 2")

    def __init__(self, config: CheckpointConfig) -> None:
        super().__init__(config)
        if not config.teacher_weight:
            self.capabilities = replace(type(self).capabilities, signals=frozenset())

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse a checkpoint that is not there or cannot do the task, before the teacher is trained."""
        name, config = self.config.checkpoint, self.config
        rival = self.outline(source, plan)
        if not rival.trainable or rival.quantised:
            raise Incompatible(
                f"{_OPTION}={name} cannot be trained", allowed="a checkpoint from before it was quantised"
            )
        positions = getattr(rival.config, "max_position_embeddings", 0) - reserved_positions(rival.config)
        if 0 < positions < plan.task.config.max_length:
            raise Incompatible(
                f"task.max_length={plan.task.config.max_length}: {name} has {positions} positions",
                hint=f"task.max_length={positions}",
            )
        if plan.task.type == "regression" and config.temperature != CheckpointConfig().temperature:
            raise Incompatible(
                f"method.checkpoint.temperature={config.temperature}: task '{plan.task.name}' predicts a score, and a "
                "temperature softens classes",
                hint="leave method.checkpoint.temperature out",
            )
        if config.teacher_weight and plan.task.token_level and not plan.tokens_align(rival):
            raise Incompatible(
                f"{name} cuts text into other tokens than the teacher, which predicts for each of its own",
                hint="method.checkpoint.teacher_weight=0",
            )

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Predict the other encoder."""
        return plan.checkpoint(self.config.checkpoint, _OPTION, allow_pickle=self.config.allow_pickle)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Load the other encoder, train it, return it."""
        rival = ctx.load_checkpoint(self.config.checkpoint, _OPTION, allow_pickle=self.config.allow_pickle)
        weight = self.config.teacher_weight
        temperature = 1.0 if ctx.task.type == "regression" else self.config.temperature
        train = ctx.plan.train
        train = replace(
            train,
            learning_rate=self.config.learning_rate or train.learning_rate,
            epochs=self.config.epochs or train.epochs,
        )

        def loss(step: LossInputs) -> Mapping[str, Tensor]:
            terms = {}
            if weight < 1:
                terms["hard"] = (1 - weight) * step.task.hard_loss(step.logits, step.batch)
            if weight > 0:
                soft = step.task.soft_loss(step.logits, step.teacher_logits, step.batch, temperature)
                terms["soft"] = weight * soft
            return terms

        result = ctx.fit(
            rival.model,
            loss,
            signals=TeacherSignals(logits=weight > 0),
            use_unlabelled=weight > 0,
            tokenizer=rival.tokenizer,
            train=train,
        )
        return rival.evolve(model=rival.model, notes={**result.summary(), "model_type": str(rival.config.model_type)})
