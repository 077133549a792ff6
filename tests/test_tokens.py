from __future__ import annotations

from compressor.testing.tiny import tiny_tokenizer
from compressor.tokens import same_tokens


def test_the_same_vocabulary_cuts_alike() -> None:
    assert same_tokens(tiny_tokenizer(), tiny_tokenizer())


def test_vocabularies_of_equal_size_are_told_apart() -> None:
    one = tiny_tokenizer()
    words = sorted(one.get_vocab(), key=one.get_vocab().get)
    swapped = [*words[:-2], words[-1], words[-2]]
    two = type(one)(vocab={w: i for i, w in enumerate(swapped)})
    assert len(one) == len(two)
    assert not same_tokens(one, two)
