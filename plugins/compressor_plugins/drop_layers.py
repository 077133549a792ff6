"""Surgery without training: keep some layers, drop the rest."""

from __future__ import annotations

from compressor.api import Capabilities, CompressedModel, CompressionMethod, Context, MethodConfig


class DropLayers(CompressionMethod[MethodConfig]):
    """Keep `student.layers` of the layers and train nothing; `student.init` says which.

    What remains is what depth alone costs; a training method after it recovers part of that.
    """

    Config = MethodConfig
    capabilities = Capabilities(reads_student=True)
    references = ("Sajjad et al. 2023, arXiv:2004.03844",)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Build the student from the source's weights and return it untrained."""
        return source.evolve(model=ctx.build_student(source).eval())
