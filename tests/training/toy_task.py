"""A toy task, a tiny student and a tiny teacher."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import torch

from compressor.config import Precision, TaskConfig, TrainConfig
from compressor.tasks import build_task
from compressor.testing.tiny import tiny_bert, tiny_examples, tiny_tokenizer
from compressor.training.batching import encode_split
from compressor.training.loop import fit
from compressor.training.progress import silent_progress
from compressor.training.session import label_loss
from compressor.training.signals import TeacherSignals
from compressor.training.teacher_cache import TeacherOutputs

NAMES = {"classification": ("no", "yes"), "token_classification": ("O", "B-X"), "regression": ()}


def sha256_of(model) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


def distillation_loss(inputs):
    return {
        "soft": inputs.task.soft_loss(inputs.logits, inputs.teacher_logits, inputs.batch),
        "hard": inputs.task.hard_loss(inputs.logits, inputs.batch),
    }


@dataclass
class Toy:
    """A task with its data; `fit` trains a fresh student on it."""

    kind: str = "classification"
    examples: int = 96
    settings: TrainConfig = field(
        default_factory=lambda: TrainConfig(
            epochs=2, batch_size=16, learning_rate=3e-3, precision=Precision.fp32, checkpoint_seconds=1e9
        )
    )

    def __post_init__(self) -> None:
        self.task = build_task(TaskConfig(name="toy", type=self.kind, max_length=32), NAMES[self.kind])
        self.tokenizer = tiny_tokenizer()
        self.train = encode_split(self.task, self.tokenizer, tiny_examples(self.examples, kind=self.kind))
        self.validation = encode_split(self.task, self.tokenizer, tiny_examples(32, seed=1, kind=self.kind))

    def model(self, layers: int = 2, seed: int = 0, **options):
        torch.manual_seed(seed)
        tokens = self.kind == "token_classification"
        return tiny_bert(layers, tokens=tokens, **self.task.config_overrides(), **options)

    def teacher(self, signals: TeacherSignals, **options) -> TeacherOutputs:
        options = {"precision": Precision.fp32, "student_tokenizer": self.tokenizer, "split": self.train} | options
        return TeacherOutputs(self.model(3, seed=7).eval(), self.tokenizer, signals=signals, **options)

    def fit(self, model=None, loss=label_loss, *, options=None, **changes):
        model = model or self.model()
        settings = replace(self.settings, **changes)
        result = fit(
            model,
            loss,
            train=self.train,
            validation=self.validation,
            settings=settings,
            **{"progress": silent_progress(), **(options or {})},
        )
        return model, result
