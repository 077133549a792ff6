"""THE DOOR: everything a plugin author may use, and nothing else is public.

A plugin imports from here (and from `compressor.testing` in its tests). The names are frozen by a test: adding one is an argued
change, taking one away breaks somebody.
"""

from __future__ import annotations

from compressor.artifact import Blueprint, CompressedModel, Form, Head, Step, parameter_count
from compressor.capabilities import Capabilities
from compressor.config import MethodConfig, StudentConfig, TrainConfig
from compressor.context import Context, Plan
from compressor.errors import CompressorError, ConfigError, DataError, Incompatible, MissingExtra, TrainingError
from compressor.families import attention_projections, embeddings, encoder_layers, family
from compressor.method import CompressionMethod
from compressor.students import initial_layers, spread
from compressor.tasks.base import Batch, Task
from compressor.tasks.losses import kl_to_teacher
from compressor.training.signals import FitHook, Loss, LossInputs, Outputs, TeacherSignals

__all__ = [
    "Batch",
    "Blueprint",
    "Capabilities",
    "CompressedModel",
    "CompressionMethod",
    "CompressorError",
    "ConfigError",
    "Context",
    "DataError",
    "FitHook",
    "Form",
    "Head",
    "Incompatible",
    "Loss",
    "LossInputs",
    "MethodConfig",
    "MissingExtra",
    "Outputs",
    "Plan",
    "Step",
    "StudentConfig",
    "Task",
    "TeacherSignals",
    "TrainConfig",
    "TrainingError",
    "attention_projections",
    "embeddings",
    "encoder_layers",
    "family",
    "initial_layers",
    "kl_to_teacher",
    "parameter_count",
    "spread",
]
