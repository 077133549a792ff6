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
from compressor.families import (
    attention_projections,
    embeddings,
    encoder_layers,
    family,
    ffn_size_name,
    forward_inputs,
    pick_layers,
    reserved_positions,
)
from compressor.method import CompressionMethod
from compressor.quantised import linears_outside, quantised_share
from compressor.runtimes import onnx_graph
from compressor.students import initial_layers, spread
from compressor.surgery import (
    LayerParts,
    encoder_linears,
    head_count,
    head_size,
    heads_can_go,
    keep_heads,
    keep_neurons,
    layer_parts,
    layers_can_go,
    matched_heads,
    neuron_count,
    neurons_can_go,
    settle_width,
)
from compressor.tasks.base import Batch, Task
from compressor.tasks.losses import kl_to_teacher
from compressor.training.augment import replace_words
from compressor.training.factors import start_embeddings
from compressor.training.gates import draw_batches, gate_gradients
from compressor.training.imitation import Imitation, relative_error
from compressor.training.moments import input_moments
from compressor.training.narrowing import Narrowed, narrow_weights
from compressor.training.refit import Block, refit_outputs
from compressor.training.signals import FitHook, Loss, LossInputs, Outputs, TeacherSignals
from compressor.training.sparsity import cubic, smallest
from compressor.training.starts import copy_head, dropout_of, embedding_tables, fold_embeddings
from compressor.training.turns import LayerTurns, grad_flags_kept

__all__ = [
    "Batch",
    "Block",
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
    "Imitation",
    "Incompatible",
    "LayerParts",
    "LayerTurns",
    "Loss",
    "LossInputs",
    "MethodConfig",
    "MissingExtra",
    "Narrowed",
    "Outputs",
    "Plan",
    "Step",
    "StudentConfig",
    "Task",
    "TeacherSignals",
    "TrainConfig",
    "TrainingError",
    "attention_projections",
    "copy_head",
    "cubic",
    "draw_batches",
    "dropout_of",
    "embedding_tables",
    "embeddings",
    "encoder_layers",
    "encoder_linears",
    "family",
    "ffn_size_name",
    "fold_embeddings",
    "forward_inputs",
    "gate_gradients",
    "grad_flags_kept",
    "head_count",
    "head_size",
    "heads_can_go",
    "initial_layers",
    "input_moments",
    "keep_heads",
    "keep_neurons",
    "kl_to_teacher",
    "layer_parts",
    "layers_can_go",
    "linears_outside",
    "matched_heads",
    "narrow_weights",
    "neuron_count",
    "neurons_can_go",
    "onnx_graph",
    "parameter_count",
    "pick_layers",
    "quantised_share",
    "refit_outputs",
    "relative_error",
    "replace_words",
    "reserved_positions",
    "settle_width",
    "smallest",
    "spread",
    "start_embeddings",
]
