"""Search with Optuna: `python -m compressor -m hydra/sweeper=optuna 'student.layers=range(2,11)' ...`.

A Hydra sweeper, so that every launcher and every option works as in a multirun; a trial is a cell. Hydra's own Optuna plugin is
tied to Optuna 2, so Optuna is used directly. No objective is weighed against another: the search ends with fronts.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override, RangeSweep
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compressor import commit, hopeless, installed
from compressor.cells import ledger, lost
from compressor.cells.cell import clear_failed
from compressor.errors import CompressorError, ConfigError, Hopeless, MissingExtra, StoreError
from compressor.search_terms import require_same, terms
from compressor.training import floors
from compressor.trials import Objective, home, lost_points, measured, outcome

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

JOURNAL: Final = "search.journal"
_SUBDIR: Final = "${hydra.job.num}"
_TARGET: Final = "hydra_plugins.compressor.Search"  # Hydra takes sweepers from this namespace alone
_LOSS: Final = "loss of the teacher's metric beyond search.within"
_PARAMETERS: Final = "command line"
_TERMS: Final = "settings"
_AGAIN: Final = "begun again"  # numbers of trials that another trial repeats
_LOG: Final = logging.getLogger("compressor")


@dataclass(slots=True, kw_only=True)
class SearchConfig:
    """Options of the search, under `hydra.sweeper`."""

    _target_: str = _TARGET
    trials: int = 30  # in all; a search that is run again in its folder goes on until there are so many
    batch: int = 1  # trials at a time; above 1 only with a launcher that runs cells side by side
    objectives: list[str] = field(default_factory=lambda: ["accuracy", "latency", "bytes"])
    within: float | None = None  # points of the metric that may be lost; trials beyond do not count as feasible
    seed: int = 0  # of the sampler
    startup: int = 10  # trials drawn at random before the sampler learns from them, and before the median drops any
    drop_hopeless: bool = False  # end a trial whose validation scores leave no hope (see `hopeless`)


def register() -> None:
    """Tell Hydra of the sweeper, in this process: no file of ours has to lie in a namespace of Hydra's."""
    Plugins.instance().register(Search)
    Plugins.instance().class_name_to_class[_TARGET] = Search
    ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=SearchConfig, provider="compressor")


