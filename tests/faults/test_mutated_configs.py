"""A wrong command line costs its user a sentence and no time. `mutations.refuse(300)` tries what stands in no table too."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import mutations  # noqa: E402 - found through the line above
from mutations import Bench, Mutation, drawn, nothing_loads, refuse  # noqa: E402

COUNT = int(os.environ.get("COMPRESSOR_MUTATIONS", "60"))  # 300 take half a minute


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.set_up()


@pytest.mark.parametrize("typed", mutations.VALID, ids=" ".join)
def test_the_lines_that_are_mutated_are_accepted_as_they_are(bench, typed) -> None:
    with nothing_loads():
        bench.start(typed)


def test_wrong_lines_are_refused_by_name_at_once_and_before_anything_is_loaded() -> None:
    found = refuse(COUNT, seed=0)
    assert not found.failures, "\n".join(found.failures)
    assert found.kept == found.tried == COUNT


def test_lines_are_all_different_and_the_same_for_a_seed(bench) -> None:
    first = drawn(300, 0, bench)
    assert first == drawn(300, 0, bench) and first != drawn(300, 1, bench)
    assert len({m.typed for m in first}) == 300
    assert len({m.kind for m in first}) >= 14


def test_a_line_that_is_accepted_or_refused_without_its_name_counts_as_a_failure(bench) -> None:
    assert mutations._fault(Mutation("none", ("seed=1",), ("seed",)), bench) == "accepted"
    assert "does not name" in mutations._fault(Mutation("other", ("seed=-1",), ("train.epochs",)), bench)


def test_a_line_on_whose_way_something_is_loaded_counts_as_a_failure(bench, monkeypatch) -> None:
    from compressor import store

    monkeypatch.setattr(mutations, "require_read", lambda *_: store.load(Path("nowhere")))
    with nothing_loads():
        assert "something was loaded" in mutations._fault(Mutation("none", ("seed=1",), ("seed",)), bench)
