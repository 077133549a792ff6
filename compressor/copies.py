"""The copies that a run has at W&B: a note beside its folder, so that whoever mirrors it again finds the same run there.

The note lies outside of the run folder, which is never changed; it counts for the run that it was made of and for no other that
stands under the same name later.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from compressor import commit
from compressor.errors import CompressorError

RUN_ID: Final = "WANDB_RUN_ID"  # what W&B's agent sets for the run that it starts, with the next three
SWEEP_ID: Final = "WANDB_SWEEP_ID"
_PROJECT: Final = "WANDB_PROJECT"
_ENTITY: Final = "WANDB_ENTITY"
_LOG: Final = logging.getLogger("compressor")


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """A copy of a run.

    Attributes:
        id: Of the run at W&B.
        project: Where it is; unset: W&B's own rule.
        entity: Team or user; unset: the account's own.
        sweep: Of which W&B sweep it is a run.
        sent: "online" or "offline"; empty: it was begun, and nobody saw it end.
    """

    id: str
    project: str | None
    entity: str | None
    sweep: str | None
    sent: str = ""


def content(folder: Path) -> str:
    """Return a short hash of what a run folder holds."""
    return commit.sha256_file(folder / commit.MANIFEST)[:16]


def wanted(folder: Path, project: str | None, entity: str | None, default: str) -> list[Copy]:
    """Return the copies that are to be made of a run: those that were begun, else the latest again, else a new one.

    What was begun in one place and sent to another, under the same id, is made where it was sent, unless the first is named:
    that one may never take it.

    Args:
        folder: The run folder.
        project: Where; unset: where it was before. A run that W&B's agent started is where that says.
        entity: The same of the team.
        default: Project of a new copy.
    """
    environment = os.environ
    run_id = environment.get(RUN_ID)
    sweep = environment.get(SWEEP_ID) if run_id else None
    known = [copy for copy in noted(folder) if not run_id or copy.id == run_id]
    place = (environment.get(_PROJECT), environment.get(_ENTITY)) if sweep else (project or default, entity)
    if not sweep:
        known = [copy for copy in known if project in (None, copy.project) and entity in (None, copy.entity)]
    sent = [copy for copy in known if copy.sent]
    begun = [copy for copy in known if copy.id not in {one.id for one in sent}]
    return begun or sent[-1:] or [Copy(id=run_id or content(folder), project=place[0], entity=place[1], sweep=sweep)]


def noted(folder: Path) -> list[Copy]:
    """Return the copies that were made or begun of the run in a folder, the latest last."""
    try:
        read: Any = commit.read_json(_path(folder))
        return [Copy(**copy) for copy in read["copies"]] if read["run"] == content(folder) else []
    except (OSError, CompressorError, LookupError, TypeError):  # there is none, or none of ours
        return []


def note(folder: Path, copy: Copy, *, instead_of: Copy | None = None) -> None:
    """Note a copy. Where that is not possible, in a folder of others' for one, the copy is made all the same."""
    copies: Sequence[Copy] = [old for old in noted(folder) if old not in (copy, instead_of)]
    values = {"run": content(folder), "copies": [asdict(one) for one in (*copies, copy)]}
    try:
        commit.write_json_atomic(_path(folder), values)
    except (OSError, CompressorError) as error:
        _LOG.warning("a second copy of %s may be another run at W&B: %s", folder, error)


def _path(folder: Path) -> Path:
    place = folder.resolve()
    return place.with_name(f".{place.name}.mirrored.json")
