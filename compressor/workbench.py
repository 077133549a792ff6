"""The engine's `Context`: what one link of a chain is lent, for real."""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import assets
from compressor.artifact import CompressedModel
from compressor.config import StudentConfig, TaskConfig, TrainConfig
from compressor.context import Context, Plan
from compressor.declared import require_signals, require_text
from compressor.errors import Incompatible, PluginError
from compressor.keys import key_of, libraries, own_code, plugin_code, processes, rows_hash, settings_key, weights_hash
from compressor.pipeline import Link, method_classes, plain
from compressor.students import build_student
from compressor.tasks import build_task
from compressor.tasks.base import Batch, Example, Task
from compressor.tasks.data import TaskData
from compressor.teacher import load_pretrained, task_key
from compressor.tokens import tokenizer_hash
from compressor.training.batching import EncodedSplit, encode_split
from compressor.training.evaluate import evaluate
from compressor.training.loop import fit
from compressor.training.progress import Progress
from compressor.training.signals import FitHook, Loss, TeacherSignals
from compressor.training.state import FitResult
from compressor.training.teacher_cache import TeacherOutputs

if TYPE_CHECKING:
    from torch import nn
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


@dataclass(slots=True)
class Shared:
    """What the links of a run, and the cells of a multirun, need not compute twice."""

    splits: dict[str, EncodedSplit] = field(default_factory=dict)
    teacher_outputs: dict[str, TeacherOutputs] = field(default_factory=dict)

    def split(
        self,
        name: str,
        task: Task,
        data: TaskData,
        tokenizer: PreTrainedTokenizerBase,
        unlabelled: bool,
        extra: Sequence[Example] = (),
    ) -> EncodedSplit:
        """Tokenise a split once for each task and tokenizer."""
        examples: Sequence[Example] = data.train if name == "train" else data.validation
        if unlabelled:
            examples = (*examples, *data.unlabelled)
        examples = (*examples, *extra)
        key = key_of(
            {
                "split": [name, unlabelled, data.fingerprint, *([rows_hash({"extra": extra})] if extra else [])],
                "task": task_key(task),
                "tokenizer": tokenizer_hash(tokenizer),
            }
        )
        if key not in self.splits:
            self.splits[key] = encode_split(task, tokenizer, examples)
        return self.splits[key]