class Search(Sweeper):  # type: ignore[misc]  # Hydra is untyped here, so Sweeper is Any to mypy
    """Ask Optuna for command lines, let the launcher run them, tell Optuna what their run folders say."""

    def __init__(
        self,
        trials: int,
        batch: int,
        objectives: Sequence[str],
        within: float | None,
        seed: int,
        startup: int,
        drop_hopeless: bool,
    ) -> None:
        for name, value in (("trials", trials), ("batch", batch), ("startup", startup)):
            if value < 1:
                raise ConfigError(f"hydra.sweeper.{name}={value}", allowed="1 or more")
        unknown = [name for name in objectives if name not in list(Objective)]
        if unknown or not objectives or len(set(objectives)) < len(objectives):
            raise ConfigError(f"hydra.sweeper.objectives={list(objectives)}", allowed=", ".join(Objective))
        if within is not None and within < 0:
            raise ConfigError(f"hydra.sweeper.within={within}", allowed="0 or more points, or null")
        self.trials, self.batch, self.within, self.seed, self.startup = trials, batch, within, seed, startup
        self.objectives = [Objective(name) for name in objectives]
        if drop_hopeless and within is None and self.objectives != [Objective.accuracy]:
            raise ConfigError(
                f"hydra.sweeper.drop_hopeless=true: what is small or fast may be worth any loss of {Objective.accuracy}",
                allowed="with hydra.sweeper.within=POINTS, or with hydra.sweeper.objectives=[accuracy]",
            )
        self.drop_hopeless = drop_hopeless
        self.config: DictConfig | None = None
        self.launcher: Any = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """See `Sweeper`."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[float] | None:
        """Search until there are `trials` trials; what a run that was cut off had begun is begun again.

        Raises:
            ConfigError: Nothing is searched, or the folder holds a search of other settings.
            StoreError: Another command searches in the folder.
        """
        assert self.config is not None and self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides(arguments)
        space, fixed = split(overrides)
        own: Any = OmegaConf.to_container(self.config.hydra.sweep, resolve=False)
        if own["subdir"] != _SUBDIR:
            raise ConfigError(
                f"hydra.sweep.subdir={own['subdir']}",
                allowed=f"{_SUBDIR} in a search: it finds trials by their numbers",
            )
        typed = [(str(o.get_key_element()), _typed(o)) for o in overrides]
        folder = Path(str(self.config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        with commit.FolderLock(folder / JOURNAL) as lock:
            if not lock.acquire():
                raise StoreError(
                    f"another command searches in {folder}", allowed="one at a time", hint="another hydra.sweep.dir"
                )
            study = self._study(folder, terms(typed, self.objectives, self.within))
            OmegaConf.save(self.config, folder / "multirun.yaml")
            return self._search(study, space, fixed, folder)

    def _search(
        self, study: Study, space: dict[str, BaseDistribution], fixed: list[str], folder: Path
    ) -> list[float] | None:
        assert self.config is not None
        while (done := len(_told(study))) < self.trials:
            asked = [study.ask(space) for _ in range(min(self.batch, self.trials - done))]
            lines = [[*fixed, *(f"{name}={value}" for name, value in trial.params.items())] for trial in asked]
            for trial, line in zip(asked, lines, strict=True):
                trial.set_user_attr(_PARAMETERS, line)
            if self.drop_hopeless:
                self._set_floors(study, folder)
            self.validate_batch_is_legal(lines)
            token = self.config.hydra.job.env_set[ledger.TOKEN]
            ledger.expect(folder, token, {trial.number: line for trial, line in zip(asked, lines, strict=True)})
            # Batches of neighbours have neighbouring numbers, and so have their cells.
            waiting = self._launch(lines, asked[0].number, folder, token)
            for trial in asked:
                if trial.number not in waiting:
                    self._tell(study, trial, folder)
        best = study.best_trials
        _LOG.info("%d of %d trials are on the front of %s", len(best), len(study.trials), ", ".join(self.objectives))
        return [trial.values[0] for trial in best if trial.values] or None

    def _launch(self, lines: list[list[str]], first: int, folder: Path, token: str) -> set[int]:
        """Have a batch run; where its launcher fails after one has begun, note what it lost.

        Returns:
            Numbers of the trials that have not begun, and may yet be by a queue: they are begun anew by the next command.
        """
        try:
            self.launcher.launch(lines, initial_job_idx=first)
        except (CompressorError, HydraException, OmegaConfBaseException):
            raise
        except Exception as error:  # for a process of the launcher's that was killed, in words of many kinds
            expected = dict(enumerate(lines, first))
            lost.note(folder, token, expected, lambda number, line: folder / str(number))
            ended = {entry.number: entry.status for entry in ledger.read(folder, token)}
            waiting = {number for number in expected if ended.get(number) == lost.NEVER_BEGUN}
            if len(waiting) == len(expected):
                raise
            print(f"\nwarning: the launcher failed: {type(error).__name__}: {error}", file=sys.stderr)
            return waiting
        return set()

    def _set_floors(self, study: Study, folder: Path) -> None:
        """Tell the trainings of the next trials what they must reach."""
        assert self.config is not None
        done = {}
        for place in (folder / str(trial.number) for trial in study.trials if trial.values):
            with suppress(CompressorError):  # somebody moved its folder away
                done[home(place)] = outcome(place)
        told = hopeless.floors(done, within=self.within, startup=self.startup)
        floors.write(ledger.floors(folder, self.config.hydra.job.env_set[ledger.TOKEN]), told)

    def _study(self, folder: Path, wanted: dict[str, str]) -> Study:
        """Open the folder's study, or begin it; trials that failed, or whose process died, are begun anew."""
        optuna = _optuna()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        path = folder / JOURNAL
        mend(path)
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        for name in optuna.get_all_study_names(storage):
            before = optuna.load_study(study_name=name, storage=storage)
            if before.user_attrs.get(_TERMS) == wanted:
                continue
            if any((folder / str(trial.number)).exists() for trial in before.trials):
                require_same(before.user_attrs.get(_TERMS), wanted, folder)
            optuna.delete_study(study_name=name, storage=storage)  # its first command line could not be composed, say
        study = optuna.create_study(
            storage=storage,
            study_name=f"{' '.join(self.objectives)}, within {self.within}",
            directions=["maximize" if o is Objective.accuracy else "minimize" for o in self.objectives],
            load_if_exists=True,
        )
        study.set_user_attr(_TERMS, wanted)
        # With the seed alone a search that goes on would draw its first trials again.
        seed = self.seed + len(study.trials)
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self.startup)
        states = optuna.trial.TrialState
        for trial in study.get_trials(states=[states.RUNNING]):
            study.tell(trial.number, state=states.FAIL)
        again: list[int] = study.user_attrs.get(_AGAIN, [])
        for trial in study.get_trials(states=[states.FAIL]):
            if trial.number not in again:
                study.enqueue_trial(trial.params)
                study.set_user_attr(_AGAIN, again := [*again, trial.number])
                clear_failed(folder / str(trial.number))
        return study

    def _tell(self, study: Study, trial: Trial, folder: Path) -> None:
        optuna = _optuna()
        try:
            result = outcome(folder / str(trial.number))
            values = [measured(result, objective) for objective in self.objectives]
        except Hopeless as error:
            trial.set_user_attr("why", str(error))
            # without it the sampler ranks the trial before those that were measured and missed the bound
            if self.within is not None:
                trial.set_constraint(_LOSS, self.within or 1.0)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            return
        except CompressorError as error:
            trial.set_user_attr("why", str(error))
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        if self.within is not None:
            trial.set_constraint(_LOSS, lost_points(result) - self.within)
        study.tell(trial, values)


