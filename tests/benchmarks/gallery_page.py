"""Write plugins/GALLERY.md, and the top rows in README.md, from the kept results of the gallery.

    python -m compressor suite=gallery task.accept_licence=true              # every recipe, one run folder each
    python -m compressor.compare multirun/gallery --archive plugins/gallery  # results without models
    python tests/benchmarks/gallery_page.py                                  # this: the page

Other seeds are runs of single recipes in which nothing is timed, kept in a folder of their own:

    python -m compressor experiment=best_6l seed=1 task.accept_licence=true bench.runtimes=[] bench.memory=false \
        "hydra.run.dir='multirun/seeds/experiment=best_6l,seed=1'"
    python -m compressor.compare multirun/seeds --archive plugins/gallery_seeds

A recipe that has no result yet is named on the page.
"""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev

from compressor.compare import compare, load_runs
from compressor.compare.runs import Run, Runs
from compressor.report.comparison import comparison
from compressor.report.views import Format, render

ROOT = Path(__file__).parents[2]
KEPT, SEEDS = ROOT / "plugins" / "gallery", ROOT / "plugins" / "gallery_seeds"
PAGE, README = ROOT / "plugins" / "GALLERY.md", ROOT / "README.md"
BEGIN, END = "<!-- gallery: begin -->\n", "<!-- gallery: end -->"
TOP = ("best_6l", "tinybert_6l", "minilm_6l", "distill_6l", "pkd_6l", "distilbert_6l", "finetune_6l", "best_3l", "tinybert_4l",
       "mobilebert", "albert_shared", "prune_half", "q8bert", "int8_onnx", "int8_static", "distill_int8", "small_vocab",
       "gptq_4bit", "bnb_nf4")  # fmt: skip
RUNTIMES = ("torch", "onnxruntime", "openvino")


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
        "python -m compressor suite=gallery task.accept_licence=true  # several hours; goes on where it stopped",
        "python -m compressor.compare multirun/gallery --archive plugins/gallery",
        "python tests/benchmarks/gallery_page.py  # made this page",
        "```",
        "",
        *([f"Not run yet: {', '.join(f'`{name}`' for name in missing)}.", ""] if missing else []),
        *instrument(runs),
        "",
        render(comparison(compare(runs)), Format.markdown).strip(),
        *seeds(),
    ]
    return "\n".join(lines) + "\n"


_ONE_LOAD = 2  # the last protocol that loaded each model once


def instrument(runs: Runs) -> list[str]:
    """Say how far the teacher is from itself, loaded a second time, over all rows: what no interval of a row can hold."""
    found: dict[str, list[float]] = {}
    for run in runs.runs:
        if run.result.environment.get("protocol", 0) > _ONE_LOAD:
            continue
        nulls = {c.runtime: c.null_ratio for c in run.result.comparisons if c.runtime and c.null_ratio is not None}
        for runtime, ratio in nulls.items():
            found.setdefault(runtime, []).append(ratio)
    found = {runtime: ratios for runtime, ratios in found.items() if len(ratios) > 1}
    if not found:
        return []
    means = ", ".join(
        f"{runtime} x{fmean(ratios):.3f}, standard deviation {stdev(ratios):.1%} ({len(ratios)} rows)"
        for runtime, ratios in found.items()
    )
    return [
        "In these rows every model was loaded once and the teacher first, which makes a model a little slower; today all are",
        "loaded several times in changing order, the interval is over loads (`bench.loads`), and ratios are taken to both of",
        f"the teacher's. How much faster the teacher's second load was: {means}.",
        "By as much as the means the speed-ups are too good, and by such deviations a speed-up would differ in another load,",
        "which its interval on this page does not hold.",
    ]


def seeds() -> list[str]:
    """Return what the recipes keep that were run with several seeds, each with a teacher of its own; nothing without any."""
    runs = load_runs([KEPT, SEEDS])
    table, elsewhere = compare(runs), on_gpu(runs)
    task = next(iter(table.metrics))
    kept = {row.label: row.quality[task].kept for row in table.rows if not row.is_teacher}
    several = {label: value for label, value in sorted(kept.items()) if value is not None and len(value.each) > 1}
    if not several:
        return []
    lines = [
        "",
        "## Several seeds",
        "",
        "What each seed keeps of the test accuracy of its own teacher, and the mean with its 95 % interval: Student's over the",
        "seeds, or that of the test set where it is wider. Seed 0 is the table above; the others were run one by one, untimed.",
        *([f"With *: teacher and model trained on {', '.join(sorted(set(elsewhere.values())))}."] if elsewhere else []),
        "",
        "| recipe | each seed | mean (95 %) |",
        "|---|---|---|",
    ]
    for label, value in several.items():
        each = ", ".join(
            f"{seed}: {share:.1%}{'*' * ((label, seed) in elsewhere)}" for seed, share in sorted(value.each)
        )
        ends = "" if value.ci95 is None else f" ({value.ci95.low:.1%}..{value.ci95.high:.1%})"
        lines.append(f"| `{label}` | {each} | {value.value:.1%}{ends} |")
    return lines


def top() -> str:
    """Return the rows of the README: what is kept, and the speed-up over the teacher on the same runtime."""
    table = compare(load_runs([KEPT]))
    rows = {row.label: row for row in table.rows}
    task = next(iter(table.metrics))
    lines = [
        f"| recipe | parameters M | MB | accuracy kept (difference, 95 % CI) | {' | '.join(RUNTIMES)} |",
        f"|---|---|---|---|{'---|' * len(RUNTIMES)}",
    ]
    for name in (name for name in TOP if name in rows):
        row = rows[name]
        quality, gap = row.quality[task], row.quality[task].difference
        low, high = (f"{100 * end:+.1f}" for end in (gap.ci95.low, gap.ci95.high))
        speeds = [row.speed.get((task, runtime)) for runtime in RUNTIMES]
        cells = [
            f"`{name}`",
            f"{row.parameters.value / 1e6:.1f}",
            f"{row.size_bytes.value / 1e6:.1f}",
            f"{quality.kept.value:.1%} ({100 * gap.value:+.1f}, {low}..{high})",
            *("-" if s is None or s.speed_up is None else f"x{s.speed_up.value:.2f}" for s in speeds),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def readme(text: str) -> str:
    """Return the README with the rows in their place."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{top()}{END}{after}"


def recipes() -> list[str]:
    """Return the names of all experiments."""
    return sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


def on_gpu(runs: Runs) -> dict[tuple[str, int], str]:
    """Return the GPU of every (experiment, seed) that was trained on one."""
    found = {}
    for run in runs.runs:
        gpus = run.result.environment.get("gpus", [])
        if gpus and run.config["device"] != "cpu":
            found |= {(name, run.result.seed): gpus[0]["name"] for name in _names(run)}
    return found


def seeds_of(runs: Runs) -> dict[str, set[int]]:
    """Return the seeds with which each experiment was run."""
    found: dict[str, set[int]] = {}
    for run in runs.runs:
        for name in _names(run):
            found.setdefault(name, set()).add(run.result.seed)
    return found


def _names(run: Run) -> list[str]:
    return [typed.removeprefix("experiment=") for typed in run.overrides if typed.startswith("experiment=")]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    README.write_text(readme(README.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE, README)
