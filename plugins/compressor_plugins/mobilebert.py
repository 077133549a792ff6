"""MobileBERT: a deep, thin student with bottlenecks, led layer by layer by the teacher's feature maps and attention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Imitation,
    Incompatible,
    LayerTurns,
    Loss,
    LossInputs,
    MethodConfig,
    Plan,
    TeacherSignals,
    copy_head,
    dropout_of,
    embedding_tables,
    fold_embeddings,
    grad_flags_kept,
    parameter_count,
    relative_error,
    spread,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

EMBEDDINGS: Final = -1  # the layer number of the embedding output


class Schedule(StrEnum):
    """How knowledge is transferred (Sun et al. 2020, section 3.5)."""

    progressive = "progressive"  # one layer after the other, then the task
    joint = "joint"  # all layers at once, then the task
    auxiliary = "auxiliary"  # all layers and the task at once


class Normalization(StrEnum):
    """transformers' names for what follows each part."""

    no_norm = "no_norm"  # h * weight + bias: equation 1
    layer_norm = "layer_norm"


@dataclass(slots=True, kw_only=True)
class MobileBertConfig(MethodConfig):
    """Options of `mobilebert`; layers, width, heads and feed-forward width are `student.*`, by default scaled to the source."""

    bottleneck_size: int | None = None  # width inside a layer; unset: a quarter of the width between layers
    use_bottleneck: bool = True  # false: layers as wide inside as between them
    embedding_size: int | None = None  # width of the word embeddings; unset: a quarter of the width between layers
    ffn_networks: int = 4  # feed-forward parts of a layer, one after the other
    trigram_input: bool = True  # a token's input is its own embedding beside its neighbours' two
    normalization: Normalization = Normalization.no_norm  # no_norm (the paper's) or layer_norm
    activation: str = "relu"  # of the feed-forward parts, by transformers' name; the paper's is relu
    transfer: bool = True  # false: no feature maps and no attention, the control
    schedule: Schedule = Schedule.progressive  # progressive, joint or auxiliary
    transfer_epochs: int = 6  # before the task: passes over the text in which the layers take turns, or learn together
    lower_rate: float = 0.1  # progressive: share of the learning rate for layers whose turn is over; 0 freezes them
    feature_weight: float = 1.0  # of feature-map transfer
    attention_weight: float = 1.0  # of attention transfer; 0 saves the teacher's forward at each step
    alpha: float = 0.5  # weight of the labels in the task's loss; the soft targets have 1 - alpha
    temperature: float = 2.0  # softens both distributions; classes only

    def __post_init__(self) -> None:
        sizes = ("bottleneck_size", "embedding_size")
        for name, allowed, ok in (
            *((name, "1 or more", (value := getattr(self, name)) is None or value >= 1) for name in sizes),
            ("ffn_networks", "1 or more", self.ffn_networks >= 1),
            ("transfer_epochs", "1 or more", self.transfer_epochs >= 1),
            ("lower_rate", "0 to 1", 0 <= self.lower_rate <= 1),
            ("feature_weight", "above 0", self.feature_weight > 0),
            ("attention_weight", "0 or more", self.attention_weight >= 0),
            ("alpha", "0 to 1", 0 <= self.alpha <= 1),
            ("temperature", "above 0", self.temperature > 0),
        ):
            if not ok:
                raise ConfigError(f"method.mobilebert.{name}={getattr(self, name)}", allowed=allowed)


