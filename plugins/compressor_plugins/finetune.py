"""Train the student on the labels alone: the baseline that every distillation must beat."""

from __future__ import annotations

from compressor.api import Capabilities, CompressedModel, CompressionMethod, Context, MethodConfig


class Finetune(CompressionMethod[MethodConfig]):
    """Train the same student on the labels alone, without a teacher: the honest baseline.

    loss = CE(y, p_student), or the squared error for scores; masked by labels.
    """

    Config = MethodConfig
    capabilities = Capabilities(needs_training=True, reads_student=True)
    references = ("Devlin et al. 2019, arXiv:1810.04805, section 4",)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Build the student, train it on the labels, return it."""
        student = ctx.build_student(source)
        result = ctx.fit(
            student, lambda step: {"hard": step.task.hard_loss(step.logits, step.batch)}, tokenizer=source.tokenizer
        )
        return source.evolve(model=student, notes=result.summary())
