"""Hydra to dataclasses and back: the only place (with cli.py) that knows Hydra.

Every method's options are stored in Hydra's ConfigStore in group `method`, package `method.<name>`; so `method=[a,b]`,
`method.a.option=1` and sweeps over whole chains are typed without any YAML from the plugin's author.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra._internal.utils import get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from compressor import gate
from compressor.config import (
    BenchConfig,
    CellConfig,
    ChainStep,
    MethodConfig,
    RunConfig,
    StudentConfig,
    TaskConfig,
    TeacherConfig,
    TrackingConfig,
    TrainConfig,
)
from compressor.errors import ConfigError
from compressor.groups import conf_folder, no_such_choice, offered
from compressor.registry import Registry
from compressor.tasks import task_type

PROVIDER = "compressor"
_NOT_OF_THE_RUN = ("method", "chosen", "cell", "tracking")  # taken apart, or about the process and not the numbers


@dataclass(slots=True, kw_only=True)
class RunSchema:
    """The composed config as Hydra holds it; `to_run_config` turns it into a `RunConfig`."""

    method: dict[str, MethodConfig] = field(default_factory=dict)  # options of every known method
    chosen: dict[str, bool] = field(default_factory=dict)  # the methods of the chain, in order
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    student: StudentConfig = field(default_factory=StudentConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    bench: BenchConfig = field(default_factory=BenchConfig)
    cell: CellConfig = field(default_factory=CellConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seed: int = 0
    device: str = "auto"
    threads: int = 0


def register(registry: Registry) -> None:
    """Store the schemas of the run and of every method, and put plugins' own YAML on Hydra's search path.

    Every method's options are always in the schema, so that `method.NAME.option=...` composes in every cell of a sweep over
    chains; what `method=` chooses is recorded in `chosen`.
    """
    store = ConfigStore.instance()
    store.store(name="run_schema", node=_schema(registry), provider=PROVIDER)
    for name, entry in registry.methods.items():
        node = {"chosen": {name: True}}
        store.store(group="method", name=name, node=node, package="_global_", provider=entry.distribution)
    packages = {entry.method.__module__.partition(".")[0] for entry in registry.methods.values()}
    _PluginConf.packages = tuple(sorted(p for p in packages if _has_conf(p)))
    gate.watch()
    if _PluginConf not in Plugins.instance().discover(SearchPathPlugin):
        Plugins.instance().register(_PluginConf)


def _schema(registry: Registry) -> RunSchema:
    """Return the schema of a run with the options of every method; what follows from other options is still open in it."""
    schema = RunSchema(method={name: entry.method.Config() for name, entry in registry.methods.items()})
    schema.bench.runtimes = ["auto"]  # a default instance has already read its own `device`
    return schema


def _has_conf(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    return any((Path(p) / "conf").is_dir() for p in (spec.submodule_search_locations or ())) if spec else False


class _PluginConf(SearchPathPlugin):
    """Appends `pkg://PACKAGE/conf` for each plugin package that ships YAML."""

    packages: tuple[str, ...] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for package in self.packages:
            search_path.append(provider=package, path=f"pkg://{package}/conf")


class Sweep(Callback):
    """Hears from Hydra where the cells of a multirun will stand, before any of them runs; named in conf/config.yaml."""

    folder: Path | None = None
    config: DictConfig | None = None
    loader: ConfigLoader | None = None
    begun: Callable[[], None] | None = None  # called when it is known where they will stand

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See `Callback`."""
        Sweep.config, Sweep.loader = config, GlobalHydra.instance().config_loader()
        Sweep.folder = Path(str(config.hydra.sweep.dir)).absolute()
        if Sweep.begun is not None:
            Sweep.begun()

    @staticmethod
    def again() -> str:
        """Return what to add to the command so that it goes on in the folder of this one; nothing where it does so as typed."""
        assert Sweep.config is not None
        typed = OmegaConf.to_container(Sweep.config.hydra.sweep, resolve=False)
        assert isinstance(typed, dict)
        return f"hydra.sweep.dir={Sweep.config.hydra.sweep.dir}" if "${now:" in str(typed["dir"]) else ""


def check_overrides(arguments: Sequence[str], registry: Registry) -> None:
    """Refuse unknown options and methods before Hydra composes, with the nearest names.

    Raises:
        ConfigError: An option does not exist.
        PluginError: A method is installed but broken.
    """
    known = option_names(registry)
    groups = {path.name for path in conf_folder().iterdir() if path.is_dir()}
    typed, _ = get_args_parser().parse_known_args(list(arguments))
    gate.check_flags(typed)
    overrides = [_parsed(text) for text in typed.overrides]
    if sum(override.key_or_group == "method" for override in overrides) > 1:
        raise ConfigError("method= is typed twice, and Hydra would drop the first", hint="method=[FIRST,SECOND]")
    for override in overrides:
        key = override.key_or_group.partition("@")[0]
        gate.check_typed(key, [override.input_line, override.value()])
        if key == "method":
            for name in _method_names(override):
                registry.get(name)
        elif key in groups and not _is_name(override.value()):
            raise ConfigError(f"{override.input_line}: one name is needed", allowed=", ".join(offered(key)))
        elif key not in known and not key.startswith("hydra"):
            near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
            raise ConfigError(
                f"option '{key}' does not exist",
                allowed=", ".join(near) or "see python -m compressor --cfg job",
                hint=f"{near[0]}=..." if near else "python -m compressor --help",
            )