class MobileBert(CompressionMethod[MobileBertConfig]):
    """Train a MobileBERT from the user's own teacher: as deep, narrow inside each layer, led layer by layer.

    The paper first pre-trains a teacher with inverted bottlenecks so that its layers hand on 512 numbers as the student's do,
    and transfers during pre-training. Here the teacher is the user's, and the text is the task's. Where the student is as
    wide between its layers as the teacher, maps are compared directly, otherwise through a learned projection.

    Feature-map transfer is equation 2, the squared error of a layer's output, over the teacher's variance (the authors' code
    normalises each token's map instead, and adds errors of mean and variance); attention transfer is equation 3, the divergence
    of each head's distribution. A student's head learns from the mean of as many neighbouring heads of the teacher as there
    are for each. The pre-training loss of equation 4 becomes soft targets and labels of the task.

    `progressive` gives each layer an equal share of the transfer's steps, with the loss on that layer alone and the layers
    below at a tenth of the rate or frozen, as the authors' code does; word embeddings and head come from the source.
    """

    Config = MobileBertConfig
    capabilities = Capabilities(
        needs_training=True,
        reads_student=True,
        own_student=True,
        signals=frozenset({"logits", "hidden", "attention"}),
        tasks=frozenset({"classification", "regression", "token_classification"}),
    )
    references = ("Sun et al. 2020, arXiv:2004.02984",)

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse sizes that do not fit each other or the teacher."""
        from transformers.activations import ACT2FN

        options, student, config = self.config, plan.student, self._student_config(source, plan)
        if options.activation not in ACT2FN:
            raise Incompatible(
                f"method.mobilebert.activation={options.activation}", allowed=", ".join(sorted(map(str, ACT2FN)))
            )
        if student.init not in (None, "random"):
            raise Incompatible(
                f"student.init={student.init}: no layer of the source fits into a bottleneck",
                allowed="student.init=random",
            )
        if getattr(source.config, "embedding_size", source.hidden_size) != source.hidden_size:
            raise Incompatible(
                f"the source's embeddings are factorised already ({source.config.embedding_size} of {source.hidden_size}), "
                "and the student's start from a whole table"
            )
        if config.embedding_size > source.hidden_size:
            raise Incompatible(
                f"method.mobilebert.embedding_size={config.embedding_size}", allowed=f"1 to {source.hidden_size}"
            )
        if config.true_hidden_size % config.num_attention_heads:
            raise Incompatible(
                f"{config.num_attention_heads} heads do not divide the width {config.true_hidden_size} inside a layer",
                hint=f"method.mobilebert.bottleneck_size={_bottleneck(config.hidden_size, config.num_attention_heads)}",
            )
        if options.transfer:
            self._check_transfer(source, plan, config)

    def _check_transfer(self, source: Blueprint, plan: Plan, config: Any) -> None:
        hint = "method.mobilebert.transfer=false"
        if config.num_hidden_layers > plan.teacher.layers:
            raise Incompatible(
                f"{config.num_hidden_layers} student layers cannot learn from {plan.teacher.layers} teacher layers",
                hint=hint,
            )
        heads = plan.teacher.heads
        if self.config.attention_weight and heads is None:
            raise Incompatible(
                "the teacher's layers differ in their numbers of attention heads, and each head learns from as many of them",
                hint="method.mobilebert.attention_weight=0",
            )
        if self.config.attention_weight and heads and heads % config.num_attention_heads:
            raise Incompatible(
                f"student.heads={config.num_attention_heads}: each head learns from the mean of as many of the {heads} heads "
                "that the teacher has",
                allowed=f"student.heads of {', '.join(str(n) for n in range(1, heads + 1) if heads % n == 0)}",
                hint="method.mobilebert.attention_weight=0",
            )
        if not plan.tokens_align(source):
            raise Incompatible("maps can be compared only where teacher and student see the same tokens", hint=hint)

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Predict a MobileBERT of the student's shape."""
        return replace(source, config=self._student_config(source, plan), trainable=True, cut={}, inner_multiple=0)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Build the student, transfer, train on the task, return it."""
        from torch import nn

        options, teacher = self.config, ctx.teacher.blueprint
        student = self._build(source, ctx)
        config: Any = student.config
        pairs = dict(enumerate(spread(teacher.layers, config.num_hidden_layers))) if options.transfer else {}
        same = config.hidden_size == teacher.hidden_size
        projection = (
            nn.Identity() if same or not pairs else nn.Linear(config.hidden_size, teacher.hidden_size, bias=False)
        )
        signals = self._signals(pairs)
        fit: dict[str, Any] = {
            "use_unlabelled": True,
            "tokenizer": source.tokenizer,
            "extra_modules": {"projection": projection},
        }
        notes: dict[str, Any] = {"parameters": parameter_count(student)}
        transfer = Transfer(pairs, projection, options.feature_weight, options.attention_weight)
        with dropout_of(student, 0.0):  # the maps regularise already, and a dropped attention map is no distribution
            if pairs and options.schedule is not Schedule.auxiliary:
                progressive = options.schedule is Schedule.progressive
                train = replace(ctx.plan.train, epochs=options.transfer_epochs, keep_best=False)
                turns = LayerTurns(student, options.lower_rate) if progressive else None
                with grad_flags_kept(student):
                    led = ctx.fit(
                        student,
                        transfer.of_turn(turns) if turns else transfer,
                        stage="transfer",
                        signals=signals[0],
                        student_signals=signals[1],
                        hooks=[turns] if turns else [],
                        parameter_groups=turns.parameter_groups(train.learning_rate, train.weight_decay)
                        if turns
                        else None,
                        train=train,
                        **fit,
                    )
                notes["transfer"] = led.summary()
            task = Imitation(alpha=options.alpha, temperature=options.temperature)
            together = bool(pairs) and options.schedule is Schedule.auxiliary
            result = ctx.fit(
                student,
                _sum_of(task, transfer) if together else task,
                stage="task",
                signals=replace(signals[0], logits=task.signals.logits) if together else task.signals,
                student_signals=signals[1] if together else TeacherSignals(),
                **fit,
            )
        return source.evolve(model=student, notes={**result.summary(), **notes})

    def _signals(self, pairs: Mapping[int, int]) -> tuple[TeacherSignals, TeacherSignals]:
        """Return what transfer reads of the teacher and of the student."""
        maps = self.config.attention_weight > 0
        return tuple(  # type: ignore[return-value]
            TeacherSignals(hidden=(EMBEDDINGS, *layers), attention=tuple(layers) if maps else ())
            for layers in (sorted(set(pairs.values())), sorted(pairs))
        )

    # the student

    def _student_config(self, source: Blueprint, plan: Plan, model: nn.Module | None = None) -> Any:
        """Return MobileBERT's config; rows of tables are read off the model where there is one."""
        from transformers import MobileBertConfig as HubConfig

        options, student, old = self.config, plan.student, source.config
        width = student.hidden_size or source.hidden_size
        heads = student.heads or int(old.num_attention_heads)
        inside = options.bottleneck_size or _bottleneck(width, heads)
        values: dict[str, Any] = {
            "vocab_size": old.vocab_size,
            "hidden_size": width,
            "num_hidden_layers": student.layers or source.layers,
            "num_attention_heads": heads,
            "intermediate_size": student.intermediate_size or 4 * inside,
            "hidden_act": options.activation,
            "embedding_size": options.embedding_size or _bottleneck(width, heads),
            "trigram_input": options.trigram_input,
            "use_bottleneck": options.use_bottleneck,
            "intra_bottleneck_size": inside,
            "num_feedforward_networks": options.ffn_networks,
            "normalization_type": options.normalization.value,
        }
        for name in ("pad_token_id", "id2label", "label2id", "problem_type"):
            values[name] = getattr(old, name, None)
        if model is not None:
            tables = embedding_tables(model)
            values["max_position_embeddings"] = len(tables.position_PH) or int(old.max_position_embeddings)
            values["type_vocab_size"] = len(tables.type_KH)
        return HubConfig(**values)

    def _build(self, source: CompressedModel, ctx: Context) -> nn.Module:
        import transformers

        config = self._student_config(source.blueprint, ctx.plan, source.model)
        auto = getattr(transformers, ctx.task.auto_class)
        student: nn.Module = auto.from_config(config, trust_remote_code=False)
        fold_embeddings(student, source.model, ctx.batches("train", source.tokenizer))
        if config.hidden_size == source.blueprint.hidden_size:
            copy_head(student, source.model)
        return student


