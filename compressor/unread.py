"""A setting that nobody reads is an error: the run would not be what was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from compressor.assets import model_names
from compressor.config import RunConfig
from compressor.errors import ConfigError
from compressor.published import is_of_the_hub
from compressor.registry import Registry


def readers(config: RunConfig, registry: Registry) -> dict[str, tuple[bool, str]]:
    """Return, for beginnings of settings' names, whether this run reads them, and who would.

    Raises:
        ConfigError: The chain or a baseline names an unknown method.
    """
    steps = [step for chain in (config.chain, *config.baselines.values()) for step in chain]
    wants = [registry.get(step.name).method(step.config).capabilities for step in steps]
    names = {step.name for step in steps}
    return {
        "student.": (any(w.reads_student for w in wants), _names(registry, "reads_student")),
        "train.": (any(w.needs_training for w in wants), _names(registry, "needs_training")),
        "task.unlabelled": (
            any(w.may_read_unlabelled_text for w in wants),
            _names(registry, "may_read_unlabelled_text"),
        ),
        "task.unlabelled_limit": (config.task.unlabelled is not None, "task.unlabelled=..."),
        "task.subset": (config.task.source == "hub", "task.source=hub"),
        "task.revision": (config.task.source == "hub", "task.source=hub"),
        "cell.": (False, "a multirun: -m"),
        "bench.throughput_batch": (config.bench.throughput, "bench.throughput=true"),
        "teacher.revision": (is_of_the_hub(config.teacher.checkpoint), "a Hub id as teacher.checkpoint"),
        "teacher.allow_pickle": (
            config.teacher.checkpoint not in model_names(),
            "a folder or a Hub id as teacher.checkpoint",
        ),
        **{f"method.{m}.": (m in names, f"a chain or baseline with {m}") for m in registry.methods},
    }


def require_read(overrides: Sequence[str], config: RunConfig, registry: Registry) -> None:
    """Refuse typed settings that neither the chain nor a baseline reads.

    Not called for the cells of a multirun, where another cell may read what this one does not.

    Raises:
        ConfigError: The first such setting, and what would read it.
    """
    asked = {
        **readers(config, registry),
        "tracking.": (bool({"tracking=wandb", "tracking.kind=wandb"} & set(overrides)), "tracking=wandb"),
        "bench.device": (
            not any(o.startswith("bench.runtimes=") and o != "bench.runtimes=[auto]" for o in overrides),
            "bench.runtimes=[auto]",
        ),
    }
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        for prefix, (is_read, reader) in asked.items():
            if key.startswith(prefix) and not is_read and value != "null":
                chain = ",".join(step.name for step in config.chain)
                raise ConfigError(
                    f"{override}: nothing in the chain [{chain}] reads it", allowed=reader, hint="leave it out"
                )


def _names(registry: Registry, capability: str) -> str:
    found = sorted(n for n, e in registry.methods.items() if getattr(e.method.capabilities, capability))
    return f"a chain or baseline with one of {', '.join(found)}"
