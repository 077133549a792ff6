"""Which trainings of a search are hopeless: those that, after an epoch, are far behind its earlier trials after the same one.

Optuna has pruners of its own, and refuses them where there are several objectives. With a bound on the loss the rule is ours: a
trial is dropped that lies further below the worst of those that kept within the bound than the bound itself. Where accuracy is
the only objective it is the median's (Golovin et al. 2017, Google Vizier, KDD), as in Optuna's `MedianPruner`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from compressor.results import RunResult
from compressor.tracking import LOSSES
from compressor.training import journal
from compressor.training.floors import EPOCH, Floor, score_of
from compressor.trials import lost_points

LEAST: Final = 3  # trials that kept within the bound, before any is dropped for it

_Mark = tuple[str, int]  # stage and epoch


def floors(done: Mapping[Path, RunResult], *, within: float | None, startup: int) -> list[Floor]:
    """Return what the next trainings must reach, for each stage and epoch that enough earlier ones have gone through.

    Args:
        done: The results of trials by their run folders, duplicates left out.
        within: Points of the metric that may be lost; None: accuracy is the only objective.
        startup: Trials that are waited for where it is.
    """
    kept = {f: r for f, r in done.items() if within is None or lost_points(r) <= within}
    if not kept:
        return []
    name, metric = next(iter(next(iter(kept.values())).teacher.metrics.items()))
    sign = 1 if metric.higher_is_better else -1
    scores: dict[_Mark, list[float]] = {}
    for folder in kept:
        for mark, score in _curve(folder, name, sign).items():
            scores.setdefault(mark, []).append(score)
    found = []
    for (stage, epoch), reached in scores.items():
        if len(reached) < (startup if within is None else LEAST):
            continue
        if within is None:
            least, what = float(np.median(reached)), f"the median of {len(reached)} trials"
        else:
            least = sign * (min(sign * score for score in reached) - within / 100)
            what = f"{within:g} points behind the worst of {len(reached)} trials that lost no more"
        floor = Floor(
            stage=stage,
            epoch=epoch,
            metric=name,
            score=least,
            higher_is_better=metric.higher_is_better,
            said=f"{what} is {least:.4f}",
        )
        found.append(floor)
    return found


def _curve(folder: Path, metric: str, sign: int) -> dict[_Mark, float]:
    """Return the validation scores that a run noted; a stage that was taken over from elsewhere noted none.

    Of stages that are called the same, in the chain and in a baseline, the worse counts.
    """
    found: dict[_Mark, float] = {}
    for values in journal.read(folder / LOSSES):
        score = score_of(values, metric)
        if score is not None:
            mark = values["stage"], int(values[EPOCH])
            found[mark] = min(found.get(mark, score), score, key=lambda s: sign * s)
    return found
