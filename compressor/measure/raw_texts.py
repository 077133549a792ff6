"""Texts for calls that begin with them: a worker tokenises and pads a batch as scoring does, each time it is called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compressor.measure.examples import read_examples
from compressor.measure.workload import Workload, numpy_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compressor.runtimes.base import Inputs
    from compressor.tasks.base import Example, Task


def write_raw_texts(path: Path, tokenizer: Path, task: Task, examples: Path, workload: Workload) -> Path:
    """Write what `RawTexts.load` needs, and return the path.

    Args:
        path: The file.
        tokenizer: The candidate's folder.
        task: Tokenises and pads.
        examples: The split's file.
        workload: Which texts, in which batches.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {
        "tokenizer": str(tokenizer.resolve()),
        "task": asdict(task.config),
        "label_names": list(task.label_names),
        "examples": str(examples.resolve()),
        "batches": workload.batches,
    }
    path.write_text(json.dumps(facts), encoding="utf-8")
    return path


@dataclass(frozen=True, slots=True, kw_only=True)
class RawTexts:
    """Batches of texts in memory, and what makes a model's inputs of them."""

    task: Task
    tokenizer: PreTrainedTokenizerBase
    batches: Sequence[Sequence[Example]]

    @classmethod
    def load(cls, path: Path) -> RawTexts:
        """Read what `write_raw_texts` wrote, and load the tokenizer."""
        from compressor.config import TaskConfig
        from compressor.store import read_tokenizer
        from compressor.tasks import build_task

        facts = json.loads(path.read_text(encoding="utf-8"))
        examples = {e.id: e for e in read_examples(Path(facts["examples"]))}
        return cls(
            task=build_task(TaskConfig(**facts["task"]), tuple(facts["label_names"])),
            tokenizer=read_tokenizer(Path(facts["tokenizer"])),
            batches=[[examples[i] for i in ids] for ids in facts["batches"]],
        )

    def inputs(self, index: int) -> Inputs:
        """Return the tensors of a batch, [B, L] int64 each."""
        examples = self.batches[index]
        return numpy_inputs(self.task.collate(self.tokenizer, examples, self.task.encode(self.tokenizer, examples)))
