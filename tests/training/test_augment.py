"""Words replaced by a masked language model's guesses."""

from __future__ import annotations

import numpy as np
import torch

from compressor.testing.tiny import tiny_tokenizer
from compressor.training.augment import replace_words
from compressor.training.signals import Outputs


class Parrot(torch.nn.Module):
    """A masked-LM that says `very`, `quite`, `##s` and `.` everywhere, in this order."""

    def __init__(self, tokenizer) -> None:
        super().__init__()
        self.said = torch.nn.Parameter(torch.zeros(len(tokenizer)))
        self.seen: list = []
        for rank, word in enumerate(("very", "quite", "##s", ".")):
            self.said.data[tokenizer.convert_tokens_to_ids(word)] = 4.0 - rank

    def forward(self, input_ids):
        self.seen.append(input_ids)
        return Outputs(logits=self.said.expand(*input_ids.shape, -1))


def test_words_of_one_piece_are_replaced_by_likely_words() -> None:
    tokenizer = tiny_tokenizer()
    model = Parrot(tokenizer)
    text = "This film, really good plots!"  # 'plots' is two pieces
    common = {"copies": 30, "candidates": 4, "max_length": 32, "seed": 0}
    made = replace_words([text], model, tokenizer, probability=0.5, **common)
    assert made and len(set(made)) == len(made) and text not in made
    words = {w for new in made for w in new.replace(",", "").replace("!", "").split()}
    assert words == {"This", "film", "really", "good", "plots", "very", "quite"}
    assert all(new.endswith("plots!") and "," in new for new in made)
    assert (model.seen[0] == tokenizer.mask_token_id).sum(dim=1).tolist() == [1, 1, 1, 1]
    assert made == replace_words([text], model, tokenizer, probability=0.5, **common)
    always = replace_words([text], model, tokenizer, probability=1.0, copies=1, candidates=1, max_length=32, seed=0)
    assert always == ["very very, very very plots!"]
    share = np.mean([sum(a != b for a, b in zip(n.split(), text.split(), strict=True)) / 4 for n in made])
    assert 0.3 < share < 0.7
