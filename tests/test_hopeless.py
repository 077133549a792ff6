"""Trials that are far behind the earlier ones after as many epochs are ended there, and no others."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from compressor.training.progress import silent_progress

GOOD = 398  # of 400, where the teacher has 390 and more


def trial(folder: Path, curve: Sequence[float], right: int = GOOD) -> tuple[Path, RunResult]:
    """A run folder whose training noted these validation scores, one an epoch."""
    lines = [{"stage": "distill", "step": 1, "loss": 0.3}]
    lines += [
        {"stage": "distill", "step": 9 * e, **floors.epoch_values(e, {"accuracy": s})} for e, s in enumerate(curve, 1)
    ]
    write_run(folder, Model(right=right))
    (folder / LOSSES).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder, RunResult.from_json(read_json(folder / RESULT))


def test_with_a_bound_the_worst_trial_within_it_gives_the_floor(tmp_path: Path) -> None:
    done = dict(
        [
            trial(tmp_path / "0", [0.80, 0.90]),
            trial(tmp_path / "1", [0.85, 0.88]),
            trial(tmp_path / "2", [0.82, 0.91]),
            trial(tmp_path / "3", [0.50, 0.55], right=210),  # lost far more than 2 points: says nothing
        ]
    )
    first, second = hopeless.floors(done, within=2.0, startup=10)
    assert (first.stage, first.epoch, first.metric, first.higher_is_better) == ("distill", 1, "accuracy", True)
    assert first.score == pytest.approx(0.78) and second.score == pytest.approx(0.86)
    assert first.said == "2 points behind the worst of 3 trials that lost no more is 0.7800"
    done.pop(tmp_path / "0")
    assert hopeless.floors(done, within=2.0, startup=1) == [], "two trials are no ground"
    assert hopeless.floors({}, within=2.0, startup=1) == []


def test_without_a_bound_it_is_the_median_of_all(tmp_path: Path) -> None:
    done = dict(trial(tmp_path / str(i), [score]) for i, score in enumerate((0.5, 0.7, 0.9)))
    assert hopeless.floors(done, within=None, startup=4) == []
    (floor,) = hopeless.floors(done, within=None, startup=3)
    assert floor.score == 0.7 and floor.said == "the median of 3 trials is 0.7000"


def test_the_rule_of_the_median_is_optunas(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    curves = [(0.5, 0.6), (0.7, 0.72), (0.8, 0.9), (0.85, 0.86)]
    done = dict(trial(tmp_path / str(i), curve) for i, curve in enumerate(curves))
    told = {floor.epoch: floor.score for floor in hopeless.floors(done, within=None, startup=4)}
    for epoch, score in ((1, 0.74), (1, 0.76), (2, 0.78), (2, 0.80)):
        pruner = optuna.pruners.MedianPruner(n_startup_trials=4)
        study = optuna.create_study(direction="maximize", pruner=pruner)
        for curve in curves:
            steps = dict(enumerate(curve, 1))
            study.add_trial(optuna.trial.create_trial(value=curve[-1], intermediate_values=steps))
        asked = study.ask()
        asked.report(score, epoch)
        assert asked.should_prune() == (score < told[epoch]), (epoch, score)


def test_of_two_stages_of_one_name_the_worse_gives_the_floor(tmp_path: Path) -> None:
    done = dict(trial(tmp_path / str(i), [0.8]) for i in range(3))
    with (tmp_path / "0" / LOSSES).open("a") as stream:  # a baseline's, which is trained after the chain
        for score in (0.7, 0.9):
            stream.write(
                json.dumps({"stage": "distill", "step": 9, **floors.epoch_values(1, {"accuracy": score})}) + "\n"
            )
    (floor,) = hopeless.floors(done, within=2.0, startup=10)
    assert floor.score == pytest.approx(0.68)


def watched(*of: floors.Floor) -> floors.Watched:
    return floors.Watched(silent_progress(), list(of))


def floor(score: float, *, higher: bool = True) -> floors.Floor:
    return floors.Floor(
        stage="distill", epoch=2, metric="accuracy", score=score, higher_is_better=higher, said="the least is given"
    )


@pytest.mark.parametrize(("score", "higher", "ends"), [(0.6, True, True), (0.8, True, False), (0.8, False, True)])
def test_a_training_ends_on_the_wrong_side_of_its_floor(score: float, higher: bool, ends: bool) -> None:
    with watched(floor(0.7, higher=higher)).task("distill", 10) as bar:
        bar.advance(1, {"loss": 0.1})
        bar.advance(0, floors.epoch_values(1, {"accuracy": 0.0}))  # of another epoch
        if ends:
            with pytest.raises(
                Hopeless, match=rf"accuracy is {score:.4f} after epoch 2 of distill: the least is given"
            ):
                bar.advance(0, floors.epoch_values(2, {"accuracy": score}))
        else:
            bar.advance(0, floors.epoch_values(2, {"accuracy": score}))
    with watched(floor(0.7)).task("teacher", 10) as bar:
        bar.advance(0, floors.epoch_values(2, {"accuracy": 0.0}))  # of another stage


def test_floors_go_to_another_process_and_a_floor_ends_a_noted_epoch(tmp_path: Path) -> None:
    assert floors.read(tmp_path / "floors") == []
    floors.write(tmp_path / "floors", [floor(0.7)])
    noted = journal.Journal(silent_progress(), tmp_path / LOSSES)
    with (
        pytest.raises(Hopeless),
        floors.Watched(noted, floors.read(tmp_path / "floors")).task("distill", 10) as bar,
    ):
        bar.advance(0, floors.epoch_values(2, {"accuracy": 0.1, "f1": 0.2}))
    (line,) = journal.read(tmp_path / LOSSES)
    assert line == {"stage": "distill", "step": 0, "epoch": 2.0, "validation accuracy": 0.1, "validation f1": 0.2}
