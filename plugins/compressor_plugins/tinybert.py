"""TinyBERT: a small student that imitates its teacher's embeddings, attention scores, hidden states and predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

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
    StudentConfig,
    TeacherSignals,
    attention_projections,
    draw_batches,
    dropout_of,
    encoder_layers,
    family,
    matched_heads,
    narrow_weights,
    replace_words,
    spread,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

_FAMILIES: Final = frozenset(
    ["bert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet", "distilbert", "deberta-v2"]
)
_PRESETS: Final = ("4l", "6l")
_BASE: Final = (12, 768, 3072)  # layers, width and feed-forward width of the paper's teacher, BERT-base
_PROBE_EXAMPLES: Final = 256  # what the projected start is fitted on


@dataclass(slots=True, kw_only=True)
class TinyBertConfig(MethodConfig):
    """Options of `tinybert`; `train.*` are those of the last stage, the prediction stage."""

    preset: str = "4l"  # 4l (4 x 312, FFN 1200) or 6l (half the layers, the source's width); student.* goes first
    general_epochs: int = 1  # general stage, on transfer text and training texts; left out if there is no transfer text
    intermediate_epochs: int = 3  # task stage 1; the paper has 10 to 20
    intermediate_rate: float = 3e-4  # learning rate of both; the paper has 5e-5 (and far more steps)
    embedding_weight: float = 1.0  # of equation 9
    hidden_weight: float = 1.0  # of equation 8, summed over the layers
    attention_weight: float = 1.0  # of equation 7, summed over the layers; 0 also allows another number of heads
    relative: bool = False  # divide each squared error by the teacher's mean square, so that no layer outweighs another
    temperature: float = 1.0  # of the prediction stage; classes only (the paper found 1 best)
    dropout: float = 0.0  # of the student while it trains
    augment: int = 0  # copies of each training text with words replaced by a masked-LM (the paper: 20)
    augment_with: str | None = None  # checkpoint with a trained masked-LM head: the teacher before fine-tuning, say
    augment_probability: float = 0.4  # that a word is replaced (p_t of algorithm 1)
    augment_candidates: int = 15  # the most probable words that a replacement is drawn from (K of algorithm 1)

    def __post_init__(self) -> None:
        if self.preset not in _PRESETS:
            raise ConfigError(f"method.tinybert.preset={self.preset}", allowed=", ".join(_PRESETS))
        for name, low in (("general_epochs", 0), ("intermediate_epochs", 0), ("augment", 0), ("augment_candidates", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"method.tinybert.{name}={getattr(self, name)}", allowed=f"{low} or more")
        for name in ("embedding_weight", "hidden_weight", "attention_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"method.tinybert.{name}={getattr(self, name)}", allowed="0 or more")
        for name, allowed, ok in (
            ("intermediate_rate", "above 0, below 1", 0 < self.intermediate_rate < 1),
            ("augment_probability", "above 0, at most 1", 0 < self.augment_probability <= 1),
            ("temperature", "above 0", self.temperature > 0),
            ("dropout", "0 to below 1", 0 <= self.dropout < 1),
        ):
            if not ok:
                raise ConfigError(f"method.tinybert.{name}={getattr(self, name)}", allowed=allowed)
        if bool(self.augment) != (self.augment_with is not None):
            raise ConfigError(
                f"method.tinybert.augment={self.augment} augment_with={self.augment_with}: words are replaced by a masked-LM",
                allowed="both, or neither (transfer text, task.unlabelled=..., augments without one)",
            )

    @property
    def imitates(self) -> bool:
        """Whether there is an intermediate loss at all."""
        return bool(self.embedding_weight or self.hidden_weight or self.attention_weight)


class TinyBert(CompressionMethod[TinyBertConfig]):
    """Distil a small student in three stages: general and task-specific imitation of the inner layers, then predictions.

    With N teacher layers and M student layers, student layer m imitates teacher layer g(m) = m * N / M (section 3; rounded up
    where M does not divide N), and

        embedding   MSE(E_S W_e, E_T)                                 (equation 9)
        hidden      sum over m of MSE(H_S W_h, H_T)                   (equation 8)
        attention   sum over m of 1/h sum over heads MSE(A_S, A_T)    (equation 7)
        prediction  CE(softmax(z_T / t), softmax(z_S / t)), t = 1     (equation 10, as a KL of equal gradient)

    A is the score matrix QK^T / sqrt(d_k) before the softmax, as the paper asks ("unnormalized"). For families that add a
    relative-position term to their scores (MPNet, DeBERTa), A is the content term, which is all that Q and K hold.
    W_e = W_h is ONE learned projection for the embeddings and all layers: the paper writes one W_h and another W_e, the
    authors' code has a single linear layer with a bias (`fit_dense`), also where the widths are equal; we follow the code.
    Means are over real tokens (and pairs of real tokens); the code also counts padding. Stage 1 has the first three terms,
    stage 2 the last, as in the code; equation 11 writes them as one sum with weights of 1 that are switched on in turn.

    Departures: the general stage's teacher is the run's own (fine-tuned) teacher, since a run has one teacher, and it reads
    unlabelled and training texts without labels instead of Wikipedia; the 4-layer student starts from the teacher's projected
    weights instead of the published general TinyBERT; multi-piece words are not replaced in augmentation, for which the paper
    uses GloVe. For a task of scores the prediction loss is the squared error to the teacher's scores (the code: to the labels).
    """

    Config = TinyBertConfig
    capabilities = Capabilities(
        needs_training=True,
        reads_student=True,
        own_student=True,
        signals=frozenset({"logits", "hidden"}),
        tasks=frozenset({"classification", "regression", "token_classification"}),
        families=_FAMILIES,
    )
    references = ("Jiao et al. 2020, arXiv:1909.10351", "Ashkboos et al. 2024, arXiv:2401.15024 (the projected start)")

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse shapes, heads, tokens and tasks that the losses cannot compare."""
        result = self.outline(source, plan)
        heads, taught = result.heads, plan.teacher.heads
        if self.config.attention_weight and (heads is None or heads != taught):
            raise Incompatible(
                f"the student's layers have {heads or 'differing numbers of'} attention heads and the teacher's "
                f"{taught or 'differing numbers'}: equation 7 compares head with head",
                allowed="heads cut after 'tinybert'" if result.cut or not taught else f"student.heads={taught}",
                hint="method.tinybert.attention_weight=0",
            )
        plan.require_start(source, self._shape(source, plan))
        if self.config.imitates and result.layers > plan.teacher.layers:
            raise Incompatible(f"{result.layers} student layers do not map onto {plan.teacher.layers} of the teacher")
        if self.config.imitates and family(plan.teacher.config) not in _FAMILIES:
            raise Incompatible(f"method 'tinybert' does not take a teacher of family {family(plan.teacher.config)}")
        if self.config.imitates and not plan.tokens_align(source):
            raise Incompatible(
                "inner layers are compared token by token, and teacher and student have other vocabularies"
            )
        if plan.task.type == "regression" and self.config.temperature != 1.0:
            raise Incompatible(f"method.tinybert.temperature={self.config.temperature}: a temperature softens classes")
        if self.config.augment and (plan.task.token_level or plan.task.config.text_pair is not None):
            raise Incompatible("words are replaced in tasks of one text", hint="method.tinybert.augment=0")

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Predict the student's shape."""
        return replace(plan, student=self._shape(source, plan)).outline(source, self.capabilities)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Build the student, then run the stages that are asked for."""
        shape = self._shape(source.blueprint, ctx.plan)
        student, basis, notes = self._start(source, ctx, shape)
        extra = self._augmented(ctx)
        inner_settings = replace(ctx.plan.train, keep_best=False, learning_rate=self.config.intermediate_rate)
        with dropout_of(student, self.config.dropout):
            if self.config.imitates:
                inner = Intermediate(self.config, ctx.teacher.model, student, basis)
                general = self.config.general_epochs if ctx.unlabelled_texts() else 0
                stages = {"general": general, "intermediate": self.config.intermediate_epochs}
                for stage, epochs in ((name, count) for name, count in stages.items() if count):
                    result = ctx.fit(
                        student,
                        inner,
                        stage=stage,
                        signals=inner.signals,
                        student_signals=inner.student_signals,
                        use_unlabelled=True,
                        extra_texts=extra if stage == "intermediate" else (),
                        tokenizer=source.tokenizer,
                        extra_modules={"projection": inner.projection},
                        train=replace(inner_settings, epochs=epochs),
                    )
                    notes[stage] = result.summary()

            def prediction(step: LossInputs) -> Mapping[str, Tensor]:
                loss = step.task.soft_loss(step.logits, step.teacher_logits, step.batch, self.config.temperature)
                return {"prediction": loss}

            result = ctx.fit(
                student,
                prediction,
                stage="prediction",
                signals=TeacherSignals(logits=True),
                use_unlabelled=True,
                extra_texts=extra,
                tokenizer=source.tokenizer,
            )
        return source.evolve(model=student, notes=notes | result.summary())

    def _shape(self, source: Blueprint, plan: Plan) -> StudentConfig:
        """Return the preset's shape, scaled to the source, under what the user set; a chain halves the layers once."""
        halved = self.config.preset == "6l" and source.layers < plan.teacher.layers
        base = StudentConfig() if halved else preset_shape(self.config.preset, source)
        return replace(base, **plan.student.chosen())

    def _start(
        self, source: CompressedModel, ctx: Context, shape: StudentConfig
    ) -> tuple[nn.Module, Tensor | None, dict[str, Any]]:
        """Return the student before training, the projection it came by, and what to say about it."""
        student = ctx.build_student(source, shape if shape.chosen() else None)
        if shape.init == "random":
            return student, None, {"initialisation": "random weights"}
        if shape.hidden_size in (None, source.blueprint.hidden_size):
            return student, None, {"initialisation": "the source's layers"}
        batches = draw_batches(ctx.batches("train", source.tokenizer), _PROBE_EXAMPLES, ctx.seed)
        layers = spread(source.blueprint.layers, int(student.config.num_hidden_layers))  # type: ignore[union-attr, arg-type]
        found = narrow_weights(student.cpu(), source.model.cpu(), layers, [batch.to("cpu") for batch in batches])
        said = f"the source's layers {layers}, projected onto {found.basis.shape[1]} directions of its states"
        return student, found.basis, {"initialisation": said, "energy kept": found.energy, "random parts": found.drawn}

    def _augmented(self, ctx: Context) -> list[str]:
        """Return the training texts with replaced words, `augment` copies of each."""
        if self.config.augment_with is None:
            return []
        writer = ctx.load_masked_lm(self.config.augment_with, "method.tinybert.augment_with")
        texts = ctx.training_texts()
        made = replace_words(
            texts,
            writer.model.to(ctx.device).eval(),
            writer.tokenizer,
            copies=self.config.augment,
            probability=self.config.augment_probability,
            candidates=self.config.augment_candidates,
            max_length=ctx.task.config.max_length,
            seed=ctx.seed,
        )
        ctx.logger.info("%d training texts became %d more by replaced words", len(texts), len(made))
        return made


