"""A search asks Optuna, believes run folders alone, goes on where it was cut off, and ends with fronts."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from compressor.cells import ledger, lost
from compressor.cells.cell import Cell
from compressor.commit import FolderLock, add_file, read_json
from compressor.errors import ConfigError, StoreError
from compressor.report.screen import Screen
from compressor.search import JOURNAL, Search, mend, split
from compressor.tracking import LOSSES
from compressor.training import floors
from compressor.trials import Objective, lost_points, measured, outcome

optuna = pytest.importorskip("optuna")

from run_folders import Model, write_run, write_status  # noqa: E402 - lies beside this file
from toy_files import write_checkpoint, write_data  # noqa: E402


def parsed(*typed: str):
    return OverridesParser.create().parse_overrides(list(typed))


def test_every_kind_of_sweep_is_a_distribution() -> None:
    d = optuna.distributions
    space, fixed = split(
        parsed(
            "method=distill,[distill,int8_onnx]",
            "student.layers=range(2,11)",
            "train.epochs=int(interval(1,4))",
            "method.distill.temperature=interval(1.0,8.0)",
            "train.learning_rate=tag(log,interval(5e-5,4e-4))",
            "task.max_length=64",
            "task.extra_tests=[a,b]",
        )
    )
    assert space == {
        "method": d.CategoricalDistribution(["distill", "[distill,int8_onnx]"]),
        "student.layers": d.IntDistribution(2, 10),
        "train.epochs": d.IntDistribution(1, 4),
        "method.distill.temperature": d.FloatDistribution(1.0, 8.0),
        "train.learning_rate": d.FloatDistribution(5e-5, 4e-4, log=True),
    }
    assert fixed == ["task.max_length=64", "task.extra_tests=[a,b]"]
    with pytest.raises(ConfigError, match="cannot draw from it\n  allowed: choice, range, interval$"):
        split(parsed("student.layers=glob(*)"))
    with pytest.raises(ConfigError, match="nothing is searched"):
        split(parsed("method=distill"))


def test_a_range_may_fall_and_be_searched_over_magnitudes() -> None:
    d = optuna.distributions
    space, _ = split(parsed("student.layers=range(10,1,-2)", "train.batch_size=tag(log,range(8,65))"))
    assert space["student.layers"] == d.IntDistribution(2, 10, step=2)
    assert space["train.batch_size"] == d.IntDistribution(8, 64, log=True)


@pytest.mark.parametrize(
    "typed",
    [
        *("student.layers=range(5,5)", "train.learning_rate=interval(5e-4,5e-5)"),
        *("train.learning_rate=tag(log,interval(0,1e-3))", "train.batch_size=tag(log,range(8,65,8))"),
    ],
)
def test_bounds_that_do_not_go_together_are_named(typed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split(parsed(typed))
    assert caught.value.got.startswith(f"{typed} cannot be searched: ")


def made(folder: Path, layers: int) -> None:
    """A cell's run folder: fewer layers are smaller, faster and worse."""
    model = Model(right=300 + 8 * layers, size_bytes=10_000_000 * layers, speeds={"torch": 12 / layers})
    write_run(folder, model, overrides=(f"student.layers={layers}",))


class Launcher:
    """Runs a cell by writing its folder; `dies_at` cells are never written."""

    def __init__(self, sweep: Path, dies_at: tuple[int, ...] = (), killed_at: int | None = None) -> None:
        self.sweep, self.dies_at, self.killed_at, self.lines = sweep, dies_at, killed_at, []

    def launch(self, lines, initial_job_idx: int):
        for number, line in enumerate(lines, initial_job_idx):
            if number == self.killed_at:
                raise KeyboardInterrupt
            self.lines.append(line)
            layers = next(int(part.partition("=")[2]) for part in line if part.startswith("student.layers"))
            if number in self.dies_at:
                write_status(self.sweep / str(number), "killed(SIGSEGV)")
            else:
                made(self.sweep / str(number), layers)


