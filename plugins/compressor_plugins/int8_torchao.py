"""Dynamic int8 in torchao: weights quantised once, activations at each call, saved as an ordinary Hugging Face checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    MethodConfig,
    MissingExtra,
    Plan,
    encoder_linears,
    linears_outside,
    quantised_share,
)


@dataclass(slots=True, kw_only=True)
class Int8TorchaoConfig(MethodConfig):
    """Options of `int8_torchao`."""

    asymmetric: bool = False  # give activations a zero point: a finer grid where they lean to one side
    reduce_range: bool = False  # 7 bits of the 8: for CPUs whose int8 products overflow (x86 without VNNI)
    minimum_share: float = 0.9  # of the eligible linears; below it the result is refused

    def __post_init__(self) -> None:
        if not 0 < self.minimum_share <= 1:
            raise ConfigError(f"method.int8_torchao.minimum_share={self.minimum_share}", allowed="above 0, at most 1")


class Int8Torchao(CompressionMethod[Int8TorchaoConfig]):
    """Quantise the encoder's linears to int8 in torchao, activations too; transformers alone reads the folder.

    A weight w of output channel c becomes q = clamp(round(w / s_c), -128, 127) with s_c = max|w_c| / 127.5: the symmetric
    quantiser of Krishnamoorthi 2018, section 2.2, with one scale a channel, over all 256 values as torchao lays them.
    Activations get one scale a token, found at each call (Yao et al. 2022, section 4.1, token-wise quantisation), so that an
    example's logits do not depend on its batch mates, as they do where one scale serves the whole tensor.

    The folder loads with `AutoModelForSequenceClassification.from_pretrained` where torchao is installed. In eager mode each
    linear runs as a dozen small operations and is slower than float32: on a CPU this is a memory method until the model
    is compiled with `torch.compile`.
    """

    Config = Int8TorchaoConfig
    capabilities = Capabilities(leaves_trainable=False, leaves_quantised=True, libraries=frozenset({"torchao"}))
    references = (
        "Krishnamoorthi 2018, arXiv:1806.08342, section 2.2",
        "Yao et al. 2022 (ZeroQuant), arXiv:2206.01861, section 4.1",
    )

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse to start without torchao."""
        from importlib.util import find_spec

        if find_spec("torchao") is None:
            raise MissingExtra.of("torchao", "torchao")

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Quantise a copy, count, and write into the config how transformers is to read it."""
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, MappingType, quantize_
        from transformers import TorchAoConfig

        model = ctx.build_student(source)
        linears = encoder_linears(model)
        settings = Int8DynamicActivationInt8WeightConfig(
            act_mapping_type=MappingType.ASYMMETRIC if self.config.asymmetric else MappingType.SYMMETRIC,
            reduce_range=self.config.reduce_range,
            set_inductor_config=False,  # it would change settings of the whole process
        )
        chosen = set(linears.values())
        quantize_(model, settings, filter_fn=lambda module, name: module in chosen)
        done = [name for name, linear in linears.items() if type(linear.weight).__name__ == "Int8Tensor"]
        notes = quantised_share("int8_torchao", done, linears, self.config.minimum_share)
        model.config.quantization_config = TorchAoConfig(settings, modules_to_not_convert=linears_outside(model))  # type: ignore[union-attr]
        return source.evolve(model=model, notes=notes)
