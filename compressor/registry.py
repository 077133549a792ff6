"""Methods by name, from the entry-point group `compressor.methods`.

All are imported before composing, since their options are part of the schema; one that cannot be imported is remembered with
its error and distribution, so that it is reported, and fatal only when asked for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from compressor.capabilities import Capabilities
from compressor.config import MethodConfig
from compressor.errors import ConfigError, PluginError
from compressor.method import CompressionMethod

GROUP = "compressor.methods"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredMethod:
    """A method class and where it came from."""

    name: str
    method: type[CompressionMethod[Any]]
    distribution: str
    version: str

    @property
    def summary(self) -> str:
        """First line of the class's docstring."""
        return (self.method.__doc__ or "").strip().partition("\n")[0]


@dataclass(slots=True)
class Registry:
    """All methods that could be loaded, and why the others could not."""

    methods: dict[str, RegisteredMethod] = field(default_factory=dict)
    broken: dict[str, PluginError] = field(default_factory=dict)

    def get(self, name: str) -> RegisteredMethod:
        """Look up a method.

        Raises:
            PluginError: It is installed but broken, or two distributions offer it.
            ConfigError: Nobody offers it; the nearest names are given.
        """
        if name in self.broken:
            raise self.broken[name]
        if name not in self.methods:
            near = difflib.get_close_matches(name, self.methods, n=3, cutoff=0.5)
            raise ConfigError(
                f"method '{name}' is not known",
                allowed=", ".join(sorted(self.methods)) or "none: no plugin is installed",
                hint=" or ".join(f"method={n}" for n in near) or "python -m compressor --help",
            )
        return self.methods[name]


def load(points: Iterable[EntryPoint] | None = None) -> Registry:
    """Load every registered method; nothing is raised here."""
    registry = Registry()
    seen: dict[str, str] = {}
    for point in sorted(entry_points(group=GROUP) if points is None else points, key=lambda p: (p.name, p.value)):
        distribution = point.dist.name if point.dist else "unknown"
        version = point.dist.version if point.dist else "0"
        if point.name in seen and seen[point.name] != distribution:
            registry.methods.pop(point.name, None)
            registry.broken[point.name] = PluginError(
                f"method '{point.name}' is offered by two distributions: {seen[point.name]} and {distribution}",
                hint=f"pip uninstall {distribution}",
            )
            continue
        seen[point.name] = distribution
        try:
            method = point.load()
            _validate(point.name, method)
        except Exception as error:  # a guest's import may fail in any way, and must not take the command with it
            registry.broken[point.name] = PluginError(
                f"method '{point.name}' of {distribution} {version} cannot be used: {type(error).__name__}: {error}",
                hint=f"pip install -U {distribution}",
            )
            continue
        registry.methods[point.name] = RegisteredMethod(
            name=point.name, method=method, distribution=distribution, version=version
        )
    return registry


def _validate(name: str, method: object) -> None:
    if not (isinstance(method, type) and issubclass(method, CompressionMethod)):
        raise PluginError(f"{method!r} is not a subclass of CompressionMethod")
    if not isinstance(getattr(method, "capabilities", None), Capabilities):
        raise PluginError(f"{method.__name__}.capabilities must be a Capabilities")
    if not getattr(method, "references", None):
        raise PluginError(f"{method.__name__}.references must name the paper or the source")
    config = method.Config
    if not (is_dataclass(config) and issubclass(config, MethodConfig)):
        raise PluginError(f"{method.__name__}.Config must be a dataclass derived from MethodConfig")
    if config is not MethodConfig and "__slots__" not in vars(config):
        raise PluginError(f"{config.__name__} must be a dataclass(slots=True, kw_only=True)")
    if any(not f.kw_only for f in fields(config)):
        raise PluginError(f"{config.__name__} must be a dataclass(slots=True, kw_only=True)")
