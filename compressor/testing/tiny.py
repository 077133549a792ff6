"""Tiny offline models and data for tests: a WordPiece tokenizer, a random BERT, a task that can be learned.

The words `good` and `bad` decide a text's class, so that a model of two layers learns it in a second or two.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from compressor.tasks.base import Example

if TYPE_CHECKING:
    from transformers import BertForSequenceClassification, BertForTokenClassification, PreTrainedTokenizerBase

FILLERS: Final = (
    *("a", "the", "this", "that", "film", "plot", "actor", "scene", "story", "music", "and"),
    *("of", "with", "in", "on", "very", "quite", "really", "was", "is", "had", "it"),
)
MARKERS: Final = ("bad", "good")  # by class
WORDS: Final = (*FILLERS, *MARKERS, "##s", "##ly", "##ing", ".", ",", "'", "!", "?")
_SPECIAL: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def tiny_tokenizer(words: Sequence[str] = WORDS) -> PreTrainedTokenizerBase:
    """Return an uncased WordPiece tokenizer that knows `words`."""
    from transformers import BertTokenizer

    vocabulary = {word: i for i, word in enumerate(dict.fromkeys((*_SPECIAL, *words)))}
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=64)


def tiny_bert(
    layers: int = 3,
    hidden: int = 32,
    heads: int = 4,
    labels: int = 2,
    *,
    tokens: bool = False,
    dropout: float = 0.1,
    vocabulary: int = len(WORDS) + len(_SPECIAL),
    **overrides: Any,
) -> BertForSequenceClassification | BertForTokenClassification:
    """Return a random BERT; seed torch first to get the same one again.

    Args:
        layers: Encoder layers.
        hidden: Width; the feed-forward part is twice as wide.
        heads: Attention heads a layer.
        labels: Outputs, unless `overrides` holds `num_labels`.
        tokens: Predict for each token rather than for the text.
        dropout: Of hidden states and attention.
        vocabulary: Rows of the word-embedding table.
        overrides: Entries of the model's config.
    """
    from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

    config = BertConfig(
        **{
            "vocab_size": vocabulary,
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": 2 * hidden,
            "max_position_embeddings": 64,
            "hidden_dropout_prob": dropout,
            "attention_probs_dropout_prob": dropout,
            "num_labels": labels,
        }
        | overrides
    )
    return BertForTokenClassification(config) if tokens else BertForSequenceClassification(config)


def tiny_examples(n: int = 48, *, seed: int = 0, kind: str = "classification") -> list[Example]:
    """Return labelled examples of a task that can be learned.

    Args:
        n: How many.
        seed: Of the texts.
        kind: `classification` (2 classes), `regression` (a score of 0 to 1) or `token_classification` (tags O, B-X).
    """
    draw = random.Random(seed)
    examples = []
    for i in range(n):
        label = i % 2
        words = draw.choices(FILLERS, k=draw.randint(3, 16))
        words.insert(draw.randrange(len(words) + 1), MARKERS[label])
        if kind == "token_classification":
            tags = tuple(int(word in MARKERS) for word in words)
            examples.append(Example(i, tuple(words), label=tags))
        else:
            examples.append(Example(i, " ".join(words), label=float(label) if kind == "regression" else label))
    return examples