def search(folder: Path, launcher: Launcher, subdir: str = "${hydra.job.num}", **options: object) -> Search:
    given = {
        "trials": 8,
        "batch": 1,
        "objectives": ["accuracy", "latency", "bytes"],
        "within": None,
        "seed": 0,
        "startup": 4,
        "drop_hopeless": False,
    }
    one = Search(**{**given, **options})
    own = {"sweep": {"dir": str(folder), "subdir": subdir}, "job": {"env_set": {ledger.TOKEN: "sweep-1"}}}
    one.config = OmegaConf.create({"hydra": own})
    one.launcher = launcher
    one.hydra_context = type("Context", (), {"config_loader": None})()
    one.validate_batch_is_legal = lambda lines: None
    return one


def begin(sweep: Path, lines, number: int) -> None:
    """Begin the first cell of a batch, as a launcher's process does that is killed then."""
    lost.begin(Cell(overrides=tuple(lines[0]), folder=sweep / str(number), sweep=sweep), number, "sweep-1")


def study(folder: Path):
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    return optuna.load_study(study_name=None, storage=storage)


ARGUMENTS = ["method=distill", "student.layers=range(2,11)"]


def test_trials_are_told_what_their_folders_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = Launcher(tmp_path, dies_at=(3,))
    search(tmp_path, launcher).sweep(ARGUMENTS)
    trials = study(tmp_path).trials
    assert len(trials) == 8 == len(launcher.lines)
    assert trials[3].state is optuna.trial.TrialState.FAIL and "SIGSEGV" in trials[3].user_attrs["why"]
    for trial in (t for t in trials if t.number != 3):
        layers = trial.params["student.layers"]
        assert trial.values == pytest.approx([(300 + 8 * layers) / 400, layers / 12, 1e7 * layers], rel=0.02)
        assert trial.user_attrs["command line"] == ["method=distill", f"student.layers={layers}"]
    Screen().fronts(tmp_path)
    assert "Pareto fronts" in (tmp_path / "fronts.md").read_text() or "the front is" in capsys.readouterr().out


def test_a_second_search_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path)
    with FolderLock(tmp_path / JOURNAL) as lock:
        assert lock.acquire()
        with pytest.raises(StoreError, match="another command searches"):
            search(tmp_path, launcher).sweep(ARGUMENTS)
    assert launcher.lines == [] and not (tmp_path / JOURNAL).exists()


def test_a_search_that_was_cut_off_goes_on_and_begins_the_lost_trial_anew(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Launcher(tmp_path, killed_at=2)).sweep(ARGUMENTS)
    journal = tmp_path / JOURNAL
    cut_off = study(tmp_path).trials[2].params
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 5, "wor')  # and its last line half-written
    launcher = Launcher(tmp_path)
    search(tmp_path, launcher).sweep(ARGUMENTS)
    trials = study(tmp_path).trials
    assert len([t for t in trials if t.values]) == 8 and len(launcher.lines) == 6
    assert trials[2].state is optuna.trial.TrialState.FAIL and trials[3].params == cut_off


def test_failed_trials_are_begun_anew_by_the_same_command(tmp_path: Path) -> None:
    search(tmp_path, Launcher(tmp_path, dies_at=(1, 5))).sweep(ARGUMENTS)
    failed = [study(tmp_path).trials[number].params for number in (1, 5)]
    begun = []
    for dies_at in ((8,), (), ()):  # one of the two is killed once more
        launcher = Launcher(tmp_path, dies_at=dies_at)
        search(tmp_path, launcher).sweep(ARGUMENTS)
        begun.append(len(launcher.lines))
    assert begun == [2, 1, 0]
    trials = study(tmp_path).trials
    assert len([t for t in trials if t.values]) == 8 and [t.params for t in trials[8:]] == [*failed, failed[0]]
    assert not any((tmp_path / str(number)).exists() for number in (1, 5, 8)), "records of failure that were repeated"


