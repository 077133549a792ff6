"""Worker side of `accuracy`: re-load the artifact, score splits, and prepare what the other workers need."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from compressor.artifact import Form
from compressor.errors import CompressorError, MeasureError
from compressor.measure.examples import read_examples
from compressor.measure.size import count_parameters
from compressor.measure.surface import Cell, surface_replay
from compressor.measure.work import measure_work
from compressor.measure.worker import opener
from compressor.measure.workload import Replay, numpy_inputs
from compressor.measure.zeros import deflated_bytes, measure_zeros
from compressor.runtimes import Session, runtime_for
from compressor.runtimes.torch_eager import TorchSession, is_float32

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from compressor.runtimes.base import Inputs, Logits
    from compressor.tasks.base import Example, Task


def run(job: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Score, tokenise the replayed texts and export; each part that was asked for."""
    from compressor.config import TaskConfig
    from compressor.tasks import build_task

    form = Form(job["form"])
    artifact = opener(job)(Path(job["folder"]))
    task = build_task(TaskConfig(**job["task"]), tuple(job["label_names"]))
    if tuple(artifact.head.label_names) != task.label_names:
        raise MeasureError(
            f"the model's classes are {', '.join(artifact.head.label_names)}",
            allowed=f"the task's, in its order: {', '.join(task.label_names)}",
        )
    if form is Form.torch:
        import torch

        torch.set_num_threads(job["threads"])
        session: Session = TorchSession(artifact.model)
    else:
        session = runtime_for(form).load(artifact.folder, form, job["threads"])
    answer: dict[str, Any] = {
        "parameters": count_parameters(form, artifact.module, artifact.folder),
        "exact": form is Form.torch and is_float32(artifact.model),
        "splits": {},
    }
    batches: Sequence[Inputs] = ()
    with session, ThreadPoolExecutor(1) as beside:
        deflated = beside.submit(deflated_bytes, Path(job["folder"]))  # some seconds, on a core that may be free
        for name, path in job["splits"].items():
            answer["splits"][name] = _score(session, task, artifact.tokenizer, path, job["batch_size"], name, out)
        if job["workload"] is not None:
            replay = _replay(session, task, artifact.tokenizer, job["workload"])
            replay.save(out / "replay.npz")
            batches = replay.inputs
            if job["throughput"] is not None:
                _replay(session, task, artifact.tokenizer, job["throughput"]).save(out / "throughput.npz")
            if job["surface"]:
                surface_replay(session, replay, [Cell(*cell) for cell in job["surface"]]).save(out / "surface.npz")
    answer["zeros"] = measure_zeros(form, artifact.module, Path(job["folder"]), deflated.result()).to_json()
    work = measure_work(form, artifact.module, Path(job["folder"]), batches, answer["parameters"])
    answer["work"] = work.to_json()
    if job["export_to"] is not None:
        answer["export"] = _export(artifact.model, artifact.tokenizer, out / job["export_to"])
    return answer


def _score(
    session: Session,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    path: str,
    batch_size: int,
    name: str,
    out: Path,
) -> dict[str, Any]:
    """Score one split in batches of similar length; write predictions in the order of the examples."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    examples = read_examples(Path(path))
    if not examples or any(e.label is None for e in examples):
        raise MeasureError(f"split '{name}' holds no examples, or some without a label", allowed="labelled examples")
    started = time.perf_counter()
    features = task.encode(tokenizer, examples)
    order = sorted(range(len(features)), key=lambda i: len(features[i]["input_ids"]), reverse=True)
    predictions: list[Any] = [None] * len(examples)
    logits: list[Any] = [None] * len(examples)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        found = _run(session, task, tokenizer, [examples[i] for i in rows], [features[i] for i in rows])
        for i, (prediction, values) in zip(rows, found, strict=True):
            predictions[i] = prediction
            logits[i] = [] if task.self_supervised else values.ravel().tolist()  # a vocabulary for each hidden token
    references = task.references(examples)
    table = {
        "id": [e.id for e in examples],
        "prediction": [json.dumps(p) for p in predictions],
        "label": [json.dumps(r) for r in references],
        "logits": pa.array(logits, type=pa.list_(pa.float32())),
        "tokens": [len(f["input_ids"]) for f in features],
    }
    file = out / f"predictions-{name.replace('/', '_')}.parquet"
    pq.write_table(pa.table(table), file)
    return {
        "file": file.name,
        "metrics": dict(task.scores(predictions, references)),
        "seconds": time.perf_counter() - started,
    }


def _run(
    session: Session,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    features: Sequence[dict[str, Any]],
) -> list[tuple[Any, Logits]]:
    """Return each example's prediction and its predicting logits, [C] or [W, C]."""
    import torch

    batch = task.collate(tokenizer, examples, features)
    values = session.run(numpy_inputs(batch))
    if not np.isfinite(values).all():
        raise MeasureError(f"the model gives logits that are not finite (first example {examples[0].id})")
    predictions = task.predict(torch.from_numpy(values.copy()), batch)
    masks = None if batch.positions is None else batch.positions.numpy()
    return [(p, values[i] if masks is None else values[i][masks[i]]) for i, p in enumerate(predictions)]


def _replay(session: Session, task: Task, tokenizer: PreTrainedTokenizerBase, workload: Mapping[str, Any]) -> Replay:
    """Tokenise the workload with this candidate's tokenizer, by the collator used for scoring, and run it once.

    The expected logits come from the same batches that will be timed: dynamic int8 depends on batch mates.
    """
    examples = {e.id: e for e in read_examples(Path(workload["file"]))}
    inputs, positions, expected = [], [], []
    for ids in workload["batches"]:
        chosen = [examples[i] for i in ids]
        batch = task.collate(tokenizer, chosen, task.encode(tokenizer, chosen))
        inputs.append(numpy_inputs(batch))
        if batch.positions is not None:
            positions.append(batch.positions.numpy())
        values = session.run(inputs[-1])
        expected.append((values if batch.positions is None else values[positions[-1]]).copy())
    return Replay(inputs=tuple(inputs), positions=tuple(positions), expected=tuple(expected))


def _export(model: Any, tokenizer: PreTrainedTokenizerBase, folder: Path) -> dict[str, Any]:
    """Export to ONNX; a model that cannot be exported is still scored, and its refusal quoted."""
    from compressor.runtimes.export import export_onnx

    started = time.perf_counter()
    try:
        export_onnx(model, tokenizer, folder)
    except CompressorError as error:
        return {"refusal": error.got}
    return {"refusal": None, "seconds": time.perf_counter() - started}
