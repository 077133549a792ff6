"""Whether two tokenizers cut text into the same ids."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Case, accents, CJK, punctuation, an unknown symbol and digits: where tokenizers of equal vocabulary differ.
PROBE = "It's a Caf\u00e9 - na\u00efve, 3.5% \u4e2d\u6587 \u2603 unbelievableness\tEND"


def same_tokens(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Compare vocabularies, entry by entry, and how a probing text and a pair are cut.

    Sizes say nothing: two vocabularies of 30,522 entries may share no id.
    """
    if first is second:
        return True
    if first.get_vocab() != second.get_vocab():
        return False
    return bool(
        first(PROBE)["input_ids"] == second(PROBE)["input_ids"]
        and first("a", "b")["input_ids"] == second("a", "b")["input_ids"]
    )


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash what decides how a tokenizer cuts text: vocabulary, normaliser, cutting rules, special tokens, sides.

    What the last call left behind in a fast tokenizer, how it truncates and pads, is no part of it.
    """
    rules: dict[str, Any] = {}
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        rules = json.loads(backend.to_str())
        rules = {name: rule for name, rule in rules.items() if name not in ("truncation", "padding")}
    sides = [tokenizer.padding_side, tokenizer.truncation_side]
    special = [str(token) for token in tokenizer.all_special_tokens]
    parts = [type(tokenizer).__name__, tokenizer.get_vocab(), rules, sides, special, list(tokenizer.model_input_names)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode(errors="replace")).hexdigest()
