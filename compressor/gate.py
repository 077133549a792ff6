"""What neither a command line nor a config file may say, since Hydra would act on it: which code is called, and secrets.

Hydra builds objects from what a config names: callbacks, handlers of log lines, its own plugins. Parameters may come from a
sweep's server, and a config with somebody's experiments: what Hydra composes is looked at before Hydra acts on it.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import re
from argparse import Namespace
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import DictConfig, OmegaConf, read_write

from compressor.errors import ConfigError

_TYPED: Final = re.compile(
    r"hydra\.(run\.dir|sweep\.(dir|subdir)|mode|(sweeper(?!\.params)|launcher)\..+)|hydra/(sweeper|launcher)"
)
_CALLBACKS: Final = {"sweep": {"_target_": "compressor.compose.Sweep"}}
_NO_LOG: Final = {"version": 1, "root": None, "disable_existing_loggers": False}
_PLUGINS: Final = ("launcher", "sweeper")
_OWN_VARIABLES: Final = "COMPRESSOR_"
_SWITCH: Final = "allow_pickle"  # a user's own word, which no file and no server says for them
_SWEEP: Final = "WANDB_SWEEP_ID"  # set by W&B's agent, whose command lines are its server's
_SECRET: Final = re.compile(
    r"\b[a-z][a-z0-9+.-]*://([^/\s@]+|[^/\s@:]+:(?!\d+/)[^\s@]*)@"  # a user; with a password that may hold a slash, but no port
    r"|[?&][\w-]*(token|key|secret|password|signature)=",
    re.IGNORECASE,
)


def check_flags(typed: Namespace) -> None:
    """Refuse the flag of Hydra's that unpickles a file.

    Raises:
        ConfigError: It was typed.
    """
    if typed.experimental_rerun:
        raise ConfigError("--experimental-rerun reads a pickle, which may run anything", hint="the options of run.yaml")


def check_typed(key: str, value: object) -> None:
    """Refuse a typed option that is not for the command line.

    Args:
        key: As typed, without `+`.
        value: What it is set to.

    Raises:
        ConfigError: It is Hydra's own business, names code to be called, or holds a password.
    """
    if key.startswith("hydra") and not _TYPED.fullmatch(key):
        raise ConfigError(
            f"option '{key}' is not one to be set",
            allowed="hydra.run.dir, hydra.sweep.dir, hydra.sweep.subdir, hydra/launcher, hydra/sweeper and their options",
            hint="NAME=VALUE python -m compressor ... for an environment variable" if "env_set" in key else "",
        )
    if key.startswith("hydra"):  # our own options are typed, and nothing is built from them
        _refuse_code(key, value)
    check_secrets(key, value)


def check_secrets(option: str, value: object) -> None:
    """Refuse an address with a user or a token in it: options are stored with the run, in its report and in its copies.

    Raises:
        ConfigError: The option, without the value.
    """
    for text in _texts(value):
        if _SECRET.search(text):
            raise ConfigError(
                f"{option} holds an address with a user, a password or a token in it, and options are stored with each run",
                allowed="addresses without",
                hint="HF_TOKEN=... python -m compressor ..., or a .netrc file",
            )


def require_plain(value: Any, option: str = "") -> None:
    """Refuse what no option means and what a schema lets through: numbers without end, and lists of anything but plain values.

    Raises:
        ConfigError: The first such option, or one that `check_secrets` refuses.
    """
    if isinstance(value, dict):
        for key, below in value.items():
            require_plain(below, f"{option}.{key}" if option else str(key))
        return
    check_secrets(option, value)
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, float) and not math.isfinite(item):
            raise ConfigError(f"{option}={value}", allowed="finite numbers")
        if isinstance(item, (list, dict)):
            raise ConfigError(f"{option}={value}", allowed="a list of plain values")


def require_typed(values: Any, typed: Collection[str], option: str = "") -> None:
    """Refuse a switch of safety that a file turned on, or a sweep's server.

    Args:
        values: Options as plain values, by name, nested.
        typed: Names of the options of the command line.
        option: Name of `values` among all.

    Raises:
        ConfigError: A switch is on and was not typed.
    """
    if isinstance(values, Mapping):
        for key, below in values.items():
            require_typed(below, typed, f"{option}.{key}" if option else str(key))
    elif option.endswith(f".{_SWITCH}") and values:
        if option not in typed:
            raise ConfigError(f"{option}={values} stands in a file", allowed=f"{option}=true on the command line")
        if _SWEEP in os.environ:
            raise ConfigError(f"{option}={values} is told by a sweep of W&B", allowed="a command of your own")


def watch() -> None:
    """Have each config that Hydra composes in this process checked; Hydra itself has no place to look at one before it acts."""
    load = ConfigLoaderImpl.load_configuration
    signature = inspect.signature(load)
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def checked(self: ConfigLoaderImpl, *arguments: Any, **options: Any) -> DictConfig:
        config = load(self, *arguments, **options)
        asked = signature.bind(self, *arguments, **options).arguments
        if asked["config_name"] is not None:  # else Hydra's own help
            check_typing(config.hydra, asked["overrides"])
            with read_write(config):
                for name in _PLUGINS:  # in place: what is looked at is what will be built
                    OmegaConf.resolve(config.hydra[name])
            plain = OmegaConf.to_container(config.hydra, resolve=False)
            check_composed(plain, list(Plugins.instance().class_name_to_class))
        return config

    ConfigLoaderImpl.load_configuration = checked  # type: ignore[method-assign]  # Hydra offers no other place


def check_typing(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse a config that says what only a user types: other overrides, and options of a launcher, which may be commands.

    Args:
        config: The node `hydra`, as composed.
        overrides: What was typed, all of it.

    Raises:
        ConfigError: What it says.
    """
    if len(config.overrides.task) + len(config.overrides.hydra) != len(overrides):
        raise ConfigError("hydra.overrides stands in a file", allowed="options on the command line")
    store, file = ConfigStore.instance(), f"{config.runtime.choices['hydra/launcher']}.yaml"
    usual: Mapping[Any, Any] = {"_target_": config.launcher.get("_target_")}
    if file in store.list("hydra/launcher"):
        usual = _plain(OmegaConf.create(store.load(f"hydra/launcher/{file}").node))
    known, typed = dict(_leaves(usual)), {text.lstrip("+").partition("=")[0] for text in overrides}
    for key, value in _leaves(_plain(config.launcher)):
        option = f"hydra.launcher.{key}"
        if option not in typed and (key not in known or value != known[key]):
            raise ConfigError(f"{option} stands in a file", allowed=f"{option}=... on the command line")


