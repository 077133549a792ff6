"""Whether one round of timing is to be trusted, by its own samples."""

from __future__ import annotations

from typing import Final

import numpy as np

from compressor.compare.bootstrap import Calls, speed_up
from compressor.compare.verdicts import NOISE, LatencyVerdict

MAX_HALF_WIDTH: Final = 0.01  # of a ratio's 95 % interval
MAX_DRIFT: Final = 0.10  # interquartile range of the block medians over their median


def doubts(
    baseline_ns: Calls,
    null_ns: Calls | None,
    *,
    seed: int,
) -> list[str]:
    """Say why the samples of one runtime are doubtful, [loads, blocks, texts] each; nothing if they are not.

    The baseline's second load must come out within 1 %, and the baseline's block medians must not wander by more than a tenth
    (torch.utils.benchmark warns from the same share). Either may go away in another round.
    """
    said = []
    if null_ns is not None:
        null = speed_up(null_ns, baseline_ns, seed=seed)
        if abs(null.ratio - 1) > NOISE:
            said.append(f"a second load of the baseline came out x{null.ratio:.3f}")
    medians = np.median(baseline_ns, axis=-1)
    low, middle, high = np.quantile(medians, [0.25, 0.5, 0.75])
    if (drift := float((high - low) / middle)) > MAX_DRIFT:
        said.append(f"the baseline's block medians wandered by {drift:.0%}")
    return said


def unknown(speed: LatencyVerdict) -> str | None:
    """Say so where the samples of all rounds do not tell a ratio to 1 %; more loads would (`bench.loads`)."""
    found = speed.speed_up
    half = (found.ci95.high - found.ci95.low) / 2 / found.ratio
    return f"the ratio of {speed.candidate} is known to {half:.1%} only" if half > MAX_HALF_WIDTH else None
