"""A whole run in miniature: tiny teacher, tiny task, the engine's own services, no network and seconds of time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from compressor import pipeline
from compressor.artifact import CompressedModel, Form
from compressor.assets import CACHE_ENV
from compressor.capabilities import Capabilities
from compressor.conduct import Guard, kept
from compressor.config import ChainStep, MethodConfig, StudentConfig, TaskConfig, TrainConfig
from compressor.context import Context, Plan
from compressor.keys import weights_hash
from compressor.method import CompressionMethod
from compressor.pipeline import Link
from compressor.registry import RegisteredMethod, Registry
from compressor.registry import load as load_registry
from compressor.tasks import build_task
from compressor.tasks.data import TaskData
from compressor.teacher import checkpoint_blueprint
from compressor.testing.tiny import tiny_bert, tiny_examples, tiny_tokenizer
from compressor.training.progress import Progress, silent_progress
from compressor.workbench import Shared, Workbench

if TYPE_CHECKING:
    from compressor.tasks.base import Batch

LAYERS = 4
NAME = "checked"  # how the method under test is registered if no entry point names it


class Shorten(CompressionMethod[MethodConfig]):
    """Drop layers, train nothing: a link to put before the method under test."""

    Config = MethodConfig
    capabilities = Capabilities(reads_student=True)
    references = ("none: a test's own method",)

    def compress(self, source: CompressedModel, ctx: Context) -> CompressedModel:
        """Build the student and leave it untrained."""
        return source.evolve(model=ctx.build_student(source))


class QuickBench(Workbench):
    """Exports equal models once a process: the exporter takes seconds, and all checks of a suite ask for the same model."""

    exported: ClassVar[dict[str, bytes]] = {}

    def export_onnx(self, source: CompressedModel) -> Path:
        """See `Context.export_onnx`."""
        inputs = source.tokenizer.model_input_names
        key = f"{type(source.model).__name__} {weights_hash(source.model)} {source.config.to_json_string()} {inputs}"
        folder = self.workspace / "onnx"
        if key not in self.exported:
            self.exported[key] = (super().export_onnx(source) / "model.onnx").read_bytes()
        else:
            folder.mkdir()
            (folder / "model.onnx").write_bytes(self.exported[key])
        return folder


class TinyHouse:
    """Runs methods on a 4-layer random BERT and a toy two-class task, in a folder of its own."""

    def __init__(self, folder: Path, *, layers: int = LAYERS, seed: int = 0) -> None:
        import torch

        self.folder = folder
        self.seed = seed
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        config = TaskConfig(name="toy", type="classification", max_length=32)
        self.task = build_task(config, ("negative", "positive"))
        self.data = TaskData(
            train=tuple(tiny_examples(48)),
            validation=tuple(tiny_examples(16, seed=1)),
            test=tuple(tiny_examples(16, seed=2)),
            fingerprint="toy",
        )
        module = tiny_bert(layers=layers, **self.task.config_overrides()).eval()
        self.teacher = CompressedModel(
            form=Form.torch, config=module.config, tokenizer=tokenizer, head=self.task.head, module=module
        )
        self.train = TrainConfig(epochs=1, batch_size=16, learning_rate=1e-3, checkpoint_seconds=0)
        self._runs = 0

    def registry(self, method: CompressionMethod[Any]) -> Registry:
        """Return the installed methods and the one under test."""
        known = load_registry()
        if all(entry.method is not type(method) for entry in known.methods.values()):
            name = "shorten" if type(method) is Shorten else NAME
            known.methods[name] = RegisteredMethod(
                name=name, method=type(method), distribution="under-test", version="0"
            )
        return known

    def name_of(self, method: CompressionMethod[Any]) -> str:
        """Return the name the method is registered under."""
        found = (n for n, e in self.registry(method).methods.items() if e.method is type(method))
        return next(found)

    def student(self, method: CompressionMethod[Any]) -> StudentConfig:
        """Return half the layers for a method that reads the student settings."""
        return StudentConfig(layers=LAYERS // 2) if method.capabilities.reads_student else StudentConfig()

    def plan(self, student: StudentConfig) -> Plan:
        """Return the plan of a run on the CPU."""
        return Plan(
            teacher=self.teacher.blueprint, task=self.task, student=student, train=self.train, device="cpu",
            has_unlabelled=bool(self.data.unlabelled), find=checkpoint_blueprint,
        )  # fmt: skip

    def check(self, methods: Sequence[CompressionMethod[Any]], student: StudentConfig | None = None) -> list[Link]:
        """Check a chain."""
        registry = self.registry(methods[0])
        for method in methods[1:]:
            registry.methods.update(self.registry(method).methods)
        chain = [ChainStep(name=self.name_of(m), config=m.config) for m in methods]
        return pipeline.check(chain, self.plan(student or self.student(methods[0])), registry)

    def compress(
        self,
        methods: Sequence[CompressionMethod[Any]],
        student: StudentConfig | None = None,
        *,
        bench: type[Workbench] = QuickBench,
        cache: Path | None = None,
        progress: Progress | None = None,
        guard: Guard = kept,
    ) -> CompressedModel:
        """Check a chain and run it from the teacher, with a cache that no other run has touched unless one is given."""
        import torch

        links = self.check(methods, student)
        self._runs += 1
        place = self.folder / f"run-{self._runs}"

        def make_context(position: int, link: Link) -> Workbench:
            torch.manual_seed(self.seed)
            workspace = place / f"workspace-{position}"
            workspace.mkdir(parents=True)
            return bench(
                links=links,
                position=position,
                teacher=self.teacher,
                teacher_key="tiny",
                data=self.data,
                seed=self.seed,
                threads=torch.get_num_threads(),
                workspace=workspace,
                shared=Shared(),
                progress=progress or silent_progress(),
            )

        with cache_at(cache or place / "cache"):
            return pipeline.run(links, self.teacher, make_context, guard)

    def batch(self, artifact: CompressedModel, *, extra_padding: int = 0) -> Batch:
        """Return the test examples as one batch, optionally padded further."""
        features = self.task.encode(artifact.tokenizer, self.data.test)
        batch = self.task.collate(artifact.tokenizer, self.data.test, features)
        if not extra_padding:
            return batch
        import torch

        fill = {"input_ids": artifact.tokenizer.pad_token_id, "token_type_ids": 0, "attention_mask": 0}
        padded = {
            k: torch.cat([v, torch.full((len(v), extra_padding), fill[k], dtype=v.dtype)], dim=1)
            for k, v in batch.inputs.items()
        }
        return replace(batch, inputs=padded)

    def logits(self, artifact: CompressedModel, *, extra_padding: int = 0) -> NDArray[np.float32]:
        """Run the artifact in this process, in the runtime of its form; [B, C]."""
        return run_artifact(artifact, self.batch(artifact, extra_padding=extra_padding))


def run_artifact(artifact: CompressedModel, batch: Batch) -> NDArray[np.float32]:
    """Return an artifact's logits on a batch, whatever its form."""
    import torch

    if artifact.form is Form.torch:
        with torch.inference_mode():
            return np.asarray(artifact.model(**batch.inputs).logits.numpy())
    from compressor.runtimes import runtime_for

    assert artifact.folder is not None
    inputs = {k: v.numpy() for k, v in batch.inputs.items()}
    with runtime_for(artifact.form).load(artifact.folder, artifact.form, threads=1) as session:
        return np.asarray(session.run(inputs))


@contextmanager
def cache_at(folder: Path) -> Iterator[None]:
    """Point `COMPRESSOR_CACHE` at a folder while the block runs."""
    before = os.environ.get(CACHE_ENV)
    os.environ[CACHE_ENV] = str(folder)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(CACHE_ENV)
        else:
            os.environ[CACHE_ENV] = before
