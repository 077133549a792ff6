"""The key of a run: what decides its numbers. Two cells with one key are one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from compressor.config import RunConfig, StudentConfig
from compressor.keys import hash_files, key_of, libraries, own_code, plugin_code
from compressor.pipeline import method_classes
from compressor.registry import Registry

_MEASURING: Final = ("measure", "runtimes", "compare", "timing.py", "assess.py")


def run_key(config: RunConfig, registry: Registry) -> str:
    """Hash what decides a run: settings, code, the methods' code, libraries, and the content of the files it names.

    Settings that the chain does not read are left out: `method=[]` at three and at six student layers is the teacher twice.
    """
    used = replace(config)
    steps = [s for chain in (config.chain, *config.baselines.values()) for s in chain]
    methods = [registry.get(s.name).method(s.config) for s in steps]
    if not any(m.capabilities.reads_student for m in methods):
        used.student = StudentConfig()
    values = plain_config(used)
    del values["bench"]["price_per_hour"]  # decides nothing that is measured
    if not any(m.capabilities.needs_training for m in methods):
        values.pop("train")
    return key_of(
        {
            "config": values,
            "code": [own_code(), own_code(_MEASURING), plugin_code(method_classes(methods))],
            "libraries": libraries(),
            "files": {place: _content(place) for place in sorted(set(_places(values)))},
        }
    )


def plain_config(config: RunConfig) -> dict[str, Any]:
    """Return the typed config as plain values."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(config), default=str))
    return values


def _places(value: object) -> Iterator[str]:
    """Yield every setting that is a file or folder here."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _places(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _places(inner)
    elif isinstance(value, str) and ("/" in value or "." in value) and len(value) < 4096 and Path(value).exists():
        yield value


def _content(place: str) -> str:
    """Hash a file, or all files of a folder; read again only when sizes or times changed."""
    path = Path(place).resolve()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    stamps = tuple((str(p), p.stat().st_size, p.stat().st_mtime_ns) for p in files)
    return _hashed(str(path), stamps)


@lru_cache(maxsize=64)
def _hashed(place: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    path = Path(place)
    root = path if path.is_dir() else path.parent
    return hash_files(root, [Path(name) for name, _, _ in stamps])
