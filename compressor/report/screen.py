"""What a run prints while it goes: what it will do, where the bytes come from, how far it is."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from compressor import assets, commit
from compressor.artifact import Blueprint
from compressor.compare.front import pareto
from compressor.compare.runs import Rejected, Runs, Why, load_runs, why_of
from compressor.compare.table import compare
from compressor.config import RunConfig
from compressor.errors import CompressorError
from compressor.families import ffn_size_name
from compressor.pipeline import Link, chain_name
from compressor.report import cells, terminal
from compressor.report.answers import front_view
from compressor.report.comparison import comparison
from compressor.report.html import PAGE
from compressor.report.verdict import headline
from compressor.report.views import show, to_markdown
from compressor.results import RunResult
from compressor.tasks.data import TaskData
from compressor.teacher import Teacher
from compressor.training.progress import TrainingProgress


class _Lines(logging.Handler):
    """Shows what the program's own loggers say: epochs, where no bar can be drawn also progress, warnings."""

    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.INFO)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        topic = record.name.rpartition(".")[2]
        if record.levelno >= logging.WARNING:
            topic = "warning"
        self._screen.line("" if topic == "compressor" else topic, record.getMessage())


class Screen:
    """The terminal of one command."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(quiet=quiet)
        self.progress = TrainingProgress(self.console)
        self._downloads: Progress | None = None
        self._download_tasks: dict[str, TaskID] = {}
        log = logging.getLogger("compressor")
        log.setLevel(logging.INFO)
        log.propagate = False
        log.handlers = [*(h for h in log.handlers if not isinstance(h, _Lines)), _Lines(self)]

    def line(self, topic: str, text: str) -> None:
        """Print one line under a topic."""
        self.console.print(f"{topic:<9} {text}", highlight=False, markup=False, soft_wrap=True)

    def source(self, name: str) -> None:
        """Print source and licence of an asset that will be fetched; nothing when it is in the cache."""
        if not assets.is_cached(name):
            self.line("fetch", assets.describe(name))

    def fetching(self, label: str, done_bytes: int, total_bytes: int) -> None:
        """Show a download; the callback that `assets` takes."""
        if self._downloads is None:
            columns = (TextColumn("fetch     {task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self._downloads = Progress(*columns, console=self.console, transient=True)
            self._downloads.start()
        if label not in self._download_tasks:
            self._download_tasks[label] = self._downloads.add_task(label, total=total_bytes)
        self._downloads.update(self._download_tasks[label], completed=done_bytes, total=total_bytes)

    def fetched(self) -> None:
        """End the download display."""
        if self._downloads is not None:
            self._downloads.stop()
            self._downloads = None
            self._download_tasks.clear()

    def announce(
        self, config: RunConfig, source: Blueprint, data: TaskData, chains: Mapping[str, Sequence[Link]]
    ) -> None:
        """Say what will be done, before a second of it is spent."""
        tests = ", ".join(f"{name} {len(rows):,}" for name, rows in data.tests().items())
        transfer = f", transfer text {len(data.unlabelled):,}" if data.unlabelled else ""
        self.line(
            "task",
            f"{config.task.name}: train {len(data.train):,}, validation {len(data.validation):,}, {tests}{transfer}",
        )
        self.line("teacher", f"{config.teacher.checkpoint}: {shape(source)}")
        if not chains:
            self.line("chain", "none: the teacher is measured alone")
        for name, links in chains.items():
            role = "baseline" if name in config.baselines and name != chain_name(config.chain) else "chain"
            self.line(role, f"{' -> '.join(link.name for link in links)}: {shape(links[-1].result)}")

    def teacher(self, ready: Teacher) -> None:
        """Say where the teacher came from and how it validates."""
        scores = ", ".join(f"{name} {value:.4f}" for name, value in ready.validation.items())
        how = "from the cache" if ready.from_cache else "its own head" if not ready.seconds else "fine-tuned"
        spent = f", trained in {ready.seconds:.0f} s" if ready.seconds else ""
        self.line("teacher", f"{how}{spent}; validation {scores}")

    def estimate(self, seconds: float) -> None:
        """Print the estimated time to the table."""
        minutes = seconds / 60
        text = f"about {minutes:.0f} minutes" if minutes >= 1.5 else f"about {max(10, round(seconds, -1)):.0f} seconds"
        self.line("estimate", f"{text} to the table")

    def result(self, result: RunResult) -> None:
        """Print the table and the verdicts."""
        terminal.print_result(result, self.console)

    def finished(self, result: RunResult, folder: Path) -> None:
        """End a run: where its folder is, the verdict in a sentence, and the page to open."""
        self.line("saved", str(folder))
        verdict = cells.printable(headline(result), ascii_only=not self.console.is_terminal)
        self.console.print(f"{'verdict':<9} {verdict}", highlight=False, markup=False)
        if (folder / PAGE).is_file():
            self.line("report", str(folder / PAGE))

    def rule(self, text: str) -> None:
        """Start a cell of a multirun."""
        self.console.print(f"\n== {text}", highlight=False, markup=False, soft_wrap=True)

    def failure(self, error: CompressorError) -> None:
        """Print why a cell could not be run."""
        self.console.print(f"{type(error).__name__}: {error}", highlight=False, markup=False, soft_wrap=True)

    def cells(self, ended: Mapping[Path, str], folder: Path) -> None:
        """Print one table over the cells that a command has ended, by folder; keep that of the whole sweep as `comparison.md`.

        Both are read from the run folders; a cell that could not even leave a record is named by its status in `ended`. An
        agent of a sweep ends one cell a command, and what is kept must not be that one alone.
        """
        self.rule(f"{len(ended)} cells")
        ours = _with_lost(load_runs([path for path in ended if path.is_dir()], needs_one=False), ended)
        whole = load_runs([folder], needs_one=False)
        meant = tuple(r for r in whole.rejected if r.why is not Why.no_run)  # notes and caches lie there too
        whole = _with_lost(replace(whole, rejected=meant), ended)
        view = comparison(compare(ours))
        show(view, self.console)
        if _folders(whole) != _folders(ours):
            view = comparison(compare(whole))
        commit.write_text_atomic(folder / "comparison.md", to_markdown(view))
        self.line("saved", str(folder))

    def fronts(self, folder: Path) -> None:
        """Print who is beaten by nobody, over all run folders below one, and keep it as `fronts.md` there."""
        found = load_runs([folder], needs_one=False)
        if not found.runs:
            return
        view = front_view(pareto(compare(found)))
        show(view, self.console)
        commit.write_text_atomic(folder / "fronts.md", to_markdown(view))


def _with_lost(found: Runs, ended: Mapping[Path, str]) -> Runs:
    """Add the cells that could not even leave a record."""
    told = tuple(r for r in found.rejected if r.why.is_an_end or r.why is Why.copy)
    recorded = _folders(replace(found, rejected=told))
    lost = {
        path.resolve(): Rejected(folder=path.resolve(), name=path.name, why=why_of(status), reason=status)
        for path, status in ended.items()
        if path.resolve() not in recorded
    }
    return replace(found, rejected=(*(r for r in found.rejected if r.folder not in lost), *lost.values()))


def _folders(found: Runs) -> set[Path]:
    return {run.folder for run in found.runs} | {one.folder for one in found.rejected}


def shape(blueprint: Blueprint) -> str:
    """Return `bert 6 x 384, 12 heads, FFN 1536`, and the form where it is compiled."""
    config = blueprint.config
    text = (
        f"{config.model_type} {config.num_hidden_layers} x {config.hidden_size}, {config.num_attention_heads} heads, "
        f"FFN {getattr(config, ffn_size_name(config), 'unknown')}"
    )
    return text if blueprint.form.value == "torch" else f"{text}, {blueprint.form} form"