class Workbench(Context):
    """Lends the services of one link; made by the engine, one for each link."""

    def __init__(
        self,
        *,
        links: Sequence[Link],
        position: int,
        teacher: CompressedModel,
        teacher_key: str,
        data: TaskData,
        seed: int,
        threads: int,
        workspace: Path,
        shared: Shared,
        progress: Progress,
    ) -> None:
        self.link = links[position]
        self.plan: Plan = self.link.plan
        self.teacher = teacher
        self.seed = seed
        self.device = self.plan.device
        self.workspace = workspace
        self.logger = logging.getLogger(f"compressor.{self.link.name}")
        self._links = links[: position + 1]
        nth = sum(link.name == self.link.name for link in self._links)
        self._label = self.link.name if nth == 1 else f"{self.link.name} {nth}"  # its curves are not the first one's
        self._teacher_key = teacher_key
        self._data = data
        self._threads = threads
        self._shared = shared
        self._progress = progress
        self._stages: set[str] = set()

    def build_student(self, source: CompressedModel, student: StudentConfig | None = None) -> nn.Module:
        """See `Context.build_student`."""
        if student is not None:
            return build_student(source, student)
        if self.link.method.capabilities.reads_student and self.plan.student.chosen():
            if _narrower(self.plan.student, source.config) and self.plan.student.init is None:
                self.logger.warning("the student is narrower than its source, so it starts from random weights")
            return build_student(source, self.plan.student)
        return copy.deepcopy(source.model)

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
        """See `Context.fit`."""
        wants = self.link.method.capabilities
        require_signals(self.link.name, wants, signals.kinds())
        require_text(self.link.name, wants, has_text=use_unlabelled and bool(self._data.unlabelled))
        if stage in self._stages:
            raise PluginError(
                f"'{self.link.name}' trains two stages named '{stage}', and the second would get the first one's weights",
                hint='fit(..., stage="another name")',
            )
        self._stages.add(stage)
        settings = self._settings(train or self.plan.train)
        tokenizer = tokenizer or self.teacher.tokenizer
        unlabelled = use_unlabelled and bool(self._data.unlabelled)
        extra = self._extra_examples(extra_texts)
        split = self._shared.split("train", self.task, self._data, tokenizer, unlabelled, extra)
        validation = self._shared.split("validation", self.task, self._data, tokenizer, unlabelled=False)
        teacher = self._teacher_outputs(split, signals, tokenizer, settings) if signals else None
        return fit(
            model,
            loss,
            train=split,
            validation=validation,
            settings=settings,
            seed=self.seed,
            stage=stage,
            device=self.device,
            teacher=teacher,
            student_signals=student_signals,
            extra_modules=extra_modules,
            parameter_groups=parameter_groups,
            hooks=hooks,
            checkpoints=assets.cache_root()
            / "stages"
            / self._stage_key(stage, settings, model, [split, validation], unlabelled, teacher, extra),
            progress=self._progress,
            label=self._label if stage == "train" else f"{self._label} {stage}",
            logger=self.logger,
        )

    def _extra_examples(self, texts: Sequence[str]) -> tuple[Example, ...]:
        """Return a method's own texts as unlabelled examples, with ids past those of the task."""
        if texts and (self.task.config.text_pair is not None or self.task.token_level):
            raise PluginError(
                f"method '{self.link.name}' adds texts, and examples of task '{self.task.name}' are not single texts",
                allowed="sentence tasks of one text",
            )
        first = len(self._data.train) + len(self._data.unlabelled)
        return tuple(Example(first + i, text) for i, text in enumerate(texts))

    def _teacher_outputs(
        self, split: EncodedSplit, signals: TeacherSignals, tokenizer: PreTrainedTokenizerBase, settings: TrainConfig
    ) -> TeacherOutputs:
        """Compute the teacher's outputs once for each wish; only the last wish is kept in memory."""
        wish = f"{self._teacher_key} {id(split)} {signals} {settings.cache_gb} {settings.precision}"
        if wish not in self._shared.teacher_outputs:
            self._shared.teacher_outputs.clear()
            self._shared.teacher_outputs[wish] = TeacherOutputs(
                self.teacher.model,
                self.teacher.tokenizer,
                split=split,
                student_tokenizer=tokenizer,
                signals=signals,
                cache_gb=settings.cache_gb,
                precision=settings.precision,
                device=self.device,
                progress=self._progress,
                key=self._outputs_key(split, signals, tokenizer, settings),
            )
        return self._shared.teacher_outputs[wish]

    def _outputs_key(
        self, split: EncodedSplit, signals: TeacherSignals, tokenizer: PreTrainedTokenizerBase, settings: TrainConfig
    ) -> str:
        """Hash everything that decides the teacher's outputs and which of them are kept."""
        return key_of(
            {
                "code": own_code(),
                "libraries": libraries(),
                "teacher": self._teacher_key,
                "texts": rows_hash({"examples": split.examples}),
                "task": task_key(self.task),
                "tokens": [tokens_hash(split), tokenizer_hash(tokenizer)],
                "signals": str(signals),
                "settings": [str(settings.cache_gb), str(settings.precision)],
                "device": self.device,
                "threads": self._threads,
            }
        )

    def _settings(self, settings: TrainConfig) -> TrainConfig:
        """Return the settings without what would do harm: a random embedding table must not be frozen."""
        if not (settings.freeze_embeddings and _embeddings_are_random(self._links)):
            return settings
        self.logger.warning("train.freeze_embeddings is left out: the student's embeddings start from random weights")
        return replace(settings, freeze_embeddings=False)

    def _stage_key(
        self,
        stage: str,
        settings: TrainConfig,
        model: nn.Module,
        splits: Sequence[EncodedSplit],
        unlabelled: bool,
        teacher: TeacherOutputs | None,
        extra: Sequence[Example] = (),
    ) -> str:
        """Hash everything that decides the trained weights: code, plugins' code and libraries included."""
        rows = {"train": self._data.train, "validation": self._data.validation}
        if unlabelled:
            rows["unlabelled"] = self._data.unlabelled
        if extra:
            rows["extra"] = tuple(extra)
        key = key_of(
            {
                "stage": stage,
                "chain": [[link.name, plain(link.method.config), link.plan.student.chosen()] for link in self._links],
                "code": [own_code(), plugin_code(method_classes(link.method for link in self._links))],
                "libraries": libraries(),
                "start": weights_hash(model),
                "teacher": self._teacher_key,
                "data": rows_hash(rows),
                "task": task_key(self.task),
                "tokens": [tokens_hash(split) for split in splits],
                "train": settings_key(settings),
                "kept hidden states": teacher is not None and teacher.keeps_hidden,
                "seed": self.seed,
                "device": self.device,
                "threads": self._threads,
                "processes": processes(),
            }
        )
        return f"{self.link.name}-{key}"

    def batches(self, split: str, tokenizer: PreTrainedTokenizerBase, batch_size: int | None = None) -> Iterator[Batch]:
        """See `Context.batches`."""
        if split not in ("train", "validation"):
            raise PluginError(f"method '{self.link.name}' asks for the {split} split", allowed="train, validation")
        encoded = self._shared.split(split, self.task, self._data, tokenizer, unlabelled=False)
        size = batch_size or self.plan.train.batch_size
        for start in range(0, len(encoded), size):
            yield encoded.batch(range(start, min(start + size, len(encoded)))).to(self.device)

    def calibration_batches(self, tokenizer: PreTrainedTokenizerBase, examples: int) -> Iterator[Batch]:
        """See `Context.calibration_batches`."""
        import numpy as np

        encoded = self._shared.split("train", self.task, self._data, tokenizer, unlabelled=False)
        order = np.random.default_rng(self.seed).permutation(len(encoded))
        for index in order[:examples]:
            yield encoded.batch([int(index)]).to(self.device)

    def unlabelled_texts(self) -> Sequence[str]:
        """See `Context.unlabelled_texts`."""
        require_text(self.link.name, self.link.method.capabilities, has_text=bool(self._data.unlabelled))
        return _texts(self._data.unlabelled)

    def training_texts(self) -> Sequence[str]:
        """See `Context.training_texts`."""
        return _texts(self._data.train)

    def evaluate(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, float]:
        """See `Context.evaluate`."""
        split = self._shared.split("validation", self.task, self._data, tokenizer, unlabelled=False)
        return evaluate(model, split, device=self.device).scores

    def export_onnx(self, source: CompressedModel) -> Path:
        """See `Context.export_onnx`."""
        from compressor.runtimes.export import export_onnx

        return export_onnx(source.model, source.tokenizer, self.workspace / "onnx").parent

    def load_checkpoint(self, checkpoint: str, option: str, *, allow_pickle: bool | None = None) -> CompressedModel:
        """See `Context.load_checkpoint`."""
        return load_pretrained(checkpoint, self.task, replace_head=True, allow_pickle=allow_pickle, option=option)[0]

    def load_masked_lm(self, checkpoint: str, option: str) -> CompressedModel:
        """See `Context.load_masked_lm`."""
        task = build_task(TaskConfig(name="masked_lm", type="masked_lm"), ())
        artifact, trained = load_pretrained(checkpoint, task, option=option)
        if not trained:
            raise Incompatible(
                f"{option}={checkpoint} has no trained masked-LM head",
                allowed="a checkpoint as it was pre-trained with masked words",
            )
        return artifact


def _texts(examples: Sequence[Example]) -> list[str]:
    return [e.text if isinstance(e.text, str) else " ".join(e.text) for e in examples]


def _narrower(student: StudentConfig, source: PretrainedConfig) -> bool:
    return student.hidden_size not in (None, source.hidden_size) or student.heads not in (
        None,
        source.num_attention_heads,
    )


def _embeddings_are_random(links: Sequence[Link]) -> bool:
    """Tell whether the last link's student has embeddings that were drawn and that no link has trained since."""
    drawn = False
    for link in links:
        wants, student = link.method.capabilities, link.plan.student
        if wants.reads_student and student.chosen():
            drawn = drawn or student.init == "random" or _narrower(student, link.source.config)
        if wants.needs_training and link is not links[-1]:
            drawn = False
    return drawn


def tokens_hash(split: EncodedSplit) -> str:
    """Hash what a model sees of a split."""
    digest = hashlib.sha256(split.lengths.tobytes())
    for name, values in sorted(split.flat.items()):
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()
