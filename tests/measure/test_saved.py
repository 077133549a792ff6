from __future__ import annotations

from types import SimpleNamespace

import pytest

from compressor.errors import MeasureError
from compressor.measure.saved import require_saved_is_what_was_made
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
    candidate = SimpleNamespace(name="teacher")
    scored = SimpleNamespace(candidate=candidate, replay=tmp_path / "replay.npz", exact=exact)
    if fits:
        require_saved_is_what_was_made(house.teacher, scored)
        return
    with pytest.raises(MeasureError, match="re-loaded from disk gives other logits"):
        require_saved_is_what_was_made(house.teacher, scored)