def _parsed(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(
            f"{text} cannot be read: {str(error).splitlines()[0]}",
            allowed="OPTION=VALUE",
            hint="quotes around a value with spaces, brackets or commas",
        ) from error


def option_names(registry: Registry) -> list[str]:
    """Return every option that can be typed, methods' own included."""
    names = [group.name for group in conf_folder().iterdir() if group.is_dir()]
    names += [name for name in _dotted(OmegaConf.structured(RunSchema)) if not name.startswith("chosen")]
    for name, entry in registry.methods.items():
        names += _dotted(OmegaConf.structured(entry.method.Config), f"method.{name}.")
    return sorted(set(names))


def _dotted(node: DictConfig, prefix: str = "") -> list[str]:
    names: list[str] = []
    for key in map(str, node.keys()):
        child = node._get_node(key)
        names.append(f"{prefix}{key}")
        if isinstance(child, DictConfig) and not child._is_none():
            names += _dotted(child, f"{prefix}{key}.")
    return names


def _is_name(choice: object) -> bool:
    """Tell whether Hydra would look for one file of ours: it merges lists, and follows `..` out of the group."""
    return not isinstance(choice, (list, dict)) and ".." not in str(choice).split("/")


def _method_names(override: Override) -> list[str]:
    """Return every method that a `method=` override names, in sweeps too."""
    value = override.value()
    choices = value.list if isinstance(value, ChoiceSweep) else [value]
    flat = [name for choice in choices for name in (choice if isinstance(choice, list) else [choice])]
    return [str(name) for name in flat if name is not None]


def chain_names(overrides: Sequence[str], composed: Sequence[str]) -> list[str]:
    """Return the chain as typed.

    Hydra keeps a group's choices as a set of packages, so a method named twice would vanish from `composed`; the raw
    override still has it.
    """
    names = list(composed)
    for override in OverridesParser.create().parse_overrides(overrides=list(overrides)):
        if override.key_or_group == "method" and not override.is_sweep_override():
            value = override.value()
            names = [] if value is None else [str(v) for v in (value if isinstance(value, list) else [value])]
    return names


def to_run_config(cfg: DictConfig, overrides: Sequence[str], registry: Registry) -> RunConfig:
    """Turn a composed config into typed objects; every value is validated on the way.

    Raises:
        ConfigError: A value is missing or of the wrong kind, or names something that does not exist.
    """
    run = _to_object(cfg)
    gate.require_typed(to_plain(cfg), [_parsed(text).key_or_group for text in overrides])
    task_type(run.task.type)
    options: dict[str, MethodConfig] = run.method

    def chain(names: Sequence[str]) -> list[ChainStep]:
        return [ChainStep(name=n, config=options.get(n) or registry.get(n).method.Config()) for n in names]

    return RunConfig(
        chain=chain(chain_names(overrides, list(run.chosen))),
        baselines={text: chain(text.split("+")) for text in run.bench.baselines},
        **{f.name: getattr(run, f.name) for f in fields(RunSchema) if f.name not in _NOT_OF_THE_RUN},
    )


def cell_limits(cfg: DictConfig) -> CellConfig:
    """Return the limits of a cell.

    Raises:
        ConfigError: As `to_run_config`.
    """
    limits: CellConfig = _to_object(cfg).cell
    return limits


def tracking(cfg: DictConfig) -> TrackingConfig:
    """Return where the run is mirrored to.

    Raises:
        ConfigError: As `to_run_config`.
    """
    wanted: TrackingConfig = _to_object(cfg).tracking
    return wanted


def to_plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a composed config as JSON values, for another process."""
    try:
        plain = OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def from_plain(values: Mapping[str, Any], registry: Registry) -> DictConfig:
    """Return the composed config that `to_plain` took apart, in a process that knows the same methods.

    Raises:
        ConfigError: A value does not fit the schema.
    """
    try:
        merged = OmegaConf.merge(OmegaConf.structured(_schema(registry)), dict(values))
    except OmegaConfBaseException as error:
        raise explain(error) from error
    assert isinstance(merged, DictConfig)
    return merged


def _to_object(cfg: DictConfig) -> Any:
    try:
        plain = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise explain(error) from error
    gate.require_plain(plain)
    try:
        return OmegaConf.to_object(cfg)
    except ConfigError as error:
        if not error.got.startswith("train.") or not _fits(cfg.train):
            raise
        # The same class holds the settings of both trainings, and says `train` of either.
        raise ConfigError(f"teacher.{error.got}", allowed=error.allowed, hint=error.hint) from error
    except (OmegaConfBaseException, TypeError, AttributeError) as error:
        raise explain(error) from error


def _fits(section: Any) -> bool:
    try:
        OmegaConf.to_object(section)
    except ConfigError:
        return False
    return True


def explain(error: BaseException) -> ConfigError:
    """Say what a Hydra or OmegaConf error means, without its internals."""
    if isinstance(error.__cause__, ConfigError):  # ours, which Hydra met while it built a sweeper
        return error.__cause__
    noise = ("full_key:", "reference_type=", "object_type=", "Config search path", "provider=", "Set the environment")
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(noise)]
    full = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    if told and full and full not in told[0]:
        told[0] = f"{full}: {told[0]}"
    cause = error.__cause__
    if len(told) == 1 and cause is not None:
        told += [line.strip() for line in str(cause).splitlines() if line and not line.strip().startswith(noise)]
    if told and (missing := re.search(r"Could not find '(\w+)/([^']+)'", told[0])):
        return no_such_choice(*missing.groups())
    return ConfigError(told[0] if told else type(error).__name__, allowed="; ".join(told[1:14]).replace(":;", ":"))