def _leaves(values: Mapping[Any, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values that hold no others by name, under their dotted names; a list is one."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _plain(node: DictConfig) -> dict[Any, Any]:
    plain = OmegaConf.to_container(node, resolve=False)
    assert isinstance(plain, dict)
    return plain


def check_composed(config: Any, plugins: list[str]) -> None:
    """Refuse a config of Hydra's that makes it call anything but Hydra, its installed plugins and us.

    Args:
        config: The node `hydra`, with the options of its plugins resolved.
        plugins: Classes of Hydra's plugins that are installed.

    Raises:
        ConfigError: What it says.
    """
    if config["callbacks"] != _CALLBACKS:
        raise ConfigError("hydra.callbacks: no config names code to be called", allowed="the one of conf/config.yaml")
    for name in ("job_logging", "hydra_logging"):
        if config[name] != _NO_LOG:
            raise ConfigError(f"hydra.{name}: no config names code to be called", allowed=f"hydra/{name}=none")
    if foreign := [name for name in config["job"]["env_set"] if not name.startswith(_OWN_VARIABLES)]:
        raise ConfigError(
            f"hydra.job.env_set: {', '.join(foreign)}",
            allowed="variables of the shell: NAME=VALUE python -m compressor",
        )
    for name in _PLUGINS:
        target = (config[name] or {}).get("_target_")
        if target is not None and target not in plugins:
            raise ConfigError(
                f"hydra.{name}._target_={target}", allowed="installed plugins of Hydra: hydra/launcher, hydra/sweeper"
            )
        _refuse_code(f"hydra.{name}", {k: v for k, v in (config[name] or {}).items() if k != "_target_"})
    if any(not text.isprintable() for text in _texts(config["launcher"])):  # each becomes a line that a shell reads
        raise ConfigError("hydra.launcher: an option, or the job's name or folder, is no line of text")
    if any(_SWITCH in text for text in (*_keys(config["sweeper"]), *_texts(config["sweeper"]))):
        raise ConfigError(f"hydra.sweeper: {_SWITCH} stands in a file", allowed="the command line")
    for key, value in ((config["sweeper"] or {}).get("params") or {}).items():
        check_typed(str(key).lstrip("+~"), value)


def _refuse_code(option: str, value: object) -> None:
    if any(key.startswith("_") and key.endswith("_") for key in (*option.split("."), *_keys(value))):
        raise ConfigError(f"{option}: no config names code to be called", allowed="plain values")


def _keys(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield str(key)
            yield from _keys(below)
    elif isinstance(value, (list, tuple)):
        for below in value:
            yield from _keys(below)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for below in value.values():
            yield from _texts(below)
    elif isinstance(value, (list, tuple)):
        for below in value:
            yield from _texts(below)
    elif value is not None:
        yield str(value)
