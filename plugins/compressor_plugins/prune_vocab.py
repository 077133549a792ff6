"""Vocabulary pruning: rows of the embedding table that the training text never reads are dropped, with their tokens.

A model that serves one task reads a small part of its vocabulary, and the table is a large part of a small encoder. Abdaoui et
al. 2020 (arXiv:2010.05609) keep the tokens that are frequent in a corpus of the wanted languages; TextPruner (Yang et al. 2022,
arXiv:2203.15996) those that occur in the task's texts, as is done here. The tokenizer is rewritten so that every text that was
read is cut into the same pieces, and the model computes exactly what it did on them:

- WordPiece takes the longest piece that fits; it stays the longest when others go.
- BPE applies the merge of lowest rank; merges that made a kept piece are kept, with all pieces in between, in their order.
- Unigram takes the most probable cut; it stays that when pieces of other cuts go. The least probable piece stays too, since the
  price of an unknown character hangs on it.

Other texts are cut into the pieces that are left, down to single characters.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor.api import (
    Blueprint,
    Capabilities,
    CompressedModel,
    CompressionMethod,
    ConfigError,
    Context,
    Incompatible,
    MethodConfig,
    Plan,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

_KINDS = ("WordPiece", "BPE", "Unigram", "WordLevel")
_TEXTS_AT_ONCE = 1000
Rules = dict[str, Any]  # a tokenizer.json


@dataclass(slots=True, kw_only=True)
class PruneVocabConfig(MethodConfig):
    """Options of `prune_vocab`."""

    min_count: int = 1  # times a token must occur in the training and transfer texts to stay
    keep_alphabet: bool = True  # keep every one-character piece, so that a new word still falls into pieces

    def __post_init__(self) -> None:
        if self.min_count < 1:
            raise ConfigError(f"method.prune_vocab.min_count={self.min_count}", allowed="1 or more")


class PruneVocab(CompressionMethod[PruneVocabConfig]):
    """Drop the tokens, and their embedding rows, that the training text never uses; texts it uses are cut as before.

    The result is a plain Hugging Face checkpoint. Its tokens are numbered anew, so a method after this one can compare it with
    the teacher by logits of whole texts, not token by token.
    """

    Config = PruneVocabConfig
    capabilities = Capabilities(
        tasks=frozenset({"classification", "regression", "token_classification"}), reads_unlabelled_text=True
    )
    references = ("Abdaoui et al. 2020, arXiv:2010.05609", "Yang et al. 2022, TextPruner, arXiv:2203.15996")

    def __init__(self, config: PruneVocabConfig) -> None:
        super().__init__(config)
        # With fewer tokens texts fall into other pieces, which are counted anew.
        self.capabilities = replace(type(self).capabilities, idempotent=config.min_count == 1)

    def check(self, source: Blueprint, plan: Plan) -> None:
        """Refuse a tokenizer that has no rules to rewrite."""
        backend = getattr(source.tokenizer, "backend_tokenizer", None)
        kind = "no tokenizer.json" if backend is None else type(backend.model).__name__
        if kind not in _KINDS:
            raise Incompatible(
                f"prune_vocab cannot rewrite a {type(source.tokenizer).__name__} with {kind}",
                allowed=f"a fast tokenizer of kind {', '.join(_KINDS)}",
            )

    def outline(self, source: Blueprint, plan: Plan) -> Blueprint:
        """Predict a tokenizer that is not the source's: which tokens stay is known once the texts were read.

        What stays whatever the texts hold stands for it, so that a later link that compares tokens is refused now.
        """
        rules = _rules(source.tokenizer)
        always = kept_ids(rules, (), named_ids(source.tokenizer, source.config), alphabet=self.config.keep_alphabet)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = rewritten(source.tokenizer, shrunk(rules, always), Path(folder))
        return replace(plan.outline(source, self.capabilities), tokenizer=tokenizer)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Count tokens, rewrite the tokenizer, cut the table."""
        model = ctx.build_student(source)
        if callable(outputs := getattr(model, "get_output_embeddings", None)) and outputs() is not None:
            raise Incompatible("prune_vocab: the model predicts tokens, and its output layer would lose them")
        table = _table(model)
        counts = self._counts(source.tokenizer, table.num_embeddings, ctx)
        rules = _rules(source.tokenizer)
        used = (counts >= self.config.min_count).nonzero().flatten().tolist()
        named = named_ids(source.tokenizer, source.config)
        kept = kept_ids(rules, used, named, alphabet=self.config.keep_alphabet)
        if len(kept) >= table.num_embeddings:
            raise Incompatible(f"prune_vocab: all {len(kept)} tokens have to stay", hint="leave prune_vocab out")
        tokenizer = rewritten(source.tokenizer, shrunk(rules, kept), ctx.workspace / "tokenizer")
        _cut(model, table, kept)
        ctx.logger.info("%d of %d tokens stay", len(kept), table.num_embeddings)
        notes = {
            "tokens_before": len(counts),
            "tokens_after": len(kept),
            "tokens_used": int((counts > 0).sum()),
            "training_texts_cut_differently": _cut_differently(source.tokenizer, tokenizer, kept, ctx),
        }
        return source.evolve(model=model, tokenizer=tokenizer, notes=notes)

    def _counts(self, tokenizer: PreTrainedTokenizerBase, rows: int, ctx: Context) -> Tensor:
        """Count how often each token occurs in the training and transfer texts, as far as the model reads them."""
        import torch

        counts = torch.zeros(rows, dtype=torch.int64)
        for ids in _training_ids(tokenizer, ctx):
            counts += torch.bincount(ids, minlength=rows)
        texts = list(ctx.unlabelled_texts())
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            part = texts[start : start + _TEXTS_AT_ONCE]
            coded = tokenizer(part, truncation=True, max_length=ctx.task.config.max_length)["input_ids"]
            counts += torch.bincount(torch.tensor([i for ids in coded for i in ids]), minlength=rows)
        return counts


