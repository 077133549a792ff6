"""Write plugins/GALLERY.md from the kept results of the gallery.

    python -m compressor suite=gallery task.accept_licence=true              # every recipe, one run folder each
    python -m compressor.compare multirun/gallery --archive plugins/gallery  # results without models
    python tests/benchmarks/gallery_page.py                                  # this: the page

A recipe that has no result yet is named on the page.
"""

from __future__ import annotations

from pathlib import Path

from compressor.compare import compare, load_runs
from compressor.compare.runs import Runs
from compressor.report.comparison import comparison
from compressor.report.views import Format, render

ROOT = Path(__file__).parents[2]
KEPT, PAGE = ROOT / "plugins" / "gallery", ROOT / "plugins" / "GALLERY.md"


def page() -> str:
    """Return the page."""
    runs = load_runs([KEPT])
    missing = [name for name in recipes() if name not in seeds_of(runs)]
    lines = [
        "# The gallery: every recipe on one teacher and one task",
        "",
        "Teacher: e5-small (12 layers x 384), fine-tuned on rotten_tomatoes. A row is a recipe of `conf/experiment`:",
        "made, saved, and measured from disk beside its teacher, on two cores of an AMD EPYC (Zen 5), no GPU, one thread",
        "and one text a call. *kept* is the share of the teacher's test accuracy. `pip install '.[all]'` brings what the",
        "recipes need.",
        "",
        "```sh",
        "python -m compressor suite=gallery task.accept_licence=true  # some three hours; goes on where it stopped",
        "python -m compressor.compare multirun/gallery --archive plugins/gallery",
        "python tests/benchmarks/gallery_page.py  # made this page",
        "```",
        "",
        *([f"Not run yet: {', '.join(f'`{name}`' for name in missing)}.", ""] if missing else []),
        render(comparison(compare(runs)), Format.markdown).strip(),
    ]
    return "\n".join(lines) + "\n"


def recipes() -> list[str]:
    """Return the names of all experiments."""
    return sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


def seeds_of(runs: Runs) -> dict[str, set[int]]:
    """Return the seeds with which each experiment was run."""
    found: dict[str, set[int]] = {}
    for run in runs.runs:
        for typed in run.overrides:
            if typed.startswith("experiment="):
                found.setdefault(typed.removeprefix("experiment="), set()).add(run.result.seed)
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
