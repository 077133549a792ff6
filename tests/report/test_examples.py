"""Flips, slices and the best set in report.md, from a folder with predictions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markdown_tables import assert_tables_are_whole
from prediction_tables import answers, classes, write
from test_results import make_result

from compressor.compare.predictions import PredictionTable, prediction_file
from compressor.errors import StoreError
from compressor.report.examples import examples as drawn
from compressor.report.examples import read_examples
from compressor.report.markdown import write_markdown
from compressor.results import RunResult


def sample(folder: Path, tables: dict[str, PredictionTable], **changes: Any) -> RunResult:
    """Return the sample result with one split, and write its predictions beside it."""
    result = make_result(**changes)
    candidates = [
        replace(c, metrics={"accuracy": c.metrics["accuracy"]}) for c in result.candidates if c.name in tables
    ]
    for name, table in tables.items():
        write(table, prediction_file(folder, name, "test"))
    return replace(result, candidates=tuple(candidates))


def examples(result: RunResult, folder: Path) -> list[str]:
    return drawn(read_examples(result, folder))


def three(n: int = 400) -> dict[str, PredictionTable]:
    """Return a teacher, a student that loses 20 answers and gains 2, and a poor one."""
    rng = np.random.default_rng(0)
    references = rng.integers(0, 2, n)
    tokens = rng.integers(4, 40, n)

    def flipped(places: list[int], margin: float = 0.0) -> PredictionTable:
        predictions = references.copy()
        predictions[places] = 1 - predictions[places]
        logits = [[0.0, (1 + margin * i) * (1 if p else -1)] for i, p in enumerate(predictions)]
        return classes(predictions, references, tokens=tokens, logits=logits)

    return {
        "teacher": flipped([100, 101]),
        "distill": flipped(list(range(20)), margin=0.1),
        "finetune": flipped(list(range(200))),
    }


def test_the_ten_worst_flips_with_labels_and_probabilities(tmp_path: Path) -> None:
    tables = three()
    text = examples(sample(tmp_path, tables), tmp_path)
    start = next(i for i, line in enumerate(text) if line.startswith("**distill on test**"))
    assert "22 of 400 answers differ from those of teacher (5.5% (" in text[start]
    assert "): 2 gained, 20 lost, 0 otherwise wrong; the worst first." in text[start]
    assert text[start].endswith("The first 10:")
    assert text[start + 2] == "| id | label | teacher | distill | probability of the label |"
    shown = [line.split(" | ") for line in text[start + 4 : start + 14]]
    assert [row[0] for row in shown] == [f"| {i}" for i in range(19, 9, -1)], "the surest mistakes first"
    assert not text[start + 14].startswith("|")
    right, wrong = (("negative", "positive"), ("positive", "negative"))[tables["teacher"].references[19]]
    p = 1 / (1 + np.exp(-(1 + 0.1 * 19)))
    theirs = 1 / (1 + np.exp(-1.0))
    assert shown[0][1:] == [right, f"{right} {theirs:.2f}", f"{wrong} {p:.2f}", f"{theirs:.2f} to {1 - p:.2f} |"]


def test_slices_show_each_model_and_its_difference(tmp_path: Path) -> None:
    tables = three()
    text = examples(sample(tmp_path, tables), tmp_path)
    header = next(line for line in text if line.startswith("| examples"))
    assert header == "| examples | n | teacher | distill | distill vs teacher | finetune | finetune vs teacher |"
    rows = [line for line in text[text.index(header) + 2 :] if line.startswith("|")]
    assert [row.split(" | ")[0] for row in rows[:2]] == ["| negative", "| positive"]
    assert len(rows) == 2 + 4
    counts = [int(row.split(" | ")[1]) for row in rows]
    assert sum(counts[:2]) == sum(counts[2:]) == 400


def test_small_slices_say_so(tmp_path: Path) -> None:
    rare = [0] * 100 + [1] * 12
    table = classes(rare, rare, tokens=[5] * 112)
    text = examples(sample(tmp_path, {"teacher": table, "distill": table}), tmp_path)
    row = next(line for line in text if line.startswith("| positive"))
    assert row == "| positive | 12 | n too small | n too small | n too small |"
    assert any("0 of 112 answers differ" in line for line in text)
    assert not any(line.startswith("| id") for line in text), "no flips, no table"


def test_who_is_as_good_as_the_best(tmp_path: Path) -> None:
    tables = three()
    best = next(x for x in examples(sample(tmp_path, tables), tmp_path) if x.startswith("- accuracy on test"))
    assert "teacher has the best value" in best and best.endswith("Holm over 2, level 0.05): nobody.")
    tables["distill"] = tables["teacher"]
    best = next(x for x in examples(sample(tmp_path, tables), tmp_path) if x.startswith("- accuracy on test"))
    assert best.endswith("): distill.")
    del tables["finetune"]
    assert "## Best" not in examples(sample(tmp_path, tables), tmp_path)


def test_tags_are_shown_where_they_differ(tmp_path: Path) -> None:
    labels = ("O", "B-X", "I-X")
    references = [[0, 1, 2, 0, 0, 1]] * 40
    theirs = answers(references, references)
    ours = answers([[0, 1, 0, 0, 0, 1], [1, 2, 0, 1, 1, 0], *references[2:]], references)
    result = sample(
        tmp_path, {"teacher": theirs, "distill": ours}, task_type="token_classification", label_names=labels
    )
    text = examples(result, tmp_path)
    rows = [line for line in text if line.startswith(("| 0 |", "| 1 |"))]
    assert rows == [
        "| 1 | 1:O, 2:B-X, 3:I-X, 4:O, ... | 1:O, 2:B-X, 3:I-X, 4:O, ... | 1:B-X, 2:I-X, 3:O, 4:B-X, ... | - |",
        "| 0 | 3:I-X | 3:I-X | 3:O | - |",
    ]
    assert "**seqeval_f1 on test**" in text


def test_scores_show_the_largest_changes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    references = [float(x) for x in rng.normal(size=150)]
    theirs, ours = answers(references, references), answers([references[0] + 2.5, *references[1:]], references)
    result = sample(tmp_path, {"teacher": theirs, "distill": ours}, task_type="regression", label_names=())
    text = examples(result, tmp_path)
    start = text.index("| id | label | teacher | distill | change |")
    assert text[start + 2].startswith("| 0 |") and text[start + 2].endswith("| +2.500 |")
    assert len([line for line in text[start + 2 :] if line.startswith("|") and line.count("|") == 6][:10]) == 10


def test_hidden_words_have_slices_and_no_flips(tmp_path: Path) -> None:
    table = answers([[3, 5], [1, 4]] * 30, [12, 13] * 30)
    result = sample(tmp_path, {"teacher": table, "distill": table}, task_type="masked_lm", label_names=())
    text = examples(result, tmp_path)
    assert "## Flips" not in text and "## Slices" in text


def test_the_report_of_a_folder_holds_the_sections(tmp_path: Path) -> None:
    write_markdown(sample(tmp_path, three()), tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text()
    order = ["## Verdicts", "## Differences", "## Agreement", "## Calibration", "## Best", "## Flips", "## Slices"]
    places = [text.index(title) for title in (*order, "## How it was measured")]
    assert places == sorted(places)
    assert_tables_are_whole(text)
    assert "\n\n\n" not in text


def test_a_folder_without_predictions_says_so_and_a_missing_file_is_an_error(tmp_path: Path) -> None:
    write_markdown(make_result(), tmp_path / "report.md")
    assert "Not available: no predictions stand beside this report." in (tmp_path / "report.md").read_text()
    result = sample(tmp_path, three())
    prediction_file(tmp_path, "distill", "test").unlink()
    with pytest.raises(StoreError, match=r"distill-test\.parquet"):
        write_markdown(result, tmp_path / "report.md")