def _training_ids(tokenizer: PreTrainedTokenizerBase, ctx: Context) -> Iterator[Tensor]:
    """Yield the token ids of each training text, without padding."""
    for batch in ctx.batches("train", tokenizer):
        rows = zip(batch.inputs["input_ids"].cpu(), batch.inputs["attention_mask"].cpu().bool(), strict=True)
        yield from (ids[mask] for ids, mask in rows)


def _cut_differently(
    old: PreTrainedTokenizerBase, new: PreTrainedTokenizerBase, kept: Sequence[int], ctx: Context
) -> int:
    """Count training texts that the new tokenizer cuts into other pieces: those with tokens below `min_count`."""
    import torch

    back = torch.tensor(kept)
    pairs = zip(_training_ids(old, ctx), _training_ids(new, ctx), strict=True)
    return sum(not torch.equal(before, back[after]) for before, after in pairs)


def _table(model: nn.Module) -> nn.Embedding:
    """Return the word-embedding table; inside a product of two matrices it is the one with a row a token."""
    from torch import nn

    holder: Any = model.get_input_embeddings()  # type: ignore[operator]
    return next(m for m in holder.modules() if isinstance(m, nn.Embedding))


def _cut(model: nn.Module, table: nn.Embedding, kept: Sequence[int]) -> None:
    """Keep these rows of the table, in place, and renumber what the config names."""
    import torch
    from torch import nn

    new = {old: i for i, old in enumerate(kept)}
    rows = table.weight.detach()[torch.tensor(kept, device=table.weight.device)]
    table.weight = nn.Parameter(rows.clone(), requires_grad=table.weight.requires_grad)
    table.num_embeddings = len(kept)
    table.padding_idx = None if table.padding_idx is None else new[table.padding_idx]
    config: Any = model.config
    config.vocab_size = len(kept)
    for name, value in list(vars(config).items()):
        if name.endswith("_token_id") and isinstance(value, int) and value in new:
            setattr(config, name, new[value])


# The tokenizer's rules.


def _rules(tokenizer: PreTrainedTokenizerBase) -> Rules:
    rules: Rules = json.loads(tokenizer.backend_tokenizer.to_str())
    return rules


def _vocabulary(rules: Rules) -> dict[str, int]:
    """Return piece -> id of the model, without what was added beside it."""
    vocabulary = rules["model"]["vocab"]
    if isinstance(vocabulary, dict):
        return vocabulary
    return {piece: i for i, (piece, _) in enumerate(vocabulary)}


def named_ids(tokenizer: PreTrainedTokenizerBase, config: Any) -> set[int]:
    """Return the ids that tokenizer and model config call by a name.

    Those up to the padding id are among them: some families count positions from it, so it must not move.
    """
    named = {v for name, v in vars(config).items() if name.endswith("_token_id") and isinstance(v, int) and v >= 0}
    return named | set(tokenizer.all_special_ids) | set(range(int(tokenizer.pad_token_id or 0) + 1))


