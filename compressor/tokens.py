"""Whether two tokenizers cut text into the same ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
