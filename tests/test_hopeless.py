"""Trials that are far behind the earlier ones after as many epochs are ended there, and no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import Model, write_run

from compressor import hopeless
from compressor.commit import read_json
from compressor.compare.runs import RESULT
from compressor.errors import Hopeless
from compressor.results import RunResult
from compressor.tracking import LOSSES
from compressor.training import floors, journal
from compressor.training.progress import Prefixed, silent_progress

GOOD = 398  # of 400, where the teacher has 390 and more


def trial(
    folder: Path, *curves: Sequence[float], right: int = GOOD, stages: Sequence[str] = ("distill",), epochs: int = 3
) -> tuple[Path, RunResult]:
    """A run folder whose trainings noted these validation scores, one an epoch."""
    lines: list[dict[str, object]] = [{"stage": stages[0], "step": 1, "loss": 0.3}]
    for stage, curve in zip(stages, curves, strict=True):
        for epoch, score in enumerate(curve, 1):
            values = floors.epoch_values(epoch, epochs, {"accuracy": score}, best=max(curve[:epoch]))
            lines.append({"stage": stage, "step": 9 * epoch, **values})
    write_run(folder, Model(right=right))
    (folder / LOSSES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder, RunResult.from_json(read_json(folder / RESULT))


def test_with_a_bound_the_worst_trial_within_it_gives_the_floor(tmp_path: Path) -> None:
    done = dict(
        [
            trial(tmp_path / "0", [0.80, 0.90, 0.91]),
            trial(tmp_path / "1", [0.85, 0.88, 0.91]),
            trial(tmp_path / "2", [0.82, 0.91, 0.91]),
            trial(tmp_path / "3", [0.50, 0.55, 0.56], right=210),  # lost far more than 2 points: says nothing
            trial(tmp_path / "4", [0.60], epochs=1),  # its learning rate fell to nothing within the epoch
        ]
    )
    first, second = hopeless.floors(done, within=2.0, startup=10)
    assert (first.mark, second.mark) == (("distill", 1, 3), ("distill", 2, 3)), "none after the last epoch"
    assert first.metric == "accuracy" and first.higher_is_better
    assert first.score == pytest.approx(0.78) and second.score == pytest.approx(0.86)
    assert first.said == "2 points behind the worst of 3 trials that lost no more is 0.7800"
    done.pop(tmp_path / "0")
    assert hopeless.floors(done, within=2.0, startup=1) == [], "two trials are no ground"
    assert hopeless.floors({}, within=2.0, startup=1) == []


def test_where_less_is_better_the_floor_lies_above(tmp_path: Path) -> None:
    done = {}
    for number, score in enumerate((0.20, 0.25, 0.30)):
        folder, result = trial(tmp_path / str(number), [score])
        metrics = {"accuracy": replace(result.teacher.metrics["accuracy"], higher_is_better=False)}
        same = tuple(replace(candidate, metrics=metrics) for candidate in result.candidates)
        done[folder] = replace(result, candidates=same)
    (floor,) = hopeless.floors(done, within=2.0, startup=10)
    assert floor.score == pytest.approx(0.32) and not floor.higher_is_better


def test_the_last_training_of_the_chain_alone_is_judged(tmp_path: Path) -> None:
    stages = ("tinybert general", "tinybert", "baseline finetune")
    done = dict(trial(tmp_path / str(i), [0.5], [0.8], [0.9], stages=stages) for i in range(3))
    (floor,) = hopeless.floors(done, within=2.0, startup=10)
    assert floor.mark.stage == "tinybert" and floor.score == pytest.approx(0.78)


def test_without_a_bound_it_is_the_median_of_all(tmp_path: Path) -> None:
    done = dict(trial(tmp_path / str(i), [score]) for i, score in enumerate((0.5, 0.7, 0.9)))
    assert hopeless.floors(done, within=None, startup=4) == []
    (floor,) = hopeless.floors(done, within=None, startup=3)
    assert floor.score == 0.7 and floor.said == "the median of 3 trials is 0.7000"


def test_the_rule_of_the_median_is_optunas(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    curves = [(0.5, 0.6), (0.7, 0.72), (0.8, 0.9), (0.85, 0.86)]
    done = dict(trial(tmp_path / str(i), curve) for i, curve in enumerate(curves))
    told = hopeless.floors(done, within=None, startup=4)
    for ours in ((0.74,), (0.76,), (0.76, 0.78), (0.76, 0.80), (0.82, 0.60), (0.78, 0.60)):
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for curve in curves:
            steps = dict(enumerate(curve, 1))
            study.add_trial(optuna.trial.create_trial(value=curve[-1], intermediate_values=steps))
        asked = study.ask()
        for epoch, score in enumerate(ours, 1):
            asked.report(score, epoch)
        assert asked.should_prune() == ends(told, *ours), ours


def ends(
    told: Sequence[floors.Floor], *scores: float, stage: str = "distill", epochs: int = 3, lower: bool = False
) -> bool:
    """Whether a training with these scores is ended, and by its last epoch."""
    best = min if lower else max
    with floors.Watched(silent_progress(), told).task(stage, 10) as bar:
        for epoch in range(1, len(scores) + 1):
            bar.advance(1, {"loss": 0.1})
            try:
                bar.note(floors.epoch_values(epoch, epochs, {"accuracy": scores[epoch - 1]}, best=best(scores[:epoch])))
            except Hopeless:
                return epoch == len(scores)
    return False


def floor(score: float, *, higher: bool = True) -> floors.Floor:
    mark = floors.Mark("distill", 2, 3)
    return floors.Floor(mark=mark, metric="accuracy", score=score, higher_is_better=higher, said="why")


def test_a_training_ends_on_the_wrong_side_of_its_floor_alone() -> None:
    assert ends([floor(0.7)], 0.5, 0.6)
    assert not ends([floor(0.7)], 0.5, 0.7)
    assert not ends([floor(0.7)], 0.8, 0.6), "its best epoch is what it may end with"
    assert not ends([floor(0.7)], 0.5, 0.6, stage="distill general")
    assert not ends([floor(0.7)], 0.5, 0.6, epochs=4)
    assert not ends([floor(0.7)], 0.5), "another epoch"
    assert ends([floor(0.3, higher=False)], 0.5, 0.4, lower=True)
    assert not ends([floor(0.3, higher=False)], 0.5, 0.2, lower=True)


def test_floors_go_to_another_process_and_the_epoch_that_ends_a_training_is_noted(tmp_path: Path) -> None:
    place = tmp_path / ".cells" / "floors"
    assert floors.read(place) == []
    floors.write(place, [floor(0.7)])
    assert floors.read(place) == [floor(0.7)]
    noted = journal.Journal(silent_progress(), tmp_path / LOSSES)
    with (
        pytest.raises(Hopeless, match=r"^validation accuracy is 0\.2000 at best after 2 of 3 epochs of distill: why$"),
        floors.Watched(noted, floors.read(place)).task("distill", 10) as bar,
    ):
        bar.note(floors.epoch_values(2, 3, {"accuracy": 0.1, "f1": 0.2}, best=0.2))
    (line,) = journal.read(tmp_path / LOSSES)
    scores = {"validation accuracy": 0.1, "validation f1": 0.2, "validation best": 0.2}
    assert line == {"stage": "distill", "step": 0, "epoch": 2.0, "epochs": 3.0, **scores}


def test_the_stages_of_a_baseline_are_told_apart(tmp_path: Path) -> None:
    noted = Prefixed(journal.Journal(silent_progress(), tmp_path / LOSSES), floors.BASELINE)
    with noted.task("distill", 10) as bar:
        bar.advance(1, {"loss": 0.5})
    assert [line["stage"] for line in journal.read(tmp_path / LOSSES)] == ["baseline distill"]