def kept_ids(rules: Rules, used: Iterable[int], named: Iterable[int], *, alphabet: bool) -> list[int]:
    """Return the ids that stay, in order: used ones, named and added ones, and what the tokenizer's kind needs for them.

    Args:
        rules: The tokenizer.json.
        used: Ids that the texts use.
        named: Ids that must stay because something refers to them.
        alphabet: Keep all one-character pieces.
    """
    model, vocabulary = rules["model"], _vocabulary(rules)
    added = {token["id"] for token in rules["added_tokens"]}
    kept = {*used, *added} | (set(named) & (set(vocabulary.values()) | added))
    if model.get("unk_token") in vocabulary:
        kept.add(vocabulary[model["unk_token"]])
    affixes = model.get("continuing_subword_prefix") or "", model.get("end_of_word_suffix") or ""
    for piece, number in vocabulary.items():
        character = len(piece.removeprefix(affixes[0]).removesuffix(affixes[1])) == 1
        if (alphabet and character) or (model.get("byte_fallback") and piece.startswith("<0x")):
            kept.add(number)
    if rules["model"]["type"] == "BPE":
        kept |= _parts(rules, kept)
    if rules["model"]["type"] == "Unigram":
        scores = [score for _, score in model["vocab"]]
        kept.add(scores.index(min(scores)))
        kept |= set(
            range((model.get("unk_id") or 0) + 1)
        )  # transformers builds some families' tokenizers with a fixed id
    return sorted(kept)


def _merges(rules: Rules) -> Iterator[tuple[str, str, str]]:
    """Yield left, right and result of each merge, in the order of rank."""
    prefix = rules["model"].get("continuing_subword_prefix") or ""
    for merge in rules["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right, left + right.removeprefix(prefix)


def _parts(rules: Rules, kept: Iterable[int]) -> set[int]:
    """Return the ids of all pieces that kept ones are merged from, down to the first."""
    vocabulary = _vocabulary(rules)
    made_of: dict[str, list[str]] = {}
    for left, right, whole in _merges(rules):
        made_of.setdefault(whole, []).extend((left, right))
    names = {number: piece for piece, number in vocabulary.items()}
    waiting = [names[number] for number in kept if number in names]
    found = set(waiting)
    while waiting:
        fresh = [part for part in made_of.get(waiting.pop(), []) if part not in found]
        found.update(fresh)
        waiting += fresh
    return {vocabulary[piece] for piece in found}


def shrunk(rules: Rules, kept: Sequence[int]) -> Rules:
    """Return the tokenizer.json with only these ids, numbered from 0 in their order."""
    new = {old: i for i, old in enumerate(kept)}
    model = dict(rules["model"])
    if isinstance(model["vocab"], dict):
        model["vocab"] = {piece: new[number] for piece, number in model["vocab"].items() if number in new}
    else:
        model["vocab"] = [entry for number, entry in enumerate(model["vocab"]) if number in new]
        model["unk_id"] = None if model.get("unk_id") is None else new[model["unk_id"]]
    if "merges" in model:
        stays = model["vocab"].keys()
        parts = zip(model["merges"], _merges(rules), strict=True)
        model["merges"] = [merge for merge, pieces in parts if stays >= set(pieces)]
    result = {**rules, "model": model}
    result["added_tokens"] = [{**token, "id": new[token["id"]]} for token in rules["added_tokens"]]
    result["post_processor"] = _renumbered(rules["post_processor"], new)
    if rules.get("padding"):
        result["padding"] = {**rules["padding"], "pad_id": new[rules["padding"]["pad_id"]]}
    return result


def _renumbered(part: Any, new: Mapping[int, int]) -> Any:
    """Renumber the ids inside a post-processor: `ids` of a template's tokens, [token, id] of the older kinds."""
    if isinstance(part, list):
        return [_renumbered(entry, new) for entry in part]
    if not isinstance(part, dict):
        return part
    result = {key: _renumbered(value, new) for key, value in part.items()}
    if "ids" in result:
        result["ids"] = [new[number] for number in part["ids"]]
    for key in ("sep", "cls"):
        if key in result:
            result[key] = [part[key][0], new[part[key][1]]]
    return result


def rewritten(tokenizer: PreTrainedTokenizerBase, rules: Rules, folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer with other rules, by way of its files: so it is what will be loaded from them later.

    Raises:
        Incompatible: The tokenizer's class builds something else from these rules.
    """
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(rules), encoding="utf-8")
    new: PreTrainedTokenizerBase = type(tokenizer).from_pretrained(folder, local_files_only=True)
    wanted = _vocabulary(rules) | {token["content"]: token["id"] for token in rules["added_tokens"]}
    if new.get_vocab() != wanted:
        raise Incompatible(f"prune_vocab: {type(tokenizer).__name__} numbers its tokens in a way of its own")
    return new