def test_a_launcher_that_fails_costs_its_batch_and_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Fails(Launcher):
        def launch(self, lines, initial_job_idx: int):
            if initial_job_idx == 2:
                begin(tmp_path, lines, 2)
                raise RuntimeError("a worker was killed")
            super().launch(lines, initial_job_idx)

    search(tmp_path, Fails(tmp_path)).sweep(ARGUMENTS)
    trials = study(tmp_path).trials
    assert len(trials) == 8 and [t.number for t in trials if not t.values] == [2]
    assert lost.LOST in trials[2].user_attrs["why"] and "a worker was killed" in capsys.readouterr().err


def test_a_launcher_that_fails_before_any_cell_of_a_batch_ends_the_search(tmp_path: Path) -> None:
    class Fails(Launcher):
        def launch(self, lines, initial_job_idx: int):
            if initial_job_idx == 2:
                raise RuntimeError("there is no such queue")
            begin(tmp_path, lines, initial_job_idx)
            raise RuntimeError("a worker was killed")

    with pytest.raises(RuntimeError, match="no such queue"):
        search(tmp_path, Fails(tmp_path), batch=2).sweep(ARGUMENTS)
    trials = study(tmp_path).trials
    assert [t.state.name for t in trials] == ["FAIL", "RUNNING", "RUNNING", "RUNNING"], (
        "1 and 2 may be begun by a queue"
    )


def test_a_search_that_goes_on_draws_what_it_has_not_drawn(tmp_path: Path) -> None:
    arguments = ["student.layers=range(2,11)", "train.learning_rate=interval(1e-5,1e-4)"]
    for trials in (2, 4, 6):
        search(tmp_path, Launcher(tmp_path), trials=trials, startup=10).sweep(arguments)
    drawn = [trial.params["train.learning_rate"] for trial in study(tmp_path).trials]
    assert len(drawn) == len(set(drawn)) == 6


def test_trials_stand_where_the_search_looks_for_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hydra.sweep.subdir=x\$\{hydra.job.num\}"):
        search(tmp_path, Launcher(tmp_path), subdir="x${hydra.job.num}").sweep(ARGUMENTS)


def test_trials_that_lose_too_much_are_not_feasible(tmp_path: Path) -> None:
    search(tmp_path, Launcher(tmp_path), within=6.0, trials=10).sweep(ARGUMENTS)
    best = study(tmp_path).best_trials
    assert best
    for trial in best:
        assert lost_points(outcome(tmp_path / str(trial.number))) <= 6.0


BOUND = {"within": 6.0}


@pytest.mark.parametrize(
    ("arguments", "options", "named"),
    [
        (["method=distill", "student.layers=2,4"], {}, r"student.layers=2,4\n  allowed: student.layers=range\(2,11\)"),
        (["method=pkd", "student.layers=range(2,11)"], {}, "method=pkd\n  allowed: method=distill"),
        ([*ARGUMENTS, "seed=1"], {}, "seed=1\n  allowed: no seed"),
        (ARGUMENTS, BOUND, "hydra.sweeper.within=6.0\n  allowed: hydra.sweeper.within=None"),
        (ARGUMENTS, {"objectives": ["bytes"]}, "hydra.sweeper.objectives=bytes\n"),
    ],
)
def test_a_search_goes_on_under_its_own_settings_alone(
    arguments: list[str], options: dict, named: str, tmp_path: Path
) -> None:
    search(tmp_path, Launcher(tmp_path), trials=3).sweep(ARGUMENTS)
    before = {path.name: path.read_bytes() for path in (tmp_path / JOURNAL, tmp_path / "multirun.yaml")}
    launcher = Launcher(tmp_path)
    with pytest.raises(ConfigError, match=named) as caught:
        search(tmp_path, launcher, trials=6, **options).sweep(arguments)
    assert "another hydra.sweep.dir" in caught.value.hint and launcher.lines == []
    assert before == {name: (tmp_path / name).read_bytes() for name in before}, "what was refused leaves no trace"
    search(tmp_path, launcher, trials=5).sweep([*ARGUMENTS, "cell.timeout_s=60"])
    assert len(launcher.lines) == 2 and len(study(tmp_path).trials) == 5, (
        "more trials and other limits are no other search"
    )


