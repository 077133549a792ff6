"""The command `python -m compressor.compare`: read run folders, answer one question, print or write the answer."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from compressor import commit
from compressor.compare.choice import Want, pick
from compressor.compare.contrast import diff
from compressor.compare.front import pareto
from compressor.compare.keeping import keep_results
from compressor.compare.runs import Rejected, load_runs
from compressor.compare.table import Table, compare
from compressor.errors import CompressorError, ConfigError, StoreError
from compressor.report.answers import answer_view, contrast_view, front_view
from compressor.report.comparison import comparison
from compressor.report.comparison_data import reason
from compressor.report.html import write_plots
from compressor.report.views import Format, View, render, show

_EXAMPLES = """\
examples:
  python -m compressor.compare multirun/gallery                             the table
  python -m compressor.compare multirun/gallery --pareto
  python -m compressor.compare multirun/gallery --pick smallest --within 1.0
  python -m compressor.compare multirun/gallery --pick accurate --under-ms 3 --runtime onnxruntime
  python -m compressor.compare outputs from_elsewhere --diff distill_6l tinybert_6l
  python -m compressor.compare multirun/gallery --format csv --out gallery.csv
  python -m compressor.compare multirun/gallery --format html --out gallery.html --plots plots
"""
_BOUNDS = ("within", "keep", "under_ms", "under_mb", "runtime")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and leave with the documented exit code."""
    options = _parser().parse_args(arguments)
    try:
        rejected = _answer(options)
    except CompressorError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    except BrokenPipeError:
        sys.stderr.close()  # a pager that was closed is no failure
        raise SystemExit(0) from None
    if options.strict and rejected:
        print(f"{len(rejected)} folders could not be compared (--strict)", file=sys.stderr)
        raise SystemExit(StoreError.exit_code)


def _answer(options: argparse.Namespace) -> Sequence[Rejected]:
    """Print or write the answer; return what could not be compared."""
    unread = [name for name in _BOUNDS if getattr(options, name) is not None]
    if unread and options.pick is None:
        raise ConfigError(f"--{unread[0].replace('_', '-')} without --pick", hint=f"--pick {Want.smallest}")
    if options.task is not None and options.pick is None:
        raise ConfigError("--task without --pick", hint=f"--pick {Want.smallest}")
    _require_places(options)
    runs = load_runs(options.folders, verify=options.verify, leave_out=options.archive)
    if options.archive is not None:
        kept = keep_results(runs.runs, options.archive)
        print(f"kept {len(kept)} new results in {options.archive}", file=sys.stderr)
    form = Format(options.format)
    whole = "--format html" if form is Format.html else "--plots" if options.plots is not None else None
    if whole is not None and (options.pick or options.diff or options.pareto):
        raise ConfigError(f"{whole} with --pareto, --diff or --pick", allowed="the whole comparison, fronts included")
    table = compare(runs, metric=options.metric)
    view = _view(table, options)
    if options.plots is not None and view.page is not None:
        try:
            written = write_plots(view.page(), options.plots)
        except OSError as error:
            raise StoreError(f"--plots {options.plots} cannot be written: {error.strerror}") from error
        print(f"wrote {len(written)} files to {options.plots}", file=sys.stderr)
    if options.out is not None:
        try:
            _write(options.out, render(view, form))
        except OSError as error:
            raise StoreError(f"--out {options.out} cannot be written: {error.strerror}") from error
    elif form is Format.terminal:
        show(view)
    else:
        sys.stdout.write(render(view, form))
    if options.pick or options.diff or options.pareto:  # the table names them itself
        for rejected in table.rejected:
            print(f"not compared: {rejected.name}: {reason(rejected)}", file=sys.stderr)
    return table.rejected


def _require_places(options: argparse.Namespace) -> None:
    """Refuse to write where something would be lost, before anything is read.

    Raises:
        ConfigError: A place is a folder, or lies in a run folder, which is whole by the hash of every file in it.
    """
    for name in ("out", "archive", "plots"):
        place: Path | None = getattr(options, name)
        if place is None:
            continue
        if name == "out" and place.is_dir():
            raise ConfigError(f"--out {place} is a folder", allowed="a file")
        whole = place.resolve()
        run = next((folder for folder in (whole, *whole.parents) if (folder / commit.MANIFEST).is_file()), None)
        if run is not None:
            raise ConfigError(
                f"--{name} {place} lies in {run}, a run folder, which it would damage", allowed="elsewhere"
            )


def _write(path: Path, text: str) -> None:
    """Write a file whole, behind a link too; into a device or a pipe what comes comes."""
    if path.exists() and not path.is_file():
        path.write_text(text, encoding="utf-8")
    else:
        commit.write_text_atomic(path.resolve(), text)


def _place(text: str) -> Path:
    """Return a path that was typed; an empty one is a variable of the shell that was not set."""
    if not text.strip():
        raise argparse.ArgumentTypeError("an empty name")
    return Path(text)


def _view(table: Table, options: argparse.Namespace) -> View:
    if options.pick is not None:
        bounds = {name: getattr(options, name) for name in _BOUNDS}
        return answer_view(pick(table, options.pick, **bounds, task=options.task))
    if options.diff is not None:
        return contrast_view(diff(table, *options.diff))
    return front_view(pareto(table)) if options.pareto else comparison(table, command=_typed(options))


def _typed(options: argparse.Namespace) -> str:
    """Return the command that makes the page again; of folders their names, since it may be read elsewhere."""
    words = ["python", "-m", "compressor.compare", *(folder.name or "." for folder in options.folders)]
    words += ["--metric", options.metric] if options.metric else []
    return shlex.join([*words, "--format", options.format, "--out", (options.out or Path("page.html")).name])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m compressor.compare",
        description="Compare the runs in folders, from this machine and others: what may be compared, and nothing else.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=_place, help="run folders, or folders that hold some")
    parser.add_argument("--metric", help="metric of the columns, e.g. accuracy@vader (default: each task's first)")
    parser.add_argument("--verify", action="store_true", help="compare the hash of every file, of models too")
    parser.add_argument("--strict", action="store_true", help="exit with 7 if any folder could not be compared")
    parser.add_argument("--format", choices=[f.value for f in Format], default=Format.terminal.value,
                        help="html: one self-contained page of the table, the fronts and the notes")  # fmt: skip
    parser.add_argument(
        "--archive", type=_place, metavar="FOLDER", help="also copy the results there, without the models"
    )
    parser.add_argument("--out", type=_place, metavar="FILE", help="write there instead of printing")
    parser.add_argument("--plots", type=_place, metavar="FOLDER",
                        help="also write each plot there, as SVG and, with the extra png, as PNG")  # fmt: skip
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--pareto", action="store_true", help="quality against bytes and against speed-ups")
    asked.add_argument("--diff", nargs=2, metavar=("A", "B"), help="two candidates side by side")
    asked.add_argument("--pick", choices=[w.value for w in Want], help="the one candidate to take")
    bounds = parser.add_argument_group("bounds of --pick")
    bounds.add_argument("--within", type=float, metavar="POINTS", help="points that may be lost against the teacher")
    bounds.add_argument("--keep", type=float, metavar="SHARE", help="share of the teacher's metric to keep, e.g. 0.99")
    bounds.add_argument("--under-ms", type=float, metavar="MS", help="median call at batch size of the run")
    bounds.add_argument("--under-mb", type=float, metavar="MB", help="bytes as shipped, MB of 10^6")
    bounds.add_argument("--runtime", help="runtime of fastest and --under-ms, or a column's label such as torch@B")
    bounds.add_argument("--task", help="needed where runs of several tasks are compared")
    return parser
