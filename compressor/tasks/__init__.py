"""Task types by name. A new type is a file beside these and a line below; nothing else knows them."""

from __future__ import annotations

from compressor.config import TaskConfig
from compressor.errors import ConfigError
from compressor.tasks.base import Task
from compressor.tasks.classification import Classification
from compressor.tasks.masked_lm import MaskedLM
from compressor.tasks.regression import Regression
from compressor.tasks.token_classification import TokenClassification

TASK_TYPES: dict[str, type[Task]] = {t.type: t for t in (Classification, Regression, TokenClassification, MaskedLM)}


def task_type(name: str) -> type[Task]:
    """Look up a task type.

    Raises:
        ConfigError: No such type.
    """
    if name not in TASK_TYPES:
        raise ConfigError(f"task.type={name}", allowed=", ".join(TASK_TYPES))
    return TASK_TYPES[name]


def build_task(config: TaskConfig, label_names: tuple[str, ...]) -> Task:
    """Bind a task type to its settings and the label names found in the data."""
    return task_type(config.type)(config, label_names)
