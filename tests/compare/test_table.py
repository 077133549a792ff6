"""The comparison of many runs: what is one candidate, what may meet in a column, and who is best as far as is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from run_folders import MACHINE, OTHER_MACHINE, Model, N, correct, write_run
from scipy.stats import t as student

from compressor.compare import compare, load_runs, pareto
from compressor.compare.front import Place
from compressor.compare.statistics import mcnemar_p_value
from compressor.errors import ConfigError

TASK = "rotten_tomatoes"


def table_of(place: Path, **options):
    return compare(load_runs([place]), **options)


def labels(table) -> list[str]:
    return [row.label for row in table.rows]


def test_one_run_alone(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model())
    table = table_of(tmp_path)
    assert labels(table) == ["teacher", "distill"]
    teacher, distill = table.rows
    cell = distill.quality[TASK]
    assert cell.score.value == 0.8 and cell.kept.value == pytest.approx(0.8 / 0.86)
    assert cell.difference.value == pytest.approx(-0.06) and cell.verdict == "worse"
    assert cell.kept.ci95.low == pytest.approx(1 + cell.difference.ci95.low / 0.86)
    assert distill.speed[TASK, "torch"].speed_up.value == 2.0
    assert distill.training_seconds.value == 60.0 and teacher.training_seconds is None
    assert cell.mark is None and not distill.marks, "one alone is no winner"
    assert teacher.quality[TASK].difference is None and teacher.speed[TASK, "torch"].speed_up is None


def test_missing_numbers_stay_missing(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(memory=None, speeds={"torch": 0.0}, verdicts=False))
    row = table_of(tmp_path).row("distill")
    assert row.peak_memory_bytes is None
    assert row.quality[TASK].kept is None and row.quality[TASK].verdict is None
    cell = row.speed[TASK, "torch"]
    assert cell.p50_ms is None and cell.speed_up is None and cell.refusals == ("no such operation",)


def test_runs_that_differ_in_the_seed_alone_are_one_candidate(tmp_path: Path) -> None:
    rights = {0: 300, 1: 330, 2: 318}
    for seed, right in rights.items():
        write_run(tmp_path / str(seed), Model(right=right), seed=seed)
    table = table_of(tmp_path)
    assert labels(table) == ["teacher", "distill"]
    cell = table.row("distill").quality[TASK]
    values = [right / N for right in rights.values()]
    half = student.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert cell.score.value == pytest.approx(np.mean(values)), "the mean, not the best"
    assert cell.score.ci95.high == pytest.approx(np.mean(values) + half)
    assert cell.score.each == tuple((seed, right / N) for seed, right in rights.items())
    assert cell.difference.value == pytest.approx(np.mean(values) - 0.86)
    assert cell.verdict == "inconclusive", "an interval this wide tells nothing"


def test_seeds_that_happen_to_agree_are_not_certain(tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / str(seed), Model(right=341), seed=seed)
    cell = table_of(tmp_path).row("distill").quality[TASK]
    assert cell.score.ci95.high - cell.score.ci95.low > 0.05, "the examples' own interval is the wider one"
    assert cell.score.freedom is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"student.layers": 3}, "student.layers=3"),
        ({"train.epochs": 9}, "train.epochs=9"),
        ({"teacher.checkpoint": "mpnet"}, "teacher.checkpoint=mpnet"),
        ({"task.unlabelled": "imdb"}, "task.unlabelled=imdb"),
    ],
)
def test_other_options_are_another_candidate_and_name_it(tmp_path: Path, settings: dict, told: str) -> None:
    write_run(tmp_path / "a", Model())
    write_run(tmp_path / "b", Model(), settings=settings)
    names = [row.label for row in table_of(tmp_path).rows if not row.is_teacher]
    assert len(names) == 2 and f"distill {told}" in names


def test_a_methods_own_options_count_and_its_bench_does_not(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model())
    write_run(tmp_path / "b", Model(methods=(("distill", {"temperature": 4.0}),)))
    write_run(tmp_path / "c", Model(right=310), settings={"bench.texts": 40, "device": "cuda"}, seed=1)
    table = table_of(tmp_path)
    assert labels(table)[1:] == ["distill method.distill.temperature=2.0", "distill method.distill.temperature=4.0"]
    assert len(table.rows[1].candidate.arms) == 2


def test_transfer_text_makes_no_other_teacher(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model())
    write_run(tmp_path / "b", Model(), settings={"task.unlabelled": "imdb"})
    assert labels(table_of(tmp_path)).count("teacher") == 1


def test_an_experiment_gives_its_name(tmp_path: Path) -> None:
    baseline = Model(name="finetune", role="baseline", methods=(("finetune", {}),))
    write_run(tmp_path / "a", Model(), baseline, overrides=["experiment=best_6l"])
    assert labels(table_of(tmp_path)) == ["teacher", "best_6l", "finetune"]


def test_the_best_is_marked_by_paired_tests_and_ties_are_ties(tmp_path: Path) -> None:
    models = {"a": Model(right=340), "b": Model(right=335, shift=5), "c": Model(right=250)}
    for i, (name, model) in enumerate(models.items()):
        write_run(tmp_path / name, model, settings={"student.layers": i + 1})
    right = {name: correct(model) for name, model in models.items()}
    lost = {n: int((right["a"] & ~right[n]).sum()) for n in "bc"}
    won = {n: int((right[n] & ~right["a"]).sum()) for n in "bc"}
    assert mcnemar_p_value(lost["b"], won["b"]) > 0.05 > mcnemar_p_value(lost["c"], won["c"])
    marks = {r.label[-1]: r.quality[TASK].mark for r in table_of(tmp_path).rows if not r.is_teacher}
    assert marks == {"1": "tied", "2": "tied", "3": None}
    write_run(tmp_path / "d", Model(right=375, shift=0), settings={"student.layers": 4})
    marks = {r.label[-1]: r.quality[TASK].mark for r in table_of(tmp_path).rows if not r.is_teacher}
    assert marks == {"1": None, "2": None, "3": None, "4": "best"}


def test_holm_pays_for_the_size_of_the_family(tmp_path: Path) -> None:
    write_run(tmp_path / "best", Model(right=340), settings={"student.layers": 99})
    write_run(tmp_path / "near", Model(right=334), settings={"student.layers": 98})  # 6 against 0: p = 0.031
    assert mcnemar_p_value(6, 0) < 0.05
    assert table_of(tmp_path).row("distill student.layers=99").quality[TASK].mark == "best"
    for i in range(3):
        write_run(tmp_path / str(i), Model(right=334), settings={"student.layers": i + 1})
    assert table_of(tmp_path).row("distill student.layers=99").quality[TASK].mark == "tied"


def test_speed_ups_are_ranked_by_their_intervals(tmp_path: Path) -> None:
    for i, (speed, spread) in enumerate([(3.0, 0.01), (2.95, 0.02), (2.0, 0.01)]):
        write_run(tmp_path / str(i), Model(speeds={"torch": speed}, spread=spread), settings={"student.layers": i + 1})
    marks = [r.speed[TASK, "torch"].mark for r in table_of(tmp_path).rows[1:]]
    assert marks == ["tied", "tied", None]


def test_sizes_are_counted_so_the_smallest_wins(tmp_path: Path) -> None:
    for i, size in enumerate([50, 40, 40]):
        write_run(tmp_path / str(i), Model(size_bytes=size, parameters=60 + i), settings={"student.layers": i + 1})
    rows = table_of(tmp_path).rows[1:]
    assert [r.marks.get("size_bytes") for r in rows] == [None, "tied", "tied"]
    assert [r.marks.get("parameters") for r in rows] == ["best", None, None]
    assert table_of(tmp_path).rows[0].marks == {}


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        (OTHER_MACHINE, 1),
        (MACHINE | {"cores": 64}, 1),
        (MACHINE | {"cpu_flags": ["avx2", "avx512f"]}, 1),
        (MACHINE | {"memory_bytes": 64 * 2**30}, 1),
        (MACHINE | {"protocol": 2}, 1),
        (MACHINE | {"packages": {"torch": "2.14.0", "onnxruntime": "1.22.0"}}, 1),
        (MACHINE | {"packages": {"torch": "2.13.0", "onnxruntime": "1.22.0", "transformers": "5.1"}}, 1),
        (MACHINE | {"variables": {"ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}}, 1),
        (MACHINE | {"workload": {"split": "test"}, "splits": {"test": "1f"}}, 1),
        (MACHINE | {"workload": {"split": ["no name"]}, "splits": {"test": "1f"}}, 1),
        ({"cpu": "unavailable"}, 1),
        (MACHINE, 2),
    ],
)
def test_latency_never_leaves_its_conditions_and_accuracy_does(tmp_path: Path, environment: dict, threads: int) -> None:
    write_run(tmp_path / "a", Model(right=340))
    write_run(
        tmp_path / "b", Model(right=250, speeds={"torch": 4.0}), settings={"student.layers": 3}, environment=environment,
        threads=threads,
    )  # fmt: skip
    table = table_of(tmp_path)
    assert {s.label for s in table.settings if s.runtime == "torch"} == {"torch@A", "torch@B"}
    first, second = table.rows[1:]
    assert (TASK, "torch@B") not in first.speed and (TASK, "torch@A") not in second.speed
    assert first.speed[TASK, "torch@A"].mark is None and second.speed[TASK, "torch@B"].mark is None
    assert first.quality[TASK].mark == "best"


def test_a_name_in_a_header_makes_nobody_the_smallest(tmp_path: Path) -> None:
    for i, (size, right) in enumerate([(90_000_000, 340), (89_999_518, 280)]):
        write_run(tmp_path / str(i), Model(size_bytes=size, right=right), settings={"student.layers": i + 1})
    table = table_of(tmp_path)
    assert [r.marks.get("size_bytes") for r in table.rows[1:]] == ["tied", "tied"]
    places = {p.label: p.place for p in pareto(table)[0].points}
    assert places["distill student.layers=1"] is Place.front and places["distill student.layers=2"] is Place.dominated


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ids": range(N - 50)}, "task.examples=350"),
        ({"environment": MACHINE | {"splits": {"train": "a1", "test": "b2"}}}, "task.data="),
    ],
    ids=["number", "content"],
)
def test_other_examples_under_one_name_make_another_row(tmp_path: Path, changes: dict, told: str) -> None:
    write_run(tmp_path / "a", Model(), environment=MACHINE | {"splits": {"train": "a1", "test": "b1"}})
    write_run(tmp_path / "b", Model(), **changes)
    rows = table_of(tmp_path).rows
    assert [r.is_teacher for r in rows] == [True, True, False, False]
    assert all(len(r.candidate.arms) == 1 for r in rows) and told in rows[3].label
    write_run(tmp_path / "c", Model(), seed=1)  # an older result says of how many examples it was, and not of which
    assert len(table_of(tmp_path).row(rows[2].label).candidate.arms) == (2 if "examples" in told else 1)


def test_a_run_whose_data_is_not_known_joins_those_of_its_task(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(), environment=MACHINE | {"splits": {"train": "a1", "test": "b1"}})
    write_run(tmp_path / "b", Model(), seed=1)
    assert [len(r.candidate.arms) for r in table_of(tmp_path).rows] == [2, 2]


def test_a_few_megabytes_of_memory_or_the_load_make_no_other_machine(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model())
    again = MACHINE | {"memory_bytes": 8 * 2**30 - 3_000_000, "load_average": [7, 7, 7], "kernel": "other"}
    write_run(tmp_path / "b", Model(), settings={"student.layers": 3}, environment=again)
    assert [s.label for s in table_of(tmp_path).settings] == ["torch", "onnxruntime"]


def test_ratios_to_different_teachers_do_not_meet(tmp_path: Path) -> None:
    other = Model(name="teacher", role="teacher", right=344, parameters=110_000_000, speeds={"torch": 1.0}, methods=())
    write_run(tmp_path / "a", Model())
    write_run(tmp_path / "b", Model(), teacher=other, settings={"teacher.checkpoint": "bert-base"})
    assert {s.label for s in table_of(tmp_path).settings} == {"torch@A", "torch@B", "onnxruntime@A"}


def test_runs_of_one_machine_are_pooled_over_seeds_on_the_logarithm(tmp_path: Path) -> None:
    for seed, speed in enumerate([2.0, 2.2, 2.1]):
        write_run(tmp_path / str(seed), Model(speeds={"torch": speed}), seed=seed)
    cell = table_of(tmp_path).row("distill").speed[TASK, "torch"]
    logs = np.log([2.0, 2.2, 2.1])
    half = student.ppf(0.975, 2) * np.std(logs, ddof=1) / 3**0.5
    assert cell.speed_up.value == pytest.approx(np.exp(logs.mean()))
    assert cell.speed_up.ci95.low == pytest.approx(np.exp(logs.mean() - half))
    assert cell.verdict == "faster" and len(cell.p50_ms.each) == 3


@pytest.mark.parametrize(
    "changes", [{"ids": range(1, N + 1)}, {"labels": [1] * N}, {"ids": range(N - 50)}], ids=["ids", "labels", "number"]
)
def test_other_examples_are_named_and_not_ranked(tmp_path: Path, changes: dict) -> None:
    write_run(tmp_path / "a", Model(right=300))
    write_run(tmp_path / "b", Model(right=310), settings={"student.layers": 3})
    write_run(tmp_path / "c", Model(right=349), settings={"student.layers": 4}, **changes)
    rows = {r.label: r.quality[TASK] for r in table_of(tmp_path).rows if not r.is_teacher}
    assert rows["distill student.layers=4"].remark == "other examples"
    assert rows["distill student.layers=4"].mark is None
    assert rows["distill student.layers=3"].mark == "best"


def test_the_order_of_the_examples_does_not_matter(tmp_path: Path) -> None:
    labels = [i % 2 for i in range(N)]
    write_run(tmp_path / "a", Model(right=300))
    order = list(range(N))[::-1]
    write_run(
        tmp_path / "b", Model(right=300), settings={"student.layers": 3}, ids=order, labels=[labels[i] for i in order]
    )
    assert [r.quality[TASK].remark for r in table_of(tmp_path).rows] == [None] * 3


def test_predictions_that_are_missing_are_said_to_be(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model())
    write_run(tmp_path / "b", Model(), settings={"student.layers": 3}, predictions=False)
    table = table_of(tmp_path)
    assert table.row("distill student.layers=3").quality[TASK].remark == "not paired"
    assert any("does not exist" in note for note in table.notes)


def test_several_tasks_are_columns_of_one_row(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(right=320), task="sst2")
    write_run(tmp_path / "b", Model(right=301), task="imdb", settings={"task.max_length": 256})
    write_run(tmp_path / "c", Model(right=258), task="imdb", settings={"task.max_length": 256, "student.layers": 3})
    table = table_of(tmp_path)
    assert list(table.metrics) == ["sst2", "imdb"]
    both, one = table.rows[1:]
    assert both.macro_kept.value == pytest.approx((320 / 344 + 301 / 344) / 2)
    halves = [(cell.kept.ci95.high - cell.kept.ci95.low) / 2 for cell in both.quality.values()]
    found = both.macro_kept.ci95
    assert (found.high - found.low) / 2 == pytest.approx(math.hypot(*halves) / 2, rel=0.01), (
        "their errors add in squares"
    )
    assert one.macro_kept is None and set(one.quality) == {"imdb"}
    assert both.quality["imdb"].mark == "best" and both.quality["sst2"].mark is None
    assert {(s.task, s.label) for s in table.settings} >= {("sst2", "torch"), ("imdb", "torch")}, "no letters needed"


def test_another_metric_can_head_the_columns(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model())
    assert table_of(tmp_path, metric="accuracy").metrics == {TASK: "accuracy"}
    with pytest.raises(ConfigError, match="accuracy@vader") as error:
        table_of(tmp_path, metric="accuracy@vader")
    assert error.value.allowed == "accuracy"
