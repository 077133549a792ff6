"""One saved artifact, as the measuring processes are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compressor.artifact import Form


@dataclass(frozen=True, slots=True)
class Candidate:
    """A saved artifact under the name that tables use. The first of several is the one others are compared with."""

    name: str
    folder: Path
    form: Form = Form.torch
