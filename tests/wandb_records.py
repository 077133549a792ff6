"""Reads what W&B's library wrote for a run, as its own sync would send it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def records(place: Path) -> list[Any]:
    """Read the log that W&B's own sync would send: LevelDB's log format after a header of 7 bytes, a protobuf a record."""
    from wandb.proto import wandb_internal_pb2 as pb

    data = next(place.rglob("*.wandb")).read_bytes()
    assert data[:4] == b":W&B"
    found, parts, at = [], b"", 7
    while at + 7 <= len(data):
        room = 32768 - at % 32768
        if room < 7:
            at += room
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = pb.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def begun(found: list[Any]) -> Any:
    """Return the run that records are of."""
    return next(r.run for r in found if r.WhichOneof("record_type") == "run")


def summary(found: list[Any]) -> dict[str, Any]:
    """Return the last value of each number of the summary."""
    values = {}
    for record in (r for r in found if r.WhichOneof("record_type") == "summary"):
        values |= {item.key: json.loads(item.value_json) for item in record.summary.update}
    return values
