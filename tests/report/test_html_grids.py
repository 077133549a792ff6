"""Tables of the page that open on a click: what of a run's examples they show, safe whatever things are called."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from html_samples import HOSTILE, read
from test_examples import sample, three
from test_results import make_result

from compressor.compare.texts import write_texts
from compressor.errors import StoreError
from compressor.report.examples import WORST, Examples, read_examples
from compressor.report.examples import examples as drawn
from compressor.report.grid import Grid
from compressor.report.html import to_html
from compressor.report.html.from_run import from_run
from compressor.report.html.grids import draw
from compressor.tasks.base import Example


def test_a_run_shows_flips_slices_and_calibration(tmp_path: Path) -> None:
    result = sample(tmp_path, three())
    found = read_examples(result, tmp_path)
    assert found is not None
    page = read(to_html(from_run(result, examples=found)))
    titles = ["Which answers changed", "By class and by length", "How far the probabilities can be believed"]
    places = [page.text.index(title) for title in (*titles, "Verdicts")]
    assert places == sorted(places)
    for told in (
        "22 of 400 answers differ from those of teacher (5.5% (3.7 to 8.2)): 2 gained, 20 lost, 0 otherwise wrong",
        "0.73 to 0.05", "negative", "5.8% (3.9 to 7.3)", "0.367 (0.326 to 0.413)",
    ):  # fmt: skip
        assert told in page.text, told
    assert "teacher has the best value" in page.text, "who is as good as the best is a verdict"
    assert "+-" not in page.text and not [c for c in page.texts if c.startswith("-2")]


def test_the_page_lists_more_flips_than_the_report(tmp_path: Path) -> None:
    found = read_examples(sample(tmp_path, three()), tmp_path)
    assert found is not None
    rows = {grid.title: len(grid.rows) for grid in found.flips}
    assert rows == {"distill on test": 20, "finetune on test": WORST}


def test_the_page_shows_what_flipped_examples_say_and_the_report_does_not(tmp_path: Path) -> None:
    result = sample(tmp_path, three())
    said = [Example(id=i, text=f"text -1..2 no {i}, {HOSTILE}") for i in range(400)]
    write_texts(tmp_path, "test", said)
    found = read_examples(result, tmp_path)
    grid = found.flips[0]
    assert grid.texts == tuple(" ".join(said[int(row[0])].text.split()) for row in grid.rows)
    page = read(to_html(from_run(result, examples=found)))
    assert page.tags.count("script") == 1
    assert f"text -1..2 no {grid.rows[0][0]}, " in page.text, "a text stays as it was"
    assert "text -1..2" not in "".join(drawn(found)), "what is mirrored holds no texts"


def test_texts_of_other_examples_are_refused(tmp_path: Path) -> None:
    result = sample(tmp_path, three())
    write_texts(tmp_path, "test", [Example(id=i, text="x") for i in range(1, 400)])
    with pytest.raises(StoreError, match="lack example 0"):
        read_examples(result, tmp_path)


def test_a_run_without_predictions_has_no_section_for_them(tmp_path: Path) -> None:
    assert read_examples(make_result(), tmp_path) is None
    text = read(to_html(from_run(make_result()))).text
    assert "Which answers changed" not in text and "By class and by length" not in text
    assert "How far the probabilities" in text, "calibration is part of the result"
    bare = replace(make_result(), candidates=tuple(replace(c, calibration={}) for c in make_result().candidates))
    assert "How far the probabilities" not in read(to_html(from_run(bare))).text


def test_hostile_names_stay_text() -> None:
    grid = Grid(title=HOSTILE, lead=HOSTILE, header=(HOSTILE, "n"), rows=((HOSTILE, HOSTILE), ("b", "-1.2 (-3..+1)")))
    shown = Examples(best=(HOSTILE,), flips=(grid,), slices=(replace(grid, rows=()),))
    speeds = (replace(grid, notes=(HOSTILE,)), replace(grid, rows=(), notes=("layer -1 x86",)))
    page = read(to_html(replace(from_run(make_result(), examples=shown), speeds=speeds)))
    assert "Beyond single calls, and on paper" in page.text
    assert "layer -1 x86" in page.text, "of a table without rows its notes are left, in their own words"
    assert page.tags.count("script") == 1 and not any("\x1b" in text for text in page.texts)
    assert page.text.count("<script>alert(1)</script>") >= 8
    assert "\u22121.2 (\u22123 to +1)" in page.text


@pytest.mark.parametrize(("opened", "count"), [(True, 1), (False, 0)])
def test_the_first_table_may_stand_open(opened: bool, count: int) -> None:
    grid = Grid(title="a", header=("x", "y"), rows=(("1", "2"),))
    drawn = draw([grid, replace(grid, title="b")], opened=opened)
    assert drawn.count("<details") == 2 and drawn.count(" open>") == count
    assert draw([]) == ""
