"""Readers of the published formats, on a few lines each."""

from __future__ import annotations

import pytest

from compressor.assets import readers
from compressor.assets.readers import Pair, Review, Tagged
from compressor.errors import DataError


def test_reviews_are_taken_by_source_and_quoting_is_understood() -> None:
    data = b'text,label,source\r\n" said ""no"" ,\nok ",1,a\r\nother,0,b\r\n'
    assert readers.reviews(data, "a") == [Review('said "no" ,\nok', 1)]
    assert readers.reviews(data, "b") == [Review("other", 0)]


def test_line_breaks_become_one_space() -> None:
    rows = [Review("One.<br /><br/>Two  <HR>three <b>", 1)]
    assert readers.without_line_breaks(rows) == [Review("One. Two three <b>", 1)]


def test_vader_is_positive_above_zero_only() -> None:
    data = b"1\t0.1\tGood &amp; fine\r\n2\t0.0\tNeither\r\n3\t-2\tBad\r\n"
    assert readers.vader_movies(data) == [
        Review("Good & fine", 1),
        Review("Neither", 0),
        Review("Bad", 0),
    ]


def test_sts_lines_with_two_more_columns_are_cut() -> None:
    data = b'g\tf\ty\t1\t2.5\tA "plane.\tB.\ng\tf\ty\t2\t0\tC.\tD.\tlicence\tsource\n'
    assert readers.sts(data) == [Pair('A "plane.', "B.", 2.5), Pair("C.", "D.", 0.0)]


def test_conll_skips_document_marks_and_keeps_order() -> None:
    data = b"-DOCSTART- -X- -X- O\n\nEU NNP B-NP B-ORG\n. . O O\n\n\nPeter NNP B-NP B-PER\n"
    assert readers.conll(data) == [
        Tagged(["EU", "."], ["B-ORG", "O"]),
        Tagged(["Peter"], ["B-PER"]),
    ]


def test_the_split_depends_on_the_text_alone() -> None:
    rows = [Review(f"sentence number {number}", number % 2) for number in range(2000)]
    forward = readers.by_content_hash(rows)
    backward = readers.by_content_hash([row._replace(text=row.text.upper()) for row in rows[::-1]])
    assert {name: len(part) for name, part in forward.items()} == {name: len(part) for name, part in backward.items()}
    assert sum(map(len, forward.values())) == 2000
    assert len(forward["train"]) == pytest.approx(1500, abs=80)
    assert len(forward["test"]) == pytest.approx(300, abs=60)


def test_repeats_go_and_contradictions_are_refused() -> None:
    rows = [Review("A", 1), Review("b", 0), Review(" a", 1)]
    assert readers.distinct(rows) == rows[:2]
    with pytest.raises(DataError, match="two labels"):
        readers.distinct([Review("A", 1), Review("a", 0)])


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("The 21st Century's new ''Conan''", 'the 21st century\'s new " conan "'),
        ("PB&amp; J sandwich", "pb& j sandwich"),
        ("can't do", "can&#8217 ; t do"),
        ("too tepid", "too-tepid"),
    ],
)
def test_copies_in_other_typography_are_the_same(one: str, other: str) -> None:
    assert readers.normalised(one) == readers.normalised(other)
    assert readers.unseen([Review(one, 1)], [Review(other, 1)]) == []
    assert readers.unseen([Review(one, 1)], [Review("else", 1)]) == [Review(one, 1)]


def test_sentences_are_cut_filtered_and_ordered_by_hash() -> None:
    texts = [
        'Mr. J. Smith was good in this one. He said "it was all fine." Then we all went home!',
        "Too short. This sentence is among the excluded ones. Then we all went home!",
        "word " * 61 + ".",
    ]
    excluded = {readers.normalised("this sentence is among the excluded ones")}
    found = readers.sentences(texts, excluded=excluded)
    assert set(found) == {
        "Mr. J. Smith was good in this one.",
        'He said "it was all fine."',
        "Then we all went home!",
    }
    assert found == readers.sentences(texts[::-1], excluded=excluded)