def preset_shape(preset: str, source: Blueprint) -> StudentConfig:
    """Return a preset's shape for a source: the paper's numbers, or the paper's share of a source that is not larger.

    4 x 312 with 1200 neurons is a third, 0.41 and 0.39 of BERT-base; widths are multiples of the source's heads.
    """
    layers, heads = source.layers, int(source.config.num_attention_heads)
    if preset == "6l":
        return StudentConfig(layers=max(1, layers // 2))
    neurons = int(getattr(source.config, "hidden_dim", None) or source.config.intermediate_size)
    width = 312 if source.hidden_size > 312 else source.hidden_size * 312 // _BASE[1]
    return StudentConfig(
        layers=4 if layers > 4 else max(1, layers * 4 // _BASE[0]),
        hidden_size=max(1, width // heads) * heads,
        intermediate_size=1200 if neurons > 1200 else max(1, neurons * 1200 // _BASE[2]),
    )


class Intermediate:
    """The intermediate losses of TinyBERT (equations 7 to 9) as a `Loss`, with the projection they share."""

    def __init__(self, options: TinyBertConfig, teacher: nn.Module, student: nn.Module, basis: Tensor | None) -> None:
        from torch import nn

        self.options = options
        self.teacher = teacher
        config: Any = student.config
        taught: Any = teacher.config
        self.pairs = dict(enumerate(spread(int(taught.num_hidden_layers), int(config.num_hidden_layers))))
        compared = self.pairs.items() if options.attention_weight else ()
        self.heads = {mine: matched_heads(student, mine, teacher, theirs) for mine, theirs in compared}
        self.projection = nn.Linear(int(config.hidden_size), int(taught.hidden_size))
        nn.init.zeros_(self.projection.bias)
        if basis is not None and basis.shape == self.projection.weight.shape:
            self.projection.weight.data.copy_(basis)
        elif config.hidden_size == taught.hidden_size:
            nn.init.eye_(self.projection.weight)  # equal widths: begin with comparing the states themselves

    @property
    def signals(self) -> TeacherSignals:
        """The teacher's states: those that are imitated, and what enters the layers whose scores are.

        Scores come from the states that enter a layer and the teacher's own linears. States can be kept in memory once,
        where q and k would cost a pass of the teacher with each batch.
        """
        wanted = {-1} if self.options.embedding_weight else set()
        if self.options.hidden_weight:
            wanted |= set(self.pairs.values())
        if self.options.attention_weight:
            wanted |= {layer - 1 for layer in self.pairs.values()}
        return TeacherSignals(hidden=tuple(sorted(wanted)))

    @property
    def student_signals(self) -> TeacherSignals:
        """The student's counterparts."""
        hidden = (-1,) if self.options.embedding_weight else ()
        layers = tuple(self.pairs)
        return TeacherSignals(
            hidden=hidden + (layers if self.options.hidden_weight else ()),
            qkv=layers if self.options.attention_weight else (),
        )

    def __call__(self, step: LossInputs) -> Mapping[str, Tensor]:
        """Return the weighted terms of one step."""
        options, mask, terms = self.options, step.mask, dict[str, Any]()
        states = {-1: -1} if options.embedding_weight else {}
        states |= self.pairs if options.hidden_weight else {}
        for mine, theirs in states.items():
            name, weight = ("embedding", options.embedding_weight) if mine < 0 else ("hidden", options.hidden_weight)
            error = squared_error(
                self.projection(step.student.hidden[mine])[mask], step.teacher.hidden[theirs][mask], options.relative
            )
            terms[name] = terms.get(name, 0) + weight * error
        for mine, theirs in self.pairs.items() if options.attention_weight else ():
            query, key, _ = step.student.qkv[mine]
            error = score_error(
                attention_scores(query, key, self.heads[mine]),
                attention_scores(*self._teacher_qk(theirs, step.teacher.hidden[theirs - 1]), self.heads[mine]),
                mask,
                options.relative,
            )
            terms["attention"] = terms.get("attention", 0) + options.attention_weight * error
        return terms

    def _teacher_qk(self, layer: int, entering_BLD: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        linears = attention_projections(self.teacher, encoder_layers(self.teacher)[layer].to(entering_BLD.device))
        with torch.no_grad():
            return linears.query(entering_BLD), linears.key(entering_BLD)


def attention_scores(query_BLW: Tensor, key_BLW: Tensor, heads: int) -> Tensor:
    """Return QK^T / sqrt(d_k) for each head, [B, H, L, L], before any softmax (Jiao et al. 2020, equations 1 and 7)."""
    size = query_BLW.shape[-1] // heads
    query_BHLd, key_BHLd = (x.float().reshape(*x.shape[:2], heads, size).transpose(1, 2) for x in (query_BLW, key_BLW))
    scores: Tensor = query_BHLd @ key_BHLd.transpose(-1, -2) / size**0.5
    return scores


def squared_error(student_ND: Tensor, teacher_ND: Tensor, relative: bool = False) -> Tensor:
    """Return the mean squared error of states (equations 8, 9); `relative` divides it by the teacher's mean square."""
    student_ND, teacher_ND = student_ND.float(), teacher_ND.float()
    error = (student_ND - teacher_ND).square().mean()
    return error / teacher_ND.square().mean() if relative else error


def score_error(student_BHLL: Tensor, teacher_BHLL: Tensor, mask_BL: Tensor, relative: bool = False) -> Tensor:
    """Return the mean squared error of scores over heads and pairs of real tokens (equation 7)."""
    apart_B1LL = ~(mask_BL[:, None, :, None] & mask_BL[:, None, None, :])
    error, size = (x.masked_fill(apart_B1LL, 0.0).square().sum() for x in (student_BHLL - teacher_BHLL, teacher_BHLL))
    return error / size if relative else error / ((~apart_B1LL).sum() * student_BHLL.shape[1])