def test_a_search_of_which_no_cell_ran_may_be_typed_anew(tmp_path: Path) -> None:
    def illegal(lines: list[list[str]]) -> None:
        raise ConfigError("student.layers=none")

    mistyped = search(tmp_path, Launcher(tmp_path))
    mistyped.validate_batch_is_legal = illegal
    with pytest.raises(ConfigError, match="student.layers=none"):
        mistyped.sweep(["method=distill", "student.layers=2,none"])
    search(tmp_path, Launcher(tmp_path), trials=2, within=1.0).sweep(ARGUMENTS)
    assert [trial.number for trial in study(tmp_path).trials] == [0, 1]


def test_a_search_that_noted_no_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / JOURNAL)))
    old = optuna.create_study(storage=storage, study_name="bytes, within None")
    old.ask({"student.layers": optuna.distributions.IntDistribution(2, 10)})
    made(tmp_path / "0", 6)
    with pytest.raises(ConfigError, match="settings were not noted"):
        search(tmp_path, Launcher(tmp_path)).sweep(ARGUMENTS)


class Droppers(Launcher):
    """Its trainings of fewer than five layers end below any floor that is set for them."""

    def launch(self, lines, initial_job_idx: int):
        super().launch(lines, initial_job_idx)
        told = floors.read(ledger.floors(self.sweep, "sweep-1"))
        for number, line in enumerate(lines, initial_job_idx):
            layers = int(line[-1].partition("=")[2])
            folder = self.sweep / str(number)
            values = floors.epoch_values(1, 2, {"accuracy": layers / 10}, best=layers / 10)
            add_file(folder, LOSSES, json.dumps({"stage": "distill", "step": 9, **values}))
            if any(layers / 10 < floor.score for floor in told):
                shutil.rmtree(folder)
                write_status(folder, "skipped(hopeless: validation accuracy is low)")


def test_hopeless_trials_are_told_as_pruned_and_do_not_come_again(tmp_path: Path) -> None:
    search(tmp_path, Droppers(tmp_path), within=12.0, drop_hopeless=True, trials=16, startup=8).sweep(ARGUMENTS)
    trials = study(tmp_path).trials
    dropped = [t for t in trials if t.state is optuna.trial.TrialState.PRUNED]
    assert dropped and len(trials) == 16
    assert all(t.params["student.layers"] < 5 and "hopeless" in t.user_attrs["why"] for t in dropped)
    (floor,) = floors.read(ledger.floors(tmp_path, "sweep-1"))
    kept = [
        t.params["student.layers"] for t in trials if t.values and lost_points(outcome(tmp_path / str(t.number))) <= 12
    ]
    assert floor.score == pytest.approx(min(kept) / 10 - 0.12)
    assert all(t.constraints for t in dropped), "else the sampler ranks them before those that missed the bound"
    shutil.rmtree(tmp_path / str(next(t.number for t in trials if t.values)))  # somebody moved one away
    again = Droppers(tmp_path)
    search(tmp_path, again, within=12.0, drop_hopeless=True, trials=16).sweep(ARGUMENTS)
    assert again.lines == [], "a trial that was dropped is over"
    search(tmp_path, again, within=12.0, drop_hopeless=True, trials=17).sweep(ARGUMENTS)
    assert len(again.lines) == 1


def test_a_duplicate_counts_as_the_cell_that_it_repeats(tmp_path: Path) -> None:
    made(tmp_path / "0", 6)
    write_status(tmp_path / "1", "skipped(duplicate of 0)")
    assert measured(outcome(tmp_path / "1"), Objective.bytes) == 6e7
    write_status(tmp_path / "2", "timeout(not finished after 9 s: cell.timeout_s)")
    with pytest.raises(StoreError, match=r"^timeout\(not finished after 9 s: cell.timeout_s\)$"):
        outcome(tmp_path / "2")


def test_a_search_is_told_nothing_of_a_result_that_was_altered(tmp_path: Path) -> None:
    made(tmp_path / "0", 6)
    write_status(tmp_path / "1", "skipped(duplicate of 0)")
    path = tmp_path / "0" / "result.json"
    path.write_bytes(path.read_bytes().replace(b"60000000", b"10000000"))
    for name in ("0", "1"):
        with pytest.raises(StoreError, match=r"result\.json has sha256"):
            outcome(tmp_path / name)


