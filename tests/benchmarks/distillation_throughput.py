"""How fast is a distillation: our loop against the stock trainer of transformers with a distillation loss.

Both train the same 6-layer student of the same 12-layer teacher on the same sentences with the same batch size and
optimizer, and pad to the longest text of a batch. "like for like" also shares dropout, loss (hard + soft) and trained
weights; "distill's recipe" is what `method=distill` does by default: no dropout, word embeddings frozen, soft targets
and the hidden states of six layers. Counted are real tokens of the
training texts a second, teacher included: ours runs it once, theirs in each step. The arms alternate, so that a busy
machine meets all of them.

    python tests/benchmarks/distillation_throughput.py                      # the default model and data, fetched once
    python tests/benchmarks/distillation_throughput.py --model FOLDER --table FILE.parquet --examples 800 --repeats 2

`--cpu-time` counts processor seconds instead of the clock, which a busy machine disturbs less (with --threads 1).
"""

from __future__ import annotations

import argparse
import copy
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
import transformers
from torch import nn

from compressor import assets
from compressor.config import Precision, TaskConfig, TrainConfig
from compressor.students import spread
from compressor.tasks import build_task
from compressor.tasks.base import Example
from compressor.training.batching import encode_split
from compressor.training.loop import fit
from compressor.training.progress import silent_progress
from compressor.training.signals import LossInputs, TeacherSignals
from compressor.training.teacher_cache import TeacherOutputs
from compressor_plugins.distill import DistillConfig, hidden_distance

LEARNING_RATE = 1e-4


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of the teacher's encoder (default: e5-small, fetched)")
    parser.add_argument("--table", type=Path, help="parquet with columns text and label (default: rotten_tomatoes)")
    parser.add_argument("--examples", type=int, default=0, help="training sentences; 0 is all of them")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--layers", type=int, default=6, help="of the student")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--threads", type=int, default=0, help="0 is torch's own choice")
    parser.add_argument("--cpu-time", action="store_true", help="count processor seconds instead of the clock")
    return parser.parse_args()


def read_examples(path: Path | None, limit: int) -> list[Example]:
    table = pq.read_table(path or assets.fetch_table("rotten_tomatoes")["train"], columns=["text", "label"])
    rows = table.to_pylist()[: limit or None]
    return [Example(i, row["text"], label=int(row["label"])) for i, row in enumerate(rows)]


def distillation_loss(inputs: LossInputs) -> dict[str, torch.Tensor]:
    return {
        "soft": inputs.task.soft_loss(inputs.logits, inputs.teacher_logits, inputs.batch),
        "hard": inputs.task.hard_loss(inputs.logits, inputs.batch),
    }


def recipe_loss(inputs: LossInputs, pairs: dict[int, int]) -> dict[str, torch.Tensor]:
    options = DistillConfig()
    distances = [
        hidden_distance(
            inputs.student.hidden[own][inputs.mask], inputs.teacher.hidden[their][inputs.mask], options.hidden_loss
        )
        for own, their in pairs.items()
    ]
    soft = inputs.task.soft_loss(inputs.logits, inputs.teacher_logits, inputs.batch, options.temperature)
    return {"soft": soft, "hidden": options.hidden_weight * torch.stack(distances).mean()}


