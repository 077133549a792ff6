"""Train the student on the labels alone: the baseline that every distillation must beat."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compressor.api import Capabilities, CompressedModel, CompressionMethod, ConfigError, Context, MethodConfig


@dataclass(slots=True, kw_only=True)
class FinetuneConfig(MethodConfig):
    """Options of `finetune`."""

    # Hard labels want smaller steps than soft targets: with the run's own rate the baseline would be a straw man.
    learning_rate: float | None = 5e-5  # null takes train.learning_rate

    def __post_init__(self) -> None:
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise ConfigError(
                f"method.finetune.learning_rate={self.learning_rate}", allowed="above 0 and below 1, or null"
            )


class Finetune(CompressionMethod[FinetuneConfig]):
    """Train the same student on the labels alone, without a teacher: the honest baseline.

    loss = CE(y, p_student), or the squared error for scores; the dropout of the model's own config applies.
    """

    Config = FinetuneConfig
    capabilities = Capabilities(needs_training=True, reads_student=True)
    references = ("Devlin et al. 2019, arXiv:1810.04805, section 4",)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Build the student, train it on the labels, return it."""
        student = ctx.build_student(source)
        train = ctx.plan.train
        if self.config.learning_rate is not None:
            train = replace(train, learning_rate=self.config.learning_rate)
        result = ctx.fit(
            student,
            lambda step: {"hard": step.task.hard_loss(step.logits, step.batch)},
            tokenizer=source.tokenizer,
            train=train,
        )
        return source.evolve(model=student, notes=result.summary())
