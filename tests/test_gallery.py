"""The published table is what its command prints from the kept results, and names what is missing."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))

import gallery_page  # noqa: E402 - found through the line above

from compressor.compare import load_runs  # noqa: E402


def test_every_kept_result_is_whole_and_of_a_recipe() -> None:
    runs = load_runs([gallery_page.KEPT, gallery_page.SEEDS], verify=True)
    assert not runs.rejected
    assert set(gallery_page.seeds_of(runs)) <= set(gallery_page.recipes())
    assert all(any(o.startswith("experiment=") for o in run.overrides) for run in runs.runs)


def test_the_table_is_of_one_seed_and_times_every_row() -> None:
    runs = load_runs([gallery_page.KEPT])
    assert {seed for found in gallery_page.seeds_of(runs).values() for seed in found} == {0}
    assert all(run.result.candidates[1].latency for run in runs.runs)


def test_page_and_readme_are_what_the_script_makes() -> None:
    assert gallery_page.PAGE.read_text(encoding="utf-8") == gallery_page.page()
    text = gallery_page.README.read_text(encoding="utf-8")
    assert gallery_page.BEGIN in text and gallery_page.readme(text) == text
