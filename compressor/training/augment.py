"""New texts from old ones: words replaced by what a masked language model would say in their place."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

_WORD: Final = re.compile(r"[^\W\d_]+")


def replace_words(
    texts: Sequence[str],
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    copies: int,
    probability: float,
    candidates: int,
    max_length: int,
    seed: int,
) -> list[str]:
    """Return new texts with words replaced by what a masked language model would say there (Jiao et al. 2020, algorithm 1).

    Each word that is one piece is masked in turn, and the `candidates` most probable words at its place are noted; each copy
    then replaces each word, with `probability`, by one of its candidates at random. Words of several pieces stay (the paper
    looks them up in GloVe). The authors' code shows the model the original sentence too and spares stop words; the paper
    does neither, and is followed. A copy equal to its text or to another copy is left out.
    """
    draw = random.Random(seed)
    made: list[str] = []
    for text in texts:
        choices = word_candidates(text, model, tokenizer, candidates, max_length)
        seen = {text}
        for _ in range(copies):
            parts, end = list[str](), 0
            for (start, stop), words in choices.items():
                if draw.random() < probability:
                    parts += [text[end:start], draw.choice(words)]
                    end = stop
            new = "".join(parts) + text[end:]
            if new not in seen:
                seen.add(new)
                made.append(new)
    return made


def word_candidates(
    text: str, model: nn.Module, tokenizer: PreTrainedTokenizerBase, candidates: int, max_length: int
) -> dict[tuple[int, int], list[str]]:
    """Return the candidates for each word of one piece, by the word's place in the text (start, end)."""
    import torch

    coded = tokenizer(text, truncation=True, max_length=max_length, return_offsets_mapping=True)
    places = {tuple(span): i for i, span in enumerate(coded["offset_mapping"]) if span[0] < span[1]}
    words = [m.span() for m in _WORD.finditer(text) if m.span() in places]
    if not words:
        return {}
    ids = torch.tensor(coded["input_ids"])
    masked = ids.repeat(len(words), 1)
    at = torch.tensor([places[span] for span in words])
    masked[torch.arange(len(words)), at] = int(tokenizer.mask_token_id)  # type: ignore[arg-type]
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(input_ids=masked.to(device)).logits[torch.arange(len(words)), at]
    found = {}
    for span, place, best in zip(
        words, at.tolist(), logits.topk(min(candidates, logits.shape[-1])).indices.tolist(), strict=True
    ):
        mark = _mark(tokenizer, int(ids[place]))
        kept = [tokenizer.decode([token]).strip() for token in best if _mark(tokenizer, token) == mark]
        kept = [word for word in kept if _WORD.fullmatch(word)]
        if kept:
            found[span] = kept
    return found


def _mark(tokenizer: PreTrainedTokenizerBase, token: int) -> str | None:
    """Return what a tokenizer puts before a piece to say whether a word starts there; None if the piece is no word."""
    word, piece = tokenizer.decode([token]).strip(), str(tokenizer.convert_ids_to_tokens(token))
    return piece[: len(piece) - len(word)] if word and piece.endswith(word) else None
