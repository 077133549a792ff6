"""Count how often the 95 % interval of a speed-up, and of a paired difference, holds the truth in simulated runs.

    python tests/benchmarks/interval_coverage.py [--runs 2000]

Simulated are calls of a model and of two loads of its baseline on a machine whose speed drifts from block to block, with
log-normal noise and spikes of three times the length. Each load of a model has its memory in a better or worse place, and of
several rounds each has a bias of its own. The levels are those of `bench=quick|standard|publish`; the first also on a machine
where loads differ so much that half of all attempts at a round are doubtful, in those runs whose every attempt is.
Everything is drawn from seeds, so that a second call prints the same.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from compressor.compare.bootstrap import paired_difference, speed_up
from compressor.compare.stability import doubts
from compressor.config import BenchConfig
from compressor.groups import conf_folder
from compressor.measure.latency import counting
from compressor.tasks.metrics import Accuracy

TRUTH = 1.5
GAP = -0.04
LEVELS = ("quick", "standard", "publish")
TARGET = (0.93, 0.97)
LOAD, DISTURBED = 0.007, 0.025  # standard deviation of the logarithm of what a load does to a model's calls


def level(name: str) -> BenchConfig:
    """Return the settings of a level."""
    return BenchConfig(**OmegaConf.to_object(OmegaConf.load(conf_folder() / "bench" / f"{name}.yaml")))


def shape_of(bench: BenchConfig) -> tuple[int, ...]:
    """Return the rounds, the loads of each, the blocks of each and the texts."""
    return bench.rounds, bench.loads, bench.blocks // bench.loads, bench.texts


def simulated(
    rng: np.random.Generator, ratio: float, shape: tuple[int, ...], load: float = LOAD
) -> tuple[NDArray[np.int64], ...]:
    """Return calls of a candidate that is `ratio` times faster, and of two loads of its baseline: [..., blocks, texts] ns."""
    per_block, per_load, per_round = (*shape[:-1], 1), (*shape[:-2], 1, 1), (*shape[:-3], 1, 1, 1)
    drift = np.exp(rng.normal(0, 0.05, per_block).cumsum(axis=-2))
    lengths = np.linspace(5e6, 2e7, shape[-1])

    def calls(speed: float) -> NDArray[np.int64]:
        noise = rng.lognormal(0, 0.03, shape) * np.where(rng.random(shape) < 0.03, 3.0, 1.0)
        noise = noise * np.exp(rng.normal(0, 0.004, per_block))
        if len(shape) > 2:
            noise = noise * np.exp(rng.normal(0, load, per_load))
        if len(shape) > 3 and shape[0] > 1:  # a single round cannot know its own bias
            noise = noise * np.exp(rng.normal(0, 0.003, per_round))
        return (lengths * drift * noise / speed).astype(np.int64)

    return calls(ratio), calls(1.0), calls(1.0)


def of_speed_ups(runs: int, shape: tuple[int, ...], seed: int) -> float:
    """Return the share of runs whose interval of the speed-up holds it."""
    rng, hits = np.random.default_rng(seed), 0
    for run in range(runs):
        ours, theirs, again = simulated(rng, TRUTH, shape)
        found = speed_up(ours, (theirs, again), seed=run)
        hits += found.ci95.low <= TRUTH <= found.ci95.high
    return hits / runs


def of_disturbed(runs: int, bench: BenchConfig, seed: int) -> tuple[float, float]:
    """Return the same for a single round of which every attempt is doubtful, and its interval's width over the last one's."""
    rng, hits = np.random.default_rng(seed), 0
    narrower: list[float] = []
    while len(narrower) < runs:
        tried: list[tuple[NDArray[np.int64], ...]] = []
        complaints: list[list[str]] = []
        while not tried or (complaints[-1] and len(tried) <= bench.repeats):
            tried.append(simulated(rng, TRUTH, shape_of(bench), DISTURBED))
            complaints.append(doubts(tried[-1][1][0], tried[-1][2][0], seed=seed))
        if not complaints[-1]:
            continue
        kept = [calls for calls, counts in zip(tried, counting(complaints, bench), strict=True) if counts]
        ours, theirs, again = (np.concatenate(calls, axis=1) for calls in zip(*kept, strict=True))
        found, last = (speed_up(x[0], x[1:], seed=seed).ci95 for x in ((ours, theirs, again), tried[-1]))
        hits += found.low <= TRUTH <= found.high
        narrower.append((found.high - found.low) / (last.high - last.low))
    return hits / runs, float(np.median(narrower))


def of_differences(runs: int, examples: int, seed: int) -> float:
    """Return the share of samples whose interval of the accuracy's difference holds the known one."""
    rng, hits = np.random.default_rng(seed), 0
    references = np.zeros(examples, int)
    for run in range(runs):
        kind = rng.choice(3, size=examples, p=[0.88, 0.08, 0.04])  # agree, only ours wrong, only theirs wrong
        ours, theirs = (kind == 1).astype(int), (kind == 2).astype(int)
        found = paired_difference(Accuracy(), ours, theirs, references, ("no", "yes"), seed=run)
        hits += found.ci95.low <= GAP <= found.ci95.high
    return hits / runs


def main() -> None:
    """Print a line a level."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=2000)
    runs = parser.parse_args().runs
    found = {f"speed-up, bench={name}": of_speed_ups(runs, shape_of(level(name)), 2) for name in LEVELS}
    share, width = of_disturbed(runs, level("quick"), 3)
    found[f"bench=quick, all attempts disturbed, x{width:.2f} as wide"] = share
    found["difference of accuracy, 400 examples"] = of_differences(runs, 400, 5)
    for name, share in found.items():
        word = "met" if TARGET[0] <= share <= TARGET[1] else "MISSED"
        print(f"{name:<52} {share:.1%} of {runs:,}  target 93 to 97 %: {word}")


if __name__ == "__main__":
    main()