def _bottleneck(width: int, heads: int) -> int:
    """Return a quarter of the width (128 of 512 in the paper), rounded to whole heads."""
    return max(1, round(width / 4 / heads)) * heads


# transfer


@dataclass(frozen=True, slots=True)
class Transfer:
    """Feature-map and attention transfer, averaged over some layers: a `Loss`.

    Attributes:
        pairs: Student layer -> teacher layer, both from 0.
        projection: From the student's width to the teacher's.
        feature_weight: Of feature maps.
        attention_weight: Of attention; 0 leaves it out.
    """

    pairs: Mapping[int, int]
    projection: nn.Module
    feature_weight: float
    attention_weight: float

    def __call__(self, step: LossInputs) -> dict[str, Tensor]:
        """Return the terms of all layers, the embeddings' output among them."""
        return self.of_layers(step, [EMBEDDINGS, *self.pairs])

    def of_turn(self, turns: LayerTurns) -> Loss:
        """Return the loss of the one layer whose turn it is; the embeddings belong to the first."""
        first = [EMBEDDINGS, 0]
        return lambda step: self.of_layers(step, first if turns.layer == 0 else [turns.layer])

    def of_layers(self, step: LossInputs, layers: Sequence[int]) -> dict[str, Tensor]:
        """Return the terms of some layers of the student."""
        pairs = {EMBEDDINGS: EMBEDDINGS, **self.pairs}
        features = [
            relative_error(
                self.projection(step.student.hidden[layer])[step.mask], step.teacher.hidden[pairs[layer]][step.mask]
            )
            for layer in layers
        ]
        terms = {"features": self.feature_weight * sum(features[1:], features[0]) / len(features)}
        mapped = [layer for layer in layers if layer != EMBEDDINGS]
        if self.attention_weight > 0:
            found = [
                attention_divergence(step.student.attention[layer], step.teacher.attention[pairs[layer]], step.mask)
                for layer in mapped
            ]
            terms["attention"] = self.attention_weight * sum(found[1:], found[0]) / len(found)
        return terms


def attention_divergence(student_BHLL: Tensor, teacher_BALL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return the mean over real tokens and heads of KL(teacher's distribution || student's): equation 3.

    With A teacher heads to H of the student's, the mean of A / H neighbouring distributions is the target of one head.
    """
    heads = student_BHLL.shape[1]
    grouped = teacher_BALL.float().reshape(len(teacher_BALL), heads, -1, *teacher_BALL.shape[2:])
    target_BHLL = grouped.mean(dim=2).clamp(min=1e-9)
    log_ratio = target_BHLL.log() - student_BHLL.float().clamp(min=1e-9).log()
    divergence_BHL = (target_BHLL * log_ratio).sum(dim=-1)
    return divergence_BHL.transpose(1, 2)[mask_BL].mean()


def _sum_of(first: Loss, second: Loss) -> Loss:
    return lambda step: {**first(step), **second(step)}
