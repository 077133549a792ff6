"""Which trainings of a search are hopeless: those that are far behind its earlier trials after as many epochs of as many.

Optuna has pruners of its own, and refuses them where there are several objectives. With a bound on the loss the rule is ours: a
trial is dropped whose best score so far lies further below the worst of those that kept within the bound than the bound itself.
Where accuracy is the only objective it is the median's (Golovin et al. 2017, Google Vizier, KDD): a trial is dropped whose best
score so far lies below the median of the others at that epoch.

The last training of the chain alone is judged, for validation says little of one that later ones build on; and not by its last
epoch, after which there is nothing to save.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np

from compressor.results import RunResult
from compressor.tracking import LOSSES
from compressor.training import journal
from compressor.training.floors import BASELINE, Floor, Mark, mark_of, score_of
from compressor.trials import lost_points

LEAST: Final = 3  # trials that kept within the bound, before any is dropped for it


def floors(done: Mapping[Path, RunResult], *, within: float | None, startup: int) -> list[Floor]:
    """Return what the next trainings must reach, at each mark that enough earlier ones have passed.

    Args:
        done: The results of trials by the folders that hold them.
        within: Points of the metric that may be lost; None: accuracy is the only objective.
        startup: Trials that are waited for where it is.
    """
    kept = {f: r for f, r in done.items() if within is None or lost_points(r) <= within}
    if not kept:
        return []
    name, metric = next(iter(next(iter(kept.values())).teacher.metrics.items()))
    sign = 1 if metric.higher_is_better else -1
    scores: dict[Mark, list[float]] = {}
    for folder in kept:
        for mark, score in _curve(folder, name).items():
            scores.setdefault(mark, []).append(score)
    found = []
    for mark, reached in scores.items():
        if len(reached) < (startup if within is None else LEAST) or mark.epoch == mark.epochs:
            continue
        if within is None:
            least, what = float(np.median(reached)), f"the median of {len(reached)} trials"
        else:
            least = sign * (min(sign * score for score in reached) - within / 100)
            what = f"{within:g} points behind the worst of {len(reached)} trials that lost no more"
        floor = Floor(
            mark=mark,
            metric=name,
            score=least,
            higher_is_better=metric.higher_is_better,
            said=f"{what} is {least:.4f}",
        )
        found.append(floor)
    return found


def _curve(folder: Path, metric: str) -> dict[Mark, float]:
    """Return the scores of the chain's last training that a run noted."""
    stages: dict[str, dict[Mark, float]] = {}
    for values in journal.read(folder / LOSSES):
        mark, score = mark_of(values["stage"], values), score_of(values, metric)
        if mark is not None and score is not None and mark.stage.partition(" ")[0] != BASELINE:
            stages.setdefault(mark.stage, {})[mark] = score
    return next(reversed(stages.values()), {})
