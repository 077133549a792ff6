"""Who is called when: every text visits every arm once a block, in an order that is drawn anew each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Arm(NamedTuple):
    """One model on one runtime."""

    runtime: str
    name: str


class Call(NamedTuple):
    """One call of a round."""

    block: int
    text: int
    arm: Arm


def schedule(arms: Sequence[Arm], *, texts: int, blocks: int, seed: Sequence[int]) -> Iterator[Call]:
    """Yield the calls of one round.

    In each block the texts come in fresh random order, and each text visits the arms in fresh random order, so that drift of
    the machine falls on all of them alike. Every arm sees every text `blocks` times.
    """
    rng = np.random.default_rng(seed)
    for block in range(blocks):
        for text in rng.permutation(texts):
            for k in rng.permutation(len(arms)):
                yield Call(block, int(text), arms[k])
