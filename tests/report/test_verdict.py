"""The sentence that a run ends with: every word from a verdict, every number with its interval."""

from __future__ import annotations

from dataclasses import replace

from test_results import make_result

from compressor.report.verdict import headline, typographic, verdicts


def test_the_result_comes_first_and_everything_is_said() -> None:
    first, second = verdicts(make_result())
    assert first == (
        "distill takes 68% of teacher's bytes; is faster on torch (x1.98); cannot be timed on openvino; "
        "whether it keeps accuracy (-1.2 points, 95 % CI -2.0 to -0.3) is not known."
    )
    assert second == "finetune takes 70% of teacher's bytes."
    assert headline(make_result()) == first


def test_every_word_has_its_phrase() -> None:
    result = make_result()
    for word, told in {
        "better": "is better in accuracy (", "worse": "is worse in accuracy (", "equivalent": "keeps accuracy (",
        "faster": "is faster on torch (x1.98)", "slower": "is slower on torch (x1.98)",
    }.items():  # fmt: skip
        judged = replace(result, comparisons=tuple(replace(c, verdict=word) for c in result.comparisons))
        assert told in headline(judged), word
    same = replace(result, comparisons=tuple(replace(c, verdict="equivalent") for c in result.comparisons))
    assert "is as fast on torch" in headline(same)
    assert "may be lost" not in headline(replace(same, comparisons=[replace(c, margin=None) for c in same.comparisons]))
    allowed = replace(same, comparisons=tuple(replace(c, margin=0.043) for c in same.comparisons))
    assert "where 4.3 may be lost)" in headline(allowed)
    unknown = replace(result, comparisons=tuple(replace(c, verdict="inconclusive") for c in result.comparisons))
    assert "whether it is faster on torch (x1.98) is not known" in headline(unknown)


def test_runs_without_a_comparison_say_so() -> None:
    result = make_result()
    alone = replace(result, candidates=result.candidates[:1], comparisons=())
    assert headline(alone) == "teacher was measured alone; there is nothing to compare it with."
    failed = make_result(status="failed(TrainingError: the loss is not finite)", candidates=())
    assert "the loss is not finite" in headline(failed)


def test_signs_of_print_leave_names_alone() -> None:
    assert typographic("x2-3 is x1.98 (-1.2 to +0.3)", ["x2-3"]) == "x2-3 is \u00d71.98 (\u22121.2 to +0.3)"
    assert typographic("CPU-x86, max2") == "CPU-x86, max2"
    assert (
        typographic("-2.1 (-3.7..-0.5), 84.0 +-2.1, 5..7")
        == "\u22122.1 (\u22123.7 to \u22120.5), 84.0 \u00b12.1, 5 to 7"
    )
    assert headline(make_result()).isascii() and "\u00d71.98" in headline(make_result(), ascii_only=False)
