from __future__ import annotations

from types import SimpleNamespace

import pytest

from compressor.assess import Entry, _require_saved_is_what_was_made, _supported_tasks
from compressor.errors import MeasureError
from compressor.measure.workload import Replay, numpy_inputs
from compressor.testing.house import TinyHouse


@pytest.mark.parametrize(
    ("shift", "exact", "fits"), [(0.0, True, True), (0.01, True, False), (0.01, False, True), (0.2, False, False)]
)
def test_the_saved_model_gives_the_logits_of_the_one_in_memory(tmp_path, shift, exact, fits) -> None:
    """Integers may round the other way in another process; anything more is another model."""
    house = TinyHouse(tmp_path)
    inputs = numpy_inputs(house.batch(house.teacher))
    Replay(inputs=(inputs,), positions=(), expected=(house.logits(house.teacher) + shift,)).save(
        tmp_path / "replay.npz"
    )
    entry = Entry(name="teacher", role="teacher", folder=tmp_path, artifact=house.teacher)
    scored = SimpleNamespace(replay=tmp_path / "replay.npz", exact=exact)
    if fits:
        _require_saved_is_what_was_made(entry, scored)
        return
    with pytest.raises(MeasureError, match="re-loaded from disk gives other logits"):
        _require_saved_is_what_was_made(entry, scored)


def test_a_chain_takes_the_tasks_that_all_its_methods_take() -> None:
    def of(*methods: str) -> tuple[str, ...] | None:
        return _supported_tasks(SimpleNamespace(lineage=[SimpleNamespace(method=name) for name in methods]))

    every = of()
    assert every is not None and {"classification", "masked_lm"} <= set(every), "a teacher is bound by no method"
    assert of("pkd") == ("classification", "regression")
    assert of("distilbert", "pkd", "half") == of("pkd"), "the narrowest one decides"
    assert of("pkd", "no_such_method") is None, "unknown, not none"
