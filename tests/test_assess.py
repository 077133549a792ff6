from __future__ import annotations

from types import SimpleNamespace

from compressor.assess import _supported_tasks


def test_a_chain_takes_the_tasks_that_all_its_methods_take() -> None:
    def of(*methods: str) -> tuple[str, ...] | None:
        return _supported_tasks(SimpleNamespace(lineage=[SimpleNamespace(method=name) for name in methods]))

    every = of()
    assert every is not None and {"classification", "masked_lm"} <= set(every), "a teacher is bound by no method"
    assert of("pkd") == ("classification", "regression")
    assert of("distilbert", "pkd", "half") == of("pkd"), "the narrowest one decides"
    assert of("pkd", "no_such_method") is None, "unknown, not none"
