"""The key of a run: what decides its numbers. Two cells with one key are one run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from compressor.config import RunConfig
from compressor.installed import versions
from compressor.keys import NO_RESULT, hash_files, key_of, libraries, own_code, plugin_code
from compressor.machine import chosen
from compressor.method import CompressionMethod
from compressor.pipeline import method_classes
from compressor.registry import Registry
from compressor.runtimes import get_runtime, runtime_for
from compressor.unread import readers

_MEASURING: Final = ("measure", "runtimes", "compare", "timing.py", "assess.py")
_LIBRARIES: Final = ("datasets", "numpy", "scipy", "tokenizers")  # of every run, beside torch and transformers
# Of `bench.device` only the runtimes are left when it was read, and they stand in the key; a licence changes no number.
# `bench.timeout_s` stays: a runtime that gives no answer in time is left out of the result.
_NO_RESULT: Final = {"task": ("accept_licence",), "bench": ("price_per_hour", "device")}


def run_key(config: RunConfig, registry: Registry) -> str:
    """Hash what decides a run: settings, code, the methods' code, libraries, and the content of the files it names.

    Settings that the chain does not read are left out: `method=[]` at three and at six student layers is the teacher twice.
    `device=auto` and `threads=0` enter as what they stand for here, so machines of other kinds make other runs. A dataset
    or model on the Hub enters by its name and revision alone: without a revision, what lies there may change unseen.
    """
    machine = chosen(config)
    methods = _methods(config, registry)
    return key_of(
        {
            "config": {**(values := _deciding(config, registry)), "device": machine.device, "threads": machine.threads},
            "code": [own_code(), own_code(_MEASURING), plugin_code(method_classes(methods))],
            "libraries": {**libraries(), **versions((*_LIBRARIES, *own_libraries(config, registry)))},
            "files": {place: _content(place) for place in sorted(set(_places(values)))},
        }
    )


def own_libraries(config: RunConfig, registry: Registry) -> set[str]:
    """Return the distributions that the run's methods and runtimes compute with, beyond those of every run."""
    wants = [m.capabilities for m in _methods(config, registry)]
    engines = [*map(get_runtime, config.bench.runtimes), *(runtime_for(w.produces) for w in wants)]
    return {name for engine in engines for name in engine.libraries}.union(*(w.libraries for w in wants))


def _methods(config: RunConfig, registry: Registry) -> list[CompressionMethod[Any]]:
    steps = [step for chain in (config.chain, *config.baselines.values()) for step in chain]
    return [registry.get(step.name).method(step.config) for step in steps]


def _deciding(config: RunConfig, registry: Registry) -> dict[str, Any]:
    """Return the settings without those that change no number of this run."""
    values = plain_config(config)
    for section, names in _NO_RESULT.items():
        for name in names:
            del values[section][name]
    # Kept hidden states of the teacher are rounded, so how many fit into memory decides what is learned from them.
    kept = {"cache_gb"} if any("hidden" in m.capabilities.signals for m in _methods(config, registry)) else set()
    for name in NO_RESULT:
        del values["teacher"]["train"][name]
        if name not in kept:
            del values["train"][name]
    for prefix, (is_read, _) in readers(config, registry).items():
        if not is_read:
            _leave_out(values, prefix)
    return values


def _leave_out(values: dict[str, Any], prefix: str) -> None:
    """Remove what a beginning of settings' names covers: `train.` a section, `task.unlabelled` all that begin so."""
    *sections, last = prefix.removesuffix(".").split(".")
    for section in sections:
        values = values.get(section, {})
    for name in [n for n in values if n == last or (n.startswith(last) and not prefix.endswith("."))]:
        del values[name]


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
