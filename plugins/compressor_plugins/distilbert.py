"""DistilBERT: half of the layers, no token types, no pooler, and a triple loss."""

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
    embeddings,
    encoder_layers,
    family,
    head_count,
    keep_heads,
    keep_neurons,
    layer_parts,
    neuron_count,
    reserved_positions,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# The parts of a head that DistilBERT has too, bottom first: where it keeps them, and where others do.
_HEADS: Final[Mapping[str, tuple[tuple[str, ...], ...]]] = {
    "AutoModelForSequenceClassification": (
        ("pre_classifier", "classifier"),
        ("bert.pooler.dense", "classifier"),
        ("classifier.dense", "classifier.out_proj"),
    ),
    "AutoModelForTokenClassification": (("classifier",),),
    "AutoModelForMaskedLM": (
        ("vocab_transform", "vocab_layer_norm", "vocab_projector"),
        ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.decoder"),
        ("lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
        ("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head"),
    ),
}


@dataclass(slots=True, kw_only=True)
class DistilBertConfig(MethodConfig):
    """Options of `distilbert`. The defaults of the weights are those of the authors' published command."""

    temperature: float = 2.0  # T, softens both distributions; classes and tokens only
    alpha_ce: float = 5.0  # weight of the distillation loss
    alpha_mlm: float = 2.0  # weight of the loss on the labels, or on the hidden words where the task is masked_lm
    alpha_cos: float = 1.0  # weight of the cosine loss on the last hidden states

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise ConfigError(f"method.distilbert.temperature={self.temperature}", allowed="above 0")
        for name in ("alpha_ce", "alpha_mlm", "alpha_cos"):
            if getattr(self, name) < 0:
                raise ConfigError(f"method.distilbert.{name}={getattr(self, name)}", allowed="0 or more")
        if not (self.alpha_ce or self.alpha_mlm or self.alpha_cos):
            raise ConfigError("method.distilbert.alpha_ce=0 alpha_mlm=0 alpha_cos=0", allowed="one weight above 0")


class DistilBert(CompressionMethod[DistilBertConfig]):
    """A genuine DistilBERT from every other layer of the source, trained with a triple loss (half of the layers by default).

    loss = alpha_ce * L_ce + alpha_mlm * L_mlm + alpha_cos * L_cos     (Sanh et al. 2019, section 2)

    L_ce = sum t_i log s_i over softened distributions; as in the authors' code it is T^2 * KL, whose gradient is that of the
    paper's cross-entropy times T^2. L_cos is the mean of 1 - cosine of the last hidden states over real tokens. The paper
    calls the sum a linear combination and gives no weights; 5, 2, 1 and T = 2 are those of the authors' published command.
    They copy the source's layers 0, 2, 4, 7, 9, 11 (`student.init=[0,2,4,7,9,11]`) where the paper says "one layer out of two";
    ours are 1, 3, ..., 11 unless told otherwise.

    Two stages, told apart by the task. On a labelled task the teacher is fine-tuned and L_mlm stands for the labels' loss
    (section 4, "additional step of distillation"). On `task=masked_lm` it is the paper's general distillation: the teacher
    has a trained masked-LM head, words are hidden anew at each step, and the folder that it leaves is a checkpoint to
    fine-tune: `method=checkpoint method.checkpoint.checkpoint=FOLDER`, or `teacher.checkpoint=FOLDER`.

    The student starts as the same function as the layers that it takes: the first row of the token-type table is added to
    each position, since every token of a single text has that type. For pairs the second text's type is given up, as in the
    paper. Its classification head is linear, ReLU, linear, and BERT's and RoBERTa's have tanh: with 1 added before the ReLU
    and taken off behind it the student computes max(z, -1), which is tanh where it is steep and where it saturates below.
    """

    Config = DistilBertConfig
    capabilities = Capabilities(
        needs_training=True,
        reads_student=True,
        own_student=True,
        signals=frozenset({"logits", "hidden"}),
        tasks=frozenset({"classification", "regression", "token_classification", "masked_lm"}),
        # Layers of their own, positions in a table, a norm after each block: what DistilBERT can hold.
        families=frozenset({"bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert"}),
    )
    references = ("Sanh et al. 2019, arXiv:1910.01108",)

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse sources that no DistilBERT can hold, a temperature on scores, and states that cannot be compared."""
        _require_same_function(source.config)
        if plan.task.type == "regression" and self.config.temperature != DistilBertConfig().temperature:
            raise Incompatible(
                f"method.distilbert.temperature={self.config.temperature}: task '{plan.task.name}' predicts a score, and a "
                "temperature softens classes",
                hint="leave method.distilbert.temperature out",
            )
        student = _with_student(plan, source).student_blueprint(source)
        if self.config.alpha_cos and student.hidden_size != plan.teacher.hidden_size:
            raise Incompatible(
                f"the cosine loss compares states of one width, and the student's is {student.hidden_size}, the teacher's "
                f"{plan.teacher.hidden_size}",
                hint="method.distilbert.alpha_cos=0",
            )
        reads_tokens = self.config.alpha_cos or (self.config.alpha_ce and plan.task.token_level)
        if reads_tokens and not plan.tokens_align(source):
            raise Incompatible(
                "states and tokens can be compared only where teacher and student see the same tokens, and their vocabularies "
                "differ",
                hint="" if plan.task.token_level else "method.distilbert.alpha_cos=0",
            )

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Predict the DistilBERT."""
        shaped = _with_student(plan, source).outline(source, self.capabilities)
        config = distilbert_config(shaped.config, plan.task.config_overrides())
        return replace(shaped, config=config, tokenizer=without_types(source.tokenizer))

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Take layers over, train, return the DistilBERT."""
        chosen = _with_student(ctx.plan, source.blueprint).student
        shaped = ctx.build_student(source, chosen) if chosen.chosen() else ctx.build_student(source)
        student = as_distilbert(shaped, ctx.task.auto_class, ctx.task.config_overrides())
        student_last, teacher_last = len(encoder_layers(student)) - 1, ctx.teacher.blueprint.layers - 1
        temperature = 1.0 if ctx.task.type == "regression" else self.config.temperature
        config = self.config

        def loss(step: LossInputs) -> Mapping[str, Tensor]:
            terms = {}
            if config.alpha_ce:
                soft = step.task.soft_loss(step.logits, step.teacher_logits, step.batch, temperature)
                terms["ce"] = config.alpha_ce * soft
            if config.alpha_mlm:
                terms["mlm"] = config.alpha_mlm * step.task.hard_loss(step.logits, step.batch)
            if config.alpha_cos:
                states = step.student.hidden[student_last][step.mask], step.teacher.hidden[teacher_last][step.mask]
                terms["cos"] = config.alpha_cos * cosine_distance(*states)
            return terms

        result = ctx.fit(
            student,
            loss,
            signals=TeacherSignals(logits=bool(config.alpha_ce), hidden=(teacher_last,) if config.alpha_cos else ()),
            student_signals=TeacherSignals(hidden=(student_last,) if config.alpha_cos else ()),
            use_unlabelled=bool(config.alpha_ce or config.alpha_cos),
            tokenizer=source.tokenizer,  # with token types, which the teacher reads
        )
        return source.evolve(model=student, tokenizer=without_types(source.tokenizer), notes=result.summary())


def cosine_distance(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """Return the mean over N tokens of 1 - cosine."""
    from torch.nn.functional import cosine_similarity

    return (1 - cosine_similarity(student_ND.float(), teacher_ND.float(), dim=-1)).mean()


def without_types(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """Return a tokenizer that gives what DistilBERT's forward takes, also to those who call it outside of this package."""
    import copy

    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_input_names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names  # what is saved with it
    return tokenizer


def distilbert_config(source: PretrainedConfig, overrides: Mapping[str, Any]) -> PretrainedConfig:
    """Return the config of a DistilBERT of the source's shape; `overrides` describe the head."""
    import copy

    import transformers

    if family(source) == "distilbert":
        return copy.deepcopy(source)
    head_dropout = getattr(source, "classifier_dropout", None)
    return transformers.DistilBertConfig(  # type: ignore[no-any-return]
        vocab_size=source.vocab_size,
        max_position_embeddings=source.max_position_embeddings - reserved_positions(source),
        n_layers=source.num_hidden_layers,
        n_heads=source.num_attention_heads,
        dim=source.hidden_size,
        hidden_dim=source.intermediate_size,
        dropout=source.hidden_dropout_prob,
        attention_dropout=source.attention_probs_dropout_prob,
        activation=source.hidden_act,
        initializer_range=source.initializer_range,
        seq_classif_dropout=source.hidden_dropout_prob if head_dropout is None else head_dropout,
        pad_token_id=source.pad_token_id,
        bos_token_id=source.bos_token_id,
        eos_token_id=source.eos_token_id,
        **overrides,
    )


def as_distilbert(model: nn.Module, auto_class: str, overrides: Mapping[str, Any]) -> nn.Module:
    """Return a DistilBERT with the weights of a BERT-like model; heads and neurons that it lost before stay away.

    Args:
        model: Any model of the families that the method takes, with a head for the task.
        auto_class: The transformers Auto class of that head.
        overrides: Entries of the config that describe the head.
    """
    import torch
    import transformers
    from torch import nn

    config = distilbert_config(model.config, overrides)  # type: ignore[arg-type]
    new: nn.Module = getattr(transformers, auto_class).from_config(config)
    with torch.no_grad():
        _copy_embeddings(embeddings(model), embeddings(new))
        for old_layer, layer in zip(encoder_layers(model), encoder_layers(new), strict=True):
            if head_count(model, old_layer) != head_count(new, layer):
                keep_heads(new, layer, range(head_count(model, old_layer)))
            if neuron_count(model, old_layer) != neuron_count(new, layer):
                keep_neurons(new, layer, range(neuron_count(model, old_layer)))
            norms = [[m for m in one.modules() if isinstance(m, nn.LayerNorm)] for one in (old_layer, layer)]
            parts = layer_parts(model, old_layer), layer_parts(new, layer)
            for old, part in (*zip(*parts, strict=True), *zip(*norms, strict=True)):
                part.load_state_dict(old.state_dict())
        _copy_head(model, new, auto_class)
    return new


def _copy_embeddings(old: Any, new: Any) -> None:
    new.word_embeddings.weight.copy_(old.word_embeddings.weight)
    first = 0 if old.position_embeddings.padding_idx is None else old.position_embeddings.padding_idx + 1
    positions = old.position_embeddings.weight[first:]
    types = getattr(old, "token_type_embeddings", None)
    new.position_embeddings.weight.copy_(positions if types is None else positions + types.weight[0])
    new.LayerNorm.load_state_dict(old.LayerNorm.state_dict())


def _copy_head(model: nn.Module, new: nn.Module, auto_class: str) -> None:
    names = {name for name, _ in model.named_modules()}
    own, *_ = known = _HEADS[auto_class]
    theirs = next(paths for paths in known if names.issuperset(paths))
    for old, part in zip(theirs, own, strict=True):
        new.get_submodule(part).load_state_dict(model.get_submodule(old).state_dict())
    if auto_class == "AutoModelForSequenceClassification" and theirs != own and "classifier.activation" not in names:
        head: Any = new
        head.pre_classifier.bias += 1.0
        head.classifier.bias -= head.classifier.weight.sum(dim=1)


def _require_same_function(config: PretrainedConfig) -> None:
    """Refuse members of the families that a DistilBERT cannot hold."""
    positions = getattr(config, "position_embedding_type", None) or "absolute"
    if positions != "absolute":
        raise Incompatible(f"DistilBERT has absolute positions, and the source's are '{positions}'")
    width = getattr(config, "embedding_size", config.hidden_size)
    if width != config.hidden_size:
        raise Incompatible(
            f"DistilBERT's embeddings are as wide as its layers, and the source's are {width} wide, its layers "
            f"{config.hidden_size}",
            allowed="a source without an embedding projection",
        )


def _with_student(plan: Plan, source: Blueprint) -> Plan:
    """Ask for half of the layers where the user asked for nothing and no link before took any."""
    if plan.student.chosen() or source.layers < plan.teacher.layers or source.layers == 1:
        return plan
    return replace(plan, student=StudentConfig(layers=source.layers // 2))
