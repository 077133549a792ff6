"""What a search keeps from its first trial to its last: trials of other settings are not comparable with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from compressor.errors import ConfigError

_FREE: Final = ("cell", "tracking")  # about a cell's process and not about its numbers


def terms(typed: Sequence[tuple[str, str]], objectives: Sequence[str], within: float | None) -> dict[str, str]:
    """Return the settings of a search by their names.

    Args:
        typed: The command's options and what was typed for each, the searched ones included.
        objectives: What its trials are judged by.
        within: Points that a trial may lose.
    """
    kept = {name: value for name, value in typed if name.partition(".")[0] not in _FREE}
    return {**kept, "hydra.sweeper.objectives": ",".join(objectives), "hydra.sweeper.within": str(within)}


def require_same(before: Mapping[str, str] | None, now: Mapping[str, str], folder: Path) -> None:
    """Refuse to go on with a search under other settings than it was begun with.

    Args:
        before: Of the search that the folder holds; None if it was never noted.
        now: What is asked for.
        folder: The sweep's.

    Raises:
        ConfigError: They differ; the message names where.
    """
    if before == now:
        return
    hint = "another hydra.sweep.dir"
    if before is None:
        raise ConfigError(f"{folder} holds a search whose settings were not noted when it was begun", hint=hint)
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    raise ConfigError(
        f"{folder} holds a search of other settings: {', '.join(_one(name, now) for name in names)}",
        allowed=", ".join(_one(name, before) for name in names),
        hint=f"{hint}; hydra.sweeper.trials may grow",
    )


def _one(name: str, values: Mapping[str, str]) -> str:
    return f"{name}={values[name]}" if name in values else f"no {name}"
