"""For plugin authors' tests: every promise of the contract as one named pytest check.

from compressor.testing import parametrize_with_checks

@parametrize_with_checks([MyMethod(MyConfig())])
def test_promises(method, check, tmp_path):
    check(method, tmp_path)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from compressor.method import CompressionMethod


def parametrize_with_checks(
    methods: Sequence[CompressionMethod[Any]], *, expected_failures: Mapping[str, str] | None = None
) -> Callable[..., Any]:
    """Return a pytest decorator that runs every check on every method.

    Args:
        methods: Instances, so that one class can be checked under several configs.
        expected_failures: Check name -> reason; strict, a check that passes after all is an error.
    """
    import pytest

    cases = []
    for method in methods:
        for name, check in bound_checks().items():
            reason = (expected_failures or {}).get(name)
            marks = [pytest.mark.xfail(reason=reason, strict=True)] if reason else []
            cases.append(pytest.param(method, check, id=f"{type(method).__name__}-{name}", marks=marks))
    return pytest.mark.parametrize(("method", "check"), cases)


def bound_checks() -> dict[str, Callable[[CompressionMethod[Any], Path], None]]:
    """Return name -> a function that runs one check in a folder."""
    from compressor.testing.checks import CHECKS, Check
    from compressor.testing.house import TinyHouse

    def bind(check: Check) -> Callable[[CompressionMethod[Any], Path], None]:
        return lambda method, folder: check(method, TinyHouse(folder))

    return {check.__name__.removeprefix("check_"): bind(check) for check in CHECKS}


def check_method(method: CompressionMethod[Any], folder: Path) -> None:
    """Run every check in a script; the first broken promise raises AssertionError."""
    for name, check in bound_checks().items():
        place = folder / name
        place.mkdir(parents=True)
        check(method, place)