def _typed(override: Override) -> str:
    """Return what was typed for an option; spaces between choices mean nothing."""
    text = str(override.input_line).partition("=")[2].strip()
    return "".join(text.split()) if override.is_sweep_override() else text


def split(overrides: Sequence[Override]) -> tuple[dict[str, BaseDistribution], list[str]]:
    """Tell what is searched from what is fixed.

    `a,b` and `choice(a,b)` are categories, `range(2,11)` whole or stepped numbers without the end, `interval(1e-5,1e-3)` real
    numbers, `int(interval(1,4))` whole ones; `tag(log,interval(...))` searches over magnitudes.

    Raises:
        ConfigError: Nothing is searched, or a range holds nothing.
    """
    space: dict[str, BaseDistribution] = {}
    fixed = []
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            fixed.append(f"{key}={override.get_value_element_as_str()}")
            continue
        try:
            space[key] = _distribution(override)
        except ValueError as error:  # Optuna's word for bounds that do not go together
            raise ConfigError(f"{override.input_line} cannot be searched: {error}") from error
    if not space:
        raise ConfigError(
            "nothing is searched", hint="'student.layers=range(2,11)' or 'train.learning_rate=interval(5e-5,4e-4)'"
        )
    return space, fixed


def _distribution(override: Override) -> BaseDistribution:
    distributions, value = _optuna().distributions, override.value()
    if isinstance(value, ChoiceSweep):
        found: BaseDistribution = distributions.CategoricalDistribution(list(override.sweep_string_iterator()))
        return found
    if not isinstance(value, (RangeSweep, IntervalSweep)):
        raise ConfigError(f"{override.input_line}: a search cannot draw from it", allowed="choice, range, interval")
    numbers = sorted(value.range()) if isinstance(value, RangeSweep) else [value.start, value.end]
    if not numbers:
        raise ValueError("it is empty")
    ends = numbers[0], numbers[-1]
    whole = all(isinstance(number, int) for number in numbers)
    kind = distributions.IntDistribution if whole else distributions.FloatDistribution
    step = {"step": abs(value.step)} if isinstance(value, RangeSweep) else {}
    found = kind(*ends, log="log" in value.tags, **step)
    return found  # noqa: RET504 - typed above: Optuna is imported as Any


def mend(path: Path) -> None:
    """Cut a last line that a killed writer left half-written; with it no later process could read the journal."""
    if not path.is_file():
        return
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        _LOG.warning("%s ends in half a line, which is cut", path)
        with path.open("r+b") as stream:
            stream.truncate(len(whole))
            os.fsync(stream.fileno())


def _told(study: Study) -> list[FrozenTrial]:
    """Return the trials that are over, those left out that were only begun anew."""
    again = study.user_attrs.get(_AGAIN, [])
    return [trial for trial in study.trials if trial.state.is_finished() and trial.number not in again]


def _optuna() -> Any:
    try:
        import optuna
        import optuna.storages.journal
    except ImportError as error:
        raise MissingExtra.of("optuna", "search") from error
    installed.require({"optuna"})
    return optuna
