"""Which versions of other libraries are installed, and whether they are those that our own package asks for.

Read from the packages' metadata, which costs milliseconds; nothing is imported for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Final

from compressor.errors import WrongVersion

if TYPE_CHECKING:
    from packaging.requirements import Requirement

OURS: Final = "encoder-compressor"


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of those of these distributions that are installed."""
    return {name: version for name in names if (version := _version(name))}


def digest() -> str:
    """Return the SHA-256 of the names and versions of all that is installed."""
    found = {f"{one.name.lower()}=={one.version}" for one in metadata.distributions() if one.name}
    return hashlib.sha256("\n".join(sorted(found)).encode()).hexdigest()


def wrong_version(name: str) -> str | None:
    """Return why an optional library cannot be used as it is installed; None if it can, or is not installed."""
    asked = next((one for one in _asked() if one.name == name), None)
    return None if asked is None else _wrong(asked, _version(name))


def require(names: Collection[str]) -> None:
    """Refuse optional libraries in versions that we do not work with; those that are not installed are left to their users.

    Raises:
        WrongVersion: Each such library, and what installs one that does.
    """
    asked = {one.name: one for one in _asked() if one.name in names}
    _refuse([(one, why) for one in asked.values() if (why := _wrong(one, _version(one.name)))])


def require_base() -> None:
    """Refuse to start on libraries older or newer than our package asks for, or where one is missing.

    Where the code is run without being installed, nothing says what it needs, and nothing is refused.

    Raises:
        WrongVersion: Each such library, and what installs one that does.
    """
    wrong = []
    for one in _asked():
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        found = _version(one.name)
        if why := _wrong(one, found) if found else f"{one.name} is not installed":
            wrong.append((one, why))
    _refuse(wrong)


def _wrong(asked: Requirement, found: str | None) -> str | None:
    if found is None or asked.specifier.contains(found, prereleases=True):
        return None
    return f"{asked.name} {found} is installed, and {_specified(asked)} is needed"


def _refuse(wrong: Sequence[tuple[Requirement, str]]) -> None:
    if wrong:
        asked = [_specified(one) for one, _ in wrong]
        hint = f"pip install {' '.join(repr(text) for text in asked)}"
        raise WrongVersion("; ".join(why for _, why in wrong), allowed=", ".join(asked), hint=hint)


def _specified(asked: Requirement) -> str:
    return f"{asked.name}{asked.specifier}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=1)
def _asked() -> tuple[Requirement, ...]:
    """Return what our package's metadata asks for, extras included."""
    from packaging.requirements import Requirement

    try:
        return tuple(map(Requirement, metadata.requires(OURS) or ()))
    except metadata.PackageNotFoundError:
        return ()
