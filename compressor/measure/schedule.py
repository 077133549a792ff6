"""Who is loaded and called when: every text visits every arm once a block, in random orders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

_FEW: Final = 3
_LOADING, _TURNING = 1, 2  # streams of random numbers of their own


class Arm(NamedTuple):
    """One model on one runtime."""

    runtime: str
    name: str


class Call(NamedTuple):
    """One call; blocks are counted from the load."""

    block: int
    text: int
    arm: Arm


def load_order(arms: Sequence[Arm], *, seed: Sequence[int], load: int = 0) -> list[Arm]:
    """Return the order in which models are loaded and warmed up.

    Who is loaded when shows, and lasts: of three models in ONNX Runtime, calls of 8 to 15 ms, the first took 4 % longer than
    the last until the next load. So an order is drawn for two loads, and the second turns it round: who had the better place
    has the worse one then.
    """
    return [arms[i] for i in _mirrored(len(arms), load, seed, _LOADING)]


def schedule(arms: Sequence[Arm], *, texts: int, blocks: int, seed: Sequence[int], load: int = 0) -> Iterator[Call]:
    """Yield the calls between this load of the models and the next.

    In each block the texts come in fresh random order, and each text visits every arm at once, so that drift of the machine
    falls on all of them alike. Every arm sees every text `blocks` times.

    The order of the arms moves from text to text, but nobody's turn comes much sooner than everybody else's. Drawn anew for
    each text, a model that was called last is often called again at once, and finds the cache warm: of three with calls of 1 ms
    such calls took 2 to 3 % less, and their luck was a third of all variance. An order that stays for a block makes it matter
    who is called before whom: of a teacher and a student of half its layers on three runtimes, one load of the teacher took up
    to 6 % more or less than another through a whole block of eager torch (standard deviation 4.2 %; in moving orders 1.7 %).
    Three arms or fewer have no order to move to: theirs is drawn for a block, and the next block, perhaps of the next load,
    turns it round.
    """
    rng = np.random.default_rng([*seed, load])
    turn = rng.permutation(len(arms)).tolist()
    for block in range(blocks):
        for place, text in enumerate(rng.permutation(texts).tolist()):
            if len(arms) > _FEW:
                turn = _moved(turn, rng)
            elif place == 0:
                turn = _mirrored(len(arms), load * blocks + block, seed, _TURNING)
            for k in turn:
                yield Call(block, text, arms[k])


def _mirrored(count: int, number: int, seed: Sequence[int], stream: int) -> list[int]:
    """Return the order of an even number, drawn at random, or of the odd number after it, which turns that round."""
    pair, odd = divmod(number, 2)
    turn: list[int] = np.random.default_rng([*seed, pair, stream]).permutation(count).tolist()
    return turn[::-1] if odd else turn


def _moved(turn: Sequence[int], rng: np.random.Generator) -> list[int]:
    """Return another order: whoever is next has waited longest of all, or nearly so, by less than a third of the arms."""
    waiting, moved = list(turn), []
    while waiting:
        moved.append(waiting.pop(rng.integers(min(len(waiting), 1 + (len(turn) - 1) // 3))))
    return moved
