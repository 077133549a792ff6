"""MiniLM: imitate how the tokens of one teacher layer relate to each other, then learn the task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from math import gcd
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Imitation,
    Incompatible,
    LossInputs,
    MethodConfig,
    Plan,
    StudentConfig,
    TeacherSignals,
    attention_projections,
    draw_batches,
    dropout_of,
    encoder_layers,
    family,
    forward_inputs,
    head_count,
    head_size,
    matched_heads,
    narrow_weights,
    spread,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

_FAMILIES: Final = frozenset(
    ["bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "distilbert", "deberta-v2"]
)
_NOWHERE: Final = -1e9  # score of a key that is padding
_MOST_HEADS: Final = 48  # relation heads of the second paper for teachers of base size
_LEAST_SIZE: Final = 8  # width of a relation head in its smallest student (384 / 48)
_PROBE_EXAMPLES: Final = 256  # what the projected start of a narrower student is fitted on


class Version(StrEnum):
    """The two papers: attention and value relations of the last layer, or Q-Q, K-K and V-V relations."""

    v1 = "v1"
    v2 = "v2"


@dataclass(slots=True, kw_only=True)
class MiniLMConfig(MethodConfig):
    """Options of `minilm`; `train.*` are those of the last stage, the fine-tuning."""

    version: Version = Version.v2  # v1 or v2
    relation_heads: int | None = None  # v2; unset: at most 48 of at least 8 dimensions that divide both widths
    teacher_layer: int | None = None  # v2, from 0; unset: the last, of more than 12 layers the one an eighth below it
    distill_epochs: int = 4  # of the task-agnostic stage, on transfer and training texts without labels
    distill_rate: float = 3e-4  # its learning rate; the papers have 5e-4 and 6e-4 with batches of 1024 and 256
    assistant: bool = False  # v1, section 3.3: first an assistant as deep as the teacher and as wide as the student
    alpha: float = 0.0  # fine-tuning: weight of the labels; the teacher's soft targets have 1 - alpha (the papers: 1)
    temperature: float = 2.0  # of the soft targets; classes only
    dropout: float = 0.0  # of the student while it trains; dropout would disturb the relations

    def __post_init__(self) -> None:
        for name, low in (("relation_heads", 1), ("teacher_layer", 0), ("distill_epochs", 0)):
            value = getattr(self, name)
            if value is not None and value < low:
                raise ConfigError(f"method.minilm.{name}={value}", allowed=f"{low} or more")
        if self.version is Version.v1 and (self.relation_heads is not None or self.teacher_layer is not None):
            raise ConfigError(
                f"method.minilm.version=v1 relation_heads={self.relation_heads} teacher_layer={self.teacher_layer}",
                allowed="relation_heads and teacher_layer with v2; v1 takes the last layer and its own heads",
            )
        for name, allowed, ok in (
            ("distill_rate", "above 0 and below 1", 0 < self.distill_rate < 1),
            ("alpha", "0 to 1", 0 <= self.alpha <= 1),
            ("temperature", "above 0", self.temperature > 0),
            ("dropout", "0 to below 1", 0 <= self.dropout < 1),
        ):
            if not ok:
                raise ConfigError(f"method.minilm.{name}={getattr(self, name)}", allowed=allowed)
        if self.assistant and not self.distill_epochs:
            raise ConfigError("method.minilm.assistant=true distill_epochs=0", allowed="an assistant teaches relations")


class MiniLM(CompressionMethod[MiniLMConfig]):
    """Distil the self-attention relations of one teacher layer into the student's last, then fine-tune on the task.

    Version 1 (Wang et al. 2020), with A the attention distributions of the last layer and V its values, in A_h heads:

        L_AT = 1/(A_h |x|) sum over heads and tokens KL(A_T || A_S)      (equation 6)
        L_VR = the same of softmax(V V^T / sqrt(d_k))                    (equations 7 to 9)
        L = L_AT + L_VR                                                  (equation 10)

    Version 2 (Wang et al. 2021): queries, keys and values of all heads are concatenated and cut into A_r relation heads of d_r
    dimensions, whatever heads and widths the models have, and L = sum over Q, K, V of the KL of softmax(X X^T / sqrt(d_r))
    (equations 5 to 8, Q-Q, K-K and V-V relations). The teacher layer is the last for 12 layers and the 21st of 24.

    The KL is averaged over heads and all real tokens of a batch; padding is neither a token nor a key. `assistant` (first
    paper, section 3.3) puts a model as deep as the teacher and as wide as the student between the two.

    Departures: the papers distil the pre-trained teacher on Wikipedia and books, here the run's (fine-tuned) teacher is
    distilled on transfer and training texts, without labels; the student starts from the source's layers, projected if it is
    narrower (the papers: random, `student.init=random`); fine-tuning reads soft targets (the papers: labels, `alpha=1`).
    """

    Config = MiniLMConfig
    capabilities = Capabilities(
        needs_training=True,
        reads_student=True,
        own_student=True,
        signals=frozenset({"logits", "hidden", "attention", "qkv"}),
        families=_FAMILIES,
    )
    references = ("Wang et al. 2020, arXiv:2002.10957 (v1)", "Wang et al. 2021, arXiv:2012.15828 (v2)")

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse heads, widths, layers and tokens whose relations cannot be compared."""
        student, options = self.outline(source, plan), self.config
        heads, taught, layer = student.heads, plan.teacher.heads, options.teacher_layer
        widths, fewer = (student.attention_width, plan.teacher.attention_width), options.relation_heads
        for bad, got, hint in (
            (
                options.version is Version.v1 and options.distill_epochs and (heads is None or heads != taught),
                f"the student's layers have {heads or 'differing numbers of'} attention heads and the teacher's "
                f"{taught or 'differing numbers'}, and v1 compares head with head",
                "method.minilm.version=v2",
            ),
            (
                layer is not None and layer >= plan.teacher.layers,
                f"method.minilm.teacher_layer={layer}: the teacher has {plan.teacher.layers} layers",
                f"method.minilm.teacher_layer={plan.teacher.layers - 1}",
            ),
            (
                fewer is not None and any(width % fewer for width in widths),
                f"method.minilm.relation_heads={fewer} does not divide the widths {widths[0]} and {widths[1]}",
                f"method.minilm.relation_heads={relation_heads(*widths)}",
            ),
            (
                options.assistant and student.hidden_size == plan.teacher.hidden_size,
                "an assistant, as deep as the teacher and as wide as the student, would be the teacher itself",
                "method.minilm.assistant=false, or a smaller student.hidden_size",
            ),
            (
                plan.task.type == "regression" and options.temperature != MiniLMConfig().temperature,
                f"method.minilm.temperature={options.temperature}: a temperature softens classes, and this task has scores",
                "leave method.minilm.temperature out",
            ),
        ):
            if bad:
                raise Incompatible(got, hint=hint)
        plan.require_start(source, self._shape(source, plan))
        if options.distill_epochs and not plan.tokens_align(source):
            raise Incompatible("relations hold between tokens, and the vocabularies of teacher and student differ")
        if family(plan.teacher.config) not in _FAMILIES:
            raise Incompatible(f"method 'minilm' does not take a teacher of family {family(plan.teacher.config)}")

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Predict the student's shape."""
        return replace(plan, student=self._shape(source, plan)).outline(source, self.capabilities)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Distil relations, by way of an assistant if one is asked for, then fine-tune."""
        shape = self._shape(source.blueprint, ctx.plan)
        notes: dict[str, Any] = {}
        assistant = None
        if self.config.assistant:
            assistant, _ = self._start(source, ctx, replace(shape, layers=source.blueprint.layers))
            notes["assistant"] = self._relate(source, ctx, assistant, None, "assistant")
            for parameter in assistant.parameters():
                parameter.requires_grad_(False)
        student, notes["initialisation"] = self._start(source, ctx, shape)
        if self.config.distill_epochs:
            notes["relations"] = self._relate(source, ctx, student, assistant, "relations")
        tune = Imitation(hidden_weight=0.0, alpha=self.config.alpha, temperature=self.config.temperature)
        with dropout_of(student, self.config.dropout):
            result = ctx.fit(
                student, tune, signals=tune.signals, use_unlabelled=tune.alpha < 1, tokenizer=source.tokenizer
            )
        return source.evolve(model=student, notes=notes | result.summary())

    def _relate(
        self, source: CompressedModel, ctx: Context, student: nn.Module, assistant: nn.Module | None, stage: str
    ) -> dict[str, Any]:
        """Run the task-agnostic stage and return what it says."""
        relations = Relations(self.config, ctx.teacher.model, student, assistant)
        settings = replace(
            ctx.plan.train,
            epochs=self.config.distill_epochs,
            learning_rate=self.config.distill_rate,
            keep_best=False,  # the head is not trained here, so validation says nothing
        )
        with dropout_of(student, self.config.dropout):
            result = ctx.fit(
                student,
                relations,
                stage=stage,
                signals=relations.signals,
                student_signals=relations.student_signals,
                use_unlabelled=True,
                tokenizer=source.tokenizer,
                train=settings,
            )
        return {**result.summary(), "relation heads": relations.heads, "teacher layer": relations.layer}

    def _shape(self, source: Blueprint, plan: Plan) -> StudentConfig:
        """Return half of the source's layers where no link before took any, under what the user set."""
        halved = source.layers == plan.teacher.layers and source.layers > 1
        return replace(StudentConfig(layers=source.layers // 2 if halved else None), **plan.student.chosen())

    def _start(self, source: CompressedModel, ctx: Context, shape: StudentConfig) -> tuple[nn.Module, str]:
        """Return a student before training, and where its weights are from."""
        student = ctx.build_student(source, shape if shape.chosen() else None)
        if shape.init == "random":
            return student, "random weights"
        if shape.hidden_size in (None, source.blueprint.hidden_size):
            return student, "the source's layers"
        batches = draw_batches(ctx.batches("train", source.tokenizer), _PROBE_EXAMPLES, ctx.seed)
        layers = spread(source.blueprint.layers, int(student.config.num_hidden_layers))  # type: ignore[union-attr, arg-type]
        found = narrow_weights(student.cpu(), source.model.cpu(), layers, [batch.to("cpu") for batch in batches])
        return student, f"the source's layers {layers}, projected onto {found.basis.shape[1]} directions of its states"


class Projected(NamedTuple):
    """What one layer's attention is made of; [B, L, W] each, and the attention itself, [B, H, L, L], where it is compared."""

    query: Tensor
    key: Tensor
    value: Tensor
    attention: Tensor | None


class Relations:
    """The relation losses of both papers as a `Loss`, against the teacher or an assistant."""

    def __init__(
        self, options: MiniLMConfig, teacher: nn.Module, student: nn.Module, assistant: nn.Module | None = None
    ) -> None:
        guide = teacher if assistant is None else assistant
        mine, theirs = encoder_layers(student), encoder_layers(guide)
        self.v1 = options.version is Version.v1
        self.teacher, self.assistant = teacher, assistant
        self.student_layer = len(mine) - 1
        last = len(theirs) - 1
        self.layer = last if self.v1 or assistant is not None else chosen_layer(last + 1, options.teacher_layer)
        pair = (student, mine[-1]), (guide, theirs[self.layer])
        widths = [head_count(model, layer) * head_size(model) for model, layer in pair]  # heads may have been cut
        if self.v1:
            self.heads = matched_heads(student, self.student_layer, guide, self.layer)
        else:
            self.heads = options.relation_heads or relation_heads(widths[0], widths[1])
        if assistant is not None and self.v1:
            assistant.set_attn_implementation("eager")  # type: ignore[operator]

    @property
    def signals(self) -> TeacherSignals:
        """What is read of the teacher: its attention with v1; else the state that enters the layer.

        q, k and v follow from that state by the teacher's own linears, and states can be kept in memory once, where q, k and
        v would cost a pass of the teacher with each batch.
        """
        if self.assistant is not None:
            return TeacherSignals()
        if self.v1:
            return TeacherSignals(attention=(self.layer,), qkv=(self.layer,))
        return TeacherSignals(hidden=(self.layer - 1,))

    @property
    def student_signals(self) -> TeacherSignals:
        """What is read of the student's last layer."""
        return TeacherSignals(qkv=(self.student_layer,), attention=(self.student_layer,) if self.v1 else ())

    def __call__(self, step: LossInputs) -> Mapping[str, Tensor]:
        """Return the terms of one step."""
        mine = Projected(*step.student.qkv[self.student_layer], step.student.attention.get(self.student_layer))
        theirs = self._taught(step)
        if self.v1:
            assert mine.attention is not None and theirs.attention is not None
            return {
                "attention": distribution_error(mine.attention, theirs.attention, step.mask),
                "value": relation_error(mine.value, theirs.value, self.heads, step.mask),
            }
        return {
            name: relation_error(getattr(mine, name), getattr(theirs, name), self.heads, step.mask)
            for name in ("query", "key", "value")
        }

    def _taught(self, step: LossInputs) -> Projected:
        import torch

        layer = self.layer
        if self.assistant is None and self.v1:
            return Projected(*step.teacher.qkv[layer], step.teacher.attention[layer])
        with torch.no_grad():
            if self.assistant is None:
                model, entering, attention = self.teacher, step.teacher.hidden[layer - 1], None
            else:
                model = self.assistant
                given = model(
                    **forward_inputs(model, step.batch.inputs), output_hidden_states=True, output_attentions=self.v1
                )
                entering, attention = given.hidden_states[layer], given.attentions[layer] if self.v1 else None
            linears = attention_projections(model, encoder_layers(model)[layer].to(entering.device))
            return Projected(linears.query(entering), linears.key(entering), linears.value(entering), attention)


def chosen_layer(layers: int, asked: int | None) -> int:
    """Return the teacher layer of v2, from 0: the last of up to 12, the 21st of 24 (section 4.1 of the second paper)."""
    if asked is not None:
        return asked
    return layers - 1 if layers <= 12 else layers - 1 - layers // 8


def relation_heads(student_width: int, teacher_width: int) -> int:
    """Return the most relation heads, at most 48 and of 8 dimensions or more, that divide both widths."""
    common, smaller = gcd(student_width, teacher_width), min(student_width, teacher_width)
    return max(h for h in range(1, _MOST_HEADS + 1) if common % h == 0 and (h == 1 or smaller // h >= _LEAST_SIZE))


def relation_error(student_BLW: Tensor, teacher_BLW: Tensor, heads: int, mask_BL: Tensor) -> Tensor:
    """Return the KL between the relations softmax(X X^T / sqrt(d)) of `heads` heads, as `distribution_error` averages it."""
    mine, theirs = (log_relations(x, heads, mask_BL) for x in (student_BLW, teacher_BLW))
    return _mean_over_rows((theirs.exp() * (theirs - mine)).sum(dim=-1), mask_BL)


def log_relations(x_BLW: Tensor, heads: int, mask_BL: Tensor) -> Tensor:
    """Return log softmax(X X^T / sqrt(d)) over the real tokens, [B, heads, L, L], for widths cut into `heads` heads."""
    size = x_BLW.shape[-1] // heads
    x_BHLd = x_BLW.float().reshape(*x_BLW.shape[:2], heads, size).transpose(1, 2)
    scores_BHLL: Tensor = x_BHLd @ x_BHLd.transpose(-1, -2) / size**0.5
    return scores_BHLL.masked_fill(~mask_BL[:, None, None, :], _NOWHERE).log_softmax(dim=-1)


def distribution_error(student_BHLL: Tensor, teacher_BHLL: Tensor, mask_BL: Tensor) -> Tensor:
    """Return KL(teacher || student) of attention distributions, averaged over heads and real tokens; padding is no key."""
    keys_B11L = mask_BL[:, None, None, :]
    mine, theirs = (p.float().masked_fill(~keys_B11L, 0.0).clamp(min=1e-9).log() for p in (student_BHLL, teacher_BHLL))
    rows_BHL = (theirs.exp() * (theirs - mine)).masked_fill(~keys_B11L, 0.0).sum(dim=-1)
    return _mean_over_rows(rows_BHL, mask_BL)


def _mean_over_rows(rows_BHL: Tensor, mask_BL: Tensor) -> Tensor:
    return rows_BHL.transpose(0, 1)[:, mask_BL].mean()
