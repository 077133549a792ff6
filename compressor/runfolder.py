"""A run folder in the making: everything goes into a partial sibling, which is renamed when it is whole."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml

from compressor import commit
from compressor.errors import StoreError

if TYPE_CHECKING:
    from compressor.report.screen import Screen


class RunFolder:
    """Context manager of one run's folder; leaving it without `commit` removes every trace."""

    def __init__(self, final: Path, screen: Screen) -> None:
        self.final = final
        self.path = final
        self._screen = screen
        self._committed = False
        self._log: logging.Handler | None = None

    def __enter__(self) -> RunFolder:
        if self.final.is_dir() and any(self.final.iterdir()):
            what = "a finished run" if commit.is_complete(self.final) else "files"
            raise StoreError(
                f"hydra.run.dir={self.final} already holds {what}", hint="another hydra.run.dir, or move the folder away"
            )
        self.final.parent.mkdir(parents=True, exist_ok=True)
        commit.sweep_leftovers(self.final.parent)
        self.path = commit.open_partial(self.final)
        self._log = logging.FileHandler(self.path / "log.txt", encoding="utf-8")
        self._log.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logging.getLogger("compressor").addHandler(self._log)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_log()
        if not self._committed:
            commit.discard(self.path)
            if self.final.is_dir() and not any(self.final.iterdir()):
                self.final.rmdir()  # Hydra made it

    def write_json(self, name: str, value: Any) -> None:
        """Write one JSON file of the run."""
        commit.write_json_atomic(self.path / name, value)

    def write_yaml(self, name: str, value: Any) -> None:
        """Write one YAML file of the run."""
        with commit.disk_errors(self.path / name):
            (self.path / name).write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")

    def workspace(self, name: str) -> Path:
        """Return an empty folder that is gone before the run folder is committed."""
        place = self.path / "workspace" / name
        place.mkdir(parents=True)
        return place

    def commit(self) -> None:
        """Drop the workspaces, write the manifest and rename."""
        shutil.rmtree(self.path / "workspace", ignore_errors=True)
        self._close_log()
        commit.commit(self.path, self.final)
        self._committed = True

    def _close_log(self) -> None:
        if self._log is not None:
            logging.getLogger("compressor").removeHandler(self._log)
            self._log.close()
            self._log = None
