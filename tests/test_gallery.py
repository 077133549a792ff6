"""The published table is what its command prints from the kept results, and names what is missing."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import gallery_page  # noqa: E402 - found through the line above

from compressor import compose, groups, registry  # noqa: E402
from compressor.compare import load_runs  # noqa: E402
from compressor.runkey import plain_config  # noqa: E402


def test_every_kept_result_is_whole_and_of_a_recipe() -> None:
    runs = load_runs([gallery_page.KEPT, gallery_page.SEEDS], verify=True)
    assert not runs.rejected
    assert set(gallery_page.seeds_of(runs)) <= set(gallery_page.recipes())
    assert all(any(o.startswith("experiment=") for o in run.overrides) for run in runs.runs)


# A bound that was tightened since; the row's own error, 0.005, lies far within the new one too.
CHANGED = {("q8bert", "chain.0.config.tolerance"): (0.2, 0.1)}


def test_every_row_was_made_with_what_its_recipe_says_today() -> None:
    methods = registry.load()
    compose.register(methods)
    different = {}
    for run in load_runs([gallery_page.KEPT, gallery_page.SEEDS]).runs:
        with initialize_config_dir(str(groups.conf_folder()), version_base="1.3"):
            cfg = hydra_compose("config", overrides=list(run.overrides))
        now = dict(_flat(plain_config(compose.to_run_config(cfg, run.overrides, methods))))
        name = next(o for o in run.overrides if o.startswith("experiment=")).removeprefix("experiment=")
        for key, value in _flat(run.config):
            if key.startswith(("bench.", "baselines")) or CHANGED.get((name, key)) == (value, now.get(key)):
                continue  # how it was measured stands in each row
            if now.get(key) != value:
                different[name, run.result.seed, key] = (value, now.get(key))
    assert not different


def _flat(value: object, path: str = "") -> Iterator[tuple[str, object]]:
    items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else None
    if not items:
        yield path.removeprefix("."), value
        return
    for key, inner in items:
        yield from _flat(inner, f"{path}.{key}")


def test_the_table_is_of_one_seed_and_times_every_row() -> None:
    runs = load_runs([gallery_page.KEPT])
    assert {seed for found in gallery_page.seeds_of(runs).values() for seed in found} == {0}
    assert all(run.result.candidates[1].latency for run in runs.runs)


def test_page_and_readme_are_what_the_script_makes() -> None:
    assert gallery_page.PAGE.read_text(encoding="utf-8") == gallery_page.page()
    text = gallery_page.README.read_text(encoding="utf-8")
    assert gallery_page.BEGIN in text and gallery_page.readme(text) == text
