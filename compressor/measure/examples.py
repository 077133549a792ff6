"""Examples as JSON lines, the form in which a measuring process receives them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compressor.tasks.base import Example


def write_examples(path: Path, examples: Sequence[Example]) -> Path:
    """Write one example a line and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as stream:
        for example in examples:
            stream.write(json.dumps(asdict(example)) + "\n")
    return path


def read_examples(path: Path) -> list[Example]:
    """Read what `write_examples` wrote; lists become the tuples they were."""
    with path.open(encoding="utf-8") as stream:
        return [Example(**{k: _tuple(v) for k, v in json.loads(line).items()}) for line in stream]


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
