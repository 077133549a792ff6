"""A run folder in the making: everything goes into a partial sibling, which is renamed when it is whole."""

from __future__ import annotations

import logging
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import yaml

from compressor import commit
from compressor.errors import CompressorError, StoreError
from compressor.report.examples import read_examples
from compressor.report.html import write_html
from compressor.report.html.from_run import from_run, read_calls
from compressor.report.markdown import write_markdown
from compressor.report.model_card import write_model_cards
from compressor.report.speed import attributions
from compressor.results import OK

if TYPE_CHECKING:
    from compressor.config import RunConfig
    from compressor.results import RunResult

UNFINISHED = ".unfinished-"  # in the name of a run that is whole but for its manifest

logger = logging.getLogger(__name__)


class RunFolder:
    """Context manager of one run's folder; leaving it before `commit` removes every trace."""

    def __init__(self, final: Path) -> None:
        self.final = final
        self.path = final  # of the partial folder, once entered
        self._committed = False
        self._measured = False
        self._log: logging.Handler | None = None

    def __enter__(self) -> RunFolder:
        if self.final.is_dir() and any(self.final.iterdir()):
            raise StoreError(
                f"hydra.run.dir={self.final} already holds {_held(self.final)}",
                hint="another hydra.run.dir, or move the folder away",
            )
        if self.final.is_mount():
            raise StoreError(
                f"hydra.run.dir={self.final} is a mount point, and a run folder is renamed into place when it is whole",
                hint=f"hydra.run.dir={self.final / 'run'}",
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

    def write_yaml(self, name: str, value: Any) -> None:
        """Write one YAML file of the run."""
        commit.write_text(self.path / name, yaml.safe_dump(value, sort_keys=False))

    def write_result(self, result: RunResult, overrides: Sequence[str], *, price_per_hour: float | None = None) -> None:
        """Write `result.json`, and made from it `report.md` and `report.html` with its plots."""
        commit.write_json_atomic(self.path / "result.json", result.to_json())
        self._measured = result.status == OK
        examples = None
        with _without_loss("report.md"):
            examples = read_examples(result, self.path)
            write_markdown(result, self.path / "report.md", overrides=overrides, found=examples)
        with _without_loss("report.html"):
            calls_ms = read_calls(self.path)
            parts = attributions(result, self.path)
            report = from_run(
                result,
                calls_ms=calls_ms,
                parts=parts,
                examples=examples,
                overrides=overrides,
                price_per_hour=price_per_hour,
            )
            write_html(report, self.path)

    def write_model_cards(self, result: RunResult, config: RunConfig) -> None:
        """Write a README.md into the folder of each model that the run made."""
        with _without_loss("a model card"):
            write_model_cards(result, self.path, config)

    def workspace(self) -> Path:
        """Return an empty folder that is gone before the run folder is committed."""
        places = self.path / "workspace"
        places.mkdir(exist_ok=True)
        return Path(tempfile.mkdtemp(dir=places))

    def commit(self) -> None:
        """Drop the workspaces, write the manifest and rename."""
        shutil.rmtree(self.path / "workspace", ignore_errors=True)
        self._close_log()
        self._committed = self._measured  # from here on nothing that was measured is thrown away
        try:
            commit.commit(self.path, self.final)
        except (OSError, StoreError) as error:
            if not self._measured:
                raise StoreError(f"{self.final} could not be written: {error}") from error
            raise StoreError(
                f"the run is finished but could not become {self.final}: {error}", hint=self._set_apart()
            ) from error
        self._committed = True

    def _set_apart(self) -> str:
        """Give what was measured a name that no other run takes for a dead process's leftover; return what to type next."""
        kept = self.final.with_name(f"{self.final.name}{UNFINISHED}{uuid.uuid4().hex[:8]}")
        try:
            self.path.rename(kept)
        except OSError:  # the name is too long, or the disk is gone
            return f"mv {self.path} ANOTHER_PLACE"
        return f"python -m compressor.finish {kept}"

    def _close_log(self) -> None:
        if self._log is not None:
            logging.getLogger("compressor").removeHandler(self._log)
            self._log.close()
            self._log = None


def _held(folder: Path) -> str:
    """Say what stands where a run shall: a run, one that was changed since, or something else."""
    if not (folder / commit.MANIFEST).is_file():
        return "files"
    try:
        commit.verify(folder)
    except StoreError as error:
        return f"a run, and {error.got.removeprefix(f'{folder} ')}"
    return "a finished run"


@contextmanager
def _without_loss(view: str) -> Iterator[None]:
    """Keep a run whose view could not be made: views can be made again, measurements cannot."""
    try:
        yield
    except (OSError, CompressorError):
        raise
    except Exception:  # a fault of the view, of any kind, is logged and must not cost the measurements
        logger.exception("%s could not be written; result.json and report.md are whole", view)


class Scratch(RunFolder):
    """A run folder that is always thrown away: what the helper processes of a distributed run write into."""

    def __init__(self) -> None:
        super().__init__(Path(tempfile.mkdtemp(prefix="compressor-")) / "run")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        shutil.rmtree(self.final.parent, ignore_errors=True)
