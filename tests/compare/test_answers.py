"""The questions: the front, the choice, two candidates side by side."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from run_folders import MACHINE, OTHER_MACHINE, TEACHER, Model, correct, write_run

from compressor.compare import compare, diff, load_runs, pareto, pick
from compressor.compare.front import Place
from compressor.compare.statistics import detectable_difference, mcnemar_p_value
from compressor.errors import ConfigError
from compressor.report.answers import answer_view, contrast_view, front_view, sentence
from compressor.report.comparison import comparison
from compressor.report.views import Format, render, to_csv

TASK = "rotten_tomatoes"


@pytest.fixture
def table(tmp_path: Path):
    """Big is as good as the teacher, middle loses 4 points, little loses 20 and is the smallest and fastest."""
    for layers, model in {
        9: Model(right=343, size_bytes=100_000_000, speeds={"torch": 1.3}),
        6: Model(right=328, size_bytes=60_000_000, speeds={"torch": 2.0}),
        3: Model(right=264, size_bytes=20_000_000, speeds={"torch": 4.0}),
        1: Model(right=200, size_bytes=30_000_000, speeds={"torch": 3.0}),
        2: Model(right=326, size_bytes=61_000_000, speeds={"torch": 1.99}),
    }.items():
        write_run(tmp_path / str(layers), model, settings={"student.layers": layers})
    return compare(load_runs([tmp_path]))


def name(layers: int) -> str:
    return f"distill student.layers={layers}"


def test_the_front_says_what_is_not_certain(table) -> None:
    size, torch, onnx = pareto(table)
    assert (size.against, torch.against, onnx.against) == ("size_bytes", "torch", "onnxruntime")
    for front in (size, torch):
        places = {p.label: p.place for p in front.points}
        assert {places[name(i)] for i in (9, 6, 3)} == {Place.front} and places["teacher"] is Place.front
        assert places[name(1)] is Place.dominated, "worse by 16 points and larger than the one with 3 layers"
        assert places[name(2)] is Place.perhaps, "half a point and a megabyte"
    assert next(p for p in size.points if p.label == name(2)).by == (name(6),)
    assert [p.label for p in onnx.points] == ["teacher"] and len(onnx.left_out) == 5
    text = render(front_view(pareto(table)), Format.terminal)
    assert f"may belong to it: {name(2)}" in text and "left out, not timed here" in text


@pytest.mark.parametrize(
    ("question", "chosen"),
    [
        ({"want": "smallest"}, 3),
        ({"want": "smallest", "within": 5.0}, 6),
        ({"want": "smallest", "within": 1.0}, 9),
        ({"want": "smallest", "keep": 0.95}, 6),
        ({"want": "accurate", "under_mb": 60}, 6),
        ({"want": "accurate", "under_ms": 4.0, "runtime": "torch"}, 3),
        ({"want": "fastest", "keep": 0.95, "runtime": "torch"}, 6),
        ({"want": "fastest", "under_mb": 100, "within": 0.5, "runtime": "torch"}, 9),
    ],
)
def test_the_choice(table, question: dict, chosen: int) -> None:
    answer = pick(table, **question)
    assert answer.chosen is not None and answer.chosen.label == name(chosen)
    assert sentence(answer).startswith(f"Take {name(chosen)} as the ")
    assert answer.closest is None


def test_how_sure_the_choice_is(table) -> None:
    answer = pick(table, "smallest", within=4.0)
    ci = table.row(name(6)).quality[TASK].difference.ci95
    assert answer.chosen.label == name(6) and not answer.chosen.certain
    assert ci.low < -0.04 and answer.chosen.confidence == pytest.approx(0.5, abs=0.02), "the loss is the bound itself"
    assert "50% sure" in sentence(answer) or "51% sure" in sentence(answer) or "49% sure" in sentence(answer)
    sure = pick(table, "smallest", within=10.0)
    assert sure.chosen.label == name(6) and sure.chosen.certain and "that the bound holds is certain" in sentence(sure)
    assert [o.label for o in sure.runners_up] == [name(2), name(9)]
    assert "next come" in sentence(sure)


def test_a_doubtful_timing_is_said_beside_the_choice(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(speeds={"torch": 1.01}, unstable=("the host took 5 % of the time",)))
    table = compare(load_runs(tmp_path))
    fastest = pick(table, "fastest", runtime="torch")
    assert fastest.chosen.doubts == ("against its teacher it is inconclusive", "the host took 5 % of the time")
    assert "but its timing is in doubt: against its teacher it is inconclusive; the host took" in sentence(fastest)
    under = sentence(pick(table, "accurate", under_ms=50, runtime="torch"))
    assert "is certain for that run: milliseconds of another day are others; but its timing is in doubt" in under
    assert pick(table, "smallest").chosen.doubts == () and "doubt" not in sentence(pick(table, "smallest"))
    assert "the host took 5 % of the time" in to_csv(answer_view(fastest)) and "the host took" in to_csv(
        comparison(table)
    )


def test_two_bounds_are_less_sure_than_each(table) -> None:
    both = pick(table, "smallest", within=4.0, keep=0.95)
    one = pick(table, "smallest", within=4.0)
    other = pick(table, "smallest", keep=0.95)
    expected = one.chosen.confidence + other.chosen.confidence - 1
    assert both.chosen.confidence == pytest.approx(max(0.0, expected))


def test_nothing_fits_and_the_closest_is_named(table) -> None:
    answer = pick(table, "smallest", within=1.0, under_mb=50)
    assert answer.chosen is None and answer.closest is not None
    assert sentence(answer).startswith(
        "Nothing is the smallest within 1 point of the teacher and under 50 MB. Closest comes"
    )
    assert pick(table, "smallest", under_mb=19).closest.label == name(3)


def test_ties_are_said(table) -> None:
    answer = pick(table, "fastest", within=6.0, runtime="torch")
    assert answer.chosen.label == name(6) and answer.tied == (name(2),)
    assert f"cannot be told from {name(2)}" in sentence(answer)
    assert pick(table, "accurate", under_mb=61).tied == (name(2),)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"want": "cheapest"}, "pick=cheapest"),
        ({"want": "smallest", "within": -1.0}, "within=-1"),
        ({"want": "smallest", "within": 100.0}, "within=100"),
        ({"want": "smallest", "within": float("nan")}, "within=nan"),
        ({"want": "smallest", "keep": 0.0}, "keep=0"),
        ({"want": "smallest", "keep": 99.0}, "keep=99"),
        ({"want": "smallest", "under_ms": 0.0, "runtime": "torch"}, "under_ms=0"),
        ({"want": "smallest", "under_mb": float("inf")}, "under_mb=inf"),
        ({"want": "smallest", "runtime": "torch"}, "nothing reads it"),
        ({"want": "fastest"}, "no runtime: 2 columns"),
        ({"want": "fastest", "runtime": "tensorrt"}, "runtime=tensorrt: 0 columns"),
        ({"want": "smallest", "task": "sst2"}, "task=sst2"),
    ],
)
def test_a_question_that_cannot_be_meant_is_refused(table, question: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pick(table, **question)


def test_what_cannot_be_judged_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(speeds={"torch": 2.0, "onnxruntime": 0.0}))
    write_run(tmp_path / "b", Model(speeds={"torch": 3.0}), settings={"student.layers": 3}, environment=OTHER_MACHINE)
    found = compare(load_runs([tmp_path]))
    with pytest.raises(ConfigError, match="2 columns") as error:
        pick(found, "fastest", runtime="torch")
    assert "torch@A" in error.value.allowed and "torch@B" in error.value.allowed
    answer = pick(found, "fastest", runtime="torch@B")
    assert answer.chosen.label == "distill student.layers=3"
    assert [why for _, why in answer.left_out] == ["not timed on torch@B"]
    nobody = pick(found, "fastest", runtime="onnxruntime@A")
    assert nobody.chosen is None and nobody.closest is None and "refused by onnxruntime@A" in sentence(nobody)


def test_several_tasks_need_a_name(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(), task="sst2")
    write_run(tmp_path / "b", Model(), task="imdb")
    found = compare(load_runs([tmp_path]))
    with pytest.raises(ConfigError, match="task=None") as error:
        pick(found, "smallest")
    assert error.value.allowed == "sst2, imdb"
    assert pick(found, "smallest", task="imdb").chosen.label == "distill"


def test_side_by_side(table) -> None:
    found = diff(table, name(6), name(3))
    paired = found.quality[TASK]
    first, second = correct(Model(right=328)), correct(Model(right=264))
    only = int((first & ~second).sum()), int((second & ~first).sum())
    assert (paired.only_first, paired.only_second) == only == (64, 0)
    assert paired.flips == 64 and paired.n == 400 and paired.seeds == (0,)
    assert paired.p_value == mcnemar_p_value(*only)
    assert paired.detectable == detectable_difference(400, 64 / 400)
    assert paired.difference == pytest.approx(0.16) and paired.ci95.low < 0.16 < paired.ci95.high
    (speed,) = found.speed
    half = math.hypot(math.log(1.01), math.log(1 / 0.99))
    assert speed.ratio.value == pytest.approx(0.5) and "through the teacher" in speed.how
    assert speed.ratio.ci95.high < 0.5 * math.exp(half * 1.01) and speed.verdict == "slower"
    assert found.options == {"student.layers": (6, 3)}
    assert diff(table, name(3), name(6)).quality[TASK].difference == -paired.difference
    text = render(contrast_view(found), Format.terminal)
    for told in (
        "64 of 400 predictions differ",
        "exact McNemar",
        "this test finds differences from",
        "student.layers: 6",
    ):
        assert told in " ".join(text.split()), told


def test_the_teacher_is_a_side_too(table) -> None:
    found = diff(table, name(6), "teacher")
    assert found.speed[0].ratio.value == pytest.approx(2.0) and found.speed[0].how == "interleaved in one run"


def test_ratios_of_other_machines_and_protocols_stay_in_their_columns(tmp_path: Path) -> None:
    for number, (where, speed) in enumerate(
        [({**MACHINE, "protocol": 5}, 2.0), ({**MACHINE, "protocol": 6}, 3.0), (OTHER_MACHINE, 4.0)]
    ):
        write_run(tmp_path / str(number), Model(speeds={"torch": speed}), environment=where)
    found = diff(compare(load_runs([tmp_path])), "distill", "teacher")
    assert sorted(s.ratio.value for s in found.speed) == pytest.approx([2.0, 3.0, 4.0])
    assert len({s.setting for s in found.speed}) == 3


def test_a_check_that_strayed_is_no_less_doubtful_side_by_side(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(speeds={"torch": 1.05}, spread=0.01, null_ratio=1.045))
    write_run(tmp_path / "b", Model(speeds={"torch": 1.0}, spread=0.001), settings={"student.layers": 3})
    found = compare(load_runs([tmp_path]))
    assert diff(found, "distill", "distill student.layers=3").speed[0].verdict == "inconclusive"


def test_what_one_run_compared_keeps_its_verdict_side_by_side(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model(speeds={"torch": 1.015}))  # judged by the run, whose interval is in raw samples
    found = diff(compare(load_runs([tmp_path])), "distill", "teacher").speed[0]
    assert (found.verdict, found.how) == ("inconclusive", "interleaved in one run")


@pytest.mark.parametrize("pair", [("teacher", "teacher"), ("teacher", "nobody")])
def test_sides_must_be_two_that_exist(table, pair: tuple[str, str]) -> None:
    with pytest.raises(ConfigError):
        diff(table, *pair)


def test_what_two_sides_cannot_share_is_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", Model())
    write_run(
        tmp_path / "b", Model(speeds={"torch": 3.0}), settings={"student.layers": 3}, environment=OTHER_MACHINE,
        ids=range(1, 401),
    )  # fmt: skip
    found = diff(compare(load_runs([tmp_path])), "distill", "distill student.layers=3")
    assert not found.quality and not found.speed
    why = dict(found.not_compared)
    assert "other examples" in why["accuracy on rotten_tomatoes"]
    assert why["speed on rotten_tomatoes, torch"] == "timed under other conditions: machine"
    assert "not compared: " in render(contrast_view(found), Format.terminal)


def test_several_shared_seeds_need_both_examples_and_seeds(tmp_path: Path) -> None:
    for seed, (a, b) in enumerate([(330, 320), (325, 318), (340, 322)]):
        write_run(tmp_path / f"a{seed}", Model(right=a), seed=seed)
        write_run(tmp_path / f"b{seed}", Model(right=b), settings={"student.layers": 3}, seed=seed)
    found = diff(compare(load_runs([tmp_path])), "distill", "distill student.layers=3").quality[TASK]
    assert found.seeds == (0, 1, 2) and found.difference == pytest.approx((10 + 7 + 18) / 3 / 400)
    assert 0.01 < found.p_value < 0.1, "the seeds decide: over the examples p is far below"
    assert found.ci95.low < 0 < found.ci95.high and (found.only_first, found.only_second) == (10, 0)


def test_answers_have_every_format(table) -> None:
    views = [answer_view(pick(table, "smallest", within=5)), contrast_view(diff(table, name(6), name(3)))]
    for view in (*views, front_view(pareto(table))):
        for form in set(Format) - {Format.html}:
            assert render(view, form).strip()
        with pytest.raises(ConfigError, match="only the whole comparison is a page"):
            render(view, Format.html)


def test_a_model_that_nothing_tells_from_another_still_has_an_interval(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", Model(), seed=seed, teacher=TEACHER)
        write_run(tmp_path / f"b{seed}", Model(), settings={"student.layers": 3}, seed=seed)
    found = diff(compare(load_runs([tmp_path])), "distill", "distill student.layers=3").quality[TASK]
    assert found.p_value == 1.0 and found.ci95.low < 0 < found.ci95.high