class Bench:
    """The models and texts that both arms share."""

    def __init__(self, options: argparse.Namespace) -> None:
        folder = options.model or assets.fetch_model("e5-small")
        self.options = options
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.task = build_task(TaskConfig(max_length=128), ("negative", "positive"))
        torch.manual_seed(0)
        self.teacher = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
        self.split = encode_split(self.task, self.tokenizer, read_examples(options.table, options.examples))
        self.validation = encode_split(self.task, self.tokenizer, self.split.examples[:32])
        self.tokens = self.split.tokens * options.epochs
        self.clock: Callable[[], float] = time.process_time if options.cpu_time else time.perf_counter

    def student(self) -> nn.Module:
        student = copy.deepcopy(self.teacher)
        layers = student.bert.encoder.layer
        stride = len(layers) // self.options.layers
        student.bert.encoder.layer = nn.ModuleList(layers[i] for i in range(stride - 1, len(layers), stride))
        student.config.num_hidden_layers = self.options.layers
        return student

    def ours(self, precision: Precision, *, recipe: bool = False) -> float:
        """Return the tokens a second of our loop: the teacher's pass, all epochs, the checkpoints and validation."""
        settings = TrainConfig(
            epochs=self.options.epochs,
            batch_size=self.options.batch_size,
            learning_rate=LEARNING_RATE,
            precision=precision,
            freeze_embeddings=recipe,
        )
        student = self.student()
        pairs = dict(enumerate(spread(self.teacher.config.num_hidden_layers, self.options.layers))) if recipe else {}
        if recipe:
            for layer in student.modules():
                if isinstance(layer, nn.Dropout):
                    layer.p = 0.0
        with tempfile.TemporaryDirectory() as folder:
            start = self.clock()
            teacher = TeacherOutputs(
                self.teacher,
                self.tokenizer,
                split=self.split,
                student_tokenizer=self.tokenizer,
                signals=TeacherSignals(logits=True, hidden=tuple(pairs.values())),
                precision=precision,
            )
            fit(
                student,
                (lambda inputs: recipe_loss(inputs, pairs)) if recipe else distillation_loss,
                student_signals=TeacherSignals(hidden=tuple(pairs)),
                train=self.split,
                validation=self.validation,
                settings=settings,
                teacher=teacher,
                checkpoints=Path(folder) / "stage",
                progress=silent_progress(),
            )
            return self.tokens / (self.clock() - start)

    def stock(self, bf16: bool) -> float:
        """Return the tokens a second of transformers' Trainer with the teacher in its loss."""
        teacher, task = self.teacher, self.task

        class Distilling(transformers.Trainer):
            def compute_loss(self, model: nn.Module, inputs: Any, return_outputs: bool = False, **rest: Any) -> Any:
                with torch.no_grad():
                    texts = {k: v for k, v in inputs.items() if k != "labels"}
                    theirs = teacher(**texts).logits
                outputs = model(**inputs)
                loss = outputs.loss + task.soft_loss(outputs.logits, theirs, None)  # type: ignore[arg-type]
                return (loss, outputs) if return_outputs else loss

        with tempfile.TemporaryDirectory() as folder:
            settings = transformers.TrainingArguments(
                folder,
                per_device_train_batch_size=self.options.batch_size,
                num_train_epochs=self.options.epochs,
                learning_rate=LEARNING_RATE,
                bf16=bf16,
                use_cpu=not torch.cuda.is_available(),
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
            )
            trainer = Distilling(
                model=self.student(),
                args=settings,
                train_dataset=list(self.split.features),
                data_collator=transformers.DataCollatorWithPadding(self.tokenizer),
            )
            start = self.clock()
            trainer.train()
            return self.tokens / (self.clock() - start)


def main() -> None:
    options = arguments()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options)
    unit = "processor" if options.cpu_time else "clock"
    print(f"{len(bench.split)} sentences, {bench.tokens:,} tokens in {options.epochs} epochs, ", end="")
    print(f"{torch.get_num_threads()} threads, {unit} seconds, torch {torch.__version__}")
    arms: dict[str, Callable[[], float]] = {
        "ours, distill's recipe": lambda: bench.ours(Precision.auto, recipe=True),
        "ours, like for like": lambda: bench.ours(Precision.auto),
        "ours, fp32": lambda: bench.ours(Precision.fp32),
        "Trainer, default (fp32)": lambda: bench.stock(bf16=False),
        "Trainer, bf16=True": lambda: bench.stock(bf16=True),
    }
    speeds: dict[str, list[float]] = {name: [] for name in arms}
    for repeat in range(options.repeats):
        for name, arm in arms.items():
            speeds[name].append(arm())
            print(f"  {repeat + 1}: {name:<24} {speeds[name][-1]:8.0f} tokens/s", flush=True)
    middle = {name: statistics.median(values) for name, values in speeds.items()}
    print()
    for stock in ("Trainer, default (fp32)", "Trainer, bf16=True"):
        for own in ("ours, distill's recipe", "ours, like for like", "ours, fp32"):
            print(f"{own:<22} / {stock:<24} {middle[own] / middle[stock]:5.2f} x")


if __name__ == "__main__":
    main()