def test_a_whole_journal_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / JOURNAL
    mend(path)
    path.write_bytes(b"one\ntwo\n")
    mend(path)
    assert path.read_bytes() == b"one\ntwo\n"
    path.write_bytes(b"one\ntw")
    mend(path)
    assert path.read_bytes() == b"one\n"


@pytest.mark.parametrize(
    "bad",
    [
        {"trials": 0},
        {"batch": 0},
        {"objectives": ["speed"]},
        {"objectives": []},
        {"within": -1.0},
        {"startup": 0},
        {"drop_hopeless": True},  # of three objectives, and with no bound
    ],
)
def test_bad_options_are_named(bad: dict, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"hydra.sweeper.{next(iter(bad))}"):
        search(tmp_path, Launcher(tmp_path), **bad)


def command(place: Path, *arguments: str, method: str = "drop_layers") -> subprocess.CompletedProcess[str]:
    typed = [
        *(sys.executable, "-m", "compressor", "-m", "hydra/sweeper=optuna", f"method={method}"),
        *("teacher=checkpoint", f"teacher.checkpoint={place / 'teacher'}", "teacher.train.epochs=10"),
        *("teacher.train.batch_size=16", "teacher.train.learning_rate=3e-3", "task.max_length=48"),
        *(
            "task=file",
            f"task.train={place / 'data.csv'}",
            "bench.runtimes=[torch]",
            "bench.texts=4",
            "bench.blocks=4",
            "bench.loads=4",
        ),
        *("bench.warmup_calls=2", "bench.memory=false", "bench.repeats=0", f"hydra.sweep.dir={place / 'sweep'}"),
    ]
    environment = {**os.environ, "COMPRESSOR_CACHE": str(place / "cache"), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [*typed, *arguments], cwd=place, env=environment, capture_output=True, text=True, timeout=500, check=False
    )


@pytest.mark.slow
def test_the_command_searches_and_ends_with_fronts(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "teacher")
    write_data(tmp_path / "data.csv")
    bad = command(tmp_path, "student.layers=range(1,4)", "hydra.sweeper.trials=0")
    assert bad.returncode == 2 and "hydra.sweeper.trials=0" in bad.stderr and "Traceback" not in bad.stderr
    ended = command(tmp_path, "student.layers=range(1,4)", "hydra.sweeper.trials=2")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 cells" in ended.stdout and "the front is" in (tmp_path / "sweep" / "fronts.md").read_text()
    assert len([trial for trial in study(tmp_path / "sweep").trials if trial.values]) == 2
    again = command(tmp_path, "student.layers=range(1,4)", "hydra.sweeper.trials=2")
    assert again.returncode == 0 and "2 cells" in again.stdout and "== cell" not in again.stdout, again.stdout


@pytest.mark.slow
def test_the_command_drops_a_training_that_is_far_behind(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "teacher")
    write_data(tmp_path / "data.csv")
    searched = ("student.init=first,random", "train.weight_decay=interval(0.0,0.1)", "hydra.sweeper.seed=151")
    settings = ("hydra.sweeper.trials=4", "hydra.sweeper.within=15", "student.layers=2", "train.epochs=3")
    ended = command(tmp_path, *searched, *settings, "hydra.sweeper.drop_hopeless=true", method="finetune")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    starts = [trial.params["student.init"] for trial in study(tmp_path / "sweep").trials]
    assert starts == ["first", "first", "first", "random"], (
        "the seed was chosen so that three have a start before one has none"
    )
    status = read_json(tmp_path / "sweep" / "3" / "result.json")["status"]
    assert status.startswith("skipped(hopeless: validation accuracy is 0."), status
    assert (
        "at best after 1 of 3 epochs of finetune: 15 points behind the worst of 3 trials that lost no more is" in status
    )
    assert "hopeless" in ended.stdout and (tmp_path / "sweep" / "fronts.md").is_file()
