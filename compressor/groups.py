"""The groups of YAML values (`task=`, `bench=`, `experiment=`...): where their files are, and what they offer."""

from __future__ import annotations

import difflib
from pathlib import Path

from compressor.errors import ConfigError


def conf_folder() -> Path:
    """Return the folder of YAML values: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    installed = here / "conf"
    return installed if installed.is_dir() else here.parent / "conf"


def offered(group: str) -> list[str]:
    """Return the names of a group's files."""
    folder = conf_folder() / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def no_such_choice(group: str, name: str) -> ConfigError:
    """Say what a group offers, the nearest first, and where else the name stands."""
    files = {path.relative_to(conf_folder()).with_suffix("") for path in conf_folder().rglob("*.yaml")}
    choices = offered(group)
    elsewhere = sorted(p.parts[0] for p in files if p.parts[1:] == (name,) and p.parts[0] != group)
    near = [found for found in choices if found.startswith(name)] or difflib.get_close_matches(
        name, choices, cutoff=0.5
    )
    hints = [f"{other}={name}" for other in elsewhere] or [f"{group}={found}" for found in near]
    return ConfigError(f"{group}={name} does not exist", allowed=", ".join(choices), hint=" or ".join(hints))
