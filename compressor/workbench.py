"""The engine's `Context`: what one link of a chain is lent, for real."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressor import __version__, assets
from compressor.artifact import CompressedModel
from compressor.config import StudentConfig, TrainConfig
from compressor.context import Context, Plan
from compressor.errors import PluginError
from compressor.pipeline import Link, plain
from compressor.students import build_student
from compressor.tasks.base import Batch, Example, Task
from compressor.tasks.data import TaskData
from compressor.teacher import load_pretrained
from compressor.training.batching import EncodedSplit, encode_split
from compressor.training.evaluate import evaluate
from compressor.training.loop import fit
from compressor.training.progress import Progress
from compressor.training.signals import FitHook, Loss, TeacherSignals
from compressor.training.state import FitResult
from compressor.training.teacher_cache import TeacherOutputs

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerBase


@dataclass(slots=True)
class Shared:
    """What the links of a run, and the cells of a multirun, need not compute twice."""

    splits: dict[tuple[str, str, str], EncodedSplit] = field(default_factory=dict)
    teacher_outputs: dict[str, TeacherOutputs] = field(default_factory=dict)

    def split(
        self, name: str, task: Task, data: TaskData, tokenizer: PreTrainedTokenizerBase, unlabelled: bool
    ) -> EncodedSplit:
        """Tokenise a split once for each vocabulary."""
        examples: Sequence[Example] = data.train if name == "train" else data.validation
        if unlabelled:
            examples = (*examples, *data.unlabelled)
        key = (f"{name}{'+unlabelled' * unlabelled}", data.fingerprint, vocabulary_hash(tokenizer))
        if key not in self.splits:
            self.splits[key] = encode_split(task, tokenizer, examples)
        return self.splits[key]


def vocabulary_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash the vocabulary; two tokenizers of one family and one vocabulary cut alike."""
    text = type(tokenizer).__name__ + json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


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
        self._teacher_key = teacher_key
        self._data = data
        self._threads = threads
        self._shared = shared
        self._progress = progress

    def build_student(self, source: CompressedModel) -> nn.Module:
        """See `Context.build_student`."""
        if self.link.method.capabilities.reads_student and self.plan.student.chosen():
            if _narrower(self.plan.student, source) and self.plan.student.init is None:
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
        tokenizer: PreTrainedTokenizerBase | None = None,
        extra_modules: Mapping[str, nn.Module] | None = None,
        parameter_groups: Sequence[Mapping[str, Any]] | None = None,
        hooks: Sequence[FitHook] = (),
        train: TrainConfig | None = None,
    ) -> FitResult:
        """See `Context.fit`."""
        undeclared = signals.kinds() - self.link.method.capabilities.signals
        if undeclared:
            raise PluginError(
                f"method '{self.link.name}' asks for teacher signals it does not declare: {', '.join(sorted(undeclared))}",
                hint="add them to Capabilities.signals",
            )
        settings = train or self.plan.train
        tokenizer = tokenizer or self.teacher.tokenizer
        unlabelled = use_unlabelled and bool(self._data.unlabelled)
        split = self._shared.split("train", self.task, self._data, tokenizer, unlabelled)
        return fit(
            model,
            loss,
            train=split,
            validation=self._shared.split("validation", self.task, self._data, tokenizer, unlabelled=False),
            settings=settings,
            seed=self.seed,
            stage=stage,
            device=self.device,
            teacher=self._teacher_outputs(split, signals, tokenizer, settings) if signals else None,
            student_signals=student_signals,
            extra_modules=extra_modules,
            parameter_groups=parameter_groups,
            hooks=hooks,
            checkpoints=assets.cache_root() / "stages" / self._stage_key(stage, settings, unlabelled),
            progress=self._progress,
            label=self.link.name if stage == "train" else f"{self.link.name} {stage}",
            logger=self.logger,
        )

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
            )
        return self._shared.teacher_outputs[wish]

    def _stage_key(self, stage: str, settings: TrainConfig, unlabelled: bool) -> str:
        """Hash everything that decides the trained weights, our code included."""
        text = json.dumps(
            {
                "stage": stage,
                "chain": [[link.name, plain(link.method.config), link.plan.student.chosen()] for link in self._links],
                "code": code_hash(self._links),
                "teacher": self._teacher_key,
                "data": self._data.fingerprint,
                "unlabelled": unlabelled,
                "train": {k: str(v) for k, v in asdict(settings).items()},
                "seed": self.seed,
                "device": self.device,
                "threads": self._threads,
            },
            sort_keys=True,
        )
        return f"{self.link.name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}"

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
        return [e.text if isinstance(e.text, str) else " ".join(e.text) for e in self._data.unlabelled]

    def evaluate(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> Mapping[str, float]:
        """See `Context.evaluate`."""
        split = self._shared.split("validation", self.task, self._data, tokenizer, unlabelled=False)
        return evaluate(model, split, device=self.device).scores

    def export_onnx(self, source: CompressedModel) -> Path:
        """See `Context.export_onnx`."""
        from compressor.runtimes.export import export_onnx

        return export_onnx(source.model, source.tokenizer, self.workspace / "onnx").parent

    def load_checkpoint(self, checkpoint: str) -> CompressedModel:
        """See `Context.load_checkpoint`."""
        return load_pretrained(checkpoint, self.task, replace_head=True)[0]


def _narrower(student: StudentConfig, source: CompressedModel) -> bool:
    return student.hidden_size not in (None, source.config.hidden_size) or student.heads not in (
        None,
        source.config.num_attention_heads,
    )


def code_hash(links: Sequence[Link]) -> str:
    """Hash our version, the code that trains and the code of the methods, so that no stage outlives its recipe."""
    root = Path(__file__).parent
    files = sorted((*root.glob("training/*.py"), *root.glob("tasks/*.py"), root / "students.py"))
    files += [Path(inspect.getfile(type(link.method))) for link in links]
    digest = hashlib.sha256(__version__.encode())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
