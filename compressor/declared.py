"""What a method is lent is what it declared: from its declaration follow the keys of runs, and what a run is refused for."""

from __future__ import annotations

from collections.abc import Iterable

from compressor.capabilities import Capabilities
from compressor.errors import PluginError


def require_signals(method: str, declared: Capabilities, kinds: Iterable[str]) -> None:
    """Refuse teacher signals of kinds that the method does not declare.

    Raises:
        PluginError: There are some.
    """
    if undeclared := set(kinds) - declared.signals:
        raise PluginError(
            f"method '{method}' asks for teacher signals it does not declare: {', '.join(sorted(undeclared))}",
            hint="add them to Capabilities.signals",
        )


def require_text(method: str, declared: Capabilities, *, has_text: bool) -> None:
    """Refuse the transfer text, where there is some, to a method that does not say that it reads it.

    Raises:
        PluginError: It would read it, and runs with other text would pass for its duplicates.
    """
    if has_text and not declared.may_read_unlabelled_text:
        raise PluginError(
            f"method '{method}' reads the transfer text and does not declare it",
            hint="Capabilities(reads_unlabelled_text=True)",
        )
